//! Segments leave a ledger from the front, by age or size; what vouches for the rest stays.
//!
//! The tree goes on as if nothing had left: the hashes of the lines are in the tiles, which stay, and
//! the tree of the lines that are left begins with them. So every checkpoint and proof holds on.
//!
//! # Invariants
//!
//! 1. A segment leaves after a published checkpoint covers a [`PruneRecord`] that says so, and after all before
//!    it have left durably; the last one never does. What no checkpoint covers anybody may have written: a
//!    record that none covered when the ledger was opened is followed by one that takes it back.
//! 2. A signed checkpoint covers all lines that leave.
//! 3. No line leaves that names a transaction which recovery, an undo or a person may need.
//! 4. What else a start must learn from lines that leave is in the record: the branches' ids, the key. Of a
//!    loss that leaves no more is known: a branch that was away since before it must be adopted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;

use super::checkpoint::Checkpoint;
use super::index::{FIELDS, INDEX, TXID, file_of};
use super::record::PruneRecord;
use super::store::TreeStore;
use super::tree::Hash;
use super::tree::proof::is_consistent;
use super::tree::tile::Builder;
use super::{Durability, End, Ledger, Record, decode, encode, segment};
use crate::error::Errno;
use crate::storage::Storage;
use crate::types::{BranchUuid, TxId, binary_size};

/// Bytes read at once; longer than any line.
const PIECE: usize = 1 << 20;
/// So many segments share what `size` allows, so that what leaves at once is a small part.
const SHARES: u64 = 8;
/// So many segments leave at once, for the record that names them is one line. The next look takes the others.
const LEAVING_MAX: usize = if cfg!(test) { 4 } else { 1000 };
/// How long a look waits for the checkpoint that covers what it has recorded.
const SIGN_WAIT: Duration = Duration::from_secs(2);
/// The smallest segments.
const SEGMENT_MIN: u64 = 1 << 20;

/// How much of a ledger is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// Lines younger than this.
    pub age: Option<Duration>,
    /// Bytes of all segments together.
    pub size: Option<u64>,
}

impl Keep {
    /// Bytes after which a segment is followed by the next.
    pub fn segment_max(&self) -> u64 {
        let share = self.size.map_or(segment::SEGMENT_MAX, |size| size / SHARES);
        share.clamp(SEGMENT_MIN, segment::SEGMENT_MAX)
    }
}

/// What a start must know beside the lines that are there.
pub struct Needed<'a> {
    /// Whether somebody may need the records of a transaction.
    pub transaction: &'a dyn Fn(TxId) -> bool,
    /// The branches' ids.
    pub ids: BTreeMap<String, BranchUuid>,
}

/// Why the oldest segment stays, though the segments have more bytes than they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is the newest, which is written to.
    Newest,
    /// No checkpoint covers all of its lines, or the record by which it leaves, yet.
    Unsigned,
    /// It names a transaction that somebody may need; none where its id cannot be read.
    Needed(Option<TxId>),
}

/// Which lines have left or are to leave, as records say: only those that a checkpoint covers count.
#[derive(Debug, Clone, Copy, Default)]
pub struct Leaving {
    /// The first line that stays.
    pub first: u64,
    /// The newest record that no checkpoint covers: its position, and the first line that stays by it.
    pub unsigned: Option<(u64, u64)>,
}

impl Leaving {
    /// Takes in the record at a position, of which `signed` lines are covered.
    pub fn add(&mut self, seq: u64, record: &Record, signed: u64) {
        let first = match record {
            // It may take back one before it.
            Record::Prune(prune) => prune.first,
            Record::Loss(loss) => loss.first.max(self.first),
            _ => return,
        };
        if seq < signed {
            self.first = first;
        } else if first != self.first {
            self.unsigned = Some((seq, first));
        }
    }

    /// Whether a record says that the lines before a position have left, and none that is signed does.
    pub fn unsigned_before(&self, first: u64) -> Option<u64> {
        let (seq, _) = self.unsigned.filter(|(_, stays)| first > self.first && first <= *stays)?;
        Some(seq)
    }

    /// What takes back the record that no checkpoint covers.
    pub fn revoked(&self) -> Option<PruneRecord> {
        let (seq, _) = self.unsigned?;
        let reason = format!("nobody has signed the record at seq {seq}: nothing leaves by it");
        let (segments, ids) = (Vec::new(), BTreeMap::new());
        Some(PruneRecord { first: self.first, segments, reason, ids, key: None })
    }
}

/// A segment that may leave.
struct Candidate {
    number: u64,
    size: u64,
    /// First line of the next: its position and time.
    next: (u64, jiff::Timestamp),
}

/// Lets segments go.
pub struct Pruner<S: Storage> {
    storage: Arc<S>,
    dir: S::Dir,
    ledger: Arc<Ledger<S>>,
    keep: Keep,
    /// First position that stays by the newest record.
    announced: u64,
    /// Where that record ended, until a checkpoint covers it.
    unsigned: Option<End>,
    kept: Option<Kept>,
}

