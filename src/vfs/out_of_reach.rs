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
    /// Changes of all branches when they were noted.
    epoch: u64,
    names: HashMap<(u64, OsString), BranchIndex>,
}

impl Vfs {
    /// Notes what is known to lie on branches that are offline, if any has changed since the last time.
    pub(super) fn note_offline(&self) {
        let epoch = self.branches.iter().map(|branch| branch.epoch()).sum();
        let mut noted = self.out_of_reach.lock();
        if noted.epoch == epoch {
            return;
        }
        let offline =
            |index: BranchIndex| self.branch(index).is_ok_and(|branch| !branch.is_online());
        noted.names.retain(|_, branch| offline(*branch));
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
            noted.epoch = epoch;
        }
    }

    /// Whether a name was last seen on a branch that is offline.
    pub(super) fn is_out_of_reach(&self, parent: u64, name: &OsStr) -> bool {
        self.note_offline();
        self.out_of_reach.lock().names.contains_key(&(parent, name.to_owned()))
    }
}
