//! Taking a crossing back: prepared on request of the control protocol, done by the caller's own
//! rename(2) through the mount, so that the kernel checks permissions as for any rename.

use std::sync::Arc;

use crate::branch::FileKind;
use crate::error::Errno;
use crate::ledger::record::{Act, Spot};
use crate::mover::{CrossingError, Prepared, Progress, check_done};
use crate::policy::Basis;
use crate::storage::real::RealStorage;
use crate::sys::process::exe_of;
use crate::types::{BranchMode, Caller, Operation, TxId, ViewPath};
use crate::view::locks::LockGuard;

use super::Vfs;
use super::crossing::path_of;
use super::facts::{About, Asked, Size};
use super::inside::HIDDEN;
use super::moves::{MoveError, MoveRequest, check_folder};
use super::permit::Question;
use super::prepared::{POLICY_CHANGED, PreparedMove, What};
use super::remove::Occupied;
use super::site::{Purpose, Site};

/// An undo that waits for its rename. Dropped, it is rolled back.
pub(super) struct PreparedUndo {
    pub(super) prepared: Prepared<RealStorage>,
    /// Of the policy that was asked.
    generation: u64,
    locks: LockGuard,
}

/// What the client of a prepared undo must rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoPlan {
    /// The transaction that is taken back.
    pub txid: TxId,
    /// Where the file is now.
    pub source: ViewPath,
    /// Where it was, and shall be again.
    pub target: ViewPath,
}

/// Why an undo was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The caller has made no crossing that could be taken back, or none to that path.
    #[error("there is no crossing to undo")]
    Nothing,
    /// None to that path; the caller's last that is not taken back brought a folder that it is in.
    #[error(
        "no crossing ended at {0}; {1} above it crossed as a whole\nhint: octroi undo takes that back, by its path"
    )]
    Above(ViewPath, ViewPath),
    /// The mover refused.
    #[error(transparent)]
    Crossing(#[from] CrossingError),
    /// The mover refused because of something that the caller may not know of.
    #[error("{0}: {HIDDEN}")]
    Inside(ViewPath),
    /// What crossed was moved on or removed.
    #[error("nothing is at {0} any more")]
    Gone(ViewPath),
    /// Something stands where it came from.
    #[error("the name it came from, {0}, is taken")]
    Taken(ViewPath),
    /// A rule or mode forbids it.
    #[error("{path}: denied by {by}: {reason}")]
    Denied {
        /// What would be moved.
        path: ViewPath,
        /// What denies it.
        by: String,
        /// For people.
        reason: String,
    },
    /// A name could not be found or locked.
    #[error("{path}: {}", std::io::Error::from(*errno))]
    Name {
        /// Which.
        path: ViewPath,
        /// Why.
        errno: Errno,
    },
}

fn changed(txid: TxId) -> UndoError {
    let why = "its target has changed since".to_owned();
    CrossingError::UndoImpossible { txid, why }.into()
}

impl UndoError {
    /// What the caller's rename(2) would have answered.
    fn errno(&self) -> Errno {
        match self {
            Self::Nothing | Self::Above(..) | Self::Gone(_) => Errno::NOENT,
            Self::Crossing(error) => error.errno(),
            Self::Inside(_) | Self::Denied { .. } => Errno::ACCESS,
            Self::Taken(_) => Errno::EXIST,
            Self::Name { errno, .. } => *errno,
        }
    }
}

impl From<UndoError> for MoveError {
    fn from(error: UndoError) -> Self {
        Self { errno: error.errno(), why: error.to_string() }
    }
}