impl<S: Storage> Pruner<S> {
    /// `announced` is the first position that stays by the newest record in the ledger that is signed: what is
    /// still before it was to leave when a crash came between.
    pub fn new(
        storage: Arc<S>,
        dir: S::Dir,
        ledger: Arc<Ledger<S>>,
        keep: Keep,
        announced: u64,
    ) -> Self {
        ledger.set_segment_max(keep.segment_max());
        Self { storage, dir, ledger, keep, announced, unsigned: None, kept: None }
    }

    /// Why the segments have more bytes than they may, if so, as of the last [`Pruner::prune`].
    pub fn kept(&self) -> Option<Kept> {
        self.kept
    }

    /// Whether segments are to leave as soon as a checkpoint covers the record that says so.
    pub fn is_waiting(&self) -> bool {
        self.unsigned.is_some()
    }

    /// Lets go of what is too old or too much. Gives the number of segments that left. They leave at a later
    /// call where the record that says so cannot be signed at once.
    pub fn prune(&mut self, now: jiff::Timestamp, needed: &Needed<'_>) -> Result<usize, Errno> {
        if !self.is_announcement_signed() {
            return Ok(0);
        }
        // First: it makes room for the records.
        let signed = self.ledger.checkpoint().and_then(|note| Checkpoint::unverified(&note));
        let signed = signed.map_or(0, |checkpoint| checkpoint.size);
        let gone = self.remove_announced(signed)?;
        let numbers = segment::list(&*self.storage, &self.dir)?;
        self.age_last(&numbers, now)?;
        let candidates = self.candidates(&numbers)?;
        let last = numbers.last().map_or(Ok(0), |number| self.size_of(*number))?;
        let all = candidates.iter().fold(last, |sum, one| sum.saturating_add(one.size));
        let mut total = all;
        let mut leaving = 0_usize;
        let mut why = None;
        let mut kept = Some(Kept::Newest);
        for candidate in &candidates {
            let Some(reason) = self.reason(candidate, total, now) else { break };
            if leaving == LEAVING_MAX {
                kept = None;
                break;
            }
            if candidate.next.0 > signed {
                kept = Some(Kept::Unsigned);
                break;
            }
            if let Some(txid) = self.needed_in(candidate, needed)? {
                kept = Some(Kept::Needed(txid));
                break;
            }
            why.get_or_insert(reason);
            total = total.saturating_sub(candidate.size);
            leaving = leaving.saturating_add(1);
        }
        let is_too_large = |total: u64| self.keep.size.is_some_and(|size| total > size);
        let unsigned = Some(Kept::Unsigned).filter(|_| is_too_large(all));
        self.kept = kept.filter(|_| is_too_large(total));
        let leaving = candidates.get(..leaving).unwrap_or_default();
        if let (Some(reason), Some(last)) = (why, leaving.last()) {
            self.announce(leaving, last.next.0, reason, needed)?;
            if !self.is_announcement_signed() {
                self.kept = unsigned;
                return Ok(gone);
            }
            self.remove_all(leaving)?;
        }
        Ok(gone.saturating_add(leaving.len()))
    }

    /// What the newest record says, which is signed, of the lines that the newest checkpoint covers: where that is
    /// gone with its tiles, the lines are what both are made from again.
    fn remove_announced(&self, signed: u64) -> Result<usize, Errno> {
        let numbers = segment::list(&*self.storage, &self.dir)?;
        let mut leaving = self.candidates(&numbers)?;
        leaving.retain(|candidate| candidate.next.0 <= self.announced.min(signed));
        self.remove_all(&leaving)?;
        Ok(leaving.len())
    }

    /// Has the newest record signed, if it is not. A record that no checkpoint covers excuses nothing: after a
    /// crash it could be anybody's.
    fn is_announcement_signed(&mut self) -> bool {
        let ledger = &self.ledger;
        self.unsigned.take_if(|end| ledger.covers(*end, SIGN_WAIT));
        self.unsigned.is_none()
    }

