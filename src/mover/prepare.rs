//! The way of a crossing from PREPARE to VERIFY: everything that can be undone by forgetting it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::CrossingError;
use super::look::Opened;
use super::moves::{Place, PlacedMove};
use super::pass::{CopyTo, Hashed, pass};
use super::stage;
use super::{CrossingRequest, Mover, MoverBranch, Progress, SourcePart, later_step};
use crate::check::{self, ContentType};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, CrossingRecord, Move, Spot, Step};
use crate::policy::GateTerms;
use crate::storage::{Kind, Metadata, Storage};
use crate::types::{BranchIndex, Identity, TxId, ViewPath};

/// A crossing or an undo that only needs its decision. Holds the lease on the source. Dropped, it is
/// rolled back.
pub struct Prepared<S: Storage> {
    /// The transaction.
    pub txid: TxId,
    /// View path of what moves.
    pub source: ViewPath,
    /// View path where it goes.
    pub target: ViewPath,
    pub(super) mover: Arc<Mover<S>>,
    /// PREPARE, completed to COMMIT on the way.
    pub(super) record: CrossingRecord,
    pub(super) progress: Arc<Progress>,
    /// In order, without DISPLACE: what stands at the target is known only at the decision.
    pub(super) moves: Vec<PlacedMove<S>>,
    pub(super) ends: Ends<S>,
    pub(super) no_replace: bool,
    /// The source as it was hashed.
    pub(super) identity: Identity,
    /// The inode that will be at the target.
    pub(super) arriving: Identity,
    pub(super) lease: Option<S::Lease>,
    /// Branches of source and target.
    pub(super) between: [BranchIndex; 2],
    /// What to do as a copy if the file systems turn out to be two.
    pub(super) again: Option<Box<CrossingRequest<S>>>,
    pub(super) staged: Option<Place<S>>,
    pub(super) ended: bool,
}

/// Where a transaction takes from and gives to.
pub(super) struct Ends<S: Storage> {
    pub(super) source: (Spot, Place<S>),
    pub(super) target: (Spot, Place<S>),
    /// Where DISPLACE puts what stands at the target.
    pub(super) displaced: (Spot, Place<S>),
}

impl<S: Storage> Prepared<S> {
    /// What stands at the target at the decision fails the crossing.
    pub fn forbid_replacing(&mut self) {
        self.no_replace = true;
    }

    /// Rolls back: nothing has been changed but the stage. Only for before COMMIT.
    pub(super) fn abort(&mut self, why: Option<&CrossingError>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.lease = None;
        self.remove_staged();
        let reason = why.map_or_else(|| "given up".to_owned(), ToString::to_string);
        let errno = why.map_or(Errno::CANCELED, CrossingError::errno);
        let record =
            later_step(&self.record, Step::Abort, Some(reason), errno_name(errno).to_owned());
        if let Err(error) = self.mover.record(record, Durability::Group) {
            log::warn!("crossing {}: rolled back, but {error}", self.txid);
        }
    }

    /// Removes the copy, if there is one. What stays is removed at the next start.
    pub(super) fn remove_staged(&mut self) {
        if let Some(place) = self.staged.take() {
            match self.mover.storage.unlink(&place.dir, &place.name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => log::warn!(
                    "crossing {}: the copy stays in stage: {}",
                    self.txid,
                    errno_name(errno)
                ),
            }
        }
    }

    pub(super) fn enter(&self, step: &'static str) -> Result<(), CrossingError> {
        *self.progress.step.lock() = step;
        self.progress.check_cancel()
    }
}

impl<S: Storage> Drop for Prepared<S> {
    fn drop(&mut self) {
        let cancelled = self.progress.is_cancelled().then_some(CrossingError::Cancelled);
        self.abort(cancelled.as_ref());
        self.mover.active.lock().remove(&self.txid);
    }
}

