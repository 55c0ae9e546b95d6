//! Taking names away and changing them: unlink, rmdir, and rename within a branch.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::branch::{FileKind, RenameFlags, Stat};
use crate::error::Errno;
use crate::types::{Caller, Operation};
use crate::view::locks::Lock;
use crate::view::{Inode, Kept, Part, Parts};

use super::Vfs;
use super::facts::{About, Asked, Size};
use super::permit::Question;
use super::site::{OpenPart, Purpose, Site, Standing};

/// Files of more blocks, of 512 bytes each, are not kept: who removes one counts on its space at once, and what
/// is kept is freed only when the kernel has forgotten it, milliseconds later.
const FREED_LATE_MAX: u64 = 2048;

/// A site whose name exists.
pub(super) struct Occupied<'a> {
    pub site: Site<'a>,
    /// What users see.
    pub first: Standing,
    /// What else has the name, on later members of a pool: the other parts of a merged directory, and
    /// shadows, which nobody sees.
    pub more: Vec<Standing>,
    /// The inode, if the kernel knows it.
    pub inode: Option<Arc<Inode>>,
}

impl Occupied<'_> {
    pub(super) fn is_directory(&self) -> bool {
        self.first.is_directory()
    }

    pub(super) fn standings(&self) -> impl DoubleEndedIterator<Item = &Standing> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The question about it, on the member where it stands.
    fn question(&self, caller: Caller) -> Question<'_> {
        let branch = Some(self.first.index);
        Question { branch, ..self.site.question(caller, self.is_directory()) }
    }

    /// The questions about both names of a rename or move.
    pub(super) fn sides<'a>(
        &'a self,
        caller: Caller,
        target: &'a Site<'_>,
    ) -> (Question<'a>, Question<'a>) {
        let is_directory = self.is_directory();
        let from = Question { target: Some(&target.path), ..self.question(caller) };
        let to =
            Question { target: Some(&self.site.path), ..target.question(caller, is_directory) };
        (from, to)
    }

    /// The directory that has it, on the member where it stands.
    pub(super) fn part(&self, standing: &Standing) -> Result<&OpenPart<'_>, Errno> {
        self.site.parent.part_on(standing.index).ok_or(Errno::STALE)
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
        let question = there.question(caller);
        self.permit(operation, &question, &Asked::of(About::Standing(self, &there.first)))?;
        self.ready_to_record()?;
        let parent = &there.site.parent;
        let _lock = self.view.locks.operation(&[&parent.inode], there.locks(), vec![])?;
        self.check_place(parent)?;
        if let Some(inode) = &there.inode {
            self.keep(inode, there.standings());
        }
        let result = match operation {
            Operation::Rmdir => self.remove_directories(&there),
            _ => remove_files(&there),
        };
        if let (Some(inode), Err(_)) = (&there.inode, &result) {
            unkeep(inode);
        }
        parent.inode.names_changed();
        self.record(operation, &question, result);
        result?;
        if let Some(inode) = &there.inode {
            inode.remove_name(&there.site.parent.inode, name);
        }
        Ok(())
    }

    /// Keeps what leads to an inode whose last name is about to go, for who has it as working directory, by
    /// `O_PATH` or mounted elsewhere; nothing where there is no room for it.
    fn keep<'a>(&self, inode: &Inode, standings: impl Iterator<Item = &'a Standing>) {
        let last = |(at, standing): &(usize, &Standing)| match inode.kind {
            FileKind::Directory => standing.is_directory(),
            _ => {
                let Stat { nlink, blocks, .. } = standing.found.stat;
                *at == 0 && nlink <= 1 && blocks <= FREED_LATE_MAX
            }
        };
        let mut last = standings.enumerate().filter(last).map(|(_, standing)| standing).peekable();
        let Some(owner) = last.peek().map(|standing| standing.found.stat.uid) else { return };
        if self.room_to_keep(owner) {
            let part = |at: &Standing| Some((at.index, at.found.node.try_clone().ok()?));
            let parts = last.filter_map(part).collect();
            inode.keep(Kept::new(&self.view.inodes.kept, owner, parts));
        }
    }

    /// Removes all parts of a directory, the first last. ENOTEMPTY unless all are empty; also for what
    /// a directory hides on a later member, which nobody has seen and nobody may lose.
    fn remove_directories(&self, there: &Occupied<'_>) -> Result<(), Errno> {
        if !there.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.check_removable(there)?;
        for standing in there.standings().rev() {
            let part = there.part(standing)?;
            part.branch.rmdir(part.as_fd(), &there.site.name)?;
        }
        Ok(())
    }

    /// Whether a directory is empty on every member that has it.
    fn check_removable(&self, there: &Occupied<'_>) -> Result<(), Errno> {
        if there.more.is_empty() && !there.site.parent.incomplete {
            return Ok(());
        }
        if there.site.parent.incomplete {
            // Nobody knows what an offline member has in it.
            return Err(Errno::IO);
        }
        for standing in there.standings() {
            if !standing.is_directory() {
                return Err(Errno::NOTEMPTY);
            }
            if !self.branch(standing.index)?.is_empty(standing.found.node.as_fd())? {
                return Err(Errno::NOTEMPTY);
            }
        }
        Ok(())
    }

    /// Looks at what stands at a site. ENOENT.
    pub(super) fn occupied<'a>(&self, site: Site<'a>) -> Result<Occupied<'a>, Errno> {
        let mut standings = self.standings(&site.parent, &site.name)?.into_iter();
        let first = standings.next().ok_or(Errno::NOENT)?;
        let inode = self.view.inodes.find(first.index, &first.found.handle);
        Ok(Occupied { site, first, more: standings.collect(), inode })
    }

    /// Whether a directory has only the parts that were found: something new in it may have had one more
    /// made before the caller got its locks. ESTALE, on which the kernel looks again; EIO where a part has gone
    /// offline.
    pub(super) fn check_whole(&self, source: &Occupied<'_>) -> Result<(), Errno> {
        let Some(inode) = source.inode.as_ref().filter(|_| source.is_directory()) else {
            return Ok(());
        };
        let parts: Vec<Part> =
            inode.place().parts().into_iter().flat_map(Parts::iter).cloned().collect();
        for part in parts {
            let mut found = source.standings();
            let seen = found.any(|standing| {
                standing.index == part.branch && standing.found.handle == part.handle
            });
            if !seen {
                let online = self.branch(part.branch)?.is_online();
                return Err(if online { Errno::STALE } else { Errno::IO });
            }
        }
        Ok(())
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
        if !known.contains(flags) || flags == known {
            return Err(Errno::INVAL);
        }
        let source = self.site(parent, name, Purpose::Remove)?;
        let target = self.site(new_parent, new_name, Purpose::Replace)?;
        let source = self.occupied(source)?;
        if source.site.parent.domain == target.parent.domain {
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
        let there = self.standings(&target.parent, &target.name)?;
        self.by_one_policy(|| self.permit_rename(caller, &source, &target, there.first(), flags))?;
        self.ready_to_record()?;
        let replaced = there
            .first()
            .and_then(|standing| self.view.inodes.find(standing.index, &standing.found.handle));
        let mut alone = source.locks();
        if !alone.contains(&target.lock()) {
            alone.push(target.lock());
        }
        if let Some(inode) = replaced.as_ref().filter(|inode| inode.kind == FileKind::Directory) {
            alone.push(Lock::Folder(inode.number));
        }
        let ends = [&*source.site.parent.inode, &*target.parent.inode];
        let _lock = self.view.locks.operation(&ends, alone, self.pins(&target.parent))?;
        self.check_place(&source.site.parent)?;
        self.check_place(&target.parent)?;
        self.check_whole(&source)?;
        let kept = replaced.as_ref().filter(|_| !flags.contains(RenameFlags::EXCHANGE));
        if let Some(inode) = kept {
            self.keep(inode, there.iter());
        }
        let result = self.rename_parts(caller, &source, &target, &there, flags);
        if let (Some(inode), Err(_)) = (kept, &result) {
            unkeep(inode);
        }
        ends.iter().for_each(|end| end.names_changed());
        let (question, _) = source.sides(caller, &target);
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
        replaced: Option<&Standing>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (from, to) = source.sides(caller, target);
        let moved = Asked::of(About::Standing(self, &source.first));
        let brought = Asked { size: Size::Whole, ..moved };
        self.permit(Operation::RenameSource, &from, &moved)?;
        self.permit(Operation::RenameTarget, &to, &brought)?;
        if let Some(inode) = &source.inode {
            self.refuse_widening(caller, Operation::RenameSource, inode, target)?;
        }
        let Some(replaced) = replaced else { return Ok(()) };
        let branch = Some(replaced.index);
        let there = Question { is_directory: replaced.is_directory(), branch, ..to };
        if flags.contains(RenameFlags::EXCHANGE) {
            let back = Question { is_directory: there.is_directory, ..from };
            let moved = Asked::of(About::Standing(self, replaced));
            let brought = Asked { size: Size::Whole, ..moved };
            self.permit(Operation::RenameSource, &there, &moved)?;
            self.permit(Operation::RenameTarget, &back, &brought)?;
            if let Some(inode) = self.view.inodes.find(replaced.index, &replaced.found.handle) {
                self.refuse_widening(caller, Operation::RenameSource, &inode, &source.site)?;
            }
        } else if !replaced.is(&source.first) {
            let removal = if there.is_directory { Operation::Rmdir } else { Operation::Unlink };
            self.permit(removal, &there, &Asked::of(About::Standing(self, replaced)))?;
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
        if same {
            // rename(2) of two hard links of one file does nothing.
            return;
        }
        if let Some(inode) = &source.inode {
            let to = (&target.parent.inode, &*target.name);
            inode.change_name((&from.parent.inode, &from.name), to);
        }
        match replaced {
            Some(replaced) if flags.contains(RenameFlags::EXCHANGE) => {
                let to = (&from.parent.inode, &*from.name);
                replaced.change_name((&target.parent.inode, &target.name), to);
            }
            Some(replaced) => replaced.remove_name(&target.parent.inode, &target.name),
            None => {}
        }
    }
}

/// Nothing was taken away; unless it had been before.
fn unkeep(inode: &Inode) {
    if !inode.is_unlinked() {
        drop(inode.let_go());
    }
}

/// Removes a file, its shadows first, so that nothing appears under its name. A directory that the file
/// hides must be empty.
fn remove_files(there: &Occupied<'_>) -> Result<(), Errno> {
    if there.is_directory() {
        return Err(Errno::ISDIR);
    }
    for standing in there.standings().rev() {
        let part = there.part(standing)?;
        if standing.is_directory() {
            part.branch.rmdir(part.as_fd(), &there.site.name)?;
        } else {
            part.branch.unlink(part.as_fd(), &there.site.name)?;
        }
    }
    Ok(())
}
