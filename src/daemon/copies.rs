//! Copies of the newest checkpoint in the branches, each minute and at stop. Whoever rolls the state
//! folder back, or has it rolled back by a restored backup, would have to do the same in every branch.
//!
//! A thread for each branch: one that hangs holds up no other.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{DaemonError, append};
use crate::branch::{Branch, BranchError};
use crate::config::Config;
use crate::error::Errno;
use crate::ledger::record::BranchRecord;
use crate::ledger::{CheckpointCopy, End, Extends, Ledger, Record};
use crate::mover::{Journal, Mover, owner_of};
use crate::storage::Storage as _;
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchMode, BranchUuid, TxId, after, within};
use crate::vfs::Vfs;

/// Between two copies.
const EVERY: Duration = Duration::from_secs(60);

/// How long a branch is waited for before the ledger is opened.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How long a copy waits for its signature.
const SIGNED_WAIT: Duration = Duration::from_secs(2);

/// How one says that a branch shows that the ledger is an earlier one, or another view's.
pub(super) const NOT_EXTENDED: &str = "the ledger does not extend the checkpoint in it";

/// How long a stop waits for the last copies.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The threads. Dropped, each makes a last copy: after the ledger is closed.
pub(super) struct Copies {
    stop: Option<Sender<()>>,
    /// Disconnected when all have ended.
    ended: Receiver<()>,
}

impl Copies {
    /// The ledger says of the adopted ones already that they begin anew.
    pub(super) fn start(
        vfs: &Vfs,
        ledger: &Arc<Ledger<RealStorage>>,
        mover: &Arc<Mover<RealStorage>>,
        adopted: &[String],
    ) -> Result<Self, DaemonError> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (running, ended) = crossbeam_channel::bounded::<()>(0);
        for (_, branch) in vfs.branches() {
            let name = format!("copy-{}", branch.name());
            let mut copier = Copier::new(branch, ledger, mover);
            if adopted.iter().any(|name| name == copier.branch.name()) {
                copier.since = ledger.end();
            }
            let (stopped, running) = (stopped.clone(), running.clone());
            let copy = move || {
                copier.copy();
                while stopped.recv_timeout(copier.pause()) == Err(RecvTimeoutError::Timeout) {
                    copier.copy();
                }
                copier.is_last = true;
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
    mover: Arc<Mover<RealStorage>>,
    /// What the next copy must vouch for.
    since: Option<End>,
    /// The ledger is closed.
    is_last: bool,
    /// What the branch was when the copy in it was last read and found good. Also what was compared
    /// before the ledger was opened is read again: the branch may not have been there then.
    epoch: Option<u64>,
    /// The note that was copied last.
    copied: Option<Arc<Vec<u8>>>,
    /// What the log was told of last.
    said: Option<String>,
}

impl Copier {
    fn new(
        branch: Arc<Branch>,
        ledger: &Arc<Ledger<RealStorage>>,
        mover: &Arc<Mover<RealStorage>>,
    ) -> Self {
        let (ledger, mover) = (Arc::clone(ledger), Arc::clone(mover));
        let (since, is_last, epoch, copied, said) = (None, false, None, None, None);
        Self { branch, ledger, mover, since, is_last, epoch, copied, said }
    }

    /// Until the next copy. The first in a branch waits for a signature only.
    fn pause(&self) -> Duration {
        if self.since.is_some() { SIGNED_WAIT } else { EVERY }
    }

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

    /// Before the first copy in a branch that has none, or one of lost lines: a copy says that the ledger knows all
    /// that this view left there, and what is there from before may be of lines that it does not have.
    fn begin_anew(&mut self) -> Result<(), String> {
        let (Some(id), BranchMode::Rw | BranchMode::GatesOnly) =
            (self.branch.uuid(), self.branch.spec().mode)
        else {
            return Ok(());
        };
        let is_known = |txid| self.mover.with_journal(|journal| journal.get(txid).is_some());
        let ahead = ahead_in_stage(&self.branch, is_known)
            .map_err(|errno| format!("cannot look into its .octroi/stage: {errno}"))?;
        if let Some(txid) = ahead {
            return Err(format!(
                "no new copy of the checkpoint is kept in it: its .octroi/stage/{txid} is of a time that this machine's \
                 clock has not reached; set the clock, or move that out of .octroi: it may be a last copy"
            ));
        }
        let record = BranchRecord { branch: self.branch.name().to_owned(), id, replaced: false };
        append(&self.ledger, Record::Branch(record)).map_err(|error| error.to_string())?;
        self.since = self.ledger.end();
        Ok(())
    }

    /// In a branch that is new here the ledger must extend what is there; else that is evidence.
    fn copy_now(&mut self, epoch: u64) -> Result<(), String> {
        let failed = |errno: Errno| format!("cannot keep a copy of the checkpoint: {errno}");
        if Some(epoch) != self.epoch {
            if self.epoch.take().is_some() {
                self.since = None;
            }
            let extends = match self.branch.kept_checkpoint().map_err(failed)? {
                Some(found) => self.ledger.extends(&found),
                None => Extends::Lost,
            };
            match extends {
                Extends::Yes => {}
                Extends::Lost if self.since.is_some() => {}
                Extends::Lost if self.is_last => return Ok(()),
                Extends::Lost => self.begin_anew()?,
                Extends::Unknown(why) => {
                    return Err(format!(
                        "the checkpoint in it, which stays, cannot be compared yet: {why}"
                    ));
                }
                Extends::No(why) => {
                    return Err(format!("{NOT_EXTENDED}, which stays: {why}"));
                }
            }
            self.epoch = Some(epoch);
        }
        if self.since.is_some_and(|since| !self.ledger.covers(since, SIGNED_WAIT)) {
            return Err("a first copy of the checkpoint waits for its signature".to_owned());
        }
        self.since = None;
        if let Some(note) = self.ledger.checkpoint() {
            self.branch.keep_checkpoint(&note).map_err(failed)?;
            self.copied = Some(note);
        }
        Ok(())
    }
}

/// The first in stage, of a transaction that is not known, whose time is still to come here: later it could not be
/// told from what this view leaves there, which is removed. None in a branch that is only read.
pub(super) fn ahead_in_stage(
    branch: &Branch,
    is_known: impl Fn(TxId) -> bool,
) -> Result<Option<TxId>, Errno> {
    let stage = match branch.stage() {
        Err(Errno::ROFS) => return Ok(None),
        found => found?,
    };
    let names = RealStorage.list(&RealDir::from_fd(stage.as_fd())?)?;
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let mut entries = names.iter().filter_map(|name| owner_of(name));
    Ok(entries.find(|txid| txid.0.timestamp_ms() > now && !is_known(*txid)))
}

/// What was found in the branches.
pub(super) struct Found {
    /// The copies.
    pub copies: Vec<CheckpointCopy>,
    /// The branch of each.
    with: Vec<String>,
    /// Branches that can be written, are there and have none.
    pub without: Vec<String>,
}

impl Found {
    /// Has what nobody knows kept in each branch in which no copy shows that the ledger is not an earlier one.
    pub fn doubt_others(
        &self,
        journal: &mut Journal,
        known: &BTreeMap<String, BranchUuid>,
        is_extended: impl Fn(&[u8]) -> bool,
    ) {
        let copies = self.with.iter().zip(&self.copies);
        let proven = copies.filter(|(_, copy)| is_extended(&copy.note));
        let proven: HashSet<_> = proven.filter_map(|(name, _)| known.get(name)).collect();
        for id in known.values().filter(|id| !proven.contains(id)) {
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

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
