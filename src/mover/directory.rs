//! PREPARE to VERIFY of a directory, and of everything else that several branches hold together.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::copy::{Arrived, Copy, Origin, Work};
use super::error::CrossingError;
use super::manifest::Manifest;
use super::merge::{self, Plan, Trees};
use super::moves::Place;
use super::prepare::{Part, Prepared, check_kind, check_size};
use super::stage::{self, Losses};
use super::tree::{Digest, Item, Tree, entry_error};
use super::{CrossingRequest, Moved, Mover, MoverBranch, Progress, SourcePart};
use crate::policy::GateTerms;
use crate::storage::{Kind, Storage};
use crate::types::{BranchIndex, Handle, Identity};

/// What a file takes at least, in bytes: a block.
const BLOCK: u64 = 4096;

/// The open directory of a part, on which its file system is synced.
pub(super) type Top<S> = Option<<S as Storage>::Dir>;

impl<S: Storage> Mover<S> {
    /// Opens the directories among the parts, and walks them.
    pub(super) fn read_parts(
        &self,
        parts: &mut [Part<S>],
        progress: &Progress,
    ) -> Result<Vec<Top<S>>, CrossingError> {
        let mut tops = Vec::with_capacity(parts.len());
        for part in parts {
            tops.push(None);
            if part.found.kind != Kind::Directory {
                continue;
            }
            let top = self.open_at(&part.at.1).map_err(entry_error("open", "".as_ref()))?;
            part.tree = Some(Tree::read(&*self.storage, &top, &|| progress.check_cancel())?);
            if let Some(slot) = tops.last_mut() {
                *slot = Some(top);
            }
        }
        Ok(tops)
    }

    /// Makes what the parts hold durable, unless each file was synced by itself.
    pub(super) fn sync_parts(
        &self,
        parts: &[Part<S>],
        tops: &[Top<S>],
    ) -> Result<(), CrossingError> {
        let storage = &*self.storage;
        for (part, top) in parts.iter().zip(tops) {
            let (Some(top), Some(tree)) = (top, &part.tree) else { continue };
            if self.syncs_whole(top)? {
                storage
                    .sync_file_system(top)
                    .map_err(CrossingError::io("sync", "the file system of the source"))?;
                continue;
            }
            let mut folders = super::tree::Folders::<S>::new(top.clone());
            for number in 0..tree.dirs.len() {
                let dir = folders.open(storage, &tree.dirs, number)?;
                storage.sync_dir(&dir).map_err(CrossingError::io("sync", "the source"))?;
            }
        }
        Ok(())
    }

    fn syncs_whole(&self, dir: &S::Dir) -> Result<bool, CrossingError> {
        self.storage.syncs_whole(dir).map_err(CrossingError::io("look at", "the file system"))
    }

