//! The thread that writes. States, and the function of each transition:
//!
//! ```text
//!            write: ENOSPC            write: ENOSPC again
//!   HEALTHY ───────────────▶ RESERVE ─────────────────────▶ FULL
//!      ▲     (spend_reserve)    │  ▲                          │
//!      └────────────────────────┘  └──────────────────────────┘
//!           refill_reserve                 commit: written
//!
//!   any ── sync fails, write: another error ──▶ rewrite ── fails ──▶ DEAD (until opened again)
//!                                                  │ ENOSPC
//!                                                  └──────▶ FULL, and `void`: begin_anew is tried again
//! ```
//!
//! HEALTHY: everything is accepted. RESERVE: mutations are denied, records are still written with the
//! space of the reserve, and more denials share one. FULL: records are refused with ENOSPC, those accepted earlier wait in
//! memory, and operations that are refused are counted for a `gap` record. DEAD: everything is refused with EIO.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::denials::Denials;
use super::health::Health;
use super::queue::{LINGER, Receiver};
use super::record::{OperationRecord, Record};
use super::sealer::Durable;
use super::{Durability, encode, segment, shorten};
use crate::error::Errno;
use crate::storage::Storage;
use crate::types::after;

mod full;
mod repeated;
mod segments;
#[cfg(test)]
mod tests;

use full::is_full;

/// Longest wait of a `group` record for its fsync, once it is taken from the queue: 100 ms in all.
const GROUP_DELAY: Duration = Duration::from_millis(100).saturating_sub(LINGER);
/// Bytes written since the last fsync that cause one.
const UNSYNCED_MAX: u64 = 1 << 20;

/// Between two looks whether the segment is still there.
const LOOK_EACH: Duration = Duration::from_secs(1);

type Reply = Sender<Result<(), Errno>>;

/// What callers send.
pub enum Message {
    /// A record; `reply` for those who wait for the fsync.
    Append { time: jiff::Timestamp, content: Content, group: bool, reply: Option<Reply> },
    /// Write everything so far.
    Flush(Reply),
    /// Begin another segment once everything so far is synced.
    Rotate(Reply),
    /// Answered when everything is synced and nothing more is let in: the queue is closed with it. `last` is
    /// written after all else.
    Close { last: Option<(jiff::Timestamp, Content)>, reply: Reply },
}

/// What is to be written.
pub enum Content {
    /// It may be held back, to be written with others. There is none that does not fit in a line.
    Operation(Box<OperationRecord>),
    /// Anything else, as [`encode::body`] has it.
    Body(Vec<u8>),
}

impl Content {
    /// Of a record. ENAMETOOLONG if it does not fit in a line and must not be cut.
    pub fn of(record: Record) -> Result<Self, Errno> {
        match record {
            Record::Operation(mut operation) => {
                shorten::bound(&mut operation);
                Ok(Self::Operation(operation))
            }
            other => encode::body(&other).map(Self::Body),
        }
    }
}

/// A record that is not yet durable.
struct Waiting {
    time: jiff::Timestamp,
    body: Vec<u8>,
    reply: Option<Reply>,
}

/// The open segment and what is not yet durable.
pub struct Writer<S: Storage> {
    storage: Arc<S>,
    dir: S::Dir,
    view: String,
    health: Arc<Health>,
    /// Told how far lines are durable.
    durable: Option<Arc<Durable>>,
    file: S::File,
    segment: u64,
    length: u64,
    /// Length at the last good fsync.
    synced_length: u64,
    next_seq: u64,
    /// `next_seq` at the last good fsync; written on the next line.
    synced_seq: Option<u64>,
    /// Accepted, not in the file.
    pending: Vec<Waiting>,
    /// In the file since the last good fsync.
    unsynced: Vec<Waiting>,
    reserve_spent: bool,
    /// When the reserve is filled again, if it is spent.
    retry_at: Instant,
    full: bool,
    /// The segment is void from `next_seq` on: another must be begun before anything is written.
    void: bool,
    /// The next segment was begun in vain, and its name may be there still.
    leftover: bool,
    dead: bool,
    group_due: Option<Instant>,
    /// When it was last looked whether the segment is still there.
    looked: Instant,
    rotation_due: bool,
    denials: Denials,
}

/// Where writing begins: after a replay, or nowhere yet.
pub struct Start {
    /// The last segment; 0 if there is none.
    pub segment: u64,
    /// Its length.
    pub length: u64,
    /// The next position.
    pub next_seq: u64,
    /// Who is to be told how far lines are durable.
    pub durable: Option<Arc<Durable>>,
}

