//! Losses that are accepted, and what comes back after them.

use super::checkpoint::Checkpoint;
use super::signed_tests::{State, forged, joined, unmounted};
use super::store::TreeStore;
use super::tests::operation;
use super::verify::{Against, Report, Source, verify};
use super::*;
use crate::storage::real::{RealDir, RealStorage};

/// The checkpoint as the copy of a branch that is not at hand now.
fn kept(state: &mut State, branch: &str) -> CheckpointCopy {
    state.copy(branch);
    state.copies.pop().unwrap()
}

/// Cut back to so many lines; the loss is accepted with what copies are at hand, and the ledger goes on.
fn lose_all_but(state: &State, lines: usize) {
    state.write("ledger/00000001.jsonl", joined(&state.lines()[..lines]));
    let (ledger, _) = state.open_to(Some("restored from Monday")).unwrap();
    ledger.close().unwrap();
    state.run(&["/on"]);
}

#[test]
fn branches_that_were_away_when_a_loss_was_accepted_come_back() {
    let mut state = State::new();
    state.run(&["/a"]);
    let oldest = kept(&mut state, "oldest");
    state.run(&["/b"]);
    let middle = kept(&mut state, "middle");
    state.run(&["/c"]);
    let newest = kept(&mut state, "newest");
    state.copies = vec![newest.clone()];
    lose_all_but(&state, 5);
    for copies in [vec![oldest.clone()], vec![middle.clone()], vec![oldest, middle, newest]] {
        state.copies = copies;
        let (ledger, _) = state.open_to(None).unwrap();
        for copy in &state.copies {
            assert_eq!(ledger.extends(&copy.note), Extends::Lost, "{}", copy.place);
        }
        ledger.close().unwrap();
    }
}

#[test]
fn only_a_run_that_is_known_to_have_been_cut_off_leaves_a_gap() {
    let gaps = |state: &State| {
        let is_gap = |line: &&Vec<u8>| line.windows(12).any(|part| part == b"\"kind\":\"gap\"");
        state.lines().iter().filter(is_gap).count()
    };
    // Its end, which is lost, had said that it stopped cleanly.
    let state = State::new();
    state.run(&["/a", "/b"]);
    lose_all_but(&state, 4);
    assert_eq!(gaps(&state), 0);
    let mut bad = state.lines();
    bad[4][20] ^= 1;
    state.write("ledger/00000001.jsonl", joined(&bad));
    state.open_to(Some("a bad sector")).unwrap().0.close().unwrap();
    assert_eq!(gaps(&state), 0);
    // Nothing of it is lost but the key.
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.append(operation("/c", false), Durability::Sync).unwrap();
    ledger.close().unwrap();
    std::fs::remove_file(state.path("key")).unwrap();
    state.open_to(Some("the key is gone")).unwrap().0.close().unwrap();
    assert_eq!(gaps(&state), 1);
}

#[test]
fn what_a_loss_did_not_know_of_is_refused() {
    let mut state = State::new();
    state.run(&["/a"]);
    let before = state.read("ledger/checkpoint");
    let lines = state.lines();
    let old = state.key();
    state.run(&["/b"]);
    let newer = kept(&mut state, "newer");
    // An older state folder, of which all that is at hand knows as much.
    state.write("ledger/checkpoint", before);
    state.write("ledger/00000001.jsonl", joined(&lines));
    lose_all_but(&state, 2);
    // Newer than what was accepted as lost.
    state.copies = vec![newer];
    state.refused(&["the copy in branch newer"]);
    // No older, and signed by a key that was not given up.
    let other = note::NoteSigner::new(old.verifier().name(), &[9; 32]).unwrap();
    let claimed = Checkpoint::unverified(&state.copies[0].note).unwrap();
    state.copies[0].note = Checkpoint { size: 1, ..claimed }.sign(&other).into_bytes();
    state.refused(&["the copy in branch newer"]);
}

#[test]
fn a_damaged_copy_is_accepted_once() {
    let mut state = State::new();
    state.run(&["/a"]);
    state.copy("inbox");
    state.copies[0].note = vec![0xff; 5000];
    state.refused(&["branch inbox"]);
    let (ledger, opened) = state.open_to(Some("the disk failed")).unwrap();
    assert_eq!(opened.lost.len(), 1);
    ledger.close().unwrap();
    let (ledger, _) = state.open_to(None).unwrap();
    assert_eq!(ledger.extends(&state.copies[0].note), Extends::Lost);
    ledger.close().unwrap();
    assert!(matches!(state.open_to(Some("again")).map(drop), Err(LedgerError::NothingLost)));
}

