//! From numbers and names to branches and descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::branch::Branch;
use crate::error::Errno;
use crate::types::{BranchIndex, ViewPath};
use crate::view::{Inode, LayoutIndex, Place};

use super::{AUDIT_NAME, PRIVATE_NAME, Vfs, check_name};

/// An inode of a branch with an `O_PATH` descriptor.
pub(super) struct Node<'a> {
    pub inode: Arc<Inode>,
    pub index: BranchIndex,
    pub branch: &'a Arc<Branch>,
    descriptor: OwnedFd,
}

impl AsFd for Node<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A name in a directory of a branch, which may or may not exist.
pub(super) struct Site<'a> {
    pub parent: Node<'a>,
    pub name: OsString,
    /// The path of the name in the view.
    pub path: ViewPath,
}

/// Why a name is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To make it.
    Add,
    /// To take it away.
    Remove,
}

impl Vfs {
    /// The inode of a number. ESTALE for one the kernel was never given.
    pub(super) fn inode(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        self.view.inodes.get(number).ok_or(Errno::STALE)
    }

    /// Opens an inode of a branch as a node. EROFS for a virtual folder, EACCES in `.audit`.
    pub(super) fn node(&self, inode: Arc<Inode>) -> Result<Node<'_>, Errno> {
        let place = inode.place().clone();
        let (index, handle) = match place {
            Place::Branch { branch, handle } => (branch, handle),
            Place::Virtual => return Err(Errno::ROFS),
            Place::Audit => return Err(Errno::ACCESS),
            Place::Gone if inode.layout.is_some() => return Err(Errno::IO),
            Place::Gone => return Err(Errno::STALE),
        };
        let branch = self.branch(index)?;
        let opened = branch.open_node(&handle, || inode.path_in_branch().unwrap_or_default());
        let descriptor = match opened {
            // Without file handles an unlinked file is still there for who has it open.
            Err(Errno::NOENT | Errno::STALE) => match inode.open_files().first() {
                Some(file) => rustix::io::fcntl_dupfd_cloexec(&*file.descriptor(), 3)?,
                None => return Err(Errno::STALE),
            },
            opened => opened?,
        };
        Ok(Node { inode, index, branch, descriptor })
    }

    /// Opens the directory that has, or will have, a name. Names that the view keeps for itself are
    /// refused here.
    pub(super) fn site(
        &self,
        parent: u64,
        name: &OsStr,
        purpose: Purpose,
    ) -> Result<Site<'_>, Errno> {
        self.site_in(self.inode(parent)?, name, purpose)
    }

    /// As [`Vfs::site`], for an inode.
    pub(super) fn site_in(
        &self,
        inode: Arc<Inode>,
        name: &OsStr,
        purpose: Purpose,
    ) -> Result<Site<'_>, Errno> {
        check_name(name)?;
        if matches!(*inode.place(), Place::Audit) {
            return Err(Errno::ROFS);
        }
        if let Some(folder) = inode.layout {
            if self.view.layout.child(folder, name).is_some() {
                return Err(match purpose {
                    Purpose::Add => Errno::EXIST,
                    Purpose::Remove => Errno::BUSY,
                });
            }
            if folder == LayoutIndex::ROOT && name == AUDIT_NAME {
                return Err(Errno::ACCESS);
            }
            if name == PRIVATE_NAME && self.view.layout.folder(folder).branch.is_some() {
                return Err(match purpose {
                    Purpose::Add => Errno::ACCESS,
                    Purpose::Remove => Errno::NOENT,
                });
            }
        }
        let path = inode.path().ok_or(Errno::NOENT)?.join(name);
        let parent = self.node(inode)?;
        Ok(Site { parent, name: name.to_owned(), path })
    }

    /// Walks a path of the view to an inode, as the daemon: for the control protocol, whose answers
    /// must not tell a caller more than its own rename(2) or stat(2) would.
    pub(super) fn walk(&self, path: &ViewPath) -> Result<Arc<Inode>, Errno> {
        let mut here = self.inode(LayoutIndex::ROOT.number())?;
        for name in path.components() {
            here = self.step(&here, name)?;
        }
        Ok(here)
    }

    /// One step of [`Vfs::walk`]; the reference that the lookup counted is given back at once, the
    /// inode lives as long as somebody holds it.
    fn step(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Arc<Inode>, Errno> {
        let found = self.find_child(parent, name)?;
        self.view.inodes.forget(found.inode.number, 1);
        Ok(found.inode)
    }
}
