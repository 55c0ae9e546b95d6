//! Branches that leave and come back while the view is mounted. What their absence left open is
//! ended when they return, by the same functions as at start; what could not be synced waits for a start.

use std::sync::Arc;

use super::{Mover, MoverBranch, Recovery};
use crate::ledger::record::{CrossingRecord, Step};
use crate::storage::Storage;
use crate::types::{BranchIndex, TxId};

impl<S: Storage> Mover<S> {
    /// A branch went offline: nothing crosses from or to it from now on. What is under way fails where
    /// it meets the branch.
    pub fn branch_left(&self, index: BranchIndex) {
        if let Some(branch) = self.branches.get(usize::from(index.0))
            && let Some(left) = branch.swap(None)
        {
            self.left.lock().insert(index, left.name.clone());
        }
    }

    /// A branch came back: ends the transactions that waited for it, and tidies its stage and hold. Those of other
    /// branches are left alone: their disks may hang. To be called before users can reach the branch.
    pub fn branch_returned(&self, branch: MoverBranch<S>) -> Recovery {
        let _recovering = self.recovering.lock();
        let mut recovery = Recovery::default();
        let Some(place) = self.branches.get(usize::from(branch.index.0)) else { return recovery };
        // It may have come back on another device.
        self.same_filesystem.lock().retain(|pair, _| ![pair.0, pair.1].contains(&branch.index));
        let branch = Arc::new(branch);
        place.store(Some(Arc::clone(&branch)));
        self.journal.lock().doubt(branch.uuid);
        self.recover_open(Some(&branch), &mut recovery);
        self.go_on_with_rests(Some(branch.uuid), &mut recovery);
        self.tidy(&branch, &mut recovery);
        recovery
    }

    /// Goes on with a transaction that was left open, as recovery does at start. None where another recovery runs, or it
    /// has ended, or is under way, or could not be synced and waits for a start.
    pub fn go_on_with(&self, txid: TxId) -> Option<Recovery> {
        let record = {
            let _recovering = self.recovering.try_lock()?;
            if self.unsynced.lock().contains(&txid) {
                return None;
            }
            let record = self.left_open().into_iter().find(|record| record.txid == txid)?;
            // Shown as under way, other recoveries leave it alone: its disk may hang.
            let _ = self.announce(&record, "retry").decide();
            record
        };
        let mut recovery = Recovery::default();
        self.recover_one(&record, &mut recovery);
        self.active.lock().remove(&txid);
        self.purge_rearrangements();
        Some(recovery)
    }

    /// Whether a transaction has a part on a branch. Before its decision only names tell.
    pub(super) fn concerns(record: &CrossingRecord, branch: &MoverBranch<S>) -> bool {
        let mut ends = record.moves.iter().flat_map(|step| [step.from.branch, step.to.branch]);
        ends.any(|uuid| uuid == branch.uuid)
            || record.step != Step::Commit && record.branches.contains(&branch.name)
    }

    /// The transactions that are open though nobody is at them, oldest first: their names must not be
    /// touched.
    pub fn left_open(&self) -> Vec<CrossingRecord> {
        let open: Vec<CrossingRecord> = self.with_journal(|journal| {
            journal.open().map(|(_, transaction)| transaction.record.clone()).collect()
        });
        // One that is open was in `active` before; it is looked at once more, for it may have ended and
        // gone from there since.
        let idle = |record: &CrossingRecord| {
            !self.active.lock().contains_key(&record.txid) && self.is_open(record.txid)
        };
        open.into_iter().filter(idle).collect()
    }
}
