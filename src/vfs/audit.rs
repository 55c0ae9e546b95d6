//! The nodes of `.audit` as inodes and open files. Nothing in it can be changed by anyone; only readers
//! may look.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use rustix::fs::OFlags;

use crate::audit_dir::{AuditAttributes, AuditDir, AuditFile, AuditNode};
use crate::branch::{FileKind, Stat};
use crate::error::Errno;
use crate::policy::Principal;
use crate::types::Caller;
use crate::view::Listed;
use crate::view::{Inode, LayoutIndex, Place};

use super::{Attributes, Opened, Vfs, virtual_stat};

/// Known nodes and open files of `.audit`.
pub(super) struct AuditNodes {
    directory: AuditDir,
    nodes: DashMap<u64, Known>,
    open: DashMap<u64, Open>,
}

/// A node whose number was given out.
struct Known {
    node: AuditNode,
    /// What was last shown of it; nothing of what was only listed.
    shown: Option<AuditAttributes>,
}

#[derive(Clone)]
struct Open {
    file: Arc<AuditFile>,
    /// Whether it shows what the ledger's writer may not have written yet.
    is_growing: bool,
}

impl AuditNodes {
    pub fn new(directory: AuditDir) -> Self {
        Self { directory, nodes: DashMap::new(), open: DashMap::new() }
    }

    pub fn directory(&self) -> &AuditDir {
        &self.directory
    }

    /// Gives up room for nodes that were forgotten: the inodes are fewer than they were.
    pub fn shrink(&self) {
        self.nodes.shrink_to_fit();
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
        let node = self.find_audit(caller, parent, name)?;
        let shown = self.audit_shown(&node);
        Ok(self.enter_audit(node, Some(shown)))
    }

    /// As [`Vfs::lookup_audit`] for who lists a directory, which must not cost what is in all its files: with
    /// the size and times that were last shown, if any were. They hold for no time, so that the kernel asks
    /// before it shows them to anybody.
    pub(super) fn listed_audit(
        &self,
        caller: Caller,
        parent: &Inode,
        name: &OsStr,
    ) -> Result<Attributes, Errno> {
        let node = self.find_audit(caller, parent, name)?;
        Ok(self.enter_audit(node, None))
    }

    fn find_audit(&self, caller: Caller, parent: &Inode, name: &OsStr) -> Result<AuditNode, Errno> {
        self.check_reader(caller)?;
        if parent.number == LayoutIndex::ROOT.number() {
            return Ok(self.audit.directory.root());
        }
        let parent = self.audit_node(parent)?;
        self.audit.directory.lookup(&parent, name).ok_or(Errno::NOENT)
    }

    /// Counts a reference to a node.
    fn enter_audit(&self, node: AuditNode, shown: Option<AuditAttributes>) -> Attributes {
        let number = node.number();
        let kind = kind_of(&node);
        let inode = self.view.inodes.enter_fixed(number, kind, Place::Audit);
        let mut known = self.audit.nodes.entry(number).or_insert(Known { node, shown: None });
        known.shown = shown.or(known.shown);
        let stat = self.audit_stat(kind, known.shown);
        Attributes { number: inode.number, stat, ttl: Duration::ZERO }
    }

    /// Drops what is kept of a node whose inode is forgotten.
    pub(super) fn forget_audit(&self, number: u64) {
        // A look-up adds the inode first and the node then: it cannot have added this one.
        self.audit.nodes.remove_if(&number, |_, _| self.view.inodes.get(number).is_none());
    }

    fn audit_node(&self, inode: &Inode) -> Result<AuditNode, Errno> {
        self.audit.nodes.get(&inode.number).map(|known| known.node.clone()).ok_or(Errno::STALE)
    }

    pub(super) fn audit_attributes(
        &self,
        caller: Caller,
        inode: &Inode,
    ) -> Result<Attributes, Errno> {
        self.check_reader(caller)?;
        let node = self.audit_node(inode)?;
        let shown = self.audit_shown(&node);
        if let Some(mut known) = self.audit.nodes.get_mut(&inode.number) {
            known.shown = Some(shown);
        }
        let stat = self.audit_stat(kind_of(&node), Some(shown));
        Ok(Attributes { number: inode.number, stat, ttl: Duration::ZERO })
    }

    /// Has the ledger write what was appended, so that callers see their own operations. What was
    /// written before can be read whatever the ledger's disk says now.
    fn show_records(&self) {
        if let Err(errno) = self.ledger.flush() {
            log::debug!("the ledger could not be flushed for .audit: {errno}");
        }
    }

    fn audit_shown(&self, node: &AuditNode) -> AuditAttributes {
        if node.is_growing() {
            self.show_records();
        }
        self.audit.directory.attributes(node)
    }

    fn audit_stat(&self, kind: FileKind, shown: Option<AuditAttributes>) -> Stat {
        let size = shown.map_or(0, |shown| shown.size);
        let fixed = virtual_stat(self.started);
        let mtime = shown.map_or(fixed.mtime, |shown| shown.mtime);
        let mode = if kind == FileKind::Directory { 0o555 } else { 0o444 };
        let blocks = size.div_ceil(512);
        Stat { kind, mode, nlink: 1, size, blocks, mtime, ctime: mtime, ..fixed }
    }

