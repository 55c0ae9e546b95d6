//! Disks with habits that POSIX allows and few have.

use super::*;

fn world(options: DeviceOptions) -> World {
    let world = new_world(Names::Journal, false);
    (1..=3).for_each(|device| world.disk.set_options(device, options));
    world
}

/// Where each read sets the time of access, reading a copy back does too: it is set again, for good.
#[test]
fn what_is_read_back_keeps_its_time_of_access() {
    for syncs_whole in [false, true] {
        for (source, target) in [("f", "sub/g"), ("t/f", "sub/t/f")] {
            let options =
                DeviceOptions { strict_atime: true, syncs_whole, ..DeviceOptions::default() };
            let world = world(options);
            world.make_dirs(0, &["t"]);
            world.put(0, source, &new_content());
            let atime = |world: &World, branch, path: &str| {
                let name = Path::new(path).file_name().unwrap();
                world.disk.stat(&world.dir(branch, path), name).unwrap().unwrap().atime
            };
            let before = atime(&world, 0, source);
            let top = |path: &str| path.strip_suffix("/f").unwrap_or(path).to_owned();
            world.cross(&top(source), &top(target)).unwrap();
            assert_eq!(atime(&world, 1, target), before, "{source}");
            for seed in 0..8 {
                let world = start(world.disk.crash(seed).shared(), false).unwrap();
                world.mover.recover();
                assert_eq!(atime(&world, 1, target), before, "{source}, seed {seed}");
            }
        }
    }
}

#[test]
fn directories_are_told_from_files_where_unlink_does_not_tell() {
    let world = world(DeviceOptions { posix_unlink: true, ..DeviceOptions::default() });
    world.make_dirs(0, &["f", "f/d"]);
    world.put(0, "f/d/x", b"x");
    world.cross("f", "sub/g").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.purge(later, std::time::Duration::ZERO);
    assert_eq!(world.private(0, "hold"), Vec::<Vec<u8>>::new());
}

/// Nothing is tried there: an error of the disk would say less.
#[test]
fn a_file_system_that_is_mounted_read_only_is_said_to_be() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    for device in [1, 2] {
        let read_only = DeviceOptions { read_only: true, ..DeviceOptions::default() };
        world.disk.set_options(device, read_only);
        let refused = world.cross("f", "g").unwrap_err();
        assert_eq!(refused, CrossingError::ReadOnly { branch: ROOTS[device - 1].to_owned() });
        assert_eq!(refused.errno(), Errno::ROFS);
        world.disk.set_options(device, DeviceOptions::default());
    }
    world.cross("f", "g").unwrap();
}

/// It says what it was told while it is in memory, and other bytes once they are read from it.
#[test]
fn a_disk_that_gives_other_bytes_than_were_written_gets_nothing() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["t"]);
    for path in ["f", "t/f"] {
        world.put(0, path, &new_content());
    }
    let options = DeviceOptions { rots: true, ..DeviceOptions::default() };
    world.disk.set_options(2, options);
    for path in ["f", "t"] {
        let before = world.get(0, path);
        let refused = world.cross(path, "sub/g").unwrap_err();
        let why = refused.to_string();
        assert!(matches!(refused.errno(), Errno::IO), "{path}: {why}");
        assert_eq!((world.get(0, path), world.get(1, "sub/g")), (before, None), "{path}: {why}");
    }
}

/// Where the cache cannot be passed by, only what was synced leaves it: what is read back comes from the disk.
#[test]
fn what_is_read_back_was_synced_before() {
    for syncs_whole in [false, true] {
        let world = world(DeviceOptions { direct: false, syncs_whole, ..DeviceOptions::default() });
        world.make_dirs(0, &["t"]);
        for path in ["f", "t/f"] {
            world.put(0, path, &new_content());
        }
        for (source, target) in [("f", "sub/f"), ("t", "sub/t")] {
            let txid = world.cross(source, target).unwrap().txid;
            let readback = world.mover.with_journal(|journal| {
                journal.get(txid).and_then(|found| found.record.readback.clone())
            });
            assert_eq!(readback.as_deref(), Some("disk"), "{source} syncs_whole={syncs_whole}");
        }
    }
}

/// A folder that may be read and not written can cross, and be removed all the same, by whoever owns it.
#[test]
fn what_its_owner_may_not_write_is_removed() {
    let world = world(DeviceOptions { obeys_modes: true, ..DeviceOptions::default() });
    world.make_dirs(0, &["t", "t/d"]);
    for path in ["t/f", "t/d/f"] {
        world.put(0, path, b"x");
    }
    for path in ["t/d", "t"] {
        let name = Path::new(path).file_name().unwrap();
        world.disk.set_mode(&world.dir(0, path), name, 0o500).unwrap();
    }
    world.cross("t", "sub/t").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.purge(later, std::time::Duration::ZERO);
    assert_eq!(world.private(0, "hold"), Vec::<Vec<u8>>::new());
}

/// What is removed is a tree in a folder, and nothing else in it.
#[test]
fn what_is_beside_a_tree_that_is_removed_stays() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["t", "t/d", "other"]);
    for path in ["t/f", "t/d/f", "beside", "other/f"] {
        world.put(0, path, b"x");
    }
    remove::remove(&*world.disk, &world.roots[0], OsStr::new("t")).unwrap();
    assert_eq!(world.get(0, "t"), None);
    let names = world.disk.list(&world.roots[0]).unwrap();
    assert_eq!(names, [".octroi", "beside", "other", "sub"]);
    assert!(world.get(0, "other/f").is_some());
}

/// Times that are kept in whole seconds do not tell that something else stood there while the tree was read. What is
/// copied is what was walked all the same.
#[test]
fn what_stood_there_for_a_moment_is_not_copied() {
    for links in [false, true] {
        let options = DeviceOptions { whole_seconds: true, ..DeviceOptions::default() };
        let world = new_world(Names::Journal, false);
        world.disk.set_options(1, options);
        world.make_dirs(0, &["t"]);
        for (path, text) in [("t/x", "right"), ("other", "wrong")] {
            match links {
                true => world.special(0, path, &Kind::Symlink(text.into())),
                false => {
                    let dir = world.dir(0, path);
                    let name = Path::new(path).file_name().unwrap();
                    let file = world.disk.create_file(&dir, name).unwrap();
                    world.disk.write_at(&file, text.as_bytes(), 0).unwrap();
                }
            }
        }
        let (disk, root) = (Arc::clone(&world.disk), world.roots[0].clone());
        let top = world.dir(0, "t/x");
        let swap = move || {
            let (x, other, aside) = (OsStr::new("x"), OsStr::new("other"), OsStr::new("aside"));
            disk.rename(&top, x, &root, aside).unwrap();
            disk.rename(&root, other, &top, x).unwrap();
            disk.rename(&root, aside, &root, other).unwrap();
        };
        let mut request = world.request("t", "sub/t");
        let (at_once, once) = (swap.clone(), std::sync::Once::new());
        // It is asked after the walk and before anything is read.
        request.admit = Arc::new(move |_| {
            once.call_once(&at_once);
            Ok(())
        });
        let prepared = world.mover.prepare(request);
        swap();
        let outcome = prepared.and_then(|prepared| world.mover.commit(prepared));
        assert!(outcome.is_err(), "{links}: {outcome:?}");
        assert_eq!(world.get(1, "sub/t"), None, "{links}");
        assert_eq!(world.get(0, "t/x").as_deref(), Some(&b"right"[..]));
    }
}
