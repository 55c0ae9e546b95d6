//! Finding inodes: by a name in a directory, by a handle, by a path below the root. One component at a
//! time or by openat2(2) with every way out shut.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};

use crate::error::Errno;
use crate::sys::handle::{name_to_handle, open_by_handle};
use crate::sys::resolve::{CONFINED, with_path_of};
use crate::types::{Handle, Time};

use super::{Branch, FileKind, Found, Online, Stat};

const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Branch {
    /// Opens (`O_PATH`) the inode of a handle, wherever in the branch it lies now. Where handles cannot be
    /// opened, by the path that `path` gives (relative to the root, empty for the root), and then
    /// ESTALE if something else stands there. ESTALE also for an inode that is gone, and for a directory
    /// that was moved out of the branch: a handle would find it wherever it went. A file has no one
    /// place, and is what it was when it was found.
    pub fn open_node(
        &self,
        handle: &Handle,
        kind: FileKind,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<OwnedFd, Errno> {
        let online = self.online.load();
        let online = online.as_ref().ok_or(Errno::IO)?;
        if online.by_handle && handle.kind != Handle::SYNTHETIC {
            let node = open_by_handle(online.root.as_fd(), handle, NODE)?;
            let movable = kind == FileKind::Directory && *handle != online.root_handle;
            if movable && !online.contains(node.as_fd())? {
                return Err(Errno::STALE);
            }
            return Ok(node);
        }
        let path = path();
        let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
        let node = rustix::fs::openat2(&online.root, &path, NODE, Mode::empty(), CONFINED)
            .map_err(|errno| match errno {
                // What was a directory on the way is something else now.
                Errno::LOOP | Errno::NOTDIR => Errno::STALE,
                other => confined_errno(other),
            })?;
        if name_to_handle(node.as_fd(), OsStr::new(""))? != *handle {
            return Err(Errno::STALE);
        }
        Ok(node)
    }

    /// Finds a name in a directory. ENOENT; EACCES for a mount point, which is not the branch's.
    pub fn lookup(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Found, Errno> {
        self.check_online()?;
        check_component(name)?;
        let node = rustix::fs::openat2(dir, name, NODE, Mode::empty(), CONFINED)
            .inspect_err(|errno| {
                if *errno == Errno::XDEV {
                    self.warn_of_mount(name);
                }
            })
            .map_err(confined_errno)?;
        let stat = self.stat(node.as_fd())?;
        let handle = name_to_handle(node.as_fd(), OsStr::new(""))?;
        Ok(Found { node, stat, handle })
    }

    /// Says once that something is mounted inside the branch, which the view cannot show.
    fn warn_of_mount(&self, name: &OsStr) {
        if !self.mount_warned.swap(true, Ordering::Relaxed) {
            let (branch, name) = (self.name(), name.display());
            log::warn!("branch {branch}: something is mounted on {name}, which the view denies");
        }
    }

    /// The branch's root, as if it had been found by a name.
    pub fn root_node(&self) -> Result<Found, Errno> {
        let online = self.online()?;
        let node = rustix::io::fcntl_dupfd_cloexec(&online.root, 3)?;
        let stat = self.stat(node.as_fd())?;
        Ok(Found { node, stat, handle: online.root_handle.clone() })
    }

    /// Attributes of an open inode.
    pub fn stat(&self, node: BorrowedFd<'_>) -> Result<Stat, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let mut stat = stat_of(&rustix::fs::statx(node, "", flags, wanted)?)?;
        if stat.kind == FileKind::Directory && stat.nlink == 1 {
            stat.nlink = self.count_links(node, stat.size);
        }
        Ok(stat)
    }

    /// Attributes of the branch's root, as if it had no private folder.
    pub fn stat_root(&self) -> Result<Stat, Errno> {
        let online = self.online()?;
        let mut stat = self.stat(online.root.as_fd())?;
        // Where directories count their children, the private folder is one too many.
        if stat.nlink > 2 && online.private.is_some() {
            stat.nlink = stat.nlink.saturating_sub(1);
        }
        Ok(stat)
    }

    /// What a symbolic link says.
    pub fn read_link(&self, node: BorrowedFd<'_>) -> Result<OsString, Errno> {
        let text = rustix::fs::readlinkat(node, "", Vec::new())?;
        Ok(OsString::from_vec(text.into_bytes()))
    }
}

/// Refuses what is not one component of a path: system calls that make or remove names would walk it,
/// and out of the branch. ENOENT for the empty name, as path_resolution(7) has it.
pub(super) fn check_component(name: &OsStr) -> Result<(), Errno> {
    match name.as_bytes() {
        b"" => Err(Errno::NOENT),
        b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// A way out of the branch is shut: EXDEV is openat2's word for a mount point, which is there but not
/// the branch's to show.
fn confined_errno(errno: Errno) -> Errno {
    match errno {
        Errno::XDEV | Errno::LOOP => Errno::ACCESS,
        other => other,
    }
}

impl Online {
    /// Whether a directory lies in the branch, by the kernel's own path of it.
    fn contains(&self, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        let below = |root: &[u8], path: &[u8]| {
            let root = root.strip_suffix(b"/").unwrap_or(root);
            path.strip_prefix(root).is_some_and(|below| below.starts_with(b"/"))
        };
        let looked = with_path_of(directory, |path_now| {
            if self.root_path.load().as_deref().is_some_and(|root| below(root, path_now)) {
                return Ok(true);
            }
            // A folder above the branch may have been renamed.
            let root = with_path_of(self.root.as_fd(), |root| Ok(root.to_owned()))?;
            let contained = below(&root, path_now);
            if contained {
                self.root_path.store(Some(Arc::new(root)));
            }
            Ok(contained)
        });
        match looked {
            // Longer than the kernel tells.
            Err(Errno::NAMETOOLONG) => climbs_to(self.root.as_fd(), directory),
            looked => looked,
        }
    }
}

/// Whether a directory lies below another, step by step upwards.
fn climbs_to(root: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let up = |from: BorrowedFd<'_>| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(from, "..", flags, Mode::empty())
    };
    let identity =
        |node: BorrowedFd<'_>| rustix::fs::fstat(node).map(|stat| (stat.st_dev, stat.st_ino));
    let sought = identity(root)?;
    let mut here = up(directory)?;
    let mut known = identity(here.as_fd())?;
    while known != sought {
        let above = up(here.as_fd())?;
        let next = identity(above.as_fd())?;
        if next == known {
            return Ok(false);
        }
        (here, known) = (above, next);
    }
    Ok(true)
}

fn stat_of(statx: &Statx) -> Result<Stat, Errno> {
    let time =
        |time: rustix::fs::StatxTimestamp| Time { seconds: time.tv_sec, nanos: time.tv_nsec };
    Ok(Stat {
        device: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
        inode: statx.stx_ino,
        kind: kind_of(FileType::from_raw_mode(statx.stx_mode.into())).ok_or(Errno::IO)?,
        mode: u32::from(statx.stx_mode) & 0o7777,
        nlink: statx.stx_nlink,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        rdev: rustix::fs::makedev(statx.stx_rdev_major, statx.stx_rdev_minor),
        size: statx.stx_size,
        blocks: statx.stx_blocks,
        block_size: statx.stx_blksize,
        atime: time(statx.stx_atime),
        mtime: time(statx.stx_mtime),
        ctime: time(statx.stx_ctime),
        btime: time(statx.stx_btime),
    })
}

pub(super) fn kind_of(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}
