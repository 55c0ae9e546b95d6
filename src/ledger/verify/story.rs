//! The story of each crossing: which step may follow which.

use std::collections::HashMap;

use crate::ledger::record::{CrossingRecord, Step};
use crate::types::TxId;

/// How far a transaction has come.
enum State {
    Prepared,
    /// With the record that says what is to be done.
    Committed(Box<CrossingRecord>),
    /// With what was decided, where it was; and whether it waits for a branch that left the view, and ends by
    /// itself when that is back.
    Dead(Option<Box<CrossingRecord>>, bool),
    /// A dead letter that is being taken back.
    Withdrawn(Option<Box<CrossingRecord>>),
    /// A dead letter that a person has taken as it is.
    Accepted,
    /// Such a one that still waits for a branch, with what was decided, where it was.
    AcceptedWaiting(Option<Box<CrossingRecord>>),
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
    accepted: u64,
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
            (Step::Done, Some(State::Committed(commit) | State::Dead(Some(commit), true))) => {
                Ok(Some(self.finish(*commit)))
            }
            (Step::Done, _) => wrong("DONE without COMMIT"),
            (
                Step::Reverted,
                Some(State::Committed(_) | State::Withdrawn(_) | State::Dead(_, true)),
            ) => {
                self.reverted = self.reverted.saturating_add(1);
                Ok(None)
            }
            (Step::Reverted, _) => wrong("REVERTED without COMMIT"),
            (Step::Dead, Some(State::Prepared)) => Ok(self.die(record, None)),
            (Step::Dead, Some(State::Committed(commit))) => Ok(self.die(record, Some(commit))),
            (Step::Dead, Some(State::Dead(commit, _) | State::Withdrawn(commit))) => {
                Ok(self.die(record, commit))
            }
            (Step::Dead, _) => wrong("DEAD without COMMIT"),
            (Step::Retry, Some(State::Dead(commit, _))) => {
                self.open.insert(txid, commit.map_or(State::Prepared, State::Committed));
                Ok(None)
            }
            (Step::Withdraw, Some(State::Dead(commit, _))) => {
                self.open.insert(txid, State::Withdrawn(commit));
                Ok(None)
            }
            (Step::Accept, Some(State::Dead(commit, _))) => {
                self.accepted = self.accepted.saturating_add(1);
                let waits = !record.moves.is_empty();
                let next = if waits { State::AcceptedWaiting(commit) } else { State::Accepted };
                self.open.insert(txid, next);
                Ok(None)
            }
            // What it waited for has come: it ends, or goes back as the person had wanted before.
            (Step::Accept, Some(State::AcceptedWaiting(_))) => {
                self.open.insert(txid, State::Accepted);
                Ok(None)
            }
            (Step::Withdraw, Some(State::AcceptedWaiting(commit))) => {
                self.accepted = self.accepted.saturating_sub(1);
                self.open.insert(txid, State::Withdrawn(commit));
                Ok(None)
            }
            (Step::Retry, _) => wrong("RETRY of what is no dead letter"),
            (Step::Withdraw, _) => wrong("WITHDRAW of what is no dead letter"),
            (Step::Accept, _) => wrong("ACCEPT of what is no dead letter"),
        }
    }

    fn die(
        &mut self,
        record: &CrossingRecord,
        commit: Option<Box<CrossingRecord>>,
    ) -> Option<CrossingRecord> {
        self.open.insert(record.txid, State::Dead(commit, !record.moves.is_empty()));
        None
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
        let over = |state: &State| {
            matches!(state, State::Done | State::Accepted | State::AcceptedWaiting(_))
        };
        if self.open.get(&txid).is_some_and(over) {
            self.open.remove(&txid);
        }
    }

    /// How many ended how; dead letters that were settled count as what became of them.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let is_open = |state: &&State| {
            matches!(state, State::Prepared | State::Committed(_) | State::Withdrawn(_))
        };
        let open = self.open.values().filter(is_open).count() as u64;
        let is_dead = |state: &&State| matches!(state, State::Dead(..));
        let dead = self.open.values().filter(is_dead).count() as u64;
        let all = [
            ("done", self.done),
            ("undone", self.undone),
            ("aborted", self.aborted),
            ("reverted", self.reverted),
            ("dead", dead),
            ("accepted", self.accepted),
            ("open", open),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}
