//! Directories of one branch, with the power on.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::mover::tree::{Digest, Tree};
use crate::types::Handle;

/// A directory with everything in it: files, a group of links, folders in folders, special files.
fn plant(world: &World, branch: usize, top: &str) {
    let path = |below: &str| format!("{top}/{below}");
    world.make_dirs(branch, &[top, &path("d"), &path("d/empty"), &path("d/e"), &path("z")]);
    world.put(branch, &path("a"), &new_content());
    world.put(branch, &path("d/x"), b"x");
    world.put(branch, &path("d/e/none"), b"");
    world.link(branch, &path("a"), &path("d/again"));
    world.link(branch, &path("a"), &path("z/again"));
    world.special(branch, &path("link"), &Kind::Symlink("../elsewhere".into()));
    world.special(branch, &path("d/fifo"), &Kind::Fifo);
    world.special(branch, &path("d/e/device"), &Kind::BlockDevice(2049));
    for folder in ["d/empty", "d/e", "d", "z"] {
        world.dress_dir(branch, &path(folder));
    }
    world.dress_dir(branch, top);
}

fn handle(world: &World, branch: usize, path: &str) -> Handle {
    let name = Path::new(path).file_name().unwrap();
    let found = world.disk.stat(&world.dir(branch, path), name).unwrap();
    found.expect("it is there").identity.handle
}

#[test]
fn a_tree_crosses_with_all_that_is_in_it() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        let before = world.get(0, "f");
        let from = |path: &str| (BranchIndex(0), handle(&world, 0, path));
        let inodes: Vec<_> = ["f", "f/a", "f/d", "f/d/e/none"].map(from).into();
        let crossed = world.cross("f", "sub/g").unwrap();
        assert_eq!((crossed.same_filesystem, crossed.confirmed), (same, true));
        assert_eq!(world.get(0, "f"), None);
        assert_eq!(world.get(1, "sub/g"), before, "{same}");
        assert_eq!(crossed.size, new_content().len() as u64 + 1, "links count once");
        assert_eq!(world.private(0, "hold").len(), usize::from(!same));
        assert!(world.private(1, "stage").is_empty());
        assert_eq!(crossed.moved.len(), 13);
        let names = ["sub/g", "sub/g/a", "sub/g/d", "sub/g/d/e/none"];
        for (from, name) in inodes.iter().zip(names) {
            let to = (BranchIndex(1), handle(&world, 1, name));
            assert_eq!(same, from.1 == to.1);
            assert!(crossed.moved.contains(&Moved { from: from.clone(), to }), "{name}");
        }
        assert_eq!(handle(&world, 1, "sub/g/a"), handle(&world, 1, "sub/g/z/again"));
    }
}

#[test]
fn the_manifest_does_not_depend_on_where_the_tree_is() {
    let hashes = [false, true].map(|same| {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        world.cross("f", "g").unwrap().sha256.unwrap()
    });
    assert_eq!(hashes[0], hashes[1]);
    let world = new_world(Names::Journal, false);
    plant(&world, 0, "f");
    world.put(0, "f/z/more", b"");
    assert_ne!(world.cross("f", "g").unwrap().sha256.unwrap(), hashes[0]);
}

/// Printed by `find f -mindepth 1 -printf …`, in the order of the walk, and put through sha256sum.
#[test]
fn the_manifest_is_what_its_format_says() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["f", "f/d"]);
    world.put(0, "f/b", b"text");
    world.put(0, "f/d/x", b"");
    world.special(0, "f/l", &Kind::Symlink("b".into()));
    let hash = |text: &str| stage::hex(&stage::hash_text(OsStr::new(text)));
    let lines = [
        format!("f 4 {} b\0", hash("text")),
        "d - - d\0".to_owned(),
        format!("l 1 {} l\0", hash("b")),
        format!("f 0 {} d/x\0", hash("")),
    ];
    assert_eq!(world.cross("f", "g").unwrap().sha256, Some(hash(&lines.concat())));
}

#[test]
fn a_tree_replaces_an_empty_directory_only() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        world.make_dirs(1, &["g"]);
        let (before, old) = (world.get(0, "f"), handle(&world, 1, "g"));
        let crossed = world.cross("f", "g").unwrap();
        assert_eq!(crossed.displaced, [(BranchIndex(1), old)]);
        assert_eq!(world.get(1, "g"), before);
        assert_eq!(world.private(1, "hold").len(), 1);
    }
}

