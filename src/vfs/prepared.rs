//! Transactions that were prepared on request of the control protocol and wait for the rename(2) that
//! commits them: undos, and the crossings of `octroi mv`.
//!
//! The rename is recognised by its user and both paths, which cannot change meanwhile: the names and
//! the folders above are locked. What nobody comes for expires. While the connection of a crossing's
//! client is open, what was rolled back leaves a mark under its names, so that a rename that is already
//! on its way fails, and does not begin anew as a plain crossing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Errno;
use crate::ledger::record::StoppedBy;
use crate::mover::{CrossingError, Progress, Stop, TransactionState};
use crate::policy::{Basis, Decision, Gate};
use crate::types::{Caller, Operation, TxId, ViewPath};

use super::Vfs;
use super::crossing::ReadyCrossing;
use super::remove::Occupied;
use super::site::Site;
use super::undo::PreparedUndo;

/// How long a prepared transaction waits for its rename, or for a sign of life of its client.
const KEEP: Duration = Duration::from_secs(30);

/// How long `octroi tx abort` waits for what it stopped to be rolled back.
const ROLL_BACK_WAIT: Duration = Duration::from_secs(10);
const ROLL_BACK_POLL: Duration = Duration::from_millis(5);

/// What is below a directory was asked for when it was prepared.
pub(super) const POLICY_CHANGED: Stop =
    Stop::Changed("the policy changed while it was prepared; try again");

/// Who may finish what was prepared, and by which rename: user, source, target.
pub(super) type Key = (u32, ViewPath, ViewPath);

/// What waits for its rename. Dropped, it is rolled back.
pub(super) enum What {
    Undo(PreparedUndo),
    Crossing(ReadyCrossing),
    /// It was rolled back; why.
    Mark(Stop),
}

struct Waiting {
    txid: TxId,
    what: What,
    since: Instant,
    /// A client's connection takes the entry away when it closes.
    has_client: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct PreparedTable(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    waiting: HashMap<Key, Waiting>,
    /// Being prepared for a client.
    preparing: HashMap<TxId, Arc<Progress>>,
    closed: bool,
}

impl Waiting {
    /// Takes out what waits, for dropping it when the table is no longer locked.
    fn roll_back(&mut self, why: Stop) -> What {
        self.what.note_stop(why);
        std::mem::replace(&mut self.what, What::Mark(why))
    }
}

impl What {
    /// For the record of its end, if it is dropped.
    fn note_stop(&self, why: Stop) {
        match self {
            Self::Undo(undo) => undo.prepared.note_stop(why),
            Self::Crossing(ready) => ready.prepared.note_stop(why),
            Self::Mark(_) => {}
        }
    }
}

impl PreparedTable {
    /// A transaction is about to be prepared for a client.
    pub(super) fn begin(&self, progress: &Arc<Progress>) {
        let mut entries = self.0.lock();
        if entries.closed {
            progress.cancel(Stop::Unmounting);
        }
        entries.preparing.insert(progress.txid, Arc::clone(progress));
    }

    /// What [`PreparedTable::begin`] noted is prepared, or has failed.
    pub(super) fn end(&self, txid: TxId) {
        self.0.lock().preparing.remove(&txid);
    }

    pub(super) fn insert(&self, key: Key, txid: TxId, what: What, has_client: bool) {
        let waiting = Waiting { txid, what, since: Instant::now(), has_client };
        let replaced = self.0.lock().waiting.insert(key, waiting);
        // Rolling back records, which may wait for the ledger: not under the lock.
        drop(replaced);
    }

    /// What waits for this rename. A mark stays as long as its client.
    pub(super) fn take(&self, key: &Key) -> Option<What> {
        let mut entries = self.0.lock();
        match entries.waiting.get(key)?.what {
            What::Mark(why) => Some(What::Mark(why)),
            _ => entries.waiting.remove(key).map(|found| found.what),
        }
    }

    /// A sign of life of the client.
    fn keep(&self, key: &Key, txid: TxId) {
        if let Some(found) = self.0.lock().waiting.get_mut(key).filter(|found| found.txid == txid) {
            found.since = Instant::now();
        }
    }

