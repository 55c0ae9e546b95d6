//! Whether a ledger is the one that its checkpoints vouch for. Asked when it is opened: it must extend
//! the checkpoint in its folder and each copy that was found in a branch.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accounted::Accounted;
use super::checkpoint::Checkpoint;
use super::evidence::Evidence;
pub use super::keys::{KEY, NEW_KEY};
use super::keys::{Keys, OWN};
use super::note::NoteSigner;
use super::pruned::{self, Leaving};
use super::record::{LossRecord, Record};
use super::replay::{Terms, replay};
use super::store::TreeStore;
use super::tree::tile::{Builder, TileId};
use super::tree::{Hash, empty_root};
use super::{Entry, LedgerError};
use crate::storage::Storage;

/// Tiles that are missing and kept in memory to be written; with more all are made again.
const MISSING_MAX: usize = if cfg!(test) { 4 } else { 1024 };
mod finish;

pub use finish::Finished;

/// What makes an opened ledger a signed one.
pub struct Seal<D> {
    /// The state folder, for the key.
    pub state: D,
    /// Copies of checkpoints that were found elsewhere.
    pub copies: Vec<CheckpointCopy>,
    /// What differs is recorded with this reason instead of refused, and a new key begins.
    pub accept: Option<Acceptance>,
}

/// Who takes a loss, and why.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// In words.
    pub why: String,
    /// Who.
    pub uid: u32,
}

/// A checkpoint that lies elsewhere.
#[derive(Debug, Clone)]
pub struct CheckpointCopy {
    /// Where, for messages, such as `the copy in branch inbox`.
    pub place: String,
    /// The note.
    pub note: Vec<u8>,
    /// The branch is adopted: what it holds of other ledgers does not matter.
    pub adopted: bool,
}

/// A line as replay hands it out.
pub struct Line<'a> {
    /// What it says.
    pub entry: &'a Entry,
    /// Bytes, its newline included.
    pub length: u64,
    /// Its hash in the tree.
    pub leaf: Hash,
    /// Its segment.
    pub segment: u64,
}

/// A checkpoint that the ledger must extend.
struct Wanted {
    place: String,
    checkpoint: Checkpoint,
    note: Vec<u8>,
    own: bool,
}

/// The comparison while lines are replayed.
pub struct Start<S: Storage> {
    storage: Arc<S>,
    state: S::Dir,
    store: TreeStore<S>,
    evidence: Evidence<S>,
    signer: NoteSigner,
    /// The key is still `key.new`.
    unborn: bool,
    wanted: Vec<Wanted>,
    /// Sizes that are asked for, and the roots once they are reached.
    roots: BTreeMap<u64, Option<Hash>>,
    problems: Vec<String>,
    /// The same of copies that our key did not sign.
    other_roots: BTreeMap<u64, Option<Hash>>,
    /// The key was found, not made.
    found_key: bool,
    /// Key or checkpoint that is there and of no use.
    useless: Vec<&'static str>,
    /// The key that signs, as the lines say.
    named: Option<String>,
    /// Earlier losses, by the `seq` of their records.
    accepted: Vec<(u64, LossRecord)>,
    builder: Builder,
    missing: Vec<(TileId, Vec<Hash>)>,
    /// Tiles that are not on the disk as the checkpoint needs them.
    damaged: u64,
    /// The first line that is not the one in the tiles: segment and `seq`.
    differs: Option<(u64, u64)>,
    /// Segments by the `seq` of their first line.
    segments: BTreeMap<u64, u64>,
    /// Bytes of each segment.
    lengths: BTreeMap<u64, u64>,
    /// The first line's `seq`, and the tree of the lines before, which have left.
    front: Option<(u64, Builder)>,
    /// Which lines have left, as records say.
    leaving: Leaving,
    /// The hashes of what has left are not there: there is no tree.
    headless: bool,
}