    /// What the work on a part needs to know.
    pub(super) fn origins<'a>(
        &self,
        tops: &[Top<S>],
        leaving: impl Fn(usize) -> Option<&'a SourcePart<S>>,
    ) -> Result<Vec<Option<Origin<'a, S>>>, CrossingError> {
        let mut origins = Vec::with_capacity(tops.len());
        for (part, top) in tops.iter().enumerate() {
            let Some(top) = top else {
                origins.push(None);
                continue;
            };
            let sync_each = !self.syncs_whole(top)?;
            origins.push(Some(Origin { top: top.clone(), leaving: leaving(part), sync_each }));
        }
        Ok(origins)
    }

    /// Leases, reads and syncs the parts that an earlier one hides: they leave, and do not arrive.
    pub(super) fn read_hidden(
        &self,
        prepared: &mut Prepared<S>,
        request: &CrossingRequest<S>,
    ) -> Result<(), CrossingError> {
        let progress = std::sync::Arc::clone(&prepared.progress);
        let hidden = prepared.parts.get_mut(1..).unwrap_or_default();
        let tops = self.read_parts(hidden, &progress)?;
        for (number, part) in (1..).zip(&mut *hidden) {
            if let Some(tree) = &part.tree {
                merge::same_inodes(0, tree, &mut HashMap::new())?;
                merge::ask(number, tree, &|_| false, &request.admit)?;
            }
        }
        self.lease_hidden(hidden)?;
        self.sync_parts(hidden, &tops)
    }

    /// Files that a directory of an earlier part hides, or a file.
    fn lease_hidden(&self, hidden: &mut [Part<S>]) -> Result<(), CrossingError> {
        for part in hidden.iter_mut().filter(|part| part.found.kind == Kind::File) {
            let opened = self.open_source(&part.at.1)?;
            part.found = self.stat_file(&opened.file)?;
            self.make_durable(&opened.file)?;
            part.lease = opened.lease;
        }
        Ok(())
    }

    /// STAGE to VERIFY of a directory.
    pub(super) fn fill_directory(
        &self,
        prepared: &mut Prepared<S>,
        request: &CrossingRequest<S>,
        branch: &MoverBranch<S>,
        same: bool,
    ) -> Result<(), CrossingError> {
        let mut parts = std::mem::take(&mut prepared.parts);
        let filled = self.fill_parts(prepared, &mut parts, request, branch, same);
        prepared.parts = parts;
        let copied = filled?;
        self.plan_moves(prepared, branch, copied)
    }

    /// Gives the digest of the copy, if there is one.
    fn fill_parts(
        &self,
        prepared: &mut Prepared<S>,
        parts: &mut [Part<S>],
        request: &CrossingRequest<S>,
        branch: &MoverBranch<S>,
        same: bool,
    ) -> Result<Option<String>, CrossingError> {
        let progress = std::sync::Arc::clone(&prepared.progress);
        let tops = self.read_parts(parts, &progress)?;
        self.lease_hidden(parts.get_mut(1..).unwrap_or_default())?;
        let trees: Vec<Option<&Tree>> = parts.iter().map(|part| part.tree.as_ref()).collect();
        let plan = Plan::of(&trees)?;
        plan.ask(&trees, &request.admit)?;
        let links = plan.links(&trees)?;
        let terms = |part: usize| request.sources.get(part).map(|source| &*source.terms);
        let size = measure(&plan, &trees, &links, &terms)?;
        progress.size.store(size, Ordering::Relaxed);
        progress.files_all.store((plan.entries.len() as u64).saturating_add(1), Ordering::Relaxed);
        prepared.record.size = Some(size);
        let mut work = Work {
            mover: self,
            origins: self.origins(&tops, |part| request.sources.get(part))?,
            trees: &trees,
            plan: &plan,
            links: &links,
            copy: None,
            progress: &progress,
            large: Mutex::default(),
        };
        if same {
            prepared.enter("check")?;
            let arrived = work.transfer()?;
            self.sync_parts(parts, &tops)?;
            prepared.record.sha256 = Some(manifest(&plan, &trees, &arrived)?);
            prepared.record.readback = Some("same".to_owned());
            let target = prepared.target()?.branch;
            prepared.moved = moved(&plan, &trees, parts, target, None)?;
            return Ok(None);
        }
        trees.iter().flatten().try_for_each(|tree| tree.check_fixed())?;
        let arrived = self.copy_tree(prepared, parts, branch, &mut work)?;
        self.sync_parts(parts, &tops)?;
        prepared.record.sha256 = Some(manifest(&plan, &trees, &arrived)?);
        let top = prepared.arriving.handle.clone();
        let digest = copied_digest(&plan, &trees, &arrived)?;
        prepared.moved = moved(&plan, &trees, parts, branch.index, Some((top, arrived)))?;
        Ok(Some(digest))
    }

    /// Builds the copy in stage, makes it durable and reads it back.
    fn copy_tree<'a>(
        &self,
        prepared: &mut Prepared<S>,
        parts: &[Part<S>],
        branch: &'a MoverBranch<S>,
        work: &mut Work<'a, S>,
    ) -> Result<Vec<Arrived>, CrossingError> {
        let storage = &*self.storage;
        prepared.enter("stage")?;
        self.check_room(branch, work)?;
        let (_, staged) = branch.in_stage(prepared.txid);
        prepared.staged = Some(staged.clone());
        storage
            .create_dir(&staged.dir, &staged.name)
            .map_err(CrossingError::io("make the copy in", &branch.name))?;
        let open = || self.open_at(&staged).map_err(CrossingError::io("open", "the copy"));
        let top = open()?;
        // It alone is told of what the file system could not write from here on.
        let syncing = open()?;
        let whole = self.syncs_whole(&top)?;
        work.copy = Some(Copy { branch: &branch.name, top: top.clone(), sync_each: !whole });
        work.make_directories(&top)?;
        let mut arrived = work.transfer()?;
        prepared.enter("meta")?;
        work.make_links(&top)?;
        work.dress_directories(&top, &mut arrived)?;
        let losses = work.losses(work.origins.first().and_then(Option::as_ref));
        self.dress_top(parts, &staged, losses)?;
        prepared.enter("verify")?;
        let sync = || {
            let synced =
                if whole { storage.sync_file_system(&syncing) } else { storage.sync_dir(&top) };
            synced.map_err(CrossingError::io("sync", "the copy"))
        };
        sync()?;
        prepared.progress.bytes.store(0, Ordering::Relaxed);
        let (readback, dressed) = work.read_back(&arrived)?;
        if dressed && whole {
            sync()?;
        }
        prepared.record.readback = Some(readback.to_owned());
        prepared.arriving = self.look_at_copy(&staged)?;
        Ok(arrived)
    }

    fn look_at_copy(&self, staged: &Place<S>) -> Result<Identity, CrossingError> {
        let found = self.storage.stat(&staged.dir, &staged.name);
        let found = found.map_err(CrossingError::io("look at", "the copy"))?;
        found
            .map(|found| found.identity)
            .ok_or_else(|| CrossingError::io("find", "the copy")(crate::error::Errno::NOENT))
    }

    /// The first part's directory is the one whose attributes users see, but for the time of its last change:
    /// that is the newest of all parts'.
    fn dress_top(
        &self,
        parts: &[Part<S>],
        staged: &Place<S>,
        losses: Losses<'_>,
    ) -> Result<(), CrossingError> {
        let part = parts.first().ok_or(CrossingError::SourceGone)?;
        let source = &part.at.1;
        let xattrs = self
            .storage
            .xattrs(&source.dir, &source.name)
            .map_err(CrossingError::io("read the extended attributes of", "the source"))?;
        let directories = parts.iter().filter(|part| part.found.kind == Kind::Directory);
        let mut found = part.found.clone();
        let changed = directories.map(|part| part.found.identity.mtime).max();
        found.identity.mtime = changed.unwrap_or(found.identity.mtime);
        stage::dress(&*self.storage, staged, &found, &xattrs, losses)?;
        stage::check_dress(&*self.storage, staged, &found, &xattrs, losses).map(drop)
    }

    /// Whether the target has room for the whole tree, in bytes and in inodes. Holes take none: they
    /// are looked for only when it matters.
    fn check_room(&self, branch: &MoverBranch<S>, work: &Work<'_, S>) -> Result<(), CrossingError> {
        let needed = (work.plan.entries.len() as u64).saturating_add(1);
        let free = self
            .storage
            .free_inodes(&branch.stage)
            .map_err(CrossingError::io("ask for free inodes of", &branch.name))?;
        if free < needed {
            return Err(CrossingError::NoInodes { branch: branch.name.clone(), needed, free });
        }
        let mut bytes = BLOCK;
        for entry in &work.plan.entries {
            let item = work.plan.item(work.trees, *entry)?;
            let length = if item.letter == b'f' { item.measure } else { 1 };
            bytes = bytes.saturating_add(length.div_ceil(BLOCK).saturating_mul(BLOCK));
        }
        match stage::check_space(&*self.storage, branch, bytes) {
            Err(CrossingError::NoSpace { .. }) => {
                stage::check_space(&*self.storage, branch, work.data_bytes()?)
            }
            checked => checked,
        }
    }
}

