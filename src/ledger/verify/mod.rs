//! Checks a whole ledger, in use or not, and changes nothing: every line, its checksum and position, the
//! tree over them against the signed checkpoint, its tiles and the copies elsewhere, and the story of
//! each crossing. One line is in memory at a time.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::error::Errno;
use crate::storage::Storage;

use super::accounted::Accounted;
use super::checkpoint::Checkpoint;
use super::note::VerifierKey;
use super::pruned::{self, Leaving};
use super::record::{CrossingRecord, KeyRecord, MountEvent, Record};
use super::start::CheckpointCopy;
use super::store::TreeStore;
use super::tree::tile::{Builder, TileId, WIDTH};
use super::tree::{Hash, empty_root, leaf_hash};
use super::{decode, keys};

mod finish;
mod lines;
mod report;
mod story;
mod stream;
#[cfg(test)]
mod tests;

pub use lines::Source;
use lines::{Segments, Step as Next};
pub use report::{AcceptedLoss, BegunKey, Problem, Report};
use story::Story;
use stream::Stream;
pub use stream::Witness;

/// How often a verification is begun.
const ATTEMPTS: usize = 5;
/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 100;

/// What the ledger is held against.
pub struct Against<'a, S: Storage> {
    /// The key that must have signed.
    pub key: &'a VerifierKey,
    /// The newest checkpoint's note, read before the lines; none if it is not there.
    pub checkpoint: Option<Vec<u8>>,
    /// Copies of checkpoints.
    pub copies: &'a [CheckpointCopy],
    /// The tiles, if they can be read.
    pub tiles: Option<&'a TreeStore<S>>,
    /// More checkpoints, of which there may be any number.
    pub witness: Option<Witness<'a>>,
}

/// Checks a ledger. `done` is given COMMIT's record of each crossing that is done. ENOENT where a segment has
/// left while those before it were read, or since the checkpoint was: [`steadily`] begins again, with the newest
/// checkpoint.
pub fn verify<'a, S: Storage>(
    source: &Source,
    against: &'a Against<'a, S>,
    done: &mut dyn FnMut(&CrossingRecord),
) -> std::io::Result<Report> {
    let mut check = Check::new(against);
    let mut segments = Segments::open(source)?;
    while let Some(next) = segments.next()? {
        match next {
            Next::Line { segment, number, bytes } => check.line(segment, number, bytes, done),
            Next::Void { segment, from } => check.void(segment, from),
            Next::Begin { missing: Some(name) } => {
                check.report.problem(name, "the segment is missing");
            }
            Next::Begin { missing: None } => {
                check.report.segments = check.report.segments.saturating_add(1);
            }
            Next::Unfinished { segment, bytes, last } => check.unfinished(&segment, bytes, last),
        }
    }
    match check.has_more_left() {
        true => Err(ErrorKind::NotFound.into()),
        false => Ok(check.finish()),
    }
}

/// Does `attempt`, a verification, again where a segment has left by age or size while it ran.
pub fn steadily<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            // The second where its lines are read through `.audit`.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
                ) => {}
            ended => return ended,
        }
    }
    attempt()
}

/// What is wrong with a line.
enum Wrong {
    /// It does not check, as one that a crash tore.
    Broken(String),
    /// It checks, and cannot be what it is where it is: no crash does that.
    Misplaced(String),
}