impl<S: Storage> Start<S> {
    /// Looks at key, checkpoint and copies; makes a key where there never was one.
    pub fn new(
        storage: &Arc<S>,
        dir: &S::Dir,
        view: &str,
        seal: &Seal<S::Dir>,
    ) -> Result<Self, LedgerError> {
        let store = TreeStore::new(Arc::clone(storage), dir.clone());
        let keys = Keys::find(&**storage, &seal.state, dir, view)?;
        let evidence = Evidence::look(storage, &seal.state)?;
        let mut start = Self {
            storage: Arc::clone(storage),
            state: seal.state.clone(),
            store,
            evidence,
            signer: keys.signer,
            unborn: keys.unborn,
            wanted: Vec::new(),
            roots: BTreeMap::new(),
            problems: keys.problems,
            other_roots: BTreeMap::new(),
            found_key: keys.is_found,
            useless: keys.damaged,
            named: None,
            accepted: Vec::new(),
            builder: Builder::default(),
            missing: Vec::new(),
            damaged: 0,
            differs: None,
            segments: BTreeMap::new(),
            lengths: BTreeMap::new(),
            front: None,
            leaving: Leaving::default(),
            headless: false,
        };
        if let Some((checkpoint, note)) = keys.own {
            start.want(OWN.to_owned(), checkpoint, note, true);
        }
        for copy in &seal.copies {
            start.want_copy(copy);
        }
        Ok(start)
    }

    fn want(&mut self, place: String, checkpoint: Checkpoint, note: Vec<u8>, own: bool) {
        let root = (checkpoint.size == 0).then(empty_root);
        self.roots.insert(checkpoint.size, root);
        self.wanted.push(Wanted { place, checkpoint, note, own });
    }

    fn want_copy(&mut self, copy: &CheckpointCopy) {
        let place = copy.place.clone();
        match Checkpoint::open(&copy.note, self.signer.verifier()) {
            Ok(checkpoint) => self.want(place, checkpoint, copy.note.clone(), false),
            Err(_) if copy.adopted => {}
            // Whether an earlier loss accounts for it is seen when all lines are read.
            Err(_) => {
                let claimed = Checkpoint::unverified(&copy.note);
                let unknown = Checkpoint { origin: String::new(), size: u64::MAX, root: [0; 32] };
                let checkpoint = claimed.unwrap_or(unknown);
                let root = (checkpoint.size == 0).then(empty_root);
                self.other_roots.insert(checkpoint.size, root);
                self.wanted.push(Wanted { place, checkpoint, note: copy.note.clone(), own: false });
            }
        }
    }

    /// Lines that the ledger must have at least.
    pub fn least(&self) -> u64 {
        self.roots.keys().next_back().copied().unwrap_or(0)
    }

    /// Takes in a line.
    pub fn line(&mut self, line: &Line<'_>) {
        if self.front.is_none() {
            self.begin_at(line.entry.seq);
        }
        let seq = self.builder.size();
        if self.segments.values().next_back() != Some(&line.segment) {
            self.segments.insert(seq, line.segment);
        }
        let length = self.lengths.entry(line.segment).or_default();
        *length = length.saturating_add(line.length);
        let signed = self.own_size().unwrap_or(0);
        self.leaving.add(seq, &line.entry.record, signed);
        match &line.entry.record {
            Record::Loss(loss) => self.accepted.push((seq, LossRecord::clone(loss))),
            Record::Prune(prune) => self.named = prune.key.clone().or(self.named.take()),
            Record::Key(record) => self.named = Some(record.key.clone()),
            _ => {}
        }
        let mut full = Vec::new();
        self.builder.push(line.leaf, |id, hashes| full.push((id, hashes.to_vec())));
        for (id, hashes) in full {
            self.compare(id, hashes);
        }
        let size = self.builder.size();
        for roots in [&mut self.roots, &mut self.other_roots] {
            if let Some(root) = roots.get_mut(&size) {
                *root = Some(self.builder.root());
            }
        }
        if self.own_size() == Some(size) {
            let partial: Vec<_> =
                self.builder.partial().map(|(id, hashes)| (id, hashes.to_vec())).collect();
            for (id, hashes) in partial {
                self.compare(id, hashes);
            }
        }
    }