/// The bytes that will arrive, each inode once. What the gate refuses by size or kind is refused
/// here, before anything is copied.
fn measure<'a>(
    plan: &Plan,
    trees: Trees<'_>,
    links: &[(u32, u32)],
    terms: &dyn Fn(usize) -> Option<&'a GateTerms>,
) -> Result<u64, CrossingError> {
    let mut size = 0_u64;
    let mut further = links.iter().map(|(at, _)| *at as usize).peekable();
    for (at, entry) in plan.entries.iter().enumerate() {
        let item = plan.item(trees, *entry)?;
        let checked = terms(usize::from(entry.part)).map_or(Ok(()), |terms| check(&item, terms));
        checked.map_err(|why| why.at(|| plan.dirs.path(entry.dir).join(item.name)))?;
        if further.next_if_eq(&at).is_none() && item.letter == b'f' {
            size = size.saturating_add(item.measure);
        }
    }
    Ok(size)
}

/// A directory has no content that a gate could ask for. Links and special files have none either, and
/// are refused in a tree as they are alone.
fn check(item: &Item<'_>, terms: &GateTerms) -> Result<(), CrossingError> {
    match item.letter {
        b'd' => Ok(()),
        b'f' => check_size(item.measure, terms),
        _ => check_kind(&merge::kind(item), terms),
    }
}

