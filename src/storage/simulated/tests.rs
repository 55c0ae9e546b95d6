use super::*;

fn names_of(storage: &SimulatedStorage, dir: &SimulatedDir) -> Vec<String> {
    let names = storage.list(dir).unwrap();
    names.into_iter().map(|name| name.into_string().unwrap()).collect()
}

fn content_of(storage: &SimulatedStorage, dir: &SimulatedDir, name: &str) -> Vec<u8> {
    let file = storage.open_read(dir, name.as_ref()).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let length = storage.read_at(&file, &mut buffer, 0).unwrap();
    buffer.truncate(length);
    buffer
}

fn new_disk(names: Names) -> (SimulatedStorage, SimulatedDir) {
    let storage = SimulatedStorage::new(names);
    let root = storage.add_device(DeviceOptions::default());
    (storage, root)
}

#[test]
fn synced_data_and_names_survive_every_crash() {
    for names in [Names::Journal, Names::Independent] {
        let (storage, root) = new_disk(names);
        let file = storage.create_file(&root, "a".as_ref()).unwrap();
        storage.write_at(&file, &[7; 9000], 0).unwrap();
        storage.sync_file(&file).unwrap();
        storage.sync_dir(&root).unwrap();
        for seed in 0..100 {
            let after = storage.crash(seed);
            assert_eq!(content_of(&after, &root, "a"), [7; 9000]);
        }
    }
}

#[test]
fn unsynced_data_is_lost_kept_and_torn() {
    let (storage, root) = new_disk(Names::Independent);
    let file = storage.create_file(&root, "a".as_ref()).unwrap();
    storage.write_at(&file, &[1; 4096], 0).unwrap();
    storage.sync_file(&file).unwrap();
    storage.sync_dir(&root).unwrap();
    storage.write_at(&file, &[2; 4096], 0).unwrap();
    let found: Vec<_> = (0..100).map(|seed| content_of(&storage.crash(seed), &root, "a")).collect();
    assert!(found.iter().any(|content| content.iter().all(|byte| *byte == 1)), "never lost");
    assert!(found.iter().any(|content| content.iter().all(|byte| *byte == 2)), "never kept");
    let torn = |content: &Vec<u8>| content.contains(&1) && content.contains(&2);
    assert!(found.iter().any(torn), "never torn");
    assert!(found.iter().filter(|content| torn(content)).all(|content| {
        content.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0]))
    }));
}

