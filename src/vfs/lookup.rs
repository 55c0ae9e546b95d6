//! lookup, getattr, readlink, statfs: what is there. Not operations of the policy, for the kernel
//! caches them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::branch::{ACCESS_ACL, FileKind, SpaceStat, Stat};
use crate::error::Errno;
use crate::sys::process;
use crate::types::{BranchIndex, Caller};
use crate::view::{Domain, Inode, LayoutIndex, Parts, Place};

use super::site::{Node, OpenPart, directories};
use super::{
    AUDIT_NAME, Attributes, FIXED_TTL, PRIVATE_NAME, RecordLevel, TTL, Vfs, check_name,
    virtual_stat,
};

/// How often a name is looked for in a directory from which others take names away at the same time.
const LOOKS_MAX: usize = 1000;

/// A child that was found; it holds one reference for the kernel.
pub(super) struct Child {
    pub inode: Arc<Inode>,
    pub stat: Stat,
}

impl Child {
    pub fn attributes(&self) -> Attributes {
        Attributes { number: self.inode.number, stat: self.stat, ttl: ttl(&self.inode) }
    }
}

impl Vfs {
    /// Finds a name in a directory and counts a reference. ENOENT.
    pub fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<Attributes, Errno> {
        check_name(name).map_err(|errno| match errno {
            Errno::INVAL => Errno::NOENT,
            other => other,
        })?;
        if self.record > RecordLevel::Crossings {
            // What it does next is likely to be recorded.
            process::asks(caller.pid);
        }
        let parent = self.inode(parent)?;
        let in_audit = matches!(*parent.place(), Place::Audit);
        if in_audit || (parent.number == LayoutIndex::ROOT.number() && name == AUDIT_NAME) {
            return self.lookup_audit(caller, &parent, name);
        }
        Ok(self.find_child(&parent, name)?.attributes())
    }

