//! Which branch or pool a request will have to do with, told from memory alone, so that the transport can
//! keep a slow one from holding up the others.

use std::ffi::OsStr;

use crate::types::PoolIndex;
use crate::view::{Domain, Inode};

use super::Vfs;

impl Vfs {
    /// How many branches and pools can hold up requests; their lanes are numbered from 1.
    pub fn lanes(&self) -> usize {
        self.branches.len().saturating_add(self.view.pools.len())
    }

    /// The lane of an inode; 0 for one that lies in no branch. `None` while a crossing switches its
    /// place, for which everybody has to wait.
    pub fn lane(&self, number: u64) -> Option<usize> {
        match self.view.inodes.get(number) {
            Some(inode) => self.lane_of(&inode),
            None => Some(0),
        }
    }

    fn lane_of(&self, inode: &Inode) -> Option<usize> {
        let branch = inode.try_place()?.branch();
        Some(branch.map_or(0, |branch| self.lane_of_domain(self.view.domain(branch))))
    }

    /// The lane of a name in a directory: of what the layout has there, else that of the directory.
    pub fn lane_at(&self, parent: u64, name: &OsStr) -> Option<usize> {
        let Some(inode) = self.view.inodes.get(parent) else { return Some(0) };
        let child = inode.layout.and_then(|folder| self.view.layout.child(folder, name));
        match child {
            Some(child) => {
                let domain = self.view.layout.folder(child).domain;
                Some(domain.map_or(0, |domain| self.lane_of_domain(domain)))
            }
            None => self.lane_of(&inode),
        }
    }

    /// Whether a rename between directories of these lanes may be a transaction, which takes long: between
    /// branches, and between members of a pool.
    pub fn is_transaction(&self, source: Option<usize>, target: Option<usize>) -> bool {
        source != target || source.is_none_or(|lane| lane > self.branches.len())
    }

    fn lane_of_domain(&self, domain: Domain) -> usize {
        match domain {
            Domain::Branch(branch) => usize::from(branch.0).saturating_add(1),
            Domain::Pool(PoolIndex(pool)) => {
                usize::from(pool).saturating_add(self.branches.len()).saturating_add(1)
            }
        }
    }
}