impl Vfs {
    /// Prepares to take back a crossing. Its author, root and the mounting user may. The caller's rename
    /// of the crossing's target to its source then does it.
    pub(super) fn prepare_undo(
        self: &Arc<Self>,
        request: &MoveRequest,
        txid: TxId,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<PreparedMove, UndoError> {
        let caller = request.caller;
        let plan = self.plan_undo(caller, Some(txid), None)?;
        let name_error = |path: &ViewPath| {
            let path = path.clone();
            move |errno| UndoError::Name { path, errno }
        };
        let (source, target) =
            self.sites(request).map_err(|error| name_error(&plan.source)(error.errno))?;
        for site in [&source, &target] {
            let folder = site.parent.inode.path().unwrap_or_else(ViewPath::root);
            check_folder(request, site).map_err(|error| name_error(&folder)(error.errno))?;
        }
        if (&source.path, &target.path) != (&plan.source, &plan.target) {
            return Err(UndoError::Name { path: plan.source, errno: Errno::STALE });
        }
        let mut source = self.arrived(source, &plan)?;
        self.check_places(txid, &source, &target)?;
        self.check_free(&target)?;
        self.check_ends(request, &source, &target)
            .map_err(|error| name_error(&plan.source)(error.errno))?;
        let generation = self.policy().generation();
        self.permit_undo(caller, &source, &target)?;
        self.ready_to_record().map_err(name_error(&plan.source))?;
        let key = (caller.uid, plan.source.clone(), plan.target.clone());
        let claim = self.claim(key).ok_or(Errno::BUSY).map_err(name_error(&plan.source))?;
        let inode = self.find_child(&source.site.parent.inode, &source.site.name);
        let inode = inode.map_err(name_error(&plan.source))?.inode;
        self.view.inodes.forget(inode.number, 1);
        source.inode = Some(Arc::clone(&inode));
        let locks = self.lock_crossing(&inode, &source.site, &target);
        let locks = locks.map_err(name_error(&plan.source))?;
        // Somebody may have taken it before it was locked, in a part of the folder that was made then.
        let (folder, name) = &request.target;
        let target = self.site(*folder, name, Purpose::Remove);
        let target = target.map_err(name_error(&plan.target))?;
        self.check_free(&target)?;
        self.check_whole(&source).map_err(|errno| match errno {
            // Something new in it went to another member.
            Errno::STALE => changed(txid),
            errno => name_error(&plan.source)(errno),
        })?;
        self.wait_for_writers(caller.uid, &inode).map_err(name_error(&plan.source))?;
        let privileged = caller.uid == 0 || caller.uid == self.owner;
        let exe = exe_of(caller.pid);
        let admit = self.rules_below(caller, &source, &target);
        let admit = admit.map_err(name_error(&plan.source))?;
        self.prepare_claimed(claim, watch, |begin| {
            let prepared =
                self.mover.prepare_undo_watched(caller, exe, privileged, txid, &admit, begin);
            let prepared = prepared.map_err(|error| match self.may_know(caller, &source) {
                true => UndoError::Crossing(error),
                false => UndoError::Inside(plan.source.clone()),
            })?;
            Ok(What::Undo(PreparedUndo { prepared, generation, locks }))
        })
    }

    /// Whether both names are as an undo needs them, as [`Vfs::prepare_undo`] would find them: what has the
    /// target's name is compared by its size alone. For a caller who may know what is in both folders.
    pub fn check_undo_names(&self, txid: TxId) -> Result<(), UndoError> {
        let found =
            self.mover.with_journal(|journal| journal.get(txid).map(|found| found.record.clone()));
        let record = found.ok_or(CrossingError::UndoUnknown { txid })?;
        let plan = UndoPlan { txid, source: record.target, target: record.source };
        let name = |path: &ViewPath| {
            let path = path.clone();
            move |errno| UndoError::Name { path, errno }
        };
        let site = self.site_of(&plan.source).map_err(name(&plan.source))?;
        let source = self.arrived(site, &plan)?;
        let stat = &source.first.found.stat;
        if stat.kind == FileKind::File && record.size.is_some_and(|size| size != stat.size) {
            return Err(changed(txid));
        }
        let target = self.site_of(&plan.target).map_err(name(&plan.target))?;
        self.check_places(txid, &source, &target)?;
        self.check_free(&target)
    }

    /// Whether the names that the mover would move by, which are those of the branches, are these of the view:
    /// a branch or pool may have got another place in it since.
    fn check_places(
        &self,
        txid: TxId,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<(), UndoError> {
        let record =
            self.mover.with_journal(|journal| journal.get(txid).map(|found| found.record.clone()));
        let moves = record.ok_or(CrossingError::UndoUnknown { txid })?.moves;
        let is_at = |spot: &Spot, site: &Site<'_>| -> Result<bool, CrossingError> {
            let domain = self.view.domain(self.mover.index_of(spot)?);
            Ok(site.parent.domain == domain && path_of(site).as_ref() == Ok(&spot.path))
        };
        let copied = moves.iter().any(|step| step.act == Act::Retire);
        for step in &moves {
            let same = match step.act {
                Act::Apply => {
                    let arrived = self.mover.index_of(&step.to)? == source.first.index
                        && is_at(&step.to, &source.site)?;
                    arrived && (copied || is_at(&step.from, target)?)
                }
                Act::Retire => is_at(&step.from, target)?,
                Act::Displace => is_at(&step.from, &source.site)?,
                // No move of a crossing.
                Act::Restore | Act::Rename => true,
            };
            if !same {
                let why = "its branches have other places in the view than they had".to_owned();
                return Err(CrossingError::UndoImpossible { txid, why }.into());
            }
        }
        Ok(())
    }

    /// What crossed, where it arrived.
    fn arrived<'a>(&'a self, site: Site<'a>, plan: &UndoPlan) -> Result<Occupied<'a>, UndoError> {
        let offline = |errno| {
            let name = || UndoError::Name { path: plan.source.clone(), errno };
            let branch = self.offline_at(&plan.source).filter(|_| errno == Errno::IO);
            branch.map_or_else(name, |branch| CrossingError::Offline { branch }.into())
        };
        let incomplete = site.parent.incomplete;
        let source = self.occupied(site).map_err(|errno| match errno {
            // It may be on the member that is offline.
            Errno::NOENT if incomplete => offline(Errno::IO),
            Errno::NOENT => UndoError::Gone(plan.source.clone()),
            errno => offline(errno),
        })?;
        if source.is_directory() && incomplete {
            // What an offline member holds of it would stay behind.
            return Err(offline(Errno::IO));
        }
        // Something new in it went to another member.
        if source.more.is_empty() { Ok(source) } else { Err(changed(plan.txid)) }
    }

    fn check_free(&self, target: &Site<'_>) -> Result<(), UndoError> {
        match self.standings(&target.parent, &target.name) {
            Ok(there) if there.is_empty() => Ok(()),
            Ok(_) => Err(UndoError::Taken(target.path.clone())),
            Err(errno) => Err(UndoError::Name { path: target.path.clone(), errno }),
        }
    }

    /// What would be taken back, for a caller who may: a given crossing, or the last to `path`, or the
    /// caller's last. Looks at nothing but the journal.
    pub fn plan_undo(
        &self,
        caller: Caller,
        txid: Option<TxId>,
        path: Option<&ViewPath>,
    ) -> Result<UndoPlan, UndoError> {
        self.mover.with_journal(|journal| {
            let path = path.filter(|_| txid.is_none());
            let chosen = match (txid, path) {
                (Some(txid), _) => Some(txid),
                (None, Some(path)) => journal.last_to(path),
                (None, None) => journal.last_of(caller.uid),
            };
            let may = |uid: u32| uid == caller.uid || self.is_privileged(caller.uid);
            let Some(txid) = chosen else {
                let above = path.and_then(|path| {
                    let folders = std::iter::successors(path.parent(), ViewPath::parent);
                    let crossed = |folder: &ViewPath| {
                        let found = journal.last_to(folder).and_then(|txid| journal.get(txid));
                        found.is_some_and(|found| may(found.record.uid))
                    };
                    Some((path.clone(), folders.into_iter().find(crossed)?))
                });
                return Err(
                    above.map_or(UndoError::Nothing, |(path, above)| UndoError::Above(path, above))
                );
            };
            let crossing = journal.get(txid).ok_or(CrossingError::UndoUnknown { txid })?;
            if !may(crossing.record.uid) {
                // Another's looks like none: the caller may not even be able to see the path.
                return Err(match path {
                    Some(_) => UndoError::Nothing,
                    None => CrossingError::UndoUnknown { txid }.into(),
                });
            }
            check_done(txid, crossing)?;
            Ok(UndoPlan {
                txid,
                source: crossing.record.target.clone(),
                target: crossing.record.source.clone(),
            })
        })
    }

    /// The site of a path: its folder is walked to as the daemon.
    fn site_of(&self, path: &ViewPath) -> Result<Site<'_>, Errno> {
        let (Some(folder), Some(name)) = (path.parent(), path.name()) else {
            return Err(Errno::INVAL);
        };
        let folder = self.walk(&folder)?;
        // The site keeps the inode; the number alone would not outlive the walk.
        self.site_in(folder, name, Purpose::Remove)
    }

