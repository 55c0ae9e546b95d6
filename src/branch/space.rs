//! Space of the file system that a branch lies on.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;

use crate::error::Errno;

use super::Branch;

/// statfs(2) as FUSE carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceStat {
    /// Size of a block in bytes.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub blocks_free: u64,
    /// Blocks free for users other than root.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
    /// Nothing can be changed.
    pub read_only: bool,
}

/// A part of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceLimit {
    /// Hundredths of its size, at most 100.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

impl SpaceLimit {
    /// In bytes, of a file system of that size.
    pub fn of(self, size: u64) -> u64 {
        match self {
            // Divided first: the loss is less than a hundred bytes.
            Self::Percent(percent) => (size / 100).saturating_mul(percent.into()),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Default for SpaceStat {
    fn default() -> Self {
        Self {
            block_size: 4096,
            blocks: 0,
            blocks_free: 0,
            blocks_available: 0,
            files: 0,
            files_free: 0,
            name_max: 255,
            read_only: false,
        }
    }
}

impl SpaceStat {
    /// Adds another file system, in blocks of this one's size.
    pub fn add(&mut self, other: &Self) {
        let (ours, theirs) = (u64::from(self.block_size.max(1)), u64::from(other.block_size));
        let scaled = |blocks: u64| blocks.saturating_mul(theirs).checked_div(ours).unwrap_or(0);
        self.blocks = self.blocks.saturating_add(scaled(other.blocks));
        self.blocks_free = self.blocks_free.saturating_add(scaled(other.blocks_free));
        self.blocks_available =
            self.blocks_available.saturating_add(scaled(other.blocks_available));
        self.files = self.files.saturating_add(other.files);
        self.files_free = self.files_free.saturating_add(other.files_free);
        self.name_max = self.name_max.min(other.name_max);
    }
}

/// Space of what was removed longer ago is free, unless somebody has it open.
const FREED_WITHIN: Duration = Duration::from_secs(1);

/// So many wait for it at a time.
const WAITING_MAX: usize = 4;

impl Branch {
    /// Notes that something lost its name, or was closed without one. Its space is free when the kernel has
    /// forgotten it, or when its last close, which nobody waits for, has been done.
    pub fn note_removed(&self) {
        *self.removed.lock() = Some(Instant::now());
    }

    /// As if nothing had been removed for long.
    #[cfg(test)]
    pub fn forget_removed(&self) {
        *self.removed.lock() = None;
    }

    /// Waits for more space if there may be some in a moment, and few wait for it already: who waits takes a thread
    /// from those who use the branch. Whether it has.
    pub fn wait_for_removed(&self, pause: Duration) -> bool {
        let soon = self.removed.lock().is_some_and(|removed| removed.elapsed() < FREED_WITHIN);
        let waits = soon && self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX;
        if waits {
            std::thread::sleep(pause);
        }
        if soon {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        waits
    }

    /// Space of the branch's file system.
    pub fn statfs(&self) -> Result<SpaceStat, Errno> {
        space_of(&self.online()?.root)
    }

    /// Space of the branch's file system for something new. EROFS where it takes no changes.
    pub fn space_for_changes(&self) -> Result<SpaceStat, Errno> {
        let space = self.statfs()?;
        if space.read_only || self.is_read_only() { Err(Errno::ROFS) } else { Ok(space) }
    }
}

/// Space of the file system of an open directory.
pub(super) fn space_of(directory: &OwnedFd) -> Result<SpaceStat, Errno> {
    let stat = rustix::fs::fstatvfs(directory)?;
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(SpaceStat {
        block_size: narrow(stat.f_frsize),
        blocks: stat.f_blocks,
        blocks_free: stat.f_bfree,
        blocks_available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
        name_max: narrow(stat.f_namemax),
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}
