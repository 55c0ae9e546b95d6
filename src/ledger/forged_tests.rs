//! What somebody without the key adds to a signed ledger, and what a failed sync leaves, which may look the same.

use super::note::VerifierKey;
use super::signed_tests::State;
use super::store::TreeStore;
use super::tamper_tests::{SEGMENT, checked, found, small};
use super::tests::operation;
use super::verify::{Against, Source, verify};
use super::*;
use crate::storage::real::{RealDir, RealStorage};

/// A ledger with a segment begun after a failed sync, at seq 6, by a daemon that was followed by another, or
/// whose mount that was.
fn failed_sync(is_mounted: bool) -> (State, VerifierKey) {
    let (mut state, key) = small();
    state.copies.clear();
    let version = decode::decode(&state.lines()[0]).unwrap().entry.record;
    let Record::Version(version) = version else { unreachable!() };
    let version = Record::Version(record::VersionRecord { after_failed_sync: true, ..version });
    state.write("ledger/00000002.jsonl", line(6, &version));
    let (ledger, _) = state.open_to(None).unwrap();
    // Where the sync of what a mount itself records failed, nothing was done before it says so.
    let mut since = [mounted(), operation("/d", true)];
    if is_mounted {
        since.reverse();
    }
    for record in since {
        ledger.append(record, Durability::Sync).unwrap();
    }
    ledger.close().unwrap();
    assert_eq!(checked(&state, &key).verdict(), "everything is as it was signed");
    (state, key)
}

fn line(seq: u64, record: &Record) -> Vec<u8> {
    encode::line(seq, jiff::Timestamp::now(), None, &encode::body(record).unwrap())
}

fn mounted() -> Record {
    let event = record::MountEvent::Mounted;
    Record::Mount(record::MountRecord { event, mountpoint: "/mnt".into(), uid: 0, pid: 1 })
}

#[test]
fn lines_behind_a_failed_sync_are_told_and_shown_by_nobody() {
    for is_mounted in [false, true] {
        let (state, key) = failed_sync(is_mounted);
        let forged = [line(6, &operation("/forged", true)), line(7, &operation("/too", true))];
        // The second looks as if it were before the others; it follows one that is void.
        let before = line(2, &operation("/before", true));
        let whole = [state.read(SEGMENT), forged.concat(), before].concat();
        state.write(SEGMENT, whole);
        let report = checked(&state, &key);
        let what = "3 lines that count for nothing from seq 6 on";
        if is_mounted {
            let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
            assert_eq!(problem.place, "00000001.jsonl");
            assert!(problem.what.contains(what), "{problem:?}");
        } else {
            assert_eq!((report.problems.len(), report.void), (0, 3));
            assert!(report.notes.iter().any(|note| note.contains(what)), "{report:?}");
            assert!(
                report.verdict().ends_with("; 3 lines are in the files that count for nothing")
            );
        }
        let reader = Reader::open(&state.path("ledger")).unwrap();
        let paths = reader.entries(0).filter_map(|entry| match entry.unwrap().record {
            Record::Operation(operation) => Some(operation.path.to_string()),
            _ => None,
        });
        assert_eq!(paths.collect::<Vec<_>>(), ["/a", "/b", "/c", "/d"]);
    }
}

/// What a reader of `.audit/log.jsonl` finds there.
#[test]
fn what_was_cut_off_after_a_failed_sync_is_no_problem_to_who_reads_all_segments_as_one_file() {
    let (state, key) = failed_sync(true);
    let empty = vec![b'\n'; 300];
    let all = [state.read(SEGMENT), empty, state.read("ledger/00000002.jsonl")].concat();
    state.write("ledger/log.jsonl", all);
    let tree = TreeStore::new(Arc::new(RealStorage), RealDir::open(&state.path("ledger")).unwrap());
    let against = Against {
        key: &key,
        checkpoint: tree.checkpoint().unwrap(),
        copies: &[],
        tiles: Some(&tree),
        witness: None,
    };
    let log = Source::File(state.path("ledger/log.jsonl"));
    let report = verify(&log, &against, &mut |_| {}).unwrap();
    assert_eq!((report.problems.as_slice(), report.signed), ([].as_slice(), Some(report.lines)));
    assert_eq!(report.verdict(), "everything is as it was signed");
}

#[test]
fn a_loss_that_nobody_has_signed_is_found() {
    let (state, key) = small();
    let loss = Record::Loss(Box::new(record::LossRecord {
        why: "forged".into(),
        uid: 0,
        found: Vec::new(),
        checkpoints: Vec::new(),
        first: 0,
        hashes: Vec::new(),
        key: None,
        kept: None,
    }));
    state.write(SEGMENT, [state.read(SEGMENT), line(6, &loss)].concat());
    found(&state, &key, "00000001.jsonl line 7", "a forged loss");
    state.refused(&[
        "nobody has signed the record at seq 6",
        "accept-loss was cut off and is to be run again",
    ]);
    // Taken by a person, it is told what was not signed yet when lines follow.
    state.open_to(Some("a test")).unwrap().0.close().unwrap();
    let key = state.key().verifier().clone();
    let report = checked(&state, &key);
    assert_eq!((report.problems.as_slice(), report.losses.len()), ([].as_slice(), 2));
    let next = report.signed.unwrap();
    state.write(SEGMENT, [state.read(SEGMENT), line(next, &mounted())].concat());
    let verdict = checked(&state, &key).verdict();
    assert!(verdict.contains("nothing proves what was before it"), "{verdict}");
    assert!(verdict.ends_with("; the 1 line after it is not signed yet"), "{verdict}");
}
