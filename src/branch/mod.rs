//! One branch: a backing directory and the operations on it. Nothing here knows paths of the view,
//! policy or inode numbers.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::types::{BranchIndex, BranchIo, BranchMode, Handle, Time};

/// What the configuration says of a branch.
#[derive(Debug, Clone)]
pub struct BranchSpec {
    /// Position in the configuration.
    pub index: BranchIndex,
    /// Name in the configuration.
    pub name: String,
    /// Absolute path of the backing directory.
    pub path: PathBuf,
    /// What may be done.
    pub mode: BranchMode,
    /// How open files are read and written.
    pub io: BranchIo,
    /// Bytes that stay free.
    pub min_free: u64,
    /// A path that others can reach is accepted.
    pub exposed: bool,
}

/// Kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// `statx(2)` of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are statx's")]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub kind: FileKind,
    /// Permission bits, set-id and sticky included.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blocks: u64,
    pub block_size: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

/// A name that was found: an `O_PATH` descriptor, what it is, and how to find it again.
#[derive(Debug)]
pub struct Found {
    /// `O_PATH | O_NOFOLLOW` descriptor.
    pub node: OwnedFd,
    /// Its attributes.
    pub stat: Stat,
    /// Its file handle (synthetic where the file system has none).
    pub handle: Handle,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, any bytes.
    pub name: OsString,
    /// Inode number on the backing file system.
    pub inode: u64,
    /// Its kind; `None` where the file system does not tell.
    pub kind: Option<FileKind>,
}

/// In whose name something is created.
#[derive(Debug, Clone, Copy)]
pub struct Creator<'a> {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
}