#[test]
fn a_key_and_checkpoint_that_are_both_gone_are_missed() {
    let state = State::new();
    state.run(&["/a"]);
    std::fs::remove_file(state.path("key")).unwrap();
    std::fs::remove_file(state.path("ledger/checkpoint")).unwrap();
    state.refused(&["key and the ledger's own checkpoint are missing, and tiles are there"]);
    let (ledger, _) = state.open_to(Some("removed by mistake")).unwrap();
    ledger.close().unwrap();
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.close().unwrap();
}

/// Three segments of three lines, closed.
fn three() -> State {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.append(operation("/b", true), Durability::Sync).unwrap();
    ledger.rotate().unwrap();
    ledger.append(operation("/c", true), Durability::Sync).unwrap();
    ledger.append(operation("/d", true), Durability::Sync).unwrap();
    ledger.rotate().unwrap();
    ledger.append(operation("/e", true), Durability::Sync).unwrap();
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    state
}

fn verified(state: &State) -> Report {
    let ledger = state.path("ledger");
    let tiles = TreeStore::new(Arc::new(RealStorage), RealDir::open(&ledger).unwrap());
    let key = state.key().verifier().clone();
    let against = Against {
        key: &key,
        checkpoint: tiles.checkpoint().unwrap(),
        copies: &state.copies,
        tiles: Some(&tiles),
        witness: None,
    };
    verify(&Source::Folder(ledger), &against, &mut |_| {}).unwrap()
}

fn segment(number: u64) -> String {
    format!("ledger/{number:08}.jsonl")
}

/// Changes a byte in the middle of a line, counted from 1.
fn spoil(state: &State, number: u64, line: usize) {
    let mut lines = lines_of(state, number);
    let middle = lines[line - 1].len() / 2;
    lines[line - 1][middle] ^= 1;
    state.write(&segment(number), joined(&lines));
}

fn lines_of(state: &State, number: u64) -> Vec<Vec<u8>> {
    let text = state.read(&segment(number));
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(<[u8]>::to_vec).collect()
}

fn remove(state: &State, name: &str) {
    std::fs::remove_file(state.path(name)).unwrap();
}

/// A segment that says that all from a position on is void.
fn plant_void(state: &State, seq: u64) {
    let version = decode::decode(&lines_of(state, 1)[0]).unwrap().entry.record;
    let Record::Version(version) = version else { unreachable!() };
    let version = Record::Version(record::VersionRecord { after_failed_sync: true, ..version });
    let time = jiff::Timestamp::UNIX_EPOCH;
    let line = encode::line(seq, time, Some(seq), &encode::body(&version).unwrap());
    state.write(&segment(4), line);
}

/// Refused with these words; accepted, everything goes on, and whatever bytes are no longer in the ledger
/// are kept. Gives the names of what was put aside.
#[track_caller]
fn accepted(what: &str, words: &str, damage: fn(&State)) -> Vec<String> {
    let mut state = three();
    state.copy("inbox");
    damage(&state);
    let before = state.everything();
    let text = match state.open_to(None).map(drop) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("{what}: it is mounted"),
    };
    assert!(text.contains(words) && text.contains("accept-loss"), "{what}: {text}");
    assert_eq!(state.everything(), before, "{what}: nothing was changed");
    let (ledger, opened) =
        state.open_to(Some("a test")).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(!opened.lost.is_empty(), "{what}");
    ledger.close().unwrap();
    state.run(&["/on"]);
    let report = verified(&state);
    assert_eq!(report.problems, [], "{what}");
    let [.., key] = report.keys.as_slice() else { panic!("{what}: no key") };
    assert_eq!(key.key, state.key().verifier().to_string(), "{what}");
    assert_eq!(key.signed, !text.contains("key is"), "{what}: the key before signs for the next");
    let [loss] = report.losses.as_slice() else { panic!("{what}: {:?}", report.losses) };
    assert!(matches!(state.open_to(Some("again")).map(drop), Err(LedgerError::NothingLost)));
    let kept = check_sums(&state, what);
    assert_eq!(loss.kept.is_some(), !kept.is_empty(), "{what}: {loss:?}");
    for (path, bytes) in before {
        let Ok(inside) = path.strip_prefix(state.path("ledger")) else { continue };
        if inside.extension().is_none_or(|end| end != "jsonl") {
            continue;
        }
        let stays = std::fs::read(&path).is_ok_and(|now| now.starts_with(&bytes));
        let aside = state.path("evidence/0001").join(inside);
        let is_kept = std::fs::read(aside).is_ok_and(|kept| kept == bytes);
        assert!(stays || is_kept, "{what}: {} is gone", inside.display());
    }
    kept
}

