//! From numbers and names to branches and descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::branch::{Branch, FileKind, Found};
use crate::error::{Errno, errno_name};
use crate::types::{BranchIndex, Handle, ViewPath};
use crate::view::{Domain, Inode, LayoutIndex, Part, Parts, Place};

use super::{AUDIT_NAME, PRIVATE_NAME, Vfs, check_name};

/// An inode of a branch with an `O_PATH` descriptor.
pub(super) struct OpenPart<'a> {
    pub index: BranchIndex,
    pub branch: &'a Arc<Branch>,
    pub handle: Handle,
    descriptor: OwnedFd,
}

impl<'a> OpenPart<'a> {
    pub(super) fn new(index: BranchIndex, branch: &'a Arc<Branch>, found: Found) -> Self {
        Self { index, branch, handle: found.handle, descriptor: found.node }
    }
}

impl AsFd for OpenPart<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// An inode of the view, opened: one inode of a branch, or all parts of a merged directory.
pub(super) struct Node<'a> {
    pub inode: Arc<Inode>,
    pub domain: Domain,
    /// What users see the attributes of.
    pub first: OpenPart<'a>,
    /// The other parts of a merged directory, in order of precedence.
    pub more: Vec<OpenPart<'a>>,
    /// A member of the pool is offline: a directory may have a part there too.
    pub incomplete: bool,
}

impl<'a> Node<'a> {
    pub(super) fn parts(&self) -> impl Iterator<Item = &OpenPart<'a>> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Changes all parts of a directory, the one that users see last. Where one fails, all that were
    /// changed, it included, are changed back: `keep` tells what a part was, `back` makes it that again.
    pub(super) fn change_parts<T>(
        &self,
        keep: impl Fn(&OpenPart<'a>) -> Result<T, Errno>,
        act: impl Fn(&OpenPart<'a>) -> Result<(), Errno>,
        back: impl Fn(&OpenPart<'a>, &T) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut changed = Vec::new();
        for part in self.more.iter().rev().chain([&self.first]) {
            let acted = keep(part).and_then(|was| {
                changed.push((part, was));
                act(part)
            });
            let Err(errno) = acted else { continue };
            let failing = part.index;
            for (part, was) in changed.iter().rev() {
                // The one that refused the change was not changed, and refuses this one too.
                if let Err(failed) = back(part, was)
                    && (failed != errno || part.index != failing)
                {
                    let (branch, why) = (part.branch.name(), errno_name(errno));
                    log::warn!("branch {branch}: a change stays that failed ({why}): {failed}");
                }
            }
            return Err(errno);
        }
        Ok(())
    }

    /// The part on a branch.
    pub(super) fn part_on(&self, branch: BranchIndex) -> Option<&OpenPart<'a>> {
        self.parts().find(|part| part.index == branch)
    }
}

/// A name in a directory of a branch or pool, which may or may not exist.
pub(super) struct Site<'a> {
    pub parent: Node<'a>,
    pub name: OsString,
    /// The path of the name in the view.
    pub path: ViewPath,
}

/// What a name stands for on one member.
pub(super) struct Standing {
    pub index: BranchIndex,
    pub found: Found,
}

impl Standing {
    pub(super) fn is_directory(&self) -> bool {
        self.found.stat.kind == FileKind::Directory
    }

    /// The same inode.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.index == other.index && self.found.handle == other.found.handle
    }
}

/// Why a name is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To make it.
    Add,
    /// To take it away.
    Remove,
    /// To move something there, over what has it.
    Replace,
}

impl Vfs {
    /// The inode of a number. ESTALE for one the kernel was never given.
    pub(super) fn inode(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        self.view.inodes.get(number).ok_or(Errno::STALE)
    }

