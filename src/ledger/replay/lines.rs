//! The lines of a segment that is not in use.

use crate::error::Errno;
use crate::storage::Storage;

use super::super::{LedgerError, encode, segment};

/// What reads are aligned to, so that they can go past the page cache.
const CHUNK: usize = if cfg!(test) { 1 << 13 } else { 1 << 17 };
/// Attempts to read the same bytes: some errors of disks pass.
const READS: usize = 3;

/// The lines of a segment with their newlines, a piece of it at a time. Past the page cache where that is possible: after a
/// failed sync the cache holds lines that the disk does not.
pub struct SegmentLines<'a, S: Storage> {
    storage: &'a S,
    number: u64,
    file: S::File,
    /// Offset of the next read.
    at: u64,
    buffer: Vec<u8>,
    /// What of `buffer` was handed out.
    taken: usize,
    ended: bool,
}

impl<'a, S: Storage> SegmentLines<'a, S> {
    /// Opens a segment.
    pub fn open(storage: &'a S, dir: &S::Dir, number: u64) -> Result<Self, LedgerError> {
        let name = segment::file_name(number);
        let (file, _) = storage
            .open_readback(dir, &name)
            .or_else(|_| storage.open_readback(dir, &name))
            .map_err(|errno| unreadable(number, errno))?;
        Ok(Self { storage, number, file, at: 0, buffer: Vec::new(), taken: 0, ended: false })
    }

    /// The next line. What is longer than any line can be comes in parts without newlines, as what follows the last newline
    /// does.
    pub fn next(&mut self) -> Result<Option<&[u8]>, LedgerError> {
        loop {
            let rest = self.buffer.get(self.taken..).unwrap_or_default();
            let newline = memchr::memchr(b'\n', rest);
            let end = match newline {
                Some(at) => Some(at.saturating_add(1)),
                None if rest.len() > encode::LINE_MAX || self.ended => Some(rest.len()),
                None => None,
            };
            if let Some(length) = end {
                let start = self.taken;
                self.taken = start.saturating_add(length);
                let line = self.buffer.get(start..self.taken).unwrap_or_default();
                return Ok(Some(line).filter(|line| !line.is_empty()));
            }
            self.read_on()?;
        }
    }

    fn read_on(&mut self) -> Result<(), LedgerError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let start = rest.len();
        // Zeros come from the system for nothing.
        let mut buffer = vec![0; start.saturating_add(CHUNK)];
        if let Some(to) = buffer.get_mut(..start) {
            to.copy_from_slice(rest);
        }
        (self.buffer, self.taken) = (buffer, 0);
        let room = self.buffer.get_mut(start..).unwrap_or_default();
        let mut read = self.storage.read_at(&self.file, room, self.at);
        for _ in 1..READS {
            if read.is_err() {
                read = self.storage.read_at(&self.file, room, self.at);
            }
        }
        let length = read.map_err(|errno| unreadable(self.number, errno))?;
        self.buffer.truncate(start.saturating_add(length));
        self.at = self.at.saturating_add(length as u64);
        // Aligned reads are short only at the end.
        self.ended = length < CHUNK;
        Ok(())
    }
}

pub fn unreadable(number: u64, errno: Errno) -> LedgerError {
    let segment = segment::file_name(number).to_string_lossy().into_owned();
    LedgerError::Unreadable { segment, errno }
}
