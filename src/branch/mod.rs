//! One branch: a backing directory and the operations on it. Nothing here knows paths of the view,
//! policy or inode numbers.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::error::Errno;
use crate::types::{BranchIndex, BranchIo, BranchMode, BranchUuid, Handle, Time};

mod adopt;
mod attributes;
mod case;
mod content;
mod copy;
mod create;
mod directory;
mod folder;
mod node;
mod presence;
mod private;
mod probe;
mod space;
mod xattr;

#[cfg(test)]
mod tests;

pub use adopt::{Adoption, BranchError, Ids, Opened};
pub use attributes::{AttributeChange, SetTime};
pub use content::{FallocateMode, Whence};
pub use create::RenameFlags;
pub use presence::{Health, Returning};
pub use space::{SpaceLimit, SpaceStat};
pub use xattr::{ACCESS_ACL, XattrFlags, is_access_acl, is_acl};

use presence::Condition;

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
    /// Permission bits that are not given, unless the directory has a default ACL.
    pub umask: u32,
    /// Whether modes and access lists are no bar (CAP_DAC_OVERRIDE).
    pub overrides: bool,
}

/// A branch of a mounted view. An offline one answers EIO; it may go offline and come back at any
/// time ([`presence`]).
#[derive(Debug)]
pub struct Branch {
    spec: BranchSpec,
    name: Arc<str>,
    online: ArcSwapOption<Online>,
    /// Counts the changes of `online`.
    epoch: AtomicU64,
    condition: Mutex<Condition>,
    /// A mount point inside the branch has been warned of.
    mount_warned: AtomicBool,
    /// A change was refused with EROFS since the last probe.
    refused: AtomicBool,
    /// When something was last removed whose space may be freed later.
    removed: Mutex<Option<Instant>>,
    /// How many wait for that.
    waiting: AtomicUsize,
}

/// What an online branch holds open.
#[derive(Debug)]
struct Online {
    uuid: Option<BranchUuid>,
    /// The branch's root, for reading; every walk starts here.
    root: Arc<OwnedFd>,
    root_handle: Handle,
    /// The kernel's path of the root, as it was when it was last asked for.
    root_path: ArcSwapOption<Vec<u8>>,
    device: u64,
    /// `f_fsid` of statfs(2): tells file systems apart, also over a remount on most.
    file_system: u64,
    /// Whether inodes can be opened by their handles.
    by_handle: bool,
    /// Every directory has one link, whatever is in it.
    links_uncounted: bool,
    /// See [`Branch::shows_changes`].
    shows_changes: bool,
    /// Holds the lock that keeps other views out; a read-only branch without `.octroi` has none.
    _lock: Option<OwnedFd>,
    /// The folders in `.octroi`; none in a read-only branch.
    private: Option<Private>,
}

/// The private folder of a branch.
#[derive(Debug)]
struct Private {
    folder: Arc<OwnedFd>,
    stage: Arc<OwnedFd>,
    hold: Arc<OwnedFd>,
}

impl Branch {
    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// How open files are read and written.
    pub fn io(&self) -> BranchIo {
        self.spec.io
    }

    /// What the configuration says.
    pub fn spec(&self) -> &BranchSpec {
        &self.spec
    }

    /// Whether the branch is there.
    pub fn is_online(&self) -> bool {
        self.online.load().is_some()
    }

    /// Handle of the root directory.
    pub fn root_handle(&self) -> Result<Handle, Errno> {
        Ok(self.online()?.root_handle.clone())
    }

    /// Device of the root directory.
    pub fn device(&self) -> Result<u64, Errno> {
        Ok(self.online()?.device)
    }

    /// Whether content that somebody else changed shows by the times of its file: on a file system of this
    /// machine, in a branch that is closed to all but its owner.
    pub fn shows_changes(&self) -> bool {
        self.online.load().as_ref().is_some_and(|online| online.shows_changes)
    }

    /// The root directory, open for reading.
    pub fn root(&self) -> Result<Arc<OwnedFd>, Errno> {
        Ok(Arc::clone(&self.online()?.root))
    }

    /// The stage folder; EROFS for a branch that has none.
    pub fn stage(&self) -> Result<Arc<OwnedFd>, Errno> {
        let online = self.online()?;
        online.private.as_ref().map(|private| Arc::clone(&private.stage)).ok_or(Errno::ROFS)
    }

    /// The hold folder; EROFS for a branch that has none.
    pub fn hold(&self) -> Result<Arc<OwnedFd>, Errno> {
        let online = self.online()?;
        online.private.as_ref().map(|private| Arc::clone(&private.hold)).ok_or(Errno::ROFS)
    }

    /// What is open, kept open for as long as the caller needs it.
    fn online(&self) -> Result<Arc<Online>, Errno> {
        self.online.load_full().ok_or(Errno::IO)
    }

    fn check_online(&self) -> Result<(), Errno> {
        if self.is_online() { Ok(()) } else { Err(Errno::IO) }
    }
}
