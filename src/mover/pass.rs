//! One pass over a content: read it, hash it, find its type, write the copy, and compare the copy
//! with what its disk gives.
//!
//! SHA-256 takes longer than everything else together on a fast disk, and one file's hash cannot be
//! divided. So in large files it runs on a thread of its own, fed with chunks, while the caller's
//! thread does all that touches a disk. The copy is written past the page cache where the file system
//! lets one: a large crossing then does not push out what others have cached, its writes are on the
//! disk when they return, and every few chunks are read back and compared, byte for byte, with the
//! memory that was hashed. Only the sync that follows the pass makes them durable.
//!
//! Small files are done on the caller's thread alone, in memory that it keeps.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::{Builder, scope};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use ring::digest::{Context, SHA256};

use super::Progress;
use super::error::CrossingError;
use super::sabotage::sabotaged;
use crate::check::{ContentType, TypeSniffer};
use crate::error::Errno;
use crate::policy::Verify;
use crate::storage::Storage;
use crate::storage::buffer::{ALIGNMENT, Buffer};

/// From this size on the hash has its own thread: a millisecond of hashing, against some tens of
/// microseconds for starting one.
const LARGE: u64 = 2 * 1024 * 1024;
/// Bytes of a read and write; a multiple of [`ALIGNMENT`]. The kernel gives its processor to nobody while
/// it does one: of 1 MiB, others were seen to wait 6 times as long as alone, of this 1.7 times.
const CHUNK: usize = 128 * 1024;
/// Chunks that are written before they are read back. The hash must have work for that long.
const BATCH: usize = 4;
/// Chunks of memory for one pass: a batch to read back, and one to hash meanwhile.
const CHUNKS: usize = 2 * BATCH;

/// What a pass over a content found.
pub(super) struct Hashed {
    pub(super) sha256: String,
    pub(super) content_type: ContentType,
    /// The copy was compared with what its disk gives.
    pub(super) compared: bool,
}

/// Where a pass writes to.
pub(super) struct CopyTo<'a, S: Storage> {
    pub(super) file: &'a S::File,
    /// Name of the branch, for messages.
    pub(super) branch: &'a str,
    pub(super) verify: Verify,
}

/// Reads `size` bytes of a file once: hashes them, finds their type, and writes what is not a hole
/// to the copy.
pub(super) fn pass<S: Storage>(
    storage: &S,
    source: &S::File,
    copy: Option<CopyTo<'_, S>>,
    size: u64,
    progress: &Progress,
) -> Result<Hashed, CrossingError> {
    let content = Content { storage, file: source, size, progress, at: 0, data: 0..0 };
    if size < LARGE { alone(content, copy) } else { beside(content, copy) }
}

/// A part of a content, a chunk at most. It begins at a multiple of [`ALIGNMENT`], and ends at one or
/// at the end of the content.
#[derive(Clone, Copy)]
struct Stretch {
    at: u64,
    length: usize,
    hole: bool,
}

/// A content that is read from its beginning to its end.
struct Content<'a, S: Storage> {
    storage: &'a S,
    file: &'a S::File,
    size: u64,
    progress: &'a Progress,
    at: u64,
    /// The data at or after `at` that is known.
    data: std::ops::Range<u64>,
}

impl<S: Storage> Content<'_, S> {
    /// The next part. Here the rate is kept and a cancelled crossing stops.
    fn next(&mut self, length_max: usize) -> Result<Option<Stretch>, CrossingError> {
        if self.at >= self.size {
            return Ok(None);
        }
        if self.at >= self.data.end {
            self.data = self.next_data()?;
            self.progress.take_hole(self.data.start.saturating_sub(self.at))?;
        }
        let hole = self.at < self.data.start;
        let end = if hole { self.data.start } else { self.data.end };
        let length = end.saturating_sub(self.at).min(length_max as u64);
        if length == 0 {
            return Err(CrossingError::SourceChanged);
        }
        if hole {
            self.progress.skip(length)?;
        } else {
            self.progress.advance(length)?;
        }
        let stretch = Stretch { at: self.at, length: length as usize, hole };
        self.at = self.at.saturating_add(length);
        Ok(Some(stretch))
    }

    /// Data with the blocks at its ends whole, or what is empty and at the end.
    fn next_data(&self) -> Result<std::ops::Range<u64>, CrossingError> {
        let found = self.storage.next_data(self.file, self.at);
        const BLOCK: u64 = ALIGNMENT as u64;
        Ok(match found.map_err(CrossingError::io("read", "the source"))? {
            Some(data) if data.start < self.size => {
                let start = data.start.saturating_sub(data.start % BLOCK).max(self.at);
                let end = data.end.checked_next_multiple_of(BLOCK);
                start..end.map_or(self.size, |end| end.min(self.size))
            }
            _ => self.size..self.size,
        })
    }

    /// Fills the beginning of a buffer with the bytes of a stretch.
    fn read(&self, stretch: Stretch, buffer: &mut [u8]) -> Result<(), CrossingError> {
        read(self.storage, self.file, stretch, buffer, "the source")
    }
}

