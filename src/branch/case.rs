//! Whether a branch tells names apart that differ in case alone. Where it does not, `.OCTROI` leads to
//! what must not be reached, and a rule about a name does not hold for all names of its file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, StatxFlags};

use crate::error::Errno;

use super::adopt::BranchError;
use super::directory::some_entries;
use super::{BranchSpec, FileKind};

/// So many entries of the root are looked at.
const ENTRIES_MAX: usize = 64;

/// Refuses a branch that has a folder which the other case of its name leads to as well.
pub(super) fn check_case(spec: &BranchSpec, root: &OwnedFd) -> Result<(), BranchError> {
    let path = || spec.path.clone();
    let found = reached_by_other_case(root.as_fd()).map_err(|errno| BranchError::Io {
        attempted: "list",
        path: path(),
        errno,
    })?;
    let Some((one, other)) = found else { return Ok(()) };
    Err(BranchError::FoldsCase { name: spec.name.clone(), path: path(), one, other })
}

/// Folders alone tell: a file may have both names.
fn reached_by_other_case(root: BorrowedFd<'_>) -> Result<Option<(OsString, OsString)>, Errno> {
    let some = some_entries(root, ENTRIES_MAX)?;
    let folders = some.into_iter().filter(|entry| entry.kind == Some(FileKind::Directory));
    let mut names = std::iter::once(".octroi".into()).chain(folders.map(|entry| entry.name));
    Ok(names.find_map(|one| {
        let other = OsString::from_vec(one.as_bytes().iter().map(other_case).collect());
        let same =
            other != one && folder(root, &one).is_some_and(|id| folder(root, &other) == Some(id));
        same.then_some((one, other))
    }))
}

/// Device and inode number of a folder, without asking whatever may be mounted there.
fn folder(root: BorrowedFd<'_>, name: &OsStr) -> Option<(u32, u32, u64)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(root, name, flags, StatxFlags::INO | StatxFlags::TYPE).ok()?;
    FileType::from_raw_mode(stat.stx_mode.into()).is_dir().then_some((
        stat.stx_dev_major,
        stat.stx_dev_minor,
        stat.stx_ino,
    ))
}

fn other_case(byte: &u8) -> u8 {
    if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
}
