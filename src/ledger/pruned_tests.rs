//! Segments that leave: what stays vouched for, what is refused, and what keeps them.

use std::path::Path;
use std::time::Duration;

use super::pruned::{Keep, Kept, Needed, Pruner};
use super::record::{PurgeRecord, Step};
use super::signed_tests::State;
use super::store::TreeStore;
use super::tests::{operation, step};
use super::verify::{Against, Report, Source, steadily, verify};
use super::*;
use crate::storage::real::{RealDir, RealStorage};
use crate::types::TxId;

const FIRST: TxId = TxId(ulid::Ulid(1));

pub(super) fn nobody(_: TxId) -> bool {
    false
}

fn purge(txid: TxId) -> Record {
    Record::Purge(PurgeRecord {
        txid,
        reason: "for a test".into(),
        lost: false,
        given_up: Vec::new(),
    })
}

fn crossing(txid: TxId, kind: Step) -> Record {
    Record::Crossing(Box::new(step(txid, kind)))
}

/// Four segments, of which the last is being written: 700 lines, 300, 300 and two. The first names a
/// transaction.
pub(super) fn four(state: &State) -> Arc<Ledger<RealStorage>> {
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.append(purge(FIRST), Durability::Sync).unwrap();
    for lines in [697, 299, 299] {
        for at in 0..lines {
            let denied = at % 7 == 0;
            ledger.append(operation(&format!("/{denied}/{at}"), true), Durability::Group).unwrap();
        }
        ledger.rotate().unwrap();
    }
    ledger.append(operation("/last", true), Durability::Sync).unwrap();
    ledger
}

pub(super) fn pruner(
    state: &State,
    ledger: &Arc<Ledger<RealStorage>>,
    keep: Keep,
) -> Pruner<RealStorage> {
    let dir = RealDir::open(&state.path("ledger")).unwrap();
    Pruner::new(Arc::new(RealStorage), dir, Arc::clone(ledger), keep, 0)
}

pub(super) fn needed(transaction: &dyn Fn(TxId) -> bool) -> Needed<'_> {
    let id = crate::types::BranchUuid(ulid::Ulid(9));
    Needed { transaction, ids: [("inbox".to_owned(), id)].into() }
}

pub(super) fn segments(state: &State) -> Vec<u64> {
    let names = std::fs::read_dir(state.path("ledger")).unwrap();
    let mut numbers: Vec<u64> =
        names.filter_map(|entry| segment::number_of(&entry.unwrap().file_name())).collect();
    numbers.sort_unstable();
    numbers
}

/// So much that the first two must leave.
pub(super) fn two(state: &State) -> Keep {
    let length = |name: &str| state.read(name).len() as u64;
    let rest = length("ledger/00000003.jsonl") + length("ledger/00000004.jsonl");
    Keep { age: None, size: Some(rest + 5000) }
}

