//! Locks on names, folders and content, by which operations and crossings keep out of each other's
//! way.
//!
//! - [`Lock::Name`]: whoever makes, removes or replaces a name holds it alone for the time of the
//!   call; a crossing holds both its names from PREPARE to DONE.
//! - [`Lock::Folder`]: renaming or removing a directory holds it alone; a crossing shares that of
//!   every directory above its names.
//! - [`Lock::Content`]: whoever changes content or attributes of an inode shares it for the time of the
//!   call; a crossing holds its source's alone.
//! - [`Lock::Tree`]: a crossing holds that of the directory that it moves; whoever wants any lock at or
//!   below the directory is in its way.
//!
//! An operation that meets a crossing is told at once (EBUSY). Operations that meet each other wait:
//! they are short. A set of locks is taken at once or not at all, so that nobody holds one while
//! waiting for another.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::after;

use super::inode::Inode;

/// What is locked; numbers are those of inodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lock {
    /// A name in a directory.
    Name(u64, OsString),
    /// A directory's own place in the tree.
    Folder(u64),
    /// Content and attributes.
    Content(u64),
    /// Everything at and below a directory.
    Tree(u64),
}

impl Lock {
    /// What keeps others from changing an inode; of a directory, also what is below it and its place.
    pub fn whole(inode: &Inode) -> Vec<Self> {
        let number = inode.number;
        match inode.kind {
            FileKind::Directory => {
                vec![Self::Content(number), Self::Folder(number), Self::Tree(number)]
            }
            _ => vec![Self::Content(number)],
        }
    }

    /// The inode that it is about.
    fn number(&self) -> u64 {
        match self {
            Self::Name(number, _)
            | Self::Folder(number)
            | Self::Content(number)
            | Self::Tree(number) => *number,
        }
    }
}

/// Who wants locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An ordinary operation.
    Operation,
    /// A crossing.
    Crossing,
}

#[derive(Debug, Default)]
struct State {
    /// Holders of a lock that is shared; 0 when it is held alone.
    shared: usize,
    by_crossing: bool,
}

/// See the module. Cheap to clone; all clones are one table.
#[derive(Debug, Clone, Default)]
pub struct LockTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    locks: HashMap<Lock, State>,
    /// How many of them are of trees.
    trees: usize,
}

impl Held {
    /// Whether a place lies at or below a directory that is crossing.
    fn crosses(&self, inode: &Inode) -> bool {
        let crossing = |number| self.locks.contains_key(&Lock::Tree(number));
        self.trees > 0
            && (crossing(inode.number)
                || inode.ancestors().iter().any(|above| crossing(above.number)))
    }
}

/// How long an operation waits for others, and a crossing for operations. Both are short calls; the
/// bound keeps a hanging disk from holding request workers for good.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl LockTable {
    /// Takes all of `alone` and `shared`; `at` are the directories or inodes that they are about. EBUSY
    /// at once if a crossing holds one of them in a way that conflicts, or a tree that `at` lies in;
    /// or if others hold one for too long.
    pub fn take(
        &self,
        holder: Holder,
        at: &[&Inode],
        alone: Vec<Lock>,
        shared: Vec<Lock>,
    ) -> Result<LockGuard, Errno> {
        let deadline = after(Instant::now(), WAIT_MAX);
        let mut held = self.0.held.lock();
        loop {
            if at.iter().any(|inode| held.crosses(inode)) {
                return Err(Errno::BUSY);
            }
            let locks = &held.locks;
            let alone_in_way = alone.iter().filter_map(|lock| locks.get(lock));
            let shared_in_way =
                shared.iter().filter_map(|lock| locks.get(lock)).filter(|state| state.shared == 0);
            let mut in_way = alone_in_way.chain(shared_in_way).peekable();
            if in_way.peek().is_none() {
                break;
            }
            if in_way.any(|state| state.by_crossing) {
                return Err(Errno::BUSY);
            }
            if self.0.released.wait_until(&mut held, deadline).timed_out() {
                return Err(Errno::BUSY);
            }
        }
        let by_crossing = holder == Holder::Crossing;
        for lock in &alone {
            held.locks.insert(lock.clone(), State { shared: 0, by_crossing });
            held.trees = held.trees.saturating_add(usize::from(matches!(lock, Lock::Tree(_))));
        }
        for lock in &shared {
            let state = held.locks.entry(lock.clone()).or_default();
            state.shared = state.shared.saturating_add(1);
            state.by_crossing |= by_crossing;
        }
        drop(held);
        Ok(LockGuard { table: self.clone(), alone, shared })
    }

    /// Takes locks for an ordinary operation.
    pub fn operation(
        &self,
        at: &[&Inode],
        alone: Vec<Lock>,
        shared: Vec<Lock>,
    ) -> Result<LockGuard, Errno> {
        self.take(Holder::Operation, at, alone, shared)
    }

    /// Waits until nobody else holds a lock for which `inside` holds; who comes later is turned away by
    /// the tree's lock that `guard` has. EBUSY if one of them is a crossing's.
    pub fn wait_for_tree(
        &self,
        guard: &LockGuard,
        inside: impl Fn(u64) -> bool,
    ) -> Result<(), Errno> {
        let deadline = after(Instant::now(), WAIT_MAX);
        let mut held = self.0.held.lock();
        loop {
            let others = held.locks.iter().filter(|(lock, _)| !guard.alone.contains(lock));
            let mut in_way = others.filter(|(lock, _)| inside(lock.number())).peekable();
            if in_way.peek().is_none() {
                return Ok(());
            }
            if in_way.any(|(_, state)| state.by_crossing) {
                return Err(Errno::BUSY);
            }
            if self.0.released.wait_until(&mut held, deadline).timed_out() {
                return Err(Errno::BUSY);
            }
        }
    }

    fn release(&self, alone: &[Lock], shared: &[Lock]) {
        let mut held = self.0.held.lock();
        for lock in alone {
            held.locks.remove(lock);
            held.trees = held.trees.saturating_sub(usize::from(matches!(lock, Lock::Tree(_))));
        }
        for lock in shared {
            if let Some(state) = held.locks.get_mut(lock) {
                state.shared = state.shared.saturating_sub(1);
                if state.shared == 0 {
                    held.locks.remove(lock);
                }
            }
        }
        drop(held);
        self.0.released.notify_all();
    }
}