impl<S: Storage> Mover<S> {
    /// PREPARE to VERIFY of a regular file, symlink, fifo, socket or device, whose turn it is.
    pub(super) fn prepare_now(
        self: &Arc<Self>,
        request: CrossingRequest<S>,
        record: CrossingRecord,
    ) -> Result<Prepared<S>, CrossingError> {
        let part = only_part(&request)?;
        let source_branch = &self.branch(part.name.branch)?;
        let target_branch = &self.branch(request.target.branch)?;
        let found = self.look_at_source(&part.name.place())?;
        if let Some(max) = part.terms.max_size
            && found.identity.size > max
        {
            return Err(CrossingError::TooLarge { size: found.identity.size, max });
        }
        self.look_at_target(&request.target.place(), request.no_replace)?;
        let opened = match found.kind {
            Kind::File => Some(self.open_source(&part.name.place())?),
            _ => None,
        };
        // Only now is it certain that nobody writes.
        let found = match &opened {
            Some(opened) => self.stat_file(&opened.file)?,
            None => found,
        };
        let same = self.same_filesystem(source_branch, target_branch)?;
        let mut prepared = self.begin(request, record, &found, opened.is_some(), same)?;
        match self.fill(&mut prepared, found, opened) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.abort(Some(&error));
                Err(error)
            }
        }
    }

    /// Records PREPARE.
    fn begin(
        self: &Arc<Self>,
        request: CrossingRequest<S>,
        record: CrossingRecord,
        found: &Metadata,
        regular: bool,
        same: bool,
    ) -> Result<Prepared<S>, CrossingError> {
        let part = only_part(&request)?;
        let source_branch = &self.branch(part.name.branch)?;
        let target_branch = &self.branch(request.target.branch)?;
        let ends = Ends {
            source: source_branch.in_tree(&part.name),
            target: target_branch.in_tree(&request.target),
            displaced: target_branch.in_hold(record.txid),
        };
        let record = CrossingRecord { size: Some(found.identity.size), ..record };
        // Copies of special files cost nothing, and an inode of their own cannot be held open.
        let same = same && regular;
        let mut moves = Vec::new();
        let identity = found.identity.clone();
        if same {
            moves.push(place(Act::Apply, &ends.source, &ends.target, &identity));
        } else {
            let hold = source_branch.in_hold(record.txid);
            moves.push(place(Act::Retire, &ends.source, &hold, &identity));
        }
        self.record(record.clone(), Durability::Group)?;
        let mut prepared = self.prepared(
            record,
            moves,
            ends,
            [part.name.branch, request.target.branch],
            identity.clone(),
            identity,
        );
        prepared.no_replace = request.no_replace;
        prepared.again = Some(Box::new(request));
        Ok(prepared)
    }

    /// Shows a transaction whose PREPARE is recorded; nothing is staged and no lease held yet.
    pub(super) fn prepared(
        self: &Arc<Self>,
        record: CrossingRecord,
        moves: Vec<PlacedMove<S>>,
        ends: Ends<S>,
        between: [BranchIndex; 2],
        identity: Identity,
        arriving: Identity,
    ) -> Prepared<S> {
        Prepared {
            txid: record.txid,
            source: record.source.clone(),
            target: record.target.clone(),
            progress: self.announce(&record, "prepare"),
            mover: Arc::clone(self),
            record,
            moves,
            ends,
            no_replace: true,
            identity,
            arriving,
            between,
            lease: None,
            again: None,
            staged: None,
            ended: false,
        }
    }

    /// STAGE to VERIFY.
    fn fill(
        &self,
        prepared: &mut Prepared<S>,
        found: Metadata,
        opened: Option<Opened<S>>,
    ) -> Result<(), CrossingError> {
        let request = prepared.again.take().ok_or(CrossingError::SourceChanged)?;
        let part = only_part(&request)?;
        let target_branch = &self.branch(request.target.branch)?;
        let copying = prepared.moves.iter().any(|placed| placed.step.act == Act::Retire);
        match opened {
            Some(opened) if copying => {
                self.copy_file(prepared, part, target_branch, &found, &opened)?;
                self.make_durable(&opened.file)?;
                prepared.lease = opened.lease;
            }
            Some(opened) => {
                prepared.enter("check")?;
                let size = found.identity.size;
                let hashed = pass(&*self.storage, &opened.file, None, size, &prepared.progress)?;
                check_type(hashed.content_type, &part.terms)?;
                note(&mut prepared.record, hashed, size, "same");
                self.make_durable(&opened.file)?;
                prepared.lease = opened.lease;
            }
            None => self.copy_special(prepared, part, target_branch, &found)?,
        }
        self.sync_way_to(target_branch, &request.target.path)?;
        self.check_source(prepared)?;
        prepared.again = (!copying).then_some(request);
        prepared.progress.files.store(1, Ordering::Relaxed);
        prepared.enter("prepared")
    }

    fn copy_file(
        &self,
        prepared: &mut Prepared<S>,
        part: &SourcePart<S>,
        branch: &MoverBranch<S>,
        found: &Metadata,
        opened: &Opened<S>,
    ) -> Result<(), CrossingError> {
        let storage = &*self.storage;
        prepared.enter("stage")?;
        let (spot, stage_place) = branch.in_stage(prepared.txid);
        let size = found.identity.size;
        prepared.staged = Some(stage_place.clone());
        let file = stage::make_file(storage, branch, &stage_place, &opened.file, size)?;
        let verify = part.terms.verify;
        let copy = CopyTo { file: &file, branch: &branch.name, verify };
        let hashed = pass(storage, &opened.file, Some(copy), size, &prepared.progress)?;
        prepared.enter("check")?;
        check_type(hashed.content_type, &part.terms)?;
        prepared.enter("meta")?;
        let xattrs = self.source_xattrs(&part.name)?;
        stage::dress(storage, &stage_place, found, &xattrs)?;
        prepared.enter("verify")?;
        self.make_durable(&file)?;
        let readback = stage::read_back(
            storage,
            branch,
            &stage_place,
            &hashed,
            size,
            verify,
            &prepared.progress,
        )?;
        let copy = stage::check_dress(storage, &stage_place, found, &xattrs)?;
        // The times may have been set again after the first sync.
        self.make_durable(&file)?;
        note(&mut prepared.record, hashed, size, readback);
        self.apply_from_stage(prepared, (spot, stage_place), copy.identity);
        Ok(())
    }

    fn copy_special(
        &self,
        prepared: &mut Prepared<S>,
        part: &SourcePart<S>,
        branch: &MoverBranch<S>,
        found: &Metadata,
    ) -> Result<(), CrossingError> {
        let storage = &*self.storage;
        check_kind(&found.kind, &part.terms)?;
        prepared.enter("stage")?;
        let (spot, stage_place) = branch.in_stage(prepared.txid);
        prepared.staged = Some(stage_place.clone());
        storage
            .create_special(&stage_place.dir, &stage_place.name, &found.kind)
            .map_err(CrossingError::io("make the copy in", &branch.name))?;
        prepared.enter("meta")?;
        let xattrs = self.source_xattrs(&part.name)?;
        stage::dress(storage, &stage_place, found, &xattrs)?;
        prepared.enter("verify")?;
        let copy = stage::check_dress(storage, &stage_place, found, &xattrs)?;
        storage
            .sync_special(&stage_place.dir, &stage_place.name)
            .map_err(CrossingError::io("sync", "the copy"))?;
        if let Kind::Symlink(text) = &found.kind {
            prepared.record.sha256 = Some(stage::hash_text(text));
        }
        self.apply_from_stage(prepared, (spot, stage_place), copy.identity);
        Ok(())
    }

    fn apply_from_stage(
        &self,
        prepared: &mut Prepared<S>,
        staged: (Spot, Place<S>),
        identity: Identity,
    ) {
        prepared.moves.push(place(Act::Apply, &staged, &prepared.ends.target, &identity));
        prepared.arriving = identity;
    }
}

