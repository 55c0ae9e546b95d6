//! A rename between branches: a crossing.
//!
//! The order is: decide; lock both names, the source's content and the folders above against renames;
//! wait for writers that are just closing; let the mover prepare (copy, check, verify); then take the
//! source's place for the switch, let the mover commit, and point what is open at the target. Until
//! the commit nobody waits; during the switch whoever asks for the inode does.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Errno;
use crate::mover::{Crossed, CrossingError, CrossingRequest, Name, Prepared, Progress, SourcePart};
use crate::policy::{Basis, Decision, Gate};
use crate::storage::real::{RealDir, RealStorage};
use crate::sys::process::exe_of;
use crate::types::{Caller, Operation, ViewPath};
use crate::view::locks::{Holder, Lock, LockGuard};
use crate::view::{Inode, Invalidation, OpenFile, Parts, Place};

use super::Vfs;
use super::remove::Occupied;
use super::site::{OpenPart, Site, Standing};

/// How long a crossing waits for files that were written to be closed: RELEASE comes after close(2)
/// has returned. A writer that writes on cannot close in time: rename(2) holds the lock on the inode
/// that its write(2) needs.
const WRITERS_WAIT: Duration = Duration::from_secs(1);
const WRITERS_POLL: Duration = Duration::from_millis(2);

/// A crossing that only needs its decision. Dropped, it is rolled back and its names are free.
pub(super) struct ReadyCrossing {
    pub prepared: Prepared<RealStorage>,
    /// What let it through; asked for again where the commit comes later.
    #[expect(dead_code, reason = "octroi mv asks")]
    pub gate: Gate,
    /// The source's.
    pub inode: Arc<Inode>,
    pub locks: LockGuard,
}

/// Why a crossing was not prepared.
pub(super) struct Refused {
    /// What the caller of rename(2) gets.
    pub errno: Errno,
    /// In words, where the errno does not say it.
    #[expect(dead_code, reason = "octroi mv tells")]
    pub why: Option<String>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, why: None }
    }
}

impl Vfs {
    pub(super) fn cross(
        &self,
        caller: Caller,
        source: Occupied<'_>,
        target: Site<'_>,
        no_replace: bool,
    ) -> Result<(), Errno> {
        if let Some(undo) = self.take_undo(caller, &source.site.path, &target.path) {
            return self.finish_undo(caller, &source, &target, undo);
        }
        let ready = self
            .prepare_crossing(caller, &source, &target, no_replace, &|_| ())
            .map_err(|refused| refused.errno)?;
        let ReadyCrossing { prepared, inode, locks: _locks, .. } = ready;
        self.switch(caller, &source, &target, &inode, prepared)
    }

    /// Everything up to the decision. `watch` learns of the transaction before it waits for its turn.
    /// What is refused has been recorded.
    pub(super) fn prepare_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<ReadyCrossing, Refused> {
        let gate = self.permit_crossing(caller, source, target)?;
        self.ready_to_record()?;
        let inode = self.source_inode(source)?;
        let busy = |errno| self.busy(caller, source, target, errno);
        let locks = self.lock_crossing(&inode, &source.site, target).map_err(busy)?;
        self.wait_for_writers(&inode).map_err(busy)?;
        let request = CrossingRequest {
            caller,
            exe: exe_of(caller.pid),
            sources: vec![SourcePart {
                name: name_of(&source.site, &source.site.parent.first)?,
                gate: gate.name.to_string(),
                terms: Arc::clone(&gate.terms),
            }],
            target: name_of(target, &target.parent.first)?,
            target_shadows: Vec::new(),
            no_replace,
            admit: Arc::new(|_| Ok(())),
        };
        let prepared = self.mover.prepare_watched(request, watch).map_err(|error| Refused {
            errno: self.crossing_failed(caller, source, target, Some(&gate), &error),
            why: Some(error.to_string()),
        })?;
        Ok(ReadyCrossing { prepared, gate, inode, locks })
    }

