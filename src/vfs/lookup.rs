//! lookup, getattr, readlink, statfs: what is there. Not operations of the policy, for the kernel
//! caches them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::branch::{FileKind, SpaceStat, Stat};
use crate::error::Errno;
use crate::types::Caller;
use crate::view::{Inode, LayoutIndex, Place};

use super::{AUDIT_NAME, Attributes, PRIVATE_NAME, TTL, Vfs, check_name, virtual_stat};

/// A child that was found; it holds one reference for the kernel.
pub(super) struct Child {
    pub inode: Arc<Inode>,
    pub stat: Stat,
    pub ttl: Duration,
}

impl Vfs {
    /// Finds a name in a directory and counts a reference. ENOENT.
    pub fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<Attributes, Errno> {
        check_name(name).map_err(|errno| match errno {
            Errno::INVAL => Errno::NOENT,
            other => other,
        })?;
        let parent = self.inode(parent)?;
        let in_audit = matches!(*parent.place(), Place::Audit);
        if in_audit || (parent.number == LayoutIndex::ROOT.number() && name == AUDIT_NAME) {
            return self.lookup_audit(caller, &parent, name);
        }
        let child = self.find_child(&parent, name)?;
        Ok(Attributes { number: child.inode.number, stat: child.stat, ttl: child.ttl })
    }

    /// The child of that name, with a reference counted. Does not know `.audit`.
    pub(super) fn find_child(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Child, Errno> {
        if let Some(folder) = parent.layout {
            if let Some(child) = self.view.layout.child(folder, name) {
                let inode = self.inode(child.number())?;
                let stat = self.stat(&inode)?;
                return Ok(Child { inode, stat, ttl: TTL });
            }
            if self.view.layout.folder(folder).branch.is_none() || name == PRIVATE_NAME {
                return Err(Errno::NOENT);
            }
        }
        let parent = self.node(Arc::clone(parent))?;
        let found = parent.branch.lookup(parent.as_fd(), name)?;
        let inode = self.view.inodes.enter(
            parent.index,
            &found.handle,
            found.stat.kind,
            &parent.inode,
            name,
        );
        if inode.kind != found.stat.kind {
            // The branch gave a number of a dead inode to a new one, against what handles promise.
            self.view.inodes.forget(inode.number, 1);
            return Err(Errno::STALE);
        }
        Ok(Child { inode, stat: found.stat, ttl: TTL })
    }

    /// Attributes of an inode; of the open file where the kernel names one.
    pub fn getattr(
        &self,
        caller: Caller,
        number: u64,
        handle: Option<u64>,
    ) -> Result<Attributes, Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Audit) {
            return self.audit_attributes(caller, &inode);
        }
        let open = handle.and_then(|handle| self.view.handles.file(handle));
        let stat = match open {
            Some(file) => self.branch(file.branch)?.stat(file.descriptor().as_fd())?,
            None => self.stat(&inode)?,
        };
        Ok(Attributes { number, stat, ttl: TTL })
    }

    /// Attributes of an inode of a branch or the layout.
    pub(super) fn stat(&self, inode: &Arc<Inode>) -> Result<Stat, Errno> {
        if matches!(*inode.place(), Place::Virtual) {
            return Ok(virtual_stat(self.started));
        }
        let node = self.node(Arc::clone(inode))?;
        if inode.layout.is_some() {
            return node.branch.stat_root();
        }
        node.branch.stat(node.as_fd())
    }

    /// What a symbolic link says.
    pub fn readlink(&self, number: u64) -> Result<OsString, Errno> {
        let inode = self.inode(number)?;
        if inode.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        let node = self.node(inode)?;
        node.branch.read_link(node.as_fd())
    }

    /// Space of the file system below an inode. Virtual folders add up all branches, each file system
    /// once.
    pub fn statfs(&self, number: u64) -> Result<SpaceStat, Errno> {
        let inode = self.inode(number)?;
        let in_branch = inode.place().branch();
        if let Some(branch) = in_branch {
            return self.branch(branch)?.statfs();
        }
        let mut devices = Vec::new();
        let mut sum = SpaceStat::default();
        for branch in &self.branches {
            let Ok(device) = branch.device() else { continue };
            if devices.contains(&device) {
                continue;
            }
            devices.push(device);
            if let Ok(space) = branch.statfs() {
                sum.add(&space);
            }
        }
        Ok(sum)
    }
}
