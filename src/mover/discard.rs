//! What a dead letter keeps is deleted, when somebody says that it can go.

use parking_lot::MutexGuard;

use super::Mover;
use super::error::CrossingError;
use super::inspect::owner_of;
use super::journal::{Transaction, TransactionState};
use super::letters::{LetterError, subject};
use super::sabotage::sabotaged;
use crate::error::Errno;
use crate::ledger::record::{Area, CrossingRecord, Move, Spot};
use crate::storage::{Metadata, Storage};
use crate::types::{BranchUuid, Caller, TxId};

/// What may be done where some of it may be on a branch that left the view.
const BRANCH_LEFT: &str = "accept it without --discard, and discard when the configuration has that branch again; if it \
                           never will, delete by hand what octroi tx show names";
/// The same of one that is accepted.
const BRANCH_LEFT_ACCEPTED: &str = "discard when the configuration has that branch again; if it never will, delete by hand \
                                    what octroi tx show names";

fn branch_left(accepted: bool) -> &'static str {
    if accepted { BRANCH_LEFT_ACCEPTED } else { BRANCH_LEFT }
}

impl<S: Storage> Mover<S> {
    /// What waits for a branch is gone on with when that is in the view again: nobody would know of it after a
    /// discard, and a file that the branch still has be seen twice.
    pub(super) fn check_waits_for_nothing(&self, letter: &Transaction) -> Result<(), LetterError> {
        if letter.rest.moves.is_empty() {
            return Ok(());
        }
        let mut ends = letter
            .waits_for()
            .iter()
            .flat_map(|step| [&step.from, &step.to].map(|spot| (step, spot.branch)));
        let away = |(_, uuid): &(&Move, BranchUuid)| self.branch_by_uuid(*uuid).is_none();
        let past = ends.clone().find(|(_, uuid)| self.is_past(*uuid));
        let accepted = letter.state == TransactionState::Accepted;
        let (why, hint) = match past.or_else(|| ends.find(away)) {
            Some((step, uuid)) if self.is_past(uuid) => (
                format!(
                    "{} may still stand on a branch that left, and a file be seen twice: {}",
                    subject(step),
                    CrossingError::NoBranch { uuid }
                ),
                branch_left(accepted),
            ),
            Some((_, uuid)) => {
                (format!("branch {uuid} is offline or read-only"), "discard when it is not")
            }
            None => {
                let hint = match accepted {
                    true => "the next mount goes on with it: discard then",
                    false => "retry it, or accept it, before you discard what it keeps",
                };
                ("something of it is not moved yet".to_owned(), hint)
            }
        };
        Err(LetterError::InVain { why, hint })
    }

    /// What is deleted must be what the transaction put there: somebody may have brought a copy back. And all of it
    /// must be there to be told: what came back later would be deleted with no word.
    pub(super) fn check_own(&self, letter: &Transaction) -> Result<(), LetterError> {
        let (record, accepted) = (&letter.record, letter.state == TransactionState::Accepted);
        for spot in own_spots(record) {
            let Some(branch) = self.branch_by_uuid(spot.branch) else {
                let uuid = spot.branch;
                let (why, hint) = match self.is_past(uuid) {
                    true => {
                        let left = CrossingError::NoBranch { uuid };
                        (
                            format!("a branch that left may keep some of it: {left}"),
                            branch_left(accepted),
                        )
                    }
                    false => {
                        (format!("branch {uuid} is offline or read-only"), "discard when it is not")
                    }
                };
                return Err(LetterError::InVain { why, hint });
            };
            let (area, dir) = match spot.area {
                Area::Stage => ("stage", &branch.stage),
                Area::Hold | Area::Tree => ("hold", &branch.hold),
            };
            let ends = |step: &&Move| step.from == *spot || step.to == *spot;
            let known = |found: &Metadata| {
                let mut steps = record.moves.iter().filter(ends);
                steps.any(|step| step.identity.handle == found.identity.handle)
            };
            match self.storage.stat(dir, spot.path.as_os_str()) {
                Err(Errno::NOENT) | Ok(None) => {}
                Ok(Some(found)) if known(&found) => {}
                _ => {
                    let name = spot.path.display();
                    let at = format!("{name} in {area} of branch {}", branch.name);
                    return Err(LetterError::NotIts { at });
                }
            }
        }
        Ok(())
    }

    /// Deletes what stage and hold have of one that was accepted, once that is recorded. What has another
    /// transaction's name, such as what an undo would have restored, is that one's. No recovery may come between: it
    /// might move something to hold that goes then.
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
        let reason = format!("discarded by user {}", caller.uid);
        if sabotaged("letters: the record of a discard comes first") {
            own_spots(&record).for_each(|spot| self.remove_private(spot));
        }
        self.record_purge(txid, reason)
            .map_err(|error| LetterError::Ledger { errno: error.errno() })?;
        // From here on nobody needs it: a disk that hangs keeps no other purge waiting.
        drop((purging, recovering));
        own_spots(&record).for_each(|spot| self.remove_private(spot));
        Ok(())
    }
}

/// Where a transaction keeps things in stage and hold that are its own.
fn own_spots(record: &CrossingRecord) -> impl Iterator<Item = &Spot> {
    let ends = record.moves.iter().flat_map(|step| [&step.from, &step.to]);
    ends.filter(|spot| {
        spot.area != Area::Tree && owner_of(spot.path.as_os_str()) == Some(record.txid)
    })
}
