//! Whether a ledger is the one that its checkpoints vouch for. Asked when it is opened: it must extend
//! the checkpoint in its folder and each copy that was found in a branch.
//!
//! `key` and `checkpoint` are there together or not at all. A key is first written as `key.new`, then
//! the checkpoint is published, then the key gets its name: where a crash came between, the next start
//! finds `key.new` and goes on. So who removes one of the two is found out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::accounted::{Accounted, hash_of};
use super::checkpoint::Checkpoint;
use super::note::NoteSigner;
use super::pruned;
use super::record::{LossRecord, Record};
use super::sealer::Begin;
use super::store::{TILES, TreeStore, put, read_small};
use super::tree::tile::{Builder, TileId};
use super::tree::{Hash, empty_root, leaf_hash};
use super::{Entry, LedgerError};
use crate::error::Errno;
use crate::storage::Storage;

/// File name of the private key in the state folder.
pub const KEY: &str = "key";
const NEW_KEY: &str = "key.new";
/// Tiles that are missing and kept in memory to be written; with more all are made again.
const MISSING_MAX: usize = if cfg!(test) { 4 } else { 1024 };
/// Bytes of a copy that the record of a loss keeps.
const NOTE_MAX: usize = 2048;
/// How the checkpoint in the ledger's own folder is called in messages.
const OWN: &str = "the ledger's own checkpoint";

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
    /// Without its newline.
    pub bytes: &'a [u8],
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
    /// Lines before this one have left by a record that says so.
    pruned: u64,
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
        let file = |attempted, file: &str| {
            let file = file.to_owned();
            move |errno| LedgerError::Tree { attempted, file, errno }
        };
        let read = |name: &str| read_small(&**storage, &seal.state, OsStr::new(name));
        let key = read(KEY).map_err(file("read", KEY))?;
        let new_key = read(NEW_KEY).map_err(file("read", NEW_KEY))?;
        let note = store.checkpoint().map_err(file("read", "checkpoint"))?;
        let signer_of = |bytes: &Option<Vec<u8>>| {
            let text = bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.and_then(|text| text.parse::<NoteSigner>().ok())
        };
        let (signer, new_signer) = (signer_of(&key), signer_of(&new_key));
        let signed_by = |signer: &Option<NoteSigner>| match (signer, &note) {
            (Some(signer), Some(note)) => Checkpoint::open(note, signer.verifier()).ok(),
            _ => None,
        };
        let mut problems = Vec::new();
        let mut own = signed_by(&signer);
        let mut chosen = signer.clone();
        let mut unborn = false;
        match (&key, &note) {
            // Nothing was ever signed, or the first checkpoint was not published yet.
            (None, None) => {
                // A key is on the disk, by one name or the other, before the first tile.
                let tiles = storage.open_dir(dir, Path::new(TILES));
                if new_key.is_none() && !matches!(tiles, Err(Errno::NOENT)) {
                    problems.push(format!("{KEY} and {OWN} are missing, and tiles are there"));
                }
                (chosen, unborn) = (new_signer, true);
            }
            (_, Some(_)) if own.is_none() && signed_by(&new_signer).is_some() => {
                (own, unborn) = (signed_by(&new_signer), true);
                chosen = new_signer;
            }
            (None, Some(_)) => problems.push(format!("{KEY} is missing, which signed {OWN}")),
            (Some(_), None) => problems.push(format!("{OWN} is missing")),
            (Some(_), Some(note)) => match &signer {
                None => problems.push(format!("{KEY} is damaged")),
                Some(signer) => {
                    if let Err(why) = Checkpoint::open(note, signer.verifier()) {
                        problems.push(format!("{OWN} is not to be believed: {why}"));
                    }
                }
            },
        }
        let found_key = chosen.is_some();
        let signer = match chosen {
            Some(signer) => signer,
            None => new_signer_for(view).map_err(file("make", KEY))?,
        };
        let mut start = Self {
            storage: Arc::clone(storage),
            state: seal.state.clone(),
            store,
            signer,
            unborn,
            wanted: Vec::new(),
            roots: BTreeMap::new(),
            problems,
            other_roots: BTreeMap::new(),
            found_key,
            accepted: Vec::new(),
            builder: Builder::default(),
            missing: Vec::new(),
            damaged: 0,
            differs: None,
            segments: BTreeMap::new(),
            lengths: BTreeMap::new(),
            front: None,
            pruned: 0,
            headless: false,
        };
        if let (Some(checkpoint), Some(note)) = (own, note) {
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
        *length = length.saturating_add(line.bytes.len() as u64).saturating_add(1);
        match &line.entry.record {
            Record::Loss(loss) => {
                self.accepted.push((seq, LossRecord::clone(loss)));
                self.pruned = self.pruned.max(loss.first);
            }
            Record::Prune(prune) => self.pruned = self.pruned.max(prune.first),
            _ => {}
        }
        let mut full = Vec::new();
        self.builder.push(leaf_hash(line.bytes), |id, hashes| full.push((id, hashes.to_vec())));
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

    /// What differs, in words; none if the ledger extends all that vouches for it.
    fn problems(&self) -> Vec<String> {
        let mut found = self.problems.clone();
        let first = self.front.as_ref().map_or(0, |(first, _)| *first);
        if first > self.pruned {
            found.push(format!(
                "the lines before seq {first} are missing, and did not leave by age or size"
            ));
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
            match self.roots.get(&size) {
                _ if Checkpoint::open(note, self.signer.verifier()).is_err() => {
                    let origin = plain(&checkpoint.origin);
                    let ours = self.signer.verifier().name();
                    found
                        .push(format!("{place} is of another ledger or key: {origin}, not {ours} (a branch that comes \
                         from another view is taken with octroi mount --adopt)"));
                }
                Some(Some(root)) if *root == checkpoint.root => {}
                Some(Some(_)) => found.push(match self.differs.filter(|(_, seq)| *seq < size) {
                    Some((segment, seq)) => format!(
                        "{place} vouches for other lines: seq {seq} in segment {segment:08}.jsonl \
                         is not the line that was signed"
                    ),
                    None => format!("{place} vouches for other lines than the first {size}"),
                }),
                _ => found
                    .push(format!("{place} vouches for {size} lines, and the ledger has {lines}")),
            }
        }
        found
    }

    /// The outcome, once all lines are read: what the sealer begins with, or an error that says what
    /// differs. With an acceptance the differences come back and a new key begins.
    pub fn finish(
        mut self,
        view: &str,
        accept: bool,
        end: (u64, u64),
    ) -> Result<Finished<S>, LedgerError> {
        let problems = self.problems();
        let accounted = self.accounted();
        let (own, others): (Vec<Wanted>, _) =
            std::mem::take(&mut self.wanted).into_iter().partition(|wanted| wanted.own);
        let mut own = own.into_iter().next();
        let failed = |errno| LedgerError::Tree { attempted: "make", file: KEY.to_owned(), errno };
        let mut lost = None;
        let (first, front) = self.front.take().unwrap_or_default();
        match (problems.is_empty(), accept) {
            (false, _) if self.headless => return Err(LedgerError::Differs { found: problems }),
            (true, false) => {}
            (true, true) => return Err(LedgerError::NothingLost),
            (false, false) => return Err(LedgerError::Differs { found: problems }),
            (false, true) => {
                let notes = || own.iter().chain(&others).map(|wanted| wanted.note.clone());
                let text = |note: Vec<u8>| String::from_utf8(note).ok();
                let small = |note: &String| note.len() <= NOTE_MAX;
                lost = Some(LossRecord {
                    why: String::new(),
                    uid: 0,
                    found: problems,
                    checkpoints: notes().filter_map(text).filter(small).collect(),
                    hashes: notes().map(|note| hash_of(&note)).collect(),
                    key: self.found_key.then(|| self.signer.verifier().to_string()),
                    first,
                });
                (own, self.unborn) = (None, true);
                self.signer = new_signer_for(view).map_err(failed)?;
            }
        }
        if self.unborn && own.is_none() {
            let text = self.signer.to_secret_text();
            put(&*self.storage, &self.state, NEW_KEY, text.as_bytes()).map_err(failed)?;
        }
        let mut begin = Begin {
            signer: self.signer,
            builder: self.builder,
            position: end,
            missing: self.missing,
            again: Vec::new(),
            published: own.map(|wanted| (wanted.checkpoint, wanted.note)),
        };
        if begin.missing.len() > MISSING_MAX {
            begin.missing.clear();
            begin.builder = front;
            begin.position = (self.segments.values().next().copied().unwrap_or(0), 0);
            begin.again = self.lengths.into_iter().collect();
            begin.published = None;
        }
        let unborn = self.unborn.then_some((self.storage, self.state));
        Ok(Finished { begin, unborn, lost, accounted, damaged: self.damaged, first })
    }
}

