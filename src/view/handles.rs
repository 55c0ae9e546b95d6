//! What is open: files with their descriptors and the decision they carry, directories with their
//! snapshots.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use crate::types::{BranchIndex, Caller};

use super::inode::Inode;
use super::listing::Snapshot;

/// No length.
pub const UNKNOWN: u64 = u64::MAX;

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    /// Another one for each that was ever opened.
    pub number: u64,
    /// What is open.
    pub inode: Arc<Inode>,
    /// Where it lies and what to read and write; a crossing changes both.
    backing: RwLock<(BranchIndex, Arc<OwnedFd>)>,
    /// Opened for reading.
    pub readable: bool,
    /// Opened for writing.
    pub writable: bool,
    /// The kernel reads and writes the backing file itself.
    pub passthrough: AtomicBool,
    /// Who opened it.
    pub opener: Caller,
    /// The executable of the opener when it first changed something through this.
    pub exe: OnceLock<Option<Arc<str>>>,
    /// Generation of the policy that last allowed writing; 0 for none.
    pub generation: AtomicU64,
    /// Whether the first write was recorded.
    pub wrote: AtomicBool,
    /// Whether it was said that something stored through a mapping could not be written.
    pub lost: AtomicBool,
    /// Bytes written so far.
    pub written: AtomicU64,
    /// What `written` was when a record last told of it.
    pub told: AtomicU64,
    /// Length of the file when that was last told, where the kernel writes it by itself; [`UNKNOWN`] where it does
    /// not.
    pub length: AtomicU64,
    /// What the inode is noted to have in the page cache as soon as this reads.
    pub mark: AtomicU64,
    /// Each write is asked about.
    pub watched: AtomicBool,
    /// When that was last found out ([`super::in_epoch`]); at first never, so that the first write asks: the
    /// file may have got another name while it was being opened.
    pub epoch: AtomicU64,
}

impl OpenFile {
    /// An open file; nothing was written yet.
    pub fn new(
        inode: Arc<Inode>,
        branch: BranchIndex,
        descriptor: OwnedFd,
        (readable, writable): (bool, bool),
        passthrough: bool,
        opener: Caller,
        generation: u64,
    ) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        Self {
            number: OPENED.fetch_add(1, Ordering::Relaxed),
            inode,
            backing: RwLock::new((branch, Arc::new(descriptor))),
            readable,
            writable,
            passthrough: AtomicBool::new(passthrough),
            opener,
            exe: OnceLock::new(),
            generation: AtomicU64::new(generation),
            wrote: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            written: AtomicU64::new(0),
            told: AtomicU64::new(0),
            length: AtomicU64::new(UNKNOWN),
            mark: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        }
    }

    /// The descriptor to read and write.
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.backing.read().1)
    }

    /// The branch that it lies in.
    pub fn branch(&self) -> BranchIndex {
        self.backing.read().0
    }

    /// Whether the kernel reads and writes the backing file itself.
    pub fn is_passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Acquire)
    }

    /// After a crossing that moved the inode itself to another branch.
    pub fn moved_to(&self, branch: BranchIndex) {
        self.backing.write().0 = branch;
    }

    /// After a crossing: the same content at its new place. Who is reading keeps the old one.
    pub fn repoint(&self, descriptor: OwnedFd, branch: BranchIndex) {
        *self.backing.write() = (branch, Arc::new(descriptor));
    }
}

/// An open directory. The listing is taken when the first entries are asked for, and renewed when reading
/// begins at the start again, which may be rewinddir(3) or seekdir(3): so entries keep their
/// offsets, and new ones come last.
#[derive(Debug)]
pub struct OpenDirectory {
    /// What is open.
    pub inode: Arc<Inode>,
    /// Id of the user who opened it.
    pub opener: u32,
    /// What reading gives.
    pub snapshot: Mutex<Snapshot>,
    /// Nothing is missing in it because a member is offline.
    pub complete: AtomicBool,
}

/// What is open, by the number that the kernel was given.
#[derive(Debug, Default)]
pub struct Handles {
    next: AtomicU64,
    open_files: AtomicUsize,
    /// Open files by the user who opened them; who has none is not in it.
    open_by: DashMap<u32, usize>,
    files: DashMap<u64, Arc<OpenFile>>,
    directories: DashMap<u64, Arc<OpenDirectory>>,
}

impl Handles {
    /// Adds an open file.
    pub fn add_file(&self, file: OpenFile) -> (u64, Arc<OpenFile>) {
        let file = Arc::new(file);
        file.inode.opened(&file);
        let number = self.number();
        self.files.insert(number, Arc::clone(&file));
        self.open_files.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open_by.entry(file.opener.uid).or_default();
        *open = open.saturating_add(1);
        drop(open);
        (number, file)
    }

    /// How many files are open.
    pub fn open_files(&self) -> usize {
        self.open_files.load(Ordering::Relaxed)
    }

    /// How many files a user has open.
    pub fn open_files_of(&self, uid: u32) -> usize {
        self.open_by.get(&uid).map_or(0, |open| *open)
    }

    /// Adds an open directory.
    pub fn add_directory(&self, inode: Arc<Inode>, opener: u32) -> u64 {
        let number = self.number();
        let directory = OpenDirectory {
            inode,
            opener,
            snapshot: Mutex::default(),
            complete: AtomicBool::new(true),
        };
        self.directories.insert(number, Arc::new(directory));
        number
    }

    /// An open file; `None` for a number that the kernel was never given.
    pub fn file(&self, number: u64) -> Option<Arc<OpenFile>> {
        self.files.get(&number).map(|file| Arc::clone(&file))
    }

    /// Whether any open file is wanted.
    pub fn any_file(&self, wanted: impl Fn(&OpenFile) -> bool) -> bool {
        self.files.iter().any(|file| wanted(file.value()))
    }

    /// All open files.
    pub fn files(&self) -> Vec<Arc<OpenFile>> {
        self.files.iter().map(|file| Arc::clone(&file)).collect()
    }

    /// How many files and how many directories are open.
    pub fn count(&self) -> (usize, usize) {
        (self.files.len(), self.directories.len())
    }

    /// An open directory.
    pub fn directory(&self, number: u64) -> Option<Arc<OpenDirectory>> {
        self.directories.get(&number).map(|directory| Arc::clone(&directory))
    }

    /// Closes a file.
    pub fn remove_file(&self, number: u64) -> Option<Arc<OpenFile>> {
        let (_, file) = self.files.remove(&number)?;
        self.open_files.fetch_sub(1, Ordering::Relaxed);
        self.open_by.remove_if_mut(&file.opener.uid, |_, open| {
            *open = open.saturating_sub(1);
            *open == 0
        });
        file.inode.closed(&file);
        Some(file)
    }

    /// Closes a directory.
    pub fn remove_directory(&self, number: u64) -> Option<Arc<OpenDirectory>> {
        self.directories.remove(&number).map(|(_, directory)| directory)
    }

    /// A number that no other open file, directory or `.audit` file has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}
