//! What a person has done with a dead letter while the view is mounted. Its names, and whatever it has
//! moved, are locked meanwhile as for a crossing; afterwards what the kernel knew of it is given up, so
//! that it looks again.

use std::ffi::OsString;
use std::sync::Arc;

use crate::branch::FileKind;
use crate::error::{Errno, errno_name};
use crate::ledger::record::{CrossingRecord, Spot};
use crate::mover::{CrossingError, Finding, LetterError, Settle, Settled};
use crate::sys::process::exe_of;
use crate::types::{BranchIndex, BranchUuid, Caller, TxId, ViewPath};
use crate::view::locks::{Holder, Lock, LockGuard};
use crate::view::{Inode, Invalidation, Place};

use super::Vfs;
use super::switch::is_below;

/// A name, by the folder that it is in.
type FolderAndName = (Arc<Inode>, OsString);

/// Why nothing was done with a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// Neither root nor the mounting user asks.
    #[error("only root and the user who mounted the view may settle what needs a person")]
    NotPermitted,
    /// The mover refused.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// Somebody uses what it is about.
    #[error("{0} is in use by another crossing or operation, or open for writing; try again")]
    Busy(ViewPath),
    /// The ledger takes no records.
    #[error("the ledger takes no records: {}", errno_name(*.0))]
    Ledger(Errno),
}

impl Vfs {
    /// Everything that a transaction has moved or would have, and where it is now; for the privileged.
    pub fn examine(&self, txid: TxId) -> Vec<Finding> {
        self.mover.examine(txid)
    }

    /// What stage and hold have of a transaction that a discard would delete.
    pub fn kept_of(&self, txid: TxId) -> Vec<Spot> {
        self.mover.kept_of(txid)
    }

    /// What hold has of the crossing that an undo takes back.
    pub fn kept_of_undone(&self, txid: TxId) -> Vec<Spot> {
        self.mover.kept_of_undone(txid)
    }

    /// Whether hold has what taking back a crossing needs.
    pub fn check_hold(&self, txid: TxId) -> Result<(), CrossingError> {
        self.mover.check_hold(txid)
    }

    /// Whether what root or the mounting user may want of a dead letter would be refused now.
    pub fn check_settle(&self, txid: TxId, settle: Settle) -> Result<(), LetterError> {
        self.mover.check_settle(txid, settle)
    }

    /// Does what root or the mounting user wants of a dead letter.
    pub fn settle_letter(
        &self,
        caller: Caller,
        txid: TxId,
        settle: Settle,
    ) -> Result<Settled, SettleError> {
        if !self.is_privileged(caller.uid) {
            return Err(SettleError::NotPermitted);
        }
        self.ready_to_record().map_err(SettleError::Ledger)?;
        let exe = exe_of(caller.pid);
        if matches!(settle, Settle::Accept | Settle::Discard | Settle::GiveUp) {
            let settled = self.mover.settle(caller, exe, txid, settle);
            note_settled(caller, txid, settle, &settled);
            return Ok(settled?);
        }
        let record = self.mover.letter(txid, settle)?.record;
        let settled = self
            .with_moved(&record, None, || self.mover.settle(caller, exe, txid, settle))
            .map_err(|_| SettleError::Busy(record.source.clone()))?;
        for domain in [&record.source, &record.target].map(|path| self.domain_of_path(path)) {
            domain.into_iter().for_each(|domain| self.lock_left_open(domain));
        }
        note_settled(caller, txid, settle, &settled);
        Ok(settled?)
    }

    /// Has something done with what a transaction has moved or would move, which nobody else uses meanwhile, nor its
    /// names, unless they are locked already. Afterwards the kernel looks again. EBUSY.
    fn with_moved<T>(
        &self,
        record: &CrossingRecord,
        held: Option<&[(ViewPath, Arc<LockGuard>)]>,
        act: impl FnOnce() -> T,
    ) -> Result<T, Errno> {
        let known = || {
            let inodes = record.moves.iter().filter_map(|step| {
                let index = self.branch_with(step.from.branch)?;
                self.view.inodes.find(index, &step.identity.handle)
            });
            inodes.collect::<Vec<_>>()
        };
        let names = [&record.source, &record.target].map(|path| self.folder_of(path));
        let inodes = known();
        let is_held = |inode: &Arc<Inode>| {
            let mut guards = held.into_iter().flatten();
            guards.any(|(_, guard)| guard.holds(&Lock::Content(inode.number)))
        };
        let free: Vec<_> = inodes.iter().filter(|inode| !is_held(inode)).cloned().collect();
        let locks = self.lock_letter(if held.is_none() { &names } else { &[] }, &free)?;
        for inode in &inodes {
            self.wait_for_writers(self.owner, inode)?;
        }
        let done = act();
        // Those too that somebody has found while it was under way.
        for inode in known().iter().chain(&inodes) {
            self.give_up(inode);
        }
        for (folder, name) in names.into_iter().flatten() {
            self.view.invalidate(Invalidation::Entry { parent: folder.number, name });
        }
        drop(locks);
        Ok(done)
    }

