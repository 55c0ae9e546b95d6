//! Making names: mkdir, mknod, symlink, link. Made by the caller, with the caller's groups and umask,
//! so that owner, set-group-id and default ACLs come out as on the branch's own filesystem.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use crate::branch::{Creator, FileKind, Found, Stat};
use crate::error::Errno;
use crate::sys::process::Rights;
use crate::types::{BranchIndex, Caller, Operation};
use crate::view::locks::Lock;
use crate::view::{Domain, Parts, in_epoch};

use super::facts::{About, Asked, Size};
use super::permit::Question;
use super::place::NEW_BYTES;
use super::site::{Node, OpenPart, Purpose, Site};
use super::{Attributes, TTL, Vfs};

impl Vfs {
    /// Makes a directory.
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Attributes, Errno> {
        self.make(caller, Operation::Mkdir, parent, name, (mode, umask), |part, creator| {
            part.branch.mkdir(part.as_fd(), name, mode, creator)
        })
    }

    /// Makes a regular file, fifo, socket or device; `mode` has the type bits.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u64,
    ) -> Result<Attributes, Errno> {
        self.make(caller, Operation::Mknod, parent, name, (mode, umask), |part, creator| {
            part.branch.mknod(part.as_fd(), name, mode, device, creator)
        })
    }

    /// Makes a symbolic link that says `text`.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        text: &OsStr,
    ) -> Result<Attributes, Errno> {
        self.make(caller, Operation::Symlink, parent, name, (0, 0), |part, creator| {
            part.branch.symlink(part.as_fd(), name, text, creator)
        })
    }

    /// What all of these have in common.
    fn make(
        &self,
        caller: Caller,
        operation: Operation,
        parent: u64,
        name: &OsStr,
        modes: (u32, u32),
        act: impl Fn(&OpenPart<'_>, &Creator<'_>) -> Result<Found, Errno>,
    ) -> Result<Attributes, Errno> {
        let site = self.site(parent, name, Purpose::Add)?;
        let question = site.question(caller, operation == Operation::Mkdir);
        self.permit(operation, &question, &Asked::of(About::New))?;
        self.ready_to_record()?;
        let _lock = self.lock_new(&site)?;
        let result = self.place_new(caller, &site, |part| {
            self.as_caller(caller, modes, part, |creator| act(part, creator))
        });
        self.record_new(operation, &question, &result);
        let (branch, found) = result?;
        Ok(self.enter(&site, branch, &found))
    }

    /// Records that something was made, on the member where it was placed.
    pub(super) fn record_new<T>(
        &self,
        operation: Operation,
        question: &Question<'_>,
        result: &Result<(BranchIndex, T), Errno>,
    ) {
        let branch = result.as_ref().map_or(question.branch, |(branch, _)| Some(*branch));
        let ended = result.as_ref().map(drop).map_err(|errno| *errno);
        self.record(operation, &Question { branch, ..*question }, ended);
    }

    /// Notes something new in the view, with a reference for the kernel.
    pub(super) fn enter(&self, site: &Site<'_>, branch: BranchIndex, found: &Found) -> Attributes {
        let parts = Parts::single(branch, found.handle.clone());
        let kind = found.stat.kind;
        let parent = &site.parent;
        let inode = self.view.inodes.enter(&parts, kind, &parent.inode, &site.name);
        // A member that is offline may have a directory of that name too.
        let unknown = kind == FileKind::Directory && parent.incomplete;
        let stat = if unknown { Stat { nlink: 1, ..found.stat } } else { found.stat };
        Attributes { number: inode.number, stat, ttl: TTL }
    }

    /// Makes something in a directory as the caller, with the groups of the user database. Only where these do not
    /// do is the process asked: it may hold other groups (a container's, a job's), or the right to override
    /// permissions, by which the kernel let the request through, and which acting as its user takes away. And where
    /// set-group-id is asked for, which who is not in the group would silently not get.
    pub(super) fn as_caller<T>(
        &self,
        caller: Caller,
        (mode, umask): (u32, u32),
        folder: &OpenPart<'_>,
        act: impl Fn(&Creator<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut known = self.identities.groups(caller.uid).unwrap_or_default();
        if mode & 0o2000 != 0
            && let Ok(rights) = Rights::of(caller)
        {
            known = rights.groups.into();
        }
        let Caller { uid, gid, .. } = caller;
        let creator = Creator { uid, gid, groups: &known, umask, overrides: false };
        let first = act(&creator);
        if !matches!(first, Err(Errno::ACCESS | Errno::PERM)) {
            return first;
        }
        let Ok(rights) = Rights::of(caller) else { return first };
        let creator = Creator { groups: &rights.groups, ..creator };
        let second = if rights.groups == *known { first } else { act(&creator) };
        if second.as_ref().err() != Some(&Errno::ACCESS) {
            return second;
        }
        let owned = folder.branch.stat(folder.as_fd())?;
        if rights.override_permissions(owned.uid, owned.gid) {
            return act(&Creator { overrides: true, ..creator });
        }
        second
    }

    /// Gives an inode one more name in its branch. EXDEV across branches.
    pub fn link(
        &self,
        caller: Caller,
        number: u64,
        parent: u64,
        name: &OsStr,
    ) -> Result<Attributes, Errno> {
        let inode = self.inode(number)?;
        if inode.kind == FileKind::Directory {
            return Err(Errno::PERM);
        }
        let site = self.site(parent, name, Purpose::Add)?;
        // Before the inode is looked at: else a crossing could take it, and the new name would lead to
        // where it went.
        let _lock = self.lock_new(&site)?;
        let _content = self.lock_content(&inode)?;
        let node = self.node(inode)?;
        if node.domain != site.parent.domain {
            return Err(Errno::XDEV);
        }
        let source = node.inode.path().ok_or(Errno::NOENT)?;
        // The new name is what is asked about; the record has the source first, as that of a rename.
        let name = site.question(caller, false);
        let branch = Some(node.first.index);
        let question = Question { path: &source, target: Some(&site.path), branch, ..name };
        let facts = Asked { size: Size::Whole, ..Asked::of(About::Inode(self, &node.inode)) };
        self.by_one_policy(|| {
            let decision = self.decide(caller, Operation::Link, name.object(), &facts);
            self.settle(Operation::Link, &question, decision, &facts)?;
            self.refuse_widening(caller, Operation::Link, &node.inode, &site)
        })?;
        self.ready_to_record()?;
        let link = || self.link_at(&node, &site);
        let result = self.with_room(caller, node.first.index, NEW_BYTES, link);
        self.record(Operation::Link, &question, result.as_ref().map(drop).map_err(|errno| *errno));
        Ok(self.enter(&site, node.first.index, &result?))
    }

    /// A link stays on the member of its file; the folder is made there if need be.
    fn link_at(&self, node: &Node<'_>, site: &Site<'_>) -> Result<Found, Errno> {
        if matches!(site.parent.domain, Domain::Pool(_))
            && !self.standings(&site.parent, &site.name)?.is_empty()
        {
            return Err(Errno::EXIST);
        }
        self.with_part(&site.parent, node.first.index, |part| {
            part.branch.link(node.first.as_fd(), part.as_fd(), &site.name)
        })
    }

    /// Denies giving a file another name where rules would then allow what they deny now: a rule is
    /// not shed by a link or a rename.
    pub(super) fn refuse_widening(
        &self,
        caller: Caller,
        operation: Operation,
        inode: &crate::view::Inode,
        site: &Site<'_>,
    ) -> Result<(), Errno> {
        let (epoch, policy) = in_epoch(|| self.policy());
        let is_directory = inode.kind == FileKind::Directory;
        let target = site.question(caller, is_directory);
        if policy.widens_nothing(target.branch, target.branch) {
            return Ok(());
        }
        if !is_directory {
            // Of a file with thousands of names most are alike.
            let to = policy.classify_path(&site.path);
            let classes = inode.classes(epoch, &|path| policy.classify_path(path));
            if classes.iter().all(|class| *class == to) {
                return Ok(());
            }
        }
        let subject = self.subject(caller)?;
        for (_, path) in inode.paths_by_class(epoch, &|path| policy.classify_path(path)) {
            let source = Question { path: &path, target: Some(&site.path), ..target };
            if let Some(decision) = policy.widens(&subject, source.object(), target.object()) {
                return Err(self.deny(operation, &source, &decision, None));
            }
        }
        Ok(())
    }
}

impl Site<'_> {
    /// The lock on this name.
    pub(super) fn lock(&self) -> Lock {
        Lock::Name(self.parent.inode.number, self.name.clone())
    }

    /// A question about this name.
    pub(super) fn question(&self, caller: Caller, is_directory: bool) -> Question<'_> {
        let branch = Some(self.parent.first.index);
        Question { caller, path: &self.path, branch, is_directory, target: None }
    }
}
