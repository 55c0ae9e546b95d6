//! The inodes that the kernel knows, by number and by what they are.
//!
//! A number is a hash of the branch and the file handle: the same for as long as the view is
//! mounted, also after the kernel forgot it, and the same for every hard link. Two inodes whose
//! hashes collide get different numbers, and keep them. A merged directory has the number of its first
//! part, and keeps it for as long as it is known, also when an earlier part appears.
//!
//! Lock order: an inode's place, a shard of `by_handle`, a shard of `by_number`.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::branch::FileKind;
use crate::types::{BranchIndex, Handle};

use super::inode::{Inode, Name, Part, Parts, Place};
use super::layout::LayoutIndex;

/// Numbers of inodes in branches are below this and at or above [`FIRST_NUMBER`].
const NUMBER_MASK: u64 = (1 << 62) - 1;
/// Below this are the folders of the layout.
const FIRST_NUMBER: u64 = 1 << 32;

/// See the module.
#[derive(Debug, Default)]
pub struct InodeTable {
    by_number: DashMap<u64, Arc<Inode>>,
    by_handle: DashMap<Part, u64>,
    /// Numbers that differ from the hash because of a collision; kept for good.
    displaced: DashMap<Part, u64>,
}

impl InodeTable {
    /// The inode of a number that the kernel was given.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_number.get(&number).map(|inode| Arc::clone(&inode))
    }

    /// The inode at a place in a branch, if the kernel knows it.
    pub fn find(&self, branch: BranchIndex, handle: &Handle) -> Option<Arc<Inode>> {
        let number = *self.by_handle.get(&Part { branch, handle: handle.clone() })?;
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
        let parts = place.parts().cloned();
        let inode = Arc::new(Inode::new(
            number,
            FileKind::Directory,
            Some(layout),
            place,
            name.map(|(parent, name)| Name { parent: Arc::clone(parent), name: name.to_owned() }),
        ));
        for part in parts.iter().flat_map(Parts::iter) {
            self.by_handle.insert(part.clone(), number);
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

    /// Adds an inode that was found by a name (or finds it, by any of its parts), and counts a
    /// reference that the kernel will give back by `forget`. Parts that were not known when the inode
    /// was added are the caller's to note ([`InodeTable::moved`]).
    pub fn enter(
        &self,
        parts: &Parts,
        kind: FileKind,
        parent: &Arc<Inode>,
        name: &OsStr,
    ) -> Arc<Inode> {
        let inode = loop {
            let found = parts.iter().find_map(|part| self.find(part.branch, &part.handle));
            if let Some(inode) = found {
                inode.lookups.fetch_add(1, Ordering::AcqRel);
                // Else it was just forgotten, and the count with it.
                if self.get(inode.number).is_some_and(|known| Arc::ptr_eq(&known, &inode)) {
                    break inode;
                }
            } else if let Some(inode) = self.add(parts, kind) {
                break inode;
            }
        };
        inode.add_name(parent, name);
        inode
    }

    /// Adds a new inode with one reference; `None` if somebody was faster.
    fn add(&self, parts: &Parts, kind: FileKind) -> Option<Arc<Inode>> {
        let first = &parts.first;
        let entry = self.by_handle.entry(first.clone());
        if let Entry::Occupied(known) = &entry
            && self.by_number.contains_key(known.get())
        {
            return None;
        }
        let wanted = self.displaced.get(first).map(|number| *number);
        let mut number = wanted.unwrap_or_else(|| hash(first));
        let inode = loop {
            if let Entry::Vacant(vacant) = self.by_number.entry(number) {
                let inode = Inode::new(number, kind, None, Place::Branch(parts.clone()), None);
                inode.lookups.store(1, Ordering::Release);
                let inode = Arc::new(inode);
                vacant.insert(Arc::clone(&inode));
                break inode;
            }
            number = FIRST_NUMBER.max(number.wrapping_add(1) & NUMBER_MASK);
            self.displaced.insert(first.clone(), number);
        };
        entry.insert(number);
        for part in &parts.more {
            self.by_handle.insert(part.clone(), number);
        }
        Some(inode)
    }

    /// Gives back references; the inode goes with the last.
    pub fn forget(&self, number: u64, count: u64) {
        let Some(inode) = self.get(number) else { return };
        if inode.layout.is_some() || !drop_lookups(&inode, count) {
            return;
        }
        let unused = |inode: &Arc<Inode>| inode.lookups.load(Ordering::Acquire) == 0;
        if self.by_number.remove_if(&number, |_, inode| unused(inode)).is_none() {
            return;
        }
        // Somebody may have added it anew meanwhile, under the same number.
        let gone = |known: &u64| *known == number && !self.by_number.contains_key(known);
        for part in inode.place().parts().into_iter().flat_map(Parts::iter) {
            self.by_handle.remove_if(part, |_, known| gone(known));
        }
    }

    /// Notes that an inode lies elsewhere now. The caller holds the inode's switch and stores the
    /// place itself.
    pub fn moved(&self, number: u64, from: &Place, to: &Place) {
        for part in from.parts().into_iter().flat_map(Parts::iter) {
            self.by_handle.remove_if(part, |_, known| *known == number);
        }
        for part in to.parts().into_iter().flat_map(Parts::iter) {
            self.by_handle.insert(part.clone(), number);
        }
    }

    /// The number that an inode of these parts has or would get, for directory listings.
    pub fn number_of(&self, parts: &Parts) -> u64 {
        let known = parts.iter().find_map(|part| self.by_handle.get(part).map(|number| *number));
        known
            .or_else(|| self.displaced.get(&parts.first).map(|number| *number))
            .unwrap_or_else(|| hash(&parts.first))
    }

    /// All inodes that the kernel knows and for which `wanted` holds.
    pub fn collect(&self, wanted: impl Fn(&Arc<Inode>) -> bool) -> Vec<Arc<Inode>> {
        // Asked after the shards are let go: `wanted` may wait for an inode's place.
        let mut known: Vec<_> =
            self.by_number.iter().map(|entry| Arc::clone(entry.value())).collect();
        known.retain(wanted);
        known
    }
}

/// Takes references away; whether none is left.
fn drop_lookups(inode: &Inode, count: u64) -> bool {
    let before = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, |lookups| {
        Some(lookups.saturating_sub(count))
    });
    before.unwrap_or(0) <= count
}