    /// Somebody else has the file or a folder above it; kept for `octroi why`.
    fn busy(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        errno: Errno,
    ) -> Errno {
        let reason = if source.inode.as_ref().is_some_and(|inode| inode.writers() > 0) {
            "the source is open for writing"
        } else {
            "another crossing or operation has one of the names or a folder above them"
        };
        let (question, _) = source.sides(caller, target);
        let decision = Decision {
            allowed: false,
            basis: Basis::Error,
            reason: Some(Arc::from(reason)),
            generation: self.policy().generation(),
        };
        self.remember_failure(Operation::MoveSource, &question, decision);
        errno
    }

    /// Asks the rules for both sides, and for a gate.
    fn permit_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<Gate, Errno> {
        let (from, to) = source.sides(caller, target);
        let subject = self.subject(caller)?;
        let policy = self.policy();
        let (decision, gate) = policy.decide_crossing(&subject, from.object(), to.object());
        match (decision, gate) {
            (Decision { allowed: true, .. }, Some(gate)) => {
                self.permit_replacing(caller, target)?;
                Ok(gate.clone())
            }
            (decision, _) => Err(self.deny(Operation::MoveSource, &from, &decision)),
        }
    }

    /// What stands at the target is removed by the crossing, so that a rule against removing holds.
    fn permit_replacing(&self, caller: Caller, target: &Site<'_>) -> Result<(), Errno> {
        match self.standings(&target.parent, &target.name)?.first() {
            Some(there) => {
                let question = target.question(caller, there.is_directory());
                self.permit(Operation::Unlink, &question).map(drop)
            }
            None => Ok(()),
        }
    }

    /// The source's inode; a raw request may name one that the kernel never looked up.
    pub(super) fn source_inode(&self, source: &Occupied<'_>) -> Result<Arc<Inode>, Errno> {
        source.inode.clone().ok_or(Errno::STALE)
    }

    /// Locks both names and the source's content, and pins every folder above.
    pub(super) fn lock_crossing(
        &self,
        inode: &Inode,
        source: &Site<'_>,
        target: &Site<'_>,
    ) -> Result<LockGuard, Errno> {
        let alone = vec![source.lock(), target.lock(), Lock::Content(inode.number)];
        let mut above: Vec<Lock> = [&source.parent.inode, &target.parent.inode]
            .into_iter()
            .flat_map(|parent| {
                let ancestors = parent.ancestors();
                std::iter::once(parent.number)
                    .chain(ancestors.into_iter().map(|ancestor| ancestor.number))
                    .collect::<Vec<_>>()
            })
            .map(Lock::Folder)
            .collect();
        above.dedup();
        self.view.locks.take(Holder::Crossing, alone, above)
    }

    pub(super) fn wait_for_writers(&self, inode: &Inode) -> Result<(), Errno> {
        let deadline = Instant::now() + WRITERS_WAIT;
        while inode.writers() > 0 {
            if Instant::now() >= deadline {
                return Err(Errno::BUSY);
            }
            std::thread::sleep(WRITERS_POLL);
        }
        Ok(())
    }

    /// Commits, and points the inode and what is open at the target.
    pub(super) fn switch(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        inode: &Arc<Inode>,
        prepared: Prepared<RealStorage>,
    ) -> Result<(), Errno> {
        let mut place = inode.switch();
        let crossed = self.mover.commit(prepared);
        let now = match &crossed {
            Ok(crossed) => self.place_after(target, inode, crossed),
            Err(_) if self.stands_at(&source.site, &source.first) => place.clone(),
            Err(_) => Place::Gone,
        };
        self.view.inodes.moved(inode.number, &place, &now);
        let gone = now == Place::Gone;
        *place = now;
        drop(place);
        if gone {
            self.forget_names(&source.site, target);
        }
        match crossed {
            Ok(crossed) => {
                self.note_names(source, target, inode, &crossed);
                Ok(())
            }
            Err(error) => Err(self.crossing_failed(caller, source, target, None, &error)),
        }
    }

