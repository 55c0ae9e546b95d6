//! What stage or hold had of a decided crossing is gone, or another, when recovery looks for it: a disk was put back
//! to an earlier day, or somebody cleared up. While a move is not made no user has had any of it.

use super::letters::OLD;
use super::*;

const STEPS_MAX: u64 = 300;

type Ends = (Option<Vec<u8>>, Option<Vec<u8>>);

type Act = Box<dyn FnOnce(&World)>;

/// Cuts the power at every step of what is made to be done, lets `spoil` have what is on the disks, recovers, and checks how that ended.
/// How often what had been decided was put back.
fn cut(
    make: &dyn Fn() -> (World, Act),
    spoil: &dyn Fn(&World),
    check: &dyn Fn(&World, &Ends, &str),
) -> usize {
    let mut put_back = 0;
    for step in 0..STEPS_MAX {
        let (world, act) = make();
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        act(&world);
        if world.disk.steps() <= first + step {
            return put_back;
        }
        for seed in 0..3 {
            let world = start(world.disk.crash(seed).shared(), false).expect("starts");
            let before = (world.get(0, "f"), world.get(1, "sub/g"));
            spoil(&world);
            let recovery = world.mover.recover();
            assert!(recovery.left_open.is_empty(), "{recovery:?}");
            put_back += recovery.reverted.len();
            check(&world, &before, &format!("step {step} seed {seed}: {recovery:?}"));
        }
    }
    panic!("it does not end");
}

fn clear(world: &World, branch: usize, area: &str) {
    let path = format!(".octroi/{area}");
    let dir = world.disk.open_dir(&world.roots[branch], Path::new(&path)).unwrap();
    for name in world.disk.list(&dir).unwrap() {
        super::super::remove::remove(&*world.disk, &dir, &name).unwrap();
    }
}

fn two_files() -> World {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    world.disk.sync_all();
    world
}

fn crossing(world: World, source: &str, target: &str) -> (World, Act) {
    let request = world.request(source, target);
    (world, Box::new(|world| drop(world.cross_as(request))))
}

#[test]
fn a_crossing_whose_copy_is_lost_is_put_back() {
    let put_back = cut(
        &|| crossing(two_files(), "f", "sub/g"),
        &|world| clear(world, 1, "stage"),
        &|world, (f, g), context| {
            let ends = (world.get(0, "f"), world.get(1, "sub/g"));
            // Where neither is at home, all was made as far as the disks can tell.
            if f.is_some() || g.as_deref() == Some(OLD) {
                let before = (Some(new_content()), Some(OLD.to_vec()));
                let after = (None, Some(new_content()));
                assert!(ends == before || ends == after, "{context}");
            }
        },
    );
    assert!(put_back > 0, "nothing was put back");
}

#[test]
fn an_undo_of_which_the_original_is_lost_takes_nothing_away() {
    let crossed = || {
        let world = two_files();
        let txid = world.cross("f", "sub/g").unwrap().txid;
        world.disk.sync_all();
        let undo: Act = Box::new(move |world| drop(world.undo(txid)));
        (world, undo)
    };
    let put_back = cut(&crossed, &|world| clear(world, 0, "hold"), &|world, (f, g), context| {
        if f.is_none() && g.as_ref() == Some(&new_content()) {
            assert_eq!(world.get(1, "sub/g"), Some(new_content()), "{context}");
        }
    });
    assert!(put_back > 0, "nothing was put back");
}

#[test]
fn a_copied_tree_that_was_changed_in_stage_does_not_arrive() {
    let tree = || {
        let world = new_world(Names::Independent, false);
        world.make_dirs(0, &["t"]);
        world.put(0, "t/x", &new_content());
        world.disk.sync_all();
        crossing(world, "t", "sub/t")
    };
    let spoil = |world: &World| {
        let path = Path::new(".octroi/stage");
        let stage = world.disk.open_dir(&world.roots[1], path).unwrap();
        for name in world.disk.list(&stage).unwrap() {
            let copy = world.disk.open_dir(&stage, Path::new(&name)).unwrap();
            let _ = world.disk.unlink(&copy, OsStr::new("x"));
        }
    };
    let kept = std::cell::Cell::new(0);
    cut(&tree, &spoil, &|world, _, context| {
        let content = |branch: usize, folder: &str| {
            world.disk.open_dir(&world.roots[branch], Path::new(folder)).ok()?;
            world.get(branch, &format!("{folder}/x"))
        };
        let ends = [content(0, "t"), content(1, "sub/t")];
        assert!(ends.contains(&Some(new_content())), "{context}");
        kept.set(kept.get() + usize::from(ends[0].is_some()));
    });
    assert!(kept.get() > 0, "the source was never kept");
}