    /// Rolls back what waits, and leaves a mark.
    fn give_up(&self, key: &Key, txid: TxId, why: Stop) {
        let mut entries = self.0.lock();
        let found = entries.waiting.get_mut(key).filter(|found| found.txid == txid);
        let dropped = found.map(|found| found.roll_back(why));
        drop(entries);
        drop(dropped);
    }

    /// The client has gone.
    fn remove(&self, key: &Key, txid: TxId) {
        let mut entries = self.0.lock();
        let own = entries.waiting.get(key).is_some_and(|found| found.txid == txid);
        let removed = if own { entries.waiting.remove(key) } else { None };
        drop(entries);
        if let Some(removed) = &removed {
            removed.what.note_stop(Stop::ClientLeft);
        }
        drop(removed);
    }

    /// Rolls back what `which` names, and leaves marks for clients that are still there.
    fn roll_back(&self, why: Stop, which: impl Fn(&Waiting) -> bool) {
        let mut entries = self.0.lock();
        let chosen = entries.waiting.values_mut().filter(|found| which(found));
        let dropped: Vec<What> = chosen.map(|found| found.roll_back(why)).collect();
        entries.waiting.retain(|_, found| found.has_client || !matches!(found.what, What::Mark(_)));
        drop(entries);
        drop(dropped);
    }

    /// Rolls back everything, now and from now on.
    pub(super) fn close(&self) {
        let mut entries = self.0.lock();
        entries.closed = true;
        for progress in entries.preparing.values() {
            progress.cancel(Stop::Unmounting);
        }
        drop(entries);
        self.roll_back(Stop::Unmounting, |_| true);
    }
}

/// A crossing that waits for its client's rename. Dropped, it is rolled back unless the rename came.
pub struct PreparedMove {
    pub(super) vfs: Arc<Vfs>,
    pub(super) key: Key,
    /// The transaction.
    pub progress: Arc<Progress>,
}

impl PreparedMove {
    /// The client is alive: the transaction does not expire for a while.
    pub fn keep(&self) {
        self.vfs.prepared.keep(&self.key, self.progress.txid);
    }

    /// The client gives up: rolled back when this returns, unless its rename came. A rename that still
    /// comes fails.
    pub fn give_up(&self) {
        self.vfs.prepared.give_up(&self.key, self.progress.txid, Stop::ClientLeft);
    }
}

impl Drop for PreparedMove {
    fn drop(&mut self) {
        self.vfs.prepared.remove(&self.key, self.progress.txid);
    }
}

/// Why a transaction was not stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AbortError {
    /// None of that id, or another user's: ids cannot be probed.
    #[error("there is no such transaction, or it is another user's")]
    Unknown,
    /// It is too late.
    #[error("it is decided already\nhint: octroi undo {0} takes it back once it is done")]
    Decided(TxId),
    /// It has ended.
    #[error("it is {state}: {hint}")]
    Ended {
        /// How, as `octroi tx list` says it.
        state: &'static str,
        /// What may be done.
        hint: String,
    },
    /// It was asked to stop, and a step of it takes long.
    #[error(
        "it was told to stop, and will at the end of the step that it is in; see octroi tx list"
    )]
    Slow,
}

impl Vfs {
    /// The rename of what was prepared. None if nothing is prepared for it.
    pub(super) fn finish_prepared(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
    ) -> Option<Result<(), Errno>> {
        let key = (caller.uid, source.site.path.clone(), target.path.clone());
        Some(match self.prepared.take(&key)? {
            What::Undo(undo) => self.finish_undo(caller, source, target, undo),
            What::Crossing(ready) => {
                self.finish_crossing(caller, source, target, no_replace, ready)
            }
            What::Mark(why) => Err(self.gone_meanwhile(caller, source, target, why)),
        })
    }

