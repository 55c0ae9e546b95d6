//! Transactions that were prepared on request of the control protocol and wait for the rename(2) that
//! commits them: undos, and the crossings of `octroi mv`.
//!
//! The rename is recognised by its user and both paths, which cannot change meanwhile: the names and
//! the folders above are locked. What nobody comes for expires. A client claims its rename for as long as
//! its connection is open. From when it was prepared until then the rename finishes what was prepared or
//! fails: what was rolled back leaves a mark, so that a rename that is already on its way does not
//! begin anew as a plain crossing, by whatever gate leads there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
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

/// What a rename finishes. Dropped, it is rolled back.
pub(super) enum What {
    Undo(PreparedUndo),
    Crossing(ReadyCrossing),
}

/// How far a client's claim is.
enum State {
    /// It is being prepared: the locks keep renames out.
    Preparing,
    Waiting(Waiting),
    /// Its rename has come, or it was rolled back; why another would fail.
    Mark(Stop),
}

struct Waiting {
    txid: TxId,
    what: Box<What>,
    since: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct PreparedTable(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    claims: HashMap<Key, State>,
    /// Being prepared for a client.
    preparing: HashMap<TxId, Arc<Progress>>,
    closed: bool,
}

impl State {
    /// Takes out what waits, for dropping it when the table is no longer locked: rolling back records,
    /// which may wait for the ledger.
    fn mark(&mut self, why: Stop) -> Option<Box<What>> {
        match std::mem::replace(self, Self::Mark(why)) {
            Self::Waiting(waiting) => Some(waiting.what),
            Self::Preparing | Self::Mark(_) => None,
        }
    }

    /// As [`State::mark`], of what will be rolled back.
    fn give_up(&mut self, why: Stop) -> Option<Box<What>> {
        let what = self.mark(why);
        if let Some(what) = &what {
            what.note_stop(why);
        }
        what
    }
}

impl What {
    /// For the record of its end, if it is dropped.
    fn note_stop(&self, why: Stop) {
        match self {
            Self::Undo(undo) => undo.prepared.note_stop(why),
            Self::Crossing(ready) => ready.prepared.note_stop(why),
        }
    }
}

impl PreparedTable {
    /// A transaction is about to be prepared for a client.
    fn begin(&self, progress: &Arc<Progress>) {
        let mut entries = self.0.lock();
        if entries.closed {
            progress.cancel(Stop::Unmounting);
        }
        entries.preparing.insert(progress.txid, Arc::clone(progress));
    }

    /// What [`PreparedTable::begin`] noted is prepared, or has failed.
    fn end(&self, txid: TxId) {
        self.0.lock().preparing.remove(&txid);
    }

    fn insert(&self, key: &Key, txid: TxId, what: What) {
        let waiting = Waiting { txid, what: Box::new(what), since: Instant::now() };
        self.0.lock().claims.insert(key.clone(), State::Waiting(waiting));
    }

    /// What waits for this rename, or what the mark says; from now on there is a mark.
    fn take(&self, key: &Key) -> Option<Result<Box<What>, Stop>> {
        let mut entries = self.0.lock();
        let state = entries.claims.get_mut(key)?;
        match *state {
            State::Preparing => None,
            State::Mark(why) => Some(Err(why)),
            State::Waiting(_) => state.mark(Stop::Taken).map(Ok),
        }
    }

    /// A sign of life of the client.
    fn keep(&self, key: &Key) {
        if let Some(State::Waiting(found)) = self.0.lock().claims.get_mut(key) {
            found.since = Instant::now();
        }
    }

    /// Rolls back what waits, and leaves a mark. Gives what the mark says, also where one was there.
    fn give_up(&self, key: &Key, why: Stop) -> Stop {
        let mut entries = self.0.lock();
        let (dropped, why) = match entries.claims.get_mut(key) {
            Some(State::Mark(earlier)) => (None, *earlier),
            Some(state) => (state.give_up(why), why),
            None => (None, why),
        };
        drop(entries);
        drop(dropped);
        why
    }

    /// Has a mark say why.
    fn explain(&self, key: &Key, why: Stop) {
        if let Some(State::Mark(known)) = self.0.lock().claims.get_mut(key) {
            *known = why;
        }
    }

    /// Rolls back what `which` names, and leaves marks. Each on a thread of its own, for its disk may hang; what
    /// this gives is disconnected when all have ended.
    fn roll_back(&self, why: Stop, which: impl Fn(&Waiting) -> bool) -> Receiver<()> {
        let mut entries = self.0.lock();
        let chosen = entries
            .claims
            .values_mut()
            .filter(|state| matches!(state, State::Waiting(waiting) if which(waiting)));
        let dropped: Vec<Box<What>> = chosen.filter_map(|state| state.give_up(why)).collect();
        drop(entries);
        let (running, ended) = crossbeam_channel::bounded(0);
        for what in dropped {
            let running: Sender<()> = running.clone();
            // Where no thread can be started it is dropped here.
            let roll_back = move || {
                drop(what);
                drop(running);
            };
            let started = std::thread::Builder::new().name("roll-back".into()).spawn(roll_back);
            if let Err(error) = started {
                log::warn!("cannot start a thread to roll back: {error}");
            }
        }
        ended
    }

