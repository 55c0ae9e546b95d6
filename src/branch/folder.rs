//! Making a directory of a pool on one more member, so that something can go there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use crate::error::{Errno, errno_name};
use crate::sys::resolve::CONFINED;

use super::node::check_component;
use super::{AttributeChange, Branch, Found, SetTime, XattrFlags};

impl Branch {
    /// Makes a directory with owner, mode, extended attributes and times of another branch's. It is
    /// made in stage and renamed, so that it appears with all of them or not at all. Finds what
    /// stands there already. ENOTDIR if that is no directory.
    pub fn copy_folder(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        (model_branch, model): (&Self, BorrowedFd<'_>),
    ) -> Result<Found, Errno> {
        check_component(name)?;
        match self.lookup(dir, name) {
            Err(Errno::NOENT) => {}
            Ok(found) if found.stat.kind == super::FileKind::Directory => return Ok(found),
            Ok(_) => return Err(Errno::NOTDIR),
            Err(errno) => return Err(errno),
        }
        let stage = self.stage()?;
        let passing = ulid::Ulid::generate().to_string();
        rustix::fs::mkdirat(&stage, &passing, Mode::RWXU)?;
        let made = self.dress_folder(stage.as_fd(), OsStr::new(&passing), model_branch, model);
        let moved = made.and_then(|()| {
            rustix::fs::renameat_with(&stage, &passing, dir, name, RenameFlags::NOREPLACE)
        });
        if moved.is_err()
            && let Err(errno) = rustix::fs::unlinkat(&stage, &passing, AtFlags::REMOVEDIR)
        {
            log::warn!("a folder stays in stage until the next start: {}", errno_name(errno));
        }
        match moved {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let found = self.lookup(dir, name)?;
        let is_directory = found.stat.kind == super::FileKind::Directory;
        if is_directory { Ok(found) } else { Err(Errno::NOTDIR) }
    }

    /// Owner before mode, mode before ACLs, times last: as for what crosses.
    fn dress_folder(
        &self,
        stage: BorrowedFd<'_>,
        name: &OsStr,
        model_branch: &Self,
        model: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder: OwnedFd = rustix::fs::openat2(stage, name, flags, Mode::empty(), CONFINED)?;
        let like = model_branch.stat(model)?;
        let owner = AttributeChange {
            uid: Some(like.uid),
            gid: Some(like.gid),
            mode: Some(like.mode),
            ..AttributeChange::default()
        };
        self.set_attributes(folder.as_fd(), &owner)?;
        for key in model_branch.list_xattrs(model)? {
            let value = model_branch.get_xattr(model, &key)?;
            self.set_xattr(folder.as_fd(), &key, &value, XattrFlags::empty())?;
        }
        let times = AttributeChange {
            atime: Some(SetTime::At(like.atime)),
            mtime: Some(SetTime::At(like.mtime)),
            ..AttributeChange::default()
        };
        self.set_attributes(folder.as_fd(), &times)
    }
}
