//! Recovery: what a crash left open is completed, undone or put back before anybody looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::error::CrossingError;
use super::inspect::{self, Idle, idle_in_stage};
use super::journal::TransactionState;
use super::moves::{self, HalfOpen, Place, PlacedMove, Stopped};
use super::parallel::{Pieces, in_parallel};
use super::past::why_past;
use super::remove::remove;
use super::sabotage::sabotaged;
use super::{Mover, MoverBranch, later_step};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Area, CrossingRecord, Move, Spot, Step};
use crate::storage::Storage;
use crate::types::{TxId, ViewPath};

/// What recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Decided before the crash; now done.
    pub completed: Vec<TxId>,
    /// Not decided; rolled back.
    pub aborted: Vec<TxId>,
    /// Decided, could not be completed, and put back; with the reason.
    pub reverted: Vec<(TxId, String)>,
    /// Need a person; with the reason. Those of earlier runs are not repeated.
    pub dead: Vec<(TxId, String)>,
    /// A person had accepted them, and what waited for a branch could not be moved when it was back; with the reason.
    pub accepted: Vec<(TxId, String)>,
    /// Still open because a branch is offline or fails; with the reason.
    pub left_open: Vec<(TxId, String)>,
    /// Names that must stay locked: source and target of what is still open.
    pub locked: Vec<ViewPath>,
    /// Entries of stage that belonged to nothing open and were removed.
    pub swept: u64,
    /// Entries of hold whose purge was recorded, and that were removed.
    pub purged_left: u64,
    /// What no transaction knows: branch, and where it is in the private folder. It is kept.
    pub unknown: Vec<(String, PathBuf)>,
    /// What was recorded as lost: branch, and where it is in the private folder. It is kept.
    pub returned: Vec<(String, PathBuf)>,
}

/// Why a transaction could not be looked into now.
pub(super) enum NotNow {
    /// Nothing was touched; another start may succeed.
    LeftOpen(String),
    /// The folders that the record names cannot all be opened.
    Impossible(CrossingError),
}

impl<S: Storage> Mover<S> {
    /// Ends all open transactions whose branches are online, then tidies stage and hold. Idempotent:
    /// may be cut off anywhere and run again.
    pub fn recover(&self) -> Recovery {
        let mut recovery = Recovery::default();
        self.recover_open(None, &mut recovery);
        self.go_on_with_rests(None, &mut recovery);
        self.purge_rearrangements();
        for branch in self.online() {
            self.tidy(&branch, &mut recovery);
        }
        recovery
    }

    /// Ends what can be ended of the transactions that are open and not under way. Each has names of its
    /// own, which are locked from PREPARE to its end, so that none waits for another. Only those that have a part
    /// on `branch`, where one is given.
    pub(super) fn recover_open(&self, branch: Option<&MoverBranch<S>>, recovery: &mut Recovery) {
        let mut open = self.left_open();
        open.retain(|record| branch.is_none_or(|branch| Self::concerns(record, branch)));
        // Elsewhere a sync may not tell that another one of the same folder has just failed.
        if !self.online().all(|branch| self.storage.syncs_whole(&branch.hold) == Ok(true)) {
            return open.iter().for_each(|record| self.recover_one(record, recovery));
        }
        let ended = Mutex::new(BTreeMap::new());
        // No piece of this work fails.
        let _ = in_parallel(
            open.len(),
            Pieces::Syncs,
            || (),
            |(), at| {
                if let Some(record) = open.get(at) {
                    let mut one = Recovery::default();
                    self.recover_one(record, &mut one);
                    ended.lock().insert(at, one);
                }
                Ok(())
            },
        );
        ended.into_inner().into_values().for_each(|one| recovery.take_in(one));
    }

    pub(super) fn recover_one(&self, record: &CrossingRecord, recovery: &mut Recovery) {
        if self.unrecorded_end(record.txid).is_some() {
            let _recording = self.recording.lock();
            // Else it was recorded meanwhile.
            let Some(end) = self.unrecorded_end(record.txid) else { return };
            // What was done after its decision may have been taken back, or been made.
            let (txid, why) = (end.txid, end.reason.clone().unwrap_or_default());
            let step = end.step;
            match (self.record_end(end), step) {
                (Err(error), _) => recovery.leave_open(record, error.to_string()),
                (Ok(()), Step::Abort) => recovery.aborted.push(txid),
                (Ok(()), Step::Reverted) => recovery.reverted.push((txid, why)),
                (Ok(()), Step::Dead) => recovery.dead.push((txid, why)),
                (Ok(()), _) => recovery.completed.push(txid),
            }
        } else if !self.is_open(record.txid) {
            // Its end was recorded since it was found open.
        } else if self.unsynced.lock().contains(&record.txid) {
            recovery.leave_open(record, "it could not be synced".to_owned());
        } else if self.is_doubtful(record.txid) {
            // It may have ended long ago, and what it speaks of be somebody's by now.
            let why = "lines of the ledger that may tell how it ended are lost".to_owned();
            self.give_up(record, why, Vec::new(), recovery);
        } else if self.is_withdrawn(record.txid) {
            self.take_back(record, recovery);
        } else if record.step == Step::Commit {
            self.complete(record, recovery);
        } else {
            self.roll_back(record, recovery);
        }
    }