pub(super) fn wait_signed(ledger: &Ledger<RealStorage>, size: u64) {
    let signed = || {
        let note = ledger.checkpoint()?;
        Some(Checkpoint::unverified(&note)?.size)
    };
    let start = std::time::Instant::now();
    while signed() < Some(size) {
        assert!(start.elapsed() < Duration::from_secs(20), "not signed");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn verified(state: &State) -> Report {
    let tiles =
        TreeStore::new(Arc::new(RealStorage), RealDir::open(&state.path("ledger")).unwrap());
    let signer = state.key();
    let against = Against {
        key: signer.verifier(),
        checkpoint: Some(state.read("ledger/checkpoint")),
        copies: &state.copies,
        tiles: Some(&tiles),
        witness: None,
    };
    verify(&Source::Folder(state.path("ledger")), &against, &mut |_| {}).unwrap()
}

#[track_caller]
pub(super) fn check_good(state: &State) -> Report {
    let report = verified(state);
    assert_eq!(report.problems, [], "{:?}", report.notes);
    report
}

/// The same four segments, of which two have left.
pub(super) fn pruned() -> State {
    let mut state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    state.copy("old");
    let now = jiff::Timestamp::now();
    assert_eq!(pruner(&state, &ledger, two(&state)).prune(now, &needed(&nobody)), Ok(2));
    ledger.close().unwrap();
    state
}

#[test]
fn more_segments_than_a_record_has_room_for_leave_one_lot_after_the_other() {
    let state = State::new();
    let ledger = four(&state);
    for _ in 0..3 {
        ledger.rotate().unwrap();
        ledger.append(operation("/more", true), Durability::Sync).unwrap();
    }
    wait_signed(&ledger, 1308);
    let keep = Keep { age: None, size: Some(1) };
    let mut pruner = pruner(&state, &ledger, keep);
    let now = jiff::Timestamp::now();
    for (gone, left) in [(4, vec![5, 6, 7]), (2, vec![7]), (0, vec![7])] {
        assert_eq!(pruner.prune(now, &needed(&nobody)), Ok(gone));
        assert_eq!(segments(&state), left);
        let told = (left.len() == 1).then_some(Kept::Newest);
        assert_eq!(pruner.kept(), told, "what leaves at the next look is not kept");
    }
    ledger.close().unwrap();
    check_good(&state);
}

/// As many as leave at once outside of tests, and more branches than anybody has.
#[test]
fn a_record_has_room_for_all_that_leave_at_once() {
    let name = |number| segment::file_name(number).to_string_lossy().into_owned();
    let id = crate::types::BranchUuid(ulid::Ulid(u128::MAX));
    let record = record::PruneRecord {
        first: u64::MAX,
        segments: (1..=1000).map(|number| name(10_000_000_000 + number)).collect(),
        reason: "x".repeat(200),
        ids: (0..400).map(|number| (format!("{number:032}"), id)).collect(),
        key: Some("x".repeat(200)),
    };
    assert_eq!(fits(&Record::Prune(Box::new(record))), Ok(()));
}

#[test]
fn what_is_left_stays_signed_and_goes_on() {
    let mut state = pruned();
    assert_eq!(segments(&state), [3, 4]);
    let report = check_good(&state);
    assert!(report.notes.iter().any(|note| note.contains("first 1000 lines")), "{report:?}");
    assert_eq!(report.copies.len(), 1, "a checkpoint from before still holds");
    let root = report.root.clone();
    let mut seen = Vec::new();
    let replay = |state: &State, seen: &mut Vec<Entry>| {
        let dir = |path: &Path| RealDir::open(path).unwrap();
        let seal =
            Seal { state: dir(state.folder.path()), copies: state.copies.clone(), accept: None };
        let ledger = dir(&state.path("ledger"));
        let mut take = |entry: &Entry| seen.push(entry.clone());
        Ledger::open_signed(Arc::new(RealStorage), ledger, "lab", &seal, &mut take).unwrap()
    };
    let (ledger, opened) = replay(&state, &mut seen);
    assert_eq!((opened.damaged_tiles, seen[0].seq), (0, 1000));
    let ids = seen.iter().flat_map(|entry| entry.record.ids()).collect::<Vec<_>>();
    assert_eq!(ids, [("inbox", crate::types::BranchUuid(ulid::Ulid(9)))]);
    for at in 0..600 {
        ledger.append(operation(&format!("/more/{at}"), true), Durability::Group).unwrap();
    }
    ledger.close().unwrap();
    state.copy("new");
    let report = check_good(&state);
    assert_ne!(report.root, root);
    assert_eq!(report.copies.len(), 2);
    // A second time, from a front that is in the middle of a tile.
    let (ledger, _) = replay(&state, &mut seen);
    ledger.rotate().unwrap();
    let all = Keep { age: Some(Duration::ZERO), size: None };
    let now = jiff::Timestamp::now();
    wait_signed(&ledger, 1906);
    assert_eq!(pruner(&state, &ledger, all).prune(now, &needed(&nobody)), Ok(2));
    ledger.close().unwrap();
    assert_eq!(segments(&state), [5]);
    check_good(&state);
    replay(&state, &mut seen).0.close().unwrap();
}

#[test]
fn segments_that_are_gone_without_a_record_are_missed() {
    let state = State::new();
    four(&state).close().unwrap();
    std::fs::remove_file(state.path("ledger/00000001.jsonl")).unwrap();
    state.refused(&["before seq 700 are missing"]);
    assert!(verified(&state).problems[0].what.contains("did not leave"), "{:?}", verified(&state));
    // A person may take the loss, once.
    let (ledger, opened) = state.open_to(Some("a test")).unwrap();
    assert!(opened.lost[0].contains("before seq 700"), "{:?}", opened.lost);
    ledger.close().unwrap();
    check_good(&state);
    state.open_to(None).unwrap().0.close().unwrap();
    std::fs::remove_file(state.path("ledger/00000002.jsonl")).unwrap();
    state.refused(&["before seq 1000 are missing"]);
}

#[test]
fn more_than_the_record_says_is_missed() {
    let state = pruned();
    std::fs::remove_file(state.path("ledger/00000003.jsonl")).unwrap();
    state.refused(&["before seq 1300 are missing"]);
    assert!(!verified(&state).problems.is_empty());
}

#[test]
fn damage_of_what_is_left_and_of_its_tiles_is_found() {
    let mut state = pruned();
    let segment = state.read("ledger/00000003.jsonl");
    let text = String::from_utf8(segment.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let forged = super::signed_tests::forged(lines[151].as_bytes(), "/150", "/151");
    let forged = text.replace(lines[151], std::str::from_utf8(&forged).unwrap());
    assert_ne!(forged, text);
    state.write("ledger/00000003.jsonl", &forged);
    state.refused(&["00000003.jsonl"]);
    assert!(!verified(&state).problems.is_empty());
    state.write("ledger/00000003.jsonl", &segment);
    // The tile that holds the last lines which have left, and the first which have not.
    let tile = state.read("ledger/tile/0/003");
    let mut wrong = tile.clone();
    wrong[5] ^= 1;
    state.write("ledger/tile/0/003", &wrong);
    state.refused(&["vouches for other lines"]);
    assert!(!verified(&state).problems.is_empty());
    std::fs::remove_file(state.path("ledger/tile/0/003")).unwrap();
    state.refused(&["which have left"]);
    state.write("ledger/tile/0/003", &tile);
    check_good(&state);
    // A tile of lines that have left is looked at for the copy from before alone.
    state.copies.clear();
    std::fs::remove_file(state.path("ledger/tile/0/001")).unwrap();
    check_good(&state);
    state.open_to(None).unwrap().0.close().unwrap();
}

#[test]
fn a_crash_after_the_record_leaves_what_the_next_run_removes() {
    let state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    let kept: Vec<_> = [1, 2].map(|number| format!("ledger/0000000{number}.jsonl")).into();
    let bytes: Vec<_> = kept.iter().map(|name| state.read(name)).collect();
    let keep = two(&state);
    let now = jiff::Timestamp::now();
    assert_eq!(pruner(&state, &ledger, keep).prune(now, &needed(&nobody)), Ok(2));
    ledger.close().unwrap();
    for back in [0..2, 1..2] {
        for at in back {
            state.write(&kept[at], &bytes[at]);
        }
        check_good(&state);
        let mut announced = 0;
        let (ledger, _) = state.open_to(None).unwrap();
        for entry in Reader::open(&state.path("ledger")).unwrap().entries(0) {
            if let Record::Prune(prune) = entry.unwrap().record {
                announced = prune.first;
            }
        }
        assert_eq!(announced, 1000);
        let dir = RealDir::open(&state.path("ledger")).unwrap();
        let none = Keep { age: Some(Duration::from_secs(3600)), size: None };
        let mut pruner =
            Pruner::new(Arc::new(RealStorage), dir, Arc::clone(&ledger), none, announced);
        assert!(
            pruner.prune(now, &needed(&|_| true)).unwrap() > 0,
            "even if somebody needs it now"
        );
        ledger.close().unwrap();
        assert_eq!(segments(&state), [3, 4]);
        check_good(&state);
    }
}

#[test]
fn nothing_leaves_that_is_not_signed() {
    let state = State::new();
    let ledger = four(&state);
    std::fs::remove_dir_all(state.path("ledger/tile")).unwrap();
    // No tile can be written: no checkpoint follows.
    state.write("ledger/tile", "in the way");
    for _ in 0..3 {
        ledger.append(operation("/x", true), Durability::Sync).unwrap();
    }
    let before = ledger.checkpoint().and_then(|note| Checkpoint::unverified(&note)).unwrap().size;
    let all = Keep { age: Some(Duration::ZERO), size: None };
    let gone =
        pruner(&state, &ledger, all).prune(jiff::Timestamp::now(), &needed(&nobody)).unwrap();
    let last = ledger.checkpoint().and_then(|note| Checkpoint::unverified(&note)).unwrap().size;
    assert!(last >= before);
    let firsts = [0, 700, 1000, 1300];
    assert!(firsts[gone] <= last, "{gone} segments left, {last} lines are signed");
    drop(ledger);
}

#[test]
fn a_segment_that_is_young_or_needed_stays() {
    let state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    let (now, hour) = (jiff::Timestamp::now(), Duration::from_secs(3600));
    let keep = Keep { age: Some(hour), size: Some(10_000_000) };
    let mut pruner = pruner(&state, &ledger, keep);
    assert_eq!(pruner.prune(now, &needed(&nobody)), Ok(0));
    let later = now.checked_add(2 * hour).unwrap();
    assert_eq!(pruner.prune(later, &needed(&|txid| txid == FIRST)), Ok(0), "the first is needed");
    assert_eq!(segments(&state), [1, 2, 3, 4, 5], "the last is followed by another, being old");
    wait_signed(&ledger, 1303);
    assert_eq!(pruner.prune(later, &needed(&nobody)), Ok(4));
    assert_eq!(pruner.kept(), None, "it never was larger than it may be");
    ledger.close().unwrap();
    check_good(&state);
}

#[test]
fn what_keeps_a_ledger_too_large_is_told() {
    let state = State::new();
    let ledger = four(&state);
    wait_signed(&ledger, 1302);
    let now = jiff::Timestamp::now();
    let keep = Keep { age: None, size: Some(1) };
    let mut pruner = pruner(&state, &ledger, keep);
    assert_eq!(pruner.kept(), None);
    assert_eq!(pruner.prune(now, &needed(&|txid| txid == FIRST)), Ok(0));
    assert_eq!(pruner.kept(), Some(Kept::Needed(Some(FIRST))));
    assert_eq!(pruner.prune(now, &needed(&nobody)), Ok(3));
    assert_eq!(pruner.kept(), Some(Kept::Newest));
    ledger.close().unwrap();
}

#[test]
fn a_story_that_began_in_what_has_left_is_no_problem() {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    let before = TxId(ulid::Ulid::generate());
    std::thread::sleep(Duration::from_millis(2));
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.rotate().unwrap();
    let done = |txid| crossing(txid, Step::Done);
    ledger.append(done(before), Durability::Sync).unwrap();
    wait_signed(&ledger, 5);
    let all = Keep { age: Some(Duration::ZERO), size: None };
    let now = jiff::Timestamp::now();
    assert_eq!(pruner(&state, &ledger, all).prune(now, &needed(&nobody)), Ok(1));
    wait_signed(&ledger, 6);
    check_good(&state);
    std::thread::sleep(Duration::from_millis(2));
    ledger.append(done(TxId(ulid::Ulid::generate())), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let problems = verified(&state).problems;
    assert!(
        problems.len() == 1 && problems[0].what.contains("DONE without COMMIT"),
        "{problems:?}"
    );
}

#[test]
fn segments_that_leave_while_they_are_verified_are_no_damage() {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    for kind in [Step::Prepare, Step::Commit, Step::Done] {
        ledger.append(crossing(FIRST, kind), Durability::Sync).unwrap();
    }
    ledger.rotate().unwrap();
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.rotate().unwrap();
    wait_signed(&ledger, 7);
    let tiles =
        TreeStore::new(Arc::new(RealStorage), RealDir::open(&state.path("ledger")).unwrap());
    let signer = state.key();
    let mut pruner = pruner(&state, &ledger, Keep { age: None, size: Some(1) });
    let mut begun = 0;
    let report = steadily(|| {
        begun += 1;
        let against = Against {
            key: signer.verifier(),
            checkpoint: Some(state.read("ledger/checkpoint")),
            copies: &state.copies,
            tiles: Some(&tiles),
            witness: None,
        };
        verify(&Source::Folder(state.path("ledger")), &against, &mut |_| {
            assert_eq!(pruner.prune(jiff::Timestamp::now(), &needed(&nobody)), Ok(2));
        })
    });
    let report = report.unwrap();
    assert_eq!((begun, report.problems), (2, Vec::new()));
    ledger.close().unwrap();
}
