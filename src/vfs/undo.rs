//! Taking a crossing back: prepared on request of the control protocol, done by the caller's own
//! rename(2) through the mount, so that the kernel checks permissions as for any rename.

use crate::error::Errno;
use crate::mover::{CrossingError, Prepared};
use crate::policy::Basis;
use crate::storage::real::RealStorage;
use crate::sys::process::exe_of;
use crate::types::{BranchMode, Caller, Operation, TxId, ViewPath};
use crate::view::locks::LockGuard;

use super::Vfs;
use super::facts::{About, Asked, Size};
use super::inside::HIDDEN;
use super::permit::Question;
use super::prepared::{POLICY_CHANGED, What};
use super::remove::Occupied;
use super::site::{Purpose, Site};

/// An undo that waits for its rename. Dropped, it is rolled back.
pub(super) struct PreparedUndo {
    prepared: Prepared<RealStorage>,
    /// Of the policy that was asked.
    generation: u64,
    _locks: LockGuard,
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

impl Vfs {
    /// Prepares to take back a crossing: a given one, or the last to `path`, or the caller's last. The
    /// crossing's author, root and the mounting user may. The caller's rename of `source` to
    /// `target` then does it.
    pub fn prepare_undo(
        &self,
        caller: Caller,
        txid: Option<TxId>,
        path: Option<&ViewPath>,
    ) -> Result<UndoPlan, UndoError> {
        self.expire_prepared_as_usual();
        let plan = self.plan_undo(caller, txid, path)?;
        // One's own undo that was prepared before and not finished makes room.
        let key = (caller.uid, plan.source.clone(), plan.target.clone());
        drop(self.prepared.take(&key));
        let name_error = |path: &ViewPath| {
            let path = path.clone();
            move |errno| UndoError::Name { path, errno }
        };
        let source = self.site_of(&plan.source).and_then(|site| self.occupied(site));
        let source = source.map_err(|errno| match errno {
            Errno::NOENT => UndoError::Gone(plan.source.clone()),
            errno => UndoError::Name { path: plan.source.clone(), errno },
        })?;
        if !source.more.is_empty() {
            // Something new in it went to another member.
            let why = "its target has changed since".to_owned();
            return Err(CrossingError::UndoImpossible { txid: plan.txid, why }.into());
        }
        let target = self.site_of(&plan.target).map_err(name_error(&plan.target))?;
        let generation = self.policy().generation();
        self.permit_undo(caller, &source, &target)?;
        match self.standings(&target.parent, &target.name) {
            Ok(there) if there.is_empty() => {}
            Ok(_) => return Err(UndoError::Taken(plan.target)),
            Err(errno) => return Err(name_error(&plan.target)(errno)),
        }
        let inode = self.find_child(&source.site.parent.inode, &source.site.name);
        let inode = inode.map_err(name_error(&plan.source))?.inode;
        self.view.inodes.forget(inode.number, 1);
        let locks = self.lock_crossing(&inode, &source.site, &target);
        let locks = locks.map_err(name_error(&plan.source))?;
        self.wait_for_writers(&inode).map_err(name_error(&plan.source))?;
        let privileged = caller.uid == 0 || caller.uid == self.owner;
        let exe = exe_of(caller.pid);
        let admit = self.rules_below(caller, &source, &target);
        let admit = admit.map_err(name_error(&plan.source))?;
        let prepared = self.mover.prepare_undo(caller, exe, privileged, plan.txid, &admit);
        let prepared = prepared.map_err(|error| match self.may_know(caller, &source) {
            true => UndoError::Crossing(error),
            false => UndoError::Inside(plan.source.clone()),
        })?;
        let txid = prepared.txid;
        let undo = PreparedUndo { prepared, generation, _locks: locks };
        self.prepared.insert(key, txid, What::Undo(undo), false);
        Ok(plan)
    }

    /// What would be taken back, for a caller who may: see [`Vfs::prepare_undo`]. Looks at nothing but
    /// the journal.
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
            let txid = chosen.ok_or(UndoError::Nothing)?;
            let crossing = journal.get(txid).ok_or(CrossingError::UndoUnknown { txid })?;
            let author = crossing.record.uid == caller.uid;
            if !author && !self.is_privileged(caller.uid) {
                // Another's looks like none: the caller may not even be able to see the path.
                return Err(match path {
                    Some(_) => UndoError::Nothing,
                    None => CrossingError::UndoUnknown { txid }.into(),
                });
            }
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
            return Err(self.gone_meanwhile(caller, source, target, POLICY_CHANGED));
        }
        let inode = self.source_inode(source)?;
        let PreparedUndo { prepared, _locks, .. } = undo;
        self.switch(caller, source, target, &inode, prepared)
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
