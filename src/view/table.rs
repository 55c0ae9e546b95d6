//! The inodes that the kernel knows, by number and by what they are.
//!
//! A number is a hash of the branch and the file handle: the same for as long as the view is
//! mounted, also after the kernel forgot it, and the same for every hard link. Two inodes whose
//! hashes collide get different numbers, and keep them. A merged directory has the number of its first
//! part, and keeps it for as long as it is known, also when an earlier part appears.
//!
//! Most inodes lie where their number says, so that the number is the way to them and no second map has
//! their handles; only what is found under another number than its hash is in `by_handle`. Whether the
//! inode that has the number is at home there is told by a second hash, whose keys nobody knows: two
//! parts of which both hashes are equal are one.
//!
//! Lock order: an inode's place, a shard of `by_handle`, a shard of `by_number`.

use std::ffi::OsStr;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::branch::FileKind;
use crate::types::{BranchIndex, Handle};

use super::inode::{Inode, Name, Part, Parts, Place};
use super::kept::{Kept, KeptCounts};
use super::layout::LayoutIndex;

/// Numbers of inodes in branches are below this and at or above [`FIRST_NUMBER`].
const NUMBER_MASK: u64 = (1 << 62) - 1;
/// Below this are the folders of the layout.
const FIRST_NUMBER: u64 = 1 << 32;

/// Tables with less room than this, in inodes, are left as they are.
const ROOM_MIN: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct InodeTable {
    by_number: DashMap<u64, Arc<Inode>>,
    /// Parts of known inodes that have another number than the part's hash: further parts of merged
    /// directories, folders of the layout, what crossed, what is displaced.
    by_handle: DashMap<Part, u64>,
    /// Numbers that differ from the hash because of a collision; kept for good.
    displaced: DashMap<Part, u64>,
    /// How many inodes there were when [`InodeTable::shrink`] looked.
    seen: AtomicUsize,
    /// What is kept of what has no name ([`Inode::keep`]).
    pub kept: Arc<KeptCounts>,
}

