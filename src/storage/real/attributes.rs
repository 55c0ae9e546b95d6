//! Attributes of an inode behind a descriptor, which may be an `O_PATH` one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp, Uid,
    XattrFlags,
};

use super::resolve::beneath;
use crate::error::Errno;
use crate::storage::{Kind, Metadata, Xattrs};
use crate::sys::handle;
use crate::sys::resolve::magic_path;
use crate::types::{Identity, Time};

/// Further names of ACLs, which xfs shows to root and other file systems keep as any attribute
/// (fs/xfs/libxfs/xfs_da_format.h, `SGI_ACL_FILE`). Taken along to one of those, changed there and brought back,
/// they would bring an old ACL back with them; `system.posix_acl_*` says the same.
const XFS_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// How often a list or value that grows under our eyes is read again.
const GROWTH_ATTEMPTS: usize = 8;

fn statx(node: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(node, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// The type bits of the mode.
pub fn file_type(node: BorrowedFd<'_>) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(statx(node)?.stx_mode.into()))
}

/// All of [`Metadata`].
pub fn metadata(node: BorrowedFd<'_>) -> Result<Metadata, Errno> {
    describe(node, OsStr::new(""), statx(node)?)
}

/// The same of a name in a directory, itself if it is a link, by as few calls as can be: a tree has
/// many. What is renamed to the name between them shows as something that never was there, and is
/// told from both. EXDEV for a mount point.
pub fn metadata_of(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Metadata, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
    let mount_root = StatxAttributes::MOUNT_ROOT;
    if stat.stx_attributes.contains(mount_root) {
        return Err(Errno::XDEV);
    }
    if !stat.stx_attributes_mask.contains(mount_root) {
        return metadata(beneath(dir, name, OFlags::PATH | OFlags::NOFOLLOW)?.as_fd());
    }
    describe(dir, name, stat)
}

fn describe(dir: BorrowedFd<'_>, name: &OsStr, stat: Statx) -> Result<Metadata, Errno> {
    let time = |stamp: StatxTimestamp| Time { seconds: stamp.tv_sec, nanos: stamp.tv_nsec };
    let device = rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(dir, name, Vec::new())?;
            Kind::Symlink(OsString::from_vec(text.into_bytes()))
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice(device),
        FileType::BlockDevice => Kind::BlockDevice(device),
        _ => return Err(Errno::OPNOTSUPP),
    };
    Ok(Metadata {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink.into(),
        fixed: stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
        atime: time(stat.stx_atime),
        identity: Identity {
            handle: handle::name_to_handle(dir, name)?,
            size: stat.stx_size,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        },
    })
}

/// Owner and group; `u32::MAX` would mean "leave it" to the kernel and is refused.
pub fn set_owner(node: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// Permission bits; EOPNOTSUPP for a symlink.
pub fn set_mode(node: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmod(magic_path(node), Mode::from_raw_mode(mode & 0o7777))
}

/// All attributes by name; empty where the file system has none.
pub fn xattrs(node: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let path = magic_path(node);
    let list = match grown(|buffer| rustix::fs::listxattr(&path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut found = Xattrs::new();
    let told = |key: &&[u8]| !key.is_empty() && !XFS_ACLS.contains(key);
    for key in list.split(|byte| *byte == 0).filter(told) {
        match grown(|buffer| rustix::fs::getxattr(&path, key, buffer)) {
            Ok(value) => found.push((OsStr::from_bytes(key).to_owned(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort();
    Ok(found)
}

/// Sets or replaces one attribute.
pub fn set_xattr(node: BorrowedFd<'_>, key: &OsStr, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(magic_path(node), key, value, XattrFlags::empty())
}

/// Calls with a larger buffer while ERANGE says that it was too small. The kernel's limit is 64 KiB
/// for a list as for a value.
fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    for _ in 0..GROWTH_ATTEMPTS {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len().saturating_mul(4), 0),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::RANGE)
}