    /// Begins to roll back everything, now and from now on.
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

/// A client's claim on a rename: nobody else prepares for it. Dropped, what waits is rolled back, and the
/// rename is one as any other.
pub(super) struct ClaimGuard {
    vfs: Arc<Vfs>,
    key: Key,
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let removed = self.vfs.prepared.0.lock().claims.remove(&self.key);
        let dropped = removed.and_then(|mut state| state.give_up(Stop::ClientLeft));
        drop(dropped);
    }
}

/// A crossing or an undo that waits for its client's rename. Dropped, it is rolled back unless the rename
/// came.
pub struct PreparedMove {
    claim: ClaimGuard,
    /// The transaction.
    pub progress: Arc<Progress>,
    /// What the copy has lost, in the words of the gate's `lossy`, as the client may know it.
    pub lost: Vec<String>,
}

impl PreparedMove {
    /// The client is alive: the transaction does not expire for a while.
    pub fn keep(&self) {
        self.claim.vfs.prepared.keep(&self.claim.key);
    }

    /// The client gives up: rolled back when this returns, unless its rename came. A rename that still
    /// comes fails. Gives the reason, an earlier one if there was one.
    pub fn give_up(&self) -> Stop {
        self.claim.vfs.prepared.give_up(&self.claim.key, Stop::ClientLeft)
    }
}

fn key(caller: Caller, source: &Occupied<'_>, target: &Site<'_>) -> Key {
    (caller.uid, source.site.path.clone(), target.path.clone())
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
    /// Claims a rename for a client. None if another client has it.
    pub(super) fn claim(self: &Arc<Self>, key: Key) -> Option<ClaimGuard> {
        match self.prepared.0.lock().claims.entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(State::Preparing);
                Some(ClaimGuard { vfs: Arc::clone(self), key })
            }
        }
    }

    /// Prepares for the rename that a client has claimed. `watch` learns of each transaction that
    /// `prepare` begins: of several, where the first member of a pool is full.
    pub(super) fn prepare_claimed<E: From<CrossingError>>(
        &self,
        claim: ClaimGuard,
        watch: &dyn Fn(&Arc<Progress>),
        prepare: impl FnOnce(&dyn Fn(&Arc<Progress>)) -> Result<What, E>,
    ) -> Result<PreparedMove, E> {
        let begun: RefCell<Option<Arc<Progress>>> = RefCell::default();
        let begin = |progress: &Arc<Progress>| {
            if let Some(given_up) = begun.replace(Some(Arc::clone(progress))) {
                self.prepared.end(given_up.txid);
            }
            self.prepared.begin(progress);
            watch(progress);
        };
        let what = prepare(&begin);
        // What is prepared has begun.
        let Some(progress) = begun.take() else {
            return Err(what
                .err()
                .unwrap_or_else(|| CrossingError::Cancelled(Stop::ClientLeft).into()));
        };
        let what = what.map(|what| self.prepared.insert(&claim.key, progress.txid, what));
        self.prepared.end(progress.txid);
        what?;
        // Whoever cancels later finds it among those that wait.
        match progress.is_cancelled() {
            true => Err(progress.cancelled().into()),
            false => Ok(PreparedMove { claim, progress, lost: Vec::new() }),
        }
    }

    /// The rename of what was prepared. None if nothing is prepared for it.
    pub(super) fn finish_prepared(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
    ) -> Option<Result<(), Errno>> {
        let what = match self.prepared.take(&key(caller, source, target))? {
            Ok(what) => *what,
            Err(why) => return Some(Err(self.gone_meanwhile(caller, source, target, why))),
        };
        Some(match what {
            What::Undo(undo) => self.finish_undo(caller, source, target, undo),
            What::Crossing(ready) => {
                self.finish_crossing(caller, source, target, no_replace, ready)
            }
        })
    }

    /// The names are locked since it was prepared.
    fn finish_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
        mut ready: ReadyCrossing,
    ) -> Result<(), Errno> {
        self.permit_again(caller, source, target, &ready)?;
        if no_replace {
            ready.prepared.forbid_replacing();
        }
        // A copy and the gate's checks take long, and the kernel holds both folders by now.
        ready.prepared.only_commit();
        ready.inode = self.source_inode(source)?;
        self.commit_ready(caller, source, target, ready)
    }

    /// Asks the policy again before the commit: it may have changed while the crossing was prepared.
    pub(super) fn permit_again(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        ready: &ReadyCrossing,
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
        Ok(())
    }

    /// Kept for `octroi why`, and told to the client.
    pub(super) fn gone_meanwhile(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        why: Stop,
    ) -> Errno {
        self.prepared.explain(&key(caller, source, target), why);
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

    /// Begins to roll back what nobody came for. What this gives is disconnected when all have ended.
    pub(super) fn expire_prepared(&self, keep: Duration) -> Receiver<()> {
        self.prepared.roll_back(Stop::Expired, |found| found.since.elapsed() >= keep)
    }

    /// As [`Vfs::expire_prepared`], after the usual time.
    pub(super) fn expire_prepared_as_usual(&self) {
        self.expire_prepared(KEEP);
    }

    /// Stops a transaction that is not decided yet: the caller's own, or anyone's for root and the
    /// mounting user. It is rolled back when this returns, unless that takes long.
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
        let begun = Instant::now();
        let ended = self.prepared.roll_back(stop, |found| found.txid == txid);
        if ended.recv_timeout(ROLL_BACK_WAIT) == Err(RecvTimeoutError::Timeout) {
            return Err(AbortError::Slow);
        }
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
                    "waiting for a branch that is offline or whose disk fails",
                    "it is rolled back or completed when the branch is back and well".to_owned(),
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