struct Check<'a, S: Storage> {
    against: &'a Against<'a, S>,
    report: Report,
    builder: Builder,
    /// The checkpoint, if it is good.
    checkpoint: Option<Checkpoint>,
    /// Copies that the key signed.
    copies: Vec<(String, Checkpoint)>,
    roots: BTreeMap<u64, Option<Hash>>,
    /// The first line that is not the one in the tiles.
    differs: Option<u64>,
    story: Story,
    next_seq: u64,
    /// The same of copies that another key signed.
    other_roots: BTreeMap<u64, Option<Hash>>,
    /// What accepted losses account for.
    accounted: Accounted,
    /// Lines in a row that do not check, from here on: they may be a torn end.
    torn: Vec<Problem>,
    /// Position, time and place of the first line.
    front: Option<(u64, Option<jiff::Timestamp>, String)>,
    /// Which lines have left, as records say.
    leaving: Leaving,
    /// Keys that have signed so far, as far as lines tell.
    former: Vec<VerifierKey>,
    /// Where a key may begin that nothing has signed: after a loss, or the version of a segment after it.
    unsigned_key_at: Option<u64>,
    /// The key that signs, as the lines say.
    named: Option<String>,
    /// No daemon serves: it was unmounted, and not mounted again.
    unmounted: bool,
    /// Position of the newest operation.
    operated: Option<u64>,
    /// Of the newest operation before a `mounted`: a mount came after it.
    mounted: Option<u64>,
    /// Segments that were not synced: the position from which on the next one goes on, and the void lines.
    void: Vec<(String, u64, u64)>,
    /// Checkpoints that were carried away.
    stream: Option<Stream<'a>>,
}

impl<'a, S: Storage> Check<'a, S> {
    fn new(against: &'a Against<'a, S>) -> Self {
        let key = against.key;
        let report =
            Report { origin: key.name().to_owned(), key: key.to_string(), ..Report::default() };
        let mut check = Self {
            against,
            report,
            builder: Builder::default(),
            checkpoint: None,
            copies: Vec::new(),
            roots: BTreeMap::new(),
            differs: None,
            story: Story::default(),
            next_seq: 0,
            other_roots: BTreeMap::new(),
            accounted: Accounted::default(),
            torn: Vec::new(),
            front: None,
            leaving: Leaving::default(),
            former: Vec::new(),
            unsigned_key_at: None,
            named: None,
            unmounted: false,
            operated: None,
            mounted: None,
            void: Vec::new(),
            stream: against.witness.map(|witness| Stream::new(witness, key)),
        };
        match &against.checkpoint {
            None => check.report.problem("checkpoint", "it is missing: nothing is signed"),
            Some(note) => match Checkpoint::open(note, key) {
                Ok(checkpoint) => check.checkpoint = Some(checkpoint),
                Err(why) => check.report.problem("checkpoint", why.to_string()),
            },
        }
        for copy in against.copies {
            if let Ok(checkpoint) = Checkpoint::open(&copy.note, key) {
                check.copies.push((copy.place.clone(), checkpoint));
            } else if let Some(claimed) = Checkpoint::unverified(&copy.note) {
                let root = (claimed.size == 0).then(empty_root);
                check.other_roots.insert(claimed.size, root);
            }
        }
        let sizes = check.checkpoint.iter().chain(check.copies.iter().map(|(_, copy)| copy));
        let sizes: Vec<u64> = sizes.map(|checkpoint| checkpoint.size).collect();
        check.roots = sizes.into_iter().map(|size| (size, (size == 0).then(empty_root))).collect();
        check
    }

