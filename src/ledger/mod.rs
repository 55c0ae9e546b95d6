//! The append-only log: audit trail and transaction journal in one.
//!
//! # Format
//!
//! One JSON object a line ([`encode`](self) has the fields of the envelope, [`record`] the rest) in
//! segments `00000001.jsonl` and on, so that `jq`, `grep` and `tail -f` need nothing of ours. A
//! segment opens with a version record and is followed by the next at 64 MiB. Beside them lies
//! `reserve`, disk space kept for the records of crossings and denials when the disk is full,
//! `reserve.tree`, the same for the checkpoint by which segments may leave it, and the signed [`tree`] over
//! the lines: `checkpoint` and `tile/…`. The key is `key` in the state folder.
//!
//! # Invariants
//!
//! 1. `seq` has no gaps, over all segments.
//! 2. [`Durability::Sync`] returns only after an fsync that began after the line was written, and
//!    succeeded.
//! 3. A segment's file and name are durable before anything but its version record is in it.
//! 4. A file whose fsync failed is never written again: all lines since its last good fsync go to
//!    a new segment, which says so; the old one is void from there on.
//! 5. Only lines that were never durable are cut off, once all lines were read and compared with every
//!    checkpoint; any other damage is refused, and nothing is changed then. A person may accept it as a
//!    loss: then whatever is cut off is kept ([`evidence`](self)).
//! 6. Once accepted, a record is written, unless the disk fails for good or its waiting caller is told
//!    otherwise. A full queue makes callers wait.
//! 7. The writer's thread does not panic: whatever fails becomes the caller's errno.
//! 8. A checkpoint covers, and needs, only what is on the disk: fsync of lines and tiles, signature, publication.
//! 9. What is opened to be signed extends every checkpoint that was found, and its key is the one that its
//!    lines name, or a record says that and why not ([`start`]).
//! 10. Nobody who waits for an fsync waits for the signing thread. The writer's states: `writer.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::error::Errno;
use crate::storage::Storage;
use crate::types::after;

mod accounted;
pub mod checkpoint;
mod decode;
mod denials;
mod encode;
mod evidence;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod full_tests;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod health;
mod index;
mod inspect;
mod keys;
#[cfg(test)]
mod loss_crash_tests;
#[cfg(test)]
mod loss_tests;
pub mod note;
pub mod prove;
pub mod pruned;
#[cfg(test)]
mod pruned_crash_tests;
#[cfg(test)]
mod pruned_signed_tests;
#[cfg(test)]
mod pruned_tests;
mod queue;
mod reader;
pub mod record;
mod replay;
pub mod schema;
mod sealer;
mod sealing;
mod segment;
mod shorten;
#[cfg(test)]
mod signed_crash_tests;
#[cfg(test)]
mod signed_tests;
pub mod start;
pub mod store;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
pub(crate) mod tests;
pub mod tree;
pub mod verify;
mod writer;

use checkpoint::Checkpoint;
pub use decode::{check_line, decode_line};
pub use encode::{LINE_MAX, fits};
use health::Health;
pub use inspect::Inspected;
use note::VerifierKey;
pub use reader::{Lines, Reader};
pub use record::{Durability, Record};
use sealer::Durable;
pub use sealer::{End, Signing};
pub use sealing::Extends;
use sealing::Sealing;
pub use start::{Acceptance, CheckpointCopy, Seal};
use writer::{Content, Message, Start, Writer};

/// A line as it was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position in the ledger, from 0, without gaps.
    pub seq: u64,
    /// When it was appended.
    pub time: jiff::Timestamp,
    /// What it says.
    pub record: Record,
}

