//! The thread that signs. It follows the writer: whatever lines an fsync has made durable it hashes into
//! the tree, writes the tiles, makes them durable, signs a checkpoint and publishes it, in that order.
//!
//! It reads the lines back from their segments, for which the writer tells it nothing but how far they
//! are durable: so callers that wait for an fsync wait for nothing of this, and however long tiles or
//! checkpoints cannot be written, nothing piles up.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex};

use super::checkpoint::Checkpoint;
use super::note::NoteSigner;
use super::segment;
use super::store::TreeStore;
use super::tree::tile::{Builder, TileId};
use super::tree::{Hash, leaf_hash};
use crate::error::Errno;
use crate::storage::Storage;
use crate::types::after;

/// From the first line that no checkpoint covers to the checkpoint that does. With the 100 ms that an
/// fsync may be late it stays below the second that is promised.
const DELAY: Duration = Duration::from_millis(750);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a stop waits for a thread.
pub const STOP_WAIT: Duration = Duration::from_secs(60);
/// Bytes read at once.
const PIECE: usize = 256 * 1024;
/// Bytes kept aside for tiles and checkpoint on a full disk: without a checkpoint no segment can leave it.
const RESERVE: u64 = 128 << 10;
/// Beside the reserve for records, which denies changes once it is spent.
const RESERVE_NAME: &str = "reserve.tree";
/// Full tiles that are kept before they are written.
const TILES_MAX: usize = 256;

/// How far lines go: a segment, and the offset in it.
pub type End = (u64, u64);

/// Between the writer and the sealer.
#[derive(Default)]
pub struct Durable {
    state: Mutex<State>,
    changed: Condvar,
    /// The newest checkpoint that was published, as a note.
    published: ArcSwapOption<Vec<u8>>,
}

#[derive(Default)]
struct State {
    /// Segments and how many bytes of each are durable, from the one that the sealer reads.
    ends: VecDeque<End>,
    /// Lines are there that no checkpoint covers yet.
    grown: bool,
    /// Since when.
    since: Option<Instant>,
    /// The same of those that are being signed.
    signing: Option<Instant>,
    /// Why they could not be, the last time.
    fault: Option<Errno>,
    /// When a checkpoint was last published.
    signed: Option<Instant>,
    /// What the published checkpoint covers, once this process has published one.
    covered: End,
    /// Somebody waits for the next checkpoint.
    hurry: bool,
    /// Attempts to sign that were begun, and the newest that has ended.
    begun: u64,
    ended: u64,
    stop: bool,
}

