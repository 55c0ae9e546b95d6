//! Sources that lie on two members of a pool (branches a and c, in this order), and targets that do
//! (b and c), with the power on.

use super::*;
use crate::types::Handle;

const A: BranchIndex = BranchIndex(0);
const B: BranchIndex = BranchIndex(1);
const C: BranchIndex = BranchIndex(2);

/// A crossing of `source` on a and c to `target` on b.
pub(super) fn merged(world: &World, source: &str, target: &str) -> CrossingRequest<Disk> {
    let mut request = world.request(source, target);
    request.sources.push(part(world.name(2, source), Verify::Stream));
    request
}

fn handle(world: &World, branch: usize, path: &str) -> Handle {
    let name = Path::new(path).file_name().unwrap();
    let found = world.disk.stat(&world.dir(branch, path), name).unwrap();
    found.expect("it is there").identity.handle
}

/// Two members of a pool: `d` is merged, `both` is a file on each, `kind` is a file on a and a
/// directory on c, `other` the other way round.
pub(super) fn plant(world: &World) {
    world.make_dirs(0, &["f", "f/d", "f/other"]);
    world.make_dirs(2, &["f", "f/d", "f/kind", "f/only"]);
    world.put(0, "f/both", b"seen");
    world.put(0, "f/kind", b"a file");
    world.put(0, "f/d/a", b"a");
    world.put(2, "f/both", b"hidden");
    world.put(2, "f/kind/lost", b"below a hidden directory");
    world.put(2, "f/other", b"hidden by a directory");
    world.put(2, "f/d/c", b"c");
    world.put(2, "f/only/x", &new_content());
    world.link(2, "f/only/x", "f/d/x");
    world.link(2, "f/only/x", "f/kind/x");
    world.dress_dir(0, "f/d");
    world.dress_dir(0, "f");
}

fn names(world: &World, branch: usize, path: &str) -> Vec<String> {
    let text = String::from_utf8(world.get(branch, path).unwrap()).unwrap();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn parts_are_merged_and_all_leave() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world);
        let before = [world.get(0, "f"), world.get(2, "f")];
        let from =
            |branch: usize, path: &str| (BranchIndex(branch as u16), handle(&world, branch, path));
        let moved = [
            (from(0, "f"), "g"),
            (from(2, "f"), "g"),
            (from(0, "f/d"), "g/d"),
            (from(2, "f/d"), "g/d"),
            (from(0, "f/both"), "g/both"),
            (from(2, "f/only"), "g/only"),
            (from(2, "f/only/x"), "g/only/x"),
            (from(2, "f/only/x"), "g/d/x"),
        ];
        let hidden = [from(2, "f/both"), from(2, "f/kind"), from(2, "f/kind/lost")];
        let crossed = world.cross_as(merged(&world, "f", "g")).unwrap();
        let all = "../both./d./kind./only./other./d/a./d/c./d/x./only/x";
        let mut seen = names(&world, 1, "g");
        seen.sort_by_key(|name| (name.matches('/').count(), name.clone()));
        assert_eq!(seen.concat(), all);
        assert_eq!(world.get(1, "g/both").unwrap(), b"seen");
        assert_eq!(world.get(1, "g/kind").unwrap(), b"a file");
        assert_eq!(world.get(1, "g/only/x"), Some(new_content()));
        assert_eq!(handle(&world, 1, "g/only/x"), handle(&world, 1, "g/d/x"));
        assert_eq!((world.get(0, "f"), world.get(2, "f")), (None, None));
        assert_eq!(world.private(0, "hold"), [before[0].clone().unwrap()]);
        assert_eq!(world.private(2, "hold"), [before[1].clone().unwrap()]);
        for (from, now) in moved {
            let to = (B, handle(&world, 1, now));
            assert!(crossed.moved.contains(&Moved { from, to }), "{now}");
        }
        assert!(
            hidden.iter().all(|hidden| crossed.moved.iter().all(|moved| moved.from != *hidden))
        );
        assert_eq!(crossed.moved.len(), 12);
        let undone = world.undo(crossed.txid).unwrap();
        assert_eq!([world.get(0, "f"), world.get(2, "f")], before);
        assert_eq!(world.get(1, "g"), None);
        let back = Moved { from: crossed.moved[0].to.clone(), to: (A, handle(&world, 0, "f")) };
        assert_eq!(undone.moved[0], back);
        assert_eq!(undone.moved.len(), 10);
        assert!(undone.moved.iter().any(|moved| moved.to == (C, handle(&world, 2, "f/d/c"))));
    }
}

/// A change may have happened in any part: the newest is what users were shown.
#[test]
fn a_merged_directory_arrives_with_its_newest_change() {
    let world = new_world(Names::Journal, false);
    plant(&world);
    let time = |seconds| Time { seconds, nanos: 7 };
    let set = |branch: usize, path: &str, changed: i64| {
        let (dir, name) = (world.dir(branch, path), Path::new(path).file_name().unwrap());
        world.disk.set_times(&dir, name, time(changed + 1000), time(changed)).unwrap();
    };
    // The top's first part is the older one, of the folder in it the newer one.
    for (branch, path, changed) in
        [(0, "f", 10), (2, "f", 20), (0, "f/d", 40), (2, "f/d", 30), (2, "f/only", 50)]
    {
        set(branch, path, changed);
    }
    world.disk.sync_all();
    world.cross_as(merged(&world, "f", "g")).unwrap();
    for (path, read, changed) in [("g", 10, 20), ("g/d", 40, 40), ("g/only", 50, 50)] {
        let (dir, name) = (world.dir(1, path), Path::new(path).file_name().unwrap());
        let found = world.disk.stat(&dir, name).unwrap().unwrap();
        assert_eq!(found.identity.mtime, time(changed), "{path}");
        assert_eq!(found.atime, time(read + 1000), "{path}: all else is the first part's");
    }
}

