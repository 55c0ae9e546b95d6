//! [`Storage`] on a Linux file system.
//!
//! Names are resolved one at a time below an open directory by `openat2(2)`, which refuses links,
//! mount points and ways out. What has no form that works on a descriptor (permissions, extended
//! attributes, opening what was looked at before) goes through `/proc/self/fd`, so that the inode
//! that was checked is the one that is acted on.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom,
    StatVfsMountFlags, StatxFlags, Timespec, Timestamps,
};

use super::{FileSystem, Kind, Metadata, Readback, Storage, Xattrs};
use crate::error::Errno;
use crate::sys::resolve::reopen;
use crate::sys::{handle, lease};
use crate::types::{Handle, Time};

mod attributes;
mod readback;
mod resolve;
#[cfg(test)]
mod tests;

use resolve::{beneath, open_path, single};

/// Bytes of a path that one call takes, with its end (include/uapi/linux/limits.h).
const PATH_MAX: usize = 4096;

/// `f_type` of the file systems whose `syncfs(2)` is as good as fsync of each file
/// (include/uapi/linux/magic.h): ext2 to ext4, xfs, btrfs, f2fs, bcachefs, zfs, overlayfs (which
/// asks its upper one) and tmpfs (which has nothing to make durable). Not FUSE, 9p, cifs, ecryptfs:
/// there it writes back and does not tell the server or lower file system to sync.
const SYNCED_WHOLE: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x794c_7630,
    0x0102_1994,
];

/// The disk itself. Carries no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealStorage;

/// An open directory, opened for reading so that it can be listed and synced.
#[derive(Debug, Clone)]
pub struct RealDir(Arc<OwnedFd>);

impl RealDir {
    /// Opens the same directory as a descriptor of any kind, `O_PATH` included. ENOTDIR.
    pub fn from_fd(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        beneath(fd, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY).map(Self::new)
    }

    /// Opens a directory by its path, following links: for paths that the configuration names.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self::new)
    }

    fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for RealDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct RealFile {
    fd: Arc<OwnedFd>,
    /// Whether it was opened with O_DIRECT.
    direct: bool,
}

impl RealFile {
    fn new(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), direct: false }
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A read lease. It belongs to the open file, which it keeps open.
#[derive(Debug)]
pub struct LeaseGuard(Arc<OwnedFd>);

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        lease::release_lease(self.0.as_fd());
    }
}

fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

impl RealStorage {
    fn open_file(self, dir: &RealDir, name: &OsStr, access: OFlags) -> Result<RealFile, Errno> {
        reopen(resolve::regular(dir, name)?.as_fd(), access).map(RealFile::new)
    }
}

impl Storage for RealStorage {
    type Dir = RealDir;
    type File = RealFile;
    type Lease = LeaseGuard;

