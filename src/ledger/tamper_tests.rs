//! Whatever is changed in a signed ledger is found, by `verify`, which names the place, and by the next
//! mount, which refuses. Each test is a way of changing it.

use super::checkpoint::Checkpoint;
use super::note::{NoteSigner, VerifierKey};
use super::signed_tests::{State, forged, joined};
use super::store::TreeStore;
use super::tests::operation;
use super::verify::{Against, Report, Source, verify};
use super::*;
use crate::storage::real::{RealDir, RealStorage};

pub(super) const SEGMENT: &str = "ledger/00000001.jsonl";

/// A small ledger that was closed, the key that was kept elsewhere, and a branch with a copy.
pub(super) fn small() -> (State, VerifierKey) {
    let mut state = State::new();
    state.run(&["/a", "/b", "/c"]);
    state.copy("inbox");
    let key = state.key().verifier().clone();
    let report = checked(&state, &key);
    assert_eq!(report.problems, [], "nothing is wrong yet");
    assert_eq!((report.lines, report.signed, report.copies.len()), (6, Some(6), 1));
    (state, key)
}

pub(super) fn checked(state: &State, key: &VerifierKey) -> Report {
    let ledger = state.path("ledger");
    let dir = RealDir::open(&ledger).unwrap();
    let tree = TreeStore::new(Arc::new(RealStorage), dir);
    let against = Against {
        key,
        checkpoint: tree.checkpoint().unwrap(),
        copies: &state.copies,
        tiles: Some(&tree),
        witness: None,
    };
    verify(&Source::Folder(ledger), &against, &mut |_| {}).unwrap()
}

/// Both find it; one of the problems is at a place that begins so.
#[track_caller]
pub(super) fn found(state: &State, key: &VerifierKey, place: &str, how: &str) {
    let report = checked(state, key);
    let there = report.problems.iter().any(|problem| problem.place.starts_with(place));
    assert!(there, "{how}: no problem at {place} but {:?}", report.problems);
    let before = state.everything();
    assert!(state.open_to(None).is_err(), "{how}: it is mounted");
    assert_eq!(state.everything(), before, "{how}: a refused mount changes nothing");
}

