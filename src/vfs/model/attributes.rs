//! The driver's changes of attributes: modes, owners, times, extended attributes.

use std::ffi::{OsStr, OsString};

use crate::branch::{AttributeChange, FileKind, SetTime, XattrFlags};
use crate::error::Errno;

use super::super::AttributeRequest;
use super::run::{ROOT, Run, Verdict};
use super::tree::{Errors, Id};

impl Run {
    pub(super) fn change(&mut self, at: &[OsString], change: AttributeChange) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        if self.world.model.object(id).kind() == FileKind::Symlink && change.mode.is_some() {
            // The kernel follows links.
            return Ok(());
        }
        let errors = self.world.model.change_errors(id, false);
        let number = self.number(id)?;
        let request = AttributeRequest { change: change.clone(), size: None, handle: None };
        let result = self.world.vfs.setattr(ROOT, number, &request);
        let Some(attributes) = self.judge("setattr", &errors, result)? else { return Ok(()) };
        let object = self.world.model.object_mut(id);
        let loses_set_id = change.uid.is_some() && object.kind() != FileKind::Directory;
        for attr in object.on.values_mut() {
            if loses_set_id && attr.mode & 0o010 != 0 {
                // chown(2): also when it is root who gives the file away.
                attr.mode &= !0o2000;
            }
            attr.mode = change.mode.unwrap_or(attr.mode);
            attr.uid = change.uid.unwrap_or(attr.uid);
            attr.gid = change.gid.unwrap_or(attr.gid);
            if let Some(SetTime::At(time)) = change.mtime {
                attr.mtime = Some(time);
            }
        }
        self.check(id, &attributes)
    }

    fn xattr_errors(&self, id: Id, key: &str, is_content: bool) -> Errors {
        let object = self.world.model.object(id);
        let mut errors = self.world.model.change_errors(id, is_content);
        let takes_user = matches!(object.kind(), FileKind::File | FileKind::Directory);
        if key.starts_with("user.") && !takes_user {
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
        let known = self
            .world
            .model
            .object(id)
            .attr()
            .map(|attr| attr.xattrs.contains_key(OsStr::new(key)));
        match known {
            Some(true) if flags.contains(XattrFlags::CREATE) => errors.push(Errno::EXIST),
            Some(false) if flags.contains(XattrFlags::REPLACE) => errors.push(Errno::NODATA),
            _ => {}
        }
        let (number, key) = (self.number(id)?, OsStr::new(key));
        let result = self.world.vfs.setxattr(ROOT, number, key, value.as_bytes(), flags);
        if self.judge("setxattr", &errors, result)?.is_some() {
            for attr in self.world.model.object_mut(id).on.values_mut() {
                attr.xattrs.insert(key.to_owned(), value.as_bytes().to_vec());
            }
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, at: &[OsString], key: &str) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let mut errors = self.xattr_errors(id, key, false);
        let attr = self.world.model.object(id).attr();
        if attr.is_some_and(|attr| !attr.xattrs.contains_key(OsStr::new(key))) {
            errors.push(Errno::NODATA);
        }
        let (number, key) = (self.number(id)?, OsStr::new(key));
        let result = self.world.vfs.removexattr(ROOT, number, key);
        if self.judge("removexattr", &errors, result)?.is_some() {
            for attr in self.world.model.object_mut(id).on.values_mut() {
                attr.xattrs.remove(key);
            }
        }
        Ok(())
    }
}
