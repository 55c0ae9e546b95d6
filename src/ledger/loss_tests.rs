//! Losses that are accepted, and what comes back after them.

use super::checkpoint::Checkpoint;
use super::signed_tests::{State, joined};
use super::*;

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
    lose_all_but(&state, 4);
    for copies in [vec![oldest.clone()], vec![middle.clone()], vec![oldest, middle, newest]] {
        state.copies = copies;
        let (ledger, _) = state.open_to(None).unwrap();
        for copy in &state.copies {
            assert_eq!(ledger.extends(&copy.note), Extends::Yes, "{}", copy.place);
        }
        ledger.close().unwrap();
    }
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
    assert_eq!(ledger.extends(&state.copies[0].note), Extends::Yes);
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