    /// Where the inode lies after its crossing. What is open is pointed at the target; where that cannot
    /// be, the old inode is given up and the kernel looks the name up again.
    fn place_after(&self, target: &Site<'_>, inode: &Inode, crossed: &Crossed) -> Place {
        let handle = crossed.identity.handle.clone();
        let there = Place::Branch(Parts::single(target.parent.first.index, handle));
        if crossed.same_filesystem {
            return there;
        }
        match self.repoint(target, &inode.open_files()) {
            Ok(()) => there,
            Err(errno) => {
                log::debug!("{}: open files stay with the old inode: {errno}", target.path);
                Place::Gone
            }
        }
    }

    fn stands_at(&self, site: &Site<'_>, standing: &Standing) -> bool {
        let found = self.standings(&site.parent, &site.name);
        found.is_ok_and(|found| found.first().is_some_and(|first| first.is(standing)))
    }

    /// Opens the target for everyone who has the source open. Nobody can write: the crossing waited
    /// for writers, and its lease kept others out.
    fn repoint(&self, target: &Site<'_>, open: &[Arc<OpenFile>]) -> Result<(), Errno> {
        if open.is_empty() {
            return Ok(());
        }
        if open.iter().any(|file| file.passthrough) {
            return Err(Errno::BUSY);
        }
        let branch = target.parent.first.branch;
        let found = branch.lookup(target.parent.first.as_fd(), &target.name)?;
        for file in open {
            file.repoint(branch.open_file(found.node.as_fd(), rustix::fs::OFlags::RDONLY)?);
        }
        Ok(())
    }

    fn note_names(
        &self,
        source: &Occupied<'_>,
        target: &Site<'_>,
        inode: &Arc<Inode>,
        crossed: &Crossed,
    ) {
        for (branch, handle) in &crossed.displaced {
            if let Some(displaced) = self.view.inodes.find(*branch, handle) {
                displaced.remove_name(&target.parent.inode, &target.name);
            }
        }
        inode.remove_name(&source.site.parent.inode, &source.site.name);
        inode.add_name(&target.parent.inode, &target.name);
    }

    /// Has the kernel look both names up again.
    fn forget_names(&self, source: &Site<'_>, target: &Site<'_>) {
        for site in [source, target] {
            self.view.invalidate(Invalidation::Entry {
                parent: site.parent.inode.number,
                name: site.name.clone(),
            });
        }
    }

    /// A crossing that the rules allowed and that failed all the same. The mover has recorded how it
    /// ended; what the gate refused is a denial like any other. Gives the caller's errno.
    fn crossing_failed(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        gate: Option<&Gate>,
        error: &CrossingError,
    ) -> Errno {
        let path = &source.site.path;
        log::warn!("crossing of {path} to {}: {error}", target.path);
        let refused =
            matches!(error, CrossingError::TypeNotAllowed { .. } | CrossingError::TooLarge { .. });
        let gate = gate.filter(|_| refused);
        let decision = Decision {
            allowed: false,
            basis: gate.map_or(Basis::Error, |gate| Basis::Gate(Arc::clone(&gate.name))),
            reason: Some(Arc::from(error.to_string())),
            generation: self.policy().generation(),
        };
        let (question, _) = source.sides(caller, target);
        if refused {
            self.deny(Operation::MoveSource, &question, &decision);
        } else {
            self.remember_failure(Operation::MoveSource, &question, decision);
        }
        error.errno()
    }
}

/// A name as the mover wants it, on one part of its folder.
pub(super) fn name_of(site: &Site<'_>, part: &OpenPart<'_>) -> Result<Name<RealStorage>, Errno> {
    let folder: PathBuf = site.parent.inode.path_in_branch().ok_or(Errno::NOENT)?;
    Ok(Name {
        branch: part.index,
        path: folder.join(&site.name),
        view: ViewPath::clone(&site.path),
        parent: RealDir::from_fd(part.as_fd())?,
        name: site.name.clone(),
    })
}