    /// The names are locked since it was prepared; the policy may have changed.
    fn finish_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
        mut ready: ReadyCrossing,
    ) -> Result<(), Errno> {
        let gates =
            self.permit_crossing(caller, source, target).map_err(|refused| refused.errno)?;
        self.ready_to_record()?;
        let terms = |gates: &[Gate]| -> Vec<_> {
            gates.iter().map(|gate| (Arc::clone(&gate.name), Arc::clone(&gate.terms))).collect()
        };
        if terms(&gates) != terms(&ready.gates) {
            let why = Stop::Changed("the gate changed while it was prepared; try again");
            ready.prepared.note_stop(why);
            return Err(self.gone_meanwhile(caller, source, target, why));
        }
        if source.is_directory() && ready.generation != self.policy().generation() {
            ready.prepared.note_stop(POLICY_CHANGED);
            return Err(self.gone_meanwhile(caller, source, target, POLICY_CHANGED));
        }
        if no_replace {
            ready.prepared.forbid_replacing();
        }
        // A copy and the gate's checks take long, and the kernel holds both folders by now.
        ready.prepared.only_commit();
        let inode = self.source_inode(source)?;
        let ReadyCrossing { prepared, locks: _locks, .. } = ready;
        self.switch(caller, source, target, &inode, prepared)
    }

    /// Kept for `octroi why`.
    pub(super) fn gone_meanwhile(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        why: Stop,
    ) -> Errno {
        let decision = Decision {
            allowed: false,
            basis: Basis::Error,
            reason: Some(Arc::from(why.to_string())),
            generation: self.policy().generation(),
            observed: None,
        };
        let (question, _) = source.sides(caller, target);
        self.remember_failure(Operation::MoveSource, &question, decision, None);
        CrossingError::Cancelled(why).errno()
    }

    /// Rolls back what nobody came for.
    pub(super) fn expire_prepared(&self, keep: Duration) {
        self.prepared.roll_back(Stop::Expired, |found| found.since.elapsed() >= keep);
    }

    /// As [`Vfs::expire_prepared`], after the usual time.
    pub(super) fn expire_prepared_as_usual(&self) {
        self.expire_prepared(KEEP);
    }

    /// Stops a transaction that is not decided yet: the caller's own, or anyone's for root and the
    /// mounting user. It is rolled back when this returns.
    pub fn abort(&self, caller: Caller, txid: TxId) -> Result<(), AbortError> {
        let Caller { uid, pid, .. } = caller;
        let may = |owner: u32| owner == uid || self.is_privileged(uid);
        let running = self.mover.active().into_iter().find(|found| found.txid == txid);
        let Some(progress) = running.filter(|found| may(found.uid)) else {
            return Err(self.why_not_running(txid, may));
        };
        let stop = Stop::Asked(StoppedBy { uid, pid });
        if !progress.cancel(stop) {
            return Err(AbortError::Decided(txid));
        }
        self.prepared.roll_back(stop, |found| found.txid == txid);
        let begun = Instant::now();
        while self.mover.active().iter().any(|found| found.txid == txid) {
            if begun.elapsed() > ROLL_BACK_WAIT {
                return Err(AbortError::Slow);
            }
            std::thread::sleep(ROLL_BACK_POLL);
        }
        Ok(())
    }

    fn why_not_running(&self, txid: TxId, may: impl Fn(u32) -> bool) -> AbortError {
        self.mover.with_journal(|journal| {
            let Some(found) = journal.get(txid).filter(|found| may(found.record.uid)) else {
                return AbortError::Unknown;
            };
            let ended = |state, hint: String| AbortError::Ended { state, hint };
            match found.state {
                TransactionState::Active => ended(
                    "waiting for a branch that is offline",
                    "it is rolled back or completed when the branch is back".to_owned(),
                ),
                TransactionState::Done if found.undone_by.is_some() => {
                    ended("undone", "nothing is left to stop".to_owned())
                }
                TransactionState::Done => {
                    ended("done", format!("octroi undo {txid} takes it back"))
                }
                TransactionState::Aborted | TransactionState::Reverted => {
                    ended("rolled back", "nothing is left to stop".to_owned())
                }
                TransactionState::Accepted => {
                    ended("accepted", "nothing is left to stop".to_owned())
                }
                TransactionState::Dead => {
                    ended("dead", format!("all of it is kept; see octroi tx show {txid}"))
                }
            }
        })
    }
}