/// The part of a source that lies on one branch only.
fn only_part<S: Storage>(request: &CrossingRequest<S>) -> Result<&SourcePart<S>, CrossingError> {
    match request.sources.as_slice() {
        [part] if request.target_shadows.is_empty() => Ok(part),
        _ => Err(CrossingError::Parts),
    }
}

pub(super) fn place<S: Storage>(
    act: Act,
    from: &(Spot, Place<S>),
    to: &(Spot, Place<S>),
    identity: &Identity,
) -> PlacedMove<S> {
    PlacedMove {
        step: Move { act, from: from.0.clone(), to: to.0.clone(), identity: identity.clone() },
        from: from.1.clone(),
        to: to.1.clone(),
    }
}

fn note(record: &mut CrossingRecord, hashed: Hashed, size: u64, readback: &str) {
    record.sha256 = Some(hashed.sha256);
    record.size = Some(size);
    record.readback = Some(readback.to_owned());
}

fn check_type(found: ContentType, terms: &GateTerms) -> Result<(), CrossingError> {
    if check::allowed(&terms.types, found) {
        return Ok(());
    }
    Err(CrossingError::TypeNotAllowed { found: found.to_string(), allowed: terms.types.clone() })
}

/// A gate with types asks for content, which only regular files have.
fn check_kind(kind: &Kind, terms: &GateTerms) -> Result<(), CrossingError> {
    if terms.types.is_empty() {
        return Ok(());
    }
    let found = stage::special_type(kind).to_owned();
    Err(CrossingError::TypeNotAllowed { found, allowed: terms.types.clone() })
}
