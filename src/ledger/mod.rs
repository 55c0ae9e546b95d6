//! The append-only log: audit trail and transaction journal in one.
//!
//! # Format
//!
//! One JSON object a line ([`encode`](self) has the fields of the envelope, [`record`] the rest) in
//! segments `00000001.jsonl` and on, so that `jq`, `grep` and `tail -f` need nothing of ours. A
//! segment opens with a version record and is followed by the next at 64 MiB. Beside them lies
//! `reserve`, disk space kept for the records of crossings and denials when the disk is full.
//!
//! # Invariants
//!
//! 1. `seq` has no gaps, over all segments.
//! 2. [`Durability::Sync`] returns only after an fsync that began after the line was written, and
//!    succeeded.
//! 3. A segment's file and name are durable before anything but its version record is in it.
//! 4. A file whose fsync failed is never written again: all lines since its last good fsync go to
//!    a new segment, which says so; the old one is void from there on.
//! 5. Replay cuts off only lines that were never durable, and refuses any other damage.
//! 6. Once accepted, a record is written, unless the disk fails for good or its waiting caller is
//!    told otherwise. A full queue makes callers wait.
//! 7. The writer's thread does not panic: whatever fails becomes the caller's errno.
//!
//! The states of the writer are drawn in `writer.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::error::Errno;
use crate::storage::Storage;

pub mod checkpoint;
mod denials;
mod encode;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod note;
mod reader;
pub mod record;
mod replay;
mod segment;
#[cfg(test)]
mod tests;
pub mod tree;
mod writer;

pub use encode::decode_line;
pub use reader::{Lines, Reader};
pub use record::{Durability, Record};
use writer::{Health, Message, Start, Writer};

/// Records that may wait for the writer before callers do.
const QUEUE: usize = 8192;

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
    #[error(
        "ledger segment {segment} is damaged at line {line}: {why}; nothing was changed: restore \
         the segment from a copy, or move the ledger's folder away to begin a new ledger"
    )]
    Damaged {
        /// File name.
        segment: String,
        /// From 1; 0 for the segment as a whole.
        line: u64,
        /// In words.
        why: String,
    },
    /// The disk.
    #[error("cannot {attempted} ledger segment {segment}: {errno}")]
    Io {
        /// A verb.
        attempted: &'static str,
        /// File name.
        segment: String,
        /// Why it failed.
        errno: Errno,
    },
}

/// What `open` found and did, for the daemon's log.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Bytes of a torn end that were cut off.
    pub torn_bytes: u64,
    /// The last run did not stop cleanly (no `unmounted` record at the end).
    pub unclean: bool,
}

/// A handle on the writer, which stops when `close` is called or the last handle is gone.
pub struct Ledger<S: Storage> {
    messages: Mutex<Option<Sender<Message>>>,
    health: Arc<Health>,
    thread: Mutex<Option<JoinHandle<()>>>,
    storage: std::marker::PhantomData<fn() -> S>,
}

impl<S: Storage> Ledger<S> {
    /// Opens the ledger in `dir`, checks every line, hands each entry to `replay` in order, repairs a
    /// torn end, and starts the writer. An empty directory becomes a new ledger. After an
    /// unclean stop a `gap` record is appended. `view` goes into version records.
    pub fn open(
        storage: Arc<S>,
        dir: S::Dir,
        view: &str,
        replay: &mut dyn FnMut(&Entry),
    ) -> Result<(Arc<Self>, Opened), LedgerError> {
        sync_last(&*storage, &dir)?;
        let replayed = replay::replay(&*storage, &dir, replay)?;
        let opened = Opened { torn_bytes: replayed.torn_bytes, unclean: replayed.unclean };
        let health = Arc::new(Health::default());
        let start = Start {
            segment: replayed.segment,
            length: replayed.length,
            next_seq: replayed.next_seq,
        };
        let io = |attempted, errno| replay::io(attempted, replayed.segment.max(1), errno);
        let writer = Writer::new(storage, dir, view, health.clone(), start)
            .map_err(|errno| io("open for writing", errno))?;
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| io("start the writer of", crate::error::errno_of(&error)))?;
        let ledger = Arc::new(Self {
            messages: Mutex::new(Some(sender)),
            health,
            thread: Mutex::new(Some(thread)),
            storage: std::marker::PhantomData,
        });
        if opened.unclean {
            let gap = record::GapRecord { torn_bytes: opened.torn_bytes };
            ledger
                .append(Record::Gap(gap), Durability::Sync)
                .map_err(|errno| io("append to", errno))?;
        }
        Ok((ledger, opened))
    }

    /// Appends. With [`Durability::Sync`] returns once the record is on the disk, else once it is
    /// queued; waits while the queue is full. ENOSPC while the ledger's disk is full, EIO after a
    /// failed fsync that could not be made good, ENAMETOOLONG for a crossing's record of more than
    /// 65,535 bytes.
    pub fn append(&self, record: Record, durability: Durability) -> Result<(), Errno> {
        let time = jiff::Timestamp::now();
        Health::check(&self.health.appends)?;
        let (waits, group) = writer::class(durability);
        if !waits {
            return self.send(Message::Append { time, record, group, reply: None });
        }
        self.ask(|reply| Message::Append { time, record, group, reply: Some(reply) })
    }

    /// ENOSPC or EIO while mutations must not go on.
    pub fn accepts_mutations(&self) -> Result<(), Errno> {
        let check = |field: &AtomicI32| Health::check(field);
        check(&self.health.appends).and_then(|()| check(&self.health.mutations))
    }

    /// Waits until everything appended so far is in the segment files (not necessarily synced), so
    /// that `.audit` shows a caller its own operations.
    pub fn flush(&self) -> Result<(), Errno> {
        self.ask(Message::Flush)
    }

    /// Syncs everything and stops the writer. Later appends give EIO.
    pub fn close(&self) -> Result<(), Errno> {
        let closed = self.ask(Message::Close);
        self.stop();
        closed
    }

    fn send(&self, message: Message) -> Result<(), Errno> {
        let sender = self.messages.lock().clone().ok_or(Errno::IO)?;
        sender.send(message).map_err(|_| Errno::IO)
    }

    fn ask(&self, message: impl FnOnce(Sender<Result<(), Errno>>) -> Message) -> Result<(), Errno> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(message(reply))?;
        answer.recv().unwrap_or(Err(Errno::IO))
    }

    fn stop(&self) {
        drop(self.messages.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer was reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl<S: Storage> Drop for Ledger<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// After a kill the last lines may be in the page cache only; replay reads what is on the disk.
fn sync_last<S: Storage>(storage: &S, dir: &S::Dir) -> Result<(), LedgerError> {
    let list = |errno| LedgerError::Io { attempted: "list", segment: "directory".into(), errno };
    let Some(number) = segment::list(storage, dir).map_err(list)?.pop() else { return Ok(()) };
    storage
        .open_write(dir, &segment::file_name(number))
        .and_then(|file| storage.sync_file(&file))
        .and_then(|()| storage.sync_dir(dir))
        .map_err(|errno| replay::io("sync", number, errno))
}