impl InodeTable {
    /// The inode of a number that the kernel was given.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_number.get(&number).map(|inode| Arc::clone(&inode))
    }

    /// The inode at a place in a branch, if the kernel knows it.
    pub fn find(&self, branch: BranchIndex, handle: &Handle) -> Option<Arc<Inode>> {
        self.find_part(&Part { branch, handle: handle.clone() })
    }

    fn find_part(&self, part: &Part) -> Option<Arc<Inode>> {
        let elsewhere = self.by_handle.get(part).map(|number| *number);
        let at_home = || self.get(hash(part)).filter(|inode| self.is_home(inode, part));
        elsewhere.and_then(|number| self.get(number)).or_else(at_home)
    }

    /// Tells parts with one hash apart; never 0.
    fn check(&self, part: &Part) -> u64 {
        self.by_handle.hasher().hash_one(part) | 1
    }

    fn is_home(&self, inode: &Inode, part: &Part) -> bool {
        inode.home.load(Ordering::Acquire) == self.check(part)
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
            name.map(|(parent, name)| Name::new(Arc::clone(parent), name)),
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
    ///
    /// The caller holds the lock of the name.
    pub fn enter(
        &self,
        parts: &Parts,
        kind: FileKind,
        parent: &Arc<Inode>,
        name: &OsStr,
    ) -> Arc<Inode> {
        let inode = self.enter_unnamed(parts, kind);
        inode.add_name(parent, name);
        inode
    }

    /// The same for whoever has no lock: nothing, if names in the directory may have been taken away since it
    /// had so many changes ([`Inode::name_changes`]), and what was found there be elsewhere by now.
    pub fn enter_found(
        &self,
        parts: &Parts,
        kind: FileKind,
        (parent, name): (&Arc<Inode>, &OsStr),
        changes: u64,
    ) -> Option<Arc<Inode>> {
        let inode = self.enter_unnamed(parts, kind);
        if inode.add_found_name(parent, name, changes) {
            return Some(inode);
        }
        self.forget(inode.number, 1);
        None
    }

    fn enter_unnamed(&self, parts: &Parts, kind: FileKind) -> Arc<Inode> {
        loop {
            let found = parts.iter().find_map(|part| self.find_part(part));
            if let Some(inode) = found {
                inode.lookups.fetch_add(1, Ordering::AcqRel);
                // Else it was just forgotten, and the count with it.
                if self.get(inode.number).is_some_and(|known| Arc::ptr_eq(&known, &inode)) {
                    return inode;
                }
            } else if let Some(inode) = self.add(parts, kind) {
                return inode;
            }
        }
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
        let home = hash(first);
        let mut number = self.displaced.get(first).map_or(home, |number| *number);
        let inode = loop {
            match self.by_number.entry(number) {
                Entry::Vacant(vacant) => {
                    let inode = Inode::new(number, kind, None, Place::Branch(parts.clone()), None);
                    inode.lookups.store(1, Ordering::Release);
                    if number == home {
                        inode.home.store(self.check(first), Ordering::Release);
                    }
                    let inode = Arc::new(inode);
                    vacant.insert(Arc::clone(&inode));
                    break inode;
                }
                Entry::Occupied(known) if number == home && self.is_home(known.get(), first) => {
                    return None;
                }
                Entry::Occupied(_) => {
                    number = FIRST_NUMBER.max(number.wrapping_add(1) & NUMBER_MASK);
                    self.displaced.insert(first.clone(), number);
                }
            }
        };
        // The shard is let go of: it may be that of another part too.
        match entry {
            entry if number != home => drop(entry.insert(number)),
            Entry::Occupied(forgotten) => drop(forgotten.remove()),
            Entry::Vacant(free) => drop(free),
        }
        for part in parts.more.iter() {
            self.by_handle.insert(part.clone(), number);
        }
        Some(inode)
    }

    /// How many inodes there are.
    pub fn count(&self) -> usize {
        self.by_number.len()
    }

    /// Gives back references; the inode goes with the last, and what was kept of it comes back.
    pub fn forget(&self, number: u64, count: u64) -> Option<Kept> {
        let inode = self.get(number)?;
        if inode.layout.is_some() || !drop_lookups(&inode, count) {
            return None;
        }
        let unused = |inode: &Arc<Inode>| inode.lookups.load(Ordering::Acquire) == 0;
        self.by_number.remove_if(&number, |_, inode| unused(inode))?;
        // Somebody may have added it anew meanwhile, under the same number.
        let gone = |known: &u64| *known == number && !self.by_number.contains_key(known);
        for part in inode.place().parts().into_iter().flat_map(Parts::iter) {
            if hash(part) != number {
                self.by_handle.remove_if(part, |_, known| gone(known));
            }
        }
        inode.let_go()
    }

    /// Notes that an inode lies elsewhere now. The caller holds the inode's switch and stores the
    /// place itself.
    pub fn moved(&self, number: u64, from: &Place, to: &Place) {
        let stays = |part: &Part| to.parts().is_some_and(|to| to.iter().any(|kept| kept == part));
        let inode = self.get(number);
        // First where it is found from now on, then where it is not: what stays is found all the while.
        // Nobody would ever take away what is noted of an inode that was forgotten.
        for part in inode.iter().flat_map(|_| to.parts()).flat_map(Parts::iter) {
            if hash(part) != number {
                self.by_handle.insert(part.clone(), number);
            }
        }
        let home = to.parts().and_then(|to| to.iter().find(|part| hash(part) == number));
        if let Some(inode) = &inode {
            let home = home.map_or(0, |part| self.check(part));
            inode.home.store(home, Ordering::Release);
        }
        if let Some(part) = home {
            self.by_handle.remove_if(part, |_, known| *known == number);
        }
        for part in from.parts().into_iter().flat_map(Parts::iter) {
            if inode.is_none() || !stays(part) {
                self.by_handle.remove_if(part, |_, known| *known == number);
            }
        }
    }

    /// To be called now and then: gives up room for inodes that were forgotten. Whether it was much; then
    /// so is what they took themselves. Waits until the kernel has forgotten all that it is about to.
    pub fn shrink(&self) -> bool {
        let (known, room) = (self.by_number.len(), self.by_number.capacity());
        let falling = known < self.seen.swap(known, Ordering::Relaxed);
        if falling || room < ROOM_MIN || known > room / 4 {
            return false;
        }
        self.by_number.shrink_to_fit();
        self.by_handle.shrink_to_fit();
        true
    }

    /// The number that an inode of these parts has or would get, for directory listings.
    pub fn number_of(&self, parts: &Parts) -> u64 {
        let known = parts.iter().find_map(|part| self.find_part(part).map(|inode| inode.number));
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
    use crate::types::ViewPath;

    fn handle(byte: u8) -> Handle {
        Handle { kind: 1, bytes: [byte].into() }
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
        assert_eq!(one.names().len(), 2);
    }

    #[test]
    fn a_name_that_was_taken_away_since_it_was_looked_for_is_not_noted() {
        let (table, root) = table();
        let parts = Parts::single(BranchIndex(0), handle(1));
        let (old, new) = (OsStr::new("old"), OsStr::new("new"));
        let known = table.enter(&parts, FileKind::Directory, &root, old);
        let seen = root.name_changes();
        let found = || table.enter_found(&parts, FileKind::Directory, (&root, old), seen);
        assert!(found().is_some_and(|inode| Arc::ptr_eq(&inode, &known)));
        root.names_changed();
        known.change_name((&root, old), (&root, new));
        assert!(found().is_none());
        assert_eq!(known.path(), Some(ViewPath::root().join(new)));
        // The references of those that were noted are left.
        table.forget(known.number, 2);
        assert!(table.get(known.number).is_none());
        assert!(found().is_none() && table.get(known.number).is_none());
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
    fn a_table_that_was_large_gives_room_back_once_nothing_more_is_forgotten() {
        let (table, root) = table();
        let parts = |at: u32| {
            let bytes = at.to_le_bytes().into();
            Parts::single(BranchIndex(0), Handle { kind: 1, bytes })
        };
        let entered: Vec<u64> = (0..10_000)
            .map(|at| table.enter(&parts(at), FileKind::File, &root, OsStr::new("x")).number)
            .collect();
        let room = table.by_number.capacity();
        assert!(!table.shrink(), "all are known");
        entered.iter().skip(100).for_each(|number| drop(table.forget(*number, 1)));
        assert!(!table.shrink(), "there were more a moment ago");
        assert!(table.shrink());
        assert!(table.by_number.capacity() < room / 8);
        assert!(!table.shrink(), "nothing is left to give");
        assert!(entered.iter().take(100).all(|number| table.get(*number).is_some()));
    }

    #[test]
    fn colliding_inodes_get_numbers_of_their_own_for_good() {
        let (table, root) = table();
        let b = |byte| Parts::single(BranchIndex(0), handle(byte));
        let wanted = hash(&Part { branch: BranchIndex(0), handle: handle(9) });
        let squatter = Arc::new(Inode::new(wanted, FileKind::File, None, Place::Gone, None));
        table.by_number.insert(wanted, squatter);
        assert!(table.find(BranchIndex(0), &handle(9)).is_none());
        let displaced = table.enter(&b(9), FileKind::File, &root, OsStr::new("x")).number;
        assert_ne!(displaced, wanted);
        assert_eq!(table.find(BranchIndex(0), &handle(9)).expect("entered").number, displaced);
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

    #[track_caller]
    fn move_to(table: &InodeTable, inode: &Inode, to: Parts) {
        let mut place = inode.switch();
        let to = Place::Branch(to);
        table.moved(inode.number, &place, &to);
        *place = to;
    }

    #[test]
    fn an_inode_that_moved_is_found_where_it_is_and_where_it_came_from_when_it_is_back() {
        let (table, root) = table();
        let source = || Parts::single(BranchIndex(0), handle(1));
        let target = || Parts::single(BranchIndex(1), handle(2));
        let find = |parts: Parts| table.find(parts.first.branch, &parts.first.handle);
        let inode = table.enter(&source(), FileKind::File, &root, OsStr::new("x"));
        assert!(table.by_handle.is_empty(), "its number leads to it");
        move_to(&table, &inode, target());
        assert!(find(source()).is_none());
        assert_eq!(find(target()).expect("moved").number, inode.number);
        let new = table.enter(&source(), FileKind::File, &root, OsStr::new("x"));
        assert_ne!(new.number, inode.number);
        table.forget(new.number, 1);
        move_to(&table, &inode, source());
        assert_eq!(find(source()).expect("it is back").number, inode.number);
        assert!(find(target()).is_none() && table.by_handle.is_empty());
        move_to(&table, &inode, target());
        table.forget(inode.number, 1);
        assert!(table.get(inode.number).is_none() && table.by_handle.is_empty());
    }

    #[test]
    fn a_forgotten_inode_that_moves_leaves_nothing_behind() {
        let (table, root) = table();
        let source = Parts::single(BranchIndex(0), handle(1));
        let inode = table.enter(&source, FileKind::File, &root, OsStr::new("x"));
        table.forget(inode.number, 1);
        move_to(&table, &inode, Parts::single(BranchIndex(1), handle(2)));
        assert!(table.by_handle.is_empty());
    }

    #[test]
    fn all_parts_of_a_merged_directory_lead_to_it() {
        let (table, root) = table();
        let part = |branch, byte| Part { branch: BranchIndex(branch), handle: handle(byte) };
        for byte in 0..=255 {
            let parts = Parts::merged([part(0, byte), part(1, byte)]).expect("parts");
            let entered = table.enter(&parts, FileKind::Directory, &root, OsStr::new("d"));
            for part in parts.iter() {
                assert_eq!(table.find_part(part).expect("entered").number, entered.number);
            }
            table.forget(entered.number, 1);
            assert!(parts.iter().all(|part| table.find_part(part).is_none()));
        }
        assert!(table.by_handle.is_empty());
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
        move_to(&table, &late, both);
        assert_eq!(table.find(BranchIndex(0), &handle(4)).expect("noted").number, late.number);
        table.forget(late.number, 2);
        assert!(table.find(BranchIndex(0), &handle(4)).is_none());
        assert!(table.find(BranchIndex(1), &handle(5)).is_none());
        assert!(table.by_handle.is_empty());
    }
}
