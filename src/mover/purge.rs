//! Hold is emptied by age: what can be undone costs space.

use std::time::{Duration, Instant};

use super::remove::remove;
use super::sabotage::sabotaged;
use super::{CrossingError, Mover, MoverBranch, Transaction};
use crate::ledger::record::{Area, CrossingRecord, PurgeRecord, Spot};
use crate::ledger::{Durability, Record};
use crate::storage::Storage;
use crate::types::{BranchUuid, TxId};

/// What a purge removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// Transactions that cannot be undone any more.
    pub transactions: Vec<TxId>,
    /// Records that the ledger did not take; nothing of these was removed.
    pub failed: u64,
}

impl Purged {
    pub(super) fn add(&mut self, other: Self) {
        self.transactions.extend(other.transactions);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// What a transaction has in hold.
pub(super) fn held(record: &CrossingRecord) -> Vec<Spot> {
    let ends = record.moves.iter().map(|step| &step.to);
    ends.filter(|to| to.area == Area::Hold).cloned().collect()
}

impl<S: Storage> Mover<S> {
    /// What a transaction that is known has in hold.
    pub(super) fn held_of(&self, txid: TxId) -> Vec<Spot> {
        self.with_journal(|journal| journal.get(txid).map(|found| held(&found.record)))
            .unwrap_or_default()
    }

    /// Removes for good what transactions that ended before `now − keep` moved to hold, of those that have
    /// something in the hold of `branch`, or nothing in that of another; none of them can be undone after. The record is durable first, so what
    /// is gone is never offered for undo. Left out are those with an offline branch or a running undo, and all but
    /// the first that are not begun in the time of `at_most`: the next call goes on.
    pub(super) fn purge_old(
        &self,
        branch: &MoverBranch<S>,
        now: jiff::Timestamp,
        (keep, at_most): (Duration, Duration),
    ) -> Purged {
        let Ok(before) = now.checked_sub(keep) else { return Purged::default() };
        let due: Vec<_> = self.with_journal(|journal| {
            let old = journal.iter().filter(|(_, found)| found.is_kept() && found.changed < before);
            let old = old.map(|(txid, found)| (txid, found.record.undoes, held(&found.record)));
            let ours = |held: &[Spot]| {
                held.iter().any(|spot| spot.branch == branch.uuid)
                    || held.iter().all(|spot| self.is_past(spot.branch))
            };
            old.filter(|(.., held)| ours(held)).collect()
        });
        let mut purged = Purged::default();
        let begun = Instant::now();
        for (txid, undoes, held) in due {
            if purged != Purged::default() && begun.elapsed() >= at_most {
                break;
            }
            // What an undo gave back goes first: without the undo it would be missed. But it waits for nobody.
            let goes_first = |undone: &Transaction| {
                let mut held = undone.record.moves.iter().map(|step| step.to.branch);
                undone.is_kept() && held.all(|uuid| self.is_online_or_past(uuid))
            };
            let gave_back = undoes.is_some_and(|undone| {
                self.with_journal(|journal| journal.get(undone).is_some_and(goes_first))
            });
            if gave_back {
                continue;
            }
            let reason = format!("kept for {} s", keep.as_secs());
            self.purge_held(txid, &held, reason, &|spot| spot.branch == branch.uuid, &mut purged);
        }
        purged
    }

    /// Removes from the hold of a branch what others have recorded to go.
    pub(super) fn remove_going(&self, branch: &MoverBranch<S>) {
        let here: Vec<_> = {
            let going = self.going.lock();
            going.iter().filter(|(_, spot)| spot.branch == branch.uuid).cloned().collect()
        };
        for one in here {
            let mut removing = self.removing(one.0, std::slice::from_ref(&one.1));
            // Others may be at it.
            let ours = {
                let mut going = self.going.lock();
                let at = going.iter().position(|other| *other == one);
                at.map(|at| going.swap_remove(at)).is_some()
            };
            if ours {
                removing.recorded(&self.known_devices(std::slice::from_ref(&one.1)));
                self.remove_held(branch, one.1.path.as_os_str());
            }
        }
    }

    /// Nothing that a branch keeps is forgotten while it is away; what was in one that left the view for good
    /// keeps nothing waiting.
    pub(super) fn is_online_or_past(&self, uuid: BranchUuid) -> bool {
        self.branch_by_uuid(uuid).is_some() || self.is_past(uuid)
    }

    /// Removes for good what one transaction moved to hold, if it is still due, none of its branches is away
    /// and no undo needs it. What is not `here` is left to those who look after its branch: its disk may hang.
    pub(super) fn purge_held(
        &self,
        txid: TxId,
        held: &[Spot],
        reason: String,
        here: &dyn Fn(&Spot) -> bool,
        purged: &mut Purged,
    ) {
        if !held.iter().all(|spot| self.is_online_or_past(spot.branch)) {
            return;
        }
        let mut removing = self.removing(txid, held);
        let recorded = {
            let _purging = self.purging.lock();
            let due = self.with_journal(|journal| {
                journal.get(txid).is_some_and(Transaction::is_kept)
                    && (!journal.is_being_undone(txid) || sabotaged("purge: no undo runs"))
            });
            if !due {
                return;
            }
            if sabotaged("purge: the record comes first") {
                self.remove_purged(held);
            }
            self.record_purge(PurgeRecord { txid, reason, lost: false, given_up: Vec::new() })
        };
        // From here on nobody offers it for undo: a large tree keeps no other purge waiting.
        match recorded {
            Ok(()) => {
                let (here, elsewhere): (Vec<Spot>, Vec<Spot>) =
                    held.iter().cloned().partition(here);
                let there = |spot: &Spot| !self.is_past(spot.branch);
                let elsewhere = elsewhere.into_iter().filter(there).map(|spot| (txid, spot));
                self.going.lock().extend(elsewhere);
                removing.recorded(&self.known_devices(&here));
                self.remove_purged(&here);
                self.released(txid);
                purged.transactions.push(txid);
            }
            Err(error) => {
                log::warn!("crossing {txid}: not purged: {error}");
                purged.failed = purged.failed.saturating_add(1);
            }
        }
    }

    /// Records of a completed crossing that what it should have in hold is gone, so that nobody is offered its
    /// undo; what reappears is kept. Whether it was recorded; it is not where any of it is still there, or
    /// cannot be looked for.
    pub fn record_lost(&self, txid: TxId) -> bool {
        let held: Vec<Spot> = self.with_journal(|journal| {
            let found = journal.get(txid).filter(|found| found.is_kept());
            found.map(|found| held(&found.record)).unwrap_or_default()
        });
        let _purging = self.purging.lock();
        let gone = |spot: &Spot| {
            self.branch_by_uuid(spot.branch).is_some_and(|branch| {
                self.storage.stat(&branch.hold, spot.path.as_os_str()) == Ok(None)
            })
        };
        let being_undone = self.with_journal(|journal| journal.is_being_undone(txid));
        if held.is_empty() || being_undone || !held.iter().all(gone) {
            return false;
        }
        let reason = "what it kept is gone".to_owned();
        let recorded =
            self.record_purge(PurgeRecord { txid, reason, lost: true, given_up: Vec::new() });
        if let Err(error) = &recorded {
            log::warn!("crossing {txid}: its loss is not recorded: {error}");
        }
        self.released(txid);
        recorded.is_ok()
    }

    /// Records that what a transaction moved to hold goes. The caller has `purging`.
    pub(super) fn record_purge(&self, purge: PurgeRecord) -> Result<(), CrossingError> {
        self.append(Record::Purge(purge), Durability::Sync)
    }

    /// Removes what was recorded to go, from stage or hold.
    pub(super) fn remove_private(&self, spot: &Spot) {
        let Some(branch) = self.branch_by_uuid(spot.branch) else { return };
        let folder = match spot.area {
            Area::Tree => return,
            Area::Stage => &branch.stage,
            Area::Hold => &branch.hold,
        };
        if let Err(error) = remove(&*self.storage, folder, spot.path.as_os_str()) {
            log::warn!("branch {}: {} stays: {error}", branch.name, spot.path.display());
        }
    }

    /// Removes what was recorded to go.
    pub(super) fn remove_purged(&self, held: &[Spot]) {
        for spot in held {
            if let Some(branch) = self.branch_by_uuid(spot.branch) {
                self.remove_held(&branch, spot.path.as_os_str());
            }
        }
    }
}
