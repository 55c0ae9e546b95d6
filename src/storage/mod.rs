//! The durable steps of crossings and of the ledger, behind one trait with two implementations:
//! [`real`] on a Linux file system and, for tests, `simulated` in memory, which at a crash loses what was not
//! synced, as POSIX allows. Whatever the mover or the ledger does to a disk goes through here, so a
//! test can cut the power between any two steps.
//!
//! Everything is relative to an open directory; nothing follows a symbolic link or enters a mount
//! point. Names are single components.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;

use crate::error::Errno;
use crate::types::{Handle, Identity, Time};

pub mod buffer;
pub mod real;
#[cfg(any(test, fuzzing))]
pub mod simulated;

/// What kind of thing a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and what it says.
    Symlink(OsString),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device with its `dev_t`.
    CharacterDevice(u64),
    /// A block device with its `dev_t`.
    BlockDevice(u64),
}

/// What `statx(2)` and the extended attributes tell of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Kind, with what a special file needs to be made again.
    pub kind: Kind,
    /// Permission bits with set-id and sticky, no type bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links; for a directory whatever its file system likes.
    pub nlink: u64,
    /// Nobody may change, rename or remove it: immutable or append-only (chattr(1)).
    pub fixed: bool,
    /// Time of last read.
    pub atime: Time,
    /// Inode, length, time of last write and change.
    pub identity: Identity,
}

/// What a directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Two directories on one file system have the same number.
    pub device: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Extended attributes, ACLs (`system.posix_acl_*`) and capabilities (`security.capability`)
/// included, sorted by name.
pub type Xattrs = Vec<(OsString, Vec<u8>)>;

/// Whether bytes read back came from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readback {
    /// Past the page cache, by O_DIRECT or after eviction that `cachestat(2)` proved.
    Disk,
    /// The page cache may have answered.
    Cached,
}

