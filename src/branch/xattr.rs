//! Extended attributes and POSIX ACLs.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::Errno;
use crate::sys::resolve::magic_path;

use super::Branch;

pub use rustix::fs::XattrFlags;

/// The largest value and list of names that the kernel lets through, in bytes (xattr(7)).
const VALUE_MAX: usize = 65_536;

/// See [`Branch::xattr_before`].
#[derive(Debug)]
pub struct XattrBefore {
    /// None if there was none.
    value: Option<Vec<u8>>,
    mode: Option<u32>,
}

impl Branch {
    /// One extended attribute of any inode. ENODATA.
    pub fn get_xattr(&self, node: BorrowedFd<'_>, key: &OsStr) -> Result<Vec<u8>, Errno> {
        self.check_online()?;
        let mut value = vec![0; 256];
        let path = magic_path(node);
        loop {
            match rustix::fs::getxattr(&path, key, value.as_mut_slice()) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(value);
                }
                Err(Errno::RANGE) if value.len() < VALUE_MAX => value.resize(VALUE_MAX, 0),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The names of all extended attributes.
    pub fn list_xattrs(&self, node: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
        self.check_online()?;
        let mut list = vec![0u8; VALUE_MAX];
        let length = rustix::fs::listxattr(magic_path(node), list.as_mut_slice())?;
        list.truncate(length);
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    /// Sets an extended attribute. EOPNOTSUPP for `system.*` other than ACLs.
    pub fn set_xattr(
        &self,
        node: BorrowedFd<'_>,
        key: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        self.check_online()?;
        check_key(key)?;
        rustix::fs::setxattr(magic_path(node), key, value, flags)
    }

    /// Removes an extended attribute. ENODATA.
    pub fn remove_xattr(&self, node: BorrowedFd<'_>, key: &OsStr) -> Result<(), Errno> {
        self.check_online()?;
        check_key(key)?;
        rustix::fs::removexattr(magic_path(node), key)
    }

    /// What an attribute is before it is changed, and with an access ACL the mode, of which it is a part.
    /// EOPNOTSUPP as for [`Branch::set_xattr`].
    pub fn xattr_before(&self, node: BorrowedFd<'_>, key: &OsStr) -> Result<XattrBefore, Errno> {
        check_key(key)?;
        let value = match self.get_xattr(node, key) {
            Ok(value) => Some(value),
            Err(Errno::NODATA) => None,
            Err(errno) => return Err(errno),
        };
        let mode = if is_access_acl(key) { Some(self.stat(node)?.mode) } else { None };
        Ok(XattrBefore { value, mode })
    }

    /// Makes an attribute what it was.
    pub fn restore_xattr(
        &self,
        node: BorrowedFd<'_>,
        key: &OsStr,
        before: &XattrBefore,
    ) -> Result<(), Errno> {
        match &before.value {
            Some(value) => self.set_xattr(node, key, value, XattrFlags::empty())?,
            None => match self.remove_xattr(node, key) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            },
        }
        let Some(mode) = before.mode else { return Ok(()) };
        rustix::fs::chmod(magic_path(node), rustix::fs::Mode::from_bits_truncate(mode))
    }

    /// What a change of the access ACL leads to: set by somebody who may not keep the set-group-id bit of a file
    /// of its group it takes that bit, which the kernel does for an ordinary caller and not for the daemon.
    pub fn after_acl(
        &self,
        node: BorrowedFd<'_>,
        key: &OsStr,
        may_keep: impl Fn(u32) -> bool,
    ) -> Result<(), Errno> {
        if !is_access_acl(key) {
            return Ok(());
        }
        let stat = self.stat(node)?;
        if stat.mode & 0o2000 == 0 || may_keep(stat.gid) {
            return Ok(());
        }
        let mode = rustix::fs::Mode::from_bits_truncate(stat.mode & !0o2000);
        rustix::fs::chmod(magic_path(node), mode)
    }
}

/// The access list that says who may do what.
pub const ACCESS_ACL: &str = "system.posix_acl_access";

/// Whether an attribute is that list.
pub fn is_access_acl(key: &OsStr) -> bool {
    key == ACCESS_ACL
}

/// The kernel checks who may change an attribute, but leaves `system.*` to the file system
/// (fs/xattr.c, `xattr_permission`), and below us that would ask the daemon's rights: of these only
/// ACLs, which FUSE itself guards, are let through.
fn check_key(key: &OsStr) -> Result<(), Errno> {
    if key.as_bytes().starts_with(b"system.") && !is_acl(key) {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(())
}

/// Whether an attribute is an access control list.
pub fn is_acl(key: &OsStr) -> bool {
    matches!(key.as_bytes(), b"system.posix_acl_access" | b"system.posix_acl_default")
}
