//! The inodes that the kernel knows, by number and by what they are.
//!
//! A number is a hash of the branch and the file handle: the same for as long as the view is
//! mounted, also after the kernel forgot it, and the same for every hard link. Two inodes whose
//! hashes collide get different numbers, and keep them.
//!
//! Lock order: a shard of `by_handle` before a shard of `by_number`.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::branch::FileKind;
use crate::types::{BranchIndex, Handle};

use super::inode::{Inode, Name, Place};
use super::layout::LayoutIndex;

type Key = (BranchIndex, Handle);

/// Numbers of inodes in branches are below this and at or above [`FIRST_NUMBER`].
const NUMBER_MASK: u64 = (1 << 62) - 1;
/// Below this are the folders of the layout.
const FIRST_NUMBER: u64 = 1 << 32;

/// See the module.
#[derive(Debug, Default)]
pub struct InodeTable {
    by_number: DashMap<u64, Arc<Inode>>,
    by_handle: DashMap<Key, u64>,
    /// Numbers that differ from the hash because of a collision; kept for good.
    displaced: DashMap<Key, u64>,
}

impl InodeTable {
    /// The inode of a number that the kernel was given.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_number.get(&number).map(|inode| Arc::clone(&inode))
    }

    /// The inode at a place in a branch, if the kernel knows it.
    pub fn find(&self, branch: BranchIndex, handle: &Handle) -> Option<Arc<Inode>> {
        let number = *self.by_handle.get(&(branch, handle.clone()))?;
        self.get(number)
    }

    /// Adds a folder of the layout. It is never forgotten.
    pub fn add_folder(
        &self,
        layout: LayoutIndex,
        place: Place,
        name: Option<(&Arc<Inode>, &OsStr)>,
    ) -> Arc<Inode> {
        let number = layout.number();
        let key = key_of(&place);
        let inode = Arc::new(Inode::new(
            number,
            FileKind::Directory,
            Some(layout),
            place,
            name.map(|(parent, name)| Name { parent: Arc::clone(parent), name: name.to_owned() }),
        ));
        if let Some(key) = key {
            self.by_handle.insert(key, number);
        }
        self.by_number.insert(number, Arc::clone(&inode));
        inode
    }

    /// Adds an inode that no branch's handle names (or finds it) under its own number, and counts a
    /// reference: a node of `.audit`, or a mount point inside a branch, which may not be entered.
    pub fn enter_fixed(&self, number: u64, kind: FileKind, place: Place) -> Arc<Inode> {
        let inode = self
            .by_number
            .entry(number)
            .or_insert_with(|| Arc::new(Inode::new(number, kind, None, place, None)));
        inode.lookups.fetch_add(1, Ordering::AcqRel);
        Arc::clone(&inode)
    }

    /// Adds an inode of a branch that was found by a name (or finds it), and counts a reference that
    /// the kernel will give back by `forget`.
    pub fn enter(
        &self,
        branch: BranchIndex,
        handle: &Handle,
        kind: FileKind,
        parent: &Arc<Inode>,
        name: &OsStr,
    ) -> Arc<Inode> {
        let key = (branch, handle.clone());
        let inode = match self.by_handle.entry(key) {
            Entry::Occupied(known) => match self.get(*known.get()) {
                Some(inode) => {
                    inode.lookups.fetch_add(1, Ordering::AcqRel);
                    inode
                }
                None => {
                    let mut known = known;
                    let inode = self.add(known.key(), kind);
                    known.insert(inode.number);
                    inode
                }
            },
            Entry::Vacant(vacant) => {
                let inode = self.add(vacant.key(), kind);
                vacant.insert(inode.number);
                inode
            }
        };
        inode.add_name(parent, name);
        inode
    }

    /// Adds a new inode with one reference; the caller holds the key's shard of `by_handle`.
    fn add(&self, key: &Key, kind: FileKind) -> Arc<Inode> {
        let place = Place::Branch { branch: key.0, handle: key.1.clone() };
        let wanted = self.displaced.get(key).map(|number| *number);
        let mut number = wanted.unwrap_or_else(|| hash(key));
        loop {
            if let Entry::Vacant(vacant) = self.by_number.entry(number) {
                let inode = Inode::new(number, kind, None, place, None);
                inode.lookups.store(1, Ordering::Release);
                let inode = Arc::new(inode);
                vacant.insert(Arc::clone(&inode));
                return inode;
            }
            number = FIRST_NUMBER.max((number + 1) & NUMBER_MASK);
            self.displaced.insert(key.clone(), number);
        }
    }

    /// Gives back references; the inode goes with the last.
    pub fn forget(&self, number: u64, count: u64) {
        let Some(inode) = self.get(number) else { return };
        if inode.layout.is_some() {
            return;
        }
        loop {
            let key = key_of(&inode.place());
            let Some(key) = key else {
                self.by_number.remove_if(&number, |_, inode| drop_lookups(inode, count));
                return;
            };
            match self.by_handle.entry(key) {
                Entry::Occupied(known) if *known.get() == number => {
                    if drop_lookups(&inode, count) {
                        known.remove();
                        self.by_number.remove(&number);
                    }
                    return;
                }
                entry => {
                    // A crossing moved it just now, or another number has its place. Ask for the
                    // place without the shard: a switch holds the first and wants the second.
                    let key = entry.into_key();
                    if key_of(&inode.place()) == Some(key) {
                        self.by_number.remove_if(&number, |_, inode| drop_lookups(inode, count));
                        return;
                    }
                }
            }
        }
    }

    /// Notes that an inode lies elsewhere now. The caller holds the inode's switch and stores the
    /// place itself.
    pub fn moved(&self, number: u64, from: &Place, to: &Place) {
        if let Some(key) = key_of(from) {
            self.by_handle.remove_if(&key, |_, known| *known == number);
        }
        if let Some(key) = key_of(to) {
            self.by_handle.insert(key, number);
        }
    }

    /// The number that an inode of a branch has or would get, for directory listings.
    pub fn number_of(&self, branch: BranchIndex, handle: &Handle) -> u64 {
        let key = (branch, handle.clone());
        let known = self.by_handle.get(&key).map(|number| *number);
        known
            .or_else(|| self.displaced.get(&key).map(|number| *number))
            .unwrap_or_else(|| hash(&key))
    }
}

