//! What the control protocol asks: branches, denials, decisions, places, transactions.
//!
//! Nothing here checks whether the asker may know: that is the transport's, by
//! [`Vfs::is_privileged`].

use std::path::PathBuf;
use std::sync::Arc;

use crate::branch::{Branch, FileKind};
use crate::error::Errno;
use crate::mover::{Journal, Progress};
use crate::policy::{Basis, Considered, Decision, Object, Subject};
use crate::types::{BranchIndex, Caller, Operation, Verb, ViewPath};
use crate::view::{Known, LayoutIndex};

use super::facts::{About, Asked, Size};
use super::{Denial, Vfs};

/// Where a path of the view lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Name of the branch; none for a folder that no branch provides.
    pub branch: Option<String>,
    /// The path on the backing file system.
    pub backing: Option<PathBuf>,
}

impl Vfs {
    /// Root and the mounting user may know everything of the view.
    pub fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner
    }

    /// The user who mounted.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// The branches with their places in the view, in order of the configuration.
    pub fn branches(&self) -> Vec<(ViewPath, Arc<Branch>)> {
        let place = |index: usize| {
            let domain = self.view.domain(BranchIndex(index as u16));
            let mut folders = self.view.layout.iter();
            let found = folders.find(|(_, folder)| folder.domain == Some(domain));
            found.map_or_else(ViewPath::root, |(_, folder)| folder.path.clone())
        };
        self.branches.iter().enumerate().map(|(index, b)| (place(index), Arc::clone(b))).collect()
    }

    /// How much the kernel knows and has open, files of `.audit` included.
    pub fn known(&self) -> Known {
        let known = self.view.known();
        Known { files: known.files.saturating_add(self.open_audit_files()), ..known }
    }

    /// Generation of the policy in force.
    pub fn policy_generation(&self) -> u64 {
        self.policy().generation()
    }

    /// Why nothing may be changed just now, if so.
    pub fn ledger_fault(&self) -> Option<Errno> {
        self.ledger.accepts_mutations().err()
    }

    /// The newest denial of a user, or the newest that names a path.
    pub fn last_denial(&self, uid: u32, path: Option<&ViewPath>) -> Option<Denial> {
        self.denials.last(uid, path)
    }

    /// What the policy in force would decide, and everything it considers. A path that does not exist, or
    /// that the asker may not look at, counts as a file. The error is that of looking up the caller's
    /// groups.
    pub fn explain(
        &self,
        uid: u32,
        operation: Operation,
        path: &ViewPath,
        target: Option<&ViewPath>,
        (visible, target_visible): (bool, bool),
    ) -> Result<(Decision, Vec<Considered>), Errno> {
        let groups = self.identities.groups(uid)?;
        // The primary group is one of them, and rules do not tell it from the others.
        let gid = groups.first().copied().unwrap_or(u32::MAX);
        let subject = Subject { uid, gid, groups };
        let found = if visible { self.walk(path).ok() } else { None };
        let is_directory = found.as_ref().is_some_and(|inode| inode.kind == FileKind::Directory);
        let about = found.as_ref().map_or(About::New, |inode| About::Inode(self, inode));
        let size = if target.is_some() { Size::Whole } else { Size::Kept };
        let facts = Asked { size, ..Asked::of(about) };
        let object = Object { path, branch: self.branch_of_path(path), is_directory };
        let target =
            target.map(|path| Object { path, branch: self.branch_of_path(path), is_directory });
        let policy = self.policy();
        let (decision, considered) = policy.explain(&subject, operation, object, target, &facts);
        let mut others = found.as_ref().map(|inode| inode.paths()).unwrap_or_default();
        others.retain(|other| other != path);
        if decision.allowed
            && let Some(target) =
                target.filter(|_| target_visible && operation.verb() == Verb::Remove)
            && let Ok(there) = self.walk(target.path)
        {
            let is_directory = there.kind == FileKind::Directory;
            let removal = if is_directory { Operation::Rmdir } else { Operation::Unlink };
            let target = Object { is_directory, ..target };
            let facts = Asked::of(About::Inode(self, &there));
            let (removed, considered) = policy.explain(&subject, removal, target, None, &facts);
            if !removed.allowed {
                return Ok((removed, considered));
            }
        }
        // Whether other names may cross is for the crossing to say.
        if !decision.allowed || matches!(decision.basis, Basis::Gate(_)) {
            return Ok((decision, considered));
        }
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
                return Ok((denial, named));
            }
        }
        Ok((decision, considered))
    }

    /// The branch that a path lies in, or would; of a pool, where the kinds of members do not differ,
    /// its first.
    fn branch_of_path(&self, path: &ViewPath) -> Option<BranchIndex> {
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

    /// Where a path lies. ENOENT if it does not exist.
    pub fn locate(&self, path: &ViewPath) -> Result<Located, Errno> {
        let inode = self.walk(path)?;
        let Some(index) = inode.place().branch() else {
            return Ok(Located { branch: None, backing: None });
        };
        let branch = self.branch(index)?;
        let below = inode.path_in_branch().unwrap_or_default();
        let root = &branch.spec().path;
        let backing = if below.as_os_str().is_empty() { root.clone() } else { root.join(below) };
        Ok(Located { branch: Some(branch.name().to_owned()), backing: Some(backing) })
    }

    /// Looks at the transactions; no crossing goes on while `look` runs.
    pub fn with_journal<T>(&self, look: impl FnOnce(&Journal) -> T) -> T {
        self.mover.with_journal(look)
    }

    /// The crossings under way.
    pub fn active_crossings(&self) -> Vec<Arc<Progress>> {
        self.mover.active()
    }

    /// The groups of a caller by the user database, for acting in the caller's name.
    pub fn groups_of(&self, caller: Caller) -> Result<Arc<[u32]>, Errno> {
        self.identities.groups(caller.uid)
    }
}
