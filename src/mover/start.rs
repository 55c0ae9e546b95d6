//! The beginning of a crossing: it is shown to those who watch, and waits for its turn. Nothing is
//! recorded or touched before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::CrossingError;
use super::prepare::Prepared;
use super::{Admit, CrossingRequest, Mover, Progress};
use crate::ledger::record::{CrossingRecord, Step};
use crate::storage::Storage;
use crate::types::{Caller, TxId};

impl<S: Storage> Mover<S> {
    /// PREPARE to VERIFY. On error everything is as before.
    pub fn prepare(
        self: &Arc<Self>,
        request: CrossingRequest<S>,
    ) -> Result<Prepared<S>, CrossingError> {
        self.prepare_watched(request, &|_| ())
    }

    /// As [`Mover::prepare`]; `watch` is called once, before the transaction waits for its turn and
    /// before anything else is done.
    pub fn prepare_watched(
        self: &Arc<Self>,
        request: CrossingRequest<S>,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<Prepared<S>, CrossingError> {
        let record = self.first_record(&request)?;
        let progress = self.announce(&record, "waiting");
        watch(&progress);
        let turn = self.turns.take(&progress);
        let prepared = turn.and_then(|_turn| self.prepare_now(request, record));
        if prepared.is_err() {
            self.active.lock().remove(&progress.txid);
        }
        prepared
    }

    /// Prepares to take back a completed crossing; [`Mover::commit`] does it. `may_any` is for root
    /// and the mounting user, who may undo what others did. The caller holds the locks on both
    /// names, and the policy's deny rules have been asked; `admit` asks them for what is below a
    /// directory, by its names at the target of what is taken back.
    ///
    /// Refused when the target is not what arrived there, when something stands at the source, when
    /// hold has been purged.
    pub fn prepare_undo(
        self: &Arc<Self>,
        caller: Caller,
        exe: Option<Arc<str>>,
        may_any: bool,
        undone: TxId,
        admit: &Admit,
    ) -> Result<Prepared<S>, CrossingError> {
        self.prepare_undo_watched(caller, exe, may_any, undone, admit, &|_| ())
    }

    /// As [`Mover::prepare_undo`]; `watch` as of [`Mover::prepare_watched`].
    pub fn prepare_undo_watched(
        self: &Arc<Self>,
        caller: Caller,
        exe: Option<Arc<str>>,
        may_any: bool,
        undone: TxId,
        admit: &Admit,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<Prepared<S>, CrossingError> {
        let original = self.undoable(caller, may_any, undone)?;
        let record = self.undo_record(caller, exe, &original);
        let progress = self.announce(&record, "waiting");
        watch(&progress);
        let turn = self.turns.take(&progress);
        let prepared =
            turn.and_then(|_turn| self.prepare_undo_now(caller, may_any, undone, record, admit));
        if prepared.is_err() {
            self.active.lock().remove(&progress.txid);
        }
        prepared
    }

    /// What will be recorded of a crossing, as far as it is known before its source was looked at.
    fn first_record(&self, request: &CrossingRequest<S>) -> Result<CrossingRecord, CrossingError> {
        let first = request.sources.first().ok_or(CrossingError::SourceGone)?;
        let source_branch = self.branch(first.name.branch)?;
        let target_branch = self.branch(request.target.branch)?;
        Ok(CrossingRecord {
            txid: TxId(ulid::Ulid::generate()),
            step: Step::Prepare,
            gate: Some(first.gate.clone()),
            undoes: None,
            rearrangement: false,
            uid: request.caller.uid,
            gid: request.caller.gid,
            pid: request.caller.pid,
            exe: request.exe.clone(),
            source: first.name.view.clone(),
            target: request.target.view.clone(),
            branches: [source_branch.name.clone(), target_branch.name.clone()],
            sha256: None,
            size: None,
            readback: None,
            lost: Vec::new(),
            moves: Vec::new(),
            replaced: None,
            reason: None,
            stopped_by: None,
            result: None,
        })
    }

    /// Shows a transaction in the table of running ones; one that is there already is shown to have
    /// come to `step`.
    pub(super) fn announce(&self, record: &CrossingRecord, step: &'static str) -> Arc<Progress> {
        let mut active = self.active.lock();
        let new = || Arc::new(Progress::new(record, step, &self.limiter));
        let progress = Arc::clone(active.entry(record.txid).or_insert_with(new));
        drop(active);
        *progress.step.lock() = step;
        progress.size.store(record.size.unwrap_or(0), Ordering::Relaxed);
        progress
    }
}
