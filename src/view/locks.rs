//! Locks on names, folders and content, by which operations and crossings keep out of each other's
//! way.
//!
//! - [`Lock::Name`]: whoever makes, removes or replaces a name holds it alone for the time of the
//!   call; a crossing holds both its names from PREPARE to DONE.
//! - [`Lock::Folder`]: renaming or removing a directory holds it alone; a crossing shares that of
//!   every directory above its names.
//! - [`Lock::Content`]: whoever changes content or attributes of an inode shares it for the time of the
//!   call; a crossing holds its source's alone.
//!
//! An operation that meets a crossing is told at once (EBUSY). Operations that meet each other wait:
//! they are short. A set of locks is taken at once or not at all, so that nobody holds one while
//! waiting for another.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Errno;

/// What is locked; numbers are those of inodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lock {
    /// A name in a directory.
    Name(u64, OsString),
    /// A directory's own place in the tree.
    Folder(u64),
    /// Content and attributes.
    Content(u64),
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
    held: Mutex<HashMap<Lock, State>>,
    released: Condvar,
}

/// How long an operation waits for others, and a crossing for operations. Both are short calls; the
/// bound keeps a hanging disk from holding request workers for good.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl LockTable {
    /// Takes all of `alone` and `shared`. EBUSY at once if a crossing holds one of them in a way that
    /// conflicts, or if others hold one for too long.
    pub fn take(
        &self,
        holder: Holder,
        alone: Vec<Lock>,
        shared: Vec<Lock>,
    ) -> Result<LockGuard, Errno> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut held = self.0.held.lock();
        loop {
            let alone_in_way = alone.iter().filter_map(|lock| held.get(lock));
            let shared_in_way =
                shared.iter().filter_map(|lock| held.get(lock)).filter(|state| state.shared == 0);
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
            held.insert(lock.clone(), State { shared: 0, by_crossing });
        }
        for lock in &shared {
            let state = held.entry(lock.clone()).or_default();
            state.shared += 1;
            state.by_crossing |= by_crossing;
        }
        drop(held);
        Ok(LockGuard { table: self.clone(), alone, shared })
    }

    /// Takes locks for an ordinary operation.
    pub fn operation(&self, alone: Vec<Lock>, shared: Vec<Lock>) -> Result<LockGuard, Errno> {
        self.take(Holder::Operation, alone, shared)
    }

    fn release(&self, alone: &[Lock], shared: &[Lock]) {
        let mut held = self.0.held.lock();
        for lock in alone {
            held.remove(lock);
        }
        for lock in shared {
            if let Some(state) = held.get_mut(lock) {
                state.shared -= 1;
                if state.shared == 0 {
                    held.remove(lock);
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
            .take(Holder::Crossing, vec![name("a"), Lock::Content(9)], vec![Lock::Folder(1)])
            .expect("nothing is held");
        assert_eq!(table.operation(vec![name("a")], vec![]).err(), Some(Errno::BUSY));
        assert_eq!(table.operation(vec![Lock::Folder(1)], vec![]).err(), Some(Errno::BUSY));
        assert_eq!(table.operation(vec![], vec![Lock::Content(9)]).err(), Some(Errno::BUSY));
        assert!(table.operation(vec![name("b")], vec![]).is_ok());
        drop(crossing);
        assert!(table.operation(vec![name("a")], vec![Lock::Content(9)]).is_ok());
    }

    #[test]
    fn crossings_share_the_folders_above_them() {
        let table = LockTable::default();
        let one = table.take(Holder::Crossing, vec![name("a")], vec![Lock::Folder(1)]);
        let two = table.take(Holder::Crossing, vec![name("b")], vec![Lock::Folder(1)]);
        assert!(one.is_ok() && two.is_ok());
        drop(one);
        assert_eq!(table.operation(vec![Lock::Folder(1)], vec![]).err(), Some(Errno::BUSY));
        drop(two);
        assert!(table.operation(vec![Lock::Folder(1)], vec![]).is_ok());
    }

    #[test]
    fn a_refused_set_leaves_nothing_held() {
        let table = LockTable::default();
        let crossing = table.take(Holder::Crossing, vec![name("a")], vec![]).expect("free");
        assert!(table.operation(vec![name("b"), name("a")], vec![]).is_err());
        drop(crossing);
        assert!(table.0.held.lock().is_empty());
    }

    #[test]
    fn operations_wait_for_each_other() {
        let table = LockTable::default();
        let first = table.operation(vec![name("a")], vec![]).expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| table.operation(vec![name("a")], vec![]).is_ok());
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert!(second.join().expect("no panic"));
        });
    }
}
