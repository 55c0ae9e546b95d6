//! From names to descriptors.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, OFlags};

use super::{RealDir, attributes};
use crate::error::Errno;
use crate::sys::resolve::{CONFINED, reopen};

/// A name that is one component; EINVAL for anything else.
pub fn single(name: &OsStr) -> Result<&OsStr, Errno> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

/// Opens what exists below `dir`.
pub fn beneath(dir: BorrowedFd<'_>, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    create(dir, path, flags, Mode::empty())
}

/// Opens or creates below `dir`. A link is ELOOP, the last component included.
pub fn create(
    dir: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::openat2(dir, path, flags, mode, CONFINED))
}

/// An `O_PATH` descriptor of a name, of the link itself if it is one.
pub fn open_path(dir: &RealDir, name: &OsStr) -> Result<OwnedFd, Errno> {
    beneath(dir.as_fd(), single(name)?, OFlags::PATH | OFlags::NOFOLLOW)
}

/// An `O_PATH` descriptor of a regular file. ELOOP for a link, EINVAL for anything else: opening a
/// fifo would wait, and opening a device does something.
pub fn regular(dir: &RealDir, name: &OsStr) -> Result<OwnedFd, Errno> {
    let node = open_path(dir, name)?;
    match attributes::file_type(node.as_fd())? {
        FileType::RegularFile => Ok(node),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::INVAL),
    }
}

/// As [`reopen`], such that reading leaves the time of last read what users made it, where we may:
/// O_NOATIME is the owner's and root's only.
pub fn reopen_quietly(node: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, Errno> {
    match reopen(node, access | OFlags::NOATIME) {
        Err(Errno::PERM) => reopen(node, access),
        opened => opened,
    }
}
