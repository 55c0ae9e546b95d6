//! Access control lists and permissions, as acl(5) and inode(7) have them.

use std::ffi::OsString;

use super::tree::{Attr, USER};

/// A list with one named user, [`USER`], and so a mask. Bits as in a mode: 4 read, 2 write, 1 execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acl {
    pub user: u32,
    pub named: u32,
    pub group: u32,
    pub mask: u32,
    pub other: u32,
}

pub(super) const ACCESS: &str = "system.posix_acl_access";
pub(super) const DEFAULT: &str = "system.posix_acl_default";

impl Acl {
    /// As an extended attribute (include/uapi/linux/posix_acl_xattr.h).
    pub(super) fn encoded(&self) -> Vec<u8> {
        let nobody = u32::MAX;
        let entries = [
            (0x01u16, self.user, nobody),
            (0x02, self.named, USER),
            (0x04, self.group, nobody),
            (0x10, self.mask, nobody),
            (0x20, self.other, nobody),
        ];
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, bits, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((bits as u16).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// The permission bits of a mode that stand for it.
    fn mode(&self) -> u32 {
        self.user << 6 | self.mask << 3 | self.other
    }
}

impl Attr {
    /// What something new in this directory gets: mode, and lists where it inherits some.
    pub(super) fn inherited(&self, mode: u32, umask: u32, directory: bool) -> Self {
        let mut new = Self { mode: mode & !umask, ..Self::default() };
        if let Some(default) = self.default {
            let acl = Acl {
                user: default.user & mode >> 6,
                mask: default.mask & mode >> 3,
                other: default.other & mode,
                ..default
            };
            new.mode = mode & !0o777 | acl.mode();
            new.acl = Some(acl);
            new.default = self.default.filter(|_| directory);
        }
        new
    }

    /// chmod(2), which changes the list too.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.mode = mode;
        if let Some(acl) = &mut self.acl {
            (acl.user, acl.mask, acl.other) = (mode >> 6 & 7, mode >> 3 & 7, mode & 7);
        }
    }

    pub(super) fn set_acl(&mut self, acl: Option<Acl>) {
        self.acl = acl;
        if let Some(acl) = acl {
            self.mode = self.mode & !0o777 | acl.mode();
        }
    }

    /// Whether a user, who has a group of the same number and no other, has all these rights.
    pub(super) fn allows(&self, uid: u32, wanted: u32) -> bool {
        let (user, group, other) = (self.mode >> 6 & 7, self.mode >> 3 & 7, self.mode & 7);
        // A mask of nothing is as no list (fs/namei.c, `acl_permission_check`).
        let bits = match self.acl.filter(|acl| acl.mask != 0) {
            _ if uid == 0 => return true,
            _ if self.uid == uid => user,
            Some(acl) if uid == USER => acl.named & acl.mask,
            Some(acl) if self.gid == uid => acl.group & acl.mask,
            None if self.gid == uid => group,
            Some(_) | None => other,
        };
        bits & wanted == wanted
    }

    /// What a change of content or owner by somebody takes away of a file's set-id bits.
    pub(super) fn lose_set_id(&mut self, by: u32) {
        self.mode &= !0o4000;
        // Without the right to execute it once meant mandatory locking.
        if self.mode & 0o010 != 0 || (by != 0 && by != self.gid) {
            self.mode &= !0o2000;
        }
    }

    /// All extended attributes, as users see them.
    pub(super) fn all_xattrs(&self) -> std::collections::BTreeMap<OsString, Vec<u8>> {
        let lists = [(ACCESS, self.acl), (DEFAULT, self.default)];
        let lists = lists.into_iter().filter_map(|(key, acl)| Some((key.into(), acl?.encoded())));
        self.xattrs.iter().map(|(key, value)| (key.clone(), value.clone())).chain(lists).collect()
    }
}