/// Holds locks until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct LockGuard {
    table: LockTable,
    alone: Vec<Lock>,
    shared: Vec<Lock>,
}

impl LockGuard {
    /// Whether it holds a lock alone.
    pub fn holds(&self, lock: &Lock) -> bool {
        self.alone.contains(lock)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.table.release(&self.alone, &self.shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Lock {
        Lock::Name(1, text.into())
    }

    #[test]
    fn an_operation_that_meets_a_crossing_is_told_at_once() {
        let table = LockTable::default();
        let crossing = table
            .take(Holder::Crossing, &[], vec![name("a"), Lock::Content(9)], vec![Lock::Folder(1)])
            .expect("nothing is held");
        assert_eq!(table.operation(&[], vec![name("a")], vec![]).err(), Some(Errno::BUSY));
        assert_eq!(table.operation(&[], vec![Lock::Folder(1)], vec![]).err(), Some(Errno::BUSY));
        assert_eq!(table.operation(&[], vec![], vec![Lock::Content(9)]).err(), Some(Errno::BUSY));
        assert!(table.operation(&[], vec![name("b")], vec![]).is_ok());
        drop(crossing);
        assert!(table.operation(&[], vec![name("a")], vec![Lock::Content(9)]).is_ok());
    }

    #[test]
    fn crossings_share_the_folders_above_them() {
        let table = LockTable::default();
        let one = table.take(Holder::Crossing, &[], vec![name("a")], vec![Lock::Folder(1)]);
        let two = table.take(Holder::Crossing, &[], vec![name("b")], vec![Lock::Folder(1)]);
        assert!(one.is_ok() && two.is_ok());
        drop(one);
        assert_eq!(table.operation(&[], vec![Lock::Folder(1)], vec![]).err(), Some(Errno::BUSY));
        drop(two);
        assert!(table.operation(&[], vec![Lock::Folder(1)], vec![]).is_ok());
    }

    #[test]
    fn a_refused_set_leaves_nothing_held() {
        let table = LockTable::default();
        let crossing = table.take(Holder::Crossing, &[], vec![name("a")], vec![]).expect("free");
        assert!(table.operation(&[], vec![name("b"), name("a")], vec![]).is_err());
        drop(crossing);
        assert!(table.0.held.lock().locks.is_empty());
    }

    #[test]
    fn operations_wait_for_each_other() {
        let table = LockTable::default();
        let first = table.operation(&[], vec![name("a")], vec![]).expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| table.operation(&[], vec![name("a")], vec![]).is_ok());
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert!(second.join().expect("no panic"));
        });
    }

    #[test]
    fn nothing_goes_on_in_a_tree_that_crosses() {
        use crate::branch::FileKind;
        use crate::types::{BranchIndex, Handle};
        use crate::view::{InodeTable, LayoutIndex, Parts, Place};
        let inodes = InodeTable::default();
        let root = inodes.add_folder(LayoutIndex::ROOT, Place::Virtual, None);
        let enter = |byte: u8, parent: &Arc<Inode>| {
            let handle = Handle { kind: 1, bytes: [byte].into() };
            let parts = Parts::single(BranchIndex(0), handle);
            inodes.enter(&parts, FileKind::Directory, parent, std::ffi::OsStr::new("d"))
        };
        let tree = enter(1, &root);
        let below = enter(2, &tree);
        let beside = enter(3, &root);
        let table = LockTable::default();
        let content = |inode: &Inode| vec![Lock::Content(inode.number)];

        let early = table.operation(&[&below], vec![], content(&below)).expect("free");
        let crossing = table
            .take(Holder::Crossing, &[&root], vec![Lock::Tree(tree.number)], vec![])
            .expect("free");
        let inside = |number| number == below.number;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| table.wait_for_tree(&crossing, inside));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished());
            drop(early);
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
        });
        for inode in [&tree, &below] {
            let refused = table.operation(&[inode], vec![], content(inode));
            assert_eq!(refused.err(), Some(Errno::BUSY));
        }
        assert!(table.operation(&[&beside], vec![], content(&beside)).is_ok());
        drop(crossing);
        assert!(table.operation(&[&below], vec![], content(&below)).is_ok());
    }
}
