//! chmod, chown, truncate, utimes: the kernel sends them as one request.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use crate::branch::{AttributeChange, FileKind, SetTime, Stat};
use crate::error::Errno;
use crate::sys::process::is_capable;
use crate::types::{Caller, Operation, Time};
use crate::view::locks::Lock;
use crate::view::{Inode, OpenFile, Place};

use super::facts::{About, Asked, Size};
use super::permit::Question;
use super::site::Node;
use super::{Attributes, TTL, Vfs};

/// What a setattr asks for.
#[derive(Debug, Clone)]
pub struct AttributeRequest {
    /// The changes; those that are `None` stay.
    pub change: AttributeChange,
    /// New length in bytes.
    pub size: Option<u64>,
    /// The open file that it came through.
    pub handle: Option<u64>,
}

impl AttributeRequest {
    fn operations(&self) -> impl Iterator<Item = Operation> {
        let change = &self.change;
        let chown = change.uid.is_some() || change.gid.is_some();
        let utimes = change.atime.is_some() || change.mtime.is_some();
        // A truncate carries new times with it; they are no change of their own.
        let utimes = utimes && self.size.is_none();
        [
            (change.mode.is_some(), Operation::Chmod),
            (chown, Operation::Chown),
            (utimes, Operation::Utimes),
            (self.size.is_some(), Operation::Truncate),
        ]
        .into_iter()
        .filter_map(|(asked, operation)| asked.then_some(operation))
    }
}

impl AttributeRequest {
    /// What becomes of attributes, as far as it can be told without asking.
    fn done_to(&self, was: Stat) -> Stat {
        let at = |asked: Option<SetTime>, was: Time| match asked {
            Some(SetTime::At(time)) => time,
            Some(SetTime::Now) => super::now(),
            None => was,
        };
        let change = &self.change;
        Stat {
            mode: change.mode.unwrap_or(was.mode),
            uid: change.uid.unwrap_or(was.uid),
            gid: change.gid.unwrap_or(was.gid),
            size: self.size.unwrap_or(was.size),
            atime: at(change.atime, was.atime),
            mtime: at(change.mtime, was.mtime),
            ..was
        }
    }
}

impl Vfs {
    /// Changes attributes; all that is asked is decided before any of it is done.
    pub fn setattr(
        &self,
        caller: Caller,
        number: u64,
        request: &AttributeRequest,
    ) -> Result<Attributes, Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Virtual | Place::Audit) {
            return Err(Errno::ROFS);
        }
        // A file that is open for writing is not crossing; its handle need not ask.
        let open = request.handle.and_then(|handle| self.view.handles.file(handle));
        let open = open.filter(|file| file.writable && file.inode.number == number);
        let content = if open.is_some() { vec![] } else { vec![Lock::Content(number)] };
        // Before the decision, as for opening: else a crossing could take the inode, between the two, to
        // where it must not be changed.
        let _lock = self.view.locks.operation(&[&inode], vec![], content)?;
        let size = request.size.map_or(Size::Kept, Size::Reaches);
        let facts = Asked { size, ..Asked::of(About::Inode(self, &inode)) };
        self.by_one_policy(|| {
            let permit = |operation| self.permit_inode(caller, operation, &inode, &facts).map(drop);
            request.operations().try_for_each(permit)
        })?;
        self.ready_to_record()?;
        let node = self.node(Arc::clone(&inode))?;
        let was = self.stat_node(&node)?;
        let result = self.change(caller, &node, open.as_ref(), request);
        self.record_changes(caller, &inode, request, result);
        result?;
        // What is done is done, and an error would say that it is not: then the kernel asks again.
        let now = self.stat_node(&node).map(|stat| (stat, TTL));
        let (stat, ttl) = now.unwrap_or_else(|_| (request.done_to(was), Duration::ZERO));
        Ok(Attributes { number, stat, ttl })
    }

    fn change(
        &self,
        caller: Caller,
        node: &Node<'_>,
        open: Option<&Arc<OpenFile>>,
        request: &AttributeRequest,
    ) -> Result<(), Errno> {
        if let Some(size) = request.size {
            let branch = node.first.branch;
            let descriptor = match open {
                Some(file) => file.descriptor(),
                None => {
                    let flags = rustix::fs::OFlags::WRONLY;
                    Arc::new(branch.open_file(node.first.as_fd(), flags)?)
                }
            };
            self.clear_set_id(caller, branch, descriptor.as_fd())?;
            branch.truncate(descriptor.as_fd(), size)?;
        }
        if request.operations().next().is_none() && node.inode.kind == FileKind::File {
            return self.take_set_id(caller, node);
        }
        let chown = request.change.uid.is_some() || request.change.gid.is_some();
        if chown && node.inode.kind != FileKind::Directory {
            // Below us it is root who changes the owner, and keeps more than the caller may.
            self.clear_set_id(caller, node.first.branch, node.first.as_fd())?;
        }
        if request.change == AttributeChange::default() {
            return Ok(());
        }
        node.change_parts(
            |part| part.branch.stat(part.as_fd()),
            |part| part.branch.set_attributes(part.as_fd(), &request.change),
            |part, was| part.branch.set_attributes(part.as_fd(), &request.change.back_to(was)),
        )
    }

    /// What a request that asks for nothing is about: chown(2) to nobody, or a write to a branch that is
    /// passed through, of which this is all that is heard. Both take the set-id bits.
    fn take_set_id(&self, caller: Caller, node: &Node<'_>) -> Result<(), Errno> {
        let branch = node.first.branch;
        let stat = branch.stat(node.first.as_fd())?;
        if stat.mode & 0o6000 == 0 {
            return Ok(());
        }
        let in_group =
            |gid| self.is_in_group(caller, gid) || is_capable(caller, CapabilitySet::FSETID);
        // Without the group's right to execute set-group-id stays for who is in the group: nothing is taken.
        if stat.mode & 0o6010 == 0o2000 && in_group(stat.gid) {
            return Ok(());
        }
        // Also through a descriptor that another user has opened.
        let writes = || node.inode.open_files().iter().any(|file| file.writable);
        if caller.uid != 0 && caller.uid != stat.uid && !writes() {
            return Err(Errno::PERM);
        }
        let cleared = branch.clear_set_id(node.first.as_fd(), in_group);
        if let Some(path) = node.inode.last_path() {
            let branch = Some(node.first.index);
            let question =
                Question { caller, path: &path, branch, is_directory: false, target: None };
            self.record(Operation::Chmod, &question, cleared);
        }
        cleared
    }

    fn record_changes(
        &self,
        caller: Caller,
        inode: &Inode,
        request: &AttributeRequest,
        result: Result<(), Errno>,
    ) {
        let Some(path) = inode.last_path() else { return };
        let branch = inode.place().branch();
        let is_directory = inode.kind == FileKind::Directory;
        let question = Question { caller, path: &path, branch, is_directory, target: None };
        for operation in request.operations() {
            self.record(operation, &question, result);
        }
    }
}