/// Fills the beginning of a buffer. A file that ends before the stretch does has changed.
fn read<S: Storage>(
    storage: &S,
    file: &S::File,
    stretch: Stretch,
    buffer: &mut [u8],
    what: &str,
) -> Result<(), CrossingError> {
    let end = stretch.length.next_multiple_of(ALIGNMENT);
    let mut filled = 0;
    while filled < stretch.length {
        let rest = buffer.get_mut(filled..end).unwrap_or_default();
        match storage.read_at(file, rest, stretch.at.saturating_add(filled as u64)) {
            Ok(0) => return Err(CrossingError::SourceChanged),
            // Past the cache only the end of the file is between two blocks.
            Err(Errno::INVAL) if !filled.is_multiple_of(ALIGNMENT) => {
                return Err(CrossingError::SourceChanged);
            }
            Ok(read) => filled = filled.saturating_add(read),
            Err(errno) => return Err(CrossingError::io("read", what)(errno)),
        }
    }
    Ok(())
}

/// What is made of the bytes in the order they come in. Contents are hashed with `ring`: on processors
/// without SHA extensions it is twice as fast as `sha2`, and there a large crossing takes as long as its hash.
struct Digestion {
    hash: Context,
    sniffer: TypeSniffer,
}

impl Digestion {
    fn new() -> Self {
        Self { hash: Context::new(&SHA256), sniffer: TypeSniffer::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.sniffer.push(bytes);
    }

    fn take_hole(&mut self, length: usize) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut rest = length;
        while rest > 0 {
            let step = rest.min(ZEROS.len());
            self.take(ZEROS.get(..step).unwrap_or_default());
            rest = rest.saturating_sub(step);
        }
    }

    fn finish(self) -> Hashed {
        let sha256 = super::stage::hex(self.hash.finish().as_ref());
        Hashed { sha256, content_type: self.sniffer.finish(), compared: false }
    }
}

/// A whole small file on this thread.
fn alone<S: Storage>(
    mut content: Content<'_, S>,
    copy: Option<CopyTo<'_, S>>,
) -> Result<Hashed, CrossingError> {
    thread_local! {
        static KEPT: Cell<Buffer> = Cell::default();
    }
    let mut buffer = KEPT.take();
    let wanted = content.size.next_multiple_of(ALIGNMENT as u64).min(CHUNK as u64);
    buffer.grow(wanted as usize);
    let result = alone_in(&mut content, copy, &mut buffer);
    KEPT.set(buffer);
    result
}

fn alone_in<S: Storage>(
    content: &mut Content<'_, S>,
    copy: Option<CopyTo<'_, S>>,
    buffer: &mut [u8],
) -> Result<Hashed, CrossingError> {
    let mut digestion = Digestion::new();
    while let Some(stretch) = content.next(CHUNK)? {
        if stretch.hole {
            digestion.take_hole(stretch.length);
            continue;
        }
        content.read(stretch, buffer)?;
        let bytes = buffer.get(..stretch.length).unwrap_or_default();
        digestion.take(bytes);
        if let Some(copy) = &copy {
            write(content.storage, copy.file, bytes, stretch.at)?;
        }
    }
    Ok(digestion.finish())
}

fn write<S: Storage>(
    storage: &S,
    file: &S::File,
    bytes: &[u8],
    at: u64,
) -> Result<(), CrossingError> {
    storage.write_at(file, bytes, at).map_err(CrossingError::io("write", "the copy"))
}

/// What goes to the thread that hashes.
enum Piece {
    Data(Arc<Chunk>),
    Hole(usize),
}

struct Chunk {
    memory: Buffer,
    length: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }
}

/// A large file, with a thread for the hash that ends before this returns.
fn beside<S: Storage>(
    content: Content<'_, S>,
    copy: Option<CopyTo<'_, S>>,
) -> Result<Hashed, CrossingError> {
    let (to_hash, pieces) = bounded(CHUNKS);
    let (to_reuse, used) = unbounded();
    let feeder = Feeder::new(content, copy, to_hash, used)?;
    scope(|scope| {
        let hasher = Builder::new()
            .name("hash".to_owned())
            .spawn_scoped(scope, || hash_pieces(pieces, to_reuse))
            .map_err(|error| crate::error::errno_of(&error))
            .map_err(CrossingError::io("start a thread for", "the hash"))?;
        // Ends the thread too: the feeder and its channel are gone after this.
        let fed = feeder.run();
        let hashed = hasher.join().map_err(|_| hash_failed())?;
        Ok(Hashed { compared: fed?, ..hashed })
    })
}

fn hash_failed() -> CrossingError {
    CrossingError::io("hash", "the source")(Errno::IO)
}

