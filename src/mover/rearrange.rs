//! A rename within a pool that touches more than one name on the disks: a directory merged from
//! several members, a shadow of the source that must go, something at the target on any member. It is
//! decided, made, taken back and recovered as a crossing is, by the same records and moves; but it
//! copies nothing, needs no gate, and cannot be undone: what it displaced is removed as soon as it
//! is done, as a plain rename would have.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::CrossingError;
use super::moves::{self, Place, PlacedMove};
use super::prepare::place;
use super::purge::held;
use super::sabotage::sabotaged;
use super::{Mover, MoverBranch, Name, later_step};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, Area, CrossingRecord, PurgeRecord, Spot, Step};
use crate::storage::{Metadata, Storage};
use crate::types::{BranchIndex, Caller, Handle, TxId, ViewPath};

/// Asks for a rename within a pool. The caller holds the locks on both names, has asked the policy,
/// and has made the folders of the targets on the members that need them.
pub struct RearrangeRequest<S: Storage> {
    /// Who asks.
    pub caller: Caller,
    /// The caller's executable, a hint.
    pub exe: Option<Arc<str>>,
    /// View path of what moves.
    pub source: ViewPath,
    /// View path where it goes.
    pub target: ViewPath,
    /// The renames, from and to a name of the same member.
    pub moves: Vec<(Name<S>, Name<S>)>,
    /// What goes first: shadows of the source that stay behind, and all that stands at the target.
    /// Directories among them must be empty: ENOTEMPTY. A name that is gone is left out.
    pub displace: Vec<Name<S>>,
}

/// A rename within a pool that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rearranged {
    /// The transaction.
    pub txid: TxId,
    /// What is gone.
    pub displaced: Vec<(BranchIndex, Handle)>,
    /// All folders were synced and DONE was appended; else the next recovery does it.
    pub confirmed: bool,
}

struct Plan<S: Storage> {
    txid: TxId,
    moves: Vec<PlacedMove<S>>,
    displaced: Vec<(BranchIndex, Handle)>,
}

type Ends<'a, S> = Vec<(&'a Name<S>, &'a Name<S>)>;

/// The reason in the records of purges.
const PURGE_REASON: &str = "a rename within a pool keeps nothing";

impl<S: Storage> Mover<S> {
    /// COMMIT to DONE, and then removes what was displaced. With an error everything is as before,
    /// unless it is [`CrossingError::Dead`]. EIO where a member is offline, ENOENT where a source is
    /// gone, EEXIST where a target is there and not among what is displaced.
    pub fn rearrange(&self, request: RearrangeRequest<S>) -> Result<Rearranged, CrossingError> {
        let plan = self.plan(TxId(ulid::Ulid::generate()), &request)?;
        let ends = request.moves.iter().flat_map(|(from, to)| [from, to]);
        self.sync_ways_to(ends.chain(&request.displace).map(Name::way))?;
        let commit = self.commit_of(request, &plan)?;
        self.announce(&commit, "apply");
        let outcome = self.carry_out(&commit, plan);
        self.active.lock().remove(&commit.txid);
        outcome
    }

    /// The decision, the moves, and their record.
    fn carry_out(
        &self,
        commit: &CrossingRecord,
        plan: Plan<S>,
    ) -> Result<Rearranged, CrossingError> {
        if sabotaged("rearrange: COMMIT before the moves") {
            let _ = moves::forward(&*self.storage, &plan.moves, None);
        }
        if let Err(error) = self.record(commit.clone(), Durability::Sync) {
            return Err(self.undecided(commit, error));
        }
        if let Err(stopped) = moves::forward(&*self.storage, &plan.moves, Some(&|| true)) {
            return Err(self.put_back(commit, &plan.moves, stopped));
        }
        let confirmed = self.confirm(commit, &plan.moves);
        if confirmed {
            self.purge_rearranged(commit.txid);
        }
        Ok(Rearranged { txid: commit.txid, displaced: plan.displaced, confirmed })
    }

    /// Looks at all names and puts the moves in order: what is displaced first, so that every target
    /// is free when its turn comes.
    fn plan(&self, txid: TxId, request: &RearrangeRequest<S>) -> Result<Plan<S>, CrossingError> {
        let (aliases, moves) = self.tell_aliases(request)?;
        let goes = |name: &&Name<S>| !aliases.iter().any(|(_, to)| is_one_name(name, to));
        let old_names = aliases.iter().map(|(from, _)| *from);
        let mut plan = Plan { txid, moves: Vec::new(), displaced: Vec::new() };
        let mut held = HashMap::new();
        for name in request.displace.iter().filter(goes).chain(old_names) {
            let branch = self.branch(name.branch)?;
            let Some(found) = self.look_at(name)? else { continue };
            self.check_writable(name.branch)?;
            let from = branch.in_tree(name);
            moves::check_empty(&*self.storage, &from.1, &found)?;
            let position = held.entry(name.branch).or_insert(0_usize);
            let to = branch.in_hold_as(txid, *position);
            *position = position.saturating_add(1);
            plan.moves.push(place(Act::Displace, &from, &to, &found.identity));
            plan.displaced.push((name.branch, found.identity.handle));
        }
        for (source, target) in moves {
            let branch = self.branch(source.branch)?;
            if source.branch != target.branch {
                return Err(CrossingError::io("rename on one branch", &target.view)(Errno::XDEV));
            }
            let found = self.look_at(source)?.ok_or(CrossingError::SourceGone)?;
            self.check_writable(source.branch)?;
            let (from, to) = (branch.in_tree(source), branch.in_tree(target));
            let free = plan.moves.iter().any(|earlier| earlier.step.from == to.0);
            if !free && self.look_at(target)?.is_some() {
                return Err(CrossingError::TargetExists);
            }
            plan.moves.push(place(Act::Rename, &from, &to, &found.identity));
        }
        Ok(plan)
    }

