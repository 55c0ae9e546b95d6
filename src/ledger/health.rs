//! What the writer's callers see of it without asking.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::record::GapRecord;
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
    /// What was refused and is not recorded yet.
    refused: Mutex<Option<Refused>>,
}

/// Operations that could not be recorded.
struct Refused {
    count: u64,
    since: jiff::Timestamp,
    until: jiff::Timestamp,
}

impl Health {
    /// Why mutations must not go on, and why records are refused.
    pub fn set(&self, mutations: Option<Errno>, appends: Option<Errno>) {
        let raw = |errno: Option<Errno>| errno.map_or(0, Errno::raw_os_error);
        self.mutations.store(raw(mutations), Ordering::Release);
        self.appends.store(raw(appends), Ordering::Release);
    }

    /// Counts what nobody waits for and is not taken.
    pub fn refuse(&self, time: jiff::Timestamp, count: u64) {
        let mut refused = self.refused.lock();
        let all = refused.get_or_insert(Refused { count: 0, since: time, until: time });
        all.count = all.count.saturating_add(count);
        (all.since, all.until) = (all.since.min(time), all.until.max(time));
    }

    /// The record of what was refused since the last such record, if anything was.
    pub fn take_refused(&self) -> Option<GapRecord> {
        let Refused { count, since, until } = self.refused.lock().take()?;
        let text = |time| Some(format!("{time:.9}"));
        let (since, until) = (text(since), text(until));
        Some(GapRecord { torn_bytes: 0, unrecorded: Some(count), since, until })
    }

    /// The errno of a field.
    pub fn check(field: &AtomicI32) -> Result<(), Errno> {
        match field.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}