    /// Goes on with the transactions that were left open while all their branches were there, because a disk failed or
    /// took no changes. What it could not end is tried again by the next call.
    pub(super) fn end_left_open(&self) {
        for record in self.mover.left_open() {
            let held = self.take_held(&record);
            let locked = |path: &ViewPath| {
                held.iter().any(|(known, _)| known == path) || self.folder_of(path).is_none()
            };
            // Else somebody is still at it.
            let free = locked(&record.source) && locked(&record.target);
            if free && self.are_well(&record) {
                let gone_on =
                    self.with_moved(&record, Some(&held), || self.mover.go_on_with(record.txid));
                if matches!(gone_on, Ok(Some(recovery)) if recovery.left_open.is_empty()) {
                    log::warn!("crossing {} had been left open, and has ended", record.txid);
                }
            }
            self.keep_held(held);
        }
    }

    /// Whether all branches of a transaction are there and take changes.
    fn are_well(&self, record: &CrossingRecord) -> bool {
        let mut ends = record.moves.iter().flat_map(|step| [step.from.branch, step.to.branch]);
        ends.all(|uuid| {
            let branch = self.branch_with(uuid).and_then(|index| self.branch(index).ok());
            branch.is_some_and(|branch| branch.is_online() && !branch.is_read_only())
        })
    }

    fn branch_with(&self, uuid: BranchUuid) -> Option<BranchIndex> {
        let found = self.branches.iter().find(|branch| branch.uuid() == Some(uuid));
        found.map(|branch| branch.spec().index)
    }

    /// The folder of a path, where there still is one, and the name in it.
    fn folder_of(&self, path: &ViewPath) -> Option<FolderAndName> {
        let (folder, name) = (path.parent()?, path.name()?);
        Some((self.walk(&folder).ok()?, name.to_owned()))
    }

    fn lock_letter(
        &self,
        names: &[Option<FolderAndName>],
        inodes: &[Arc<Inode>],
    ) -> Result<LockGuard, Errno> {
        let mut alone = Vec::new();
        let mut above = Vec::new();
        for (folder, name) in names.iter().flatten() {
            alone.push(Lock::Name(folder.number, name.clone()));
            above.push(Lock::Folder(folder.number));
            above.extend(folder.ancestors().iter().map(|above| Lock::Folder(above.number)));
        }
        for inode in inodes {
            alone.extend(Lock::whole(inode));
        }
        let twice = |locks: Vec<Lock>| {
            let mut once: Vec<Lock> = Vec::new();
            for lock in locks {
                if !once.contains(&lock) {
                    once.push(lock);
                }
            }
            once
        };
        let at: Vec<&Inode> = names.iter().flatten().map(|(folder, _)| &**folder).collect();
        let locks = self.view.locks.take(Holder::Crossing, &at, twice(alone), twice(above))?;
        for top in inodes.iter().filter(|inode| inode.kind == FileKind::Directory) {
            let inside = |number| {
                let known = self.view.inodes.get(number);
                number == top.number || known.is_some_and(|at| is_below(&at, top.number))
            };
            self.view.locks.wait_for_tree(&locks, inside)?;
        }
        Ok(locks)
    }

    /// Who has it open goes on reading; who opens it anew gets ESTALE, on which the kernel looks the name
    /// up again.
    fn give_up(&self, inode: &Inode) {
        let mut place = inode.switch();
        self.view.inodes.moved(inode.number, &place, &Place::Gone);
        *place = Place::Gone;
        drop(place);
        self.lose_descendants(inode);
    }
}

fn note_settled(
    caller: Caller,
    txid: TxId,
    settle: Settle,
    settled: &Result<Settled, LetterError>,
) {
    log::warn!("user {} asked for {settle:?} of dead letter {txid}: {settled:?}", caller.uid);
}