    pub(super) fn tidy(&self, branch: &MoverBranch<S>, recovery: &mut Recovery) {
        self.sweep_stage(branch, recovery);
        self.inspect_hold(branch, recovery);
    }

    /// Not decided, as far as the journal knows: where the ledger was in doubt, COMMIT may be on its disk.
    /// So the copy goes only when the end is recorded for good; a copy that stays is swept, also when its
    /// branch comes back later.
    fn roll_back(&self, record: &CrossingRecord, recovery: &mut Recovery) {
        let [_, target] = &record.branches;
        let staged = self.online().find(|branch| branch.name == *target);
        let staged = staged.map(|branch| branch.in_stage(record.txid).1);
        if sabotaged("recover: the copy goes after ABORT")
            && let Some(staged) = &staged
        {
            let _ = remove(&*self.storage, &staged.dir, &staged.name);
        }
        let reason = Some("the daemon stopped before the decision".to_owned());
        let abort = later_step(record, Step::Abort, reason, "EINTR".to_owned());
        if let Err(error) = self.record(abort, Durability::Sync) {
            return recovery.leave_open(record, error.to_string());
        }
        recovery.aborted.push(record.txid);
        if let Some(staged) = staged {
            self.remove_from_stage(target, &staged);
        }
    }

    /// Decided: all moves are made, or all are taken back.
    pub(super) fn complete(&self, commit: &CrossingRecord, recovery: &mut Recovery) {
        let txid = commit.txid;
        let placed = match self.open_moves(commit) {
            Ok(placed) => placed,
            Err(NotNow::LeftOpen(why)) => return recovery.leave_open(commit, why),
            Err(NotNow::Impossible(error)) => {
                return self.complete_half_open(commit, &error, recovery);
            }
        };
        let arrived =
            self.with_journal(|journal| journal.get(txid).is_some_and(|found| found.arrived));
        let forward = || {
            if arrived {
                moves::check_sources_below(&*self.storage, &placed)?;
            }
            moves::forward(&*self.storage, &placed, None)
        };
        match forward() {
            Ok(()) => self.end(commit, self.confirm(commit, &placed), recovery),
            Err(stopped) if !stopped.doubt && is_disk_trouble(&stopped.why) => {
                recovery.leave_open(commit, stopped.why.to_string());
            }
            Err(Stopped { why, doubt }) => {
                let stopped = Stopped { why, doubt: doubt || arrived };
                match self.put_back(commit, &placed, stopped) {
                    CrossingError::Dead { why, .. } => recovery.dead.push((txid, why)),
                    other if self.is_open(txid) => recovery.leave_open(commit, other.to_string()),
                    other => recovery.reverted.push((txid, other.to_string())),
                }
            }
        }
    }

    fn end(&self, commit: &CrossingRecord, confirmed: bool, recovery: &mut Recovery) {
        if confirmed {
            recovery.completed.push(commit.txid);
        } else {
            recovery.leave_open(commit, "it could not be confirmed".to_owned());
        }
    }

    /// A folder that the record names is gone: users may have removed it once all was made and only
    /// DONE was not yet durable. Or a branch is: then nobody can tell what the disk that left has, but what
    /// has arrived stays. `error`: why not everything can be opened.
    fn complete_half_open(
        &self,
        commit: &CrossingRecord,
        error: &CrossingError,
        recovery: &mut Recovery,
    ) {
        let (made, rest) = match self.moves_made(commit) {
            Ok(found) => found,
            Err(why) => return recovery.leave_open(commit, why),
        };
        match self.past_of(commit) {
            None if rest.is_empty() => {
                let confirmed = self.confirm_after(commit, || self.sync_half_open(commit, &made));
                self.end(commit, confirmed, recovery);
            }
            None => self.give_up(commit, error.to_string(), Vec::new(), recovery),
            Some(uuid) => match self.sync_half_open(commit, &made) {
                Ok(()) => {
                    let why = why_past(commit, &self.no_branch(uuid), &rest);
                    self.give_up(commit, why, rest, recovery);
                }
                Err(error) => recovery.leave_open(commit, error.to_string()),
            },
        }
    }