    /// The moves onto another hard link of the same inode, which is to be displaced, and the others.
    /// Of the former only the old name has to go: an inode that is at two names of one move could
    /// not be told where it is.
    fn tell_aliases<'a>(
        &self,
        request: &'a RearrangeRequest<S>,
    ) -> Result<(Ends<'a, S>, Ends<'a, S>), CrossingError> {
        let (mut aliases, mut others) = (Vec::new(), Vec::new());
        for (from, to) in &request.moves {
            let displaced = request.displace.iter().any(|name| is_one_name(name, to));
            let handle = |found: Option<Metadata>| found.map(|found| found.identity.handle);
            let is_alias = displaced && {
                let source = handle(self.look_at(from)?);
                source.is_some() && source == handle(self.look_at(to)?)
            };
            if is_alias { &mut aliases } else { &mut others }.push((from, to));
        }
        Ok((aliases, others))
    }

    fn look_at(&self, name: &Name<S>) -> Result<Option<Metadata>, CrossingError> {
        self.storage
            .stat(&name.parent, &name.name)
            .map_err(CrossingError::io("look at", &name.view))
    }

    fn commit_of(
        &self,
        request: RearrangeRequest<S>,
        plan: &Plan<S>,
    ) -> Result<CrossingRecord, CrossingError> {
        let (first, _) = request.moves.first().ok_or(CrossingError::SourceGone)?;
        let branch = self.branch(first.branch)?.name.clone();
        Ok(CrossingRecord {
            txid: plan.txid,
            step: Step::Commit,
            gate: None,
            undoes: None,
            rearrangement: true,
            uid: request.caller.uid,
            gid: request.caller.gid,
            pid: request.caller.pid,
            exe: request.exe,
            source: request.source,
            target: request.target,
            branches: [branch.clone(), branch],
            sha256: None,
            size: None,
            readback: None,
            lost: Vec::new(),
            moves: plan.moves.iter().map(|placed| placed.step.clone()).collect(),
            replaced: None,
            reason: None,
            stopped_by: None,
            result: None,
        })
    }

    /// COMMIT was not appended for certain. Nothing was moved: if ABORT can be made durable after it,
    /// that is the end.
    fn undecided(&self, commit: &CrossingRecord, error: CrossingError) -> CrossingError {
        if error.left_no_record() {
            return error;
        }
        let result = errno_name(error.errno()).to_owned();
        let abort = later_step(commit, Step::Abort, Some(error.to_string()), result);
        if self.record(abort, Durability::Sync).is_ok() {
            return error;
        }
        let doubt = CrossingError::InDoubt { txid: commit.txid, errno: error.errno() };
        log::error!("{doubt}");
        doubt
    }

    /// Removes what is left in hold of rearrangements that are done; a crash may have come between.
    pub(super) fn purge_rearrangements(&self) {
        let done: Vec<TxId> = self.with_journal(|journal| {
            journal
                .iter()
                .filter(|(_, found)| found.record.rearrangement && found.is_kept())
                .map(|(txid, _)| txid)
                .collect()
        });
        for txid in done {
            self.purge_rearranged(txid);
        }
    }

    fn purge_rearranged(&self, txid: TxId) {
        let mut removing = self.removing(txid, &self.held_of(txid));
        let held = self.record_rearranged_purge(txid);
        if !held.is_empty() {
            removing.recorded(&self.known_devices(&held));
        }
        self.remove_purged(&held);
    }

    /// Records that what a rearrangement displaced goes, and gives what that is.
    pub(super) fn record_rearranged_purge(&self, txid: TxId) -> Vec<Spot> {
        let _purging = self.purging.lock();
        let held: Option<Vec<Spot>> = self.with_journal(|journal| {
            Some(held(&journal.get(txid).filter(|found| found.is_kept())?.record))
        });
        let Some(held) = held else { return Vec::new() };
        match self.record_purge(PurgeRecord {
            txid,
            reason: PURGE_REASON.to_owned(),
            lost: false,
            given_up: Vec::new(),
        }) {
            Ok(()) => held,
            Err(error) => {
                log::warn!("rename {txid}: what it displaced stays in hold: {error}");
                Vec::new()
            }
        }
    }
}

fn is_one_name<S: Storage>(one: &Name<S>, other: &Name<S>) -> bool {
    one.branch == other.branch && one.path == other.path
}

impl<S: Storage> MoverBranch<S> {
    /// The name in hold of the n-th thing that a transaction takes from one branch.
    fn in_hold_as(&self, txid: TxId, position: usize) -> (Spot, Place<S>) {
        if position == 0 {
            return self.in_hold(txid);
        }
        let name = format!("{txid}.{position}");
        let spot = Spot { branch: self.uuid, area: Area::Hold, path: PathBuf::from(&name) };
        (spot, Place { dir: self.hold.clone(), name: name.into() })
    }
}
