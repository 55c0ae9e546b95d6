//! A rename between branches: a crossing.
//!
//! The order is: decide; lock both names, the source's content (a directory's whole tree) and the
//! folders above against renames; wait for writers that are just closing; let the mover prepare (copy,
//! check, verify); then [`super::switch`]. Until the commit nobody waits; during the switch whoever
//! asks for the inode does.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::branch::Branch;
use crate::error::Errno;
use crate::mover::{Admit, CrossingError, CrossingRequest, Name, Prepared, Progress, SourcePart};
use crate::policy::{Basis, Decision, Gate, Object};
use crate::storage::Kind;
use crate::storage::real::{RealDir, RealStorage};
use crate::sys::process::exe_of;
use crate::types::{BranchIndex, Caller, Operation, ViewPath};
use crate::view::Inode;
use crate::view::locks::LockGuard;

use super::Vfs;
use super::facts::{About, Asked, Size};
use super::permit::Question;
use super::place::{MadeGuard, Patience, passes_on, takes_nothing};
use super::remove::Occupied;
use super::site::{OpenPart, Site};

/// Bytes of holes that an ordinary user's rename(2) may have hashed, while the kernel keeps all others out of both
/// folders: a minute or two.
const HOLES_MAX: u64 = 64 << 30;

/// A crossing that only needs its decision. Dropped, it is rolled back and its names are free.
pub(super) struct ReadyCrossing {
    pub prepared: Prepared<RealStorage>,
    /// What let each part through; asked for again where the commit comes later.
    pub gates: Vec<Gate>,
    /// Of the policy that was asked.
    pub generation: u64,
    /// The source's.
    pub inode: Arc<Inode>,
    pub locks: LockGuard,
    /// Last, for it needs locks.
    pub made: MadeGuard,
}

/// Why a crossing was not prepared.
pub(super) struct Refused {
    /// What the caller of rename(2) gets.
    pub errno: Errno,
    /// In words, where the errno does not say it.
    pub why: Option<String>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, why: None }
    }
}

