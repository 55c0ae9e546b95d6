//! The way from COMMIT to DONE, or back.

use std::sync::Arc;

use super::error::CrossingError;
use super::moves::{self, HalfOpen, Place, PlacedMove, Stopped};
use super::prepare::{Prepared, place};
use super::recover::is_disk_trouble;
use super::sabotage::sabotaged;
use super::tree::Digest;
use super::{Crossed, Mover, later_step};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, Area, CrossingRecord, Move, Step};
use crate::storage::{Kind, Storage};
use crate::types::{BranchIndex, Handle};

impl<S: Storage> Mover<S> {
    /// COMMIT to DONE: the decision, the moves, and their record. With an error the source is as
    /// before, unless it is [`CrossingError::Dead`]. Where one file system turns out to be two, all is done
    /// anew as a copy, unless [`Prepared::only_commit`] says otherwise.
    pub fn commit(self: &Arc<Self>, mut prepared: Prepared<S>) -> Result<Crossed, CrossingError> {
        let outcome = self.decide(&mut prepared);
        let other_filesystem = matches!(
            &outcome,
            Err(CrossingError::Reverted { why })
                if matches!(&**why, CrossingError::Io { errno: Errno::XDEV, .. })
        );
        let Some(request) = prepared.again.take().filter(|_| other_filesystem) else {
            return outcome;
        };
        // Project quotas and the like: one device number, and still two file systems to rename(2).
        if let Some(source) = request.sources.first() {
            let pair = (source.name.branch, request.target.branch);
            self.same_filesystem.lock().insert(pair, false);
        }
        let only_commit = prepared.only_commit;
        drop(prepared);
        if only_commit {
            return Err(CrossingError::CopyNeeded);
        }
        let mut prepared = self.prepare(*request)?;
        self.decide(&mut prepared)
    }

    fn decide(&self, prepared: &mut Prepared<S>) -> Result<Crossed, CrossingError> {
        let looked = self.last_look(prepared);
        let displaced = match looked.and_then(|found| prepared.progress.decide().map(|()| found)) {
            Ok(displaced) => displaced,
            Err(error) => {
                prepared.abort(Some(&error));
                return Err(error);
            }
        };
        prepared.record.step = Step::Commit;
        prepared.record.replaced = displaced.first().map(|(_, handle)| handle.clone());
        prepared.record.moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
        let commit = prepared.record.clone();
        *prepared.progress.step.lock() = "commit";
        if sabotaged("commit: COMMIT before the moves") {
            let _ = moves::forward(&*self.storage, &prepared.moves, None);
        }
        if let Err(error) = self.record(commit.clone(), Durability::Sync) {
            return Err(self.not_decided(prepared, error));
        }
        prepared.ended = true;
        *prepared.progress.step.lock() = "apply";
        let leases: Vec<S::Lease> =
            prepared.parts.iter_mut().filter_map(|part| part.lease.take()).collect();
        let lease_holds = || leases.iter().all(|lease| self.storage.lease_holds(lease));
        let moved = moves::forward(&*self.storage, &prepared.moves, Some(&lease_holds));
        if let Err(stopped) = moved {
            return Err(self.put_back(&commit, &prepared.moves, stopped));
        }
        let confirmed = self.confirm(&commit, &prepared.moves);
        let identity = prepared.arriving.clone();
        let before = prepared.parts.first().map(|part| &part.found.identity.handle);
        Ok(Crossed {
            txid: prepared.txid,
            same_filesystem: before == Some(&identity.handle),
            // What is taken back has what the target could not keep.
            attributes_differ: commit.undoes.is_some() || !commit.lost.is_empty(),
            identity,
            sha256: commit.sha256,
            size: commit.size.unwrap_or(0),
            moved: std::mem::take(&mut prepared.moved),
            displaced,
            confirmed,
        })
    }