impl Durable {
    /// So much of a segment is on the disk, and all of those before.
    pub fn reached(&self, segment: u64, end: u64) {
        let mut state = self.state.lock();
        match state.ends.back_mut() {
            Some(last) if last.0 == segment => last.1 = end,
            _ => state.ends.push_back((segment, end)),
        }
        state.grown = true;
        state.since.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// How it goes with signing.
    pub fn signing(&self) -> Signing {
        let state = self.state.lock();
        let waiting = state.signing.or(state.since).map(|since| since.elapsed());
        Signing { age: state.signed.map(|at| at.elapsed()), waiting, fault: state.fault }
    }

    /// How far lines are durable.
    pub fn end(&self) -> Option<End> {
        self.state.lock().ends.back().copied()
    }

    /// Whether a published checkpoint covers the lines up to an end. If not, they are signed at once, and
    /// waited for until an attempt has failed or it is time.
    pub fn covers(&self, end: End, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        let next = state.begun.saturating_add(1);
        state.hurry |= state.covered < end;
        self.changed.notify_all();
        while state.covered < end && state.ended < next {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.covered >= end
    }

    fn end_attempt(&self) {
        let mut state = self.state.lock();
        state.ended = state.begun;
        self.changed.notify_all();
    }

    /// The newest checkpoint's note.
    pub fn published(&self) -> Option<Arc<Vec<u8>>> {
        self.published.load_full()
    }
}

/// How it goes with signing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signing {
    /// Since the newest checkpoint was published, by this process.
    pub age: Option<Duration>,
    /// For how long the oldest line has waited that no checkpoint covers; a second at most, where all is well.
    pub waiting: Option<Duration>,
    /// Why the last attempt failed.
    pub fault: Option<Errno>,
}

/// Where the tree stands and what is left to be written.
pub struct Sealer<S: Storage> {
    storage: Arc<S>,
    dir: S::Dir,
    store: TreeStore<S>,
    signer: NoteSigner,
    durable: Arc<Durable>,
    builder: Builder,
    /// The segment and the offset in it up to which lines are in the tree.
    position: (u64, u64),
    /// Full tiles that are not on the disk yet.
    full: Vec<(TileId, Vec<Hash>)>,
    /// Partial tiles on the disk.
    partial: Vec<TileId>,
    /// Size of the published checkpoint, if it is ours.
    size: Option<u64>,
    /// Space is set aside, or cannot be on this file system.
    reserved: bool,
}

/// What a sealer begins with.
pub struct Begin {
    /// Signs.
    pub signer: NoteSigner,
    /// The tree over all lines up to `position`.
    pub builder: Builder,
    /// The last segment that replay read and its length.
    pub position: (u64, u64),
    /// Tiles that must be written, for they are not there or not as they must be.
    pub missing: Vec<(TileId, Vec<Hash>)>,
    /// Segments and their lengths, where the tree begins anew with the first of them.
    pub again: Vec<(u64, u64)>,
    /// The checkpoint that is published, and its note.
    pub published: Option<(Checkpoint, Vec<u8>)>,
}

impl<S: Storage> Sealer<S> {
    /// A sealer that has not begun yet.
    pub fn new(storage: Arc<S>, dir: S::Dir, durable: Arc<Durable>, begin: Begin) -> Self {
        let store = TreeStore::new(Arc::clone(&storage), dir.clone());
        let Begin { signer, builder, position, missing, again, published } = begin;
        {
            let mut state = durable.state.lock();
            let first = state.ends.front().map_or(u64::MAX, |(segment, _)| *segment);
            let before = again.into_iter().filter(|(segment, _)| *segment < first);
            before.rev().for_each(|end| state.ends.push_front(end));
        }
        let partial = published.as_ref().map_or_else(Vec::new, |(checkpoint, _)| {
            super::tree::tile::partial_tiles(checkpoint.size).collect()
        });
        let size = published.as_ref().map(|(checkpoint, _)| checkpoint.size);
        // What is missing of an old checkpoint is made good with a new one.
        let size = size.filter(|_| missing.is_empty());
        durable.published.store(published.map(|(_, note)| Arc::new(note)));
        Self {
            storage,
            dir,
            store,
            signer,
            durable,
            builder,
            position,
            full: missing,
            partial,
            size,
            reserved: false,
        }
    }

    /// Serves on a thread of its own until stopped.
    pub fn start(mut self) -> Result<JoinHandle<()>, std::io::Error> {
        std::thread::Builder::new().name("seal".into()).spawn(move || self.run())
    }

    fn run(&mut self) {
        let mut said = None;
        loop {
            let stop = self.wait(if said.is_some() { RETRY } else { DELAY });
            match self.seal() {
                Ok(()) => {
                    said = None;
                    self.durable.state.lock().fault = None;
                }
                Err(errno) => {
                    // It is tried again at the next start, if not before.
                    if said != Some(errno) {
                        log::error!("cannot sign a checkpoint of the ledger: {errno}");
                    }
                    said = Some(errno);
                    let mut state = self.durable.state.lock();
                    (state.grown, state.fault) = (true, Some(errno));
                }
            }
            self.durable.end_attempt();
            if stop {
                return;
            }
        }
    }

    /// Waits for lines, and then for more of them; true if it is the last time.
    fn wait(&self, delay: Duration) -> bool {
        let mut state = self.durable.state.lock();
        while !state.grown && !state.stop {
            self.durable.changed.wait(&mut state);
        }
        let due = after(Instant::now(), delay);
        while !state.stop
            && !state.hurry
            && !self.durable.changed.wait_until(&mut state, due).timed_out()
        {}
        (state.grown, state.hurry) = (false, false);
        state.begun = state.begun.saturating_add(1);
        state.signing = state.signing.or(state.since.take());
        state.stop
    }

    /// Makes the tree cover all durable lines, and publishes a checkpoint that says so. Nothing is lost
    /// by a failure: the next call goes on.
    pub fn seal(&mut self) -> Result<(), Errno> {
        let mut sealed = self.seal_now();
        if matches!(sealed, Err(Errno::NOSPC | Errno::DQUOT)) && self.spend_reserve() {
            sealed = self.seal_now();
        }
        if sealed.is_ok() && !self.reserved {
            self.refill_reserve();
        }
        sealed
    }

    /// Gives the reserve's blocks back to the disk; false if there is none.
    fn spend_reserve(&mut self) -> bool {
        self.reserved = false;
        self.storage.unlink(&self.dir, OsStr::new(RESERVE_NAME)).is_ok()
    }

