//! The way of a crossing from PREPARE to VERIFY: everything that can be undone by forgetting it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::CrossingError;
use super::look::Opened;
use super::moves::{Place, PlacedMove};
use super::pass::{CopyTo, Hashed, pass};
use super::stage;
use super::stop::Stop;
use super::tree::Tree;
use super::{CrossingRequest, Moved, Mover, MoverBranch, Progress, SourcePart, later_step};
use crate::check::{self, ContentType};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, CrossingRecord, Move, Spot, Step};
use crate::policy::{GateTerms, Lossy};
use crate::storage::{Kind, Metadata, Storage};
use crate::types::{BranchIndex, Handle, Identity, TxId, ViewPath};

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
    /// What leaves, at least one; the first is what users see.
    pub(super) parts: Vec<Part<S>>,
    /// Where nothing may stand: what does is displaced.
    pub(super) targets: Vec<TargetEnd<S>>,
    pub(super) no_replace: bool,
    /// Whatever takes long is done before its rename(2).
    pub(super) only_commit: bool,
    /// In order, without DISPLACE: what stands at the target is known only at the decision.
    pub(super) moves: Vec<PlacedMove<S>>,
    /// The inode that will be at the target.
    pub(super) arriving: Identity,
    pub(super) moved: Vec<Moved>,
    /// What to do as a copy if the file systems turn out to be two.
    pub(super) again: Option<Box<CrossingRequest<S>>>,
    pub(super) staged: Option<Place<S>>,
    pub(super) ended: bool,
}

/// An opened name with what the ledger calls it.
pub(super) type End<S> = (Spot, Place<S>);

/// What one branch holds of the source.
pub(super) struct Part<S: Storage> {
    pub(super) branch: BranchIndex,
    pub(super) at: End<S>,
    /// Where RETIRE puts it.
    pub(super) hold: End<S>,
    /// As it was when it was hashed.
    pub(super) found: Metadata,
    pub(super) lease: Option<S::Lease>,
    /// What is below it, once it was walked.
    pub(super) tree: Option<Tree>,
}

/// A name at the target.
pub(super) struct TargetEnd<S: Storage> {
    pub(super) branch: BranchIndex,
    pub(super) at: End<S>,
    /// Where DISPLACE puts what stands there.
    pub(super) hold: End<S>,
}

impl<S: Storage> Prepared<S> {
    /// What stands at the target at the decision fails the crossing.
    pub fn forbid_replacing(&mut self) {
        self.no_replace = true;
    }

    /// What cannot be committed as it was prepared fails, and is not prepared anew: who prepared it does.
    pub fn only_commit(&mut self) {
        self.only_commit = true;
    }

    /// What its end will be told with, if it is dropped before its decision.
    pub fn note_stop(&self, stop: Stop) {
        self.progress.note_stop(stop);
    }

    /// Rolls back: nothing has been changed but the stage. Only for before COMMIT.
    pub(super) fn abort(&mut self, why: Option<&CrossingError>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.parts.clear();
        self.remove_staged();
        let reason = why.map_or_else(|| "given up".to_owned(), ToString::to_string);
        let errno = why.map_or(Errno::CANCELED, CrossingError::errno);
        let result = errno_name(errno).to_owned();
        let stopped_by = match why {
            Some(CrossingError::Cancelled(stop)) => stop.asked_by(),
            _ => None,
        };
        let record = later_step(&self.record, Step::Abort, Some(reason), result);
        let record = CrossingRecord { stopped_by, ..record };
        if let Err(error) = self.mover.record(record, Durability::Group) {
            log::warn!("crossing {}: rolled back, but {error}", self.txid);
        }
    }

    /// Removes the copy, if there is one.
    pub(super) fn remove_staged(&mut self) {
        if let Some(place) = self.staged.take() {
            let [_, target] = &self.record.branches;
            self.mover.remove_from_stage(target, &place);
        }
    }

    pub(super) fn enter(&self, step: &'static str) -> Result<(), CrossingError> {
        *self.progress.step.lock() = step;
        self.progress.check_cancel()
    }

    /// What users see of the source.
    pub(super) fn first(&self) -> Result<&Part<S>, CrossingError> {
        self.parts.first().ok_or(CrossingError::SourceGone)
    }

    pub(super) fn target(&self) -> Result<&TargetEnd<S>, CrossingError> {
        self.targets.first().ok_or(CrossingError::SourceGone)
    }
}

