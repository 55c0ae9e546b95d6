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
