//! The append-only log: audit trail and transaction journal in one. Format in design section 8 and
//! on [`record`].

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Errno;
use crate::storage::Storage;

pub mod record;

pub use record::{Durability, Record};

/// A line as it was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position in the ledger, from 0, without gaps.
    pub seq: u64,
    /// When it was appended, RFC 3339 with nanoseconds, UTC.
    pub time: jiff::Timestamp,
    /// What it says.
    pub record: Record,
}

/// Why a ledger cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A line other than a torn last one does not check.
    #[error("ledger segment {segment} is damaged at line {line}: {why}")]
    Damaged { segment: String, line: u64, why: String },
    /// The disk.
    #[error("cannot {attempted} ledger segment {segment}: {errno}")]
    Io { attempted: &'static str, segment: String, errno: Errno },
}

/// What `open` found and did, for the daemon's log.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Bytes of a torn last line that were cut off.
    pub torn_bytes: u64,
    /// The last run did not stop cleanly (no `unmounted` record at the end).
    pub unclean: bool,
}

/// A handle on the writer. Cheap to clone; the writer stops when `close` is called.
pub struct Ledger<S: Storage> {
    _storage: Arc<S>,
}

impl<S: Storage> Ledger<S> {
    /// Opens the ledger in `dir`, checks every line, hands each entry to `replay` in order, repairs a
    /// torn last line, and starts the writer. An empty directory becomes a new ledger. After an
    /// unclean stop a `gap` record is appended. `view` goes into version records.
    pub fn open(
        _storage: Arc<S>,
        _dir: S::Dir,
        _view: &str,
        _replay: &mut dyn FnMut(&Entry),
    ) -> Result<(Arc<Self>, Opened), LedgerError> {
        todo!()
    }

    /// Appends. With [`Durability::Sync`] returns once the record is on the disk, else once it is
    /// queued; waits while the queue is full. ENOSPC while the ledger's disk is full, EIO after a
    /// failed fsync that could not be made good.
    pub fn append(&self, _record: Record, _durability: Durability) -> Result<(), Errno> {
        todo!()
    }

    /// ENOSPC or EIO while mutations must not go on.
    pub fn accepts_mutations(&self) -> Result<(), Errno> {
        todo!()
    }

    /// Waits until everything appended so far is in the segment files (not necessarily synced), so
    /// that `.audit` shows a caller its own operations.
    pub fn flush(&self) -> Result<(), Errno> {
        todo!()
    }

    /// Syncs everything and stops the writer. Later appends give EIO.
    pub fn close(&self) -> Result<(), Errno> {
        todo!()
    }
}

/// Reads the segments of a ledger that may be in use, for commands and `.audit`: whole lines only.
pub struct Reader {
    _dir: PathBuf,
}
