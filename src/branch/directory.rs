//! Listing a directory.

use std::ffi::OsStr;
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
        // It is not read in anybody's name, and so must not count as read.
        let Ok(entries) = read_entries(node, OFlags::NOATIME, SMALL_BUFFER, usize::MAX) else {
            return 1;
        };
        let folders = entries.iter().filter(|entry| entry.kind == Some(FileKind::Directory));
        u32::try_from(folders.count()).unwrap_or(0).saturating_add(2)
    }

    /// Whether a directory has no entries.
    pub fn is_empty(&self, node: BorrowedFd<'_>) -> Result<bool, Errno> {
        Ok(self.read_dir(node)?.is_empty())
    }

    /// All entries but `.` and `..`, in the file system's order.
    pub fn read_dir(&self, node: BorrowedFd<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.check_online()?;
        read_entries(node, OFlags::empty(), BUFFER, usize::MAX)
    }
}

/// Some entries of a directory, in the file system's order. It does not count as read where it is our own.
pub(super) fn some_entries(node: BorrowedFd<'_>, most: usize) -> Result<Vec<DirEntry>, Errno> {
    match read_entries(node, OFlags::NOATIME, SMALL_BUFFER, most) {
        Err(Errno::PERM) => read_entries(node, OFlags::empty(), SMALL_BUFFER, most),
        read => read,
    }
}

/// The first entries but `.` and `..`, with `room` bytes for those of one getdents64(2).
fn read_entries(
    node: BorrowedFd<'_>,
    flags: OFlags,
    room: usize,
    most: usize,
) -> Result<Vec<DirEntry>, Errno> {
    let dir = reopen(node, OFlags::RDONLY | OFlags::DIRECTORY | flags)?;
    let mut buffer = Vec::with_capacity(room);
    let mut entries = Vec::new();
    let mut reader = RawDir::new(&dir, buffer.spare_capacity_mut());
    while entries.len() < most
        && let Some(entry) = reader.next()
    {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        entries.push(DirEntry {
            name: OsStr::from_bytes(name).to_owned(),
            inode: entry.ino(),
            kind: kind_of(entry.file_type()),
        });
    }
    Ok(entries)
}
