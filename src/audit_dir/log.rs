//! The two files that grow: the whole ledger, and its denials as an index into it.

use std::path::Path;

use parking_lot::{Mutex, MutexGuard};

use super::denied::Denied;
use crate::error::{Errno, errno_of};
use crate::ledger::{LedgerError, Reader};
use crate::types::Time;

/// The ledger as it was at the last [`Log::refresh`].
pub struct Log {
    reader: Reader,
    denied: Denied,
    /// When it was last seen to have grown.
    pub changed: Time,
}

impl Log {
    /// Opens the segments.
    pub fn open(dir: &Path) -> Result<Self, Errno> {
        let reader = Reader::open(dir).map_err(errno)?;
        Ok(Self { reader, denied: Denied::new(), changed: now() })
    }

    /// Takes in what was appended.
    pub fn refresh(&mut self) -> Result<(), Errno> {
        let before = self.reader.len();
        self.reader.refresh().map_err(errno)?;
        if self.reader.len() != before {
            self.changed = now();
        }
        self.denied.follow(&self.reader);
        Ok(())
    }

    /// The lines.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Offset of the first line that is there.
    pub fn first(&self) -> u64 {
        self.reader.first()
    }

    /// Offset after the last line.
    pub fn len(&self) -> u64 {
        self.reader.len()
    }

    /// The denials that were found.
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Reads the ledger; shorter than asked only at the end.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let rest = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(rest)];
        let read = self.reader.read_at(offset, &mut bytes).map_err(|error| errno_of(&error))?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Searches the ledger for denials, at most so many steps; says whether all was searched that was there at
/// the last [`Log::refresh`]. Others have the log in between.
pub fn search(log: &Mutex<Log>, steps: usize) -> Result<bool, Errno> {
    for _ in 0..steps {
        let mut log = log.lock();
        let Log { reader, denied, .. } = &mut *log;
        if !denied.search(reader)? {
            return Ok(true);
        }
        MutexGuard::unlock_fair(log);
    }
    Ok(false)
}

/// Reads the denials, with those that were appended meanwhile; shorter than asked only at the end. Others have
/// the log in between.
pub fn read_denied(log: &Mutex<Log>, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    log.lock().refresh()?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let at = offset.saturating_add(bytes.len() as u64);
        let left = length.saturating_sub(bytes.len());
        let more = {
            let log = log.lock();
            log.denied.read(&log.reader, at, left)
        };
        match more {
            Ok(more) if more.is_empty() => {
                if search(log, 1)? {
                    break;
                }
            }
            Ok(more) => bytes.extend(more),
            // It left while what is before it was read.
            Err(_) if !bytes.is_empty() => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

pub(super) fn errno(error: LedgerError) -> Errno {
    match error {
        LedgerError::Io { errno, .. } | LedgerError::Tree { errno, .. } => errno,
        LedgerError::Damaged { .. }
        | LedgerError::Unreadable { .. }
        | LedgerError::Differs { .. }
        | LedgerError::Unproven { .. }
        | LedgerError::NothingLost => Errno::IO,
    }
}

/// The clock as files keep it.
pub fn now() -> Time {
    time_of(jiff::Timestamp::now())
}

/// A moment as files keep it.
pub fn time_of(moment: jiff::Timestamp) -> Time {
    Time {
        seconds: moment.as_second(),
        nanos: u32::try_from(moment.subsec_nanosecond()).unwrap_or_default(),
    }
}
