//! A ledger whose disk is full.

use super::tests::{open, operation, unmounted};
use super::*;
use crate::storage::simulated::{DeviceOptions, Names, SimulatedStorage};

#[test]
fn a_full_disk_refuses_and_heals() {
    let storage = SimulatedStorage::new(Names::Journal);
    let small = DeviceOptions { capacity: 4 << 20, ..DeviceOptions::default() };
    let dir = storage.add_device(small);
    let storage = storage.shared();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    ledger.accepts_mutations().unwrap();
    storage.set_options(0, DeviceOptions { capacity: 0, ..small });
    let long = format!("/{}", "x".repeat(8000));
    let mut written = vec![long.clone(); 100];
    let refused = written.iter().position(|path| {
        ledger.append(operation(path, true), Durability::Sync) == Err(Errno::NOSPC)
    });
    written.truncate(refused.expect("the disk is full"));
    assert_eq!(ledger.accepts_mutations(), Err(Errno::NOSPC));
    assert_eq!(ledger.flush(), Ok(()));
    storage.set_options(0, small);
    let start = std::time::Instant::now();
    while ledger.accepts_mutations().is_err() {
        assert!(start.elapsed().as_secs() < 20, "it does not heal");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ledger.append(operation("/b", true), Durability::Sync).unwrap();
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let (_, opened, paths) = open(&storage, &dir).unwrap();
    written.push("/b".into());
    assert_eq!(paths, written);
    assert!(!opened.unclean);
}

/// Denials in a full ledger, of as many folders: all are recorded or counted, each once.
#[test]
fn what_a_full_disk_keeps_from_being_recorded_is_counted() {
    let storage = SimulatedStorage::new(Names::Journal);
    let small = DeviceOptions { capacity: 4 << 20, ..DeviceOptions::default() };
    let dir = storage.add_device(small);
    let storage = storage.shared();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    storage.set_options(0, DeviceOptions { capacity: 0, ..small });
    let before = jiff::Timestamp::now();
    let mut asked = 0;
    let mut deny = |uid| {
        let Record::Operation(mut denied) =
            operation(&format!("/{uid}/{}", "x".repeat(8000)), false)
        else {
            unreachable!()
        };
        (denied.uid, denied.count) = (uid, (uid % 3 == 0).then_some(3));
        asked += denied.count.unwrap_or(1);
        ledger.append(Record::Operation(denied), Durability::Group)
    };
    let full = (0..2000).find(|uid| {
        let refused = deny(*uid) == Err(Errno::NOSPC);
        let _ = ledger.flush();
        refused
    });
    let full = full.expect("the reserve is used up");
    let refused = (full + 1..full + 500).filter(|uid| deny(*uid).is_err()).count();
    assert!(refused > 0);
    storage.set_options(0, small);
    let start = std::time::Instant::now();
    while ledger.accepts_mutations().is_err() {
        assert!(start.elapsed().as_secs() < 20, "it does not heal");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ledger.close().unwrap();
    let (mut recorded, mut unrecorded) = (0, 0);
    let mut read = |entry: &Entry| match &entry.record {
        Record::Operation(denied) => recorded += denied.count.unwrap_or(1),
        Record::Gap(gap) => {
            unrecorded += gap.unrecorded.unwrap();
            let [since, until] = [&gap.since, &gap.until].map(|time| time.as_ref().unwrap());
            assert!(before.to_string() < *since && since <= until);
            assert!(*until < entry.time.to_string());
        }
        _ => {}
    };
    let (ledger, _) = Ledger::open(Arc::clone(&storage), dir, "lab", &mut read).unwrap();
    ledger.close().unwrap();
    assert!(unrecorded > 0);
    assert_eq!(recorded + unrecorded, asked);
}

#[test]
fn what_was_held_back_comes_before_the_last_record() {
    let storage = SimulatedStorage::new(Names::Journal);
    let dir = storage.add_device(DeviceOptions::default());
    let storage = storage.shared();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    for _ in 0..10 {
        ledger.append(operation("/a", false), Durability::Group).unwrap();
    }
    ledger.close_with(unmounted()).unwrap();
    assert_eq!(ledger.close_with(unmounted()), Err(Errno::IO));
    let (mut denials, mut last) = (0, None);
    let mut read = |entry: &Entry| {
        if let Record::Operation(denied) = &entry.record {
            denials += denied.count.unwrap_or(1);
        }
        last = Some(entry.record.clone());
    };
    let (ledger, opened) = Ledger::open(Arc::clone(&storage), dir, "lab", &mut read).unwrap();
    ledger.close().unwrap();
    assert_eq!((denials, opened.unclean), (10, false));
    assert_eq!(last, Some(unmounted()));
}
