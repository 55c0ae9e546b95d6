//! What the mount shows, as state: the folders that the configuration lays out, the inodes that the
//! kernel knows, the files and directories that are open, and the locks on names.
//!
//! Nothing here decides, records or touches a disk. What the kernel must forget is sent as an
//! [`Invalidation`] on a channel that the transport drains, never while a request is being handled.

use std::ffi::OsString;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::types::{BranchIndex, PoolIndex};

mod epoch;
pub mod handles;
pub mod inode;
pub mod kept;
pub mod layout;
pub mod listing;
pub mod locks;
pub mod pool;
#[cfg(test)]
mod stale;
pub mod table;

pub use epoch::{UNSETTLED, change_classes, in_epoch};
pub use handles::{Handles, OpenDirectory, OpenFile};
pub use inode::{Inode, Part, Parts, Place};
pub use kept::Kept;
pub use layout::{Layout, LayoutIndex};
pub use listing::{Listed, Listings};
pub use locks::{Lock, LockTable};
pub use pool::{Domain, Pool};
pub use table::InodeTable;

/// What the listings of open directories may take together, in bytes, unless a quarter of the memory is less.
const LISTINGS_MAX: usize = 2 << 30;

/// Something that the kernel caches and that is no longer so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// A name in a directory.
    Entry {
        /// Number of the directory.
        parent: u64,
        /// The name.
        name: OsString,
    },
    /// Attributes and content of an inode.
    Inode {
        /// Its number.
        number: u64,
    },
}

/// How much is known and open: what the daemon keeps for the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Known {
    /// Inodes that the kernel knows, and the folders of the layout.
    pub inodes: usize,
    /// Open files.
    pub files: usize,
    /// Open directories.
    pub directories: usize,
}

/// State of one view.
#[derive(Debug)]
pub struct View {
    /// The folders that the configuration lays out.
    pub layout: Layout,
    /// In order of the configuration.
    pub pools: Vec<Pool>,
    /// The inodes that the kernel knows.
    pub inodes: InodeTable,
    /// Open files and directories.
    pub handles: Handles,
    /// What the listings of open directories take.
    pub listings: Arc<Listings>,
    /// Locks on names, folders and content.
    pub locks: LockTable,
    invalidations: Sender<Invalidation>,
}

impl View {
    /// An empty view over a layout, and the end of the channel that the transport drains.
    pub fn new(layout: Layout, pools: Vec<Pool>) -> (Self, Receiver<Invalidation>) {
        let listings_max = LISTINGS_MAX.min(crate::sys::memory::total() / 4);
        let (sender, receiver) = crossbeam_channel::unbounded();
        let view = Self {
            layout,
            pools,
            inodes: InodeTable::default(),
            handles: Handles::default(),
            listings: Listings::new(listings_max),
            locks: LockTable::default(),
            invalidations: sender,
        };
        (view, receiver)
    }

    /// The pool that a branch is a member of.
    pub fn pool_of(&self, branch: BranchIndex) -> Option<(PoolIndex, &Pool)> {
        let found = self.pools.iter().enumerate();
        let mut found = found.filter(|(_, pool)| pool.members.contains(&branch));
        found.next().map(|(at, pool)| (PoolIndex(at as u16), pool))
    }

    /// The domain of a branch.
    pub fn domain(&self, branch: BranchIndex) -> Domain {
        self.pool_of(branch).map_or(Domain::Branch(branch), |(pool, _)| Domain::Pool(pool))
    }

    /// The branches of a domain in order of precedence.
    pub fn members(&self, domain: Domain) -> Vec<BranchIndex> {
        match domain {
            Domain::Branch(branch) => vec![branch],
            Domain::Pool(PoolIndex(at)) => {
                self.pools.get(usize::from(at)).map(|pool| pool.members.clone()).unwrap_or_default()
            }
        }
    }

    /// How much is known and open. Others may be adding and removing while it counts.
    pub fn known(&self) -> Known {
        let (files, directories) = self.handles.count();
        Known { inodes: self.inodes.count(), files, directories }
    }

    /// Asks the transport to have the kernel forget something, once the request is answered. Without
    /// a transport nothing is to be forgotten.
    pub fn invalidate(&self, what: Invalidation) {
        let _ = self.invalidations.send(what);
    }
}
