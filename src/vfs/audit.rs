//! The nodes of `.audit` as inodes and open files. Nothing in it can be changed by anyone; only readers
//! may look.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use rustix::fs::OFlags;

use crate::audit_dir::{AuditDir, AuditFile, AuditNode};
use crate::branch::{FileKind, Stat};
use crate::error::Errno;
use crate::policy::Principal;
use crate::types::Caller;
use crate::view::handles::Listed;
use crate::view::{Inode, LayoutIndex, Place};

use super::{Attributes, Opened, Vfs, virtual_stat};

/// Known nodes and open files of `.audit`.
pub(super) struct AuditNodes {
    directory: AuditDir,
    nodes: DashMap<u64, AuditNode>,
    open: DashMap<u64, Arc<AuditFile>>,
}

impl AuditNodes {
    pub fn new(directory: AuditDir) -> Self {
        Self { directory, nodes: DashMap::new(), open: DashMap::new() }
    }

    pub fn directory(&self) -> &AuditDir {
        &self.directory
    }
}

impl Vfs {
    /// Whether somebody may read `.audit`: root, the mounting user, and `audit.readers`.
    pub(super) fn check_reader(&self, caller: Caller) -> Result<(), Errno> {
        if caller.uid == 0 || caller.uid == self.owner {
            return Ok(());
        }
        let subject = self.subject(caller)?;
        let named = self.readers.load().iter().any(|principal| match principal {
            Principal::Anyone => true,
            Principal::User(uid) => *uid == subject.uid,
            Principal::Group(gid) => *gid == subject.gid || subject.groups.contains(gid),
        });
        if named { Ok(()) } else { Err(Errno::ACCESS) }
    }

    pub(super) fn lookup_audit(
        &self,
        caller: Caller,
        parent: &Inode,
        name: &OsStr,
    ) -> Result<Attributes, Errno> {
        self.check_reader(caller)?;
        let node = if parent.number == LayoutIndex::ROOT.number() {
            self.audit.directory.root()
        } else {
            let parent = self.audit_node(parent)?;
            self.audit.directory.lookup(&parent, name).ok_or(Errno::NOENT)?
        };
        let stat = self.audit_stat(&node);
        let inode = self.view.inodes.enter_fixed(node.number(), stat.kind, Place::Audit);
        self.audit.nodes.insert(node.number(), node);
        Ok(Attributes { number: inode.number, stat, ttl: Duration::ZERO })
    }

    /// Drops what is kept of a node whose inode is forgotten.
    pub(super) fn forget_audit(&self, number: u64) {
        // A look-up adds the inode first and the node then: it cannot have added this one.
        self.audit.nodes.remove_if(&number, |_, _| self.view.inodes.get(number).is_none());
    }

    fn audit_node(&self, inode: &Inode) -> Result<AuditNode, Errno> {
        self.audit.nodes.get(&inode.number).map(|node| node.clone()).ok_or(Errno::STALE)
    }

    pub(super) fn audit_attributes(
        &self,
        caller: Caller,
        inode: &Inode,
    ) -> Result<Attributes, Errno> {
        self.check_reader(caller)?;
        let stat = self.audit_stat(&self.audit_node(inode)?);
        Ok(Attributes { number: inode.number, stat, ttl: Duration::ZERO })
    }

    /// Has the ledger write what was appended, so that callers see their own operations. What was
    /// written before can be read whatever the ledger's disk says now.
    fn show_records(&self) {
        if let Err(errno) = self.ledger.flush() {
            log::debug!("the ledger could not be flushed for .audit: {errno}");
        }
    }

    fn audit_stat(&self, node: &AuditNode) -> Stat {
        self.show_records();
        let attributes = self.audit.directory.attributes(node);
        let (kind, mode) = if attributes.is_directory {
            (FileKind::Directory, 0o555)
        } else {
            (FileKind::File, 0o444)
        };
        Stat {
            kind,
            mode,
            nlink: 1,
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            mtime: attributes.mtime,
            ctime: attributes.mtime,
            ..virtual_stat(self.started)
        }
    }

    pub(super) fn list_audit(&self, inode: &Inode) -> Vec<Listed> {
        let Ok(node) = self.audit_node(inode) else { return Vec::new() };
        let children = self.audit.directory.list(&node);
        let listed = |(name, child): (_, AuditNode)| {
            let is_directory = self.audit.directory.attributes(&child).is_directory;
            let kind = if is_directory { FileKind::Directory } else { FileKind::File };
            Listed { name, number: child.number(), kind }
        };
        children.into_iter().map(listed).collect()
    }

    pub(super) fn open_audit(
        &self,
        caller: Caller,
        inode: &Inode,
        flags: u32,
    ) -> Result<Opened, Errno> {
        self.check_reader(caller)?;
        let flags = OFlags::from_bits_retain(flags);
        if flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
            return Err(Errno::ROFS);
        }
        let node = self.audit_node(inode)?;
        self.show_records();
        let file = self.audit.directory.open(&node)?;
        let handle = self.view.handles.number();
        self.audit.open.insert(handle, Arc::new(file));
        // Sizes grow while it is read: the page cache must not stand between.
        Ok(Opened {
            handle,
            direct_io: true,
            keep_cache: false,
            passthrough: None,
            number: inode.number,
        })
    }

    pub(super) fn read_audit(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Option<Result<Vec<u8>, Errno>> {
        let file = self.audit.open.get(&handle).map(|file| Arc::clone(&file))?;
        self.show_records();
        Some(file.read_at(offset, size as usize))
    }

    pub(super) fn open_audit_files(&self) -> usize {
        self.audit.open.len()
    }

    pub(super) fn is_audit_handle(&self, handle: u64) -> bool {
        self.audit.open.contains_key(&handle)
    }

    pub(super) fn release_audit(&self, handle: u64) -> bool {
        self.audit.open.remove(&handle).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::tests::fixture::{Fixture, READ, ROOT, ROOT_NUMBER};

    #[test]
    fn a_node_goes_with_the_last_reference_of_the_kernel() {
        let fixture = Fixture::new(vec![]);
        let vfs = &fixture.vfs;
        let before = vfs.known();
        let look_up = |parent, name| vfs.lookup(ROOT, parent, OsStr::new(name)).expect(name).number;
        let folder = look_up(ROOT_NUMBER, ".audit");
        let log = look_up(folder, "log.jsonl");
        assert_eq!(look_up(folder, "log.jsonl"), log);
        let opened = vfs.open(ROOT, log, READ).expect("readable");
        assert_eq!(vfs.known().files, before.files + 1);
        assert_eq!(vfs.known().inodes, before.inodes + 2);
        vfs.release(opened.handle);
        vfs.forget(log, 1);
        assert!(vfs.getattr(ROOT, log, None).is_ok(), "one reference is left");
        vfs.forget(log, 1);
        vfs.forget(folder, 1);
        assert_eq!(vfs.known(), before);
        assert!(vfs.audit.nodes.is_empty());
    }
}