/// The names in the first folder of evidence, each with its hash as the sums have it.
#[track_caller]
fn check_sums(state: &State, what: &str) -> Vec<String> {
    let folder = state.path("evidence/0001");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "SHA256SUMS").collect();
    names.sort();
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    for name in &names {
        let path = folder.join(name);
        if path.symlink_metadata().unwrap().is_file() {
            let hash = accounted::hash_of(&std::fs::read(path).unwrap());
            assert!(sums.contains(&format!("{hash}  {name}\n")), "{what}: {name} in {sums}");
        }
    }
    names
}

#[test]
fn every_damage_of_lines_and_segments_can_be_accepted() {
    let kept = accepted("a byte of a line", "00000002.jsonl is damaged at line 2", |state| {
        spoil(state, 2, 2);
    });
    assert_eq!(kept, ["00000002.jsonl", "00000003.jsonl"]);
    accepted("a segment's first line", "00000002.jsonl is damaged at line 1", |state| {
        spoil(state, 2, 1);
    });
    let kept = accepted("the very first line", "00000001.jsonl is damaged at line 1", |state| {
        spoil(state, 1, 1);
    });
    assert_eq!(kept.len(), 3);
    let kept = accepted("the last batch", "00000003.jsonl is damaged at line 2", |state| {
        spoil(state, 3, 2);
    });
    assert_eq!(kept, ["00000003.jsonl"]);
    accepted("the last segment's first line", "00000003.jsonl is damaged at line 1", |state| {
        spoil(state, 3, 1);
    });
    let kept = accepted("no segment in the middle", "00000002.jsonl", |state| {
        remove(state, &segment(2));
    });
    assert_eq!(kept, ["00000003.jsonl"]);
    let kept = accepted("no first segment", "the lines before seq 4 are missing", |state| {
        remove(state, &segment(1));
    });
    assert_eq!(kept, [""; 0], "what is there stays");
    accepted("no last segment", "and the ledger has 7", |state| remove(state, &segment(3)));
    accepted("no segment at all", "and the ledger has 0", |state| {
        (1..=3).for_each(|number| remove(state, &segment(number)));
    });
    let kept = accepted("a segment is cut", "the segment ends before seq 7", |state| {
        state.write(&segment(2), joined(&lines_of(state, 2)[..2]));
    });
    assert_eq!(kept, ["00000003.jsonl"]);
    accepted("the last segment is cut", "and the ledger has 9", |state| {
        state.write(&segment(3), joined(&lines_of(state, 3)[..2]));
    });
    accepted("half a line at the end", "00000003.jsonl is damaged at line 3", |state| {
        let text = state.read(&segment(3));
        state.write(&segment(3), &text[..text.len() - 9]);
    });
    let kept = accepted("an edited line", "seq 5 in segment 00000002.jsonl", |state| {
        let mut lines = lines_of(state, 2);
        lines[1] = forged(&lines[1], "\"uid\":1", "\"uid\":2");
        state.write(&segment(2), joined(&lines));
    });
    assert_eq!(kept, ["00000002.jsonl", "00000003.jsonl"], "a forged line would be signed");
    accepted("only zeros", "00000002.jsonl is damaged at line 1", |state| {
        let length = state.read(&segment(2)).len();
        state.write(&segment(2), vec![0; length]);
    });
    accepted("an empty segment", "00000002.jsonl is damaged at line 1", |state| {
        state.write(&segment(2), []);
    });
    accepted("a segment twice", "00000003.jsonl", |state| {
        state.write(&segment(4), state.read(&segment(3)));
    });
    accepted("signed lines are said to be void", "and the ledger has 9", |state| {
        plant_void(state, 8)
    });
    let kept = accepted("a whole segment is said to be void", "is before it", |state| {
        plant_void(state, 6);
    });
    assert_eq!(kept, ["00000004.jsonl"], "what says so is not believed");
    accepted("a segment is a folder", "00000002.jsonl", |state| {
        remove(state, &segment(2));
        std::fs::create_dir(state.path(&segment(2))).unwrap();
    });
    accepted("a segment is a link", "00000002.jsonl", |state| {
        std::fs::rename(state.path(&segment(2)), state.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(state.path("elsewhere"), state.path(&segment(2))).unwrap();
    });
}

#[test]
fn a_last_segment_that_cannot_be_opened_can_be_accepted() {
    accepted("it is a folder", "00000003.jsonl", |state| {
        remove(state, &segment(3));
        std::fs::create_dir(state.path(&segment(3))).unwrap();
    });
    accepted("it is a link", "00000003.jsonl", |state| {
        std::fs::rename(state.path(&segment(3)), state.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(state.path("elsewhere"), state.path(&segment(3))).unwrap();
    });
}

#[test]
fn every_damage_of_key_checkpoint_and_hashes_can_be_accepted() {
    let kept = accepted("no key", "key is missing", |state| remove(state, "key"));
    assert_eq!(kept, ["checkpoint"]);
    let kept = accepted("a damaged key", "key is damaged", |state| state.write("key", b"x"));
    assert_eq!(kept, ["checkpoint", "key"]);
    let kept = accepted("a key that is a folder", "key is damaged", |state| {
        remove(state, "key");
        std::fs::create_dir(state.path("key")).unwrap();
    });
    assert_eq!(kept, ["checkpoint", "key"]);
    accepted("no checkpoint", "checkpoint is missing", |state| {
        remove(state, "ledger/checkpoint");
    });
    let kept = accepted("a damaged checkpoint", "not to be believed", |state| {
        state.write("ledger/checkpoint", b"x");
    });
    assert_eq!(kept, ["checkpoint"]);
    let kept = accepted("a checkpoint without end", "not to be believed", |state| {
        state.write("ledger/checkpoint", vec![b'x'; 1 << 20]);
    });
    assert_eq!(kept, ["checkpoint"]);
    let kept = accepted("no hashes of what has left", "cannot read the hashes", |state| {
        remove(state, &segment(1));
        std::fs::remove_dir_all(state.path("ledger/tile")).unwrap();
    });
    assert_eq!(kept, ["00000002.jsonl", "00000003.jsonl"]);
}

#[test]
fn a_second_loss_keeps_what_the_first_has_kept() {
    let state = three();
    for round in 1..=2 {
        spoil(&state, 1, 2);
        let (ledger, opened) = state.open_to(Some("a test")).unwrap();
        let folder = format!("evidence/{round:04}");
        assert_eq!(opened.kept.as_deref(), Some(folder.as_str()));
        ledger.close().unwrap();
        let kept = std::fs::read_dir(state.path(&folder)).unwrap().count();
        assert_eq!(kept, if round == 1 { 4 } else { 2 });
        state.run(&["/on", "/and on"]);
    }
    assert_eq!(verified(&state).losses.len(), 1, "the record of the first is in the evidence");
    let segments = std::fs::read_dir(state.path("evidence/0002")).unwrap();
    let aside = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path();
    let text: Vec<u8> = segments.map(aside).flat_map(|path| std::fs::read(path).unwrap()).collect();
    assert!(String::from_utf8_lossy(&text).contains("\"kind\":\"loss\""));
}

#[test]
fn lines_whose_key_is_gone_or_another_are_refused() {
    let state = State::new();
    state.run(&["/a"]);
    for name in ["key", "ledger/checkpoint"] {
        remove(&state, name);
    }
    std::fs::remove_dir_all(state.path("ledger/tile")).unwrap();
    state.refused(&["its lines name the key octroi/lab/", "and key is not there"]);
    let other = note::NoteSigner::new("octroi/lab/00000000", &[1; 32]).unwrap();
    state.write("key.new", other.to_secret_text());
    state.refused(&["its lines name the key octroi/lab/", "and key is another"]);
    let (ledger, _) = state.open_to(Some("a test")).unwrap();
    ledger.close().unwrap();
    state.run(&["/b"]);
    let report = verified(&state);
    assert_eq!((report.problems, report.keys.len()), (Vec::new(), 2));
}

#[test]
fn a_ledger_from_before_keys_were_recorded_learns_its_key() {
    let state = State::new();
    let dir = RealDir::open(&state.path("ledger")).unwrap();
    let (ledger, _) = Ledger::open(Arc::new(RealStorage), dir, "lab", &mut |_| {}).unwrap();
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let key = note::NoteSigner::new("octroi/lab/0000000a", &[7; 32]).unwrap();
    let (tree, _) = super::signed_tests::tree(&state.lines());
    let origin = key.verifier().name().to_owned();
    let note = Checkpoint { origin, size: tree.size(), root: tree.root() }.sign(&key);
    state.write("key", key.to_secret_text());
    state.write("ledger/checkpoint", note);
    state.run(&["/a"]);
    state.run(&["/b"]);
    let keys = verified(&state).keys;
    assert_eq!(keys.len(), 1, "once: {keys:?}");
    assert_eq!(keys[0].key, key.verifier().to_string());
    for name in ["key", "ledger/checkpoint"] {
        remove(&state, name);
    }
    std::fs::remove_dir_all(state.path("ledger/tile")).unwrap();
    state.refused(&["its lines name the key octroi/lab/0000000a"]);
}

#[test]
fn a_key_that_begins_without_the_one_before_is_told() {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    let other = note::NoteSigner::new("octroi/lab/00000000", &[1; 32]).unwrap();
    let record = keys::record_of(other.verifier(), Some(&other));
    ledger.append(Record::Key(record), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let problems = verified(&state).problems;
    assert!(problems[0].what.contains("which none before it has signed"), "{problems:?}");
    assert_eq!(problems[1].place, "key");
    state.refused(&["and key is another"]);
}

#[test]
fn an_acceptance_that_is_not_recorded_keeps_the_ledger_from_being_opened() {
    let state = three();
    std::fs::create_dir_all(state.path("evidence/0001.new")).unwrap();
    state.write("evidence/0001.new/00000004.jsonl", b"what was there");
    state.refused(&["a loss was being accepted and is not recorded, evidence/0001.new"]);
    let (ledger, opened) = state.open_to(Some("a test")).unwrap();
    assert_eq!(opened.kept.as_deref(), Some("evidence/0001"));
    ledger.close().unwrap();
    assert_eq!(check_sums(&state, "again"), ["00000004.jsonl"]);
    state.run(&["/on"]);
    assert_eq!(verified(&state).losses.len(), 1);
}

#[test]
fn a_segment_may_begin_between_a_loss_and_its_key() {
    let key = || keys::new_signer_for("lab").unwrap().verifier().to_string();
    let found = |between: &dyn Fn(&Ledger<RealStorage>)| {
        let folder = tempfile::tempdir().unwrap();
        let dir = RealDir::open(folder.path()).unwrap();
        let (ledger, _) = Ledger::open(Arc::new(RealStorage), dir, "lab", &mut |_| {}).unwrap();
        let loss = record::LossRecord {
            why: "restored".into(),
            uid: 7,
            found: vec!["the key is gone".into()],
            checkpoints: Vec::new(),
            first: 0,
            hashes: Vec::new(),
            key: Some(key()),
            kept: None,
        };
        ledger.append(Record::Loss(Box::new(loss)), Durability::Sync).unwrap();
        between(&ledger);
        let key = record::KeyRecord { key: key(), note: None };
        ledger.append(Record::Key(key), Durability::Sync).unwrap();
        ledger.close().unwrap();
        let signer = keys::new_signer_for("lab").unwrap();
        let against = Against::<RealStorage> {
            key: signer.verifier(),
            checkpoint: None,
            copies: &[],
            tiles: None,
            witness: None,
        };
        let report =
            verify(&Source::Folder(folder.path().to_path_buf()), &against, &mut |_| {}).unwrap();
        report.problems.iter().any(|problem| problem.what.contains("none before it has signed"))
    };
    assert!(!found(&|_| ()));
    assert!(!found(&|ledger| (0..2).for_each(|_| ledger.rotate().unwrap())));
    assert!(found(&|ledger| ledger.append(operation("/a", true), Durability::Sync).unwrap()));
}
