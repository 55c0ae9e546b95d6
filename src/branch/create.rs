//! Making, removing and renaming names. What gets an owner is made as the caller.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::error::Errno;
use crate::sys::identity::CallerGuard;

use super::content::OPEN_KEPT;
use super::node::{CONFINED, check_component, magic_path, reopen};
use super::{Branch, Creator, Found};

pub use rustix::fs::RenameFlags;

impl Branch {
    /// Makes and opens a regular file. EEXIST. The access it is opened for does not depend on `mode`.
    pub fn create(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        mode: u32,
        flags: OFlags,
        creator: &Creator<'_>,
    ) -> Result<(Found, OwnedFd), Errno> {
        self.check_online()?;
        check_component(name)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = (flags & OPEN_KEPT) | new;
        let file = {
            let _caller = creator.assume()?;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            rustix::fs::openat2(dir, name, flags, mode, CONFINED)?
        };
        let stat = self.stat(file.as_fd())?;
        let handle = crate::sys::handle::name_to_handle(file.as_fd(), OsStr::new(""))?;
        let node = reopen(file.as_fd(), OFlags::PATH)?;
        Ok((Found { node, stat, handle }, file))
    }

    /// Makes a directory. EEXIST.
    pub fn mkdir(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        mode: u32,
        creator: &Creator<'_>,
    ) -> Result<Found, Errno> {
        self.check_online()?;
        check_component(name)?;
        {
            let _caller = creator.assume()?;
            rustix::fs::mkdirat(dir, name, Mode::from_bits_truncate(mode & 0o7777))?;
        }
        self.lookup(dir, name)
    }

    /// Makes a regular file, fifo, socket or device; `mode` has the type bits. EEXIST.
    pub fn mknod(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        mode: u32,
        device: u64,
        creator: &Creator<'_>,
    ) -> Result<Found, Errno> {
        self.check_online()?;
        check_component(name)?;
        let kind = FileType::from_raw_mode(mode);
        if matches!(kind, FileType::Directory | FileType::Symlink | FileType::Unknown) {
            return Err(Errno::INVAL);
        }
        {
            let _caller = creator.assume()?;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            rustix::fs::mknodat(dir, name, kind, mode, device)?;
        }
        self.lookup(dir, name)
    }

    /// Makes a symbolic link that says `text`. EEXIST.
    pub fn symlink(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        text: &OsStr,
        creator: &Creator<'_>,
    ) -> Result<Found, Errno> {
        self.check_online()?;
        check_component(name)?;
        {
            let _caller = creator.assume()?;
            rustix::fs::symlinkat(text, dir, name)?;
        }
        self.lookup(dir, name)
    }

    /// Gives an inode one more name. EEXIST.
    pub fn link(
        &self,
        node: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), Errno> {
        self.check_online()?;
        check_component(name)?;
        let source = magic_path(node);
        rustix::fs::linkat(rustix::fs::CWD, &source, dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        self.check_online()?;
        check_component(name)?;
        rustix::fs::unlinkat(dir, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        self.check_online()?;
        check_component(name)?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
    }

    /// Renames within the branch. EINVAL for flags other than NOREPLACE and EXCHANGE.
    pub fn rename(
        &self,
        (source, source_name): (BorrowedFd<'_>, &OsStr),
        (target, target_name): (BorrowedFd<'_>, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.check_online()?;
        check_component(source_name)?;
        check_component(target_name)?;
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        if flags.is_empty() {
            return rustix::fs::renameat(source, source_name, target, target_name);
        }
        rustix::fs::renameat_with(source, source_name, target, target_name, flags)
    }
}

impl Creator<'_> {
    fn assume(&self) -> Result<CallerGuard, Errno> {
        CallerGuard::assume(self.uid, self.gid, self.groups, self.umask)
    }
}