/// The number of the line that holds a byte.
fn line_of(text: &[u8], at: usize) -> usize {
    text[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[test]
fn any_flipped_byte_of_a_segment_is_found_in_its_line() {
    let (state, key) = small();
    let whole = state.read(SEGMENT);
    for at in 0..whole.len() {
        for flip in [1, 0x20, 0xff] {
            let mut other = whole.clone();
            other[at] ^= flip;
            state.write(SEGMENT, &other);
            let line = line_of(&whole, at);
            let place = match at + 1 == whole.len() {
                true => "00000001.jsonl".to_owned(),
                false => format!("00000001.jsonl line {line}"),
            };
            found(&state, &key, &place, &format!("byte {at} with {flip}"));
        }
    }
}

#[test]
fn any_truncation_of_a_segment_is_found() {
    let (state, key) = small();
    let whole = state.read(SEGMENT);
    for length in 0..whole.len() {
        state.write(SEGMENT, &whole[..length]);
        let report = checked(&state, &key);
        let short = |problem: &super::verify::Problem| {
            problem.place == "checkpoint"
                && problem.what.contains("vouches for 6 lines, and there are")
        };
        assert!(report.problems.iter().any(short), "{length}: {:?}", report.problems);
        found(&state, &key, "the copy in branch inbox", &format!("cut at {length}"));
    }
}

#[test]
fn lines_that_are_deleted_duplicated_swapped_or_inserted_are_found_where_it_begins() {
    let (state, key) = small();
    let lines = state.lines();
    for at in 0..lines.len() {
        let mut deleted = lines.clone();
        deleted.remove(at);
        state.write(SEGMENT, joined(&deleted));
        let place = match at + 1 == lines.len() {
            true => "checkpoint".to_owned(),
            false => format!("00000001.jsonl line {}", at + 1),
        };
        found(&state, &key, &place, &format!("line {at} deleted"));

        let mut doubled = lines.clone();
        doubled.insert(at, lines[at].clone());
        state.write(SEGMENT, joined(&doubled));
        let place = format!("00000001.jsonl line {}", at + 2);
        if at + 1 < lines.len() {
            found(&state, &key, &place, "a line twice");
        } else {
            // After what is signed; a mount cuts it off.
            assert_eq!(checked(&state, &key).problems[0].place, place);
        }

        let mut foreign = lines.clone();
        foreign.insert(at, b"{\"kind\":\"operation\"}".to_vec());
        state.write(SEGMENT, joined(&foreign));
        found(&state, &key, &format!("00000001.jsonl line {}", at + 1), "a foreign line");

        if at > 0 {
            let mut swapped = lines.clone();
            swapped.swap(at, at - 1);
            state.write(SEGMENT, joined(&swapped));
            found(&state, &key, &format!("00000001.jsonl line {at}"), "two lines swapped");
        }
    }
}

/// Lines with positions and checksums as they must be.
fn renumbered(lines: &[Vec<u8>]) -> Vec<u8> {
    let numbered = |(at, line): (usize, &Vec<u8>)| {
        let text = String::from_utf8(line.clone()).unwrap();
        let seq = text.split([':', ',']).nth(1).unwrap();
        forged(line, &format!("{{\"seq\":{seq},"), &format!("{{\"seq\":{at},"))
    };
    joined(&lines.iter().enumerate().map(numbered).collect::<Vec<_>>())
}

#[test]
fn lines_that_are_forged_with_good_checksums_are_found() {
    let (state, key) = small();
    let lines = state.lines();
    for at in 2..lines.len() - 1 {
        let mut edited = lines.clone();
        edited[at] = forged(&lines[at], "\"uid\":1", "\"uid\":2");
        state.write(SEGMENT, joined(&edited));
        found(&state, &key, "checkpoint", "an edited line");
        found(&state, &key, "tile/0/000.p/6", "an edited line");
        let told = checked(&state, &key).problems;
        let named = told.iter().any(|problem| problem.what.contains(&format!("seq {at}")));
        assert!(named, "line {at}: {told:?}");

        let mut deleted = lines.clone();
        deleted.remove(at);
        state.write(SEGMENT, renumbered(&deleted));
        found(&state, &key, "checkpoint", "a deleted line");
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at].clone());
        state.write(SEGMENT, renumbered(&doubled));
        found(&state, &key, "checkpoint", "a line twice");
    }
}

#[test]
fn what_nobody_has_signed_is_told_and_an_operation_that_no_daemon_did_is_found() {
    let (state, key) = small();
    assert_eq!(checked(&state, &key).verdict(), "everything is as it was signed");
    let whole = state.read(SEGMENT);
    let append = |records: &[Record]| {
        let time = jiff::Timestamp::now();
        let line = |(seq, record)| encode::line(seq, time, None, &encode::body(record).unwrap());
        let lines: Vec<Vec<u8>> = (6..).zip(records).map(line).collect();
        state.write(SEGMENT, [whole.clone(), lines.concat()].concat());
        checked(&state, &key)
    };
    let report = append(&[operation("/forged", true)]);
    assert_eq!(report.problems[0].place, "00000001.jsonl line 7");
    assert!(report.problems[0].what.contains("while the view was not mounted"));
    // What a mount leaves that was killed before it signed.
    let mounted = record::MountRecord {
        event: record::MountEvent::Mounted,
        mountpoint: "/mnt".into(),
        uid: 0,
        pid: 1,
    };
    let report = append(&[Record::Mount(mounted), operation("/done", true)]);
    assert_eq!((report.problems.len(), report.signed, report.unsigned), (0, Some(6), 2));
    assert!(report.verdict().contains("the 2 lines after it are not signed yet"));
    assert!(report.notes.iter().any(|note| note.contains("the 2 lines from seq 6 on")));
}

#[test]
fn an_operation_that_no_mount_can_read_is_found() {
    let (state, key) = small();
    let mut lines = state.lines();
    let at =
        lines.iter().position(|line| String::from_utf8_lossy(line).contains("\"/b\"")).unwrap();
    let line = format!("00000001.jsonl line {}", at + 1);
    // What is signed is not what was signed; what says that it was cut is read.
    for (path, place) in [
        ("b", "tile/"),
        ("/b/..", "tile/"),
        ("b\",\"shortened\":true,\"x\":\"", line.as_str()),
        ("\",\"shortened\":true,\"time\":\"yesterday", line.as_str()),
    ] {
        let edited = forged(&lines[at], "\"/b\"", &format!("\"{path}\""));
        let kept = std::mem::replace(&mut lines[at], edited);
        state.write(SEGMENT, joined(&lines));
        found(&state, &key, place, path);
        lines[at] = kept;
    }
}

