//! How the writer goes from one segment to the next.

use std::sync::atomic::Ordering;

use super::super::segment::{self, NotBegun};
use super::Writer;
use crate::error::Errno;
use crate::storage::Storage;

impl<S: Storage> Writer<S> {
    /// After a failed write or fsync: all lines since the last good fsync go to a new segment, and
    /// nothing of the old one from there on counts. If that fails too, the ledger is dead; for want of space, it
    /// is tried again.
    pub(super) fn rewrite(&mut self, errno: Errno) {
        log::error!("ledger segment {} cannot be written: {errno}", self.segment);
        self.take_back();
        self.begin_anew();
    }

    /// What is not durable is to be written again, elsewhere.
    fn take_back(&mut self) {
        // Best effort, so that readers do not see lines twice; replay ignores them in any case.
        let _ = self.storage.set_len(&self.file, self.synced_length);
        self.next_seq = self.next_seq.saturating_sub(self.unsynced.len() as u64);
        self.unsynced.append(&mut self.pending);
        std::mem::swap(&mut self.unsynced, &mut self.pending);
        self.void = true;
    }

    pub(super) fn begin_anew(&mut self) {
        let number = self.segment.saturating_add(1);
        let begin = |writer: &mut Self| {
            let (storage, dir) = (&*writer.storage, &writer.dir);
            if writer.leftover {
                match storage.unlink(dir, &segment::file_name(number)) {
                    Ok(()) | Err(Errno::NOENT) => writer.leftover = false,
                    Err(errno) => return Err(errno),
                }
            }
            segment::begin(storage, dir, number, writer.next_seq, &writer.view, true).map_err(
                |failed| {
                    writer.leftover = failed.stays;
                    failed.errno
                },
            )
        };
        let mut begun = begin(self);
        if matches!(begun, Err(Errno::NOSPC | Errno::DQUOT)) && self.spend_reserve() {
            begun = begin(self);
        }
        let result = begun.and_then(|(file, length)| {
            self.file = file;
            self.segment = number;
            (self.length, self.synced_length) = (length, length);
            self.next_seq = self.next_seq.saturating_add(1);
            self.synced_seq = Some(self.next_seq);
            self.void = false;
            // Its first line is durable, and signed, whatever becomes of the others.
            self.tell_durable();
            self.write_pending()?;
            self.sync()
        });
        match result {
            Ok(()) => {
                self.full = false;
                self.show_health();
                self.tell_refused();
            }
            Err(Errno::NOSPC | Errno::DQUOT) => {
                if !self.unsynced.is_empty() {
                    self.take_back();
                }
                self.spend_reserve();
                self.meet_full_disk();
            }
            Err(errno) => {
                log::error!("the ledger cannot be written to a new segment either: {errno}");
                self.dead = true;
                self.refuse_all(Errno::IO);
            }
        }
    }

    /// Begins the next segment once this one has its size and all of it is durable.
    pub(super) fn rotate(&mut self) {
        let max = match self.health.segment_max.load(Ordering::Relaxed) {
            0 => segment::SEGMENT_MAX,
            max => max,
        };
        let asked = std::mem::take(&mut self.rotation_due);
        // There is no room for another while the reserve is not filled.
        if !asked && (self.length < max || self.reserve_spent) {
            return;
        }
        if !self.unsynced.is_empty()
            && let Err(errno) = self.sync()
        {
            return self.rewrite(errno);
        }
        let number = self.segment.saturating_add(1);
        match segment::begin(&*self.storage, &self.dir, number, self.next_seq, &self.view, false) {
            Ok((file, length)) => {
                self.file = file;
                self.segment = number;
                (self.length, self.synced_length) = (length, length);
                self.next_seq = self.next_seq.saturating_add(1);
                self.synced_seq = Some(self.next_seq);
                self.tell_durable();
            }
            // The old segment is sound, and goes on where the name of the new one is gone for good.
            Err(NotBegun { errno, stays: false }) => {
                log::warn!("cannot begin ledger segment {number}: {errno}");
            }
            Err(NotBegun { errno, stays: true }) => {
                self.leftover = true;
                self.rewrite(errno);
            }
        }
    }
}
