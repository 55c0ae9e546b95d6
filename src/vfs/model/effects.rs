//! What operations that succeeded do to contents and attributes, and how what is seen of them is
//! compared.

use std::ffi::OsStr;

use crate::branch::{FileKind, Stat};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::operation::Allocation;
use super::tree::{Body, Id, Model, Verdict};

impl Model {
    pub(super) fn bytes(&self, id: Id) -> &[u8] {
        match &self.object(id).body {
            Body::File(bytes) => bytes,
            other => panic!("only files have content: {other:?}"),
        }
    }

    fn content(&mut self, id: Id, by: u32) -> &mut Vec<u8> {
        self.touch(id);
        if by != 0 {
            self.on_each(id, |attr| attr.lose_set_id(by));
        }
        match &mut self.object_mut(id).body {
            Body::File(bytes) => bytes,
            other => panic!("only files have content: {other:?}"),
        }
    }

    /// Writes into a content, which may have to grow.
    pub(super) fn write(&mut self, id: Id, at: usize, text: &[u8], by: u32) {
        if text.is_empty() {
            return;
        }
        let bytes = self.content(id, by);
        let end = at + text.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[at..end].copy_from_slice(text);
    }

    pub(super) fn resize(&mut self, id: Id, size: u64, by: u32) {
        self.content(id, by).resize(size as usize, 0);
    }

    pub(super) fn allocate(
        &mut self,
        id: Id,
        how: Allocation,
        (offset, length): (u64, u64),
        by: u32,
    ) {
        let bytes = self.content(id, by);
        let (start, end) = (offset as usize, (offset + length) as usize);
        if matches!(how, Allocation::Plain | Allocation::Zero) {
            bytes.resize(bytes.len().max(end), 0);
        }
        if matches!(how, Allocation::Punch | Allocation::Zero) {
            let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
            bytes[start..end].fill(0);
        }
    }

    pub(super) fn chmod(&mut self, id: Id, mode: u32, by: u32) {
        self.on_each(id, |attr| {
            let outside = by != 0 && by != attr.gid;
            attr.set_mode(if outside { mode & !0o2000 } else { mode });
        });
    }

    /// Owner and group; who gives a file away also gives up its set-id bits, root not excepted.
    pub(super) fn chown(&mut self, id: Id, (uid, gid): (u32, u32), by: u32) {
        let directory = self.directory(id).is_some();
        self.on_each(id, |attr| {
            if !directory {
                attr.lose_set_id(by);
            }
            (attr.uid, attr.gid) = (uid, gid);
        });
    }

    pub(super) fn set_acl(&mut self, id: Id, default: bool, acl: Option<Acl>, by: u32) {
        self.on_each(id, |attr| {
            if default {
                attr.default = acl;
                return;
            }
            attr.set_acl(acl);
            if acl.is_some() && by != 0 && by != attr.gid {
                attr.mode &= !0o2000;
            }
        });
    }

    pub(super) fn has_xattr(&self, id: Id, key: &OsStr) -> Option<bool> {
        let attr = self.attr(id)?;
        Some(match key.to_str() {
            Some(ACCESS) => attr.acl.is_some(),
            Some(DEFAULT) => attr.default.is_some(),
            _ => attr.xattrs.contains_key(key),
        })
    }

    /// Compares what users see of something with the model.
    pub(super) fn check_stat(&self, id: Id, stat: &Stat) -> Verdict {
        let object = self.object(id);
        let (mode, uid, gid) =
            self.attr(id).map_or((0o755, 0, 0), |attr| (attr.mode, attr.uid, attr.gid));
        let rdev = match &object.body {
            Body::Special(_, rdev) => *rdev,
            _ => 0,
        };
        let wanted = (object.kind(), mode, uid, gid, rdev);
        let found = (stat.kind, stat.mode, stat.uid, stat.gid, stat.rdev);
        if wanted != found {
            return Err(format!("{id} is {found:?}; the model expects {wanted:?}"));
        }
        if let Some(size) = object.size()
            && size != stat.size
        {
            return Err(format!("{id} has {} bytes; the model expects {size}", stat.size));
        }
        let links = match self.directory(id) {
            // Where a file system does not count.
            Some(_) if stat.nlink == 1 && object.domain.is_some() => 1,
            Some(directory) => self.links_of_directory(object, directory),
            None => self.links(id),
        };
        if stat.nlink != links {
            return Err(format!("{id} has {} links; the model expects {links}", stat.nlink));
        }
        match self.attr(id).and_then(|attr| attr.mtime) {
            // Of what is offline the last that was told is shown.
            Some(time) if time != stat.mtime && !self.is_dark(id) => {
                Err(format!("{id} was written at {}; the model expects {time}", stat.mtime))
            }
            _ => Ok(()),
        }
    }

    /// Whether the next data or hole of a file may be where it was said to be; `None` is ENXIO. A file
    /// system may take zeros for data, never data for a hole.
    pub(super) fn check_seek(
        &self,
        id: Id,
        offset: u64,
        hole: bool,
        found: Option<u64>,
    ) -> Verdict {
        let bytes = self.bytes(id);
        let zeros = |from: usize, to: usize| bytes[from..to].iter().all(|byte| *byte == 0);
        let (size, start) = (bytes.len(), (offset as usize).min(bytes.len()));
        let right = match found.map(|found| found as usize) {
            None if hole => start == size,
            None => zeros(start, size),
            Some(at) if hole => start < size && at >= start && at <= size,
            Some(at) => at >= start && at < size && zeros(start, at),
        };
        if right {
            return Ok(());
        }
        let what = if hole { "hole" } else { "data" };
        Err(format!("the first {what} of {id}, {size} bytes, from {offset} on is at {found:?}"))
    }

    /// Whether something may have extended attributes of users.
    pub(super) fn takes_user_xattrs(&self, id: Id) -> bool {
        matches!(self.object(id).kind(), FileKind::File | FileKind::Directory)
    }
}

pub(super) fn same_bytes(id: Id, wanted: &[u8], found: &[u8]) -> Verdict {
    if wanted == found {
        return Ok(());
    }
    let at = wanted.iter().zip(found).take_while(|(wanted, found)| wanted == found).count();
    let lengths = (found.len(), wanted.len());
    Err(format!(
        "the content of {id} differs from byte {at} on; lengths found, expected: {lengths:?}"
    ))
}
