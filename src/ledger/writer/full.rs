//! What the writer does on a full disk.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::super::encode;
use super::super::record::Record;
use super::{GROUP_DELAY, Waiting, Writer, answer};
use crate::error::Errno;
use crate::storage::Storage;
use crate::types::{after, counted};

/// How often a full disk is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Bytes kept aside for the records of crossings and denials on a full disk.
const RESERVE: u64 = 1 << 20;
const RESERVE_NAME: &str = "reserve";

impl<S: Storage> Writer<S> {
    /// Those who wait learn that there is no space; what nobody waits for stays until there is.
    pub(super) fn meet_full_disk(&mut self) {
        if !self.full {
            log::error!("the ledger's disk is full: nothing is recorded until there is space");
        }
        self.full = true;
        self.show_health();
        let (waited, kept) = self.pending.drain(..).partition(|waiting| waiting.reply.is_some());
        self.pending = kept;
        let waited: Vec<Waiting> = waited;
        waited.into_iter().for_each(|waiting| answer(waiting.reply, Err(Errno::NOSPC)));
    }

    /// Records how much was refused, once there is space.
    pub(super) fn tell_refused(&mut self) {
        if self.full || self.dead {
            return;
        }
        let Some(gap) = self.health.take_refused() else { return };
        let operations = counted(gap.unrecorded.unwrap_or(0), "operation", "operations");
        log::error!("the ledger's disk was full: {operations} could not be recorded");
        if let Ok(body) = encode::body(&Record::Gap(gap)) {
            let now = Instant::now();
            self.pending.push(Waiting { time: jiff::Timestamp::now(), body, reply: None });
            self.group_due.get_or_insert(after(now, GROUP_DELAY));
        }
    }

    /// What the end keeps from being recorded is in the log at least.
    pub(super) fn lose_refused(&mut self) {
        let refused = self.health.take_refused().and_then(|gap| gap.unrecorded).unwrap_or(0);
        let lost = refused.saturating_add(self.pending.len() as u64);
        if lost > 0 {
            let operations = counted(lost, "operation", "operations");
            log::error!(
                "the ledger ends without a record of {operations}: it could not be written"
            );
        }
    }

    pub(super) fn show_health(&self) {
        let no_space = Some(Errno::NOSPC);
        let mutations = if self.reserve_spent || self.full { no_space } else { None };
        self.health.set(mutations, if self.full { no_space } else { None });
    }

    /// Gives the reserve's blocks back to the disk; false if that was done before.
    pub(super) fn spend_reserve(&mut self) -> bool {
        if !self.reserve_spent {
            log::error!("the ledger's disk is full: nothing may change until there is space");
        }
        let spent =
            !self.reserve_spent && self.storage.unlink(&self.dir, OsStr::new(RESERVE_NAME)).is_ok();
        self.reserve_spent = true;
        self.retry_at = after(Instant::now(), RETRY_DELAY);
        spent
    }

    /// Sets space aside again. On a file system that cannot, there is no reserve, and a full disk is
    /// met without.
    pub(super) fn refill_reserve(&mut self) {
        let name = OsStr::new(RESERVE_NAME);
        let opened = match self.storage.open_write(&self.dir, name) {
            Err(Errno::NOENT) => self.storage.create_file(&self.dir, name),
            opened => opened,
        };
        let kept = opened.and_then(|file| self.storage.reserve(&file, RESERVE));
        self.reserve_spent = is_full(&kept);
        match kept {
            Ok(()) => {}
            // What a failed attempt did get would be missing to the records.
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let _ = self.storage.unlink(&self.dir, name);
                self.retry_at = after(Instant::now(), RETRY_DELAY);
            }
            Err(errno) => log::warn!("the ledger has no reserve: {errno}"),
        }
        self.show_health();
    }
}

/// Whether there was no space.
pub(super) fn is_full(result: &Result<(), Errno>) -> bool {
    matches!(result, Err(Errno::NOSPC | Errno::DQUOT))
}