#[test]
fn any_flipped_byte_of_the_checkpoint_is_found() {
    let (state, key) = small();
    let name = "ledger/checkpoint";
    let whole = state.read(name);
    for at in 0..whole.len() {
        for flip in [1, 0x20, 0xff] {
            let mut other = whole.clone();
            other[at] ^= flip;
            state.write(name, &other);
            found(&state, &key, "checkpoint", &format!("byte {at} with {flip}"));
        }
        state.write(name, &whole[..at]);
        found(&state, &key, "checkpoint", &format!("cut at {at}"));
    }
}

#[test]
fn any_flipped_byte_of_the_key_is_refused() {
    let (state, _) = small();
    let whole = state.read("key");
    for at in 0..whole.len() - 1 {
        for flip in [1, 0x20, 0xff] {
            let mut other = whole.clone();
            other[at] ^= flip;
            state.write("key", &other);
            assert!(state.open_to(None).is_err(), "byte {at} with {flip}");
        }
        state.write("key", &whole[..at]);
        assert!(state.open_to(None).is_err(), "cut at {at}");
    }
}

#[test]
fn any_flipped_byte_of_a_tile_is_found_and_mended() {
    let (state, key) = small();
    let name = "ledger/tile/0/000.p/6";
    let whole = state.read(name);
    for at in (0..whole.len()).step_by(3) {
        let mut other = whole.clone();
        other[at] ^= 1;
        state.write(name, &other);
        let problems = checked(&state, &key).problems;
        assert_eq!(problems[0].place, "tile/0/000.p/6");
        assert!(problems[0].what.contains(&format!("seq {}", at / 32)), "{problems:?}");
        if at == 0 {
            let (ledger, opened) = state.open_to(None).unwrap();
            assert_eq!(opened.damaged_tiles, 1);
            ledger.close().unwrap();
            assert_eq!(state.read(name), whole);
        }
    }
    std::fs::remove_file(state.path(name)).unwrap();
    assert_eq!(checked(&state, &key).problems[0].place, "tile/0/000.p/6");
}

#[test]
fn segments_that_are_replaced_added_or_removed_are_found() {
    let (state, key) = small();
    let whole = state.read(SEGMENT);
    let other = State::new();
    other.run(&["/x", "/y", "/z"]);
    state.write(SEGMENT, other.read(SEGMENT));
    found(&state, &key, "checkpoint", "another ledger's segment");
    std::fs::remove_file(state.path(SEGMENT)).unwrap();
    found(&state, &key, "checkpoint", "no segment");
    state.write("ledger/00000002.jsonl", &whole);
    state.write("ledger/00000001.jsonl", &whole);
    found(&state, &key, "00000002.jsonl line 1", "the segment twice");
    std::fs::remove_file(state.path("ledger/00000002.jsonl")).unwrap();
    state.write("ledger/00000003.jsonl", &whole);
    found(&state, &key, "00000002.jsonl", "a segment left out");
}

#[test]
fn a_whole_other_ledger_is_found_by_the_kept_key_and_by_the_copies() {
    let (state, key) = small();
    let other = State::new();
    other.run(&["/x"]);
    for name in ["key", "ledger/checkpoint", SEGMENT, "ledger/tile/0/000.p/4"] {
        std::fs::write(state.path(name), other.read(name)).unwrap();
    }
    found(&state, &key, "checkpoint", "another ledger");
    let own = state.key().verifier().clone();
    found(&state, &own, "the copy in branch inbox", "another ledger by its own key");
}