/// The crossing of the tree is refused with this errno, and nothing has changed.
#[track_caller]
fn check_refused(
    errno: Errno,
    set_up: impl Fn(&World),
    change: impl Fn(&mut CrossingRequest<Disk>),
) {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        set_up(&world);
        let before = [world.get(0, "f"), world.get(1, "g")];
        let mut request = world.request("f", "g");
        change(&mut request);
        let error = world.cross_as(request).unwrap_err();
        assert_eq!(error.errno(), errno, "{same}: {error}");
        assert_eq!([world.get(0, "f"), world.get(1, "g")], before, "{error}");
        for area in ["stage", "hold"] {
            assert!(world.private(0, area).is_empty() && world.private(1, area).is_empty());
        }
        world.mover.with_journal(|journal| assert_eq!(journal.open().count(), 0));
    }
}

fn set_terms(request: &mut CrossingRequest<Disk>, types: &[&str], max_size: Option<u64>) {
    let types = types.iter().map(|text| (*text).to_owned()).collect();
    let terms = GateTerms {
        types,
        max_size,
        verify: Verify::Readback,
        lossy: Default::default(),
        checks: vec![],
    };
    request.sources[0].terms = Arc::new(terms);
}

#[test]
fn refusals_change_nothing() {
    check_refused(Errno::NOTDIR, |world| world.put(1, "g", b"file"), |_| {});
    check_refused(Errno::NOTEMPTY, |world| world.make_dirs(1, &["g", "g/full"]), |_| {});
    let exclusive = |request: &mut CrossingRequest<Disk>| request.no_replace = true;
    check_refused(Errno::EXIST, |world| world.make_dirs(1, &["g"]), exclusive);
    let file = |world: &World| {
        world.make_dirs(1, &["g"]);
        world.put(0, "file", b"");
    };
    check_refused(Errno::ISDIR, file, |request| request.sources[0].name.name = "file".into());
}

#[test]
fn what_the_gate_asks_of_a_file_holds_for_every_file() {
    check_refused(Errno::ACCESS, |_| {}, |request| set_terms(request, &[], Some(1)));
    check_refused(Errno::ACCESS, |_| {}, |request| set_terms(request, &["image/png"], None));
    // The content would pass; the fifo and the device have none.
    let types = ["text/plain", "application/octet-stream", "inode/x-empty"];
    check_refused(Errno::ACCESS, |_| {}, |request| set_terms(request, &types, None));
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["f", "f/d"]);
    world.put(0, "f/d/x", b"text");
    let mut request = world.request("f", "g");
    set_terms(&mut request, &["text/plain"], Some(4));
    world.cross_as(request).unwrap();
    // A link has no content, as alone.
    world.make_dirs(0, &["f"]);
    world.special(0, "f/link", &Kind::Symlink("x".into()));
    let mut request = world.request("f", "h");
    set_terms(&mut request, &["text/plain"], None);
    assert_eq!(world.cross_as(request).unwrap_err().errno(), Errno::ACCESS);
}

#[test]
fn every_entry_is_asked_for() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let admit = |asked: &Arc<Mutex<Vec<_>>>, refuse: &'static str| -> Admit {
        let asked = Arc::clone(asked);
        Arc::new(move |entry| {
            asked.lock().push((entry.path.to_owned(), entry.kind.clone(), entry.hidden));
            if entry.path == Path::new(refuse) {
                let why = "rule no-scripts".to_owned();
                return Err(CrossingError::NotAdmitted { path: entry.path.to_owned(), why });
            }
            Ok(())
        })
    };
    let world = new_world(Names::Journal, false);
    plant(&world, 0, "f");
    let request = CrossingRequest { admit: admit(&asked, "d/e/none"), ..world.request("f", "g") };
    let refused = world.cross_as(request).unwrap_err();
    assert_eq!(
        (refused.errno(), refused.to_string()),
        (Errno::ACCESS, "d/e/none: rule no-scripts".into())
    );
    assert!(refused.is_denial());
    assert_eq!(world.get(1, "g"), None);
    asked.lock().clear();
    let request = CrossingRequest { admit: admit(&asked, ""), ..world.request("f", "g") };
    world.cross_as(request).unwrap();
    let asked = asked.lock();
    assert_eq!(asked.len(), 12);
    assert_eq!(asked[1], ("d".into(), Kind::Directory, false));
    assert!(asked.iter().all(|(_, _, hidden)| !hidden));
}

#[test]
fn a_link_to_outside_is_refused() {
    check_refused(Errno::PERM, |world| world.link(0, "f/d/x", "outside"), |_| {});
}

#[test]
fn a_writer_of_a_file_in_the_tree_stops_it() {
    let open = |world: &World| {
        world.disk.open_outside(&world.dir(0, "f/d/x"), OsStr::new("x")).unwrap();
    };
    check_refused(Errno::BUSY, open, |_| {});
}

/// After PREPARE, before the decision.
#[track_caller]
fn check_seen(change: impl Fn(&World)) {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        let prepared = world.mover.prepare(world.request("f", "g")).unwrap();
        change(&world);
        let before = world.get(0, "f");
        assert_eq!(world.mover.commit(prepared), Err(CrossingError::SourceChanged), "{same}");
        assert_eq!((world.get(0, "f"), world.get(1, "g")), (before, None));
        assert!(world.private(1, "stage").is_empty());
    }
}