impl<S: Storage> Writer<S> {
    /// Opens the last segment, or begins the first.
    pub fn new(
        storage: Arc<S>,
        dir: S::Dir,
        view: &str,
        health: Arc<Health>,
        start: Start,
    ) -> Result<Self, Errno> {
        let Start { mut segment, mut length, mut next_seq, durable } = start;
        let file = if segment == 0 {
            segment = 1;
            let begun = segment::begin(&*storage, &dir, segment, next_seq, view, false);
            let (file, written) = begun.map_err(|failed| failed.errno)?;
            (length, next_seq) = (written, next_seq.saturating_add(1));
            file
        } else {
            storage.open_write(&dir, &segment::file_name(segment))?
        };
        let mut writer = Self {
            storage,
            dir,
            view: view.to_owned(),
            health,
            durable,
            file,
            segment,
            length,
            synced_length: length,
            next_seq,
            synced_seq: Some(next_seq),
            pending: Vec::new(),
            unsynced: Vec::new(),
            reserve_spent: true,
            retry_at: Instant::now(),
            full: false,
            void: false,
            leftover: false,
            dead: false,
            group_due: None,
            looked: Instant::now(),
            rotation_due: false,
            denials: Denials::default(),
        };
        writer.refill_reserve();
        writer.tell_durable();
        Ok(writer)
    }

    fn tell_durable(&self) {
        if let Some(durable) = &self.durable {
            durable.reached(self.segment, self.synced_length);
        }
    }

    /// Serves until closed, or until all senders are gone.
    pub fn run(mut self, mut messages: Receiver<Message>) {
        let mut closing = None;
        let mut batch = Vec::new();
        while messages.take(&mut batch, self.deadline()).is_ok() {
            let mut flushes = Vec::new();
            let repeated = repeated::merge(&mut batch);
            for (at, message) in batch.drain(..).enumerate() {
                match message {
                    _ if repeated.contains(&at) => {}
                    Message::Append { time, content, group, reply } => {
                        self.accept(time, content, group, reply);
                    }
                    Message::Flush(reply) => {
                        self.take_denials(true);
                        flushes.push(reply);
                    }
                    Message::Rotate(reply) => {
                        self.rotation_due = true;
                        flushes.push(reply);
                    }
                    Message::Close { last, reply } => closing = Some((last, reply)),
                }
            }
            self.take_denials(!flushes.is_empty());
            self.tell_refused();
            self.commit(false);
            let result = self.written();
            flushes.into_iter().for_each(|reply| {
                let _ = reply.send(result);
            });
        }
        // All that was let in is taken.
        self.take_denials(true);
        self.tell_refused();
        let (last, reply) = closing.unzip();
        if let Some((time, content)) = last.flatten() {
            if self.full {
                // With room again, what was refused is told before the last record.
                self.commit(true);
            }
            self.accept(time, content, false, None);
        }
        self.commit(true);
        if !self.pending.is_empty() && !self.full {
            // What was refused until now.
            self.commit(true);
        }
        self.lose_refused();
        answer(reply, self.written());
    }