#[test]
fn a_state_folder_that_was_rolled_back_is_found_by_the_copies() {
    let (mut state, key) = small();
    let before = state.everything();
    state.run(&["/d"]);
    state.copies.clear();
    state.copy("inbox");
    for (path, bytes) in before {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    found(&state, &key, "the copy in branch inbox", "rolled back");
}

#[test]
fn a_torn_end_that_was_never_signed_is_no_problem() {
    let (state, key) = small();
    let whole = state.read(SEGMENT);
    state.write(SEGMENT, [whole.as_slice(), b"{\"seq\":6,\"time\":\"2026"].concat());
    let report = checked(&state, &key);
    assert_eq!((report.problems, report.notes.len()), (Vec::new(), 1));
    state.write(SEGMENT, [whole.as_slice(), b"\0\0\0\0\n\0\0\n"].concat());
    let report = checked(&state, &key);
    assert_eq!((report.problems, report.notes.len()), (Vec::new(), 1));
    let good = state.lines()[5].clone();
    let next = forged(&good, "\"seq\":5", "\"seq\":7");
    state.write(SEGMENT, [whole.as_slice(), b"\0\0\0\0\n", &next, b"\n"].concat());
    let report = checked(&state, &key);
    assert_eq!(report.problems[0].place, "00000001.jsonl line 7", "a good line follows");
}

#[test]
fn what_is_longer_than_any_line_is_read_in_pieces() {
    let (state, key) = small();
    let whole = state.read(SEGMENT);
    let long = vec![b'x'; 3 * encode::LINE_MAX];
    state.write(SEGMENT, [whole.as_slice(), &long].concat());
    let report = checked(&state, &key);
    assert_eq!((report.problems.len(), report.lines), (0, 6), "it was never signed");
    state.write(SEGMENT, [long.as_slice(), b"\n", &whole].concat());
    found(&state, &key, "00000001.jsonl line 1", "a long line before all others");
}

#[test]
fn an_accepted_loss_is_reported_and_its_copies_are_no_problem() {
    let (state, _) = small();
    let lines = state.lines();
    state.write(SEGMENT, joined(&lines[..3]));
    let (ledger, _) = state.open_to(Some("a test")).unwrap();
    ledger.close().unwrap();
    let report = checked(&state, &state.key().verifier().clone());
    assert_eq!(report.problems, []);
    assert_eq!(report.losses.len(), 1);
    assert_eq!(report.losses[0].why, "a test");
    assert!(report.notes[0].contains("from before an accepted loss"), "{:?}", report.notes);
}

#[test]
fn any_number_of_checkpoints_that_were_carried_away_are_compared_in_any_order() {
    let mut state = State::new();
    for at in 0..4 {
        state.run(&[&format!("/{at}")]);
        state.copy("away");
    }
    let all = std::mem::take(&mut state.copies);
    let signer = state.key();
    let dir = RealDir::open(&state.path("ledger")).unwrap();
    let tree = TreeStore::new(Arc::new(RealStorage), dir);
    let held = |carried: &[CheckpointCopy]| {
        let again = || -> Box<dyn Iterator<Item = CheckpointCopy> + '_> {
            Box::new(carried.iter().cloned())
        };
        let against = Against {
            key: signer.verifier(),
            checkpoint: tree.checkpoint().unwrap(),
            copies: &[],
            tiles: Some(&tree),
            witness: Some(&again),
        };
        let report = verify(&Source::Folder(state.path("ledger")), &against, &mut |_| {}).unwrap();
        let problems = report.problems.iter().map(|problem| problem.what.clone());
        (report.witnessed, problems.collect::<Vec<_>>())
    };
    let backwards: Vec<CheckpointCopy> = all.iter().rev().cloned().collect();
    assert_eq!(held(&all), (4, Vec::new()));
    assert_eq!(held(&backwards), (4, Vec::new()));
    assert_eq!(held(&[all.clone(), all.clone(), backwards].concat()), (12, Vec::new()));
    let first = Checkpoint::open(&all[0].note, signer.verifier()).unwrap();
    let signed = |checkpoint: Checkpoint, key: &NoteSigner| {
        let note = checkpoint.sign(key).into_bytes();
        CheckpointCopy { note, ..all[0].clone() }
    };
    let forged = signed(Checkpoint { root: [7; 32], ..first.clone() }, &signer);
    let longer = signed(Checkpoint { size: 1000, ..first.clone() }, &signer);
    let foreign = signed(first, &NoteSigner::new("octroi/lab/00000000", &[1; 32]).unwrap());
    for (wrong, words) in [
        (forged, "it vouches for other lines than the first"),
        (longer, "it vouches for 1000 lines, and there are"),
        (foreign, "of another ledger or key"),
    ] {
        let (agree, found) = held(&[vec![wrong.clone()], all.clone()].concat());
        assert!(agree == 4 && found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        let (agree, found) = held(&[all.clone(), vec![wrong]].concat());
        assert!(agree == 4 && found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }
}