    /// The moves that were made as far as their ends tell, with the folders that there are; and those that were
    /// not, or of which that is not certain. An error, in words, says nothing.
    fn moves_made(&self, commit: &CrossingRecord) -> Result<(Vec<HalfOpen<S>>, Vec<Move>), String> {
        let handle_at = |place: &Option<Place<S>>| match place {
            None => Ok(None),
            Some(place) => self
                .storage
                .stat(&place.dir, &place.name)
                .map(|found| found.map(|found| found.identity.handle))
                .map_err(|errno| {
                    format!("cannot look at {}: {}", place.name.display(), errno_name(errno))
                }),
        };
        let mut found = Vec::new();
        for step in &commit.moves {
            let (from, to) = (self.open_or_gone(&step.from)?, self.open_or_gone(&step.to)?);
            let (left, arrived) = (handle_at(&from)?, handle_at(&to)?);
            found.push((step, (from, left), (to, arrived)));
        }
        // Then no user has had any of it.
        let unfinished =
            found.iter().any(|(step, (_, left), _)| left.as_ref() == Some(&step.identity.handle));
        let (mut ends, mut rest) = (Vec::new(), Vec::new());
        for (step, (from, left), (to, arrived)) in found {
            let inode = Some(&step.identity.handle);
            // What left stage or hold has arrived, wherever users have moved it since.
            let left_private = step.from.area != Area::Tree && from.is_some() && left.is_none();
            let moved_on = left_private && !unfinished;
            let made = arrived.as_ref() == inode || moved_on;
            let made = made || sabotaged("recover: all moves are made");
            let made = made && left.as_ref() != inode;
            if made {
                ends.push(HalfOpen { from, to });
            }
            if !made || self.is_past_move(step) {
                rest.push(step.clone());
            }
        }
        Ok((ends, rest))
    }

    fn open_or_gone(&self, spot: &Spot) -> Result<Option<Place<S>>, String> {
        match self.open_spot(spot) {
            Ok(place) => Ok(Some(place)),
            Err(NotNow::Impossible(_)) => Ok(None),
            Err(NotNow::LeftOpen(why)) => Err(why),
        }
    }

    pub(super) fn is_open(&self, txid: TxId) -> bool {
        self.with_journal(|journal| {
            journal.get(txid).is_some_and(|found| found.state == TransactionState::Active)
        })
    }

    fn is_withdrawn(&self, txid: TxId) -> bool {
        self.with_journal(|journal| journal.get(txid).is_some_and(|found| found.withdrawn))
    }

    fn is_doubtful(&self, txid: TxId) -> bool {
        self.with_journal(|journal| journal.get(txid).is_some_and(|found| found.doubtful))
    }

    /// Nobody knows what became of it, so all is kept. `rest` is what waits for a branch that left.
    pub(super) fn give_up(
        &self,
        commit: &CrossingRecord,
        why: String,
        rest: Vec<Move>,
        recovery: &mut Recovery,
    ) {
        let dead = later_step(commit, Step::Dead, Some(why.clone()), "EIO".to_owned());
        let dead = CrossingRecord { moves: rest, ..dead };
        match self.record(dead, Durability::Sync) {
            Ok(()) => recovery.dead.push((commit.txid, why)),
            Err(error) => recovery.leave_open(commit, error.to_string()),
        }
    }

    fn open_moves(&self, commit: &CrossingRecord) -> Result<Vec<PlacedMove<S>>, NotNow> {
        let open = |step: &Move| {
            Ok(PlacedMove {
                step: step.clone(),
                from: self.open_spot(&step.from)?,
                to: self.open_spot(&step.to)?,
            })
        };
        commit.moves.iter().map(open).collect()
    }

    pub(super) fn open_spot(&self, spot: &Spot) -> Result<Place<S>, NotNow> {
        let branch = self.branch_by_uuid(spot.branch).ok_or_else(|| {
            if self.is_past(spot.branch) {
                return NotNow::Impossible(self.no_branch(spot.branch));
            }
            NotNow::LeftOpen(format!(
                "branch {} is offline or read-only",
                self.name_of(spot.branch)
            ))
        })?;
        self.open_in(&branch, spot).map_err(|error| match error.errno() {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => NotNow::Impossible(error),
            _ => NotNow::LeftOpen(error.to_string()),
        })
    }