pub(super) fn manifest(
    plan: &Plan,
    trees: Trees<'_>,
    arrived: &[Arrived],
) -> Result<String, CrossingError> {
    let mut manifest = Manifest::new();
    let mut folder = (u32::MAX, std::path::PathBuf::new());
    for (entry, arrived) in plan.entries.iter().zip(arrived) {
        if folder.0 != entry.dir {
            folder = (entry.dir, plan.dirs.path(entry.dir));
        }
        manifest.add(plan.item(trees, *entry)?, &folder.1, &arrived.sha256);
    }
    Ok(manifest.finish())
}

/// The digest of the copy. It has the source's names, lengths and times: only the inodes are others.
fn copied_digest(
    plan: &Plan,
    trees: Trees<'_>,
    arrived: &[Arrived],
) -> Result<String, CrossingError> {
    let mut digest = Digest::new();
    for (entry, arrived) in plan.entries.iter().zip(arrived) {
        let item = plan.item(trees, *entry)?;
        let (handle, _) = arrived.copy.as_ref().ok_or(CrossingError::SourceChanged)?;
        digest.add(Item { dir: entry.dir, handle: (handle.kind, &handle.bytes), ..item });
    }
    Ok(digest.finish())
}

/// What the view must point at the target: `copied` has the copy's top and the rest; without it the
/// inodes stay what they are.
fn moved<S: Storage>(
    plan: &Plan,
    trees: Trees<'_>,
    parts: &[Part<S>],
    target: BranchIndex,
    copied: Option<(Handle, Vec<Arrived>)>,
) -> Result<Vec<Moved>, CrossingError> {
    let branch = |part: u16| {
        let part = parts.get(usize::from(part)).ok_or(CrossingError::SourceGone)?;
        Ok::<_, CrossingError>((part.branch, &part.found.identity.handle))
    };
    let (top, arrived) = copied.unzip();
    let mut all = Vec::with_capacity(plan.entries.len().saturating_add(parts.len()));
    let mut members = plan.members().peekable();
    while let Some((_, part, _)) = members.next_if(|(dir, _, _)| *dir == 0) {
        let (branch, handle) = branch(part)?;
        let to = top.clone().unwrap_or_else(|| handle.clone());
        all.push(Moved { from: (branch, handle.clone()), to: (target, to) });
    }
    let mut arrived = arrived.unwrap_or_default().into_iter();
    for entry in &plan.entries {
        let item = plan.item(trees, *entry)?;
        let copy = arrived.next().and_then(|arrived| arrived.copy).map(|(handle, _)| handle);
        let to = copy.unwrap_or_else(|| item.handle());
        if item.letter != b'd' {
            all.push(Moved { from: (branch(entry.part)?.0, item.handle()), to: (target, to) });
            continue;
        }
        let Some(&(dir, _, _)) = members.peek() else { continue };
        while let Some((_, part, number)) = members.next_if(|member| member.0 == dir) {
            let tree = trees.get(usize::from(part)).copied().flatten();
            let node = tree.and_then(|tree| tree.item(tree.node_of(number)?).ok());
            let from = node.ok_or(CrossingError::SourceGone)?.handle();
            all.push(Moved { from: (branch(part)?.0, from), to: (target, to.clone()) });
        }
    }
    Ok(all)
}