    /// The child of that name, with a reference counted. Does not know `.audit`.
    pub(super) fn find_child(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Child, Errno> {
        if let Some(folder) = parent.layout {
            if let Some(child) = self.view.layout.child(folder, name) {
                let inode = self.inode(child.number())?;
                let stat = self.stat(&inode)?;
                return Ok(Child { inode, stat });
            }
            if self.view.layout.folder(folder).domain.is_none() || name == PRIVATE_NAME {
                return Err(Errno::NOENT);
            }
        }
        for _ in 0..LOOKS_MAX {
            let opened = self.node(Arc::clone(parent))?;
            if let Some(child) = self.look_for(&opened, name)? {
                return Ok(child);
            }
        }
        Err(Errno::STALE)
    }

    /// As [`Vfs::find_child`], in a directory that may have been opened a while ago. Does not know folders
    /// of the layout.
    pub(super) fn find_in(&self, opened: &Node<'_>, name: &OsStr) -> Result<Child, Errno> {
        match self.look_for(opened, name) {
            Ok(Some(child)) => Ok(child),
            // It may have parts that it had not then, or be elsewhere.
            Ok(None) | Err(_) => self.find_child(&opened.inode, name),
        }
    }

    /// Looks in the branches; nothing, if a name of the directory was taken away meanwhile.
    fn look_for(&self, parent: &Node<'_>, name: &OsStr) -> Result<Option<Child>, Errno> {
        let changes = parent.inode.name_changes();
        let standings = self.standings(parent, name)?;
        let Some(first) = standings.first() else {
            return Err(self.absent(parent, name));
        };
        let kind = first.found.stat.kind;
        let merged = Parts::merged(directories(&standings)).filter(|_| first.is_directory());
        let parts =
            merged.unwrap_or_else(|| Parts::single(first.index, first.found.handle.clone()));
        let found = self.view.inodes.enter_found(&parts, kind, (&parent.inode, name), changes);
        let Some(inode) = found else { return Ok(None) };
        let entered = self.check_entered(parent, &inode, parts, kind);
        if let Err(errno) = entered {
            self.view.inodes.forget(inode.number, 1);
            return Err(errno);
        }
        let stat = match (parent.domain, kind) {
            (Domain::Pool(_), FileKind::Directory) => {
                let directories = standings.iter().filter(|standing| standing.is_directory());
                let more = directories.skip(1).map(|standing| standing.found.stat);
                merged_stat(first.found.stat, more, !parent.incomplete)
            }
            _ => with_mapped(&inode, first.found.stat),
        };
        Ok(Some(Child { inode, stat }))
    }

    /// What was found must be what the kernel will get by the number. ESTALE, on which it tries again.
    fn check_entered(
        &self,
        parent: &Node<'_>,
        inode: &Arc<Inode>,
        parts: Parts,
        kind: FileKind,
    ) -> Result<(), Errno> {
        if inode.kind != kind {
            // The branch gave a number of a dead inode to a new one, against what handles promise.
            return Err(Errno::STALE);
        }
        if kind == FileKind::Directory
            && matches!(parent.domain, Domain::Pool(_))
            && *inode.place() != Place::Branch(parts)
        {
            self.renew_parts(inode)?;
        }
        // A crossing may have taken the directory meanwhile; what was found below it lies in hold.
        self.check_place(parent)
    }

    /// ENOENT; EIO for a name that was last seen on a member that is offline.
    fn absent(&self, parent: &Node<'_>, name: &OsStr) -> Errno {
        if parent.incomplete && self.is_out_of_reach(parent.inode.number, name) {
            return Errno::IO;
        }
        Errno::NOENT
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
        let open = open.filter(|file| file.inode.number == number);
        // The kernel seldom names the file. One that is passed through and crossed is still read as it was.
        let gone = matches!(*inode.place(), Place::Gone);
        let open = open.or_else(|| if gone { inode.open_files().into_iter().next() } else { None });
        let stat = match open {
            Some(file) => {
                let stat = self.branch(file.branch())?.stat(file.descriptor().as_fd())?;
                with_mapped(&inode, stat)
            }
            None => self.stat(&inode)?,
        };
        Ok(Attributes { number, stat, ttl: ttl(&inode) })
    }

    /// Attributes of an inode of a branch or the layout.
    pub(super) fn stat(&self, inode: &Arc<Inode>) -> Result<Stat, Errno> {
        if matches!(*inode.place(), Place::Virtual) {
            let links = u32::try_from(self.layout_children(inode)).unwrap_or(0).saturating_add(2);
            return Ok(Stat { nlink: links, ..virtual_stat(self.started) });
        }
        let asked = self.node(Arc::clone(inode)).and_then(|node| self.stat_node(&node));
        match asked {
            Err(Errno::IO) if self.is_away_on_the_way(inode) => Ok(self.last_stat(inode)),
            asked => asked,
        }
    }

    /// Whether the way to other branches leads through it.
    pub(super) fn leads_on(&self, inode: &Inode) -> bool {
        inode.number == LayoutIndex::ROOT.number() || self.layout_children(inode) > 0
    }

    /// How many folders of the layout are directly below an inode.
    fn layout_children(&self, inode: &Inode) -> usize {
        inode.layout.map_or(0, |folder| self.view.layout.folder(folder).children.len())
    }

    /// Attributes of an opened inode.
    pub(super) fn stat_node(&self, node: &Node<'_>) -> Result<Stat, Errno> {
        let inode = &node.inode;
        let stat = |part: &OpenPart<'_>| match inode.layout {
            Some(_) => part.branch.stat_root(),
            None => part.branch.stat(part.as_fd()),
        };
        let first = stat(&node.first)?;
        if inode.kind != FileKind::Directory {
            return Ok(with_mapped(inode, first));
        }
        let more = node.more.iter().map(stat).collect::<Result<Vec<_>, _>>()?;
        let merged = merged_stat(first, more.into_iter(), !node.incomplete);
        // What the layout shows in a branch may hide folders there.
        let shown =
            if self.layout_children(inode) > 0 { Stat { nlink: 1, ..merged } } else { merged };
        if inode.layout.is_some() {
            self.roots.insert(inode.number, shown);
        }
        if self.leads_on(inode) {
            let acl = node.first.branch.get_xattr(node.first.as_fd(), OsStr::new(ACCESS_ACL));
            self.root_acls.insert(inode.number, acl);
        }
        Ok(shown)
    }

    /// Whether that, and nothing of its branch or pool is online: then what was told of it last is told again.
    pub(super) fn is_away_on_the_way(&self, inode: &Inode) -> bool {
        let domain = inode.layout.and_then(|folder| self.view.layout.folder(folder).domain);
        let online = |index: BranchIndex| self.branch(index).is_ok_and(|branch| branch.is_online());
        let away = |domain| !self.view.members(domain).into_iter().any(online);
        self.leads_on(inode) && domain.is_some_and(away)
    }

    /// What was told of such a folder no longer holds.
    pub(super) fn forget_last(&self, folder: &Inode) {
        self.roots.remove(&folder.number);
        self.root_acls.remove(&folder.number);
    }

    /// The access list of such a folder, of when its attributes were told last. EIO where it is not known.
    pub(super) fn last_acl(&self, folder: &Inode) -> Result<Vec<u8>, Errno> {
        match self.root_acls.get(&folder.number).as_deref() {
            Some(Err(Errno::OPNOTSUPP)) => Err(Errno::NODATA),
            Some(acl) => acl.clone(),
            None => Err(Errno::IO),
        }
    }

