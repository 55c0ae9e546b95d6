//! The two files that grow: the whole ledger, and its denials as an index into it.

use std::path::Path;

use crate::error::{Errno, errno_of};
use crate::ledger::{LedgerError, Reader};
use crate::types::Time;

/// In a JSON string the quotation marks would be escaped, so these bytes are the field.
const DENIED: &[u8] = br#""decision":"denied""#;

/// A line of the ledger that is also one of `denied.jsonl`.
struct Line {
    /// Offset in `denied.jsonl`.
    start: u64,
    /// Offset in the ledger.
    source: u64,
    length: u64,
}

impl Line {
    /// Offset after it in `denied.jsonl`.
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// The ledger as it was at the last [`Log::refresh`].
pub struct Log {
    reader: Reader,
    denied: Vec<Line>,
    /// Offset in `denied.jsonl` after the last of them.
    denied_end: u64,
    /// Bytes of the ledger that were searched for denials.
    searched: u64,
    /// When it was last seen to have grown.
    pub changed: Time,
}

impl Log {
    /// Opens the segments.
    pub fn open(dir: &Path) -> Result<Self, Errno> {
        let reader = Reader::open(dir).map_err(errno)?;
        Ok(Self { reader, denied: Vec::new(), denied_end: 0, searched: 0, changed: now() })
    }

    /// Takes in what was appended.
    pub fn refresh(&mut self) -> Result<(), Errno> {
        let before = self.reader.len();
        self.reader.refresh().map_err(errno)?;
        if self.reader.len() != before {
            self.changed = now();
        }
        // After a failed fsync the writer withdraws lines that were not durable.
        if self.reader.len() < self.searched {
            self.denied.clear();
            (self.denied_end, self.searched) = (0, 0);
        }
        let first = self.reader.first();
        self.searched = self.searched.max(first);
        let gone = self.denied.partition_point(|line| line.source < first);
        self.denied.drain(..gone);
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

    /// The same of the denials.
    pub fn denied_first(&mut self) -> Result<u64, Errno> {
        let end = self.denied_len()?;
        Ok(self.denied.first().map_or(end, |line| line.start))
    }

    /// Offset after the last line.
    pub fn len(&self) -> u64 {
        self.reader.len()
    }

    /// Offset after the last denial.
    pub fn denied_len(&mut self) -> Result<u64, Errno> {
        for line in self.reader.lines(self.searched) {
            let (source, line) = line.map_err(errno)?;
            let length = line.len() as u64;
            if memchr::memmem::find(&line, DENIED).is_some() {
                let start = self.denied_end;
                self.denied.push(Line { start, source, length });
                self.denied_end = start.saturating_add(length);
            }
            self.searched = source.saturating_add(length);
        }
        Ok(self.denied_end)
    }

    /// Reads the ledger; shorter than asked only at the end.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let rest = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(rest)];
        let read = self.reader.read_at(offset, &mut bytes).map_err(|error| errno_of(&error))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads the denials; shorter than asked only at the end.
    pub fn read_denied(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        if offset < self.denied_first()? {
            return Err(Errno::STALE);
        }
        let first = self.denied.partition_point(|line| line.end() <= offset);
        let mut bytes = Vec::new();
        for line in self.denied.iter().skip(first) {
            let skip = offset.saturating_add(bytes.len() as u64).saturating_sub(line.start);
            let rest = usize::try_from(line.length.saturating_sub(skip)).unwrap_or(0);
            let wanted = rest.min(length.saturating_sub(bytes.len()));
            if wanted == 0 {
                break;
            }
            bytes.extend(self.read(line.source.saturating_add(skip), wanted)?);
        }
        Ok(bytes)
    }
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
