//! What a dead letter keeps is deleted, when somebody says that it can go.

use parking_lot::MutexGuard;

use super::Mover;
use super::error::CrossingError;
use super::inspect::owner_of;
use super::journal::{Transaction, TransactionState};
use super::letters::LetterError;
use super::sabotage::sabotaged;
use crate::error::Errno;
use crate::ledger::record::{Area, CrossingRecord, PurgeRecord, Spot};
use crate::storage::{Metadata, Storage};
use crate::types::{Caller, TxId};

impl<S: Storage> Mover<S> {
    /// Whether what a dead letter keeps may be deleted: nothing of it waits to be moved, for nobody would know of that
    /// afterwards, and a file that a missing branch still has be seen twice; what stage and hold have of it can be
    /// looked at, for what came back later would be deleted with no word; and it is what the transaction put there,
    /// for somebody may have brought a copy back. `given_up`: branches that left the view never come back.
    pub(super) fn check_discard(
        &self,
        letter: &Transaction,
        given_up: bool,
    ) -> Result<(), LetterError> {
        let (record, waits) = (&letter.record, !letter.rest.moves.is_empty());
        let refused = |why: String, hint| Err(LetterError::InVain { why, hint });
        let mut without = false;
        for spot in ends(record).filter(|spot| waits || is_own(record, spot)) {
            let uuid = spot.branch;
            if !self.is_past(uuid) {
                if self.branch_by_uuid(uuid).is_none() {
                    let why = format!("branch {uuid} is offline or read-only");
                    return refused(why, "discard when it is not");
                }
                continue;
            }
            if !given_up {
                let why = format!(
                    "a branch that left may keep some of it, or have a file that would be seen twice: {}",
                    CrossingError::NoBranch { uuid }
                );
                let hint = "accept it, and discard when the configuration has that branch again; if it never will, \
                            add --branch-gone";
                return refused(why, hint);
            }
            without = true;
        }
        if waits && !without {
            let hint = match letter.state {
                TransactionState::Accepted => "the next mount goes on with it: discard then",
                _ => "retry it, or accept it, before you discard what it keeps",
            };
            return refused("something of it is not moved yet".to_owned(), hint);
        }
        ends(record)
            .filter(|spot| is_own(record, spot))
            .try_for_each(|spot| self.check_own(record, spot))
    }

    fn check_own(&self, record: &CrossingRecord, spot: &Spot) -> Result<(), LetterError> {
        // It left the view: nothing there is deleted.
        let Some(branch) = self.branch_by_uuid(spot.branch) else { return Ok(()) };
        let (area, dir) = match spot.area {
            Area::Stage => ("stage", &branch.stage),
            Area::Hold | Area::Tree => ("hold", &branch.hold),
        };
        let known = |found: &Metadata| {
            let mut steps =
                record.moves.iter().filter(|step| step.from == *spot || step.to == *spot);
            steps.any(|step| step.identity.handle == found.identity.handle)
        };
        match self.storage.stat(dir, spot.path.as_os_str()) {
            Err(Errno::NOENT) | Ok(None) => Ok(()),
            Ok(Some(found)) if known(&found) => Ok(()),
            _ => {
                let at = format!("{} in {area} of branch {}", spot.path.display(), branch.name);
                Err(LetterError::NotIts { at })
            }
        }
    }

    /// Deletes what stage and hold have of one that was accepted, once that is recorded. What has another
    /// transaction's name, such as what an undo would have restored, is that one's. No recovery may come between: it
    /// might move something to hold that goes then. Where a branch that left has a part in it, the record says
    /// that this is lost: should it come back, it is kept.
    pub(super) fn discard(
        &self,
        caller: Caller,
        txid: TxId,
        recovering: MutexGuard<'_, ()>,
    ) -> Result<(), LetterError> {
        let purging = self.purging.lock();
        let record = self.with_journal(|journal| {
            let found = journal
                .get(txid)
                .filter(|found| found.state == TransactionState::Accepted && !found.purged);
            found.map(|found| found.record.clone())
        });
        let Some(record) = record else { return Ok(()) };
        let lost = self.past_of(&record).is_some();
        let reason = match lost {
            true => {
                format!("given up by user {}, with what a branch that left has of it", caller.uid)
            }
            false => format!("discarded by user {}", caller.uid),
        };
        let own = || ends(&record).filter(|spot| is_own(&record, spot));
        if sabotaged("letters: the record of a discard comes first") {
            own().for_each(|spot| self.remove_private(spot));
        }
        self.record_purge(PurgeRecord { txid, reason, lost })
            .map_err(|error| LetterError::Ledger { errno: error.errno() })?;
        // From here on nobody needs it: a disk that hangs keeps no other purge waiting.
        drop((purging, recovering));
        own().for_each(|spot| self.remove_private(spot));
        Ok(())
    }
}

/// The ends of all its moves.
fn ends(record: &CrossingRecord) -> impl Iterator<Item = &Spot> {
    record.moves.iter().flat_map(|step| [&step.from, &step.to])
}

/// Whether a transaction keeps something of its own there, in stage or hold.
fn is_own(record: &CrossingRecord, spot: &Spot) -> bool {
    spot.area != Area::Tree && owner_of(spot.path.as_os_str()) == Some(record.txid)
}