#[test]
fn a_rename_between_directories_leaves_one_name_or_both_but_never_none() {
    let (storage, root) = new_disk(Names::Independent);
    storage.create_dir(&root, "s".as_ref()).unwrap();
    storage.create_dir(&root, "t".as_ref()).unwrap();
    let s = storage.open_dir(&root, "s".as_ref()).unwrap();
    let t = storage.open_dir(&root, "t".as_ref()).unwrap();
    storage.create_file(&s, "f".as_ref()).unwrap();
    storage.sync_all();
    storage.rename(&s, "f".as_ref(), &t, "f".as_ref()).unwrap();
    let mut seen = [0; 3];
    for seed in 0..100 {
        let after = storage.crash(seed);
        match (names_of(&after, &s).len(), names_of(&after, &t).len()) {
            (1, 0) => seen[0] += 1,
            (1, 1) => seen[1] += 1,
            (0, 1) => seen[2] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    storage.sync_dir(&t).unwrap();
    assert!((0..100).all(|seed| names_of(&storage.crash(seed), &t).len() == 1));
}

#[test]
fn with_a_journal_names_survive_in_order() {
    let (storage, root) = new_disk(Names::Journal);
    for name in ["1", "2", "3"] {
        storage.create_file(&root, name.as_ref()).unwrap();
    }
    let mut lengths = [0; 4];
    for seed in 0..100 {
        let found = names_of(&storage.crash(seed), &root);
        assert_eq!(found, ["1", "2", "3"][..found.len()]);
        lengths[found.len()] += 1;
    }
    assert!(lengths.iter().all(|count| *count > 0), "{lengths:?}");
}

#[test]
fn a_failed_sync_loses_the_data_and_the_next_one_does_not_notice() {
    let (storage, root) = new_disk(Names::Journal);
    let file = storage.create_file(&root, "a".as_ref()).unwrap();
    storage.sync_dir(&root).unwrap();
    storage.write_at(&file, &[1; 64 * 1024], 0).unwrap();
    storage.fail_at(storage.steps(), Fault::Errno(Errno::IO));
    assert_eq!(storage.sync_file(&file), Err(Errno::IO));
    storage.sync_file(&file).unwrap();
    assert_eq!(content_of(&storage, &root, "a"), vec![1; 64 * 1024]);
    assert_ne!(content_of(&storage.crash(1), &root, "a"), vec![1; 64 * 1024]);
}

#[test]
fn after_the_power_went_nothing_works() {
    let (storage, root) = new_disk(Names::Journal);
    storage.fail_at(1, Fault::Crash);
    storage.create_file(&root, "a".as_ref()).unwrap();
    assert_eq!(storage.sync_dir(&root), Err(Errno::IO));
    assert_eq!(storage.list(&root), Err(Errno::IO));
    assert_eq!(storage.steps(), 3);
}

#[test]
fn holes_are_kept_and_counted() {
    let (storage, root) = new_disk(Names::Journal);
    let file = storage.create_file(&root, "a".as_ref()).unwrap();
    storage.write_at(&file, b"end", 3 * 4096).unwrap();
    storage.set_len(&file, 10 * 4096).unwrap();
    assert_eq!(storage.next_data(&file, 0), Ok(Some(3 * 4096..4 * 4096)));
    assert_eq!(storage.next_data(&file, 4 * 4096), Ok(None));
    assert_eq!(storage.free_space(&root), Ok((1 << 30) - 4096));
}

#[test]
fn a_writer_refuses_and_breaks_leases() {
    let (storage, root) = new_disk(Names::Journal);
    let file = storage.create_file(&root, "a".as_ref()).unwrap();
    let lease = storage.lease(&file).unwrap().unwrap();
    assert!(storage.lease_holds(&lease));
    storage.open_outside(&root, "a".as_ref()).unwrap();
    assert!(!storage.lease_holds(&lease));
    assert!(matches!(storage.lease(&file), Err(Errno::AGAIN)));
    storage.close_outside(&root, "a".as_ref()).unwrap();
    assert!(storage.lease(&file).unwrap().is_some());
}

#[test]
fn devices_are_apart() {
    let (storage, root) = new_disk(Names::Journal);
    let other = storage.add_device(DeviceOptions { capacity: 4096, ..DeviceOptions::default() });
    storage.create_file(&root, "a".as_ref()).unwrap();
    let renamed = storage.rename(&root, "a".as_ref(), &other, "a".as_ref());
    assert_eq!(renamed, Err(Errno::XDEV));
    let file = storage.create_file(&other, "b".as_ref()).unwrap();
    assert_eq!(storage.write_at(&file, &[0; 4097], 0), Err(Errno::NOSPC));
}

/// A disk with `/d/e/f` and `/g`, durable, and those directories.
fn disk_with_a_tree(
    names: Names,
) -> (SimulatedStorage, SimulatedDir, SimulatedDir, SimulatedDir, SimulatedDir) {
    let (storage, root) = new_disk(names);
    storage.create_dir(&root, "d".as_ref()).unwrap();
    storage.create_dir(&root, "g".as_ref()).unwrap();
    let d = storage.open_dir(&root, "d".as_ref()).unwrap();
    let g = storage.open_dir(&root, "g".as_ref()).unwrap();
    storage.create_dir(&d, "e".as_ref()).unwrap();
    let e = storage.open_dir(&d, "e".as_ref()).unwrap();
    storage.create_file(&e, "f".as_ref()).unwrap();
    storage.sync_all();
    (storage, root, d, e, g)
}

/// The old directory is synced and the new one is not.
#[test]
fn a_directory_that_is_synced_by_itself_may_leave_a_renamed_file_without_a_name() {
    for (names, is_lost) in [(Names::Independent, false), (Names::Separate, true)] {
        let (storage, root) = new_disk(names);
        let [s, t] = ["s", "t"].map(|name| {
            storage.create_dir(&root, name.as_ref()).unwrap();
            storage.open_dir(&root, name.as_ref()).unwrap()
        });
        storage.create_file(&s, "f".as_ref()).unwrap();
        storage.sync_all();
        storage.rename(&s, "f".as_ref(), &t, "f".as_ref()).unwrap();
        storage.sync_dir(&s).unwrap();
        let found = (0..50).map(|seed| {
            let after = storage.crash(seed);
            assert!(names_of(&after, &s).is_empty());
            names_of(&after, &t).len()
        });
        let found: Vec<usize> = found.collect();
        assert!(found.contains(&1));
        assert_eq!(found.contains(&0), is_lost, "{names:?}");
        storage.sync_dir(&t).unwrap();
        assert!((0..50).all(|seed| names_of(&storage.crash(seed), &t) == ["f"]), "{names:?}");
    }
}

#[test]
fn names_in_a_new_directory_are_lost_one_by_one() {
    let (storage, root) = new_disk(Names::Independent);
    storage.create_dir(&root, "d".as_ref()).unwrap();
    storage.sync_dir(&root).unwrap();
    let d = storage.open_dir(&root, "d".as_ref()).unwrap();
    for name in ["1", "2"] {
        storage.create_file(&d, name.as_ref()).unwrap();
    }
    let found: Vec<_> = (0..100).map(|seed| names_of(&storage.crash(seed), &d)).collect();
    for wanted in [&[][..], &["1"], &["2"], &["1", "2"]] {
        assert!(found.iter().any(|names| names == wanted), "never {wanted:?}");
    }
}

#[test]
fn a_directory_that_is_lost_takes_what_it_held() {
    let (storage, root) = new_disk(Names::Independent);
    storage.create_dir(&root, "d".as_ref()).unwrap();
    let d = storage.open_dir(&root, "d".as_ref()).unwrap();
    let file = storage.create_file(&d, "f".as_ref()).unwrap();
    storage.sync_file(&file).unwrap();
    storage.sync_dir(&d).unwrap();
    let mut lost = 0;
    for seed in 0..100 {
        let after = storage.crash(seed);
        match names_of(&after, &root).as_slice() {
            [] => {
                lost += 1;
                assert_eq!(after.list(&d), Err(Errno::STALE));
            }
            _ => assert_eq!(names_of(&after, &d), ["f"]),
        }
    }
    assert!(lost > 0 && lost < 100, "lost {lost} times");
}

#[test]
fn a_renamed_directory_has_one_name_and_all_that_was_durable_in_it() {
    for names in [Names::Journal, Names::Independent] {
        let (storage, _, d, e, g) = disk_with_a_tree(names);
        storage.rename(&d, "e".as_ref(), &g, "h".as_ref()).unwrap();
        storage.create_file(&e, "unsure".as_ref()).unwrap();
        let mut seen = [0; 2];
        for seed in 0..100 {
            let after = storage.crash(seed);
            match (names_of(&after, &d).len(), names_of(&after, &g).len()) {
                (1, 0) => seen[0] += 1,
                (0, 1) => seen[1] += 1,
                other => panic!("{other:?}"),
            }
            assert!(names_of(&after, &e).contains(&"f".to_owned()));
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        storage.sync_dir(&d).unwrap();
        assert!((0..100).all(|seed| names_of(&storage.crash(seed), &g) == ["h"]));
    }
}

#[test]
fn directories_never_form_a_ring() {
    let (storage, root, d, _, g) = disk_with_a_tree(Names::Independent);
    assert_eq!(storage.rename(&root, "d".as_ref(), &d, "x".as_ref()), Err(Errno::INVAL));
    // First e out of d, then d into e: without the first the second would cut both off.
    storage.rename(&d, "e".as_ref(), &g, "e".as_ref()).unwrap();
    let e = storage.open_dir(&g, "e".as_ref()).unwrap();
    storage.rename(&root, "d".as_ref(), &e, "d".as_ref()).unwrap();
    for seed in 0..100 {
        let after = storage.crash(seed);
        assert!(after.list(&d).is_ok() && after.list(&e).is_ok(), "seed {seed}");
    }
}

#[test]
fn hard_links_share_an_inode_and_vanish_name_by_name() {
    let (storage, root, d, e, g) = disk_with_a_tree(Names::Independent);
    assert_eq!(storage.link(&root, "d".as_ref(), &root, "x".as_ref()), Err(Errno::PERM));
    assert_eq!(storage.link(&e, "f".as_ref(), &d, "e".as_ref()), Err(Errno::EXIST));
    storage.link(&e, "f".as_ref(), &g, "1".as_ref()).unwrap();
    storage.link(&e, "f".as_ref(), &g, "2".as_ref()).unwrap();
    let (one, two) = (
        storage.stat(&e, "f".as_ref()).unwrap().unwrap(),
        storage.stat(&g, "2".as_ref()).unwrap().unwrap(),
    );
    assert_eq!((one.identity, one.nlink), (two.identity, 3));
    let file = storage.open_write(&g, "1".as_ref()).unwrap();
    storage.write_at(&file, b"shared", 0).unwrap();
    assert_eq!(content_of(&storage, &e, "f"), b"shared");
    storage.sync_file(&file).unwrap();
    let found: Vec<_> = (0..100).map(|seed| names_of(&storage.crash(seed), &g)).collect();
    for wanted in [&[][..], &["1"], &["2"], &["1", "2"]] {
        assert!(found.iter().any(|names| names == wanted), "never {wanted:?}");
    }
    storage.sync_dir(&g).unwrap();
    storage.unlink(&e, "f".as_ref()).unwrap();
    storage.sync_dir(&e).unwrap();
    let after = storage.crash(1);
    assert_eq!(content_of(&after, &g, "1"), b"shared");
    assert_eq!(after.stat(&g, "1".as_ref()).unwrap().unwrap().nlink, 2);
}

#[test]
fn syncing_the_file_system_makes_all_durable_where_it_does() {
    for (names, works) in
        [(Names::Journal, true), (Names::Independent, true), (Names::Independent, false)]
    {
        let storage = SimulatedStorage::new(names);
        let options = DeviceOptions { syncs_whole: works, ..DeviceOptions::default() };
        let root = storage.add_device(options);
        let other = storage.add_device(DeviceOptions::default());
        storage.create_dir(&root, "d".as_ref()).unwrap();
        let d = storage.open_dir(&root, "d".as_ref()).unwrap();
        let file = storage.create_file(&d, "f".as_ref()).unwrap();
        storage.write_at(&file, &[7; 9000], 0).unwrap();
        storage.set_mode(&root, "d".as_ref(), 0o711).unwrap();
        storage.create_file(&other, "elsewhere".as_ref()).unwrap();
        assert_eq!(storage.syncs_whole(&root), Ok(works));
        storage.sync_file_system(&root).unwrap();
        let whole = |after: &SimulatedStorage| {
            after.list(&d).is_ok_and(|names| names == ["f"])
                && content_of(after, &d, "f") == [7; 9000]
                && after.stat(&root, "d".as_ref()).unwrap().unwrap().mode == 0o711
        };
        let kept = (0..50).filter(|seed| whole(&storage.crash(*seed))).count();
        assert_eq!(kept == 50, works, "{names:?}: {kept} of 50");
        assert!((0..50).any(|seed| names_of(&storage.crash(seed), &other).is_empty()));
    }
}

#[test]
fn a_failed_sync_of_the_file_system_loses_what_the_next_one_does_not_write() {
    let (storage, root) = new_disk(Names::Independent);
    let file = storage.create_file(&root, "a".as_ref()).unwrap();
    storage.write_at(&file, &[1; 64 * 1024], 0).unwrap();
    storage.fail_at(storage.steps(), Fault::Errno(Errno::IO));
    assert_eq!(storage.sync_file_system(&root), Err(Errno::IO));
    storage.sync_file_system(&root).unwrap();
    let kept = |seed| !names_of(&storage.crash(seed), &root).is_empty();
    assert!((0..100).any(|seed| !kept(seed)), "the name was never lost");
    let seed = (0..100).find(|seed| kept(*seed)).unwrap();
    assert_ne!(content_of(&storage.crash(seed), &root, "a"), vec![1; 64 * 1024]);
}

#[test]
fn directories_count_links_change_times_and_end() {
    let (storage, root, d, e, _) = disk_with_a_tree(Names::Journal);
    let stat = |dir: &SimulatedDir, name: &str| storage.stat(dir, name.as_ref()).unwrap().unwrap();
    let before = stat(&root, "d");
    assert_eq!(before.nlink, 3);
    storage.unlink(&e, "f".as_ref()).unwrap();
    storage.remove_dir(&d, "e".as_ref()).unwrap();
    let after = stat(&root, "d");
    assert_eq!(after.nlink, 2);
    assert!(after.identity.mtime > before.identity.mtime, "the directory's times stood still");
    assert_eq!(storage.create_dir(&e, "x".as_ref()), Err(Errno::NOENT), "it was removed");
    assert_eq!(storage.list(&e), Err(Errno::NOENT));
    storage.set_owner(&root, "d".as_ref(), 5, 6).unwrap();
    storage.set_mode(&root, "d".as_ref(), 0o2770).unwrap();
    storage.set_xattr(&root, "d".as_ref(), "user.note".as_ref(), b"x").unwrap();
    storage.rename(&root, "d".as_ref(), &root, "renamed".as_ref()).unwrap();
    let moved = stat(&root, "renamed");
    assert_eq!((moved.uid, moved.gid, moved.mode), (5, 6, 0o2770));
    assert_eq!(storage.xattrs(&root, "renamed".as_ref()).unwrap().len(), 1);
    assert_eq!(moved.identity.handle, before.identity.handle);
}

#[test]
fn inodes_run_out() {
    let storage = SimulatedStorage::new(Names::Journal);
    let root = storage.add_device(DeviceOptions { inodes: 2, ..DeviceOptions::default() });
    assert_eq!(storage.free_inodes(&root), Ok(1));
    storage.create_file(&root, "a".as_ref()).unwrap();
    assert_eq!(storage.create_file(&root, "b".as_ref()).err(), Some(Errno::NOSPC));
    assert_eq!(storage.create_dir(&root, "b".as_ref()), Err(Errno::NOSPC));
    storage.link(&root, "a".as_ref(), &root, "b".as_ref()).unwrap();
    storage.unlink(&root, "a".as_ref()).unwrap();
    assert_eq!(storage.free_inodes(&root), Ok(0));
    storage.unlink(&root, "b".as_ref()).unwrap();
    assert_eq!(storage.free_inodes(&root), Ok(1));
}

#[test]
fn replacing_leaves_the_old_file_or_the_new_one() {
    for names in [Names::Journal, Names::Independent] {
        let storage = SimulatedStorage::new(names);
        let root = storage.add_device(DeviceOptions::default());
        for (name, byte) in [("a", 1), ("a.new", 2)] {
            let file = storage.create_file(&root, name.as_ref()).unwrap();
            storage.write_at(&file, &[byte], 0).unwrap();
            storage.sync_file(&file).unwrap();
        }
        storage.sync_dir(&root).unwrap();
        storage.create_dir(&root, "folder".as_ref()).unwrap();
        let folder = storage.replace(&root, "a.new".as_ref(), "folder".as_ref());
        assert_eq!(folder, Err(Errno::ISDIR));
        storage.replace(&root, "a.new".as_ref(), "a".as_ref()).unwrap();
        assert_eq!(storage.replace(&root, "a.new".as_ref(), "a".as_ref()), Err(Errno::NOENT));
        let mut found: Vec<u8> =
            (0..16).map(|seed| content_of(&storage.crash(seed), &root, "a")[0]).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, [1, 2], "{names:?}");
        storage.sync_dir(&root).unwrap();
        let after = storage.crash(0);
        assert_eq!(content_of(&after, &root, "a"), [2]);
        assert_eq!(after.stat(&root, "a.new".as_ref()).unwrap(), None);
    }
}