/// Why a ledger cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A line other than a torn last one does not check.
    #[error(
        "ledger segment {segment} is damaged at line {line}: {why}; nothing was changed\n\
         hint: restore the segment from a copy; if it cannot be had back, octroi audit accept-loss --why \
         TEXT --view CONFIG goes on with the lines before, keeps all others in evidence/ of the state folder, \
         and records that"
    )]
    Damaged {
        /// File name.
        segment: String,
        /// From 1; 0 for the segment as a whole.
        line: u64,
        /// In words.
        why: String,
    },
    /// A segment cannot be read to its end.
    #[error(
        "cannot read ledger segment {segment}: {errno}; nothing was changed\n\
         hint: if its disk has lost it for good, octroi audit accept-loss --why TEXT --view CONFIG goes on with \
         the lines before, keeps all others in evidence/ of the state folder, and records that"
    )]
    Unreadable {
        /// File name.
        segment: String,
        /// Why.
        errno: Errno,
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
    /// Key, checkpoint or tiles.
    #[error("cannot {attempted} {file}: {errno}")]
    Tree {
        /// A verb.
        attempted: &'static str,
        /// File name.
        file: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The ledger does not extend what vouches for it.
    #[error(
        "it is not the ledger that was signed: {}; nothing was changed\n\
         hint: restore the state folder from a copy; if what is lost cannot be had back, octroi audit \
         accept-loss --why TEXT --view CONFIG records that and begins a new key; what it takes out of the ledger \
         it keeps in evidence/ of the state folder; a branch that comes from another view is taken with octroi \
         mount --adopt NAME",
        found.join("; ")
    )]
    Differs {
        /// What differs, in words.
        found: Vec<String>,
    },
    /// Line, tiles and checkpoint do not fit together.
    #[error(
        "record {seq} is not as it was signed: {why}\n\
         hint: octroi audit verify tells what was changed"
    )]
    Unproven {
        /// The record's position.
        seq: u64,
        /// What does not hold.
        why: checkpoint::ProofError,
    },
    /// A loss was to be accepted, and there is none.
    #[error("it extends every checkpoint that was found: there is no loss to accept")]
    NothingLost,
}

/// What `open` found and did, for the daemon's log.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Bytes of a torn end that were cut off.
    pub torn_bytes: u64,
    /// The last run did not stop cleanly (no `unmounted` record at the end).
    pub unclean: bool,
    /// Tiles that were not as the lines have them, and are made again.
    pub damaged_tiles: u64,
    /// What was lost and is accepted, in words.
    pub lost: Vec<String>,
    /// Where that keeps what it has taken out of the ledger, in the state folder.
    pub kept: Option<String>,
    /// Lines before this one have left or are to leave, by a record that is signed.
    pub pruned: u64,
}

/// A handle on the writer, which stops when `close` is called or the last handle is gone.
pub struct Ledger<S: Storage> {
    messages: queue::Sender<Message>,
    health: Arc<Health>,
    thread: Mutex<Option<JoinHandle<()>>>,
    seal: Option<Sealing<S>>,
}

impl<S: Storage> Ledger<S> {
    /// Opens the ledger in `dir`, checks every line, hands each entry to `replay` in order, repairs a
    /// torn end, and starts the writer. An empty directory becomes a new ledger. After an
    /// unclean stop a `gap` record is appended. `view` goes into version records. Nothing is signed.
    pub fn open(
        storage: Arc<S>,
        dir: S::Dir,
        view: &str,
        replay: &mut dyn FnMut(&Entry),
    ) -> Result<(Arc<Self>, Opened), LedgerError> {
        Self::open_with(storage, dir, view, None, replay)
    }

    /// As [`Ledger::open`], of a ledger that is signed, and must extend every checkpoint that was found.
    pub fn open_signed(
        storage: Arc<S>,
        dir: S::Dir,
        view: &str,
        seal: &Seal<S::Dir>,
        replay: &mut dyn FnMut(&Entry),
    ) -> Result<(Arc<Self>, Opened), LedgerError> {
        Self::open_with(storage, dir, view, Some(seal), replay)
    }