    /// What must still be so at the decision; finds what DISPLACE will take.
    fn last_look(
        &self,
        prepared: &mut Prepared<S>,
    ) -> Result<Vec<(BranchIndex, Handle)>, CrossingError> {
        prepared.enter("commit")?;
        if !sabotaged("commit: the source is the same at the decision") {
            self.check_sources(prepared)?;
        }
        let arriving = prepared.first()?.found.kind.clone();
        let mut displaced = Vec::new();
        let mut moves = Vec::new();
        for target in &prepared.targets {
            let found = self.look_at_target(&target.at.1, &arriving, prepared.no_replace)?;
            let Some(found) = found else { continue };
            let mut displace = place(Act::Displace, &target.at, &target.hold, &found.identity);
            if found.kind == Kind::Directory {
                displace.step.below = Some(Digest::new().finish());
            }
            moves.push(displace);
            displaced.push((target.branch, found.identity.handle));
        }
        let apply =
            prepared.moves.iter().position(|placed| placed.step.act == Act::Apply).unwrap_or(0);
        prepared.moves.splice(apply..apply, moves);
        if let Some(staged) = &prepared.staged {
            self.storage
                .sync_dir(&staged.dir)
                .map_err(CrossingError::io("sync", "the stage folder"))?;
        }
        Ok(displaced)
    }

    /// COMMIT was not appended for certain. If ABORT can be made durable after it, the outcome is
    /// known; else everything stays for recovery.
    fn not_decided(&self, prepared: &mut Prepared<S>, error: CrossingError) -> CrossingError {
        if error.left_no_record() {
            prepared.abort(Some(&error));
            return error;
        }
        prepared.ended = true;
        if sabotaged("commit: in doubt, the copy goes after ABORT") {
            prepared.remove_staged();
        }
        let result = errno_name(error.errno()).to_owned();
        let abort = later_step(&prepared.record, Step::Abort, Some(error.to_string()), result);
        if self.record(abort, Durability::Sync).is_ok() {
            prepared.remove_staged();
            return error;
        }
        let doubt = CrossingError::InDoubt { txid: prepared.txid, errno: error.errno() };
        log::error!("{doubt}; stage is kept");
        doubt
    }

    /// Makes the moves durable and records DONE. False where that failed: then the transaction stays
    /// open for the next recovery, which finds the moves made.
    pub(super) fn confirm(&self, commit: &CrossingRecord, moves: &[PlacedMove<S>]) -> bool {
        self.confirm_after(commit, || self.sync_moves(commit, moves, false))
    }

    /// As [`Mover::confirm`]; `sync` makes the moves durable.
    pub(super) fn confirm_after(
        &self,
        commit: &CrossingRecord,
        sync: impl FnOnce() -> Result<(), CrossingError>,
    ) -> bool {
        // A user may move on what has just arrived. What came out of stage or hold is still known
        // to have arrived; what came straight from the tree is not, so its DONE must not lag.
        let in_tree = |step: &Move| [&step.from, &step.to].iter().all(|at| at.area == Area::Tree);
        let from_tree = commit.moves.iter().any(in_tree);
        let durability = if from_tree && !sabotaged("commit: DONE of one file system is synced") {
            Durability::Sync
        } else {
            Durability::Group
        };
        let done = later_step(commit, Step::Done, None, "ok".to_owned());
        if sabotaged("commit: DONE after the sync") {
            let _ = self.record(done.clone(), Durability::Sync);
        }
        let confirmed = sync().and_then(|()| self.record(done, durability));
        if let Err(error) = &confirmed {
            log::error!("crossing {}: made, but not confirmed: {error}", commit.txid);
        }
        confirmed.is_ok()
    }

    pub(super) fn sync_moves(
        &self,
        commit: &CrossingRecord,
        moves: &[PlacedMove<S>],
        taken_back: bool,
    ) -> Result<(), CrossingError> {
        moves::sync(&*self.storage, moves, taken_back).inspect_err(|_| {
            self.unsynced.lock().insert(commit.txid);
        })
    }

    /// As [`Mover::sync_moves`] where folders are gone.
    pub(super) fn sync_half_open(
        &self,
        commit: &CrossingRecord,
        moves: &[HalfOpen<S>],
    ) -> Result<(), CrossingError> {
        moves::sync_half_open(&*self.storage, moves).inspect_err(|_| {
            self.unsynced.lock().insert(commit.txid);
        })
    }

