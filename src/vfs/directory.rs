//! opendir, readdir, fsyncdir. A listing is a snapshot, so that offsets hold while entries come and
//! go: taken when reading begins, and anew after a rewind.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::branch::{FileKind, Stat};
use crate::error::Errno;
use crate::sys::handle::name_to_handle;
use crate::types::{Caller, Handle, Operation};
use crate::view::listing::{Entries, Listing};
use crate::view::{Inode, LayoutIndex, Listed, OpenDirectory, Part, Parts, Place};

use super::facts::{About, Asked};
use super::lookup::Child;
use super::permit::Question;
use super::site::OpenPart;
use super::{Attributes, PRIVATE_NAME, Vfs, virtual_stat};

/// How much of what a listing takes its entries take besides while those of several members are merged.
const MERGED: usize = 4;

/// Marks the number of an entry that cannot be looked at; no inode of a branch has this bit.
const UNREACHABLE: u64 = 1 << 63;

/// An entry of a directory as a reply carries it.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    /// One component, or `.` or `..`.
    pub name: &'a OsStr,
    /// Inode number.
    pub number: u64,
    /// What it is.
    pub kind: FileKind,
    /// Where to go on after this entry.
    pub next: u64,
}

impl Vfs {
    /// Opens a directory for listing.
    pub fn opendir(&self, caller: Caller, number: u64) -> Result<u64, Errno> {
        let inode = self.inode(number)?;
        if inode.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if matches!(*inode.place(), Place::Audit) {
            self.check_reader(caller)?;
        } else {
            self.permit_inode(
                caller,
                Operation::List,
                &inode,
                &Asked::of(About::Inode(self, &inode)),
            )?;
            if let Some(path) = inode.path() {
                let branch = inode.place().branch();
                let question =
                    Question { caller, path: &path, branch, is_directory: true, target: None };
                self.record(Operation::List, &question, Ok(()));
            }
        }
        Ok(self.view.handles.add_directory(inode, caller.uid))
    }

    /// Hands out entries from an offset on until `take` says that it has no room.
    pub fn readdir(
        &self,
        handle: u64,
        offset: u64,
        take: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let (open, entries) = self.listing(handle, offset)?;
        each(&entries, offset, |_, entry| take(entry))?.ended(&open)
    }