#[test]
fn every_part_is_asked_for_and_told_what_it_hides() {
    let world = new_world(Names::Journal, false);
    plant(&world);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let admit: Admit = Arc::new(move |entry| {
        noted.lock().push(format!("{} {} {}", entry.part, entry.path.display(), entry.hidden));
        Ok(())
    });
    world.cross_as(CrossingRequest { admit, ..merged(&world, "f", "g") }).unwrap();
    let mut asked = asked.lock().clone();
    asked.sort();
    let expected = [
        "0 both false",
        "0 d false",
        "0 d/a false",
        "0 kind false",
        "0 other false",
        "1 both true",
        "1 d false",
        "1 d/c false",
        "1 d/x false",
        "1 kind true",
        "1 kind/lost true",
        "1 kind/x true",
        "1 only false",
        "1 only/x false",
        "1 other true",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn each_part_has_its_own_gate() {
    let world = new_world(Names::Journal, false);
    plant(&world);
    let mut request = merged(&world, "f", "g");
    let terms = |max_size| GateTerms {
        types: vec![],
        max_size,
        verify: Verify::Readback,
        lossy: Default::default(),
        checks: vec![],
    };
    request.sources[0].terms = Arc::new(terms(Some(10)));
    request.sources[1].terms = Arc::new(terms(Some(100)));
    let error = world.cross_as(request.clone()).unwrap_err();
    assert_eq!((error.errno(), error.is_denial()), (Errno::ACCESS, true));
    assert!(error.to_string().starts_with("d/x: "), "{error}");
    request.sources[1].terms = Arc::new(terms(Some(1 << 20)));
    world.cross_as(request).unwrap();
}

#[test]
fn a_file_hides_whatever_is_behind_it() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        world.put(0, "f", &new_content());
        world.make_dirs(2, &["f"]);
        world.put(2, "f/below", b"hidden");
        let before = world.get(2, "f");
        let crossed = world.cross_as(merged(&world, "f", "g")).unwrap();
        assert_eq!(world.get(1, "g"), Some(new_content()));
        assert_eq!((world.get(0, "f"), world.get(2, "f")), (None, None));
        assert_eq!((crossed.moved.len(), crossed.same_filesystem), (1, false));
        world.undo(crossed.txid).unwrap();
        assert_eq!([world.get(0, "f"), world.get(2, "f")], [Some(new_content()), before]);

        let world = new_world(Names::Journal, same);
        world.make_dirs(0, &["f"]);
        world.put(2, "f", b"hidden");
        let crossed = world.cross_as(merged(&world, "f", "g")).unwrap();
        assert_eq!(names(&world, 1, "g"), ["."]);
        assert_eq!(world.private(2, "hold"), [b"hidden"]);
        world.undo(crossed.txid).unwrap();
        assert_eq!(world.get(2, "f").unwrap(), b"hidden");
    }
}

#[test]
fn what_is_hidden_may_not_change_either() {
    let world = new_world(Names::Journal, false);
    plant(&world);
    let prepared = world.mover.prepare(merged(&world, "f", "g")).unwrap();
    world.put(2, "f/kind/new", b"");
    assert_eq!(world.mover.commit(prepared), Err(CrossingError::SourceChanged));
    assert!(world.get(0, "f").is_some() && world.get(2, "f").is_some());

    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"seen");
    world.put(2, "f", b"hidden");
    let prepared = world.mover.prepare(merged(&world, "f", "g")).unwrap();
    world.disk.open_outside(&world.roots[2], OsStr::new("f")).unwrap();
    assert_eq!(world.mover.commit(prepared), Err(CrossingError::SourceChanged));
    assert_eq!(world.get(2, "f").unwrap(), b"hidden");
}

#[test]
fn a_link_from_a_hidden_file_to_outside_is_refused() {
    let world = new_world(Names::Journal, false);
    plant(&world);
    world.link(2, "f/both", "outside");
    let error = world.cross_as(merged(&world, "f", "g")).unwrap_err();
    assert_eq!(error.errno(), Errno::PERM);
    assert!(error.to_string().starts_with("both has 2 names, of which 1"), "{error}");
}

#[test]
fn what_stands_at_the_target_goes_on_every_member() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    world.put(1, "g", b"old");
    world.put(2, "g", b"shadow");
    let olds = [(B, handle(&world, 1, "g")), (C, handle(&world, 2, "g"))];
    let mut request = world.request("f", "g");
    request.target_shadows.push(world.name(2, "g"));
    let crossed = world.cross_as(request).unwrap();
    assert_eq!(crossed.displaced, olds);
    assert_eq!((world.get(1, "g"), world.get(2, "g")), (Some(b"new".to_vec()), None));
    assert_eq!(world.private(2, "hold"), [b"shadow"]);
    world.undo(crossed.txid).unwrap();
    assert_eq!(world.get(1, "g").unwrap(), b"old");
    assert_eq!(world.get(2, "g").unwrap(), b"shadow");
}

#[test]
fn a_merged_directory_at_the_target_must_be_empty_on_every_member() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["f"]);
    world.make_dirs(1, &["g"]);
    world.make_dirs(2, &["g", "g/full"]);
    let mut request = world.request("f", "g");
    request.target_shadows.push(world.name(2, "g"));
    assert_eq!(world.cross_as(request.clone()), Err(CrossingError::TargetNotEmpty));
    world.disk.remove_dir(&world.dir(2, "g/full"), OsStr::new("full")).unwrap();
    let crossed = world.cross_as(request).unwrap();
    assert_eq!(crossed.displaced.len(), 2);
    assert_eq!(world.get(2, "g"), None);
}