    /// As [`Mover::sync_moves`] where they stopped between both ends.
    fn sync_where_they_are(
        &self,
        commit: &CrossingRecord,
        moves: &[PlacedMove<S>],
    ) -> Result<(), CrossingError> {
        if sabotaged("commit: DEAD after the sync") {
            return Ok(());
        }
        moves::sync_as_they_are(&*self.storage, moves).inspect_err(|_| {
            self.unsynced.lock().insert(commit.txid);
        })
    }

    /// Takes back what was moved after the decision, and records how that ended.
    pub(super) fn put_back(
        &self,
        commit: &CrossingRecord,
        moves: &[PlacedMove<S>],
        stopped: Stopped,
    ) -> CrossingError {
        let storage = &*self.storage;
        let why = stopped.why.to_string();
        let result = errno_name(stopped.why.errno()).to_owned();
        let dead = if stopped.doubt {
            Some(why.clone())
        } else {
            match moves::back(storage, moves).and_then(|()| self.check_copy(moves)) {
                Ok(()) => None,
                // As in recovery: a disk that fails says nothing about the transaction, and may return.
                Err(error) if is_disk_trouble(&error) => {
                    let why = format!("{why}; then: {error}");
                    let error = CrossingError::LeftOpen { txid: commit.txid, why };
                    log::error!("{error}");
                    return error;
                }
                Err(error) => Some(format!("{why}; then: {error}")),
            }
        };
        if let Some(why) = dead {
            // A person is told where everything is: there it must be, also when the power goes.
            if let Err(error) = self.sync_where_they_are(commit, moves) {
                let why = format!("{why}; then: {error}");
                let error = CrossingError::LeftOpen { txid: commit.txid, why };
                log::error!("{error}");
                return error;
            }
            let record = later_step(commit, Step::Dead, Some(why.clone()), result);
            if let Err(error) = self.record(record, Durability::Sync) {
                log::error!("crossing {}: {error}", commit.txid);
            }
            let error = CrossingError::Dead { txid: commit.txid, why };
            log::error!("{error}");
            return error;
        }
        let record = later_step(commit, Step::Reverted, Some(why), result);
        if sabotaged("commit: REVERTED after the sync") {
            let _ = self.record(record.clone(), Durability::Sync);
        }
        if sabotaged("commit: the copy goes after REVERTED") {
            self.remove_copy(commit);
        }
        let recorded = self
            .sync_moves(commit, moves, true)
            .and_then(|()| self.record(record, Durability::Sync));
        match recorded {
            // Only a recorded end lets the copy go; without one the next recovery needs it.
            Ok(()) => self.remove_copy(commit),
            Err(error) => log::error!("crossing {}: put back, but {error}", commit.txid),
        }
        CrossingError::Reverted { why: Box::new(stopped.why) }
    }

    /// The copy goes only if nobody has written to it while it had the target's name.
    pub(super) fn check_copy(&self, moves: &[PlacedMove<S>]) -> Result<(), CrossingError> {
        for placed in moves.iter().filter(|placed| placed.step.from.area == Area::Stage) {
            let found = self
                .storage
                .stat(&placed.from.dir, &placed.from.name)
                .map_err(CrossingError::io("look at", "the copy"))?;
            let Some(found) = found else { continue };
            let same = match found.kind {
                Kind::Directory => moves::is_same_below(&*self.storage, placed, &placed.from)?,
                _ => placed.step.identity.same_content(&found.identity),
            };
            if !same && !sabotaged("commit: the copy was not written to") {
                return Err(CrossingError::CopyChanged);
            }
        }
        Ok(())
    }

    /// Removes what a crossing that came to nothing has in stage.
    pub(super) fn remove_copy(&self, commit: &CrossingRecord) {
        for step in commit.moves.iter().filter(|step| step.from.area == Area::Stage) {
            // The stage of one that has left is swept when it returns.
            if let Some(branch) = self.branch_by_uuid(step.from.branch) {
                let place =
                    Place { dir: branch.stage.clone(), name: step.from.path.clone().into() };
                self.remove_from_stage(&branch.name, &place);
            }
        }
    }
}
