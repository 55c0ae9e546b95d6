//! How far a transaction is, for those who watch it, and the one place where "stop" and "decided" meet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::error::CrossingError;
use super::pace::Limiter;
use super::stop::Stop;
use crate::ledger::record::CrossingRecord;
use crate::types::{TxId, ViewPath};

/// So many kinds of loss are named in a record, whose line is bounded.
const LOST_MAX: usize = 50;
/// Bytes of them in the record, as JSON.
pub(super) const LOST_BYTES_MAX: usize = 4096;

const MORE: &str = "and more";

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const DECIDED: u8 = 2;

/// How far a running transaction is; shared with those who watch it.
#[derive(Debug)]
pub struct Progress {
    /// The transaction.
    pub txid: TxId,
    /// User of the caller.
    pub uid: u32,
    /// The gate; none for an undo.
    pub gate: Option<String>,
    /// The transaction that it takes back.
    pub undoes: Option<TxId>,
    /// It renames within a pool.
    pub rearrangement: bool,
    /// From where.
    pub source: ViewPath,
    /// To where.
    pub target: ViewPath,
    /// Names of the branches of source and target.
    pub branches: [String; 2],
    /// When it was asked for.
    pub began: jiff::Timestamp,
    /// `waiting` for its turn, or the step in small letters, such as `stage`.
    pub step: Mutex<&'static str>,
    /// Bytes that the step has copied, hashed or read back so far.
    pub bytes: AtomicU64,
    /// Bytes in all.
    pub size: AtomicU64,
    /// Entries finished so far in this step.
    pub files: AtomicU64,
    /// Entries in all, directories included; one unless it is a tree.
    pub files_all: AtomicU64,
    /// What the copy has lost, in the words of the gate's `lossy`.
    lost: Mutex<BTreeSet<String>>,
    /// Commands that look at content, with when they began: several, where a tree crosses.
    checks: Mutex<Vec<(String, Instant)>>,
    /// Bytes of holes that may still be met.
    holes_left: AtomicU64,
    phase: AtomicU8,
    /// Why it is given up: of several the first. Locked while `phase` becomes `CANCELLED`.
    stop: Mutex<Option<Stop>>,
    limiter: Arc<Limiter>,
}

impl Progress {
    /// Of a transaction that nothing was done for yet; `record` is what will be recorded of it.
    pub(super) fn new(record: &CrossingRecord, step: &'static str, limiter: &Arc<Limiter>) -> Self {
        Self {
            txid: record.txid,
            uid: record.uid,
            gate: record.gate.clone(),
            undoes: record.undoes,
            rearrangement: record.rearrangement,
            source: record.source.clone(),
            target: record.target.clone(),
            branches: record.branches.clone(),
            began: jiff::Timestamp::now(),
            step: Mutex::new(step),
            bytes: AtomicU64::new(0),
            size: AtomicU64::new(record.size.unwrap_or(0)),
            files: AtomicU64::new(0),
            files_all: AtomicU64::new(1),
            lost: Mutex::default(),
            checks: Mutex::default(),
            holes_left: AtomicU64::new(u64::MAX),
            phase: AtomicU8::new(RUNNING),
            stop: Mutex::default(),
            limiter: Arc::clone(limiter),
        }
    }

    /// Lets it fail where there are more holes, in bytes: they are hashed as any content, and cost who has them
    /// nothing. Without this call there is no limit.
    pub fn limit_holes(&self, bytes: u64) {
        self.holes_left.store(bytes, Ordering::Relaxed);
    }

    /// Meets a hole.
    pub(super) fn take_hole(&self, bytes: u64) -> Result<(), CrossingError> {
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self.holes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| CrossingError::TooManyHoles)
    }

    /// Asks the transaction to stop before the decision. False if it is decided already: then this
    /// does nothing.
    pub fn cancel(&self, stop: Stop) -> bool {
        let mut why = self.stop.lock();
        let asked =
            self.phase.compare_exchange(RUNNING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        let stops = asked.is_ok() || asked == Err(CANCELLED);
        if stops {
            why.get_or_insert(stop);
        }
        stops
    }

    /// What its end will be told with, if it is given up and nobody has asked it to stop.
    pub fn note_stop(&self, stop: Stop) {
        self.stop.lock().get_or_insert(stop);
    }

    /// Whether somebody asked it to stop in time.
    pub fn is_cancelled(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CANCELLED
    }

    /// To be asked between steps and in every loop over content.
    pub(super) fn check_cancel(&self) -> Result<(), CrossingError> {
        if self.is_cancelled() { Err(self.cancelled()) } else { Ok(()) }
    }

    /// What tells that it was stopped.
    pub fn cancelled(&self) -> CrossingError {
        CrossingError::Cancelled(self.stop.lock().unwrap_or(Stop::ClientLeft))
    }

    /// Why it is given up, where that is known.
    pub(super) fn stop(&self) -> Option<Stop> {
        *self.stop.lock()
    }

    /// From here on [`Progress::cancel`] is too late.
    pub(super) fn decide(&self) -> Result<(), CrossingError> {
        let decided =
            self.phase.compare_exchange(RUNNING, DECIDED, Ordering::AcqRel, Ordering::Acquire);
        if decided == Err(CANCELLED) { Err(self.cancelled()) } else { Ok(()) }
    }

    /// Notes bytes that were read or are about to be, and waits as long as `crossings.rate` demands.
    pub(super) fn advance(&self, bytes: u64) -> Result<(), CrossingError> {
        self.limiter.take(bytes, || self.is_cancelled());
        self.check_cancel()?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Notes what the copy has lost; a record has room for some only.
    pub(super) fn lose(&self, what: &str) {
        let mut lost = self.lost.lock();
        let length = |what: &str| serde_json::to_string(what).map_or(usize::MAX, |json| json.len());
        // That there is more must have room too.
        let all = lost.iter().map(String::as_str).chain([what, MORE]);
        let all = all.map(|what| length(what).saturating_add(1));
        let bytes = all.fold(0, usize::saturating_add);
        if lost.len() < LOST_MAX && bytes <= LOST_BYTES_MAX {
            lost.insert(what.to_owned());
        } else if !lost.contains(what) {
            lost.insert(MORE.to_owned());
        }
    }

    /// What the copy has lost so far, in the words of the gate's `lossy`.
    pub fn lost(&self) -> Vec<String> {
        self.lost.lock().iter().cloned().collect()
    }

    /// A command begins to look at content, until what this gives is dropped.
    pub(super) fn begin_check(&self, command: String) -> CheckGuard<'_> {
        let begun = Instant::now();
        self.checks.lock().push((command.clone(), begun));
        CheckGuard { progress: self, command, begun }
    }

    /// The command that has been running for longest, if one is, and since when.
    pub fn oldest_check(&self) -> Option<(String, Instant)> {
        self.checks.lock().iter().min_by_key(|(_, begun)| *begun).cloned()
    }

    /// Notes bytes of a hole, which cost no reading.
    pub(super) fn skip(&self, bytes: u64) -> Result<(), CrossingError> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.check_cancel()
    }
}

/// A command that looks at content. Dropped, it has ended.
pub(super) struct CheckGuard<'a> {
    progress: &'a Progress,
    command: String,
    begun: Instant,
}

impl Drop for CheckGuard<'_> {
    fn drop(&mut self) {
        let mut checks = self.progress.checks.lock();
        let own =
            |(command, begun): &(String, Instant)| *begun == self.begun && *command == self.command;
        if let Some(at) = checks.iter().position(own) {
            checks.swap_remove(at);
        }
    }
}
