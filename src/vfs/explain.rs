//! What would be decided, and why: for `octroi explain` and `octroi why`. Asked of the policy as the operation
//! itself asks it, and of what the view refuses whatever the policy says.

use std::sync::Arc;

use crate::branch::FileKind;
use crate::error::Errno;
use crate::policy::{Basis, Considered, Decision, Object, Policy, Subject, Supposed, Supposing};
use crate::types::{BranchIndex, Caller, Operation, Verb, ViewPath};
use crate::view::{Inode, LayoutIndex, in_epoch};

use super::facts::{About, Asked, Size};
use super::{AUDIT_NAME, PRIVATE_NAME, Vfs};

/// What is to be explained.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Who would do it.
    pub uid: u32,
    /// What.
    pub operation: Operation,
    /// On what; for a link the file that exists.
    pub path: &'a ViewPath,
    /// The second path of a rename, move or link.
    pub target: Option<&'a ViewPath>,
    /// Whether whoever asks may look at what is at the two paths; what they may not look at counts as a
    /// file that is not there.
    pub visible: (bool, bool),
    /// Whether whoever asks may know of another path.
    pub known: &'a dyn Fn(&ViewPath) -> bool,
    /// What is not looked at.
    pub supposed: &'a Supposed,
}

/// What would be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The decision.
    pub decision: Decision,
    /// Everything that was considered.
    pub considered: Vec<Considered>,
    /// How large, in bytes, an operation that is allowed may make the file, and what denies more.
    pub limit: Option<(u64, Basis)>,
}

impl From<(Decision, Vec<Considered>)> for Explained {
    fn from((decision, considered): (Decision, Vec<Considered>)) -> Self {
        Self { decision, considered, limit: None }
    }
}

impl Vfs {
    /// What would be decided by the policy in force, and everything it considers. A path that does not exist
    /// counts as a file. The error is that of looking up the user's groups.
    pub fn explain(&self, asking: &Asking<'_>) -> Result<Explained, Errno> {
        let Asking { uid, operation, path, target, visible, known, supposed } = *asking;
        let groups = self.identities.groups(uid)?;
        // The primary group is one of them, and rules do not tell it from the others.
        let gid = groups.first().copied().unwrap_or(u32::MAX);
        let subject = Subject { uid, gid, groups };
        let (epoch, policy) = in_epoch(|| self.policy());
        if let Some(decision) = self.refused_by_view(asking, gid, &policy) {
            let why = decision.reason.as_deref().unwrap_or("it is for who may read it").to_owned();
            let considered =
                Considered { what: "view".to_owned(), applies: true, near: false, why };
            return Ok((decision, vec![considered]).into());
        }
        let found = if visible.0 { self.walk(path).ok() } else { None };
        let is_directory = found.as_ref().is_some_and(|inode| inode.kind == FileKind::Directory);
        let about = found.as_ref().map_or(About::New, |inode| About::Inode(self, inode));
        let size = if target.is_some() { Size::Whole } else { Size::Kept };
        let asked = Asked { size, ..Asked::of(about) };
        let facts = Supposing { facts: &asked, supposed };
        let object = Object { path, branch: self.branch_of_path(path), is_directory };
        let target =
            target.map(|path| Object { path, branch: self.branch_of_path(path), is_directory });
        let (decision, considered) = policy.explain(&subject, operation, object, target, &facts);
        if decision.allowed
            && let Some(target) = target.filter(|_| visible.1 && operation.verb() == Verb::Remove)
            && let Some(denied) = self.replacing_denied(&subject, target, &policy)
        {
            return Ok(denied);
        }
        // Whether other names may cross is for the crossing to say.
        if !decision.allowed || matches!(decision.basis, Basis::Gate(_)) {
            return Ok((decision, considered).into());
        }
        // One of each class, for there may be thousands.
        let named =
            |inode: &Arc<Inode>| inode.paths_by_class(epoch, &|path| policy.classify_path(path));
        let named = found.as_ref().map(named).unwrap_or_default();
        let others: Vec<_> =
            named.into_iter().map(|(_, other)| other).filter(|other| other != path).collect();
        // A file is asked about by every name that it has.
        for other in &others {
            let object = Object { path: other, ..object };
            let denial = match (target, operation.verb()) {
                (Some(target), _) => policy.widens(&subject, object, target),
                (None, Verb::Add | Verb::Remove) => None,
                (None, Verb::Read | Verb::Write | Verb::Attrs) => {
                    let named = policy.decide(&subject, operation, object, &facts);
                    (!named.allowed).then_some(named)
                }
            };
            if let Some(denial) = denial {
                let (_, named) = policy.explain(&subject, operation, object, target, &facts);
                let considered = if known(other) { named } else { vec![unnamed(&denial)] };
                return Ok((denial, considered).into());
            }
        }
        let names = std::iter::once(path).chain(&others).map(|path| Object { path, ..object });
        let limit = match supposed.size {
            None => limit(&policy, &subject, operation, names, &facts),
            Some(_) => None,
        };
        Ok(Explained { decision, considered, limit })
    }