    /// As [`Vfs::readdir`], with attributes; each entry but `.` and `..` that is taken counts a
    /// reference. Entries that vanished since the snapshot are left out.
    pub fn readdirplus(
        &self,
        caller: Caller,
        handle: u64,
        offset: u64,
        take: &mut dyn FnMut(DirectoryEntry<'_>, Attributes) -> bool,
    ) -> Result<(), Errno> {
        let (open, entries) = self.listing(handle, offset)?;
        // Opened once for all, if there are any.
        let node = LazyCell::new(|| self.node(Arc::clone(&open.inode)));
        let find = |name: &OsStr| match &*node {
            Ok(node) => self.find_in(node, name),
            Err(_) => self.find_child(&open.inode, name),
        };
        each(&entries, offset, |listed, entry| {
            let counted = listed.name != "." && listed.name != "..";
            let Some(attributes) = self.entry_attributes(caller, &open.inode, listed, find) else {
                return false;
            };
            let full = take(entry, attributes);
            if full && counted {
                self.view.inodes.forget(attributes.number, 1);
            }
            full
        })?
        .ended(&open)
    }

    /// Attributes of an entry; `find` finds it in the branches.
    fn entry_attributes(
        &self,
        caller: Caller,
        parent: &Arc<Inode>,
        listed: &Listed,
        find: impl FnOnce(&OsStr) -> Result<Child, Errno>,
    ) -> Option<Attributes> {
        let kind = listed.kind;
        let number = listed.number;
        let stat = Stat { kind, ..virtual_stat(self.started) };
        if listed.name == "." || listed.name == ".." {
            return Some(Attributes { number, stat, ttl: Duration::ZERO });
        }
        if matches!(*parent.place(), Place::Audit) {
            return self.listed_audit(caller, parent, &listed.name).ok();
        }
        // Whoever lists a folder of the layout does not wait for the branches below it. The kernel takes
        // what it is told here for what it knows, and asks before it shows it.
        let child = parent.layout.and_then(|at| self.view.layout.child(at, &listed.name));
        if let Some(folder) = child.and_then(|child| self.view.inodes.get(child.number())) {
            return Some(Attributes { number, stat: self.last_stat(&folder), ttl: Duration::ZERO });
        }
        match find(&listed.name) {
            Ok(child) => Some(child.attributes()),
            Err(Errno::NOENT) => None,
            // It is there, but cannot be looked at: a mount point inside the branch, say. Its own
            // number stays free for when it can.
            Err(_) => {
                let number = number | UNREACHABLE;
                self.view.inodes.enter_fixed(number, kind, Place::Gone);
                Some(Attributes { number, stat, ttl: Duration::ZERO })
            }
        }
    }

    /// ENOMEM where the opener, or all users together, have too much listed already.
    fn listing(&self, handle: u64, offset: u64) -> Result<(Arc<OpenDirectory>, Entries), Errno> {
        let open = self.view.handles.directory(handle).ok_or(Errno::BADF)?;
        let mut snapshot = open.snapshot.lock();
        if offset == 0 || snapshot.entries().is_empty() {
            let mut listing = Listing::new(self.view.listings.share(open.opener));
            let complete = self.list(&open.inode, &mut listing)?;
            snapshot.renew(listing)?;
            open.complete.store(complete, Ordering::Release);
        }
        let entries = Arc::clone(snapshot.entries());
        drop(snapshot);
        Ok((open, entries))
    }

    /// Whether that is all: a member that is offline may have more.
    fn list(&self, inode: &Arc<Inode>, listing: &mut Listing) -> Result<bool, Errno> {
        let parent = inode.ancestors().first().map_or(inode.number, |parent| parent.number);
        let directory = |name: &OsStr, number| Listed {
            name: name.to_owned(),
            number,
            kind: FileKind::Directory,
        };
        listing.push(directory(OsStr::new("."), inode.number))?;
        listing.push(directory(OsStr::new(".."), parent))?;
        let mut complete = true;
        let place = inode.place().clone();
        match place {
            Place::Audit => {
                self.list_audit(inode).into_iter().try_for_each(|listed| listing.push(listed))?;
                return Ok(true);
            }
            Place::Virtual => {}
            Place::Branch(_) | Place::Gone => complete = self.list_branch(inode, listing)?,
        }
        if let Some(folder) = inode.layout {
            for (name, child) in &self.view.layout.folder(folder).children {
                listing.push(directory(name, child.number()))?;
            }
        }
        Ok(complete)
    }

    /// The names of all parts of a directory, each as what the first part that has it says. Whether
    /// that is all.
    fn list_branch(&self, inode: &Arc<Inode>, listing: &mut Listing) -> Result<bool, Errno> {
        let node = self.node(Arc::clone(inode))?;
        if node.more.is_empty() {
            self.list_part(inode, &node.first, |listed, _| listing.push(listed))?;
            return Ok(!node.incomplete);
        }
        let mut merged: HashMap<OsString, usize> = HashMap::new();
        let mut order: Vec<(Listed, Vec<Part>)> = Vec::new();
        // What the merging takes.
        let mut share = listing.another_share();
        for part in node.parts() {
            self.list_part(inode, part, |listed, part| {
                share.take(Listed::size(&listed.name).saturating_mul(MERGED))?;
                match merged.entry(listed.name.clone()) {
                    Entry::Vacant(new) => {
                        new.insert(order.len());
                        order.push((listed, vec![part]));
                    }
                    Entry::Occupied(known) => {
                        if let Some((first, parts)) = order.get_mut(*known.get())
                            && [first.kind, listed.kind] == [FileKind::Directory; 2]
                        {
                            parts.push(part);
                        }
                    }
                }
                Ok(())
            })?;
        }
        drop(merged);
        for (mut listed, parts) in order {
            if let Some(parts) = Parts::merged(parts).filter(|parts| !parts.more.is_empty()) {
                listed.number = self.view.inodes.number_of(&parts);
            }
            listing.push(listed)?;
        }
        Ok(!node.incomplete)
    }

    fn list_part(
        &self,
        inode: &Inode,
        part: &OpenPart<'_>,
        mut take: impl FnMut(Listed, Part) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        part.branch.read_dir(part.as_fd(), |entry| {
            if self.is_hidden(inode, &entry.name) {
                return Ok(());
            }
            // The number comes from the file handle, so that it equals what stat(2) says.
            let handle = match name_to_handle(part.as_fd(), &entry.name) {
                Ok(handle) => handle,
                Err(Errno::NOENT) => return Ok(()),
                // What cannot be looked at (a dead mount inside the branch) is listed all the same.
                Err(_) => {
                    Handle { kind: Handle::SYNTHETIC, bytes: entry.inode.to_le_bytes().into() }
                }
            };
            let kind = match entry.kind {
                Some(kind) => kind,
                None => match part.branch.lookup(part.as_fd(), &entry.name) {
                    Ok(found) => found.stat.kind,
                    Err(Errno::NOENT) => return Ok(()),
                    // A mount point inside the branch: it is there, and may not be entered.
                    Err(_) => FileKind::Directory,
                },
            };
            let parts = Parts::single(part.index, handle);
            let number = self.view.inodes.number_of(&parts);
            take(Listed { name: entry.name, number, kind }, parts.first)
        })
    }

    /// Names in a branch's root that the view keeps for itself, or shows a folder of the layout for.
    fn is_hidden(&self, parent: &Inode, name: &OsStr) -> bool {
        let Some(folder) = parent.layout else { return false };
        name == PRIVATE_NAME
            || self.view.layout.child(folder, name).is_some()
            || (folder == LayoutIndex::ROOT && name == super::AUDIT_NAME)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.view.handles.remove_directory(handle);
    }

    /// Makes the names in a directory durable.
    pub fn fsyncdir(&self, handle: u64) -> Result<(), Errno> {
        let open = self.view.handles.directory(handle).ok_or(Errno::BADF)?;
        if matches!(*open.inode.place(), Place::Virtual | Place::Audit) {
            return Ok(());
        }
        let node = self.node(Arc::clone(&open.inode))?;
        node.parts().try_for_each(|part| part.branch.fsync_directory(part.as_fd()))
    }
}

/// How far a listing was handed out.
enum HandedOut {
    /// There was no room for more.
    Some,
    /// All of it, and something in this turn.
    Rest,
    /// There was nothing left.
    Nothing,
}

impl HandedOut {
    /// A listing that misses what is on an offline member ends in EIO instead of its end: who reads it
    /// (a backup, a synchronisation that deletes) must not take what is missing for removed.
    fn ended(self, open: &OpenDirectory) -> Result<(), Errno> {
        match self {
            Self::Nothing if !open.complete.load(Ordering::Acquire) => Err(Errno::IO),
            Self::Nothing | Self::Some | Self::Rest => Ok(()),
        }
    }
}

/// Hands out a snapshot from an offset on; `take` says whether it had no room.
fn each(
    entries: &[Option<Listed>],
    offset: u64,
    mut take: impl FnMut(&Listed, DirectoryEntry<'_>) -> bool,
) -> Result<HandedOut, Errno> {
    let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
    let mut handed_out = HandedOut::Nothing;
    for (at, listed) in entries.iter().enumerate().skip(start) {
        let Some(listed) = listed else { continue };
        let entry = DirectoryEntry {
            name: &listed.name,
            number: listed.number,
            kind: listed.kind,
            next: (at as u64).saturating_add(1),
        };
        if take(listed, entry) {
            return Ok(HandedOut::Some);
        }
        handed_out = HandedOut::Rest;
    }
    Ok(handed_out)
}
