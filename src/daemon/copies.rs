//! Copies of the newest checkpoint in the branches, each minute and at stop. Whoever rolls the state
//! folder back, or has it rolled back by a restored backup, would have to do the same in every branch.
//!
//! A thread for each branch: one that hangs holds up no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::DaemonError;
use crate::branch::{Branch, BranchError};
use crate::config::Config;
use crate::error::Errno;
use crate::ledger::{CheckpointCopy, Extends, Ledger};
use crate::mover::Journal;
use crate::storage::real::RealStorage;
use crate::types::{BranchMode, BranchUuid, after, within};
use crate::vfs::Vfs;

/// Between two copies.
const EVERY: Duration = Duration::from_secs(60);

/// How long a branch is waited for before the ledger is opened.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How long a stop waits for the last copies.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The threads. Dropped, each makes a last copy: after the ledger is closed.
pub(super) struct Copies {
    stop: Option<Sender<()>>,
    /// Disconnected when all have ended.
    ended: Receiver<()>,
}

impl Copies {
    /// What an adopted branch holds of other ledgers is replaced, and nothing else that the ledger does
    /// not extend.
    pub(super) fn start(
        vfs: &Vfs,
        ledger: &Arc<Ledger<RealStorage>>,
        adopted: &[String],
    ) -> Result<Self, DaemonError> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (running, ended) = crossbeam_channel::bounded::<()>(0);
        for (_, branch) in vfs.branches() {
            let name = format!("copy-{}", branch.name());
            let ledger = Arc::clone(ledger);
            let epoch = adopted.iter().any(|name| name == branch.name()).then(|| branch.epoch());
            let mut copier = Copier { epoch, branch, ledger, copied: None, said: None };
            let (stopped, running) = (stopped.clone(), running.clone());
            let copy = move || {
                copier.copy();
                while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    copier.copy();
                }
                copier.copy();
                drop(running);
            };
            std::thread::Builder::new()
                .name(name)
                .spawn(copy)
                .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
        }
        Ok(Self { stop: Some(stop), ended })
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop = None;
        let deadline = after(Instant::now(), STOP_WAIT);
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            log::warn!("a branch does not answer; it does not get the last checkpoint");
        }
    }
}

struct Copier {
    branch: Arc<Branch>,
    ledger: Arc<Ledger<RealStorage>>,
    /// What the branch was when the copy in it was last read and found good. Also what was compared
    /// before the ledger was opened is read again: the branch may not have been there then.
    epoch: Option<u64>,
    /// The note that was copied last.
    copied: Option<Arc<Vec<u8>>>,
    /// What the log was told of last.
    said: Option<String>,
}

impl Copier {
    fn copy(&mut self) {
        let epoch = self.branch.epoch();
        if !self.branch.is_online()
            || (Some(epoch) == self.epoch && self.copied == self.ledger.checkpoint())
        {
            return;
        }
        match self.copy_now(epoch) {
            Ok(()) => self.said = None,
            Err(why) if self.said.as_ref() == Some(&why) => {}
            Err(why) => {
                log::error!("branch {}: {why}", self.branch.name());
                self.said = Some(why);
            }
        }
    }

    /// In a branch that is new here the ledger must extend what is there; else that is evidence.
    fn copy_now(&mut self, epoch: u64) -> Result<(), String> {
        let failed = |errno: Errno| format!("cannot keep a copy of the checkpoint: {errno}");
        if Some(epoch) != self.epoch {
            if let Some(found) = self.branch.kept_checkpoint().map_err(failed)? {
                match self.ledger.extends(&found) {
                    Extends::Yes => {}
                    Extends::Unknown(why) => {
                        return Err(format!(
                            "the checkpoint in it, which stays, cannot be compared yet: {why}"
                        ));
                    }
                    Extends::No(why) => {
                        return Err(format!(
                            "the ledger does not extend the checkpoint in it, which stays: {why}"
                        ));
                    }
                }
            }
            self.epoch = Some(epoch);
        }
        if let Some(note) = self.ledger.checkpoint() {
            self.branch.keep_checkpoint(&note).map_err(failed)?;
            self.copied = Some(note);
        }
        Ok(())
    }
}

/// What was found in the branches.
pub(super) struct Found {
    /// The copies.
    pub copies: Vec<CheckpointCopy>,
    /// Branches that have one of them.
    with: Vec<String>,
    /// Branches that can be written, are there and have none.
    pub without: Vec<String>,
}

impl Found {
    /// Has what nobody knows kept in each branch whose copy was not read: the ledger may be an earlier one.
    pub fn doubt_others<'a>(
        &self,
        journal: &mut Journal,
        known: impl IntoIterator<Item = (&'a String, &'a BranchUuid)>,
    ) {
        for (_, id) in known.into_iter().filter(|(name, _)| !self.with.contains(name)) {
            journal.doubt(*id);
        }
    }
}

/// The copies in all branches that are there, before the ledger is opened. A branch that another view
/// has is refused later, and says so better. One that is only read may hold the copy of another view,
/// whose branch it is, for good: that is none of ours.
pub(super) fn find(config: &Config, adopt: &[String], notices: &mut Vec<String>) -> Found {
    let [mut with, mut without] = [Vec::new(), Vec::new()];
    let mut copies = Vec::new();
    for entry in &config.branches {
        let spec = &entry.spec;
        let asked = spec.clone();
        let look = move || match Branch::look(&asked) {
            Err(BranchError::InUse { .. }) => None,
            Err(error) if error.is_missing() => None,
            _ => Some(Branch::find_checkpoint(&asked)),
        };
        let Ok(Some(answer)) = within(ANSWER_WAIT, look) else {
            notices.push(format!(
                "branch {} does not answer: the ledger is not compared with the checkpoint in it",
                spec.name
            ));
            continue;
        };
        let Some(found) = answer else { continue };
        match found {
            Ok(None) if spec.mode == BranchMode::Ro => {}
            Ok(None) => without.push(spec.name.clone()),
            Ok(Some(note)) => {
                with.push(spec.name.clone());
                copies.push(CheckpointCopy {
                    place: format!("the copy in branch {}", spec.name),
                    note,
                    adopted: adopt.contains(&spec.name) || spec.mode == BranchMode::Ro,
                });
            }
            Err(error) => notices.push(format!(
                "the ledger cannot be compared with the checkpoint in branch {}: {error}",
                spec.name
            )),
        }
    }
    Found { copies, with, without }
}