    /// The denial of what a rename removes at its target.
    fn replacing_denied(
        &self,
        subject: &Subject,
        target: Object<'_>,
        policy: &Policy,
    ) -> Option<Explained> {
        let there = self.walk(target.path).ok()?;
        let is_directory = there.kind == FileKind::Directory;
        let removal = if is_directory { Operation::Rmdir } else { Operation::Unlink };
        let target = Object { is_directory, ..target };
        let facts = Asked::of(About::Inode(self, &there));
        let (removed, considered) = policy.explain(subject, removal, target, None, &facts);
        (!removed.allowed).then(|| (removed, considered).into())
    }

    /// What the view says by itself, whatever the policy: of `.audit`, of `.octroi`, and of a hard link from one
    /// branch to another.
    fn refused_by_view(&self, asking: &Asking<'_>, gid: u32, policy: &Policy) -> Option<Decision> {
        let decided = |reason: Option<&str>| Decision {
            allowed: reason.is_none(),
            basis: Basis::View,
            reason: reason.map(Into::into),
            generation: policy.generation(),
            observed: None,
        };
        let Asking { operation, path, target, .. } = *asking;
        let paths = || std::iter::once(path).chain(target);
        let in_audit = |path: &ViewPath| path.components().next().is_some_and(|n| n == AUDIT_NAME);
        if paths().any(in_audit) {
            let caller = Caller { uid: asking.uid, gid, pid: 0 };
            return Some(decided(match (operation.verb(), self.check_reader(caller)) {
                (Verb::Read, Ok(())) => None,
                (Verb::Read, Err(_)) => {
                    Some(".audit is for root, the user who mounted, and audit.readers")
                }
                _ => Some("nobody can change anything in .audit"),
            }));
        }
        if paths().any(|path| self.is_private(path)) {
            let reason =
                ".octroi in the root of a branch is octroi's own folder and not in the view";
            return Some(decided(Some(reason)));
        }
        let domain = |path| self.branch_of_path(path).map(|branch| self.view.domain(branch));
        let linked_away = operation == Operation::Link
            && target.is_some_and(|target| match (domain(path), domain(target)) {
                (Some(from), Some(to)) => from != to,
                _ => false,
            });
        linked_away
            .then(|| decided(Some("a hard link does not lead from one branch to another (EXDEV)")))
    }

    /// Whether a path is, or lies below, `.octroi` in the root of a branch.
    fn is_private(&self, path: &ViewPath) -> bool {
        let mut folder = LayoutIndex::ROOT;
        for name in path.components() {
            match self.view.layout.child(folder, name) {
                Some(child) => folder = child,
                None => {
                    return name == PRIVATE_NAME
                        && self.view.layout.folder(folder).domain.is_some();
                }
            }
        }
        false
    }

    /// The branch that a path lies in, or would; of a pool, where the kinds of members do not differ,
    /// its first.
    pub(super) fn branch_of_path(&self, path: &ViewPath) -> Option<BranchIndex> {
        let mut folder = LayoutIndex::ROOT;
        for name in path.components() {
            match self.view.layout.child(folder, name) {
                Some(child) => folder = child,
                None => break,
            }
        }
        let domain = self.view.layout.folder(folder).domain?;
        self.view.members(domain).first().copied()
    }
}

/// Of a name that whoever asks may not know.
pub fn unnamed(denial: &Decision) -> Considered {
    let why = "speaks of another name of the file, where you may not look".to_owned();
    Considered { what: denial.basis.text(), applies: true, near: false, why }
}

/// The least limit that a file has by any of its names. Opening for writing and creating have no size; what is
/// written then has.
fn limit<'a>(
    policy: &Policy,
    subject: &Subject,
    operation: Operation,
    names: impl Iterator<Item = Object<'a>>,
    facts: &Supposing<'_>,
) -> Option<(u64, Basis)> {
    let sized = match operation {
        Operation::OpenWrite | Operation::Create => Operation::WriteData,
        Operation::RenameTarget | Operation::MoveTarget | Operation::Link => return None,
        other => Some(other).filter(|operation| operation.has_size())?,
    };
    let limits = names.filter_map(|object| policy.size_limit(subject, sized, object, facts));
    limits.min_by_key(|(bytes, _)| *bytes)
}