    /// It needs no gate; deny rules hold.
    fn permit_undo(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<(), UndoError> {
        let (from, to) = source.sides(caller, target);
        let facts = Asked { size: Size::Whole, ..Asked::of(About::Standing(self, &source.first)) };
        self.permit_ungated(Operation::MoveSource, &from, &facts)?;
        self.permit_ungated(Operation::MoveTarget, &to, &facts)
    }

    /// The rename of a prepared undo, which holds the locks since it was prepared.
    pub(super) fn finish_undo(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        undo: PreparedUndo,
    ) -> Result<(), Errno> {
        self.ready_to_record()?;
        if undo.generation != self.policy().generation() {
            undo.prepared.note_stop(POLICY_CHANGED);
            return Err(self.gone_meanwhile(caller, source, target, POLICY_CHANGED));
        }
        // Its rename need not ask for it, and the mover looks at one member of a pool.
        if !self.standings(&target.parent, &target.name)?.is_empty() {
            let taken = CrossingError::TargetExists;
            return Err(self.crossing_failed(caller, source, target, None, &taken).errno);
        }
        let inode = self.source_inode(source)?;
        let PreparedUndo { prepared, locks, .. } = undo;
        self.switch_locked(caller, source, target, &inode, (prepared, locks))
    }

    /// Asks the rules, and lets pass what only wants a gate.
    fn permit_ungated(
        &self,
        operation: Operation,
        question: &Question<'_>,
        facts: &Asked<'_>,
    ) -> Result<(), UndoError> {
        let decision = self.decide(question.caller, operation, question.object(), facts);
        let wants_gate = matches!(
            decision.basis,
            Basis::NoGate | Basis::Gate(_) | Basis::Mode(BranchMode::GatesOnly)
        );
        if decision.allowed || wants_gate {
            return Ok(());
        }
        self.deny(operation, question, &decision, Some(facts));
        Err(UndoError::Denied {
            path: question.path.clone(),
            by: decision.basis.text(),
            reason: decision.reason.as_deref().unwrap_or_default().to_owned(),
        })
    }
}