#[test]
fn a_change_before_the_decision_is_seen() {
    let name = OsStr::new;
    check_seen(|world| world.put(0, "f/d/empty/new", b""));
    check_seen(|world| world.disk.unlink(&world.dir(0, "f/d/x"), name("x")).unwrap());
    check_seen(|world| {
        let file = world.disk.open_write(&world.dir(0, "f/d/x"), name("x")).unwrap();
        world.disk.write_at(&file, b"y", 0).unwrap();
    });
    check_seen(|world| world.disk.set_mode(&world.dir(0, "f/d/e"), name("e"), 0o700).unwrap());
    check_seen(|world| {
        let dir = world.dir(0, "f/d/x");
        world.disk.rename(&dir, name("x"), &dir, name("y")).unwrap();
    });
}

#[test]
fn a_cancelled_tree_leaves_nothing() {
    let world = new_world(Names::Journal, false);
    plant(&world, 0, "f");
    let mover = Arc::clone(&world.mover);
    let seen = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&seen);
    let admit: Admit = Arc::new(move |_| {
        let active = mover.active();
        watched.fetch_add(active[0].files_all.load(Ordering::Relaxed), Ordering::Relaxed);
        active[0].cancel(Stop::ClientLeft);
        Ok(())
    });
    let request = CrossingRequest { admit, ..world.request("f", "g") };
    assert_eq!(world.cross_as(request), Err(CrossingError::Cancelled(Stop::ClientLeft)));
    assert!(seen.load(Ordering::Relaxed) > 0);
    assert!(world.private(1, "stage").is_empty());
    assert!(world.mover.active().is_empty());
}

#[test]
fn a_tree_that_does_not_fit_is_refused_before_it_is_copied() {
    let usual = DeviceOptions::default();
    for options in
        [DeviceOptions { capacity: 20_000, ..usual }, DeviceOptions { inodes: 15, ..usual }]
    {
        let world = new_world(Names::Journal, false);
        plant(&world, 0, "f");
        world.put(0, "f/big", &vec![7; 30_000]);
        world.disk.set_options(2, options);
        world.disk.keep_log();
        assert_eq!(world.cross("f", "g").unwrap_err().errno(), Errno::NOSPC);
        assert!(!world.disk.log().iter().any(|line| line.contains("create_file")));
    }
}

/// Its length would not fit, its data does.
#[test]
fn holes_need_no_room() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["f"]);
    let file = world.disk.create_file(&world.dir(0, "f/x"), OsStr::new("x")).unwrap();
    world.disk.set_len(&file, 1 << 20).unwrap();
    world.disk.write_at(&file, b"end", (1 << 20) - 3).unwrap();
    let options = DeviceOptions { capacity: 40_000, ..DeviceOptions::default() };
    world.disk.set_options(2, options);
    world.cross("f", "g").unwrap();
    assert_eq!(world.get(1, "g/x").unwrap().len(), 1 << 20);
}

#[test]
fn where_a_sync_of_the_whole_does_nothing_each_file_is_synced() {
    let options = DeviceOptions { syncs_whole: false, ..DeviceOptions::default() };
    for seed in 0..10 {
        let world = new_world(Names::Independent, false);
        plant(&world, 0, "f");
        let before = world.get(0, "f");
        (1..=2).for_each(|device| world.disk.set_options(device, options));
        world.cross("f", "sub/g").unwrap();
        let after = start(world.disk.crash(seed).shared(), false).unwrap();
        after.mover.recover();
        assert_eq!((after.get(0, "f"), after.get(1, "sub/g")), (None, before), "{seed}");
    }
}

#[test]
fn an_undo_restores_the_tree() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        plant(&world, 0, "f");
        world.make_dirs(1, &["g"]);
        let before = [world.get(0, "f"), world.get(1, "g")];
        let inodes = ["f", "f/a", "f/d/e"].map(|path| handle(&world, 0, path));
        let crossed = world.cross("f", "g").unwrap();
        let world = world.restart(same);
        assert_eq!(world.mover.recover(), Recovery::default());
        let undone = world.undo(crossed.txid).unwrap();
        assert_eq!([world.get(0, "f"), world.get(1, "g")], before);
        assert_eq!(["f", "f/a", "f/d/e"].map(|path| handle(&world, 0, path)), inodes);
        // What the first told is told backwards.
        let back = undone.moved.into_iter().map(|moved| (moved.to, moved.from));
        let forth = crossed.moved.into_iter().map(|moved| (moved.from, moved.to));
        assert_eq!(back.collect::<Vec<_>>(), forth.collect::<Vec<_>>());
        assert_eq!(world.undo(crossed.txid).unwrap_err().errno(), Errno::INVAL);
        world.cross("f", "g").unwrap();
    }
}

