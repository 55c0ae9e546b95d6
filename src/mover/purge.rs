//! Hold is emptied by age: what can be undone costs space.

use std::time::Duration;

use super::remove::remove;
use super::sabotage::sabotaged;
use super::{CrossingError, Mover, Transaction};
use crate::ledger::record::{Area, PurgeRecord, Spot};
use crate::ledger::{Durability, Record};
use crate::storage::Storage;
use crate::types::TxId;

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

impl<S: Storage> Mover<S> {
    /// Removes for good what transactions that ended before `now − keep` moved to hold; none of them
    /// can be undone after. The record is durable first, so what is gone is never offered for undo.
    /// Left out are those with an offline branch or a running undo.
    pub fn purge(&self, now: jiff::Timestamp, keep: Duration) -> Purged {
        let Ok(before) = now.checked_sub(keep) else { return Purged::default() };
        let due: Vec<_> = self.with_journal(|journal| {
            journal
                .iter()
                .filter(|(_, found)| found.is_kept() && found.changed < before)
                .map(|(txid, found)| (txid, found.record.moves.clone()))
                .collect()
        });
        let mut purged = Purged::default();
        for (txid, moves) in due {
            let held: Vec<Spot> =
                moves.into_iter().map(|step| step.to).filter(|to| to.area == Area::Hold).collect();
            self.purge_held(txid, &held, format!("kept for {} s", keep.as_secs()), &mut purged);
        }
        purged
    }

    /// Removes for good what one transaction moved to hold, if it is still due, all its branches are online
    /// and no undo needs it.
    pub(super) fn purge_held(
        &self,
        txid: TxId,
        held: &[Spot],
        reason: String,
        purged: &mut Purged,
    ) {
        if held.iter().any(|spot| self.branch_by_uuid(spot.branch).is_none()) {
            return;
        }
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
            self.record_purge(txid, reason)
        };
        // From here on nobody offers it for undo: a large tree keeps no other purge waiting.
        match recorded {
            Ok(()) => {
                self.remove_purged(held);
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
        let held = self.with_journal(|journal| {
            let found = journal.get(txid).filter(|found| found.is_kept());
            let moves = found.map(|found| found.record.moves.clone()).unwrap_or_default();
            moves.into_iter().map(|step| step.to).filter(|to| to.area == Area::Hold).collect()
        });
        let held: Vec<Spot> = held;
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
        let record = Record::Purge(PurgeRecord { txid, reason, lost: true });
        let recorded = self.append(record, Durability::Sync);
        if let Err(error) = &recorded {
            log::warn!("crossing {txid}: its loss is not recorded: {error}");
        }
        self.released(txid);
        recorded.is_ok()
    }

    /// Records that what a transaction moved to hold goes. The caller has `purging`.
    pub(super) fn record_purge(&self, txid: TxId, reason: String) -> Result<(), CrossingError> {
        self.append(Record::Purge(PurgeRecord { txid, reason, lost: false }), Durability::Sync)
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