    /// Whether what was accepted is in the file.
    fn written(&self) -> Result<(), Errno> {
        match Health::check(&self.health.appends) {
            Err(Errno::NOSPC) if self.pending.is_empty() => Ok(()),
            result => result,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let retry = ((self.reserve_spent || self.void) && !self.dead).then_some(self.retry_at);
        // What waits for room waits for no fsync; what had its room does.
        let synced = self.unsynced.is_empty();
        let group_due = self.group_due.filter(|_| !(self.void || self.full && synced));
        [group_due, self.denials.next_end(), retry].into_iter().flatten().min()
    }

    fn accept(
        &mut self,
        time: jiff::Timestamp,
        content: Content,
        group: bool,
        reply: Option<Reply>,
    ) {
        let now = Instant::now();
        if reply.is_none() {
            self.take_denials(false);
        }
        match content {
            Content::Body(body) => self.pending.push(Waiting { time, body, reply }),
            Content::Operation(operation) => {
                let operation = match reply {
                    Some(_) => Some(operation),
                    None => self.denials.admit(time, operation, now, self.reserve_spent),
                };
                if let Some(operation) = operation {
                    self.queue(time, operation, reply);
                }
            }
        }
        if group && self.group_due.is_none() {
            self.group_due = Some(after(now, GROUP_DELAY));
        }
    }

    fn queue(
        &mut self,
        time: jiff::Timestamp,
        operation: Box<OperationRecord>,
        reply: Option<Reply>,
    ) {
        match encode::body(&Record::Operation(operation)) {
            Ok(body) => self.pending.push(Waiting { time, body, reply }),
            Err(errno) => {
                log::error!("a record cannot be written: {errno}");
                answer(reply, Err(errno));
            }
        }
    }

    fn take_denials(&mut self, all: bool) {
        let now = Instant::now();
        for (time, operation) in self.denials.due(now, all) {
            self.queue(time, operation, None);
            self.group_due.get_or_insert(after(now, GROUP_DELAY));
        }
    }

    /// Writes what is pending, and syncs when somebody waits, it is time, or much was written.
    fn commit(&mut self, sync: bool) {
        if self.dead {
            return self.refuse_all(Errno::IO);
        }
        let retry = self.retry_at <= Instant::now();
        if self.void {
            // Nothing can be synced before there is another segment.
            self.group_due = None;
            return if retry || sync { self.begin_anew() } else { self.meet_full_disk() };
        }
        if self.reserve_spent && retry {
            self.refill_reserve();
        }
        let written = self.write_pending();
        let due = self.group_due.is_some_and(|due| due <= Instant::now());
        let waits = self.unsynced.iter().any(|waiting| waiting.reply.is_some());
        let much = self.length.saturating_sub(self.synced_length) > UNSYNCED_MAX;
        let usable = written.is_ok() || is_full(&written);
        let wanted = (sync || waits || due || much) && !self.unsynced.is_empty();
        let synced = if usable && wanted { self.sync() } else { Ok(()) };
        if self.pending.is_empty() && (due || self.unsynced.is_empty()) {
            self.group_due = None;
        }
        match synced.and(written) {
            Ok(()) => {
                self.full = false;
                self.show_health();
                self.tell_refused();
                self.rotate();
            }
            Err(_) if synced.is_ok() && is_full(&written) => self.meet_full_disk(),
            Err(errno) => self.rewrite(errno),
        }
    }

    /// Writes all pending lines with one call. On a full disk the file is as before.
    fn write_pending(&mut self) -> Result<(), Errno> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let length = self.pending.iter().map(|waiting| encode::line_max(&waiting.body)).sum();
        let mut bytes = Vec::with_capacity(length);
        let mut synced = self.synced_seq;
        for (seq, waiting) in (self.next_seq..).zip(&self.pending) {
            encode::append_line(&mut bytes, seq, waiting.time, synced.take(), &waiting.body);
        }
        let mut written = self.storage.write_at(&self.file, &bytes, self.length);
        if is_full(&written) {
            self.storage.set_len(&self.file, self.length)?;
            if self.spend_reserve() {
                written = self.storage.write_at(&self.file, &bytes, self.length);
                if is_full(&written) {
                    self.storage.set_len(&self.file, self.length)?;
                }
            }
        }
        written?;
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.next_seq = self.next_seq.saturating_add(self.pending.len() as u64);
        self.synced_seq = None;
        self.unsynced.append(&mut self.pending);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Errno> {
        // ENOSPC from fsync (delayed allocation) is a failed fsync like any other: never retried.
        self.storage.sync_file(&self.file)?;
        self.check_linked()?;
        self.synced_length = self.length;
        self.synced_seq = Some(self.next_seq);
        // First: who is answered may ask for a checkpoint that covers its line.
        self.tell_durable();
        for waiting in self.unsynced.drain(..) {
            answer(waiting.reply, Ok(()));
        }
        Ok(())
    }

    /// ENOENT if the segment was removed: what is written to it then nobody will read. To be asked now and then, which is
    /// about once a second.
    fn check_linked(&mut self) -> Result<(), Errno> {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK_EACH {
            return Ok(());
        }
        self.looked = now;
        match self.storage.stat_file(&self.file)?.nlink {
            0 => Err(Errno::NOENT),
            _ => Ok(()),
        }
    }

    fn refuse_all(&mut self, errno: Errno) {
        self.health.set(Some(errno), Some(errno));
        for waiting in self.unsynced.drain(..).chain(self.pending.drain(..)) {
            answer(waiting.reply, Err(errno));
        }
        self.group_due = None;
    }
}

fn answer(reply: Option<Reply>, result: Result<(), Errno>) {
    if let Some(reply) = reply {
        // The caller may be gone; nothing is owed to it then.
        let _ = reply.send(result);
    }
}

/// Whether a durability class makes its caller wait, and whether it needs an fsync soon.
pub fn class(durability: Durability) -> (bool, bool) {
    match durability {
        Durability::Async => (false, false),
        Durability::Group => (false, true),
        Durability::Sync => (true, true),
    }
}