impl<S: Storage> Drop for Prepared<S> {
    fn drop(&mut self) {
        let stopped = self.progress.stop().map(CrossingError::Cancelled);
        self.abort(stopped.as_ref());
        self.mover.active.lock().remove(&self.txid);
    }
}

impl<S: Storage> Mover<S> {
    /// PREPARE to VERIFY of a crossing whose turn it is.
    pub(super) fn prepare_now(
        self: &Arc<Self>,
        request: CrossingRequest<S>,
        record: CrossingRecord,
    ) -> Result<Prepared<S>, CrossingError> {
        let txid = record.txid;
        let mut parts = Vec::with_capacity(request.sources.len());
        self.check_writable(request.target.branch)?;
        for source in &request.sources {
            self.check_writable(source.name.branch)?;
            parts.push(self.look_at_part(source, txid)?);
        }
        let (Some(first), Some(source)) = (parts.first_mut(), request.sources.first()) else {
            return Err(CrossingError::SourceGone);
        };
        let kind = first.found.kind.clone();
        if kind != Kind::Directory {
            check_size(first.found.identity.size, &source.terms)?;
        }
        let targets = std::iter::once(&request.target).chain(&request.target_shadows);
        for target in targets {
            let there = self.look_at_target(&target.place(), &kind, request.no_replace)?;
            if there.is_some() {
                self.check_writable(target.branch)?;
            }
        }
        let mut opened = None;
        if kind == Kind::File {
            let file = self.open_source(&first.at.1)?;
            // Only now is it certain that nobody writes.
            first.found = self.stat_file(&file.file)?;
            check_size(first.found.identity.size, &source.terms)?;
            opened = Some(file);
        }
        // Copies of special files cost nothing, and an inode of their own cannot be held open.
        let whole = parts.len() == 1 && matches!(kind, Kind::File | Kind::Directory);
        let same = whole && self.same_filesystem(&source.name, &request.target)?;
        let mut prepared = self.begin(&request, record, parts)?;
        match self.fill(&mut prepared, request, opened, same) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.abort(Some(&error));
                Err(error)
            }
        }
    }

    fn look_at_part(&self, source: &SourcePart<S>, txid: TxId) -> Result<Part<S>, CrossingError> {
        let branch = self.branch(source.name.branch)?;
        Ok(Part {
            branch: branch.index,
            at: branch.in_tree(&source.name),
            hold: branch.in_hold(txid),
            found: self.look_at_source(&source.name.place())?,
            lease: None,
            tree: None,
        })
    }

    /// Records PREPARE.
    fn begin(
        self: &Arc<Self>,
        request: &CrossingRequest<S>,
        record: CrossingRecord,
        parts: Vec<Part<S>>,
    ) -> Result<Prepared<S>, CrossingError> {
        let mut targets = Vec::new();
        for name in std::iter::once(&request.target).chain(&request.target_shadows) {
            let branch = self.branch(name.branch)?;
            let (at, hold) = (branch.in_tree(name), branch.in_hold(record.txid));
            targets.push(TargetEnd { branch: branch.index, at, hold });
        }
        let first = parts.first().ok_or(CrossingError::SourceGone)?;
        let size = (first.found.kind != Kind::Directory).then_some(first.found.identity.size);
        let record = CrossingRecord { size, ..record };
        let staged = self.branch(request.target.branch)?.in_stage(record.txid).0;
        let leaving = parts.iter().map(|part| (&part.at.0, &part.hold.0));
        let arriving = targets.first().map(|target| (&staged, &target.at.0));
        let displaced = targets.iter().map(|target| (&target.at.0, &target.hold.0));
        let lossy = request.sources.iter().any(|source| source.terms.lossy != Lossy::default());
        Self::check_length(&record, leaving.chain(displaced).chain(arriving), lossy)?;
        self.record(record.clone(), Durability::Group)?;
        let mut prepared = self.prepared(record, parts, targets)?;
        prepared.no_replace = request.no_replace;
        Ok(prepared)
    }

    /// Shows a transaction whose PREPARE is recorded; nothing is staged yet.
    pub(super) fn prepared(
        self: &Arc<Self>,
        record: CrossingRecord,
        parts: Vec<Part<S>>,
        targets: Vec<TargetEnd<S>>,
    ) -> Result<Prepared<S>, CrossingError> {
        let first = parts.first().ok_or(CrossingError::SourceGone)?;
        Ok(Prepared {
            txid: record.txid,
            source: record.source.clone(),
            target: record.target.clone(),
            progress: self.announce(&record, "prepare"),
            mover: Arc::clone(self),
            arriving: first.found.identity.clone(),
            record,
            parts,
            targets,
            no_replace: true,
            only_commit: false,
            moves: Vec::new(),
            moved: Vec::new(),
            again: None,
            staged: None,
            ended: false,
        })
    }

    /// STAGE to VERIFY.
    fn fill(
        &self,
        prepared: &mut Prepared<S>,
        request: CrossingRequest<S>,
        opened: Option<Opened<S>>,
        same: bool,
    ) -> Result<(), CrossingError> {
        let branch = &self.branch(request.target.branch)?;
        let found = prepared.first()?.found.clone();
        if found.kind == Kind::Directory {
            self.fill_directory(prepared, &request, branch, same)?;
        } else {
            let source = request.sources.first().ok_or(CrossingError::SourceGone)?;
            match opened {
                Some(opened) if same => self.hash_file(prepared, source, &found, opened)?,
                Some(opened) => self.copy_file(prepared, source, branch, &found, opened)?,
                None => self.copy_special(prepared, source, branch, &found)?,
            }
            let handle = prepared.arriving.handle.clone();
            prepared.moved = vec![self.moved_top(prepared, handle)?];
            self.read_hidden(prepared, &request)?;
            self.plan_moves(prepared, branch, None)?;
            self.check_sources(prepared)?;
        }
        let sources = request.sources.iter().map(|part| &part.name);
        let names = sources.chain([&request.target]).chain(&request.target_shadows);
        self.sync_ways_to(names.map(super::Name::way))?;
        prepared.record.lost = prepared.progress.lost();
        prepared.again = same.then(|| Box::new(request));
        let all = prepared.progress.files_all.load(Ordering::Relaxed);
        prepared.progress.files.store(all, Ordering::Relaxed);
        prepared.enter("prepared")
    }

    pub(super) fn moved_top(
        &self,
        prepared: &Prepared<S>,
        to: Handle,
    ) -> Result<Moved, CrossingError> {
        let first = prepared.first()?;
        let from = (first.branch, first.found.identity.handle.clone());
        Ok(Moved { from, to: (prepared.target()?.branch, to) })
    }

    /// RETIRE of every part and APPLY of the copy; or APPLY alone where nothing was copied. `copied` is
    /// the digest of a copied tree.
    pub(super) fn plan_moves(
        &self,
        prepared: &mut Prepared<S>,
        branch: &MoverBranch<S>,
        copied: Option<String>,
    ) -> Result<(), CrossingError> {
        let mut moves = Vec::new();
        let target = prepared.target()?.at.clone();
        if prepared.staged.is_some() {
            for part in &prepared.parts {
                moves.push(part.moved_to(Act::Retire, &part.hold));
            }
            let staged = branch.in_stage(prepared.txid);
            let mut apply = place(Act::Apply, &staged, &target, &prepared.arriving);
            apply.step.below = copied;
            moves.push(apply);
        } else {
            moves.push(prepared.first()?.moved_to(Act::Apply, &target));
        }
        prepared.moves = moves;
        Ok(())
    }

    /// Hashes what will only be renamed.
    fn hash_file(
        &self,
        prepared: &mut Prepared<S>,
        source: &SourcePart<S>,
        found: &Metadata,
        opened: Opened<S>,
    ) -> Result<(), CrossingError> {
        prepared.enter("check")?;
        let size = found.identity.size;
        let hashed = pass(&*self.storage, &opened.file, None, size, &prepared.progress)?;
        check_type(hashed.content_type, &source.terms)?;
        self.ask_commands(source, &opened.file, None, "".as_ref(), &prepared.progress)?;
        note(&mut prepared.record, hashed, size, "same");
        self.make_durable(&opened.file)?;
        self.keep_lease(prepared, opened)
    }

    fn keep_lease(
        &self,
        prepared: &mut Prepared<S>,
        opened: Opened<S>,
    ) -> Result<(), CrossingError> {
        let first = prepared.parts.first_mut().ok_or(CrossingError::SourceGone)?;
        first.lease = opened.lease;
        Ok(())
    }

    fn copy_file(
        &self,
        prepared: &mut Prepared<S>,
        part: &SourcePart<S>,
        branch: &MoverBranch<S>,
        found: &Metadata,
        opened: Opened<S>,
    ) -> Result<(), CrossingError> {
        let storage = &*self.storage;
        prepared.enter("stage")?;
        let (_, stage_place) = branch.in_stage(prepared.txid);
        let size = found.identity.size;
        prepared.staged = Some(stage_place.clone());
        let file = stage::make_file(storage, branch, &stage_place, &opened.file, size)?;
        let verify = part.terms.verify;
        let copy = CopyTo { file: &file, branch: &branch.name, verify };
        let hashed = pass(storage, &opened.file, Some(copy), size, &prepared.progress)?;
        prepared.enter("check")?;
        check_type(hashed.content_type, &part.terms)?;
        self.ask_commands(part, &file, Some(&stage_place), "".as_ref(), &prepared.progress)?;
        prepared.enter("meta")?;
        let xattrs = self.source_xattrs(&part.name)?;
        let progress = Arc::clone(&prepared.progress);
        let losses = stage::Losses { lossy: Some(&part.terms.lossy), progress: &progress };
        stage::dress(storage, &stage_place, found, &xattrs, losses)?;
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
        let copy = stage::check_dress(storage, &stage_place, found, &xattrs, losses)?;
        // The times may have been set again after the first sync.
        self.make_durable(&file)?;
        note(&mut prepared.record, hashed, size, readback);
        prepared.arriving = copy.identity;
        self.make_durable(&opened.file)?;
        self.keep_lease(prepared, opened)
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
        let (_, stage_place) = branch.in_stage(prepared.txid);
        prepared.staged = Some(stage_place.clone());
        storage
            .create_special(&stage_place.dir, &stage_place.name, &found.kind)
            .map_err(CrossingError::io("make the copy in", &branch.name))?;
        prepared.enter("meta")?;
        let xattrs = self.source_xattrs(&part.name)?;
        let progress = Arc::clone(&prepared.progress);
        let losses = stage::Losses { lossy: Some(&part.terms.lossy), progress: &progress };
        stage::dress(storage, &stage_place, found, &xattrs, losses)?;
        prepared.enter("verify")?;
        let copy = stage::check_dress(storage, &stage_place, found, &xattrs, losses)?;
        storage
            .sync_special(&stage_place.dir, &stage_place.name)
            .map_err(CrossingError::io("sync", "the copy"))?;
        if let Kind::Symlink(text) = &found.kind {
            prepared.record.sha256 = Some(stage::hex(&stage::hash_text(text)));
        }
        prepared.arriving = copy.identity;
        Ok(())
    }
}

