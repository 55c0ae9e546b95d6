//! A segment leaves only by a record that is signed: what nobody has signed anybody may have written.

use std::ffi::OsStr;
use std::time::Duration;

use super::pruned::{Keep, Kept, Needed, Pruner};
use super::pruned_tests::{
    check_good, four, needed, nobody, pruned, pruner, segments, two, verified, wait_signed,
};
use super::signed_crash_tests::Machine;
use super::signed_tests::State;
use super::store::TreeStore;
use super::tests::{open, operation};
use super::verify::{Against, Source, verify};
use super::*;
use crate::storage::real::{RealDir, RealStorage};
use crate::storage::simulated::{DeviceOptions, Names, SimulatedStorage};

/// Adds a line to the last segment, as somebody without the key can.
fn forge(state: &State, name: &str, seq: u64, record: &Record) {
    let body = encode::body(record).unwrap();
    let line = encode::line(seq, jiff::Timestamp::now(), None, &body);
    state.write(name, [state.read(name), line].concat());
}

fn prune_record(first: u64) -> Record {
    Record::Prune(Box::new(record::PruneRecord {
        first,
        segments: vec!["00000001.jsonl".to_owned()],
        reason: "for a test".to_owned(),
        ids: Default::default(),
        key: None,
    }))
}

#[test]
fn a_record_that_nobody_has_signed_excuses_no_segment_that_is_gone() {
    let state = State::new();
    four(&state).close().unwrap();
    forge(&state, "ledger/00000004.jsonl", 1302, &prune_record(700));
    std::fs::remove_file(state.path("ledger/00000001.jsonl")).unwrap();
    state.refused(&["nobody has signed the record at seq 1302", "accept-loss"]);
    let report = verified(&state);
    let told = |what: &str| what.contains("nobody has signed the record at seq 1302");
    assert!(report.problems.iter().any(|problem| told(&problem.what)), "{report:?}");
    // As an earlier version left it in a crash: a person may take it.
    let (ledger, opened) = state.open_to(Some("a test")).unwrap();
    assert!(told(&opened.lost[0]), "{:?}", opened.lost);
    assert_eq!(opened.pruned, 700);
    ledger.close().unwrap();
    check_good(&state);
    std::fs::remove_file(state.path("ledger/00000002.jsonl")).unwrap();
    state.refused(&["before seq 1000 are missing"]);
}

#[test]
fn a_record_that_nobody_had_signed_lets_nothing_go_once_a_mount_has_signed_it() {
    let state = State::new();
    four(&state).close().unwrap();
    forge(&state, "ledger/00000004.jsonl", 1302, &prune_record(1000));
    let (ledger, opened) = state.open_to(None).unwrap();
    assert_eq!(opened.pruned, 0, "nobody knows who wrote it");
    let (now, dir) = (jiff::Timestamp::now(), RealDir::open(&state.path("ledger")).unwrap());
    let none = Keep { age: Some(Duration::from_secs(3600)), size: None };
    let storage = Arc::new(RealStorage);
    let mut pruner = Pruner::new(storage, dir, Arc::clone(&ledger), none, opened.pruned);
    assert_eq!(pruner.prune(now, &needed(&|_| true)), Ok(0));
    ledger.close().unwrap();
    check_good(&state);
    let (ledger, opened) = state.open_to(None).unwrap();
    assert_eq!(opened.pruned, 0, "it is taken back");
    ledger.close().unwrap();
    std::fs::remove_file(state.path("ledger/00000001.jsonl")).unwrap();
    state.refused(&["before seq 700 are missing"]);
    assert!(!verified(&state).problems.is_empty());
}

/// Else who puts one in the place of the true one has the ledger refused.
#[test]
fn a_record_that_nobody_had_signed_takes_no_true_one_back() {
    let state = pruned();
    let seq = state.checkpoint().size;
    forge(&state, "ledger/00000004.jsonl", seq, &prune_record(0));
    for _ in 0..2 {
        let (ledger, opened) = state.open_to(None).unwrap();
        assert_eq!(opened.pruned, 1000);
        ledger.close().unwrap();
        check_good(&state);
    }
}

#[test]
fn segments_leave_once_a_checkpoint_covers_the_record_that_says_so() {
    let state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    let now = jiff::Timestamp::now();
    let checkpoint = state.path("ledger/checkpoint");
    let published = state.read("ledger/checkpoint");
    // Nothing can be published where a folder has the name.
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("in the way")).unwrap();
    let mut pruner = pruner(&state, &ledger, two(&state));
    for _ in 0..2 {
        assert_eq!(pruner.prune(now, &needed(&nobody)), Ok(0));
        assert!(pruner.is_waiting());
        assert_eq!(pruner.kept(), Some(Kept::Unsigned));
        assert_eq!(segments(&state), [1, 2, 3, 4]);
    }
    std::fs::remove_dir_all(&checkpoint).unwrap();
    std::fs::write(&checkpoint, published).unwrap();
    assert_eq!(pruner.prune(now, &needed(&nobody)), Ok(2), "it is signed when somebody waits");
    assert!(!pruner.is_waiting() && pruner.kept().is_none());
    let records = Reader::open(&state.path("ledger")).unwrap();
    let records = records
        .entries(0)
        .filter(|entry| matches!(entry.as_ref().unwrap().record, Record::Prune(_)));
    assert_eq!(records.count(), 1, "it is said once");
    ledger.close().unwrap();
    check_good(&state);
}

