//! What a crossing keeps others out by, from before it is prepared until it has ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::after;
use crate::view::locks::{Holder, Lock, LockGuard};
use crate::view::{Inode, OpenFile, Parts};

use super::Vfs;
use super::site::{Node, Site, Standing, directories};
use super::switch::is_below;

/// How long a crossing waits for files that were written to be closed: RELEASE comes after close(2) has returned. Who
/// writes on cannot close in time: rename(2) holds the lock on the inode that write(2) needs.
const WRITERS_WAIT: Duration = Duration::from_secs(1);
const WRITERS_POLL: Duration = Duration::from_millis(2);
/// Meanwhile rename(2) keeps all others of the view that lead to another folder waiting: of its time, an ordinary user may
/// take one part in so many for this, once the first wait is used up.
const WRITERS_SHARE: u32 = 20;
/// Users who are remembered for that.
const WAITING_MAX: usize = 4096;

/// How long users may still wait for writers, as of a moment.
#[derive(Default)]
pub(super) struct WriterWaits(Mutex<HashMap<u32, (Duration, Instant)>>);

impl WriterWaits {
    /// How long a user may wait now.
    fn left(&self, uid: u32, now: Instant) -> Duration {
        let Some((left, since)) = self.0.lock().get(&uid).copied() else { return WRITERS_WAIT };
        let earned = now.saturating_duration_since(since).checked_div(WRITERS_SHARE);
        left.saturating_add(earned.unwrap_or_default()).min(WRITERS_WAIT)
    }

    /// A user has waited from one moment to another.
    fn spend(&self, uid: u32, (begun, ended): (Instant, Instant)) {
        let left = self.left(uid, begun).saturating_sub(ended.saturating_duration_since(begun));
        let mut users = self.0.lock();
        if users.len() >= WAITING_MAX {
            // Who has all of it again need not be remembered.
            let whole = WRITERS_WAIT.saturating_mul(WRITERS_SHARE);
            users.retain(|_, (_, since)| ended.saturating_duration_since(*since) < whole);
        }
        users.insert(uid, (left, ended));
    }
}

impl Vfs {
    /// Locks both names and the source's content, and pins every folder above; of a directory,
    /// everything below. A directory that is replaced stays where it is, and in a pool without new parts. ESTALE
    /// where something of that has changed since the caller looked.
    pub(super) fn lock_crossing(
        &self,
        inode: &Inode,
        source: &Site<'_>,
        target: &Site<'_>,
    ) -> Result<LockGuard, Errno> {
        let mut alone = vec![source.lock(), target.lock()];
        alone.extend(Lock::whole(inode));
        let is_directory = inode.kind == FileKind::Directory;
        let replaced = self.folder_at(target)?;
        alone.extend(replaced.map(Lock::Folder));
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
        if above.iter().any(|lock| alone.contains(lock)) {
            return Err(Errno::BUSY);
        }
        let ends = [&*source.parent.inode, &*target.parent.inode];
        let locks = self.view.locks.take(Holder::Crossing, &ends, alone, above)?;
        self.check_place(&source.parent)?;
        self.check_place(&target.parent)?;
        self.check_all_parts(&target.parent)?;
        if self.folder_at(target)? != replaced {
            return Err(Errno::STALE);
        }
        if is_directory {
            let inside = |number| {
                let known = self.view.inodes.get(number);
                number == inode.number || known.is_some_and(|at| is_below(&at, inode.number))
            };
            self.view.locks.wait_for_tree(&locks, inside)?;
        }
        Ok(locks)
    }

    /// The number of the directory that a name stands for, if it is one.
    fn folder_at(&self, site: &Site<'_>) -> Result<Option<u64>, Errno> {
        let standings = self.standings(&site.parent, &site.name)?;
        if !standings.first().is_some_and(Standing::is_directory) {
            return Ok(None);
        }
        let parts = Parts::merged(directories(&standings));
        Ok(parts.map(|parts| self.view.inodes.number_of(&parts)))
    }

    /// Whether a directory has no parts but those that were opened: somebody may have had one more made.
    fn check_all_parts(&self, node: &Node<'_>) -> Result<(), Errno> {
        let parts = node.inode.place().parts().cloned().ok_or(Errno::STALE)?;
        for part in parts.iter() {
            if node.part_on(part.branch).is_none() && self.branch(part.branch)?.is_online() {
                return Err(Errno::STALE);
            }
        }
        Ok(())
    }

    /// Waits until nobody has the source, or anything in it, open for writing. EBUSY, for an ordinary user at once who has
    /// waited much of late.
    pub(super) fn wait_for_writers(&self, uid: u32, inode: &Inode) -> Result<(), Errno> {
        if !self.has_writers(inode) {
            return Ok(());
        }
        let begun = Instant::now();
        let privileged = self.is_privileged(uid);
        let wait = if privileged { WRITERS_WAIT } else { self.writer_waits.left(uid, begun) };
        let deadline = after(begun, wait);
        let waited = loop {
            if Instant::now() >= deadline {
                break Err(Errno::BUSY);
            }
            std::thread::sleep(WRITERS_POLL);
            if !self.has_writers(inode) {
                break Ok(());
            }
        };
        if !privileged {
            self.writer_waits.spend(uid, (begun, Instant::now()));
        }
        waited
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_again_and_again_waits_less() {
        let (waits, begun) = (WriterWaits::default(), Instant::now());
        assert_eq!(waits.left(7, begun), WRITERS_WAIT);
        let ended = begun + WRITERS_WAIT;
        waits.spend(7, (begun, ended));
        assert_eq!(waits.left(7, ended), Duration::ZERO);
        assert_eq!(waits.left(8, ended), WRITERS_WAIT);
        let later = ended + Duration::from_secs(10);
        assert_eq!(waits.left(7, later), Duration::from_millis(500));
        waits.spend(7, (later, later + Duration::from_millis(100)));
        assert_eq!(waits.left(7, later + Duration::from_millis(100)), Duration::from_millis(400));
        assert_eq!(waits.left(7, later + Duration::from_secs(600)), WRITERS_WAIT);
    }
}
