//! Making, removing and renaming names. What gets an owner is made as the caller.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::error::{Errno, errno_name};
use crate::sys::identity::CallerGuard;
use crate::sys::resolve::{CONFINED, magic_path, reopen};

use super::content::OPEN_KEPT;
use super::node::check_component;
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
        match self.describe(file.as_fd()) {
            Ok(found) => Ok((found, file)),
            Err(errno) => Err(self.take_back(dir, name, AtFlags::empty(), errno)),
        }
    }

    fn describe(&self, file: BorrowedFd<'_>) -> Result<Found, Errno> {
        let stat = self.stat(file)?;
        let handle = crate::sys::handle::name_to_handle(file, OsStr::new(""))?;
        Ok(Found { node: reopen(file, OFlags::PATH)?, stat, handle })
    }

    /// Looks at what has just been made.
    fn look_at_made(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        kind: AtFlags,
    ) -> Result<Found, Errno> {
        self.lookup(dir, name).map_err(|errno| self.take_back(dir, name, kind, errno))
    }

    /// Removes what has just been made and cannot be looked at: to its maker the call has failed, and
    /// would fail with EEXIST the next time. The caller holds the name's lock, so that it is still what
    /// was made. Gives the errno to answer.
    fn take_back(&self, dir: BorrowedFd<'_>, name: &OsStr, kind: AtFlags, why: Errno) -> Errno {
        if let Err(errno) = rustix::fs::unlinkat(dir, name, kind) {
            let (branch, name) = (self.name(), name.display());
            let (why, errno) = (errno_name(why), errno_name(errno));
            log::warn!(
                "branch {branch}: {name} was made, and stays though it failed ({why}): {errno}"
            );
        }
        why
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
        self.look_at_made(dir, name, AtFlags::REMOVEDIR)
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
        self.look_at_made(dir, name, AtFlags::empty())
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
        self.look_at_made(dir, name, AtFlags::empty())
    }

    /// Gives an inode one more name. EEXIST.
    pub fn link(
        &self,
        node: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Found, Errno> {
        self.check_online()?;
        check_component(name)?;
        let source = magic_path(node);
        rustix::fs::linkat(rustix::fs::CWD, &source, dir, name, AtFlags::SYMLINK_FOLLOW)?;
        self.look_at_made(dir, name, AtFlags::empty())
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        self.check_online()?;
        check_component(name)?;
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        self.note_removed();
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        self.check_online()?;
        check_component(name)?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
        self.note_removed();
        Ok(())
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
            rustix::fs::renameat(source, source_name, target, target_name)?;
            // It may have replaced something.
            self.note_removed();
            return Ok(());
        }
        rustix::fs::renameat_with(source, source_name, target, target_name, flags)
    }
}

impl Creator<'_> {
    fn assume(&self) -> Result<CallerGuard, Errno> {
        let guard = CallerGuard::assume(self.uid, self.gid, self.groups, self.umask)?;
        if self.overrides {
            guard.override_permissions()?;
        }
        Ok(guard)
    }
}
