//! Listing a directory.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{OFlags, RawDir};

use crate::error::Errno;

use super::node::{kind_of, reopen};
use super::{Branch, DirEntry};

/// Room for the entries of one getdents64(2), in bytes.
const BUFFER: usize = 128 * 1024;

impl Branch {
    /// Whether a directory has no entries.
    pub fn is_empty(&self, node: BorrowedFd<'_>) -> Result<bool, Errno> {
        Ok(self.read_dir(node)?.is_empty())
    }

    /// All entries but `.` and `..`, in the file system's order.
    pub fn read_dir(&self, node: BorrowedFd<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.check_online()?;
        let dir = reopen(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut entries = Vec::new();
        let mut reader = RawDir::new(&dir, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
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
}