    pub(super) fn list_audit(&self, inode: &Inode) -> Vec<Listed> {
        let Ok(node) = self.audit_node(inode) else { return Vec::new() };
        let children = self.audit.directory.list(&node);
        let listed = |(name, child): (_, AuditNode)| {
            let kind = kind_of(&child);
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
        let is_growing = node.is_growing();
        if is_growing {
            self.show_records();
        }
        let file = Arc::new(self.audit.directory.open(&node)?);
        let handle = self.view.handles.number();
        self.audit.open.insert(handle, Open { file, is_growing });
        // Sizes grow while it is read: the page cache must not stand between.
        Ok(Opened {
            handle,
            direct_io: true,
            keep_cache: false,
            stores: false,
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
        let Open { file, is_growing } = self.audit.open.get(&handle).map(|open| open.clone())?;
        if is_growing {
            self.show_records();
        }
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

fn kind_of(node: &AuditNode) -> FileKind {
    if node.is_directory() { FileKind::Directory } else { FileKind::File }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;

    use super::*;
    use crate::audit_dir::{AuditSource, TxState};
    use crate::types::TxId;
    use crate::vfs::tests::fixture::{Fixture, READ, ROOT, ROOT_NUMBER};

    /// So many transactions that are done, of which is counted how many texts are made.
    struct Done(u128, Arc<AtomicUsize>);

    impl AuditSource for Done {
        fn branches(&self) -> Vec<String> {
            Vec::new()
        }
        fn branch(&self, _name: &str) -> Option<Value> {
            None
        }
        fn transactions(&self, _state: TxState) -> Vec<TxId> {
            (1..=self.0).map(|number| TxId(number.into())).collect()
        }
        fn is_in(&self, _state: TxState, txid: TxId) -> bool {
            (1..=self.0).contains(&txid.0.into())
        }
        fn transaction(&self, _state: TxState, _txid: TxId) -> Option<Value> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Some(Value::Null)
        }
        fn stats(&self) -> String {
            String::new()
        }
    }

    fn with_done(count: u128, texts: &Arc<AtomicUsize>) -> Fixture {
        let mut fixture = Fixture::new(vec![]);
        let source = Box::new(Done(count, Arc::clone(texts)));
        let directory = AuditDir::new(fixture.backing("state"), String::new(), source);
        let meanwhile = Arc::clone(&Fixture::new(vec![]).vfs);
        let vfs = std::mem::replace(&mut fixture.vfs, meanwhile);
        let mut vfs = Arc::into_inner(vfs).expect("nobody else has it");
        vfs.audit = AuditNodes::new(directory);
        fixture.vfs = Arc::new(vfs);
        fixture
    }

    #[test]
    fn room_for_what_was_listed_is_given_back_once_it_is_forgotten() {
        const DONE: u128 = 20_000;
        let fixture = with_done(DONE, &Arc::default());
        let vfs = &fixture.vfs;
        let folder = fixture.number(".audit/tx/done");
        let handle = vfs.opendir(*ROOT, folder).expect("opened");
        let mut listed = Vec::new();
        vfs.readdirplus(*ROOT, handle, 2, &mut |_, found| {
            listed.push(found.number);
            false
        })
        .expect("listed");
        vfs.releasedir(handle);
        let room = vfs.audit.nodes.capacity();
        assert!(listed.len() == DONE as usize && room >= listed.len(), "{room}");
        listed.iter().for_each(|number| drop(vfs.forget(*number, 1)));
        vfs.tend();
        vfs.tend();
        assert!(vfs.audit.nodes.capacity() < room / 8);
    }

    #[test]
    fn who_lists_has_no_text_made_and_is_not_told_another_size_than_before() {
        let texts = Arc::new(AtomicUsize::new(0));
        let fixture = with_done(3, &texts);
        let vfs = &fixture.vfs;
        let folder = fixture.number(".audit/tx/done");
        let sizes = || {
            let handle = vfs.opendir(*ROOT, folder).expect("opened");
            let mut sizes = Vec::new();
            let listed = vfs.readdirplus(*ROOT, handle, 0, &mut |entry, found| {
                if !entry.name.as_encoded_bytes().starts_with(b".") {
                    sizes.push(found.stat.size);
                    assert_eq!((found.number, found.ttl), (entry.number, Duration::ZERO));
                    assert_eq!((found.stat.kind, found.stat.mode), (FileKind::File, 0o444));
                }
                false
            });
            listed.expect("listed");
            vfs.releasedir(handle);
            sizes
        };
        assert_eq!((sizes(), texts.swap(0, Ordering::Relaxed)), (vec![0; 3], 0));
        let name = format!("{}.json", TxId(2_u128.into()));
        let found = vfs.lookup(*ROOT, folder, OsStr::new(&name)).expect("it is there");
        assert_eq!((found.stat.size, texts.swap(0, Ordering::Relaxed)), (5, 1));
        assert_eq!((sizes(), texts.swap(0, Ordering::Relaxed)), (vec![0, 5, 0], 0));
        vfs.getattr(*ROOT, found.number, None).expect("it is known");
        assert_eq!(texts.swap(0, Ordering::Relaxed), 1);
    }

    #[test]
    fn a_node_goes_with_the_last_reference_of_the_kernel() {
        let fixture = Fixture::new(vec![]);
        let vfs = &fixture.vfs;
        let before = vfs.known();
        let look_up =
            |parent, name| vfs.lookup(*ROOT, parent, OsStr::new(name)).expect(name).number;
        let folder = look_up(ROOT_NUMBER, ".audit");
        let log = look_up(folder, "log.jsonl");
        assert_eq!(look_up(folder, "log.jsonl"), log);
        let opened = vfs.open(*ROOT, log, READ).expect("readable");
        assert_eq!(vfs.known().files, before.files + 1);
        assert_eq!(vfs.known().inodes, before.inodes + 2);
        vfs.release(opened.handle);
        vfs.forget(log, 1);
        assert!(vfs.getattr(*ROOT, log, None).is_ok(), "one reference is left");
        vfs.forget(log, 1);
        vfs.forget(folder, 1);
        assert_eq!(vfs.known(), before);
        assert!(vfs.audit.nodes.is_empty());
    }
}
