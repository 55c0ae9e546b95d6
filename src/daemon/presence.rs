//! Whether each branch is there, asked once a second: one that fails goes offline, and comes online
//! again when it is back. And whether its hold takes no more space than it may.
//!
//! Each branch has a thread of its own for this, for a disk that hangs holds whoever asks it. One that
//! does not answer is shown as such and is not offline: what its users wait for may yet come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::DaemonError;
use super::assemble::{mover_branch, tell};
use super::copies::NOT_EXTENDED;
use crate::branch::{Branch, BranchError, Returning, SpaceLimit};
use crate::error::Errno;
use crate::ledger::{Extends, Ledger};
use crate::mover::Mover;
use crate::storage::real::RealStorage;
use crate::sys::memory;
use crate::types::after;
use crate::vfs::Vfs;

/// Between two probes.
const PROBE: Duration = Duration::from_secs(1);

/// So many probes in a row must fail: one may be bad luck.
const FAILURES: u32 = 2;

/// How long a stop waits for a thread; one that a disk holds ends with the process.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The threads; they end when this is dropped.
pub(super) struct Presence {
    stop: Option<Sender<()>>,
    /// Disconnected when all have ended.
    ended: Receiver<()>,
}

impl Presence {
    pub(super) fn start(
        vfs: &Arc<Vfs>,
        ledger: &Arc<Ledger<RealStorage>>,
        mover: &Arc<Mover<RealStorage>>,
        (hold_max, hold_keep): (SpaceLimit, Duration),
    ) -> Result<Self, DaemonError> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (running, ended) = crossbeam_channel::bounded::<()>(0);
        for (_, branch) in vfs.branches() {
            let name = format!("branch-{}", branch.name());
            let (_, said, _) = branch.health().fault();
            let mut watcher = Watcher {
                read_only: false,
                branch,
                vfs: Arc::clone(vfs),
                ledger: Arc::clone(ledger),
                mover: Arc::clone(mover),
                hold_max,
                hold_keep,
                failures: 0,
                said: said.unwrap_or_default(),
            };
            let (stopped, running) = (stopped.clone(), running.clone());
            let watch = move || {
                while stopped.recv_timeout(PROBE) == Err(RecvTimeoutError::Timeout) {
                    watcher.look();
                    memory::give_back_own();
                }
                if !watcher.read_only {
                    watcher.mover.finish_branch(watcher.branch.spec().index);
                }
                drop(running);
            };
            std::thread::Builder::new()
                .name(name)
                .spawn(watch)
                .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
        }
        Ok(Self { stop: Some(stop), ended })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.stop = None;
        let deadline = after(Instant::now(), STOP_WAIT);
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            log::warn!("a branch does not answer; what waits for it is given up");
        }
    }
}

/// The one that changes the state of a branch.
struct Watcher {
    branch: Arc<Branch>,
    vfs: Arc<Vfs>,
    ledger: Arc<Ledger<RealStorage>>,
    mover: Arc<Mover<RealStorage>>,
    /// How much of it what can be undone may take, and how long that is kept.
    hold_max: SpaceLimit,
    hold_keep: Duration,
    /// Probes that failed in a row.
    failures: u32,
    /// The log was told that its file system takes no changes.
    read_only: bool,
    /// The last reason why it cannot be online that the log was told.
    said: String,
}

impl Watcher {
    fn look(&mut self) {
        self.mover.record_ends();
        if self.branch.is_online() { self.probe() } else { self.look_again() }
    }

    fn probe(&mut self) {
        match self.branch.probe() {
            Ok(()) => {
                self.failures = 0;
                self.tell_read_only();
                // What could not be removed would be lost for undo, and free nothing.
                if !self.read_only {
                    let (index, now) = (self.branch.spec().index, jiff::Timestamp::now());
                    self.mover.tend_branch(index, self.hold_max, now, self.hold_keep);
                }
            }
            Err(error) if error.is_shortage() => {}
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES {
                    self.failures = 0;
                    self.leave(&error);
                }
            }
        }
    }

    fn tell_read_only(&mut self) {
        let now = self.branch.is_read_only();
        if std::mem::replace(&mut self.read_only, now) == now {
            return;
        }
        let name = self.branch.name();
        if now {
            log::error!("branch {name} is read-only: its file system takes no changes");
        } else {
            log::warn!("branch {name} can be changed again");
            self.vfs.branch_recovered();
        }
    }

    fn leave(&mut self, why: &BranchError) {
        self.branch.go_offline(why);
        self.vfs.branch_left();
        self.mover.branch_left(self.branch.spec().index);
        log::error!("branch {} is offline: {why}", self.branch.name());
        self.said = why.to_string();
    }

    fn look_again(&mut self) {
        match self.branch.look_again() {
            Ok(returning) => {
                if let Err(errno) = self.come_back(returning) {
                    self.say(format!("cannot open its folders: {errno}"));
                }
            }
            Err(error) => self.say(error.to_string()),
        }
    }

    /// First what waits for the branch is recovered, then users reach it. One by which the ledger is an earlier one,
    /// or another view's, is left alone: a mount is refused with it.
    fn come_back(&mut self, returning: Returning) -> Result<(), Errno> {
        let movable = match returning.folders() {
            Some(folders) => mover_branch(&self.branch, folders)?,
            None => None,
        };
        if let Ok(Some(found)) = returning.kept_checkpoint() {
            let why = match self.ledger.extends(&found) {
                Extends::No(why) => Some(format!("{NOT_EXTENDED}: {why}")),
                Extends::Unknown(why) if self.ledger.checkpoint().is_none() => Some(why),
                _ => None,
            };
            if let Some(why) = why {
                self.branch.stay_offline(&why);
                self.say(why);
                return Ok(());
            }
        }
        let mut notices = Vec::new();
        if let Some(movable) = movable {
            tell(&self.mover.branch_returned(movable), &mut notices);
        }
        self.branch.come_online(returning);
        self.vfs.branch_returned(self.branch.spec().index);
        log::warn!("branch {} is online again", self.branch.name());
        for notice in notices {
            log::warn!("{notice}");
        }
        self.said.clear();
        Ok(())
    }

    /// Once for each reason.
    fn say(&mut self, why: String) {
        if self.said != why {
            log::warn!("branch {} stays offline: {why}", self.branch.name());
            self.said = why;
        }
    }
}