    /// Opens an inode of a branch as a node. EROFS for a virtual folder, EACCES in `.audit`. EIO of a
    /// member is never taken for its absence; one that is known to be offline is left out.
    pub(super) fn node(&self, inode: Arc<Inode>) -> Result<Node<'_>, Errno> {
        let parts = match &*inode.place() {
            Place::Branch(parts) => parts.clone(),
            Place::Virtual => return Err(Errno::ROFS),
            Place::Audit => return Err(Errno::ACCESS),
            Place::Gone if inode.layout.is_some() => return Err(Errno::IO),
            Place::Gone => return Err(Errno::STALE),
        };
        let domain = self.view.domain(parts.first.branch);
        if matches!(domain, Domain::Pool(_)) && inode.kind == FileKind::Directory {
            return self.merged_node(inode, domain);
        }
        let first = self.open_part(&inode, &parts.first)?;
        Ok(Node { inode, domain, first, more: Vec::new(), incomplete: false })
    }

    fn open_part(&self, inode: &Inode, part: &Part) -> Result<OpenPart<'_>, Errno> {
        let branch = self.branch(part.branch)?;
        let path = || inode.path_in_branch().unwrap_or_default();
        let descriptor = match branch.open_node(&part.handle, inode.kind, path) {
            // What has no name any more is still there for who has it.
            Err(Errno::NOENT | Errno::STALE) => match inode.kept(part.branch) {
                Some(kept) => kept?,
                None => match inode.open_files().first() {
                    Some(file) => rustix::io::fcntl_dupfd_cloexec(&*file.descriptor(), 3)?,
                    None => return Err(Errno::STALE),
                },
            },
            opened => opened?,
        };
        let handle = part.handle.clone();
        Ok(OpenPart { index: part.branch, branch, handle, descriptor })
    }

    /// Opens all parts of a directory of a pool. Those that have vanished, and those that a member
    /// may have brought by coming back, are looked for again.
    fn merged_node(&self, inode: Arc<Inode>, domain: Domain) -> Result<Node<'_>, Errno> {
        let members = self.view.members(domain);
        // What has no name is not found by it.
        let named = !inode.is_unlinked();
        let opened = match self.open_current(&inode, self.epoch(&members)) {
            Err(Errno::STALE) if named => {
                self.renew_parts(&inode)?;
                self.open_parts(&inode)?
            }
            Err(Errno::STALE) => self.open_parts(&inode)?,
            opened => opened?,
        };
        let mut opened = opened.into_iter();
        let first = opened.next().ok_or(Errno::IO)?;
        let online = |index: &BranchIndex| self.branch(*index).is_ok_and(|found| found.is_online());
        let incomplete = named && !members.iter().all(online);
        Ok(Node { inode, domain, first, more: opened.collect(), incomplete })
    }

    /// ESTALE where the parts are to be looked for again.
    fn open_current(&self, inode: &Inode, epoch: u64) -> Result<Vec<OpenPart<'_>>, Errno> {
        match inode.epoch.load(Ordering::Acquire) == epoch {
            true => self.open_parts(inode),
            false => Err(Errno::STALE),
        }
    }

    fn open_parts(&self, inode: &Inode) -> Result<Vec<OpenPart<'_>>, Errno> {
        let parts = inode.place().parts().cloned().ok_or(Errno::STALE)?;
        let mut opened = Vec::new();
        for part in parts.iter() {
            match self.open_part(inode, part) {
                Ok(part) => opened.push(part),
                Err(_) if !self.branch(part.branch)?.is_online() => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(opened)
    }

    /// Counts the members' changes of state.
    fn epoch(&self, members: &[BranchIndex]) -> u64 {
        let epoch = |index: &BranchIndex| self.branch(*index).map_or(0, |branch| branch.epoch());
        members.iter().map(epoch).fold(1, u64::wrapping_add)
    }

    /// Looks by name for the parts of a directory of a pool, after those of the directories above it that
    /// want it too: one after the other, for there may be more than the stack is deep. ESTALE if there is
    /// no directory of its name.
    pub(super) fn renew_parts(&self, inode: &Arc<Inode>) -> Result<(), Errno> {
        let branch = inode.place().parts().ok_or(Errno::STALE)?.first.branch;
        let members = self.view.members(self.view.domain(branch));
        let epoch = self.epoch(&members);
        let mut way = vec![Arc::clone(inode)];
        let mut above = inode.ancestors().into_iter();
        while way.last().is_some_and(|last| last.layout.is_none())
            && let Some(inode) = above.next()
        {
            match self.open_current(&inode, epoch) {
                Err(Errno::STALE) => way.push(inode),
                opened => {
                    opened?;
                    break;
                }
            }
        }
        way.into_iter().rev().try_for_each(|inode| self.renew_own_parts(&inode, &members, epoch))
    }

    /// As [`Vfs::renew_parts`], where those of the directory above are known.
    fn renew_own_parts(
        &self,
        inode: &Inode,
        members: &[BranchIndex],
        epoch: u64,
    ) -> Result<(), Errno> {
        // Held all the while, so that a part that is made meanwhile is not overlooked.
        let mut place = inode.switch();
        let Some(known) = place.parts().cloned() else { return Err(Errno::STALE) };
        let mut parts: Vec<Part> = match inode.layout {
            Some(_) => members.iter().filter_map(|index| self.root_part(*index)).collect(),
            None => self.parts_by_name(inode)?,
        };
        // What is on a member that is offline is there when it comes back.
        for old in known.iter() {
            let seen = parts.iter().any(|part| part.branch == old.branch);
            if !seen && !self.branch(old.branch)?.is_online() {
                parts.push(old.clone());
            }
        }
        parts.sort_by_key(|part| members.iter().position(|member| *member == part.branch));
        let now = Place::Branch(Parts::merged(parts).ok_or(Errno::STALE)?);
        if *place != now {
            self.view.inodes.moved(inode.number, &place, &now);
            *place = now;
        }
        inode.epoch.store(epoch, Ordering::Release);
        Ok(())
    }

    fn parts_by_name(&self, inode: &Inode) -> Result<Vec<Part>, Errno> {
        // An unlinked directory that somebody still has open.
        let Some(name) = inode.names().pop() else { return Err(Errno::STALE) };
        let mut parts = self.open_parts(&name.parent)?.into_iter();
        let first = parts.next().ok_or(Errno::IO)?;
        let (inode, domain) = (name.parent, self.view.domain(first.index));
        let parent = Node { inode, domain, first, more: parts.collect(), incomplete: false };
        let standings = self.standings(&parent, &name.name)?;
        if !standings.first().is_some_and(Standing::is_directory) {
            return Err(Errno::STALE);
        }
        Ok(directories(&standings).collect())
    }

    /// What a name stands for, on every part of a directory, in order of precedence.
    pub(super) fn standings(
        &self,
        parent: &Node<'_>,
        name: &OsStr,
    ) -> Result<Vec<Standing>, Errno> {
        let mut standings = Vec::new();
        for part in parent.parts() {
            match part.branch.lookup(part.as_fd(), name) {
                Ok(found) => standings.push(Standing { index: part.index, found }),
                Err(Errno::NOENT) => {}
                // It has gone offline since the directory was opened.
                Err(_) if !parent.more.is_empty() && !part.branch.is_online() => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(standings)
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
                    Purpose::Remove | Purpose::Replace => Errno::BUSY,
                });
            }
            if folder == LayoutIndex::ROOT && name == AUDIT_NAME {
                return Err(Errno::ACCESS);
            }
            if name == PRIVATE_NAME && self.view.layout.folder(folder).domain.is_some() {
                return Err(match purpose {
                    Purpose::Add | Purpose::Replace => Errno::ACCESS,
                    Purpose::Remove => Errno::NOENT,
                });
            }
        }
        let path = inode.path().ok_or(Errno::NOENT)?.join(name);
        let parent = self.node(inode)?;
        Ok(Site { parent, name: name.to_owned(), path })
    }

    /// Whether a directory is still where it was opened, all parts of it: a crossing may have taken it, or
    /// one of them, before the caller got its locks. ESTALE, on which the kernel looks again.
    pub(super) fn check_place(&self, node: &Node<'_>) -> Result<(), Errno> {
        let place = node.inode.place();
        let stays = place.parts().is_some_and(|parts| {
            node.parts().all(|opened| {
                parts.iter().any(|at| at.branch == opened.index && at.handle == opened.handle)
            })
        });
        if stays { Ok(()) } else { Err(Errno::STALE) }
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

/// The directories among what a name stands for: parts of one that is merged.
pub(super) fn directories(standings: &[Standing]) -> impl Iterator<Item = Part> {
    standings
        .iter()
        .filter(|standing| standing.is_directory())
        .map(|standing| Part { branch: standing.index, handle: standing.found.handle.clone() })
}
