//! Extended attributes and, through them, POSIX ACLs.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::thread::CapabilitySet;

use crate::branch::{FileKind, XattrFlags, is_access_acl, is_acl};
use crate::error::Errno;
use crate::policy::LABEL;
use crate::sys::process::is_capable;
use crate::types::{Caller, Operation};
use crate::view::Place;

use super::Vfs;
use super::facts::{About, Asked};
use super::permit::Question;
use super::place::Patience;
use super::site::{Node, OpenPart};

/// Free bytes, beside those of a value, with which a disk has room for it.
const ROOM_FOR_XATTR: u64 = 1 << 20;

impl Vfs {
    /// The value of one extended attribute. ENODATA; also of an ACL where the file system has none, for of any
    /// other errno the kernel makes the answer to whoever's rights it looks for there.
    pub fn getxattr(&self, number: u64, key: &OsStr) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Virtual | Place::Audit) {
            return Err(Errno::NODATA);
        }
        let node = self.node(Arc::clone(&inode));
        let value = match node.and_then(|node| node.first.branch.get_xattr(node.first.as_fd(), key))
        {
            Err(Errno::OPNOTSUPP) if is_acl(key) => Err(Errno::NODATA),
            value => value,
        };
        match value {
            // Without an answer the kernel lets nobody through but the owner.
            Err(Errno::IO) if is_access_acl(key) && self.is_away_on_the_way(&inode) => {
                self.last_acl(&inode)
            }
            value => value,
        }
    }

    /// The names of the extended attributes that the caller may know of: `trusted.*` is for who administers
    /// the system (xattr(7)).
    pub fn listxattr(&self, caller: Caller, number: u64) -> Result<Vec<OsString>, Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Virtual | Place::Audit) {
            return Ok(Vec::new());
        }
        let node = self.node(inode)?;
        let mut keys = node.first.branch.list_xattrs(node.first.as_fd())?;
        let is_trusted = |key: &OsString| key.as_bytes().starts_with(b"trusted.");
        if keys.iter().any(is_trusted) && !is_capable(caller, CapabilitySet::SYS_ADMIN) {
            keys.retain(|key| !is_trusted(key));
        }
        Ok(keys)
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        caller: Caller,
        number: u64,
        key: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        let may_keep =
            |gid| self.is_in_group(caller, gid) || is_capable(caller, CapabilitySet::FSETID);
        self.change_xattr(caller, number, (Operation::Setxattr, key), |node| {
            if !node.more.is_empty() {
                check_flags(&node.first, key, flags)?;
            }
            let act = |part: &OpenPart<'_>| {
                let flags = if is_first(node, part) { flags } else { XattrFlags::empty() };
                part.branch.set_xattr(part.as_fd(), key, value, flags)?;
                part.branch.after_acl(part.as_fd(), key, may_keep)
            };
            let set = || change_parts(node, key, act);
            match set() {
                Err(Errno::NOSPC) if self.room_for_xattr(caller, node, value) => set(),
                set => set,
            }
        })
    }

    /// Makes room on the parts that have none; whether it is worth trying once more. ext4 also says that there is
    /// no space where a value does not fit beside the inode, on an empty disk too: then nothing goes. Nor
    /// does anything where others have made room meanwhile.
    fn room_for_xattr(&self, caller: Caller, node: &Node<'_>, value: &[u8]) -> bool {
        let bytes = (value.len() as u64).saturating_add(ROOM_FOR_XATTR);
        let is_full = |part: &&OpenPart<'_>| {
            let space = part.branch.space_for_changes();
            space.is_ok_and(|space| {
                space.blocks_available.saturating_mul(space.block_size.into()) < bytes
            })
        };
        let mut full: Vec<_> = node.parts().filter(is_full).collect();
        let mut patience = Patience::new();
        while full.iter().any(|part| self.waits_for_removed(part.index, &mut patience)) {
            full.retain(is_full);
        }
        let made: Vec<bool> = full
            .into_iter()
            .map(|part| self.mover.make_room(part.index, bytes, caller.uid).is_some())
            .collect();
        made.is_empty() || made.contains(&true)
    }

    /// Removes an extended attribute. ENODATA.
    pub fn removexattr(&self, caller: Caller, number: u64, key: &OsStr) -> Result<(), Errno> {
        self.change_xattr(caller, number, (Operation::Removexattr, key), |node| {
            // An access list that is not there is removed without an error (fs/posix_acl.c).
            if !node.more.is_empty() && !is_acl(key) {
                check_flags(&node.first, key, XattrFlags::REPLACE)?;
            }
            change_parts(node, key, |part| match part.branch.remove_xattr(part.as_fd(), key) {
                Err(Errno::NODATA) if !is_first(node, part) => Ok(()),
                result => result,
            })
        })
    }

    fn change_xattr(
        &self,
        caller: Caller,
        number: u64,
        (operation, key): (Operation, &OsStr),
        act: impl Fn(&Node<'_>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Virtual | Place::Audit) {
            return Err(Errno::ROFS);
        }
        // Before the decision: a crossing must not come between.
        let _lock = self.lock_content(&inode)?;
        let facts = Asked { changes_labels: key == LABEL, ..Asked::of(About::Inode(self, &inode)) };
        self.permit_inode(caller, operation, &inode, &facts)?;
        self.ready_to_record()?;
        let node = self.node(inode)?;
        let result = act(&node);
        if is_access_acl(key) && self.leads_on(&node.inode) {
            // What is told of it while its branch is away must not be what was taken away.
            self.forget_last(&node.inode);
            let _ = self.stat_node(&node);
        }
        if let Some(path) = node.inode.last_path() {
            let is_directory = node.inode.kind == FileKind::Directory;
            let branch = Some(node.first.index);
            let question = Question { caller, path: &path, branch, is_directory, target: None };
            self.record(operation, &question, result);
        }
        result
    }
}

/// Whether an attribute may be made or replaced is for the part to say that users see, and before
/// any part is changed.
fn check_flags(first: &OpenPart<'_>, key: &OsStr, flags: XattrFlags) -> Result<(), Errno> {
    match first.branch.get_xattr(first.as_fd(), key) {
        Ok(_) if flags.contains(XattrFlags::CREATE) => Err(Errno::EXIST),
        Err(Errno::NODATA) if !flags.contains(XattrFlags::REPLACE) => Ok(()),
        result => result.map(drop),
    }
}

fn change_parts<'a>(
    node: &Node<'a>,
    key: &OsStr,
    act: impl Fn(&OpenPart<'a>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    node.change_parts(
        |part| part.branch.xattr_before(part.as_fd(), key),
        act,
        |part, was| part.branch.restore_xattr(part.as_fd(), key, was),
    )
}

fn is_first(node: &Node<'_>, part: &OpenPart<'_>) -> bool {
    part.index == node.first.index
}