#[test]
fn a_segment_that_has_left_by_a_record_newer_than_the_checkpoint_at_hand_begins_verification_anew()
{
    let state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    let tiles =
        TreeStore::new(Arc::new(RealStorage), RealDir::open(&state.path("ledger")).unwrap());
    let before = state.read("ledger/checkpoint");
    let now = jiff::Timestamp::now();
    assert_eq!(pruner(&state, &ledger, two(&state)).prune(now, &needed(&nobody)), Ok(2));
    let signer = state.key();
    let held = |note: &[u8]| {
        let against = Against {
            key: signer.verifier(),
            checkpoint: Some(note.to_vec()),
            copies: &[],
            tiles: Some(&tiles),
            witness: None,
        };
        verify(&Source::Folder(state.path("ledger")), &against, &mut |_| {})
    };
    assert_eq!(held(&before).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(held(&state.read("ledger/checkpoint")).unwrap().problems, []);
    ledger.close().unwrap();
}

/// The record may have room in the block that the segment ends with; tiles and checkpoint have none.
#[test]
fn segments_leave_a_full_disk() {
    let machine = Machine::new(Names::Journal);
    let storage = &machine.storage;
    storage.set_options(0, DeviceOptions { capacity: 4 << 20, ..DeviceOptions::default() });
    let ledger = machine.open_to(None, &mut Vec::new()).unwrap();
    for path in ["/a", "/b", "/c"] {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
        ledger.rotate().unwrap();
    }
    let end = ledger.end().unwrap();
    assert!(ledger.covers(end, Duration::from_secs(20)));
    // A simulated disk only looks whether there is room for what is set aside.
    for (name, length) in [("reserve", 1 << 20), ("reserve.tree", 128 << 10)] {
        let file = storage.open_write(&machine.ledger, OsStr::new(name)).unwrap();
        storage.write_at(&file, &vec![0; length], 0).unwrap();
    }
    let filler = storage.create_file(&machine.state, OsStr::new("filler")).unwrap();
    let mut length = 0;
    for size in [1 << 20, 1 << 12, 1] {
        while storage.write_at(&filler, &vec![1; size], length).is_ok() {
            length += size as u64;
        }
    }
    let keep = Keep { age: None, size: Some(1) };
    let dir = machine.ledger.clone();
    let mut pruner = Pruner::new(Arc::clone(storage), dir, Arc::clone(&ledger), keep, 0);
    let needed = Needed { transaction: &nobody, ids: Default::default() };
    assert_eq!(pruner.prune(jiff::Timestamp::now(), &needed), Ok(3));
    assert_eq!(segment::list(&**storage, &machine.ledger).unwrap(), [4]);
    ledger.close().unwrap();
    machine.open_to(None, &mut Vec::new()).unwrap().close().unwrap();
}

/// What is announced leaves by itself, whatever a full disk refuses: its room is what helps.
#[test]
fn what_was_announced_leaves_though_the_ledger_takes_no_record() {
    let machine = Machine::new(Names::Journal);
    let storage = &machine.storage;
    let ledger = machine.open_to(None, &mut Vec::new()).unwrap();
    for path in ["/a", "/b", "/c"] {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
        ledger.rotate().unwrap();
    }
    ledger.append(operation("/d", true), Durability::Sync).unwrap();
    let end = ledger.end().unwrap();
    assert!(ledger.covers(end, Duration::from_secs(20)));
    let full = DeviceOptions { capacity: 0, ..DeviceOptions::default() };
    storage.set_options(0, full);
    let long = format!("/{}", "x".repeat(8000));
    let is_full = |_| {
        let refused = ledger.append(operation(&long, true), Durability::Group).is_err();
        let _ = ledger.flush();
        refused
    };
    assert!((0..1000).any(is_full));
    let age = Some(Duration::from_secs(60));
    let keep = Keep { age, size: None };
    // As after a start that found a signed record of the two first segments.
    let dir = machine.ledger.clone();
    let first = {
        let file = storage.open_read(&dir, &segment::file_name(3)).unwrap();
        let mut bytes = vec![0; 4096];
        let read = storage.read_at(&file, &mut bytes, 0).unwrap();
        let line = bytes[..read].split(|byte| *byte == b'\n').next().unwrap();
        decode_line(line).unwrap().seq
    };
    let mut pruner = Pruner::new(Arc::clone(storage), dir, Arc::clone(&ledger), keep, first);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
    let needed = Needed { transaction: &nobody, ids: Default::default() };
    assert!(pruner.prune(later, &needed).is_err(), "the newest cannot be followed by another");
    assert_eq!(segment::list(&**storage, &machine.ledger).unwrap(), [3, 4]);
}

/// As after a start that found neither checkpoint nor tiles: both are made again from the lines.
#[test]
fn what_was_announced_stays_while_no_checkpoint_covers_it() {
    let storage = SimulatedStorage::new(Names::Journal);
    let dir = storage.add_device(DeviceOptions::default());
    let storage = storage.shared();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    for path in ["/a", "/b", "/c"] {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
        ledger.rotate().unwrap();
    }
    let keep = Keep { age: None, size: Some(1) };
    let mut pruner = Pruner::new(Arc::clone(&storage), dir.clone(), Arc::clone(&ledger), keep, 5);
    let needed = Needed { transaction: &nobody, ids: Default::default() };
    assert_eq!(pruner.prune(jiff::Timestamp::now(), &needed), Ok(0));
    assert_eq!(segment::list(&*storage, &dir).unwrap(), [1, 2, 3, 4]);
    ledger.close().unwrap();
}