impl<S: Storage> Part<S> {
    pub(super) fn moved_to(&self, act: Act, to: &End<S>) -> PlacedMove<S> {
        let mut moved = place(act, &self.at, to, &self.found.identity);
        moved.step.below = self.tree.as_ref().map(Tree::digest);
        moved
    }
}

pub(super) fn place<S: Storage>(
    act: Act,
    from: &End<S>,
    to: &End<S>,
    identity: &Identity,
) -> PlacedMove<S> {
    let (identity, below) = (identity.clone(), None);
    PlacedMove {
        step: Move { act, from: from.0.clone(), to: to.0.clone(), identity, below },
        from: from.1.clone(),
        to: to.1.clone(),
    }
}

fn note(record: &mut CrossingRecord, hashed: Hashed, size: u64, readback: &str) {
    record.sha256 = Some(hashed.sha256);
    record.size = Some(size);
    record.readback = Some(readback.to_owned());
}

pub(super) fn check_size(size: u64, terms: &GateTerms) -> Result<(), CrossingError> {
    match terms.max_size {
        Some(max) if size > max => Err(CrossingError::TooLarge { size, max }),
        _ => Ok(()),
    }
}

pub(super) fn check_type(found: ContentType, terms: &GateTerms) -> Result<(), CrossingError> {
    if check::allowed(&terms.types, found) {
        return Ok(());
    }
    Err(CrossingError::TypeNotAllowed { found: found.to_string(), allowed: terms.types.clone() })
}

/// A gate with types or commands asks for content, which only regular files have.
pub(super) fn check_kind(kind: &Kind, terms: &GateTerms) -> Result<(), CrossingError> {
    let found = || stage::special_type(kind).to_owned();
    if !terms.types.is_empty() {
        return Err(CrossingError::TypeNotAllowed { found: found(), allowed: terms.types.clone() });
    }
    if !terms.checks.is_empty() {
        return Err(CrossingError::NothingToCheck { found: found() });
    }
    Ok(())
}