/// The durable steps. Every method is one step that may fail or be the last before a crash.
///
/// Errors are errnos. A failed sync is final: the caller must not sync the same file again and
/// believe it.
pub trait Storage: Send + Sync + 'static {
    /// An open directory. Cheap to clone.
    type Dir: Clone + Send + Sync + 'static;
    /// An open regular file.
    type File: Send + Sync + 'static;
    /// Holds a read lease; dropped, it is given back.
    type Lease: Send + 'static;

    /// Opens the directory at a relative path below `dir` (`""` is `dir` itself). ENOENT, ENOTDIR,
    /// ELOOP for a link and EXDEV for a mount point on the way.
    fn open_dir(&self, dir: &Self::Dir, path: &Path) -> Result<Self::Dir, Errno>;
    /// Makes a directory (mode 0700). Not durable before `sync_dir(dir)`.
    fn create_dir(&self, dir: &Self::Dir, name: &OsStr) -> Result<(), Errno>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Self::Dir, name: &OsStr) -> Result<(), Errno>;
    /// The names in a directory, in no order, without `.` and `..`.
    fn list(&self, dir: &Self::Dir) -> Result<Vec<OsString>, Errno>;

    /// Makes a regular file, mode 0600, open for reading and writing. EEXIST.
    fn create_file(&self, dir: &Self::Dir, name: &OsStr) -> Result<Self::File, Errno>;
    /// Makes a symlink, fifo, socket or device with permissions 0600. EEXIST; EINVAL for a regular
    /// file or directory.
    fn create_special(&self, dir: &Self::Dir, name: &OsStr, kind: &Kind) -> Result<(), Errno>;
    /// Opens a regular file for reading, where we may without changing its time of last read. ELOOP
    /// for a link, EINVAL for anything else.
    fn open_read(&self, dir: &Self::Dir, name: &OsStr) -> Result<Self::File, Errno>;
    /// Opens a regular file for reading and writing.
    fn open_write(&self, dir: &Self::Dir, name: &OsStr) -> Result<Self::File, Errno>;
    /// Opens a regular file such that reads come from the disk where that is possible, and says
    /// whether it is.
    fn open_readback(&self, dir: &Self::Dir, name: &OsStr)
    -> Result<(Self::File, Readback), Errno>;

    /// Reads at an offset; 0 at the end. May read less than asked. For files of `open_readback` and
    /// `open_direct` the offset and the buffer's length must be multiples of [`buffer::ALIGNMENT`];
    /// memory that is not aligned costs a copy, see [`buffer::Buffer`].
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> Result<usize, Errno>;
    /// Writes all of `bytes` at an offset, aligned as for `read_at` where the file is of `open_direct`.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> Result<(), Errno>;
    /// Sets the length.
    fn set_len(&self, file: &Self::File, length: u64) -> Result<(), Errno>;
    /// The next range of data at or after `offset` (SEEK_DATA, SEEK_HOLE); `None` if only a hole
    /// follows. File systems without holes give the rest of the file.
    fn next_data(&self, file: &Self::File, offset: u64) -> Result<Option<Range<u64>>, Errno>;
    /// Reserves disk space for the first `length` bytes without changing the length; does nothing
    /// where the file system cannot. ENOSPC, EDQUOT.
    fn reserve(&self, file: &Self::File, length: u64) -> Result<(), Errno>;
    /// Takes a read lease, which is refused (EAGAIN) while anyone has the file open for writing or
    /// mapped writable; `None` where the file system has no leases or we may not take one.
    fn lease(&self, file: &Self::File) -> Result<Option<Self::Lease>, Errno>;
    /// Whether nobody has asked to break the lease since it was taken.
    fn lease_holds(&self, lease: &Self::Lease) -> bool;
    /// Metadata of an open file.
    fn stat_file(&self, file: &Self::File) -> Result<Metadata, Errno>;
    /// Makes content and metadata of a file durable, not its name.
    fn sync_file(&self, file: &Self::File) -> Result<(), Errno>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Self::Dir) -> Result<(), Errno>;
    /// The inode of an open directory.
    fn dir_handle(&self, dir: &Self::Dir) -> Result<Handle, Errno>;
    /// Metadata of a name without following it; `None` exactly for ENOENT.
    fn stat(&self, dir: &Self::Dir, name: &OsStr) -> Result<Option<Metadata>, Errno>;
    /// Renames a file or a whole directory. Never replaces: EEXIST if the target name exists. EXDEV
    /// between file systems, EINVAL for a directory into itself.
    fn rename(
        &self,
        source: &Self::Dir,
        source_name: &OsStr,
        target: &Self::Dir,
        target_name: &OsStr,
    ) -> Result<(), Errno>;
    /// Gives a file another name in its directory, in the place of what has that name: whoever looks
    /// finds the one or the other. EISDIR if that is a directory. For files of our own.
    fn replace(&self, dir: &Self::Dir, source: &OsStr, target: &OsStr) -> Result<(), Errno>;
    /// Gives what a name stands for, itself if it is a link, a second name. EEXIST; EPERM for a
    /// directory, EXDEV between file systems, EMLINK.
    fn link(
        &self,
        source: &Self::Dir,
        source_name: &OsStr,
        target: &Self::Dir,
        target_name: &OsStr,
    ) -> Result<(), Errno>;
    /// Removes a name that is not a directory.
    fn unlink(&self, dir: &Self::Dir, name: &OsStr) -> Result<(), Errno>;

    /// Sets owner and group of a name without following it. Clears set-id bits: set the mode after.
    fn set_owner(&self, dir: &Self::Dir, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno>;
    /// Sets the permission bits (07777) of a name that is not a symlink.
    fn set_mode(&self, dir: &Self::Dir, name: &OsStr, mode: u32) -> Result<(), Errno>;
    /// Sets times of last read and write of a name without following it.
    fn set_times(
        &self,
        dir: &Self::Dir,
        name: &OsStr,
        atime: Time,
        mtime: Time,
    ) -> Result<(), Errno>;
    /// Sets owner, mode and times of an open file, in this order, to those of `wanted`: what the three
    /// calls above do, in one step.
    fn set_attributes(&self, file: &Self::File, wanted: &Metadata) -> Result<(), Errno>;
    /// All extended attributes of a name, without following it. Empty where the file system has
    /// none.
    fn xattrs(&self, dir: &Self::Dir, name: &OsStr) -> Result<Xattrs, Errno>;
    /// Sets one extended attribute. EOPNOTSUPP where the file system cannot hold it.
    fn set_xattr(
        &self,
        dir: &Self::Dir,
        name: &OsStr,
        key: &OsStr,
        value: &[u8],
    ) -> Result<(), Errno>;
    /// Makes metadata of a name that is not a regular file durable, as far as the file system lets
    /// one (special files cannot be synced alone: `syncfs`).
    fn sync_special(&self, dir: &Self::Dir, name: &OsStr) -> Result<(), Errno>;
    /// Makes everything on the file system of `dir` durable: content, metadata and names, where
    /// [`Storage::syncs_whole`] says so. What failed to be written is reported once to each opening
    /// of a directory, clones included, and only if it failed since: so open a directory for this
    /// by `open_dir` with a name, before the first write, and share it with nobody.
    fn sync_file_system(&self, dir: &Self::Dir) -> Result<(), Errno>;
    /// Whether `sync_file_system` is known to reach the disk. Where it is not, each file and each
    /// directory must be synced by itself.
    fn syncs_whole(&self, dir: &Self::Dir) -> Result<bool, Errno>;
    /// Bytes that an ordinary user can still write on the file system of `dir`.
    fn free_space(&self, dir: &Self::Dir) -> Result<u64, Errno>;
    /// The file system of `dir`.
    fn file_system(&self, dir: &Self::Dir) -> Result<FileSystem, Errno>;
    /// Bytes of disk that are free once a name is removed, itself if it is a link: those of an inode
    /// with several names are shared among them. What is below a directory does not count. 0 where
    /// there is no such name.
    fn disk_bytes(&self, dir: &Self::Dir, name: &OsStr) -> Result<u64, Errno>;
    /// How many files an ordinary user can still make on the file system of `dir`; `u64::MAX` where
    /// it has no such limit.
    fn free_inodes(&self, dir: &Self::Dir) -> Result<u64, Errno>;
    /// Whether the file system of `dir` is mounted read-only.
    fn is_read_only(&self, dir: &Self::Dir) -> Result<bool, Errno>;
    /// Opens a file of `create_file` once more, for reading and writing past the page cache: what is
    /// read comes from the disk, what is written went there (and is durable after `sync_file`, not
    /// before). `None` where the file system cannot.
    fn open_direct(&self, file: &Self::File) -> Result<Option<Self::File>, Errno>;
}