    /// Attributes of a folder of the layout as the kernel was last told them, without asking its branch.
    /// Closed to all for one that was never asked; the kernel asks again before it refuses.
    pub(super) fn last_stat(&self, folder: &Arc<Inode>) -> Stat {
        let virtual_one = matches!(folder.try_place().as_deref(), Some(Place::Virtual));
        if virtual_one && let Ok(stat) = self.stat(folder) {
            return stat;
        }
        let known = self.roots.get(&folder.number).map(|stat| *stat);
        known.unwrap_or(Stat { mode: 0o1000, ..virtual_stat(self.started) })
    }

    /// What a symbolic link says.
    pub fn readlink(&self, number: u64) -> Result<OsString, Errno> {
        let inode = self.inode(number)?;
        if inode.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        let node = self.node(inode)?;
        node.first.branch.read_link(node.first.as_fd())
    }

    /// Space of the file systems below an inode: of its branch, or of all members of its pool; of all
    /// branches for a virtual folder. Each file system counts once.
    pub fn statfs(&self, number: u64) -> Result<SpaceStat, Errno> {
        let inode = self.inode(number)?;
        let in_branch = inode.place().branch();
        let branches: Vec<_> = match in_branch {
            Some(branch) => match self.view.domain(branch) {
                Domain::Branch(branch) => {
                    let branch = self.branch(branch)?;
                    return Ok(self.with_hold(branch.device()?, branch.statfs()?));
                }
                pool => self.view.members(pool).into_iter().map(|at| self.branch(at)).collect(),
            },
            None => self.branches.iter().map(Ok).collect(),
        };
        let mut devices = Vec::new();
        let mut sum: Option<SpaceStat> = None;
        for branch in branches.into_iter().flatten() {
            let Ok(device) = branch.device() else { continue };
            if devices.contains(&device) {
                continue;
            }
            devices.push(device);
            // The view itself answers from memory, whatever one of its branches does: commands ask it.
            let space = match in_branch {
                None => branch.last_space(),
                Some(_) => match branch.statfs() {
                    Err(_) if !branch.is_online() => None,
                    space => Some(space?),
                },
            };
            let space = space.map(|space| self.with_hold(device, space));
            match (&mut sum, space) {
                (Some(sum), Some(space)) => sum.add(&space),
                (None, Some(space)) => sum = Some(space),
                (_, None) => {}
            }
        }
        Ok(sum.unwrap_or_default())
    }

    /// What hold would give back counts as free: it goes first when space runs short.
    fn with_hold(&self, device: u64, mut space: SpaceStat) -> SpaceStat {
        let on_it = self.branches.iter().filter(|branch| branch.device() == Ok(device));
        let bytes = on_it.map(|branch| self.mover.freeable(branch.spec().index));
        let bytes = bytes.fold(0_u64, u64::saturating_add);
        let blocks = bytes.checked_div(space.block_size.into()).unwrap_or(0);
        space.blocks_free = space.blocks_free.saturating_add(blocks).min(space.blocks);
        space.blocks_available = space.blocks_available.saturating_add(blocks).min(space.blocks);
        space
    }
}

/// The attributes of a file that may have something in it which its branch does not know yet: a tool that sees
/// no blocks takes it for empty (GNU tar, `--sparse`).
fn with_mapped(inode: &Inode, stat: Stat) -> Stat {
    let empty = inode.kind == FileKind::File && stat.blocks == 0 && stat.size > 0;
    if empty && inode.may_be_mapped() { Stat { blocks: 1, ..stat } } else { stat }
}

/// How long the kernel may keep what it is told of an inode.
fn ttl(inode: &Inode) -> Duration {
    if matches!(*inode.place(), Place::Virtual) { FIXED_TTL } else { TTL }
}

/// The attributes of a directory: those of its first part, but the newest times, for a change may have
/// happened in any part. `complete` says that no part is out of reach.
fn merged_stat(first: Stat, more: impl Iterator<Item = Stat>, complete: bool) -> Stat {
    let mut merged = first;
    for part in more {
        merged.mtime = merged.mtime.max(part.mtime);
        merged.ctime = merged.ctime.max(part.ctime);
        merged.nlink = merged_links(merged.nlink, part.nlink);
    }
    if complete { merged } else { Stat { nlink: 1, ..merged } }
}

/// Two links, and one for each subdirectory, while one part alone has any; then, or where a part does not
/// count, one link, which says that they are not counted: those of several parts may be the same ones.
fn merged_links(one: u32, other: u32) -> u32 {
    match (one, other) {
        (2, links) | (links, 2) => links.max(1),
        // It was removed.
        (0, 0) => 0,
        _ => 1,
    }
}