    /// Opens the folder of a recorded name.
    pub(super) fn open_in(
        &self,
        branch: &MoverBranch<S>,
        spot: &Spot,
    ) -> Result<Place<S>, CrossingError> {
        let broken = || CrossingError::io("understand", spot.path.display())(Errno::INVAL);
        let name = spot.path.file_name().ok_or_else(broken)?.to_owned();
        let dir = match spot.area {
            Area::Stage => branch.stage.clone(),
            Area::Hold => branch.hold.clone(),
            Area::Tree => {
                let parent = spot.path.parent().unwrap_or(Path::new(""));
                self.storage
                    .open_dir(&branch.root, parent)
                    .map_err(CrossingError::io("open the folder of", spot.path.display()))?
            }
        };
        Ok(Place { dir, name })
    }

    /// Removes what no open or dead transaction needs: copies of those that ended, and probes.
    fn sweep_stage(&self, branch: &MoverBranch<S>, recovery: &mut Recovery) {
        let names = match self.storage.list(&branch.stage) {
            Ok(names) => names,
            Err(errno) => {
                log::error!("branch {}: cannot list stage: {}", branch.name, errno_name(errno));
                return;
            }
        };
        let needed = self.with_journal(inspect::needed);
        for name in names.iter().filter(|name| !needed.contains(*name)) {
            let kept = match self.with_journal(|journal| idle_in_stage(journal, branch.uuid, name))
            {
                Idle::Goes => None,
                Idle::Lost => Some(&mut recovery.returned),
                Idle::Unknown => Some(&mut recovery.unknown),
            };
            if let Some(kept) = kept {
                kept.push((branch.name.clone(), Path::new("stage").join(name)));
                continue;
            }
            let place = Place { dir: branch.stage.clone(), name: name.clone() };
            if self.remove_from_stage(&branch.name, &place) {
                recovery.swept = recovery.swept.saturating_add(1);
            }
        }
    }

    /// Finishes purges that a crash cut off, and reports what nobody knows.
    fn inspect_hold(&self, branch: &MoverBranch<S>, recovery: &mut Recovery) {
        let names = match self.storage.list(&branch.hold) {
            Ok(names) => names,
            Err(errno) => {
                log::error!("branch {}: cannot list hold: {}", branch.name, errno_name(errno));
                return;
            }
        };
        for name in names {
            if self.with_journal(|journal| inspect::is_lost(journal, branch.uuid, &name)) {
                recovery.returned.push((branch.name.clone(), Path::new("hold").join(name)));
                continue;
            }
            let known = self.with_journal(|journal| {
                let known = inspect::owner_of(&name).and_then(|txid| journal.get(txid));
                known.map(|found| (found.state, found.purged))
            });
            match known {
                Some((TransactionState::Done | TransactionState::Accepted, true)) => {
                    let removed = u64::from(self.remove_held(branch, &name));
                    recovery.purged_left = recovery.purged_left.saturating_add(removed);
                }
                Some((
                    TransactionState::Done
                    | TransactionState::Active
                    | TransactionState::Dead
                    | TransactionState::Accepted,
                    _,
                )) => {}
                Some((TransactionState::Aborted | TransactionState::Reverted, _)) | None => {
                    recovery.unknown.push((branch.name.clone(), Path::new("hold").join(name)));
                }
            }
        }
    }

    /// Removes an entry of hold whose purge is recorded. What stays is for the next mount.
    pub(super) fn remove_held(&self, branch: &MoverBranch<S>, name: &std::ffi::OsStr) -> bool {
        let removed = remove(&*self.storage, &branch.hold, name);
        if let Err(error) = &removed {
            log::warn!("branch {}: {} stays in hold: {error}", branch.name, name.display());
        }
        removed.is_ok()
    }
}

impl Recovery {
    pub(super) fn leave_open(&mut self, record: &CrossingRecord, why: String) {
        log::error!("crossing {} stays open: {why}", record.txid);
        self.left_open.push((record.txid, why));
        self.locked.extend([record.source.clone(), record.target.clone()]);
    }

    fn take_in(&mut self, mut other: Self) {
        self.completed.append(&mut other.completed);
        self.aborted.append(&mut other.aborted);
        self.reverted.append(&mut other.reverted);
        self.dead.append(&mut other.dead);
        self.accepted.append(&mut other.accepted);
        self.left_open.append(&mut other.left_open);
        self.locked.append(&mut other.locked);
    }
}

/// Errors that say nothing about the transaction: the next recovery may find the disk well, and what the
/// daemon had run out of.
pub(super) fn is_disk_trouble(error: &CrossingError) -> bool {
    let gone = [Errno::NODEV, Errno::NXIO, Errno::NOTCONN, Errno::SHUTDOWN, Errno::STALE];
    let unwell = [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS];
    let shortages = [Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    let errno = error.errno();
    gone.contains(&errno) || unwell.contains(&errno) || shortages.contains(&errno)
}