    fn refill_reserve(&mut self) {
        let name = OsStr::new(RESERVE_NAME);
        let opened = match self.storage.open_write(&self.dir, name) {
            Err(Errno::NOENT) => self.storage.create_file(&self.dir, name),
            opened => opened,
        };
        let kept = opened.and_then(|file| self.storage.reserve(&file, RESERVE));
        self.reserved = !matches!(kept, Err(Errno::NOSPC | Errno::DQUOT));
        if !self.reserved {
            // What it did get others need more.
            let _ = self.storage.unlink(&self.dir, name);
        }
    }

    fn seal_now(&mut self) -> Result<(), Errno> {
        self.catch_up()?;
        let size = self.builder.size();
        if self.size == Some(size) && self.full.is_empty() {
            let mut state = self.durable.state.lock();
            (state.signing, state.covered) = (None, self.position);
            return Ok(());
        }
        self.write_full()?;
        let partial: Vec<_> =
            self.builder.partial().map(|(id, hashes)| (id, hashes.to_vec())).collect();
        let known = |id: &TileId| self.size.is_some() && self.partial.contains(id);
        let new: Vec<_> = partial.iter().filter(|(id, _)| !known(id)).cloned().collect();
        self.store.write(&new)?;
        let origin = self.signer.verifier().name().to_owned();
        let note = Checkpoint { origin, size, root: self.builder.root() }.sign(&self.signer);
        self.store.publish(&note)?;
        self.durable.published.store(Some(Arc::new(note.into_bytes())));
        {
            let mut state = self.durable.state.lock();
            (state.signing, state.signed) = (None, Some(Instant::now()));
            state.covered = self.position;
        }
        self.size = Some(size);
        let partial: Vec<TileId> = partial.into_iter().map(|(id, _)| id).collect();
        let before = std::mem::replace(&mut self.partial, partial);
        for id in before.into_iter().filter(|id| !self.partial.contains(id)) {
            let same = |other: &&TileId| (other.level, other.index) == (id.level, id.index);
            let keep = self.partial.iter().find(same).map(|id| id.width);
            self.store.remove_partials(id, keep);
        }
        Ok(())
    }

    /// Hashes the lines that have become durable.
    fn catch_up(&mut self) -> Result<(), Errno> {
        loop {
            let (end, next) = {
                let state = self.durable.state.lock();
                let end =
                    |(segment, end): &(u64, u64)| (*segment == self.position.0).then_some(*end);
                let next = state.ends.iter().find(|(segment, _)| *segment > self.position.0);
                (state.ends.iter().find_map(end), next.map(|(segment, _)| *segment))
            };
            if let Some(end) = end {
                self.read_to(end)?;
            }
            let Some(next) = next else { return Ok(()) };
            self.position = (next, 0);
            self.durable.state.lock().ends.retain(|(segment, _)| *segment >= next);
        }
    }

    fn read_to(&mut self, end: u64) -> Result<(), Errno> {
        if self.position.1 >= end {
            return Ok(());
        }
        let file = self.storage.open_read(&self.dir, &segment::file_name(self.position.0))?;
        while self.position.1 < end {
            let rest = usize::try_from(end.saturating_sub(self.position.1)).unwrap_or(PIECE);
            let mut piece = vec![0; rest.min(PIECE)];
            let read = self.storage.read_at(&file, &mut piece, self.position.1)?;
            piece.truncate(read);
            let mut taken = 0_usize;
            for line in piece.split_inclusive(|byte| *byte == b'\n') {
                let Some(leaf) = line.strip_suffix(b"\n") else { break };
                self.builder.push(leaf_hash(leaf), |id, hashes| {
                    self.full.push((id, hashes.to_vec()));
                });
                taken = taken.saturating_add(line.len());
            }
            // A piece is longer than any line, and the end is that of a line.
            if taken == 0 {
                return Err(Errno::IO);
            }
            self.position.1 = self.position.1.saturating_add(taken as u64);
            if self.full.len() >= TILES_MAX {
                self.write_full()?;
            }
        }
        Ok(())
    }

    fn write_full(&mut self) -> Result<(), Errno> {
        self.store.write(&self.full)?;
        self.full.clear();
        Ok(())
    }
}

/// Has the sealer seal what is left, and waits for it.
pub fn stop(durable: &Durable, thread: JoinHandle<()>) {
    durable.state.lock().stop = true;
    durable.changed.notify_all();
    join(thread, after(Instant::now(), STOP_WAIT));
}

/// Waits for a thread, which is left behind where a disk holds it up until then: false.
pub fn join(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() > deadline {
            log::error!("the ledger's disk has not answered in time; it is left");
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // A panic was reported by the thread itself.
    let _ = thread.join();
    true
}