    /// The tree goes on from that of the lines that have left.
    fn begin_at(&mut self, seq: u64) {
        if seq == 0 {
            self.front = Some((0, Builder::default()));
            return;
        }
        match pruned::tree_of(&self.store, seq) {
            Ok(tree) => {
                for (size, root) in self.roots.range_mut(1..=seq) {
                    *root = pruned::root_before(&self.store, *size, &tree);
                }
                self.builder = tree;
            }
            Err(errno) => {
                self.headless = true;
                let what = format!("the hashes of the first {seq} lines, which have left");
                self.problems.push(format!("cannot read {what}: {errno}"));
            }
        }
        self.front = Some((seq, self.builder.clone()));
    }

    /// Reads all lines: the `seq` of the first that is not the one that our key has signed, where the tiles
    /// tell.
    pub fn first_foreign(mut self, dir: &S::Dir) -> Result<Option<u64>, LedgerError> {
        let storage = Arc::clone(&self.storage);
        let terms = Terms { least: self.least(), accept: true, foreign_from: None };
        replay(&*storage, dir, terms, &mut |line| self.line(line))?;
        let denied = |wanted: &Wanted| {
            let checkpoint = &wanted.checkpoint;
            let other = |root: &Option<Hash>| root.is_some_and(|root| root != checkpoint.root);
            self.roots.get(&checkpoint.size).is_some_and(other)
                // Only tiles that lead to what was signed say which line is not it.
                && self.store.root(checkpoint.size) == Ok(checkpoint.root)
                && Checkpoint::open(&wanted.note, self.signer.verifier()).is_ok()
        };
        let denies = |seq| self.wanted.iter().any(|one| seq < one.checkpoint.size && denied(one));
        Ok(self.differs.map(|(_, seq)| seq).filter(|seq| denies(*seq)))
    }

    fn key_text(&self) -> String {
        self.signer.verifier().to_string()
    }

    fn own_size(&self) -> Option<u64> {
        self.wanted.iter().find(|wanted| wanted.own).map(|wanted| wanted.checkpoint.size)
    }

    /// Compares a tile with the one on the disk.
    fn compare(&mut self, id: TileId, hashes: Vec<Hash>) {
        // One that cannot be read is made again like one that is not there.
        let stored = self.store.read(id).unwrap_or_default();
        if stored.as_ref() == Some(&hashes) {
            return;
        }
        if self.own_size() >= Some(self.builder.size()) {
            self.damaged = self.damaged.saturating_add(1);
        }
        let stored = stored.unwrap_or_default();
        if id.level == 0 && !stored.is_empty() && self.differs.is_none() {
            let same = |(stored, hash): (&Hash, &Hash)| stored == hash;
            let equal = stored.iter().zip(&hashes).take_while(|pair| same(*pair)).count();
            let first = id.index.saturating_mul(u64::from(super::tree::tile::WIDTH));
            let seq = first.saturating_add(equal as u64);
            let segment = self.segments.range(..=seq).next_back();
            self.differs = segment.map(|(_, segment)| (*segment, seq));
        }
        if self.missing.len() <= MISSING_MAX {
            self.missing.push((id, hashes));
        }
    }

    /// What losses account for whose records are signed.
    fn accounted(&self) -> Accounted {
        let covered = self.own_size().unwrap_or(0);
        let mut accounted = Accounted::default();
        let losses = self.accepted.iter().filter(|(seq, _)| *seq < covered);
        losses.for_each(|(_, loss)| accounted.add(loss));
        accounted
    }

    /// What is to be said after the place of a checkpoint that our key did not sign.
    fn not_ours(&self, origin: &str) -> String {
        let ours = self.signer.verifier().name();
        if !self.found_key {
            return format!("was signed by a key that is not there, {}", plain(origin));
        }
        // What is torn or empty names nobody.
        if origin == ours || !origin.starts_with("octroi/") {
            return "is not as this ledger's key has signed it; if that file is damaged, remove it"
                .to_owned();
        }
        format!("is of another ledger or key: {}, not {ours}", plain(origin))
    }

