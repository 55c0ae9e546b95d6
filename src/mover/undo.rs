//! Undo: what a crossing moved to hold goes back to its name, by the same way as a crossing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::copy::Work;
use super::directory::manifest;
use super::error::CrossingError;
use super::journal::{Transaction, TransactionState};
use super::merge::Plan;
use super::moves::Place;
use super::pass::pass;
use super::prepare::{Part, Prepared, TargetEnd, place};
use super::sabotage::sabotaged;
use super::tree::Tree;
use super::{Admit, Moved, Mover, MoverBranch, Progress, stage};
use crate::ledger::Durability;
use crate::ledger::record::{Act, Area, CrossingRecord, Move, Spot, Step};
use crate::storage::{Kind, Metadata, Storage};
use crate::types::{BranchIndex, Caller, Handle, TxId};

impl<S: Storage> Mover<S> {
    /// An undo whose turn it is; `record` is what will be recorded of it.
    pub(super) fn prepare_undo_now(
        self: &Arc<Self>,
        caller: Caller,
        may_any: bool,
        undone: TxId,
        record: CrossingRecord,
        admit: &Admit,
    ) -> Result<Prepared<S>, CrossingError> {
        let original = self.undoable(caller, may_any, undone)?;
        let Some(applied) = original.moves.iter().find(|step| step.act == Act::Apply) else {
            return Err(impossible(undone, "its record names no target"));
        };
        let mut targets = Vec::new();
        let retired: Vec<&Move> = all(&original, Act::Retire).collect();
        let homes: Vec<&Spot> = match retired.as_slice() {
            [] => vec![&applied.from],
            retired => retired.iter().map(|step| &step.from).collect(),
        };
        for home in homes {
            let at = self.spot(home)?;
            self.look_at_target(&at.1, &Kind::File, true)?;
            let branch = self.branch_of(home)?;
            self.check_writable(branch.index)?;
            targets.push(TargetEnd { branch: branch.index, at, hold: branch.in_hold(record.txid) });
        }
        let at = self.spot(&applied.to)?;
        let found = self.look_at_source(&at.1).map_err(|error| match error {
            CrossingError::SourceGone => impossible(undone, "nothing is at its target any more"),
            other => other,
        })?;
        for held in retired.iter().copied().chain(all(&original, Act::Displace)) {
            self.check_held(undone, held)?;
        }
        let branch = self.branch_of(&applied.to)?;
        self.check_writable(branch.index)?;
        let hold = branch.in_hold(record.txid);
        let part = Part { branch: branch.index, at, hold, found, lease: None, tree: None };
        let leaving = retired.first().map(|_| (&part.at.0, &part.hold.0));
        let held = retired.iter().map(|step| &step.to).chain([&applied.to]);
        let arriving = held.zip(targets.iter().map(|target| &target.at.0));
        let restored = all(&original, Act::Displace).map(|step| (&step.to, &step.from));
        Self::check_length(&record, leaving.into_iter().chain(arriving).chain(restored), false)?;
        {
            // What was looked at, on disks that may hang, is there as long as no purge is recorded.
            let _purging = self.purging.lock();
            self.undoable(caller, may_any, undone)?;
            self.record(record.clone(), Durability::Group)?;
        }
        let mut prepared = self.prepared(record, vec![part], targets)?;
        match self.fill_undo(&mut prepared, (&original, may_any), admit) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.abort(Some(&error));
                Err(error)
            }
        }
    }

    /// Whether hold has what taking back a crossing needs, as [`Mover::prepare_undo`] would find it.
    pub fn check_hold(&self, txid: TxId) -> Result<(), CrossingError> {
        let found =
            self.with_journal(|journal| journal.get(txid).map(|found| found.record.clone()));
        let record = found.ok_or(CrossingError::UndoUnknown { txid })?;
        let held = all(&record, Act::Retire).chain(all(&record, Act::Displace));
        held.into_iter().try_for_each(|held| self.check_held(txid, held).map(drop))
    }

    /// The COMMIT record of a transaction that may be taken back.
    pub(super) fn undoable(
        &self,
        caller: Caller,
        may_any: bool,
        txid: TxId,
    ) -> Result<CrossingRecord, CrossingError> {
        let found = self.with_journal(|journal| journal.get(txid).cloned());
        let found = found.ok_or(CrossingError::UndoUnknown { txid })?;
        if found.record.uid != caller.uid && !may_any {
            return Err(CrossingError::UndoNotYours { txid });
        }
        check_done(txid, &found)?;
        if found.record.rearrangement {
            return Err(impossible(txid, "it is a rename within a pool; rename back instead"));
        }
        if found.record.undoes.is_some() {
            return Err(impossible(txid, "it is an undo itself; cross again instead"));
        }
        if found.purged && !sabotaged("undo: not purged") {
            return Err(impossible(txid, found.why_not_kept()));
        }
        Ok(found.record)
    }

    /// The branch that a record names, unless it is offline or has left for good.
    pub fn index_of(&self, spot: &Spot) -> Result<BranchIndex, CrossingError> {
        Ok(self.branch_of(spot)?.index)
    }

    fn branch_of(&self, spot: &Spot) -> Result<Arc<MoverBranch<S>>, CrossingError> {
        let uuid = spot.branch;
        self.branch_by_uuid(uuid).ok_or_else(|| match self.is_past(uuid) {
            true => self.no_branch(uuid),
            false => CrossingError::Offline { branch: self.name_of(uuid) },
        })
    }

    fn spot(&self, spot: &Spot) -> Result<(Spot, Place<S>), CrossingError> {
        let place = self.open_in(&*self.branch_of(spot)?, spot)?;
        Ok((spot.clone(), place))
    }

    /// What hold should keep must be there, as it was when it came.
    fn check_held(&self, undone: TxId, held: &Move) -> Result<Metadata, CrossingError> {
        if held.to.area != Area::Hold {
            return Err(impossible(undone, "its record is not understood"));
        }
        let (_, place) = self.spot(&held.to)?;
        let found = self
            .storage
            .stat(&place.dir, &place.name)
            .map_err(CrossingError::io("look at", "what is held"))?
            .ok_or_else(|| impossible(undone, "what it moved to hold is gone"))?;
        let same = match held.act {
            Act::Retire if found.kind == Kind::File => found.identity.same_content(&held.identity),
            Act::Retire | Act::Displace | Act::Apply | Act::Restore | Act::Rename => {
                found.identity.handle == held.identity.handle
            }
        };
        match same || sabotaged("undo: what is held") {
            true => Ok(found),
            false => Err(impossible(undone, "what it moved to hold has changed")),
        }
    }

    pub(super) fn undo_record(
        &self,
        caller: Caller,
        exe: Option<Arc<str>>,
        original: &CrossingRecord,
    ) -> CrossingRecord {
        let [from, to] = &original.branches;
        CrossingRecord {
            txid: TxId(ulid::Ulid::generate()),
            step: Step::Prepare,
            gate: None,
            undoes: Some(original.txid),
            rearrangement: false,
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            exe,
            source: original.target.clone(),
            target: original.source.clone(),
            branches: [to.clone(), from.clone()],
            sha256: None,
            size: original.size,
            readback: None,
            lost: Vec::new(),
            moves: Vec::new(),
            replaced: None,
            reason: None,
            stopped_by: None,
            result: None,
        }
    }

    /// The target must have the content that COMMIT promised, and keep it until the decision; and so
    /// must hold.
    fn fill_undo(
        &self,
        prepared: &mut Prepared<S>,
        (original, may_any): (&CrossingRecord, bool),
        admit: &Admit,
    ) -> Result<(), CrossingError> {
        let undone = original.txid;
        let found = prepared.first()?.found.clone();
        let arrived = all(original, Act::Apply).next();
        prepared.enter("check")?;
        let sha256 = match &found.kind {
            Kind::File => Some(self.hash_target(prepared)?),
            Kind::Directory => Some(self.hash_tree(prepared, admit)?),
            Kind::Symlink(text) => Some(stage::hex(&stage::hash_text(text))),
            _ if arrived.is_some_and(|step| step.identity.handle == found.identity.handle)
                || sabotaged("undo: the special file at the target") =>
            {
                None
            }
            _ => return Err(impossible(undone, "its target has been replaced")),
        };
        if sha256 != original.sha256 && !sabotaged("undo: the target's content") {
            return Err(impossible(undone, "its target has changed since"));
        }
        prepared.record.sha256 = sha256;
        prepared.record.readback = Some("same".to_owned());
        self.plan_undo(prepared, original, may_any)?;
        let targets = prepared.targets.iter().map(|target| &target.at.0);
        let ways = targets.map(|spot| Ok((self.branch_of(spot)?.index, spot.path.as_path())));
        self.sync_ways_to(ways.collect::<Result<Vec<_>, CrossingError>>()?.into_iter())?;
        prepared.enter("prepared")
    }

    fn hash_target(&self, prepared: &mut Prepared<S>) -> Result<String, CrossingError> {
        let part = prepared.parts.first_mut().ok_or(CrossingError::SourceGone)?;
        let opened = self.open_source(&part.at.1)?;
        part.found = self.stat_file(&opened.file)?;
        let size = part.found.identity.size;
        let hashed = pass(&*self.storage, &opened.file, None, size, &prepared.progress)?;
        self.make_durable(&opened.file)?;
        part.lease = opened.lease;
        Ok(hashed.sha256)
    }

    fn hash_tree(
        &self,
        prepared: &mut Prepared<S>,
        admit: &Admit,
    ) -> Result<String, CrossingError> {
        let tops = self.read_parts(&mut prepared.parts, &prepared.progress)?;
        let trees: Vec<Option<&Tree>> =
            prepared.parts.iter().map(|part| part.tree.as_ref()).collect();
        let plan = Plan::of(&trees)?;
        plan.ask(&trees, admit)?;
        let links = plan.links(&trees)?;
        prepared
            .progress
            .files_all
            .store((plan.entries.len() as u64).saturating_add(1), Ordering::Relaxed);
        let work = Work {
            mover: self,
            origins: self.origins(&tops, |_| None)?,
            trees: &trees,
            plan: &plan,
            links: &links,
            copy: None,
            progress: &prepared.progress,
            large: Mutex::default(),
        };
        let arrived = work.transfer()?;
        self.sync_parts(&prepared.parts, &tops)?;
        manifest(&plan, &trees, &arrived)
    }

    /// The moves, and what the view must point back.
    fn plan_undo(
        &self,
        prepared: &mut Prepared<S>,
        original: &CrossingRecord,
        may_any: bool,
    ) -> Result<(), CrossingError> {
        let part = prepared.first()?;
        let mut moves = Vec::new();
        let mut moved = Vec::new();
        let retired: Vec<&Move> = all(original, Act::Retire).collect();
        match retired.first() {
            None => {
                let target = prepared.target()?;
                moves.push(part.moved_to(Act::Apply, &target.at));
                let handle = &part.found.identity.handle;
                let branches = [part.branch, target.branch];
                moved.push(moved_from(branches, handle.clone(), handle.clone()));
                let items = part.tree.iter().flat_map(Tree::items);
                moved.extend(items.map(|item| moved_from(branches, item.handle(), item.handle())));
            }
            Some(first) => {
                moves.push(part.moved_to(Act::Retire, &part.hold));
                let held = self.read_held(original.txid, &retired, &prepared.progress)?;
                moved = self.moved_back(original.txid, part, &retired, &held)?;
                if !may_any {
                    self.check_granted(original, part, (&retired, &held), &prepared.progress)?;
                }
                prepared.arriving = first.identity.clone();
            }
        }
        for (step, target) in retired.iter().zip(&prepared.targets) {
            let mut apply = place(Act::Apply, &self.spot(&step.to)?, &target.at, &step.identity);
            apply.step.below.clone_from(&step.below);
            moves.push(apply);
        }
        for step in all(original, Act::Displace) {
            // Who had it open when it made way may have written to it since.
            let as_held = self.check_held(original.txid, step)?.identity;
            let (held, home) = (self.spot(&step.to)?, self.spot(&step.from)?);
            moves.push(place(Act::Restore, &held, &home, &as_held));
        }
        prepared.moves = moves;
        prepared.moved = moved;
        Ok(())
    }

    /// What hold has of the parts that were directories must be as it came.
    fn read_held(
        &self,
        undone: TxId,
        retired: &[&Move],
        progress: &Progress,
    ) -> Result<Vec<Option<Tree>>, CrossingError> {
        let mut held = Vec::with_capacity(retired.len());
        for step in retired {
            if step.below.is_none() {
                held.push(None);
                continue;
            }
            let (_, place) = self.spot(&step.to)?;
            let top = self.open_at(&place).map_err(CrossingError::io("open", "what is held"))?;
            let tree = Tree::read(&*self.storage, &top, &|| progress.check_cancel())?;
            let same = Some(tree.digest()) == step.below;
            if !same && !sabotaged("undo: what is below what is held") {
                return Err(impossible(undone, "what it moved to hold has changed"));
            }
            held.push(Some(tree));
        }
        Ok(held)
    }

    /// What came back would be as open to others, and as free of labels, as it was when it left.
    fn check_granted(
        &self,
        original: &CrossingRecord,
        part: &Part<S>,
        (retired, held): (&[&Move], &[Option<Tree>]),
        progress: &Progress,
    ) -> Result<(), CrossingError> {
        let places = retired.iter().map(|step| Ok(self.spot(&step.to)?.1));
        let places = places.collect::<Result<Vec<_>, CrossingError>>()?;
        match self.find_regranted(part, (&places, held), &original.lost, progress)? {
            None => Ok(()),
            Some(below) => {
                let target = original.target.as_path().components();
                let path: PathBuf = target.chain(below.components()).collect();
                let why = format!(
                    "owner, permissions or label of {} have changed since: unless they are as \
                     they were, only root and who mounted the view can undo it",
                    path.display()
                );
                Err(impossible(original.txid, &why))
            }
        }
    }

    /// The target's entries, in the order of a walk, are those of the parts in hold together.
    fn moved_back(
        &self,
        undone: TxId,
        part: &Part<S>,
        retired: &[&Move],
        held: &[Option<Tree>],
    ) -> Result<Vec<Moved>, CrossingError> {
        let branch = |part: usize| {
            let step = retired.get(part).ok_or(CrossingError::SourceGone)?;
            Ok::<_, CrossingError>(self.branch_of(&step.from)?.index)
        };
        let first = retired.first().ok_or(CrossingError::SourceGone)?;
        let top = part.found.identity.handle.clone();
        let mut moved =
            vec![moved_from([part.branch, branch(0)?], top, first.identity.handle.clone())];
        let Some(tree) = &part.tree else { return Ok(moved) };
        let trees: Vec<Option<&Tree>> = held.iter().map(Option::as_ref).collect();
        let plan = Plan::of(&trees)?;
        if plan.entries.len() != tree.len() as usize {
            return Err(impossible(undone, "what it moved to hold has changed"));
        }
        for (item, entry) in tree.items().zip(&plan.entries) {
            let branches = [part.branch, branch(usize::from(entry.part))?];
            let to = plan.item(&trees, *entry)?.handle();
            moved.push(moved_from(branches, item.handle(), to));
        }
        Ok(moved)
    }
}

fn all(record: &CrossingRecord, act: Act) -> impl Iterator<Item = &Move> {
    record.moves.iter().filter(move |step| step.act == act)
}

fn moved_from([from, to]: [BranchIndex; 2], was: Handle, is: Handle) -> Moved {
    Moved { from: (from, was), to: (to, is) }
}

/// Only what is done is taken back.
pub fn check_done(txid: TxId, found: &Transaction) -> Result<(), CrossingError> {
    if let Some(by) = found.undone_by.filter(|_| !sabotaged("undo: once")) {
        return Err(impossible(txid, &format!("{by} has undone it")));
    }
    let why = match found.state {
        TransactionState::Done => return Ok(()),
        TransactionState::Active => "it has not ended",
        TransactionState::Reverted | TransactionState::Aborted => {
            "it did not take place, or was put back: there is nothing to undo"
        }
        TransactionState::Dead => {
            "it needs root, or the user who mounted the view, first: octroi tx show tells what may be done"
        }
        TransactionState::Accepted => "it was accepted as it was found",
    };
    Err(impossible(txid, why))
}

fn impossible(txid: TxId, why: &str) -> CrossingError {
    CrossingError::UndoImpossible { txid, why: why.to_owned() }
}