/// Why a crossing was not prepared on one member.
enum Refusal {
    /// Its place could not be made or asked for.
    Errno(Errno),
    /// The mover refused.
    Error(CrossingError),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
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
        if let Some(finished) = self.finish_prepared(caller, &source, &target, no_replace) {
            return finished;
        }
        let watch = |progress: &Arc<Progress>| {
            if !self.is_privileged(caller.uid) {
                progress.limit_holes(HOLES_MAX);
            }
        };
        let ready = self
            .prepare_crossing(caller, &source, &target, no_replace, &watch)
            .map_err(|refused| refused.errno)?;
        if ready.generation != self.policy().generation() {
            self.permit_again(caller, &source, &target, &ready)?;
        }
        self.commit_ready(caller, &source, &target, ready)
    }

    /// Commits what the policy was asked for. What was made for it stays, or goes with it.
    pub(super) fn commit_ready(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        ready: ReadyCrossing,
    ) -> Result<(), Errno> {
        let ReadyCrossing { prepared, inode, locks, made, .. } = ready;
        let switched = self.switch_locked(caller, source, target, &inode, (prepared, locks));
        drop(made);
        switched
    }

    /// Everything up to the decision. `watch` learns of the transaction before it waits for its turn, and
    /// of another where the first member of a pool is full. What is refused has been recorded.
    pub(super) fn prepare_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        no_replace: bool,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<ReadyCrossing, Refused> {
        let generation = self.policy().generation();
        let gates = self.permit_crossing(caller, source, target)?;
        self.ready_to_record()?;
        let inode = self.source_inode(source)?;
        if source.is_directory() && source.site.parent.incomplete {
            // What an offline member holds of it would stay behind.
            let reason = "a member of the pool is offline and may hold a part of the directory";
            return Err(self.failed_early(caller, source, target, Errno::IO, reason));
        }
        let busy = |errno| self.busy(caller, source, target, errno);
        let locks = self.lock_crossing(&inode, &source.site, target).map_err(busy)?;
        self.check_whole(source)?;
        self.wait_for_writers(caller.uid, &inode).map_err(busy)?;
        let mut made = MadeGuard::new(self);
        let prepared =
            self.prepare_placed(caller, source, target, (&gates, no_replace), &mut made, watch);
        match prepared {
            Ok(prepared) => {
                made.serves(prepared.txid);
                Ok(ReadyCrossing { prepared, gates, generation, inode, locks, made })
            }
            Err(refused) => {
                drop(locks);
                drop(made);
                Err(refused)
            }
        }
    }

    /// Prepares to the member that placement chooses, where that is full to the next. `made` gets the
    /// folders that were made there.
    fn prepare_placed(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        (gates, no_replace): (&[Gate], bool),
        made: &mut MadeGuard,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<Prepared<RealStorage>, Refused> {
        let admit = self.admission(caller, source, target, gates)?;
        let mut attempt = |branch| -> Result<_, Refusal> {
            let name = match target.parent.part_on(branch) {
                Some(part) => name_of(target, part)?,
                None => {
                    let part = self.make_part(&target.parent.inode, branch, made.parts())?;
                    name_of(target, &part)?
                }
            };
            let request = CrossingRequest {
                caller,
                exe: exe_of(caller.pid),
                sources: source_parts(source, gates)?,
                target: name,
                target_shadows: shadows_of(target, branch)?,
                no_replace,
                admit: Arc::clone(&admit),
            };
            self.mover.prepare_watched(request, watch).map_err(Refusal::Error)
        };
        let failed = |error: &_| self.crossing_failed(caller, source, target, gates.first(), error);
        // What it needs is known once it was tried.
        let data = Cell::new(0);
        let attempt = |branch| match attempt(branch) {
            Err(Refusal::Errno(errno)) if !passes_on(errno) => {
                Break(Err(never_across(errno).into()))
            }
            Err(Refusal::Error(error)) if !takes_nothing(error.errno()) => {
                Break(Err(failed(&error)))
            }
            Err(refusal) => {
                if let Refusal::Error(CrossingError::NoSpace { data: needed, .. }) = &refusal {
                    data.set(*needed);
                }
                Continue(refusal)
            }
            Ok(prepared) => Break(Ok(prepared)),
        };
        let finds_room = |branch, refusal: Option<&Refusal>, patience: &mut Patience| {
            let why = match refusal {
                Some(Refusal::Error(CrossingError::NoInodes { .. })) => {
                    return self.waits_for_removed(branch, patience);
                }
                Some(Refusal::Error(error)) => error.errno(),
                Some(Refusal::Errno(errno)) => *errno,
                None => Errno::NOSPC,
            };
            self.member_finds_room(caller, (&target.parent, branch), why, data.get(), patience)
        };
        let refusals = match self.on_some_member(&target.parent, attempt, finds_room)? {
            Break(done) => return done,
            Continue(refusals) => refusals,
        };
        // What the mover says tells more.
        let told = |refusal: &_| match refusal {
            Refusal::Error(error) => Some(failed(error)),
            Refusal::Errno(_) => None,
        };
        if let Some(refused) = refusals.iter().rev().find_map(told) {
            return Err(refused);
        }
        let errno = match refusals.last() {
            Some(Refusal::Errno(errno)) => *errno,
            _ => Errno::NOSPC,
        };
        let reason = format!("nothing can be made where it goes: {}", io::Error::from(errno));
        Err(self.failed_early(caller, source, target, errno, &reason))
    }

    /// Somebody else has the file or a folder above it.
    pub(super) fn busy(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        errno: Errno,
    ) -> Refused {
        let reason = if source.inode.as_ref().is_some_and(|inode| self.has_writers(inode)) {
            "the source, or something in it, is open for writing"
        } else {
            "another crossing or operation has one of the names or a folder above them"
        };
        self.failed_early(caller, source, target, errno, reason)
    }

    /// A failure before there is a transaction; kept for `octroi why`.
    fn failed_early(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        errno: Errno,
        reason: &str,
    ) -> Refused {
        let (question, _) = source.sides(caller, target);
        let decision = Decision {
            allowed: false,
            basis: Basis::Error,
            reason: Some(Arc::from(reason)),
            generation: self.policy().generation(),
            observed: None,
        };
        self.remember_failure(Operation::MoveSource, &question, decision, None);
        Refused { errno, why: Some(reason.to_owned()) }
    }

    /// Asks the rules for both sides, and for a gate for each part of the source.
    pub(super) fn permit_crossing(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<Vec<Gate>, Refused> {
        self.by_one_policy(|| self.permit_crossing_once(caller, source, target))
    }

    fn permit_crossing_once(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<Vec<Gate>, Refused> {
        let (from, to) = source.sides(caller, target);
        let subject = self.subject(caller)?;
        let policy = self.policy();
        let mut gates = Vec::new();
        for standing in source.standings() {
            let is_directory = standing.is_directory();
            let from = Question { branch: Some(standing.index), is_directory, ..from };
            let facts = Asked { size: Size::Whole, ..Asked::of(About::Standing(self, standing)) };
            let (decision, gate) =
                policy.decide_crossing(&subject, from.object(), to.object(), &facts);
            let gate = gate.cloned();
            self.settle_told(Operation::MoveSource, &from, decision, &facts)?;
            gates.extend(gate);
        }
        self.permit_replacing(caller, target)?;
        Ok(gates)
    }

    /// Whether what is below a directory may cross with it: asked of the deny rules for every entry, by
    /// its name on both sides, and for all but directories of the paths that the gate lets through.
    fn admission(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        gates: &[Gate],
    ) -> Result<Admit, Errno> {
        let rules = self.rules_below(caller, source, target)?;
        let gates = gates.to_vec();
        let from = source.site.path.clone();
        let (from_below, to_below) = (path_of(&source.site)?, path_of(target)?);
        Ok(Arc::new(move |entry| {
            rules(entry)?;
            let gate = gates.get(entry.part).ok_or(CrossingError::SourceChanged)?;
            let paths = (from_below.join(entry.path), to_below.join(entry.path));
            let is_directory = *entry.kind == Kind::Directory;
            if entry.hidden || is_directory || gate.admits(&paths.0, &paths.1) {
                return Ok(());
            }
            Err(CrossingError::NotAdmitted {
                path: from.join(entry.path.as_os_str()).as_path().to_owned(),
                why: format!("gate {} does not take this name", gate.name),
            })
        }))
    }

    /// What the deny rules say of every entry below a directory, by its name on both sides.
    pub(super) fn rules_below(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<Admit, Errno> {
        let policy = self.policy.load_full();
        let subject = self.subject(caller)?;
        let standings = source.standings();
        let branches = standings.map(|standing| Ok(Arc::clone(self.branch(standing.index)?)));
        let branches: Vec<Arc<Branch>> = branches.collect::<Result<_, Errno>>()?;
        let below = path_of(&source.site)?;
        let (from, to) = (source.site.path.clone(), target.path.clone());
        let to_branch = target.parent.first.index;
        Ok(Arc::new(move |entry| {
            let branch = branches.get(entry.part).ok_or(CrossingError::SourceChanged)?;
            let is_directory = *entry.kind == Kind::Directory;
            let (source, target) =
                (from.join(entry.path.as_os_str()), to.join(entry.path.as_os_str()));
            let sides = [
                (
                    Operation::MoveSource,
                    Object { path: &source, branch: Some(branch.spec().index), is_directory },
                ),
                (
                    Operation::MoveTarget,
                    Object { path: &target, branch: Some(to_branch), is_directory },
                ),
            ];
            let at = below.join(entry.path);
            let size = Size::Whole;
            let facts = Asked { size, ..Asked::of(About::Entry(branch, entry, &at)) };
            for (operation, object) in sides {
                if let Some(denial) = policy.forbids(&subject, operation, object, &facts) {
                    let why = denial.reason.as_deref().unwrap_or("a rule denies it").to_owned();
                    let path = source.as_path().to_owned();
                    return Err(CrossingError::NotAdmitted { path, why });
                }
            }
            Ok(())
        }))
    }

    /// What stands at the target is removed by the crossing, so that a rule against removing holds.
    fn permit_replacing(&self, caller: Caller, target: &Site<'_>) -> Result<(), Refused> {
        match self.standings(&target.parent, &target.name)?.first() {
            Some(there) => {
                let question = target.question(caller, there.is_directory());
                let removal = match there.is_directory() {
                    true => Operation::Rmdir,
                    false => Operation::Unlink,
                };
                let facts = Asked::of(About::Standing(self, there));
                let decision = self.decide(caller, removal, question.object(), &facts);
                self.settle_told(removal, &question, decision, &facts)
            }
            None => Ok(()),
        }
    }

    /// The source's inode; a raw request may name one that the kernel never looked up.
    pub(super) fn source_inode(&self, source: &Occupied<'_>) -> Result<Arc<Inode>, Errno> {
        source.inode.clone().ok_or(Errno::STALE)
    }

    /// A crossing that the rules allowed and that failed all the same. The mover has recorded how it
    /// ended; what the gate refused is a denial like any other. Gives what the caller is told.
    pub(super) fn crossing_failed(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        gate: Option<&Gate>,
        error: &CrossingError,
    ) -> Refused {
        let path = &source.site.path;
        log::warn!("crossing of {path} to {}: {error}", target.path);
        if error.errno() == Errno::ROFS {
            self.was_refused(source.first.index);
            self.was_refused(target.parent.first.index);
        }
        let refused = error.is_denial();
        let gate = gate.filter(|_| refused);
        let decision = Decision {
            allowed: false,
            basis: gate.map_or(Basis::Error, |gate| Basis::Gate(Arc::clone(&gate.name))),
            reason: Some(Arc::from(error.to_string())),
            generation: self.policy().generation(),
            observed: None,
        };
        let (question, _) = source.sides(caller, target);
        if refused {
            self.record_denial(Operation::MoveSource, &question, &decision);
        }
        let why = self.told(caller, source, error);
        let told = Decision { reason: Some(Arc::from(why.as_str())), ..decision };
        self.remember_failure(Operation::MoveSource, &question, told, None);
        Refused { errno: never_across(error.errno()), why: Some(why) }
    }
}

/// On EXDEV mv would copy and delete, round the gate: also where the target's folder takes nothing by rename(2),
/// such as one with a project quota of its own.
fn never_across(errno: Errno) -> Errno {
    if errno == Errno::XDEV { Errno::OPNOTSUPP } else { errno }
}

/// What each member holds of the source, with its gate.
fn source_parts(
    source: &Occupied<'_>,
    gates: &[Gate],
) -> Result<Vec<SourcePart<RealStorage>>, Errno> {
    let parts = source.standings().zip(gates).map(|(standing, gate)| {
        Ok(SourcePart {
            name: name_of(&source.site, source.part(standing)?)?,
            gate: gate.name.to_string(),
            terms: Arc::clone(&gate.terms),
        })
    });
    parts.collect()
}

/// The target's name on the members that are not the one that it goes to.
fn shadows_of(target: &Site<'_>, branch: BranchIndex) -> Result<Vec<Name<RealStorage>>, Errno> {
    let others = target.parent.parts().filter(|part| part.index != branch);
    others.map(|part| name_of(target, part)).collect()
}

/// The path below the root of a branch, of all members of a pool alike.
pub(super) fn path_of(site: &Site<'_>) -> Result<PathBuf, Errno> {
    Ok(site.parent.inode.path_in_branch().ok_or(Errno::NOENT)?.join(&site.name))
}

/// A name as the mover wants it, on one part of its folder.
pub(super) fn name_of(site: &Site<'_>, part: &OpenPart<'_>) -> Result<Name<RealStorage>, Errno> {
    Ok(Name {
        branch: part.index,
        path: path_of(site)?,
        view: ViewPath::clone(&site.path),
        parent: RealDir::from_fd(part.as_fd())?,
        name: site.name.clone(),
    })
}
