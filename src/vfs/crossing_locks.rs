//! What a crossing keeps others out by, from before it is prepared until it has ended.

use std::time::{Duration, Instant};

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::after;
use crate::view::locks::{Holder, Lock, LockGuard};
use crate::view::{Inode, OpenFile};

use super::Vfs;
use super::site::Site;
use super::switch::is_below;

/// How long a crossing waits for files that were written to be closed: RELEASE comes after close(2) has returned. Who
/// writes on cannot close in time: rename(2) holds the lock on the inode that write(2) needs.
const WRITERS_WAIT: Duration = Duration::from_secs(1);
const WRITERS_POLL: Duration = Duration::from_millis(2);

impl Vfs {
    /// Locks both names and the source's content, and pins every folder above; of a directory,
    /// everything below.
    pub(super) fn lock_crossing(
        &self,
        inode: &Inode,
        source: &Site<'_>,
        target: &Site<'_>,
    ) -> Result<LockGuard, Errno> {
        let mut alone = vec![source.lock(), target.lock(), Lock::Content(inode.number)];
        let is_directory = inode.kind == FileKind::Directory;
        if is_directory {
            alone.extend([Lock::Folder(inode.number), Lock::Tree(inode.number)]);
        }
        let mut above: Vec<Lock> = [&source.parent.inode, &target.parent.inode]
            .into_iter()
            .flat_map(|parent| {
                let ancestors = parent.ancestors();
                std::iter::once(parent.number)
                    .chain(ancestors.into_iter().map(|ancestor| ancestor.number))
                    .collect::<Vec<_>>()
            })
            .map(Lock::Folder)
            .collect();
        above.dedup();
        let ends = [&*source.parent.inode, &*target.parent.inode];
        let locks = self.view.locks.take(Holder::Crossing, &ends, alone, above)?;
        self.check_place(&source.parent)?;
        self.check_place(&target.parent)?;
        if is_directory {
            let inside = |number| {
                let known = self.view.inodes.get(number);
                number == inode.number || known.is_some_and(|at| is_below(&at, inode.number))
            };
            self.view.locks.wait_for_tree(&locks, inside)?;
        }
        Ok(locks)
    }

    /// Waits until nobody has the source, or anything in it, open for writing.
    pub(super) fn wait_for_writers(&self, inode: &Inode) -> Result<(), Errno> {
        let deadline = after(Instant::now(), WRITERS_WAIT);
        while self.has_writers(inode) {
            if Instant::now() >= deadline {
                return Err(Errno::BUSY);
            }
            std::thread::sleep(WRITERS_POLL);
        }
        Ok(())
    }

    pub(super) fn has_writers(&self, inode: &Inode) -> bool {
        match inode.kind {
            FileKind::Directory => {
                let inside = |file: &OpenFile| file.writable && is_below(&file.inode, inode.number);
                self.view.handles.any_file(inside)
            }
            _ => inode.writers() > 0,
        }
    }
}
