//! What a message may say of the inside of what somebody moves: rename(2) asks nobody to be able to read a
//! file or to look into a directory, so that content, and names below, may be others' secrets.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags};

use crate::branch::{Branch, FileKind};
use crate::error::Errno;
use crate::mover::CrossingError;
use crate::policy::PathClass;
use crate::sys::identity::CallerGuard;
use crate::types::{Caller, Operation};
use crate::view::in_epoch;

use super::Vfs;
use super::facts::{About, Asked};
use super::remove::Occupied;

/// What is told instead.
pub(super) const HIDDEN: &str =
    "something in the directory, where you may not look, keeps it from moving";

/// What a copy of a directory has lost, for those who may not look at all of it.
pub const HIDDEN_LOSS: &str = "something where you may not look";

impl Vfs {
    /// Why a crossing failed, as its caller may know it.
    pub(super) fn told(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        error: &CrossingError,
    ) -> String {
        match error {
            CrossingError::TypeNotAllowed { allowed, .. }
                if !self.may_read(caller, source, None) =>
            {
                format!("the gate takes {}, and this is something else", allowed.join(", "))
            }
            // It tells who stopped it, and nothing of what is inside.
            CrossingError::Cancelled(_) => error.to_string(),
            _ if self.may_know(caller, source) => {
                self.without_content(caller, source, error).to_string()
            }
            _ => HIDDEN.to_owned(),
        }
    }

    /// What a copy has lost, as its caller may know it: attributes inside have names.
    pub(super) fn told_lost(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        lost: Vec<String>,
    ) -> Vec<String> {
        match lost.is_empty() || self.may_know(caller, source) {
            true => lost,
            false => vec![HIDDEN_LOSS.to_owned()],
        }
    }

    /// What a command said of a file may be a part of it, and is told only to those who can read it.
    fn without_content(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        error: &CrossingError,
    ) -> CrossingError {
        let below = match error {
            CrossingError::Below { path, .. } => Some(path.as_path()),
            _ => None,
        };
        if self.may_read(caller, source, below) { error.clone() } else { error.clone().silenced() }
    }

    /// Whether a caller may be told what a file is by its content, or one below a directory. Of anything
    /// else than files it is no secret; what is inside of directories is another question.
    fn may_read(&self, caller: Caller, source: &Occupied<'_>, below: Option<&Path>) -> bool {
        let is_file = below.is_some() || source.first.found.stat.kind == FileKind::File;
        if !is_file || self.is_privileged(caller.uid) {
            return true;
        }
        let name = Path::new(&source.site.name);
        let name = below.map_or_else(|| name.to_owned(), |below| name.join(below));
        if !self.rules_let_read(caller, source, below) {
            return false;
        }
        let reads = || -> Result<(), Errno> {
            let folder = source.part(&source.first)?.as_fd();
            let groups = self.identities.groups(caller.uid)?;
            let _caller = CallerGuard::assume(caller.uid, caller.gid, &groups, 0o077)?;
            let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::accessat(folder, &name, Access::READ_OK, flags)
        };
        reads().is_ok()
    }

    /// Whether a caller may be told what is inside of what is moved.
    pub(super) fn may_know(&self, caller: Caller, source: &Occupied<'_>) -> bool {
        !source.is_directory() || self.is_privileged(caller.uid) || self.sees(caller, source)
    }

    /// Whether the rules let a caller read a file that is moved, or one below a directory.
    fn rules_let_read(&self, caller: Caller, source: &Occupied<'_>, below: Option<&Path>) -> bool {
        let path = source.site.path.join(below.unwrap_or(Path::new("")).as_os_str());
        let (epoch, policy) = in_epoch(|| self.policy());
        let (Ok(inode), Ok(subject)) = (self.walk(&path), self.subject(caller)) else {
            return false;
        };
        let facts = Asked::of(About::Inode(self, &inode));
        let branch = inode.place().branch();
        let reads = |class: &PathClass| {
            policy.decide_class(&subject, Operation::OpenRead, (class, branch), &facts).allowed
        };
        inode.classes(epoch, &|path| policy.classify_path(path)).iter().all(reads)
    }

    /// Whether a caller can list every directory of what is moved.
    fn sees(&self, caller: Caller, source: &Occupied<'_>) -> bool {
        source.standings().all(|standing| {
            let top = || Ok((self.branch(standing.index)?, source.part(standing)?.as_fd()));
            let looked = top().and_then(|(branch, folder)| {
                let groups = self.identities.groups(caller.uid)?;
                let _caller = CallerGuard::assume(caller.uid, caller.gid, &groups, 0o077)?;
                let folder = folder.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
                list_all(branch, folder, source.site.name.clone())
            });
            looked.is_ok()
        })
    }
}

/// How deep a directory is looked into before something is told of it: each level may keep a descriptor.
const DEPTH_MAX: usize = 64;

/// Lists a directory and all below it, as whoever this thread is. Open are those on the way only. ENAMETOOLONG
/// where it is too deep for that.
fn list_all(branch: &Branch, folder: OwnedFd, name: OsString) -> Result<(), Errno> {
    let mut left = vec![(Arc::new(folder), name, 0_usize)];
    while let Some((folder, name, depth)) = left.pop() {
        if depth > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let found = branch.lookup(folder.as_fd(), &name)?;
        if found.stat.kind != FileKind::Directory {
            continue;
        }
        let folder = Arc::new(found.node);
        branch.read_dir(folder.as_fd(), |entry| {
            if matches!(entry.kind, Some(FileKind::Directory) | None) {
                left.push((Arc::clone(&folder), entry.name, depth.saturating_add(1)));
            }
            Ok(())
        })?;
    }
    Ok(())
}
