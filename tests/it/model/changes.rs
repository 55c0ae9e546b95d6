//! Modes, owners, times, extended attributes and access lists.

use std::ffi::{OsStr, OsString};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_NOW, Uid, XattrFlags};

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::Time;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::operation::{Slot, Way};
use super::run::{Place, Run};
use super::tree::{Errors, Id, Verdict};

/// Something with a name, and why it may not be changed.
struct Found<'a> {
    parent: Id,
    name: &'a OsStr,
    id: Id,
    errors: Errors,
}

impl Run {
    /// What a way leads to; `owned` for changes that only the owner may make.
    fn to_change<'a>(
        &self,
        uid: u32,
        at: &'a [OsString],
        is_content: bool,
        owned: bool,
    ) -> Option<Found<'a>> {
        let (parent, name, id) = self.found(at)?;
        let mut errors = self.model.change_errors(id, is_content);
        errors.extend(self.search_errors(parent, uid, false));
        if owned && !self.owns(id, uid) {
            errors.push(Errno::PERM);
        }
        Some(Found { parent, name, id, errors })
    }

    fn is_symlink(&self, id: Id) -> bool {
        self.model.object(id).kind() == FileKind::Symlink
    }

    pub(super) fn chmod(&mut self, uid: u32, at: &[OsString], mode: u32) -> Verdict {
        let Some(Found { parent, name, id, errors }) = self.to_change(uid, at, false, true) else {
            return Ok(());
        };
        if self.is_symlink(id) {
            return Ok(());
        }
        let Place { base, path } = self.place(parent, name);
        let bits = Mode::from_raw_mode(mode);
        let result = self.by(uid, || rustix::fs::chmodat(base, &path, bits, AtFlags::empty()));
        if self.judge("chmod", &errors, result)?.is_some() {
            self.model.chmod(id, mode, uid);
            return self.check(parent, name, id);
        }
        Ok(())
    }

    pub(super) fn chmod_open(&mut self, uid: u32, slot: Slot, mode: u32) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let id = file.id;
        let mut errors = self.model.change_errors(id, false);
        if !self.owns(id, uid) {
            errors.push(Errno::PERM);
        }
        let bits = Mode::from_raw_mode(mode);
        let result = self.by(uid, || rustix::fs::fchmod(&file.descriptor, bits));
        if self.judge("fchmod", &errors, result)?.is_some() {
            self.model.chmod(id, mode, uid);
        }
        Ok(())
    }

    pub(super) fn chown(&mut self, uid: u32, at: &[OsString], to: (u32, u32)) -> Verdict {
        let Some(Found { parent, name, id, mut errors }) = self.to_change(uid, at, false, true)
        else {
            return Ok(());
        };
        let attr = self.attr(id);
        if uid != 0 && (to.0 != attr.uid || ![uid, attr.gid].contains(&to.1)) {
            errors.push(Errno::PERM);
        }
        let Place { base, path } = self.place(parent, name);
        let (owner, group) = (Some(Uid::from_raw(to.0)), Some(Gid::from_raw(to.1)));
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let result = self.by(uid, || rustix::fs::chownat(base, &path, owner, group, nofollow));
        if self.judge("chown", &errors, result)?.is_some() {
            self.model.chown(id, to, uid);
            return self.check(parent, name, id);
        }
        Ok(())
    }

    pub(super) fn utimes(&mut self, uid: u32, at: &[OsString], seconds: Option<i64>) -> Verdict {
        let Some(Found { parent, name, id, mut errors }) = self.to_change(uid, at, false, false)
        else {
            return Ok(());
        };
        if !self.owns(id, uid) {
            match seconds {
                Some(_) => errors.push(Errno::PERM),
                // Who may write may also touch.
                None if self.allows(id, uid, 0o2) => {}
                None => errors.push(Errno::ACCESS),
            }
        }
        let time = match seconds {
            Some(seconds) => Timespec { tv_sec: seconds, tv_nsec: 250 },
            None => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        let times = Timestamps { last_access: time, last_modification: time };
        let Place { base, path } = self.place(parent, name);
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let result = self.by(uid, || rustix::fs::utimensat(base, &path, &times, nofollow));
        if self.judge("utimes", &errors, result)?.is_some() {
            let time = seconds.map(|seconds| Time { seconds, nanos: 250 });
            self.model.on_each(id, |attr| attr.mtime = time);
            return self.check(parent, name, id);
        }
        Ok(())
    }

    /// Why somebody may not change or read an attribute of users (xattr_permission in the kernel's
    /// fs/xattr.c). Others than root are left out of `trusted.*`, of which the kernel asks for a capability
    /// that acting as a user does not take away.
    fn xattr_errors(&self, id: Id, key: &str, uid: u32, wanted: u32) -> Errors {
        let mut errors = Vec::new();
        if !key.starts_with("user.") {
            return errors;
        }
        let takes = self.model.takes_user_xattrs(id);
        if !takes {
            errors.push(if wanted == 0o2 { Errno::PERM } else { Errno::NODATA });
        }
        let sticky = self.model.directory(id).is_some() && self.attr(id).mode & 0o1000 != 0;
        if wanted == 0o2 && sticky && !self.owns(id, uid) {
            errors.push(Errno::PERM);
        }
        if !self.allows(id, uid, wanted) {
            errors.push(Errno::ACCESS);
        }
        errors
    }

    fn as_whom(uid: u32, key: &str) -> u32 {
        if key.starts_with("trusted.") { 0 } else { uid }
    }

    pub(super) fn set_xattr(
        &mut self,
        uid: u32,
        at: &[OsString],
        key: &str,
        value: &str,
        (create, replace): (bool, bool),
    ) -> Verdict {
        let uid = Self::as_whom(uid, key);
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        let mut errors = self.model.change_errors(id, true);
        errors.extend(self.search_errors(parent, uid, true));
        errors.extend(self.xattr_errors(id, key, uid, 0o2));
        match self.model.has_xattr(id, OsStr::new(key)) {
            Some(true) if create => errors.push(Errno::EXIST),
            Some(false) if replace => errors.push(Errno::NODATA),
            _ => {}
        }
        let mut flags = XattrFlags::empty();
        flags.set(XattrFlags::CREATE, create);
        flags.set(XattrFlags::REPLACE, replace);
        let path = self.path(parent, name);
        let result = self.by(uid, || rustix::fs::lsetxattr(&path, key, value.as_bytes(), flags));
        if self.judge("setxattr", &errors, result)?.is_some() {
            let (key, value) = (OsString::from(key), value.as_bytes().to_vec());
            self.model.on_each(id, |attr| drop(attr.xattrs.insert(key.clone(), value.clone())));
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, uid: u32, at: &[OsString], key: &str) -> Verdict {
        let uid = Self::as_whom(uid, key);
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        let mut errors = self.model.change_errors(id, false);
        errors.extend(self.search_errors(parent, uid, true));
        errors.extend(self.xattr_errors(id, key, uid, 0o2));
        if self.model.has_xattr(id, OsStr::new(key)) == Some(false) {
            errors.push(Errno::NODATA);
        }
        let path = self.path(parent, name);
        let result = self.by(uid, || rustix::fs::lremovexattr(&path, key));
        if self.judge("removexattr", &errors, result)?.is_some() {
            self.model.on_each(id, |attr| drop(attr.xattrs.remove(OsStr::new(key))));
        }
        Ok(())
    }

    pub(super) fn get_xattr(&mut self, uid: u32, at: &[OsString], key: &str) -> Verdict {
        let uid = Self::as_whom(uid, key);
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        let mut errors = self.search_errors(parent, uid, true);
        errors.extend(self.xattr_errors(id, key, uid, 0o4));
        let all = self.model.attr(id).map(|attr| attr.all_xattrs()).unwrap_or_default();
        let wanted = all.get(OsStr::new(key));
        if wanted.is_none() {
            errors.extend([Errno::NODATA, Errno::OPNOTSUPP]);
        }
        let path = self.path(parent, name);
        let mut buffer = [0u8; 256];
        let result = self.by(uid, || rustix::fs::lgetxattr(&path, key, &mut buffer[..]));
        match self.judge("getxattr", &errors, result)? {
            Some(length) if Some(&buffer[..length]) != wanted.map(Vec::as_slice) => {
                Err(format!("{key} of {id} is {:?}, not {wanted:?}", &buffer[..length]))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_acl(
        &mut self,
        uid: u32,
        at: &Way,
        default: bool,
        acl: Option<Acl>,
    ) -> Verdict {
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        if self.is_symlink(id) {
            return Ok(());
        }
        let default = default && self.model.directory(id).is_some();
        let key = if default { DEFAULT } else { ACCESS };
        // Not to be there is no error for a list.
        let mut errors = self.model.change_errors(id, acl.is_some());
        errors.extend(self.search_errors(parent, uid, true));
        if !self.owns(id, uid) {
            errors.push(Errno::PERM);
        }
        let path = self.path(parent, name);
        let result = self.by(uid, || match acl {
            Some(acl) => rustix::fs::setxattr(&path, key, &acl.encoded(), XattrFlags::empty()),
            None => rustix::fs::removexattr(&path, key),
        });
        if self.judge("an access list", &errors, result)?.is_some() {
            self.model.set_acl(id, default, acl, uid);
            return self.check(parent, name, id);
        }
        Ok(())
    }
}
