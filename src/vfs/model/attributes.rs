//! The driver's changes of attributes: modes, owners, times, extended attributes, access lists.

use std::ffi::{OsStr, OsString};

use crate::branch::{AttributeChange, FileKind, SetTime, XattrFlags};
use crate::error::Errno;
use crate::types::Time;

use super::super::AttributeRequest;
use super::acl::{ACCESS, Acl, DEFAULT};
use super::run::{ROOT, Run};
use super::tree::{Errors, Id, Verdict};

impl Run {
    pub(super) fn chmod(&mut self, id: Id, mode: u32) -> Verdict {
        if self.world.model.object(id).kind() == FileKind::Symlink {
            // The kernel follows links.
            return Ok(());
        }
        let change = AttributeChange { mode: Some(mode), ..Default::default() };
        self.change(id, change, |run| run.world.model.chmod(id, mode, 0))
    }

    pub(super) fn chown(&mut self, at: &[OsString], uid: u32, gid: u32) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let change = AttributeChange { uid: Some(uid), gid: Some(gid), ..Default::default() };
        self.change(id, change, |run| run.world.model.chown(id, (uid, gid), 0))
    }

    pub(super) fn utimes(&mut self, at: &[OsString], seconds: Option<i64>) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let time = seconds.map(|seconds| Time { seconds, nanos: 250 });
        let set = Some(time.map_or(SetTime::Now, SetTime::At));
        let change = AttributeChange { atime: set, mtime: set, ..Default::default() };
        self.change(id, change, |run| run.world.model.on_each(id, |attr| attr.mtime = time))
    }

    fn change(&mut self, id: Id, change: AttributeChange, act: impl Fn(&mut Self)) -> Verdict {
        let errors = self.world.model.change_errors(id, false);
        let number = self.number(id)?;
        let request = AttributeRequest { change: change.clone(), size: None, handle: None };
        let begun = super::super::now();
        let result = self.world.vfs.setattr(*ROOT, number, &request);
        let Some(attributes) = self.judge("setattr", &errors, result)? else { return Ok(()) };
        act(self);
        let stat = &attributes.stat;
        let at = |set: Option<SetTime>, found: Time| match set {
            None => true,
            Some(SetTime::At(time)) => found == time,
            // The clock of file systems is coarse.
            Some(SetTime::Now) => (begun.seconds - 1..begun.seconds + 60).contains(&found.seconds),
        };
        if !at(change.atime, stat.atime) || !at(change.mtime, stat.mtime) {
            return Err(format!("{id} has {}, {} after {change:?}", stat.atime, stat.mtime));
        }
        self.check(id, &attributes)
    }

    fn xattr_errors(&self, id: Id, key: &str, is_content: bool) -> Errors {
        let model = &self.world.model;
        let mut errors = model.change_errors(id, is_content);
        if key.starts_with("user.") && !model.takes_user_xattrs(id) {
            errors.push(Errno::PERM);
        }
        errors
    }

    pub(super) fn set_xattr(
        &mut self,
        at: &[OsString],
        key: &str,
        value: &str,
        flags: XattrFlags,
    ) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let mut errors = self.xattr_errors(id, key, true);
        match self.world.model.has_xattr(id, OsStr::new(key)) {
            Some(true) if flags.contains(XattrFlags::CREATE) => errors.push(Errno::EXIST),
            Some(false) if flags.contains(XattrFlags::REPLACE) => errors.push(Errno::NODATA),
            _ => {}
        }
        let (number, key) = (self.number(id)?, OsStr::new(key));
        let result = self.world.vfs.setxattr(*ROOT, number, key, value.as_bytes(), flags);
        if self.judge("setxattr", &errors, result)?.is_some() {
            let set = |attr: &mut super::tree::Attr| {
                attr.xattrs.insert(key.to_owned(), value.as_bytes().to_vec());
            };
            self.world.model.on_each(id, set);
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, at: &[OsString], key: &str) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let mut errors = self.xattr_errors(id, key, false);
        if self.world.model.has_xattr(id, OsStr::new(key)) == Some(false) {
            errors.push(Errno::NODATA);
        }
        let (number, key) = (self.number(id)?, OsStr::new(key));
        let result = self.world.vfs.removexattr(*ROOT, number, key);
        if self.judge("removexattr", &errors, result)?.is_some() {
            let remove = |attr: &mut super::tree::Attr| drop(attr.xattrs.remove(key));
            self.world.model.on_each(id, remove);
        }
        Ok(())
    }

    pub(super) fn set_acl(&mut self, at: &[OsString], default: bool, acl: Option<Acl>) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let model = &self.world.model;
        let default = default && model.directory(id).is_some();
        if model.object(id).kind() == FileKind::Symlink {
            return Ok(());
        }
        let key = if default { DEFAULT } else { ACCESS };
        // Not to be there is no error for a list.
        let errors = model.change_errors(id, acl.is_some());
        let (vfs, number, key) = (&self.world.vfs, self.number(id)?, OsStr::new(key));
        let result = match acl {
            Some(acl) => vfs.setxattr(*ROOT, number, key, &acl.encoded(), XattrFlags::empty()),
            None => vfs.removexattr(*ROOT, number, key),
        };
        if self.judge("an access list", &errors, result)?.is_some() {
            self.world.model.set_acl(id, default, acl, 0);
        }
        Ok(())
    }

    pub(super) fn get_xattr(&mut self, at: &[OsString], key: &str) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let model = &self.world.model;
        let key = OsStr::new(key);
        let all = model.attr(id).map(|attr| attr.all_xattrs()).unwrap_or_default();
        let wanted = all.get(key);
        let mut errors = Vec::new();
        if wanted.is_none() {
            errors.push(Errno::NODATA);
            // What a symbolic link cannot have.
            errors.push(Errno::OPNOTSUPP);
        }
        errors.extend(model.is_dark(id).then_some(Errno::IO));
        let result = self.world.vfs.getxattr(self.number(id)?, key);
        match self.judge("getxattr", &errors, result)? {
            Some(found) if Some(&found) != wanted => Err(format!("{key:?} of {id} is {found:?}")),
            _ => Ok(()),
        }
    }
}