    fn open_dir(&self, dir: &RealDir, path: &Path) -> Result<RealDir, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(dir.clone());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if path.as_os_str().len() < PATH_MAX {
            return beneath(dir.as_fd(), path.as_os_str(), flags).map(RealDir::new);
        }
        // Longer than one call takes: by steps from folder to folder, as users made it.
        let mut here = dir.clone();
        for name in path {
            here = beneath(here.as_fd(), name, flags).map(RealDir::new)?;
        }
        Ok(here)
    }

    fn create_dir(&self, dir: &RealDir, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::mkdirat(dir, single(name)?, Mode::RWXU)
    }

    fn remove_dir(&self, dir: &RealDir, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::unlinkat(dir, single(name)?, AtFlags::REMOVEDIR)
    }

    fn list(&self, dir: &RealDir) -> Result<Vec<OsString>, Errno> {
        // A descriptor of its own: clones of `dir` share one position.
        let own = RealDir::from_fd(dir.as_fd())?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&own, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    fn create_file(&self, dir: &RealDir, name: &OsStr) -> Result<RealFile, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        resolve::create(dir.as_fd(), single(name)?, flags, Mode::RUSR | Mode::WUSR)
            .map(RealFile::new)
    }

    fn create_special(&self, dir: &RealDir, name: &OsStr, kind: &Kind) -> Result<(), Errno> {
        let name = single(name)?;
        let (file_type, device) = match kind {
            Kind::Symlink(text) => return rustix::fs::symlinkat(text.as_os_str(), dir, name),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::CharacterDevice(device) => (FileType::CharacterDevice, *device),
            Kind::BlockDevice(device) => (FileType::BlockDevice, *device),
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
        };
        rustix::fs::mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, device)
    }

    fn open_read(&self, dir: &RealDir, name: &OsStr) -> Result<RealFile, Errno> {
        // Hashing is not reading.
        let node = resolve::regular(dir, name)?;
        resolve::reopen_quietly(node.as_fd(), OFlags::RDONLY).map(RealFile::new)
    }

    fn open_write(&self, dir: &RealDir, name: &OsStr) -> Result<RealFile, Errno> {
        self.open_file(dir, name, OFlags::RDWR)
    }

    fn open_readback(&self, dir: &RealDir, name: &OsStr) -> Result<(RealFile, Readback), Errno> {
        readback::open(resolve::regular(dir, name)?.as_fd())
    }

    fn read_at(&self, file: &RealFile, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        if file.direct {
            return readback::read_at(file.as_fd(), buffer, offset);
        }
        rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset))
    }

    fn write_at(&self, file: &RealFile, bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
        let aligned = if file.direct { readback::to_write(bytes, offset)? } else { None };
        let mut bytes = aligned.as_deref().unwrap_or(bytes);
        while !bytes.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, offset))?;
            if written == 0 {
                return Err(Errno::IO);
            }
            bytes = bytes.get(written..).ok_or(Errno::IO)?;
            offset = offset.checked_add(written as u64).ok_or(Errno::FBIG)?;
        }
        Ok(())
    }

    fn set_len(&self, file: &RealFile, length: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(file, length)
    }

    fn next_data(&self, file: &RealFile, offset: u64) -> Result<Option<Range<u64>>, Errno> {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL) => {
                let length = rustix::fs::fstat(file)?.st_size as u64;
                return Ok((offset < length).then_some(offset..length));
            }
            Err(errno) => return Err(errno),
        };
        match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            // The file was cut between the two calls.
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn reserve(&self, file: &RealFile, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, 0, length)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => other,
        }
    }

    fn lease(&self, file: &RealFile) -> Result<Option<LeaseGuard>, Errno> {
        match lease::take_read_lease(file.as_fd()) {
            Ok(()) => Ok(Some(LeaseGuard(file.fd.clone()))),
            Err(Errno::INVAL | Errno::ACCESS | Errno::PERM | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn lease_holds(&self, lease: &LeaseGuard) -> bool {
        lease::holds_read_lease(lease.0.as_fd())
    }

    fn stat_file(&self, file: &RealFile) -> Result<Metadata, Errno> {
        attributes::metadata(file.as_fd())
    }

    fn sync_file(&self, file: &RealFile) -> Result<(), Errno> {
        rustix::fs::fsync(file)
    }

    fn sync_dir(&self, dir: &RealDir) -> Result<(), Errno> {
        rustix::fs::fsync(dir)
    }

    fn dir_handle(&self, dir: &RealDir) -> Result<Handle, Errno> {
        handle::name_to_handle(dir.as_fd(), OsStr::new(""))
    }

    fn stat(&self, dir: &RealDir, name: &OsStr) -> Result<Option<Metadata>, Errno> {
        match attributes::metadata_of(dir.as_fd(), single(name)?) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    fn rename(
        &self,
        source: &RealDir,
        source_name: &OsStr,
        target: &RealDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        // Where a file system does not know NOREPLACE the call fails with EINVAL; looking first and
        // renaming then could replace a file, so there is no other way.
        let (source_name, target_name) = (single(source_name)?, single(target_name)?);
        rustix::fs::renameat_with(source, source_name, target, target_name, RenameFlags::NOREPLACE)
    }

    fn replace(&self, dir: &RealDir, source: &OsStr, target: &OsStr) -> Result<(), Errno> {
        rustix::fs::renameat(dir, single(source)?, dir, single(target)?)
    }

    fn link(
        &self,
        source: &RealDir,
        source_name: &OsStr,
        target: &RealDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        let (source_name, target_name) = (single(source_name)?, single(target_name)?);
        rustix::fs::linkat(source, source_name, target, target_name, AtFlags::empty())
    }

    fn unlink(&self, dir: &RealDir, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::unlinkat(dir, single(name)?, AtFlags::empty())
    }

    fn set_owner(&self, dir: &RealDir, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
        attributes::set_owner(open_path(dir, name)?.as_fd(), uid, gid)
    }

    fn set_mode(&self, dir: &RealDir, name: &OsStr, mode: u32) -> Result<(), Errno> {
        attributes::set_mode(open_path(dir, name)?.as_fd(), mode)
    }

    fn set_times(
        &self,
        dir: &RealDir,
        name: &OsStr,
        atime: Time,
        mtime: Time,
    ) -> Result<(), Errno> {
        let node = open_path(dir, name)?;
        rustix::fs::utimensat(&node, c"", &timestamps(atime, mtime), AtFlags::EMPTY_PATH)
    }

    fn set_attributes(&self, file: &RealFile, wanted: &Metadata) -> Result<(), Errno> {
        let node = file.as_fd();
        attributes::set_owner(node, wanted.uid, wanted.gid)?;
        rustix::fs::fchmod(node, Mode::from_raw_mode(wanted.mode & 0o7777))?;
        rustix::fs::futimens(node, &timestamps(wanted.atime, wanted.identity.mtime))
    }

    fn xattrs(&self, dir: &RealDir, name: &OsStr) -> Result<Xattrs, Errno> {
        attributes::xattrs(open_path(dir, name)?.as_fd())
    }

    fn set_xattr(
        &self,
        dir: &RealDir,
        name: &OsStr,
        key: &OsStr,
        value: &[u8],
    ) -> Result<(), Errno> {
        attributes::set_xattr(open_path(dir, name)?.as_fd(), key, value)
    }

    fn sync_special(&self, dir: &RealDir, name: &OsStr) -> Result<(), Errno> {
        let node = open_path(dir, name)?;
        match attributes::file_type(node.as_fd())? {
            FileType::Directory => rustix::fs::fsync(RealDir::from_fd(node.as_fd())?),
            _ => rustix::fs::syncfs(dir),
        }
    }

    fn sync_file_system(&self, dir: &RealDir) -> Result<(), Errno> {
        rustix::fs::syncfs(dir)
    }

    fn syncs_whole(&self, dir: &RealDir) -> Result<bool, Errno> {
        let stat = rustix::fs::fstatfs(dir)?;
        Ok(SYNCED_WHOLE.contains(&(stat.f_type as u64)))
    }

    fn free_space(&self, dir: &RealDir) -> Result<u64, Errno> {
        let stat = rustix::fs::fstatvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn file_system(&self, dir: &RealDir) -> Result<FileSystem, Errno> {
        let stat = rustix::fs::fstatvfs(dir)?;
        let size = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(FileSystem { device: rustix::fs::fstat(dir)?.st_dev, size })
    }

    fn disk_bytes(&self, dir: &RealDir, name: &OsStr) -> Result<u64, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) if stat.stx_mode & 0o170_000 == 0o040_000 => {
                Ok(stat.stx_blocks.saturating_mul(512))
            }
            Ok(stat) => {
                let bytes = stat.stx_blocks.saturating_mul(512);
                Ok(bytes.checked_div(stat.stx_nlink.into()).unwrap_or(0))
            }
            Err(Errno::NOENT) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    fn free_inodes(&self, dir: &RealDir) -> Result<u64, Errno> {
        let stat = rustix::fs::fstatvfs(dir)?;
        // btrfs and others without a table of inodes say that they have none in all.
        Ok(if stat.f_files == 0 { u64::MAX } else { stat.f_favail })
    }

    fn is_read_only(&self, dir: &RealDir) -> Result<bool, Errno> {
        Ok(rustix::fs::fstatvfs(dir)?.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    fn open_direct(&self, file: &RealFile) -> Result<Option<RealFile>, Errno> {
        readback::open_direct(file.as_fd(), OFlags::RDWR)
    }
}
