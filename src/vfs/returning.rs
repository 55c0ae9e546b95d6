//! Branches that come back while the view is mounted, and the names of transactions that wait for
//! one.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::ledger::record::CrossingRecord;
use crate::types::{BranchIndex, ViewPath};
use crate::view::locks::{Holder, Lock, LockGuard};
use crate::view::{Domain, Place};

use super::Vfs;

/// Names of transactions that are open though nobody is at them.
#[derive(Default)]
pub(super) struct LeftOpen {
    /// Each with its locks, which may be those of another too.
    held: Mutex<Vec<(ViewPath, Arc<LockGuard>)>>,
    /// Where a thread looks for names that are to be locked: its disk may hang.
    looking: Mutex<HashSet<Domain>>,
    /// Held by the thread that goes on with them.
    ending: Mutex<()>,
    /// A file system takes changes again.
    soon: AtomicBool,
}

/// What looks for names in a branch or pool. Dropped, another may.
struct Looking {
    vfs: Arc<Vfs>,
    domain: Domain,
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.vfs.left_open.looking.lock().remove(&self.domain);
    }
}

impl Vfs {
    /// To be called when a branch has come online again, its transactions recovered.
    pub fn branch_returned(&self, index: BranchIndex) {
        self.renew_folders();
        // Else what was noted of it would count again, should it leave before the next look.
        self.note_offline();
        self.lock_left_open(self.view.domain(index));
        self.give_up_old_files(index);
    }

    /// What is still open from before the branch left may be on a file system that is gone for good, and
    /// is not what the same name leads to now. Who opens it anew must not share with who has it
    /// open; on ESTALE the kernel looks the name up again, and gets another number.
    fn give_up_old_files(&self, index: BranchIndex) {
        let Some(branch) = self.branch(index).ok() else { return };
        let Ok(device) = branch.device() else { return };
        for file in self.view.handles.files() {
            if file.inode.place().branch() != Some(index) {
                continue;
            }
            let stat = branch.stat(file.descriptor().as_fd());
            if stat.is_ok_and(|stat| stat.device == device) {
                continue;
            }
            let mut place = file.inode.switch();
            if place.branch() == Some(index) {
                self.view.inodes.moved(file.inode.number, &place, &Place::Gone);
                *place = Place::Gone;
            }
        }
    }

    /// Locks the names of transactions that are open though nobody is at them, and releases those of
    /// transactions that have ended. In each branch and pool on a thread of its own, which nobody waits for.
    pub(super) fn tend_left_open(self: &Arc<Self>) {
        let names = self.left_open_names();
        let domains: HashSet<Domain> =
            names.iter().filter_map(|path| self.domain_of_path(path)).collect();
        for domain in domains {
            if !self.left_open.looking.lock().insert(domain) {
                continue;
            }
            let looking = Looking { vfs: Arc::clone(self), domain };
            let look = move || looking.vfs.lock_left_open(looking.domain);
            if let Err(error) = std::thread::Builder::new().name("left-open".into()).spawn(look) {
                log::warn!("cannot start a thread to lock names: {error}");
            }
        }
    }

    /// To be called when the file system of a branch takes changes again.
    pub fn branch_recovered(&self) {
        self.left_open.soon.store(true, Ordering::Relaxed);
    }

    /// Goes on with them, on a thread of its own, when something has changed or it is `due`.
    pub(super) fn go_on_with_left_open(self: &Arc<Self>, due: bool) {
        let soon = self.left_open.soon.swap(false, Ordering::Relaxed);
        if !(soon || due) || self.mover.left_open().is_empty() {
            return;
        }
        let vfs = Arc::clone(self);
        let go_on = move || {
            if let Some(_ending) = vfs.left_open.ending.try_lock() {
                vfs.end_left_open();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("left-open".into()).spawn(go_on) {
            log::warn!("cannot start a thread to go on with what was left open: {error}");
        }
    }

    /// The locks of the names of a transaction.
    pub(super) fn take_held(&self, record: &CrossingRecord) -> Vec<(ViewPath, Arc<LockGuard>)> {
        let of_it = |(path, _): &mut (ViewPath, Arc<LockGuard>)| {
            [&record.source, &record.target].contains(&&*path)
        };
        self.left_open.held.lock().extract_if(.., of_it).collect()
    }

    /// Keeps them on, until the transaction has ended.
    pub(super) fn keep_held(&self, held: Vec<(ViewPath, Arc<LockGuard>)>) {
        self.left_open.held.lock().extend(held);
    }

    /// Keeps the locks of a crossing that was left open on.
    pub(super) fn keep_locked(&self, names: [ViewPath; 2], locks: LockGuard) {
        let locks = Arc::new(locks);
        self.keep_held(names.map(|name| (name, Arc::clone(&locks))).into());
    }

    /// Locks those in a branch or pool.
    pub(super) fn lock_left_open(&self, domain: Domain) {
        let mut names = self.left_open_names();
        names.retain(|path| self.domain_of_path(path) == Some(domain));
        self.lock_names(names);
    }

    /// Releases those of transactions that have ended.
    fn left_open_names(&self) -> Vec<ViewPath> {
        let open = self.mover.left_open();
        let names: Vec<ViewPath> =
            open.into_iter().flat_map(|record| [record.source, record.target]).collect();
        self.left_open.held.lock().retain(|(path, _)| names.contains(path));
        names
    }

    pub(super) fn domain_of_path(&self, path: &ViewPath) -> Option<Domain> {
        self.branch_of_path(path).map(|branch| self.view.domain(branch))
    }

    /// Locks names, and what stands there: what is changed of it now would be lost when its transaction goes on
    /// with the copy. Names in an offline branch cannot be locked, and need it only when it is back; a merged folder
    /// has another number while its first member is offline.
    pub(super) fn lock_names(&self, paths: Vec<ViewPath>) {
        for path in paths {
            let (Some(folder), Some(name)) = (path.parent(), path.name()) else { continue };
            let Ok(folder) = self.walk(&folder) else { continue };
            let above = folder.ancestors().into_iter().map(|above| above.number);
            let above = std::iter::once(folder.number).chain(above).map(Lock::Folder).collect();
            let lock = Lock::Name(folder.number, name.to_owned());
            if self.left_open.held.lock().iter().any(|(_, guard)| guard.holds(&lock)) {
                continue;
            }
            let mut alone = vec![lock];
            if let Ok(there) = self.walk(&path) {
                alone.extend(Lock::whole(&there));
            }
            match self.view.locks.take(Holder::Crossing, &[&folder], alone, above) {
                Ok(guard) => self.left_open.held.lock().push((path, Arc::new(guard))),
                // Somebody is at it, and it is tried again.
                Err(errno) => log::debug!("{path}: {errno}"),
            }
        }
    }
}