    /// What differs; nothing if the ledger extends all that vouches for it.
    fn problems(&self) -> Vec<Difference> {
        let mut found: Vec<Difference> = self.problems.iter().map(Difference::of_all).collect();
        let first = self.front.as_ref().map_or(0, |(first, _)| *first);
        if let Some(seq) = self.leaving.unsigned_before(first) {
            found.push(Difference::of_all(format!(
                "the lines before seq {first} are missing, and nobody has signed the record at seq {seq}, \
                 which says that they have left"
            )));
        } else if first > self.leaving.first {
            found.push(Difference::of_all(format!(
                "the lines before seq {first} are missing, and did not leave by age or size"
            )));
        }
        let covered = self.own_size().unwrap_or(0);
        if let Some((seq, _)) = self.accepted.iter().find(|(seq, _)| *seq >= covered) {
            found.push(Difference::of_all(format!(
                "nobody has signed the record at seq {seq}, which accepts a loss: octroi audit accept-loss was cut \
                 off and is to be run again, or somebody else wrote it"
            )));
        }
        if let Some(named) = self.named.as_ref().filter(|named| **named != self.key_text()) {
            let how = if self.found_key { "is another" } else { "is not there" };
            let named = plain(named);
            found.push(Difference::of_all(format!(
                "its lines name the key {named}, and {KEY} {how}"
            )));
        }
        let lines = self.builder.size();
        let accounted = self.accounted();
        let is_kept = |found: &Checkpoint| {
            self.other_roots.get(&found.size).is_some_and(|root| *root == Some(found.root))
        };
        for Wanted { place, checkpoint, note, own } in &self.wanted {
            if !own && accounted.covers(note, is_kept) {
                continue;
            }
            let size = checkpoint.size;
            let what = match self.roots.get(&size) {
                _ if Checkpoint::open(note, self.signer.verifier()).is_err() => {
                    self.not_ours(&checkpoint.origin)
                }
                Some(Some(root)) if *root == checkpoint.root => continue,
                Some(Some(_)) => match self.differs.filter(|(_, seq)| *seq < size) {
                    Some((segment, seq)) => format!(
                        "vouches for other lines: seq {seq} in segment {segment:08}.jsonl is not \
                         the line that was signed"
                    ),
                    None => format!("vouches for other lines than the first {size}"),
                },
                _ => format!("vouches for {size} lines, and the ledger has {lines}"),
            };
            found.push(Difference { place: Some(place.clone()), what });
        }
        found
    }
}

/// Something by which a ledger is not the one that was signed.
struct Difference {
    /// The checkpoint that shows it, where it is one.
    place: Option<String>,
    /// In words, after the place.
    what: String,
}

impl Difference {
    fn of_all(what: impl ToString) -> Self {
        Self { place: None, what: what.to_string() }
    }
}

/// Each by itself.
fn one_by_one(found: Vec<Difference>) -> impl Iterator<Item = String> {
    found.into_iter().map(|Difference { place, what }| match place {
        Some(place) => format!("{place} {what}"),
        None => what,
    })
}

/// The same of several checkpoints is said once.
fn together(found: Vec<Difference>) -> Vec<String> {
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    for Difference { place, what } in found {
        match groups.iter_mut().find(|(places, same)| !places.is_empty() && *same == what) {
            Some((places, _)) => places.extend(place),
            None => groups.push((place.into_iter().collect(), what)),
        }
    }
    let said = |(places, what): (Vec<String>, String)| match places.as_slice() {
        [] => what,
        [one] => format!("{one} {what}"),
        [some @ .., last] => {
            let many = [("was ", "were "), ("is ", "are "), ("vouches ", "vouch ")];
            let many = many
                .iter()
                .find_map(|(one, many)| what.strip_prefix(one).map(|rest| format!("{many}{rest}")));
            format!("{} and {last} {}", some.join(", "), many.unwrap_or(what))
        }
    };
    groups.into_iter().map(said).collect()
}

/// Text from outside, fit for a message.
fn plain(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
