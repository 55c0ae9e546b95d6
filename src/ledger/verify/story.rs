//! The story of each crossing: which step may follow which.

use std::collections::HashMap;

use crate::ledger::record::{CrossingRecord, Step};
use crate::types::TxId;

/// How far a transaction has come.
enum State {
    Prepared,
    /// With the record that says what is to be done.
    Committed(Box<CrossingRecord>),
    Dead,
    /// Done and still to be taken back.
    Done,
}

/// Transactions that have not ended, or can be taken back; what is purged or undone is forgotten, so
/// that memory is bounded by what hold keeps.
#[derive(Default)]
pub struct Story {
    open: HashMap<TxId, State>,
    done: u64,
    undone: u64,
    aborted: u64,
    reverted: u64,
    dead: u64,
}

impl Story {
    /// Takes in a step; the record of COMMIT when it is done. An error says what cannot be.
    pub fn step(&mut self, record: &CrossingRecord) -> Result<Option<CrossingRecord>, String> {
        let txid = record.txid;
        let before = self.open.remove(&txid);
        let wrong = |what: &str| Err(format!("crossing {txid}: {what}"));
        match (record.step, before) {
            (Step::Prepare, None) => {
                self.open.insert(txid, State::Prepared);
                Ok(None)
            }
            (Step::Prepare, Some(_)) => wrong("PREPARE a second time"),
            (Step::Commit, Some(State::Prepared)) => self.commit(record),
            // A rename within a pool is decided without preparation.
            (Step::Commit, None) if record.rearrangement => self.commit(record),
            (Step::Commit, None) => wrong("COMMIT without PREPARE"),
            (Step::Commit, Some(_)) => wrong("COMMIT a second time"),
            (Step::Abort, Some(State::Prepared)) => {
                self.aborted = self.aborted.saturating_add(1);
                Ok(None)
            }
            // The commit record could not be made durable for sure, so it was taken back.
            (Step::Abort, Some(State::Committed(_))) => {
                self.aborted = self.aborted.saturating_add(1);
                Ok(None)
            }
            (Step::Abort, None) if record.rearrangement => {
                self.aborted = self.aborted.saturating_add(1);
                Ok(None)
            }
            (Step::Abort, _) => wrong("ABORT of what was not prepared, or is over"),
            (Step::Done, Some(State::Committed(commit))) => Ok(Some(self.finish(*commit))),
            (Step::Done, _) => wrong("DONE without COMMIT"),
            (Step::Reverted, Some(State::Committed(_))) => {
                self.reverted = self.reverted.saturating_add(1);
                Ok(None)
            }
            (Step::Reverted, _) => wrong("REVERTED without COMMIT"),
            (Step::Dead, Some(State::Prepared | State::Committed(_) | State::Dead)) => {
                self.dead = self.dead.saturating_add(1);
                self.open.insert(txid, State::Dead);
                Ok(None)
            }
            (Step::Dead, _) => wrong("DEAD without COMMIT"),
        }
    }

    fn commit(&mut self, record: &CrossingRecord) -> Result<Option<CrossingRecord>, String> {
        let txid = record.txid;
        let is_done = |undone: &TxId| matches!(self.open.get(undone), Some(State::Done));
        let wrong = record.undoes.filter(|undone| !is_done(undone));
        self.open.insert(txid, State::Committed(Box::new(record.clone())));
        match wrong {
            Some(undone) => {
                Err(format!("crossing {txid}: it takes back {undone}, which is not done"))
            }
            None => Ok(None),
        }
    }

    fn finish(&mut self, commit: CrossingRecord) -> CrossingRecord {
        self.done = self.done.saturating_add(1);
        if let Some(undone) = commit.undoes {
            self.undone = self.undone.saturating_add(1);
            self.open.remove(&undone);
        }
        // An undo has nothing in hold that could be taken back a second time, unless it replaced
        // something.
        if !commit.keeps_nothing() {
            self.open.insert(commit.txid, State::Done);
        }
        commit
    }

    /// It can no longer be taken back.
    pub fn purged(&mut self, txid: TxId) {
        if matches!(self.open.get(&txid), Some(State::Done)) {
            self.open.remove(&txid);
        }
    }

    /// How many ended how.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let is_open = |state: &&State| matches!(state, State::Prepared | State::Committed(_));
        let open = self.open.values().filter(is_open).count() as u64;
        let all = [
            ("done", self.done),
            ("undone", self.undone),
            ("aborted", self.aborted),
            ("reverted", self.reverted),
            ("dead", self.dead),
            ("open", open),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}
