//! Ends that a full ledger has not taken. How a transaction ended is known for certain only here: so it is
//! remembered, its names stay locked, and it is recorded as soon as the ledger takes records again. A daemon that
//! is killed before finds the transaction open, and looks where everything is as after any crash.

use std::collections::HashSet;
use std::ffi::OsString;

use super::journal::TransactionState;
use super::moves::Place;
use super::remove::remove;
use super::sabotage::sabotaged;
use super::{CrossingError, Mover, MoverBranch};
use crate::error::Errno;
use crate::ledger::Durability;
use crate::ledger::record::{CrossingRecord, Step};
use crate::storage::Storage;
use crate::types::TxId;

impl<S: Storage> Mover<S> {
    /// Notes what became of the record of a step.
    pub(super) fn note_recorded(
        &self,
        record: &CrossingRecord,
        outcome: &Result<(), CrossingError>,
    ) {
        let ends = match record.step {
            Step::Abort | Step::Done | Step::Reverted | Step::Dead => true,
            Step::Prepare | Step::Commit | Step::Retry | Step::Withdraw | Step::Accept => false,
        };
        let mut unrecorded = self.unrecorded.lock();
        match outcome {
            // One that the ledger takes no records after heals by another mount only.
            Err(CrossingError::Ledger { errno: Errno::NOSPC })
                if ends && !sabotaged("unrecorded: what a full ledger refuses is remembered") =>
            {
                unrecorded.insert(record.txid, record.clone());
            }
            Ok(()) => {
                unrecorded.remove(&record.txid);
            }
            Err(_) => {}
        }
    }

    /// The end of a transaction that is known and not recorded.
    pub(super) fn unrecorded_end(&self, txid: TxId) -> Option<CrossingRecord> {
        self.unrecorded.lock().get(&txid).cloned()
    }

    /// To be called about once a second: records the ends that a full ledger has refused, and stops at the first
    /// that it refuses again. Waits for the ledger's disk only: where a recovery is under way, which may hang, dead
    /// letters wait for another call.
    pub fn record_ends(&self) {
        if self.unrecorded.lock().is_empty() {
            return;
        }
        if let Some(_recording) = self.recording.try_lock() {
            self.record_refused();
        }
    }

    /// As [`Mover::record_ends`], where no other call will come: waits for one that is under way.
    pub fn record_last_ends(&self) {
        let _recording = self.recording.lock();
        self.record_refused();
    }

    /// The caller has `recording`.
    fn record_refused(&self) {
        let ends: Vec<CrossingRecord> = self.unrecorded.lock().values().cloned().collect();
        // Nobody is at one that is open and has an end: whoever comes to it looks for that first.
        let is_letter = |end: &CrossingRecord| {
            self.with_journal(|journal| {
                let found = journal.get(end.txid);
                found.is_some_and(|found| found.state == TransactionState::Dead)
            })
        };
        let (letters, open): (Vec<_>, Vec<_>) = ends.into_iter().partition(is_letter);
        let record_all = |ends: Vec<CrossingRecord>| {
            ends.into_iter().try_for_each(|end| self.record_end(end)).is_ok()
        };
        if record_all(open)
            && let Some(_recovering) = self.recovering.try_lock()
        {
            record_all(letters);
        }
    }

    /// Records an end that is known. The caller has `recording`; of a dead letter `recovering`, too.
    pub(super) fn record_end(&self, end: CrossingRecord) -> Result<(), CrossingError> {
        let txid = end.txid;
        // COMMIT may be on the disk though nobody was told so. A dead letter ends again where its rest was made.
        let open = self.with_journal(|journal| {
            journal.get(txid).is_none_or(|found| match found.state {
                TransactionState::Active => true,
                TransactionState::Dead => !found.rest.moves.is_empty(),
                _ => false,
            })
        });
        if !open {
            self.unrecorded.lock().remove(&txid);
            return Ok(());
        }
        let (step, rearrangement, [_, target]) =
            (end.step, end.rearrangement, end.branches.clone());
        self.record(end, Durability::Sync)?;
        log::warn!("crossing {txid}: its end is recorded, now that the ledger has space");
        match step {
            Step::Abort | Step::Reverted => {
                self.swept.lock().push((target, txid.to_string().into()));
            }
            // Those who look after its branches remove it.
            Step::Done if rearrangement => {
                let mut removing = self.removing(txid, &self.held_of(txid));
                let held = self.record_rearranged_purge(txid);
                if !held.is_empty() {
                    self.going.lock().extend(held.into_iter().map(|spot| (txid, spot)));
                    removing.recorded(&HashSet::new());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes a copy that came to nothing; one that cannot be removed now is tried again. Whether it is gone.
    pub(super) fn remove_from_stage(&self, branch: &str, place: &Place<S>) -> bool {
        let removed = remove(&*self.storage, &place.dir, &place.name);
        if let Err(error) = &removed {
            let name = place.name.display();
            log::warn!("branch {branch}: {name} stays in stage for now: {error}");
            self.swept.lock().push((branch.to_owned(), place.name.clone()));
        }
        removed.is_ok()
    }

    /// Removes from the stage of a branch the copies that could not be removed, and of those whose end came to
    /// be recorded late.
    pub(super) fn sweep_late(&self, branch: &MoverBranch<S>) {
        let here = |(name, _): &mut (String, OsString)| *name == branch.name;
        let copies: Vec<_> = self.swept.lock().extract_if(.., here).collect();
        for copy in copies {
            if let Err(error) = remove(&*self.storage, &branch.stage, &copy.1) {
                let name = copy.1.display();
                log::debug!("branch {}: {name} stays in stage for now: {error}", branch.name);
                self.swept.lock().push(copy);
            }
        }
    }
}
