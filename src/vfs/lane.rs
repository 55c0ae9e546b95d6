//! Which lane a request belongs to: what it will have to do with, told from memory alone, so that the
//! transport can keep a slow branch from holding up the others.
//!
//! Lane 0 is for what memory alone answers. Then each branch has one, for open files and what is no
//! directory; each pool has one, for directories and names, which all its members are asked for; one
//! is for `.audit`, which waits for the ledger, and the last for inodes whose place a crossing switches.

use std::ffi::OsStr;

use crate::branch::FileKind;
use crate::types::{BranchIndex, PoolIndex};
use crate::view::{Domain, Inode, Kept, LayoutIndex, Place};

use super::{AUDIT_NAME, Vfs};

impl Vfs {
    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.switching_lane().saturating_add(1)
    }

    fn audit_lane(&self) -> usize {
        self.branches.len().saturating_add(self.view.pools.len()).saturating_add(1)
    }

    fn switching_lane(&self) -> usize {
        self.audit_lane().saturating_add(1)
    }

    /// The lane of an inode.
    pub fn lane(&self, number: u64) -> usize {
        self.view.inodes.get(number).map_or(0, |inode| self.lane_of(&inode))
    }

    /// Whether a crossing switches the place of an inode, for which everybody has to wait.
    pub fn is_switching(&self, number: u64) -> bool {
        self.view.inodes.get(number).is_some_and(|inode| inode.try_place().is_none())
    }

    fn lane_of(&self, inode: &Inode) -> usize {
        let Some(place) = inode.try_place() else { return self.switching_lane() };
        match &*place {
            Place::Audit => self.audit_lane(),
            Place::Virtual | Place::Gone => 0,
            Place::Branch(parts) if inode.kind == FileKind::Directory => {
                self.lane_of_domain(self.view.domain(parts.first.branch))
            }
            Place::Branch(parts) => lane_of_branch(parts.first.branch),
        }
    }

    /// The lane of what was kept of an inode that has no name.
    pub fn lane_of_kept(&self, kept: &Kept) -> usize {
        let mut branches = kept.branches();
        match (branches.next(), branches.next()) {
            (None, _) => 0,
            (Some(branch), None) => lane_of_branch(branch),
            (Some(branch), Some(_)) => self.lane_of_domain(self.view.domain(branch)),
        }
    }

    /// The lane of an open file, wherever its inode is by now.
    pub fn lane_of_handle(&self, handle: u64, number: u64) -> usize {
        match self.view.handles.file(handle) {
            Some(file) => lane_of_branch(file.branch()),
            None => self.lane(number),
        }
    }

    /// The lane of a name in a directory: of what the layout has there, else that of the directory.
    pub fn lane_at(&self, parent: u64, name: &OsStr) -> usize {
        let Some(inode) = self.view.inodes.get(parent) else { return 0 };
        if inode.number == LayoutIndex::ROOT.number() && name == AUDIT_NAME {
            return self.audit_lane();
        }
        let child = inode.layout.and_then(|folder| self.view.layout.child(folder, name));
        match child {
            Some(child) => {
                let domain = self.view.layout.folder(child).domain;
                domain.map_or(0, |domain| self.lane_of_domain(domain))
            }
            None => self.lane_of(&inode),
        }
    }

    /// Whether a rename between directories of these lanes may be a transaction, which takes long: between
    /// branches, and between members of a pool.
    pub fn is_transaction(&self, source: usize, target: usize) -> bool {
        source != target || source > self.branches.len()
    }

    fn lane_of_domain(&self, domain: Domain) -> usize {
        match domain {
            Domain::Branch(branch) => lane_of_branch(branch),
            Domain::Pool(PoolIndex(pool)) => {
                usize::from(pool).saturating_add(self.branches.len()).saturating_add(1)
            }
        }
    }
}

fn lane_of_branch(branch: BranchIndex) -> usize {
    usize::from(branch.0).saturating_add(1)
}