    fn open_with(
        storage: Arc<S>,
        dir: S::Dir,
        view: &str,
        seal: Option<&Seal<S::Dir>>,
        replay: &mut dyn FnMut(&Entry),
    ) -> Result<(Arc<Self>, Opened), LedgerError> {
        let accept = seal.and_then(|seal| seal.accept.as_ref());
        replay::sync_last(&*storage, &dir, accept.is_some())?;
        let mut start =
            seal.map(|seal| start::Start::new(&storage, &dir, view, seal)).transpose()?;
        // Nothing may be signed anew that is known not to be what was signed.
        let again = seal.filter(|_| accept.is_some());
        let again = again.map(|seal| start::Start::new(&storage, &dir, view, seal)).transpose()?;
        let foreign_from = again.map(|start| start.first_foreign(&dir)).transpose()?.flatten();
        let least = start.as_ref().map_or(0, start::Start::least);
        let terms = replay::Terms { least, accept: accept.is_some(), foreign_from };
        let mut replayed = replay::replay(&*storage, &dir, terms, &mut |line| {
            if let Some(start) = &mut start {
                start.line(line);
            }
            replay(line.entry);
        })?;
        let mut finished =
            start.map(|start| start.finish(view, accept, &mut replayed)).transpose()?;
        match &mut finished {
            Some(start::Finished { lost: Some(lost), evidence, useless, .. }) => {
                lost.kept = evidence.keep(&dir, &replayed.repairs, useless)?;
            }
            _ => replay::repair(&*storage, &dir, &replayed.repairs)?,
        }
        let mut opened = Opened {
            torn_bytes: replayed.torn_bytes,
            // Where lines are known to be missing the loss says so, and how the last run ended is not known.
            unclean: replayed.unclean && replayed.next_seq >= least,
            ..Opened::default()
        };
        let durable = finished.as_ref().map(|_| Arc::new(Durable::default()));
        let health = Arc::new(Health::default());
        let begin = Start {
            segment: replayed.segment,
            length: replayed.length,
            next_seq: replayed.next_seq,
            durable: durable.clone(),
        };
        let io = |attempted, errno| replay::io(attempted, replayed.segment.max(1), errno);
        let writer = Writer::new(Arc::clone(&storage), dir.clone(), view, health.clone(), begin)
            .map_err(|errno| io("open for writing", errno))?;
        let (sender, receiver) = queue::queue();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(receiver))
            .map_err(|error| io("start the writer of", crate::error::errno_of(&error)))?;
        let mut ledger =
            Self { messages: sender, health, thread: Mutex::new(Some(thread)), seal: None };
        let append = |record| {
            ledger.append(record, Durability::Sync).map_err(|errno| io("append to", errno))
        };
        if opened.unclean {
            let torn_bytes = opened.torn_bytes;
            append(Record::Gap(record::GapRecord { torn_bytes, ..Default::default() }))?;
        }
        if let (Some(mut finished), Some(durable)) = (finished, durable) {
            opened.damaged_tiles = finished.damaged;
            opened.pruned = finished.pruned;
            if let Some(revoked) = finished.revoked.take() {
                append(Record::Prune(Box::new(revoked)))?;
            }
            if let Some(loss) = finished.lost.take() {
                opened.lost.append(&mut finished.found);
                opened.kept = loss.kept.as_ref().map(|kept| kept.folder.clone());
                finished.accounted.add(&loss);
                append(Record::Loss(Box::new(loss)))?;
                finished.evidence.settle()?;
            }
            if let Some(key) = finished.key.take() {
                append(Record::Key(key))?;
            }
            ledger.seal = Some(sealing::begin(storage, dir, durable, finished)?);
        }
        Ok((Arc::new(ledger), opened))
    }

    /// Appends. With [`Durability::Sync`] returns once the record is on the disk, else once it is
    /// queued; waits while the queue is full. ENOSPC while the ledger's disk is full (operations that nobody
    /// waits for are counted then, and a `gap` record says how many when there is space), EIO after a
    /// failed fsync that could not be made good, ENAMETOOLONG for a record of more than 65,535 bytes that
    /// must not be cut: then nothing was written.
    pub fn append(&self, record: Record, durability: Durability) -> Result<(), Errno> {
        let time = jiff::Timestamp::now();
        let (waits, group) = writer::class(durability);
        if let Err(errno) = Health::check(&self.health.appends) {
            if let Record::Operation(operation) = &record
                && !waits
            {
                self.health.refuse(time, operation.count.unwrap_or(1));
            }
            return Err(errno);
        }
        let count = match &record {
            Record::Operation(operation) => operation.count.unwrap_or(1),
            _ => 0,
        };
        let content = Content::of(record)?;
        if !waits {
            let message = Message::Append { time, content, group, reply: None };
            // It is closed, perhaps while this waited for room.
            return self.messages.send(message, false).inspect_err(|_| {
                if count > 0 {
                    self.health.refuse(time, count);
                }
            });
        }
        self.ask(|reply| Message::Append { time, content, group, reply: Some(reply) })
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

    /// Bytes after which a segment is followed by the next.
    pub fn set_segment_max(&self, bytes: u64) {
        self.health.segment_max.store(bytes, Ordering::Relaxed);
    }

    /// Begins another segment.
    pub fn rotate(&self) -> Result<(), Errno> {
        self.ask(Message::Rotate)
    }

    /// Syncs everything, signs it, and stops the threads. Later appends give EIO. EIO too when the disk does not
    /// answer for [`sealer::STOP_WAIT`], or was closed before.
    pub fn close(&self) -> Result<(), Errno> {
        self.finish(None)
    }

    /// The same, with a record after which there is no other. ENAMETOOLONG as of [`Self::append`].
    pub fn close_with(&self, last: Record) -> Result<(), Errno> {
        let time = jiff::Timestamp::now();
        let last = Content::of(last);
        let errno = last.as_ref().err().copied();
        let closed = self.finish(last.ok().map(|content| (time, content)));
        errno.map_or(closed, Err)
    }

    fn finish(&self, last: Option<(jiff::Timestamp, Content)>) -> Result<(), Errno> {
        let deadline = after(Instant::now(), sealer::STOP_WAIT);
        let (reply, answer) = crossbeam_channel::bounded(1);
        let closed = self
            .messages
            .close_with(Message::Close { last, reply })
            .and_then(|()| answer.recv_deadline(deadline).unwrap_or(Err(Errno::IO)));
        self.stop(deadline);
        closed
    }

    /// The newest checkpoint that was published, as a note; none of a ledger that is not signed.
    pub fn checkpoint(&self) -> Option<Arc<Vec<u8>>> {
        self.seal.as_ref()?.durable.published()
    }

    /// How far lines are durable; none of a ledger that is not signed.
    pub fn end(&self) -> Option<End> {
        self.seal.as_ref()?.durable.end()
    }

    /// Whether a published checkpoint covers the lines up to an end; see [`sealer::Durable::covers`].
    pub fn covers(&self, end: End, wait: Duration) -> bool {
        let deadline = after(Instant::now(), wait);
        self.seal.as_ref().is_some_and(|seal| seal.durable.covers(end, deadline))
    }

    /// How it goes with signing; none of a ledger that is not signed.
    pub fn signing(&self) -> Option<Signing> {
        Some(self.seal.as_ref()?.durable.signing())
    }

    /// The key that signs; none of a ledger that is not signed.
    pub fn key(&self) -> Option<&VerifierKey> {
        Some(&self.seal.as_ref()?.key)
    }

    /// Whether this ledger extends a checkpoint that came to light later, or a loss accounts for it.
    pub fn extends(&self, note: &[u8]) -> Extends {
        let Some(seal) = &self.seal else { return Extends::Yes };
        let published = self.checkpoint().and_then(|note| Checkpoint::unverified(&note));
        let Some(published) = published else {
            return Extends::Unknown("no checkpoint is published yet".to_owned());
        };
        let is_kept = |found: &Checkpoint| seal.store.extends(found, &published) == Ok(true);
        if seal.accounted.covers(note, |_| false) {
            return Extends::Lost;
        }
        if seal.accounted.covers(note, is_kept) {
            return Extends::Yes;
        }
        let wanted = match Checkpoint::open(note, &seal.key) {
            Ok(wanted) => wanted,
            Err(why) => return Extends::No(why.to_string()),
        };
        match seal.store.extends(&wanted, &published) {
            Ok(true) => Extends::Yes,
            Ok(false) if wanted.size > published.size => {
                Extends::No(format!("it vouches for {} lines, more than there are", wanted.size))
            }
            Ok(false) => {
                let size = wanted.size;
                Extends::No(format!("it vouches for other lines than the first {size}"))
            }
            Err(errno) => Extends::Unknown(format!("cannot read the tiles: {errno}")),
        }
    }

    /// EIO once the ledger is closed.
    fn ask(&self, message: impl FnOnce(Sender<Result<(), Errno>>) -> Message) -> Result<(), Errno> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.messages.send(message(reply), true)?;
        answer.recv().unwrap_or(Err(Errno::IO))
    }

    fn stop(&self, deadline: Instant) {
        self.messages.close();
        if let Some(thread) = self.thread.lock().take() {
            sealer::join(thread, deadline);
        }
        let Some(seal) = &self.seal else { return };
        if let Some(thread) = seal.thread.lock().take() {
            sealer::stop(&seal.durable, thread);
        }
    }
}

impl<S: Storage> Drop for Ledger<S> {
    fn drop(&mut self) {
        self.stop(after(Instant::now(), sealer::STOP_WAIT));
    }
}