fn hash(part: &Part) -> u64 {
    let mut hasher = DefaultHasher::new();
    (part.branch, &part.handle).hash(&mut hasher);
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
        let b = |byte| Parts::single(BranchIndex(0), handle(byte));
        let one = table.enter(&b(1), FileKind::File, &root, OsStr::new("one"));
        let two = table.enter(&b(1), FileKind::File, &root, OsStr::new("two"));
        assert_eq!(one.number, two.number);
        assert_eq!(one.paths().len(), 2);
    }

    #[test]
    fn a_forgotten_inode_gets_its_number_again() {
        let (table, root) = table();
        let b = |byte| Parts::single(BranchIndex(0), handle(byte));
        let first = table.enter(&b(7), FileKind::File, &root, OsStr::new("x")).number;
        table.forget(first, 1);
        assert!(table.get(first).is_none());
        let again = table.enter(&b(7), FileKind::File, &root, OsStr::new("x")).number;
        assert_eq!(first, again);
    }

    #[test]
    fn colliding_inodes_get_numbers_of_their_own_for_good() {
        let (table, root) = table();
        let b = |byte| Parts::single(BranchIndex(0), handle(byte));
        let wanted = hash(&Part { branch: BranchIndex(0), handle: handle(9) });
        let squatter = Arc::new(Inode::new(wanted, FileKind::File, None, Place::Gone, None));
        table.by_number.insert(wanted, squatter);
        let displaced = table.enter(&b(9), FileKind::File, &root, OsStr::new("x")).number;
        assert_ne!(displaced, wanted);
        table.forget(displaced, 1);
        table.by_number.remove(&wanted);
        let again = table.enter(&b(9), FileKind::File, &root, OsStr::new("x")).number;
        assert_eq!(again, displaced);
        assert_eq!(table.number_of(&b(9)), displaced);
    }

    #[test]
    fn forgetting_fewer_references_keeps_the_inode() {
        let (table, root) = table();
        let b = |byte| Parts::single(BranchIndex(0), handle(byte));
        let number = table.enter(&b(3), FileKind::File, &root, OsStr::new("x")).number;
        table.enter(&b(3), FileKind::File, &root, OsStr::new("x"));
        table.forget(number, 1);
        assert!(table.get(number).is_some());
        table.forget(number, 1);
        assert!(table.get(number).is_none());
    }

    #[test]
    fn an_inode_that_moved_is_found_at_its_new_place() {
        let (table, root) = table();
        let inode = table.enter(
            &Parts::single(BranchIndex(0), handle(1)),
            FileKind::File,
            &root,
            OsStr::new("x"),
        );
        let to = Place::Branch(Parts::single(BranchIndex(1), handle(2)));
        let mut place = inode.switch();
        table.moved(inode.number, &place, &to);
        *place = to;
        drop(place);
        assert!(table.find(BranchIndex(0), &handle(1)).is_none());
        assert_eq!(table.find(BranchIndex(1), &handle(2)).expect("moved").number, inode.number);
        table.forget(inode.number, 1);
        assert!(table.get(inode.number).is_none());
    }

    #[test]
    fn a_merged_directory_keeps_its_number_when_an_earlier_part_appears() {
        let (table, root) = table();
        let part = |branch, byte| Part { branch: BranchIndex(branch), handle: handle(byte) };
        let merged = |parts: Vec<Part>| Parts::merged(parts).expect("parts");
        let enter = |parts: &Parts| table.enter(parts, FileKind::Directory, &root, OsStr::new("d"));
        let late = enter(&merged(vec![part(1, 5)]));
        let both = merged(vec![part(0, 4), part(1, 5)]);
        assert_eq!(enter(&both).number, late.number);
        assert_eq!(table.number_of(&both), late.number);
        let mut place = late.switch();
        let now = Place::Branch(both);
        table.moved(late.number, &place, &now);
        *place = now;
        drop(place);
        assert_eq!(table.find(BranchIndex(0), &handle(4)).expect("noted").number, late.number);
        table.forget(late.number, 2);
        assert!(table.find(BranchIndex(0), &handle(4)).is_none());
        assert!(table.find(BranchIndex(1), &handle(5)).is_none());
        assert!(table.by_handle.is_empty());
    }
}
