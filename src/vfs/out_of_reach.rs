//! Names that were last seen on a branch that is offline now. In a pool such a name answers EIO, not
//! ENOENT, and is not made anew on another member. The kernel forgets the inode with the first
//! error, so they are noted here when a branch goes offline.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use crate::types::BranchIndex;
use crate::view::Inode;
use crate::view::inode::Name;

use super::Vfs;

/// The names, by the numbers of their directories.
#[derive(Debug, Default)]
pub(super) struct OutOfReach {
    /// The state of all branches when they were noted: how often each has changed, and whether it is
    /// online. That it is not is seen a moment before the change is counted.
    noted: Vec<(u64, bool)>,
    names: HashMap<(u64, OsString), BranchIndex>,
}

impl Vfs {
    /// To be called when a branch has gone offline: what the kernel forgets from now on was known.
    pub fn branch_left(&self) {
        self.note_offline();
    }

    /// Notes what is known to lie on branches that are offline, if any has changed since the last time.
    pub(super) fn note_offline(&self) {
        let mut noted = self.out_of_reach.lock();
        let states = || self.branches.iter().map(|branch| (branch.epoch(), branch.is_online()));
        if states().eq(noted.noted.iter().copied()) {
            return;
        }
        let now: Vec<_> = states().collect();
        let offline =
            |index: BranchIndex| self.branch(index).is_ok_and(|branch| !branch.is_online());
        noted.names.retain(|_, branch| offline(*branch));
        self.let_go_of(offline);
        // What is being switched is looked at the next time: nobody who makes something in this pool is to
        // wait for a crossing elsewhere.
        let complete = Cell::new(true);
        let lost = |inode: &Inode| match inode.try_place() {
            Some(place) => place.branch().filter(|branch| offline(*branch)),
            None => {
                complete.set(false);
                None
            }
        };
        for inode in self.view.inodes.collect(|inode| lost(inode).is_some()) {
            let Some(branch) = lost(&inode) else { continue };
            for Name { parent, name, .. } in inode.names() {
                noted.names.insert((parent.number, name.into()), branch);
            }
        }
        if complete.get() {
            noted.noted = now;
        }
    }

    /// Closes what is kept on branches, whose disks are to be unmounted: on a thread for which nobody waits, for
    /// they may hang.
    fn let_go_of(&self, branches: impl Fn(BranchIndex) -> bool) {
        if self.view.inodes.kept.all() == 0 {
            return;
        }
        let inodes = self.view.inodes.collect(|inode| inode.keeps_on(&branches));
        let kept: Vec<_> = inodes.iter().filter_map(|inode| inode.let_go()).collect();
        let close = move || drop(kept);
        if let Err(error) = std::thread::Builder::new().name("let-go".into()).spawn(close) {
            log::warn!("cannot start a thread to close what a branch has: {error}");
        }
    }

    /// Whether a name was last seen on a branch that is offline.
    pub(super) fn is_out_of_reach(&self, parent: u64, name: &OsStr) -> bool {
        self.note_offline();
        self.out_of_reach.lock().names.contains_key(&(parent, name.to_owned()))
    }
}