#[test]
fn a_tree_that_changed_is_not_undone() {
    let held = |world: &World| {
        let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
        let name = world.disk.list(&hold).unwrap().remove(0);
        world.disk.open_dir(&hold, Path::new(&name)).unwrap()
    };
    let changes: [&dyn Fn(&World); 5] = [
        &|world| world.put(1, "g/new", b""),
        &|world| {
            let file = world.disk.open_write(&world.dir(1, "g/a"), OsStr::new("a")).unwrap();
            world.disk.write_at(&file, b"changed", 0).unwrap();
        },
        &|world| world.disk.unlink(&held(world), OsStr::new("link")).unwrap(),
        &|world| {
            let file = world.disk.open_write(&held(world), OsStr::new("a")).unwrap();
            world.disk.write_at(&file, b"changed", 0).unwrap();
        },
        &|world| world.make_dirs(0, &["f"]),
    ];
    for change in changes {
        let world = new_world(Names::Journal, false);
        plant(&world, 0, "f");
        let crossed = world.cross("f", "g").unwrap();
        change(&world);
        let before = [world.get(0, "f"), world.get(1, "g")];
        let error = world.undo(crossed.txid).unwrap_err();
        assert!(matches!(error.errno(), Errno::INVAL | Errno::EXIST), "{error}");
        assert_eq!([world.get(0, "f"), world.get(1, "g")], before);
    }
}

#[test]
fn held_trees_are_purged() {
    let world = new_world(Names::Journal, false);
    plant(&world, 0, "f");
    world.make_dirs(1, &["g"]);
    let crossed = world.cross("f", "g").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    let purged = world.mover.purge(later, std::time::Duration::ZERO);
    assert_eq!(purged.transactions, [crossed.txid]);
    assert!(world.private(0, "hold").is_empty() && world.private(1, "hold").is_empty());
    assert!(world.get(1, "g").is_some());
}

#[test]
fn a_deep_tree_is_walked_with_few_descriptors() {
    const DEPTH: usize = 3_000;
    let world = new_world(Names::Journal, false);
    let mut dir = world.roots[0].clone();
    for _ in 0..DEPTH {
        world.disk.create_dir(&dir, OsStr::new("d")).unwrap();
        dir = world.disk.open_dir(&dir, Path::new("d")).unwrap();
    }
    world.disk.create_file(&dir, OsStr::new("file")).unwrap();
    world.disk.sync_all();
    let crossed = world.cross("d", "g").unwrap();
    assert_eq!(crossed.moved.len(), DEPTH + 1);
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.purge(later, std::time::Duration::ZERO);
    assert!(world.private(0, "hold").is_empty());
}

#[test]
fn a_digest_knows_every_name_inode_length_and_time() {
    let world = new_world(Names::Journal, false);
    plant(&world, 0, "f");
    let top = world.disk.open_dir(&world.roots[0], Path::new("f")).unwrap();
    let digest = || {
        let walked = Digest::of(&*world.disk, &top).unwrap();
        assert_eq!(walked, Tree::read(&*world.disk, &top, &|| Ok(())).unwrap().digest());
        walked
    };
    let mut seen = vec![digest()];
    let dir = world.dir(0, "f/d/x");
    let name = OsStr::new;
    let mut changed = || {
        let now = digest();
        assert!(!seen.contains(&now));
        seen.push(now);
    };
    world.disk.rename(&dir, name("x"), &dir, name("y")).unwrap();
    changed();
    let file = world.disk.open_write(&dir, name("y")).unwrap();
    world.disk.write_at(&file, b"z", 0).unwrap();
    changed();
    world.disk.unlink(&dir, name("y")).unwrap();
    changed();
    world.disk.create_file(&dir, name("y")).unwrap();
    changed();
    world.disk.create_dir(&dir, name("w")).unwrap();
    changed();
}

/// Shorter and longer than what is written without asking for room, with nothing at its end that is written, or all
/// of it.
#[test]
fn a_file_that_ends_in_a_hole_keeps_its_length() {
    for (length, data) in [(20_000, 4), (1 << 20, 4), (1 << 20, 1 << 20)] {
        for (path, top, target) in [("f/long", "f", "g/long"), ("long", "long", "g")] {
            let world = new_world(Names::Journal, false);
            world.make_dirs(0, &["f"]);
            let file = world.disk.create_file(&world.dir(0, path), OsStr::new("long")).unwrap();
            world.disk.write_at(&file, &vec![7; data], 0).unwrap();
            world.disk.set_len(&file, length).unwrap();
            world.disk.sync_all();
            let before = world.get(0, path);
            world.cross(top, "g").unwrap();
            assert_eq!(world.get(1, target), before, "{path} of {length} bytes");
        }
    }
}