/// Takes references away; whether none is left.
fn drop_lookups(inode: &Inode, count: u64) -> bool {
    let before = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, |lookups| {
        Some(lookups.saturating_sub(count))
    });
    before.unwrap_or(0) <= count
}

fn key_of(place: &Place) -> Option<Key> {
    match place {
        Place::Branch { branch, handle } => Some((*branch, handle.clone())),
        Place::Virtual | Place::Audit | Place::Gone => None,
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() & NUMBER_MASK).max(FIRST_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(byte: u8) -> Handle {
        Handle { kind: 1, bytes: Box::new([byte]) }
    }

    fn table() -> (InodeTable, Arc<Inode>) {
        let table = InodeTable::default();
        let root = table.add_folder(LayoutIndex::ROOT, Place::Virtual, None);
        (table, root)
    }

    #[test]
    fn hard_links_share_a_number_and_keep_both_names() {
        let (table, root) = table();
        let b = BranchIndex(0);
        let one = table.enter(b, &handle(1), FileKind::File, &root, OsStr::new("one"));
        let two = table.enter(b, &handle(1), FileKind::File, &root, OsStr::new("two"));
        assert_eq!(one.number, two.number);
        assert_eq!(one.paths().len(), 2);
    }

    #[test]
    fn a_forgotten_inode_gets_its_number_again() {
        let (table, root) = table();
        let b = BranchIndex(0);
        let first = table.enter(b, &handle(7), FileKind::File, &root, OsStr::new("x")).number;
        table.forget(first, 1);
        assert!(table.get(first).is_none());
        let again = table.enter(b, &handle(7), FileKind::File, &root, OsStr::new("x")).number;
        assert_eq!(first, again);
    }

    #[test]
    fn colliding_inodes_get_numbers_of_their_own_for_good() {
        let (table, root) = table();
        let b = BranchIndex(0);
        let wanted = hash(&(b, handle(9)));
        let squatter = Arc::new(Inode::new(wanted, FileKind::File, None, Place::Gone, None));
        table.by_number.insert(wanted, squatter);
        let displaced = table.enter(b, &handle(9), FileKind::File, &root, OsStr::new("x")).number;
        assert_ne!(displaced, wanted);
        table.forget(displaced, 1);
        table.by_number.remove(&wanted);
        let again = table.enter(b, &handle(9), FileKind::File, &root, OsStr::new("x")).number;
        assert_eq!(again, displaced);
        assert_eq!(table.number_of(b, &handle(9)), displaced);
    }

    #[test]
    fn forgetting_fewer_references_keeps_the_inode() {
        let (table, root) = table();
        let b = BranchIndex(0);
        let number = table.enter(b, &handle(3), FileKind::File, &root, OsStr::new("x")).number;
        table.enter(b, &handle(3), FileKind::File, &root, OsStr::new("x"));
        table.forget(number, 1);
        assert!(table.get(number).is_some());
        table.forget(number, 1);
        assert!(table.get(number).is_none());
    }

    #[test]
    fn an_inode_that_moved_is_found_at_its_new_place() {
        let (table, root) = table();
        let inode = table.enter(BranchIndex(0), &handle(1), FileKind::File, &root, OsStr::new("x"));
        let to = Place::Branch { branch: BranchIndex(1), handle: handle(2) };
        let mut place = inode.switch();
        table.moved(inode.number, &place, &to);
        *place = to;
        drop(place);
        assert!(table.find(BranchIndex(0), &handle(1)).is_none());
        assert_eq!(table.find(BranchIndex(1), &handle(2)).expect("moved").number, inode.number);
        table.forget(inode.number, 1);
        assert!(table.get(inode.number).is_none());
    }
}
