//! What the writer's callers see of it without asking.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::error::Errno;

/// What callers see of the writer, as raw errnos; 0 is none.
#[derive(Default)]
pub struct Health {
    /// Why mutations must not go on.
    pub mutations: AtomicI32,
    /// Why records are refused.
    pub appends: AtomicI32,
    /// Bytes after which a segment is followed by the next; the most there may be, where it is 0.
    pub segment_max: AtomicU64,
}

impl Health {
    /// Why mutations must not go on, and why records are refused.
    pub fn set(&self, mutations: Option<Errno>, appends: Option<Errno>) {
        let raw = |errno: Option<Errno>| errno.map_or(0, Errno::raw_os_error);
        self.mutations.store(raw(mutations), Ordering::Release);
        self.appends.store(raw(appends), Ordering::Release);
    }

    /// The errno of a field.
    pub fn check(field: &AtomicI32) -> Result<(), Errno> {
        match field.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}
