//! Taking names away and changing them: unlink, rmdir, and rename within a branch.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::branch::{FileKind, Found, RenameFlags};
use crate::error::Errno;
use crate::types::{Caller, Operation};
use crate::view::Inode;
use crate::view::locks::Lock;

use super::Vfs;
use super::permit::Question;
use super::site::{Purpose, Site};

/// A site whose name exists.
pub(super) struct Occupied<'a> {
    pub site: Site<'a>,
    pub found: Found,
    /// The inode, if the kernel knows it.
    pub inode: Option<Arc<Inode>>,
}

impl Occupied<'_> {
    pub(super) fn is_directory(&self) -> bool {
        self.found.stat.kind == FileKind::Directory
    }

    /// The questions about both names of a rename or move.
    pub(super) fn sides<'a>(
        &'a self,
        caller: Caller,
        target: &'a Site<'_>,
    ) -> (Question<'a>, Question<'a>) {
        let is_directory = self.is_directory();
        let from =
            Question { target: Some(&target.path), ..self.site.question(caller, is_directory) };
        let to =
            Question { target: Some(&self.site.path), ..target.question(caller, is_directory) };
        (from, to)
    }

    /// The locks for taking the name away: it, and the directory's own place if it is one.
    fn locks(&self) -> Vec<Lock> {
        let mut locks = vec![self.site.lock()];
        if let (true, Some(inode)) = (self.is_directory(), &self.inode) {
            locks.push(Lock::Folder(inode.number));
        }
        locks
    }
}

impl Vfs {
    /// Removes a name that is not a directory's.
    pub fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.take_away(caller, Operation::Unlink, parent, name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.take_away(caller, Operation::Rmdir, parent, name)
    }

    fn take_away(
        &self,
        caller: Caller,
        operation: Operation,
        parent: u64,
        name: &OsStr,
    ) -> Result<(), Errno> {
        let site = self.site(parent, name, Purpose::Remove)?;
        let there = self.occupied(site)?;
        let question = there.site.question(caller, there.is_directory());
        self.permit(operation, &question)?;
        self.ready_to_record()?;
        let _lock = self.view.locks.operation(there.locks(), vec![])?;
        let dir = &there.site.parent;
        let result = match operation {
            Operation::Rmdir => dir.branch.rmdir(dir.as_fd(), name),
            _ => dir.branch.unlink(dir.as_fd(), name),
        };
        self.record(operation, &question, result);
        result?;
        if let Some(inode) = &there.inode {
            inode.remove_name(&dir.inode, name);
        }
        Ok(())
    }

    /// Looks at what stands at a site. ENOENT.
    pub(super) fn occupied<'a>(&self, site: Site<'a>) -> Result<Occupied<'a>, Errno> {
        let found = site.parent.branch.lookup(site.parent.as_fd(), &site.name)?;
        let inode = self.view.inodes.find(site.parent.index, &found.handle);
        Ok(Occupied { site, found, inode })
    }

    /// Whether a rename between these directories would be a crossing, which may take long.
    pub fn is_crossing(&self, parent: u64, new_parent: u64) -> bool {
        let branch = |number| self.inode(number).ok().and_then(|inode| inode.place().branch());
        branch(parent) != branch(new_parent)
    }

    /// Renames. Between branches it is a crossing.
    pub fn rename(
        &self,
        caller: Caller,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        if !(flags - known).is_empty() || flags == known {
            return Err(Errno::INVAL);
        }
        let source = self.site(parent, name, Purpose::Remove)?;
        let target = self.site(new_parent, new_name, Purpose::Remove)?;
        let source = self.occupied(source)?;
        if source.site.parent.index == target.parent.index {
            return self.rename_within(caller, source, target, flags);
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            return Err(Errno::INVAL);
        }
        self.cross(caller, source, target, flags.contains(RenameFlags::NOREPLACE))
    }

    fn rename_within(
        &self,
        caller: Caller,
        source: Occupied<'_>,
        target: Site<'_>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let replaced = match target.parent.branch.lookup(target.parent.as_fd(), &target.name) {
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.permit_rename(caller, &source, &target, replaced.as_ref(), flags)?;
        self.ready_to_record()?;
        let replaced =
            replaced.and_then(|found| self.view.inodes.find(target.parent.index, &found.handle));
        let mut alone = source.locks();
        if !alone.contains(&target.lock()) {
            alone.push(target.lock());
        }
        if let Some(inode) = replaced.as_ref().filter(|inode| inode.kind == FileKind::Directory) {
            alone.push(Lock::Folder(inode.number));
        }
        let _lock = self.view.locks.operation(alone, vec![])?;
        let from = &source.site;
        let result = from.parent.branch.rename(
            (from.parent.as_fd(), &from.name),
            (target.parent.as_fd(), &target.name),
            flags,
        );
        let question =
            Question { target: Some(&target.path), ..from.question(caller, source.is_directory()) };
        self.record(Operation::RenameSource, &question, result);
        result?;
        self.renamed(&source, &target, replaced.as_deref(), flags);
        Ok(())
    }

    /// Rename counts as remove at the source and add at the target; what is replaced is removed too.
    fn permit_rename(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        replaced: Option<&Found>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (from, to) = source.sides(caller, target);
        self.permit(Operation::RenameSource, &from)?;
        self.permit(Operation::RenameTarget, &to)?;
        if let Some(inode) = &source.inode {
            self.refuse_widening(caller, Operation::RenameSource, inode, target)?;
        }
        let Some(replaced) = replaced else { return Ok(()) };
        let there = Question { is_directory: replaced.stat.kind == FileKind::Directory, ..to };
        if flags.contains(RenameFlags::EXCHANGE) {
            let back = Question { is_directory: there.is_directory, ..from };
            self.permit(Operation::RenameSource, &there)?;
            self.permit(Operation::RenameTarget, &back)?;
            if let Some(inode) = self.view.inodes.find(target.parent.index, &replaced.handle) {
                self.refuse_widening(caller, Operation::RenameSource, &inode, &source.site)?;
            }
        } else if replaced.handle != source.found.handle {
            self.permit(Operation::Unlink, &there)?;
        }
        Ok(())
    }

    /// Notes a rename in the view.
    fn renamed(
        &self,
        source: &Occupied<'_>,
        target: &Site<'_>,
        replaced: Option<&Inode>,
        flags: RenameFlags,
    ) {
        let from = &source.site;
        let same = replaced
            .zip(source.inode.as_deref())
            .is_some_and(|(replaced, inode)| replaced.number == inode.number);
        if same && !flags.contains(RenameFlags::EXCHANGE) {
            // rename(2) of two hard links of one file does nothing.
            return;
        }
        if let Some(inode) = &source.inode {
            inode.remove_name(&from.parent.inode, &from.name);
            inode.add_name(&target.parent.inode, &target.name);
        }
        if let Some(replaced) = replaced {
            replaced.remove_name(&target.parent.inode, &target.name);
            if flags.contains(RenameFlags::EXCHANGE) {
                replaced.add_name(&from.parent.inode, &from.name);
            }
        }
    }
}