    fn signed(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size)
    }

    fn line(
        &mut self,
        segment: &str,
        number: u64,
        bytes: &[u8],
        done: &mut dyn FnMut(&CrossingRecord),
    ) {
        let place = || format!("{segment} line {number}");
        match self.read(bytes, &place, done) {
            Ok(()) => self.confirm_torn(),
            // Beyond what is signed a crash may have left anything, if nothing good follows.
            Err(Wrong::Broken(what)) if self.builder.size() >= self.signed() => {
                if self.torn.len() < PROBLEMS_MAX {
                    self.torn.push(Problem { place: place(), what });
                }
            }
            Err(Wrong::Broken(what) | Wrong::Misplaced(what)) => {
                self.confirm_torn();
                self.report.problem(place(), what);
            }
        }
        self.push(leaf_hash(bytes));
        self.next_seq = self.next_seq.saturating_add(1);
    }

    /// What looked like a torn end was none.
    fn confirm_torn(&mut self) {
        for Problem { place, what } in std::mem::take(&mut self.torn) {
            self.report.problem(place, what);
        }
    }

    fn read(
        &mut self,
        bytes: &[u8],
        place: &dyn Fn() -> String,
        done: &mut dyn FnMut(&CrossingRecord),
    ) -> Result<(), Wrong> {
        let head = decode::head(bytes).map_err(Wrong::Broken)?;
        if self.front.is_none() {
            self.begin_at(head.seq, head.time, place());
        }
        if head.seq != self.next_seq {
            let expected = self.next_seq;
            self.next_seq = head.seq;
            let found = head.seq;
            return Err(Wrong::Misplaced(format!("seq is {found} where {expected} must be")));
        }
        if self.report.lines == 0 {
            self.report.times = Some([head.time.to_owned(), String::new()]);
        }
        self.report.lines = self.report.lines.saturating_add(1);
        if let Some([_, last]) = &mut self.report.times {
            last.clear();
            last.push_str(head.time);
        }
        let signed = head.seq < self.signed();
        if !signed {
            self.report.unsigned = self.report.unsigned.saturating_add(1);
        }
        if self.unmounted && !signed && matches!(head.kind, "operation" | "check") {
            let what = "nobody has signed it, and it says what was done while the view was not mounted: it is forged, or \
                 the machine failed while a branch that hangs kept a daemon from ending";
            return Err(Wrong::Misplaced(what.to_owned()));
        }
        if head.kind == "operation" {
            self.operated = Some(head.seq);
        }
        // What the daemon has signed it can read, but perhaps for what an earlier version has cut.
        if head.kind == "operation" && signed && !decode::is_shortened(bytes) {
            return Ok(());
        }
        let record = decode::decode(bytes).map_err(Wrong::Misplaced)?.entry.record;
        self.leaving.add(head.seq, &record, self.signed());
        match record {
            Record::Crossing(record) => {
                let ended = self.story.step(&record).map_err(|why| {
                    if !self.began_before(&record) {
                        self.report.problem(place(), why);
                    }
                });
                if let Ok(Some(commit)) = ended {
                    done(&commit);
                }
            }
            Record::Purge(record) => self.story.purged(record.txid),
            Record::Mount(record) => {
                self.unmounted = record.event == MountEvent::Unmounted;
                if !self.unmounted {
                    self.mounted = self.operated;
                }
            }
            Record::Prune(prune) => {
                self.know(prune.key.as_deref());
                self.named = prune.key.or(self.named.take());
            }
            Record::Version(_) if self.unsigned_key_at == Some(head.seq) => {
                self.unsigned_key_at = head.seq.checked_add(1);
            }
            Record::Key(record) => self.begin_key(head.seq, head.time, &record, place),
            Record::Loss(loss) => {
                if !signed {
                    let what = "nobody has signed it, and it accepts a loss: octroi audit accept-loss was cut off, \
                                or somebody else wrote it";
                    self.report.problem(place(), what);
                }
                self.know(loss.key.as_deref());
                self.accounted.add(&loss);
                self.unsigned_key_at = head.seq.checked_add(1);
                self.report.losses.push(AcceptedLoss {
                    seq: head.seq,
                    time: head.time.to_owned(),
                    why: loss.why,
                    uid: loss.uid,
                    kept: loss.kept,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn know(&mut self, key: Option<&str>) {
        self.former.extend(key.and_then(|key| key.parse::<VerifierKey>().ok()));
    }

    /// A key begins to sign: the first, or one that a key before it has signed, or after a loss.
    fn begin_key(&mut self, seq: u64, time: &str, record: &KeyRecord, place: &dyn Fn() -> String) {
        let Ok(key) = record.key.parse::<VerifierKey>() else {
            return self.report.problem(place(), "the key that it begins cannot be read");
        };
        let is_by =
            |note: &String| self.former.iter().any(|before| keys::is_signed(note, before, &key));
        let signed = record.note.as_ref().is_some_and(is_by);
        let may_be = match &record.note {
            Some(_) => signed || self.former.is_empty(),
            None => self.former.is_empty() || self.unsigned_key_at == Some(seq),
        };
        if !may_be {
            self.report.problem(place(), "another key begins, which none before it has signed");
        }
        self.know(Some(&record.key));
        self.named = Some(record.key.clone());
        let (time, key) = (time.to_owned(), record.key.clone());
        self.report.keys.push(BegunKey { seq, time, key, signed });
    }

    /// The tree goes on from that of the lines that have left.
    fn begin_at(&mut self, seq: u64, time: &str, place: String) {
        self.front = Some((seq, time.parse().ok(), place));
        if seq == 0 || self.builder.size() > 0 {
            return;
        }
        self.next_seq = seq;
        let tree = self.against.tiles.ok_or(Errno::NODATA);
        match tree.and_then(|tiles| Ok((tiles, pruned::tree_of(tiles, seq)?))) {
            Ok((tiles, tree)) => {
                for (size, root) in self.roots.range_mut(1..=seq) {
                    *root = pruned::root_before(tiles, *size, &tree);
                }
                self.builder = tree;
            }
            Err(errno) => {
                let what = format!("cannot read the hashes of the first {seq} lines: {errno}");
                self.report.problem("tile", what);
            }
        }
    }

    /// Whether it may have begun in a line that has left.
    fn began_before(&self, record: &CrossingRecord) -> bool {
        let Some((1.., Some(first), _)) = self.front else { return false };
        let ids = [Some(record.txid), record.undoes];
        ids.into_iter().flatten().any(|txid| {
            let begun = i64::try_from(txid.0.timestamp_ms()).unwrap_or(i64::MAX);
            begun <= first.as_millisecond()
        })
    }

    fn push(&mut self, leaf: Hash) {
        let mut full = Vec::new();
        self.builder.push(leaf, |id, hashes| full.push((id, hashes.to_vec())));
        let size = self.builder.size();
        if size <= self.signed() {
            for (id, hashes) in &full {
                self.compare(*id, hashes);
            }
        }
        self.follow(size);
        for roots in [&mut self.roots, &mut self.other_roots] {
            if let Some(root) = roots.get_mut(&size) {
                *root = Some(self.builder.root());
            }
        }
        if self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.size == size) {
            let partial: Vec<_> =
                self.builder.partial().map(|(id, hashes)| (id, hashes.to_vec())).collect();
            for (id, hashes) in &partial {
                self.compare(*id, hashes);
            }
        }
    }

    /// Compares a tile with the one on the disk.
    fn compare(&mut self, id: TileId, hashes: &[Hash]) {
        let Some(store) = self.against.tiles else { return };
        self.report.tiles = self.report.tiles.saturating_add(1);
        let place = || format!("tile/{}", id.path());
        // A daemon that publishes the next checkpoint removes partial tiles of this one.
        let found = match store.read_any(id) {
            Ok(Some(found)) => found,
            Ok(None) => {
                return self.report.problem(place(), "it is missing, or has not its right size");
            }
            Err(errno) => return self.report.problem(place(), format!("cannot read it: {errno}")),
        };
        if found == hashes {
            return;
        }
        if id.level > 0 {
            return self.report.problem(place(), "it does not fit the lines");
        }
        let equal = found.iter().zip(hashes).take_while(|(found, hash)| found == hash).count();
        let seq = id.index.saturating_mul(u64::from(WIDTH)).saturating_add(equal as u64);
        self.differs.get_or_insert(seq);
        self.report.problem(place(), format!("it has another line at seq {seq}"));
    }

    /// Bytes after the last newline.
    fn unfinished(&mut self, segment: &str, bytes: u64, last: bool) {
        if last && self.builder.size() >= self.signed() {
            self.report.notes.push(format!(
                "{segment} ends with {bytes} bytes of a line that is being written, or was torn by a \
                 crash: the next mount cuts it off"
            ));
        } else {
            self.report.problem(segment, format!("it ends with {bytes} bytes that are no line"));
        }
    }
}
