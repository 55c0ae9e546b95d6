//! What a dead letter keeps is deleted, when somebody says that it can go.

use parking_lot::MutexGuard;

use super::Mover;
use super::inspect::owner_of;
use super::journal::{Transaction, TransactionState};
use super::letters::LetterError;
use super::sabotage::sabotaged;
use crate::error::{Errno, errno_name};
use crate::ledger::record::{Area, CrossingRecord, PurgeRecord, Spot};
use crate::storage::{Metadata, Storage};
use crate::types::{BranchUuid, Caller, TxId};

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
        let accepted = letter.state == TransactionState::Accepted;
        let refused = |why: String, hint| Err(LetterError::InVain { why, hint });
        let mut without = false;
        for spot in ends(record).filter(|spot| waits || given_up || is_own(record, spot)) {
            let uuid = spot.branch;
            if !self.is_past(uuid) {
                if self.branch_by_uuid(uuid).is_none() {
                    let why = format!("branch {} is offline or read-only", self.name_of(uuid));
                    let hint = "discard when it can be written to; if it never comes back, take it out of the \
                                configuration, mount, and add --branch-gone";
                    return refused(why, hint);
                }
                continue;
            }
            if !given_up {
                let why = format!(
                    "a branch that left may keep some of it, or have a file that would be seen twice: {}",
                    self.no_branch(uuid)
                );
                let hint = match accepted {
                    true => {
                        "discard when the configuration has that branch again; if it never will, add --branch-gone"
                    }
                    false => {
                        "accept it, and discard when the configuration has that branch again; if it never will, \
                              add --branch-gone"
                    }
                };
                return refused(why, hint);
            }
            without = true;
        }
        if given_up && !without {
            let hint = "leave out --branch-gone";
            return refused("none of its branches has left the view".to_owned(), hint);
        }
        if waits && !without {
            let hint = match accepted {
                true => "the next mount goes on with it: discard then",
                false => "retry it, or accept it, before you discard what it keeps",
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
        let at = || format!("{} in {area} of branch {}", spot.path.display(), branch.name);
        match self.storage.stat(dir, spot.path.as_os_str()) {
            Err(Errno::NOENT) | Ok(None) => Ok(()),
            Ok(Some(found)) if known(&found) => {
                self.check_writable(branch.index).map_err(|error| LetterError::InVain {
                    why: error.to_string(),
                    hint: "discard when it can be written to",
                })
            }
            Ok(Some(_)) => Err(LetterError::NotIts { at: at() }),
            Err(errno) => Err(LetterError::InVain {
                why: format!("cannot look at {}: {}", at(), errno_name(errno)),
                hint: "try again when the branch is well",
            }),
        }
    }

    /// Deletes what stage and hold have of one that was accepted, once that is recorded. What has another
    /// transaction's name, such as what an undo would have restored, is that one's. No recovery may come between: it
    /// might move something to hold that goes then. What branches that left have of it is kept should they come
    /// back.
    pub(super) fn discard(
        &self,
        caller: Caller,
        txid: TxId,
        given_up: bool,
        recovering: MutexGuard<'_, ()>,
    ) -> Result<(), LetterError> {
        let purging = self.purging.lock();
        let record = self.with_journal(|journal| {
            let found = journal
                .get(txid)
                .filter(|found| found.state == TransactionState::Accepted && !found.purged);
            found.map(|found| (found.record.clone(), !found.committed()))
        });
        // Where no decision is known, nobody can tell what it has: nothing is deleted.
        let Some((record, lost)) = record else { return Ok(()) };
        let own = || ends(&record).filter(|spot| is_own(&record, spot));
        let past = |spot: &&Spot| self.is_past(spot.branch);
        let reason = match given_up {
            true => format!("given up by user {}, for its branch never comes back", caller.uid),
            false => format!("discarded by user {}", caller.uid),
        };
        if sabotaged("letters: the record of a discard comes first") {
            own().for_each(|spot| self.remove_private(spot));
        }
        let record_purge = |purge| {
            let recorded = self.record_purge(purge);
            recorded.map_err(|error| LetterError::Ledger { errno: error.errno() })
        };
        // The crossing that it takes back cannot be undone any more: what hold has of it may be the last copy.
        let of_another = |spot: &Spot| spot.area == Area::Hold && !is_own(&record, spot);
        let keeps = ends(&record).any(of_another);
        let is_kept =
            |txid| self.with_journal(|journal| journal.get(txid).is_some_and(Transaction::is_kept));
        if let Some(undone) = record.undoes.filter(|undone| keeps && is_kept(*undone)) {
            let (reason, given_up) = (reason.clone(), Vec::new());
            record_purge(PurgeRecord { txid: undone, reason, lost: true, given_up })?;
            self.released(undone);
        }
        let mut given_up: Vec<BranchUuid> = own().filter(past).map(|spot| spot.branch).collect();
        given_up.sort_unstable();
        given_up.dedup();
        let here: Vec<Spot> = own().cloned().collect();
        let mut removing = self.removing(txid, &here);
        record_purge(PurgeRecord { txid, reason, lost, given_up })?;
        removing.recorded(&self.known_devices(&here));
        // From here on nobody needs it: a disk that hangs keeps no other purge waiting.
        drop((purging, recovering));
        own().for_each(|spot| self.remove_private(spot));
        Ok(())
    }

    /// What stage and hold have of a transaction that is its own, on branches in the view: a discard deletes that.
    pub fn kept_of(&self, txid: TxId) -> Vec<Spot> {
        self.there(txid, is_own)
    }

    /// What hold has of the crossing that an undo takes back, on branches in the view.
    pub fn kept_of_undone(&self, txid: TxId) -> Vec<Spot> {
        self.there(txid, |record, spot| spot.area == Area::Hold && !is_own(record, spot))
    }

    fn there(&self, txid: TxId, wanted: fn(&CrossingRecord, &Spot) -> bool) -> Vec<Spot> {
        let record =
            self.with_journal(|journal| journal.get(txid).map(|found| found.record.clone()));
        let Some(record) = record else { return Vec::new() };
        let is_there = |spot: &&Spot| {
            let Some(branch) = self.branch_by_uuid(spot.branch) else { return false };
            let dir = if spot.area == Area::Stage { &branch.stage } else { &branch.hold };
            !matches!(self.storage.stat(dir, spot.path.as_os_str()), Err(Errno::NOENT) | Ok(None))
        };
        ends(&record).filter(|spot| wanted(&record, spot)).filter(is_there).cloned().collect()
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
