//! Listing a directory.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{OFlags, RawDir};

use crate::error::Errno;
use crate::sys::resolve::reopen;

use super::node::kind_of;
use super::{Branch, DirEntry, FileKind};

/// Room for the entries of one getdents64(2), in bytes.
const BUFFER: usize = 128 * 1024;

/// The same for a directory that is known to be small.
const SMALL_BUFFER: usize = 8 * 1024;

/// `f_type` of btrfs (include/uapi/linux/magic.h).
const BTRFS_SUPER_MAGIC: rustix::fs::FsWord = 0x9123_683E;

/// The largest directory of btrfs whose subdirectories are counted at each look: its size is twice that
/// of the names in it, in bytes.
const COUNTED_SIZE_MAX: u64 = 4096;

/// Whether a file system gives each directory one link, whatever is in it, and the size of its names.
pub(super) fn leaves_links_uncounted(root: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(root).is_ok_and(|stat| stat.f_type == BTRFS_SUPER_MAGIC)
}

impl Branch {
    /// Links of a directory that has one according to its file system: two, and one for each
    /// subdirectory, where they can be counted in no time; else one, as ext4 says of a directory with
    /// more than it can count.
    pub(super) fn count_links(&self, node: BorrowedFd<'_>, size: u64) -> u32 {
        let uncounted = self.online.load().as_ref().is_some_and(|online| online.links_uncounted);
        if !uncounted || size > COUNTED_SIZE_MAX {
            return 1;
        }
        let mut links = 2_u32;
        let count = |entry: DirEntry| {
            links = links.saturating_add(u32::from(entry.kind == Some(FileKind::Directory)));
            Ok(ControlFlow::Continue(()))
        };
        // It is not read in anybody's name, and so must not count as read.
        match read_entries(node, OFlags::NOATIME, SMALL_BUFFER, count) {
            Ok(()) => links,
            Err(_) => 1,
        }
    }

    /// Whether a directory has no entries.
    pub fn is_empty(&self, node: BorrowedFd<'_>) -> Result<bool, Errno> {
        self.check_online()?;
        Ok(first_entries(node, OFlags::empty(), 1)?.is_empty())
    }

    /// Hands out all entries but `.` and `..`, in the file system's order; the first that `take` fails on is
    /// the last.
    pub fn read_dir(
        &self,
        node: BorrowedFd<'_>,
        mut take: impl FnMut(DirEntry) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.check_online()?;
        let take = |entry| take(entry).map(ControlFlow::Continue);
        read_entries(node, OFlags::empty(), BUFFER, take)
    }
}

/// Some entries of a directory, in the file system's order. It does not count as read where it is our own.
pub(super) fn some_entries(node: BorrowedFd<'_>, most: usize) -> Result<Vec<DirEntry>, Errno> {
    match first_entries(node, OFlags::NOATIME, most) {
        Err(Errno::PERM) => first_entries(node, OFlags::empty(), most),
        read => read,
    }
}

fn first_entries(node: BorrowedFd<'_>, flags: OFlags, most: usize) -> Result<Vec<DirEntry>, Errno> {
    let mut entries = Vec::new();
    read_entries(node, flags, SMALL_BUFFER, |entry| {
        entries.push(entry);
        let enough = entries.len() >= most;
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(entries)
}

/// Hands out entries but `.` and `..` until `take` breaks off or fails, with `room` bytes for those of one
/// getdents64(2).
fn read_entries(
    node: BorrowedFd<'_>,
    flags: OFlags,
    room: usize,
    mut take: impl FnMut(DirEntry) -> Result<ControlFlow<()>, Errno>,
) -> Result<(), Errno> {
    let dir = reopen(node, OFlags::RDONLY | OFlags::DIRECTORY | flags)?;
    let mut buffer = Vec::with_capacity(room);
    let mut reader = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let entry = DirEntry {
            name: OsStr::from_bytes(name).to_owned(),
            inode: entry.ino(),
            kind: kind_of(entry.file_type()),
        };
        if take(entry)?.is_break() {
            break;
        }
    }
    Ok(())
}
