//! What leads to inodes that have no name any more.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::types::BranchIndex;

/// How many descriptors are kept, and for whom.
#[derive(Debug, Default)]
pub struct KeptCounts {
    all: AtomicUsize,
    /// By owner; who has none is not in it.
    by: DashMap<u32, usize>,
}

impl KeptCounts {
    /// How many are kept.
    pub fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// How many are kept of what a user owns.
    pub fn of(&self, uid: u32) -> usize {
        self.by.get(&uid).map_or(0, |kept| *kept)
    }
}

/// `O_PATH` descriptors of what loses its last name, by branch: who has it as working directory, open as
/// a fifo or mounted elsewhere goes on using it, and a branch does not find it by its handle any more.
/// Dropped, its file system may free it, which may take long.
#[derive(Debug)]
pub struct Kept {
    parts: Vec<(BranchIndex, OwnedFd)>,
    uid: u32,
    counts: Arc<KeptCounts>,
}

impl Kept {
    /// Counts descriptors of what `uid` owns, while they are kept.
    pub fn new(counts: &Arc<KeptCounts>, uid: u32, parts: Vec<(BranchIndex, OwnedFd)>) -> Self {
        counts.all.fetch_add(parts.len(), Ordering::Relaxed);
        let mut kept = counts.by.entry(uid).or_default();
        *kept = kept.saturating_add(parts.len());
        drop(kept);
        Self { parts, uid, counts: Arc::clone(counts) }
    }

    /// That of a branch.
    pub fn part(&self, branch: BranchIndex) -> Option<&OwnedFd> {
        self.parts.iter().find(|(at, _)| *at == branch).map(|(_, descriptor)| descriptor)
    }

    /// The branches that it is on.
    pub fn branches(&self) -> impl Iterator<Item = BranchIndex> {
        self.parts.iter().map(|(branch, _)| *branch)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.counts.all.fetch_sub(self.parts.len(), Ordering::Relaxed);
        self.counts.by.remove_if_mut(&self.uid, |_, kept| {
            *kept = kept.saturating_sub(self.parts.len());
            *kept == 0
        });
    }
}