/// See [`Start::finish`].
pub struct Finished<S: Storage> {
    /// For the sealer.
    pub begin: Begin,
    /// The key must get its name once a checkpoint is published.
    pub unborn: Option<(Arc<S>, S::Dir)>,
    /// What an acceptance accounts for; who and why is not in it yet.
    pub lost: Option<LossRecord>,
    /// What earlier ones do.
    pub accounted: Accounted,
    /// Tiles that were not as the lines have them, and are written again.
    pub damaged: u64,
    /// The first line that is there.
    pub first: u64,
}

/// The key's name becomes the right one: now its checkpoint is there.
pub fn name_key<S: Storage>(storage: &S, state: &S::Dir) -> Result<(), Errno> {
    storage.replace(state, OsStr::new(NEW_KEY), OsStr::new(KEY))?;
    storage.sync_dir(state)
}

/// A new key. Its name, which is the log's identity, is not met with twice: another ledger of a view
/// of the same name is another log.
fn new_signer_for(view: &str) -> Result<NoteSigner, Errno> {
    let mut random = [0; 36];
    let mut filled = 0;
    while let Some(room) = random.get_mut(filled..).filter(|room| !room.is_empty()) {
        let read = rustix::rand::getrandom(room, rustix::rand::GetRandomFlags::empty())?;
        filled = filled.saturating_add(read);
    }
    let (number, seed) = random.split_first_chunk::<4>().ok_or(Errno::IO)?;
    let seed = seed.first_chunk::<32>().ok_or(Errno::IO)?;
    let name = format!("octroi/{view}/{:08x}", u32::from_be_bytes(*number));
    NoteSigner::new(&name, seed).ok_or(Errno::INVAL)
}

/// Text from outside, fit for a message.
fn plain(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