fn hash_pieces(pieces: Receiver<Piece>, to_reuse: Sender<Arc<Chunk>>) -> Hashed {
    let mut digestion = Digestion::new();
    for piece in pieces {
        match piece {
            Piece::Hole(length) => digestion.take_hole(length),
            Piece::Data(chunk) => {
                digestion.take(chunk.bytes());
                // Nobody needs it any more when the last was read.
                let _ = to_reuse.send(chunk);
            }
        }
    }
    digestion.finish()
}

/// Everything but the hash.
struct Feeder<'a, S: Storage> {
    content: Content<'a, S>,
    copy: Option<CopyTo<'a, S>>,
    /// The copy again, past the page cache.
    direct: Option<S::File>,
    to_hash: Sender<Piece>,
    used: Receiver<Arc<Chunk>>,
    chunks_made: usize,
    /// What was written and not yet read back; none for a hole.
    unread: Vec<(Stretch, Option<Arc<Chunk>>)>,
    readback: Buffer,
}

impl<'a, S: Storage> Feeder<'a, S> {
    fn new(
        content: Content<'a, S>,
        copy: Option<CopyTo<'a, S>>,
        to_hash: Sender<Piece>,
        used: Receiver<Arc<Chunk>>,
    ) -> Result<Self, CrossingError> {
        let direct = match &copy {
            Some(copy) => content
                .storage
                .open_direct(copy.file)
                .map_err(CrossingError::io("open", "the copy"))?,
            None => None,
        };
        let (chunks_made, unread, readback) = (0, Vec::new(), Buffer::default());
        Ok(Self { content, copy, direct, to_hash, used, chunks_made, unread, readback })
    }

    /// Whether the copy was read back on the way.
    fn run(mut self) -> Result<bool, CrossingError> {
        while let Some(stretch) = self.content.next(CHUNK)? {
            let (piece, chunk) = if stretch.hole {
                (Piece::Hole(stretch.length), None)
            } else {
                let mut memory = self.free_memory()?;
                self.content.read(stretch, &mut memory)?;
                let chunk = Arc::new(Chunk { memory, length: stretch.length });
                (Piece::Data(Arc::clone(&chunk)), Some(chunk))
            };
            self.to_hash.send(piece).map_err(|_| hash_failed())?;
            if let Some(chunk) = &chunk {
                self.write(stretch, chunk)?;
            }
            if self.reads_back() {
                self.unread.push((stretch, chunk));
                if self.unread.len() == BATCH {
                    self.read_back()?;
                }
            }
        }
        self.read_back()?;
        Ok(self.reads_back())
    }

    fn reads_back(&self) -> bool {
        let wanted = self.copy.as_ref().is_some_and(|copy| copy.verify == Verify::Readback);
        wanted && self.direct.is_some()
    }

    /// Memory that was hashed and, if it is to be, read back: the hash gives chunks back in order, and
    /// a batch that is still unread holds half of them at most.
    fn free_memory(&mut self) -> Result<Buffer, CrossingError> {
        let used = match self.used.try_recv() {
            Err(TryRecvError::Empty) if self.chunks_made < CHUNKS => None,
            Err(TryRecvError::Empty) => Some(self.used.recv().map_err(|_| hash_failed())?),
            Err(TryRecvError::Disconnected) => return Err(hash_failed()),
            Ok(chunk) => Some(chunk),
        };
        match used.and_then(Arc::into_inner) {
            Some(chunk) => Ok(chunk.memory),
            None => {
                self.chunks_made = self.chunks_made.saturating_add(1);
                Ok(Buffer::new(CHUNK))
            }
        }
    }

    /// Whole blocks go past the cache, what is left at the end of the file through it.
    fn write(&self, stretch: Stretch, chunk: &Chunk) -> Result<(), CrossingError> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let storage = self.content.storage;
        let whole = match &self.direct {
            Some(_) => stretch.length.saturating_sub(stretch.length % ALIGNMENT),
            None => 0,
        };
        let (blocks, rest) = chunk.bytes().split_at(whole);
        if let (Some(direct), false) = (&self.direct, blocks.is_empty()) {
            write(storage, direct, blocks, stretch.at)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        write(storage, copy.file, rest, stretch.at.saturating_add(whole as u64))
    }

    /// Compares what was written with what the disk gives.
    fn read_back(&mut self) -> Result<(), CrossingError> {
        let (Some(direct), Some(copy)) = (&self.direct, &self.copy) else { return Ok(()) };
        let differs = || CrossingError::Verification { branch: copy.branch.to_owned() };
        for (stretch, chunk) in self.unread.drain(..) {
            self.content.progress.check_cancel()?;
            self.readback.grow(CHUNK);
            let again = &mut self.readback;
            read(self.content.storage, direct, stretch, again, "the copy").map_err(|error| {
                if error == CrossingError::SourceChanged { differs() } else { error }
            })?;
            let again = again.get(..stretch.length).unwrap_or_default();
            let same = match &chunk {
                Some(chunk) => again == chunk.bytes(),
                None => is_zero(again),
            };
            if !same && !sabotaged("pass: what was read back") {
                return Err(differs());
            }
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