    fn remove_all(&self, leaving: &[Candidate]) -> Result<(), Errno> {
        for candidate in leaving {
            self.remove(candidate.number)?;
            // One after the other: what a crash leaves has no segment missing in the middle.
            self.storage.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Why a segment leaves, if it does.
    fn reason(&self, candidate: &Candidate, total: u64, now: jiff::Timestamp) -> Option<String> {
        if let Some(size) = self.keep.size.filter(|size| total > *size) {
            let [total, size] = [total, size].map(binary_size);
            return Some(format!("the ledger has {total}, and may have {size}"));
        }
        let age = self.keep.age?;
        let before = now.checked_sub(age).ok()?;
        (candidate.next.1 < before).then(|| format!("lines are kept for {} s", age.as_secs()))
    }

    fn announce(
        &mut self,
        leaving: &[Candidate],
        first: u64,
        reason: String,
        needed: &Needed<'_>,
    ) -> Result<(), Errno> {
        let name = |candidate: &Candidate| {
            segment::file_name(candidate.number).to_string_lossy().into_owned()
        };
        let segments = leaving.iter().map(name).collect();
        let key = self.ledger.key().map(ToString::to_string);
        let record = PruneRecord { first, segments, reason, ids: needed.ids.clone(), key };
        self.ledger.append(Record::Prune(Box::new(record)), Durability::Sync)?;
        self.announced = first;
        self.unsigned = self.ledger.end();
        Ok(())
    }

    fn remove(&self, number: u64) -> Result<(), Errno> {
        self.storage.unlink(&self.dir, &segment::file_name(number))?;
        // It would only be a file that nobody looks at.
        if let Ok(index) = self.storage.open_dir(&self.dir, Path::new(INDEX)) {
            let _ = self.storage.unlink(&index, OsStr::new(&file_of(number)));
        }
        Ok(())
    }

    /// Has the last segment followed by another once it is so old that it would keep lines for much
    /// longer than they shall be kept.
    fn age_last(&self, numbers: &[u64], now: jiff::Timestamp) -> Result<(), Errno> {
        let (Some(age), Some(last)) = (self.keep.age, numbers.last()) else { return Ok(()) };
        let share = age.checked_div(SHARES as u32).unwrap_or(age);
        let Some((length, _, begun)) = self.first_line(*last)? else { return Ok(()) };
        let old = now.checked_sub(share).is_ok_and(|before| begun < before);
        if old && self.size_of(*last)? > length {
            self.ledger.rotate()?;
        }
        Ok(())
    }

    /// All segments but the last.
    fn candidates(&self, numbers: &[u64]) -> Result<Vec<Candidate>, Errno> {
        let mut candidates = Vec::new();
        for (number, next) in numbers.iter().zip(numbers.iter().skip(1)) {
            let size = self.size_of(*number)?;
            let Some((_, seq, time)) = self.first_line(*next)? else { break };
            candidates.push(Candidate { number: *number, size, next: (seq, time) });
        }
        Ok(candidates)
    }

    fn size_of(&self, number: u64) -> Result<u64, Errno> {
        let found = self.storage.stat(&self.dir, &segment::file_name(number))?;
        Ok(found.map_or(0, |found| found.identity.size))
    }

    /// Length with its newline, position and time of a segment's first line; none of one that has just
    /// begun.
    fn first_line(&self, number: u64) -> Result<Option<(u64, u64, jiff::Timestamp)>, Errno> {
        let file = self.storage.open_read(&self.dir, &segment::file_name(number))?;
        let mut bytes = vec![0; encode::LINE_MAX.saturating_add(1)];
        let read = self.storage.read_at(&file, &mut bytes, 0)?;
        let Some(end) = memchr::memchr(b'\n', bytes.get(..read).unwrap_or_default()) else {
            return Ok(None);
        };
        let head = decode::head(bytes.get(..end).unwrap_or_default()).map_err(|_| Errno::IO)?;
        let time = head.time.parse().map_err(|_| Errno::IO)?;
        Ok(Some(((end as u64).saturating_add(1), head.seq, time)))
    }

    /// The first transaction that a line names and somebody may need; none within for an id that cannot be
    /// read.
    fn needed_in(
        &self,
        candidate: &Candidate,
        needed: &Needed<'_>,
    ) -> Result<Option<Option<TxId>>, Errno> {
        let file = self.storage.open_read(&self.dir, &segment::file_name(candidate.number))?;
        let finders = FIELDS.map(memmem::Finder::new);
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let read = self.storage.read_at(&file, &mut piece, offset)?;
            let filled = piece.get(..read).unwrap_or_default();
            let end = memchr::memrchr(b'\n', filled).map_or(0, |at| at.saturating_add(1));
            let lines = filled.get(..end).unwrap_or_default();
            for (finder, field) in finders.iter().zip(FIELDS) {
                for at in finder.find_iter(lines) {
                    let id = lines.get(at.saturating_add(field.len())..).unwrap_or_default();
                    let text = id.get(..TXID).and_then(|id| std::str::from_utf8(id).ok());
                    let txid = text.and_then(|text| text.parse().ok());
                    if txid.is_none_or(|txid| (needed.transaction)(txid)) {
                        return Ok(Some(txid));
                    }
                }
            }
            if end == 0 {
                return Ok(None);
            }
            offset = offset.saturating_add(end as u64);
        }
    }
}

/// The tree of the first `size` lines, from its tiles. ENODATA where one is missing.
pub fn tree_of<S: Storage>(store: &TreeStore<S>, size: u64) -> Result<Builder, Errno> {
    Builder::resume(size, &mut |id| store.read_any(id)?.ok_or(Errno::NODATA))
}

/// The root of the first `size` lines, which are fewer than `tree` has, if the tiles show that they are the
/// beginning of it.
pub fn root_before<S: Storage>(store: &TreeStore<S>, size: u64, tree: &Builder) -> Option<Hash> {
    let root = store.root(size).ok()?;
    let path = store.consistency(size, tree.size()).ok()?;
    is_consistent((size, root), (tree.size(), tree.root()), &path).then_some(root)
}
