//! What is below a directory, in few bytes, and the one order in which everything here walks it:
//! directories by levels (those of the top, then those of its first directory, and so on), the names
//! of each in the order of their bytes. Nothing recurses, and few descriptors are open at a time,
//! however deep it goes.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::CrossingError;
use super::stage::hex;
use crate::error::Errno;
use crate::storage::{Kind, Metadata, Storage};
use crate::types::{Handle, Time};

/// Directories that [`Folders`] keeps open.
const OPEN_MAX: usize = 32;
/// Of the way to a directory, how many it keeps open: on the way back they are wanted.
const WAY_KEPT: usize = 16;
/// Bytes of a path that are opened by one step, below PATH_MAX.
const PATH_STEP: usize = 3_000;

/// Byte strings one after the other.
#[derive(Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    fn push(&mut self, text: &[u8]) -> Result<(), CrossingError> {
        self.bytes.extend_from_slice(text);
        self.ends.push(u32::try_from(self.bytes.len()).map_err(|_| too_large())?);
        Ok(())
    }

    fn get(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).unwrap_or(&0);
        let end = self.ends.get(at).unwrap_or(start);
        self.bytes.get(*start as usize..*end as usize).unwrap_or_default()
    }
}

fn too_large() -> CrossingError {
    CrossingError::io("remember", "a tree of this size")(Errno::NOMEM)
}

/// The directories of a tree by their numbers in the order of the walk; 0 is the top, without a name.
pub(super) struct Dirs {
    parents: Vec<u32>,
    names: Strings,
}

impl Dirs {
    pub(super) fn new() -> Self {
        Self { parents: vec![0], names: Strings { bytes: Vec::new(), ends: vec![0] } }
    }

    pub(super) fn len(&self) -> u32 {
        self.parents.len() as u32
    }

    pub(super) fn push(&mut self, parent: u32, name: &OsStr) -> Result<u32, CrossingError> {
        let number = u32::try_from(self.parents.len()).map_err(|_| too_large())?;
        self.names.push(name.as_bytes())?;
        self.parents.push(parent);
        Ok(number)
    }

    pub(super) fn name(&self, number: u32) -> &OsStr {
        OsStr::from_bytes(self.names.get(number as usize))
    }

    pub(super) fn parent(&self, number: u32) -> u32 {
        self.parents.get(number as usize).copied().unwrap_or(0)
    }

    /// Path below the top.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        let mut way = Vec::new();
        let mut here = number;
        while here != 0 {
            way.push(self.name(here));
            here = self.parent(here);
        }
        way.iter().rev().collect()
    }
}

/// Opens directories of a tree, and keeps some open.
pub(super) struct Folders<S: Storage> {
    top: S::Dir,
    /// The last used last.
    open: VecDeque<(u32, S::Dir)>,
}

impl<S: Storage> Folders<S> {
    pub(super) fn new(top: S::Dir) -> Self {
        Self { top, open: VecDeque::new() }
    }

    pub(super) fn open(
        &mut self,
        storage: &S,
        dirs: &Dirs,
        number: u32,
    ) -> Result<S::Dir, CrossingError> {
        let error = |errno| entry_error("open", &dirs.path(number))(errno);
        let mut way = Vec::new();
        let mut here = number;
        let mut dir = loop {
            if here == 0 {
                break self.top.clone();
            }
            if let Some(at) = self.open.iter().rposition(|(open, _)| *open == here) {
                let Some(found) = self.open.remove(at) else { continue };
                let dir = found.1.clone();
                self.open.push_back(found);
                break dir;
            }
            way.push(here);
            here = dirs.parent(here);
        };
        while way.len() > WAY_KEPT {
            let mut path = PathBuf::new();
            while way.len() > WAY_KEPT && path.as_os_str().len() < PATH_STEP {
                path.extend(way.pop().map(|number| dirs.name(number)));
            }
            dir = storage.open_dir(&dir, &path).map_err(error)?;
        }
        while let Some(number) = way.pop() {
            dir = storage.open_dir(&dir, Path::new(dirs.name(number))).map_err(error)?;
            if self.open.len() >= OPEN_MAX {
                self.open.pop_front();
            }
            self.open.push_back((number, dir.clone()));
        }
        Ok(dir)
    }
}

/// A step below the top that failed. What was there a moment ago and is not now, or not as a
/// directory, has been changed; what cannot be entered is a mount point.
pub(super) fn entry_error(
    attempted: &'static str,
    path: &Path,
) -> impl FnOnce(Errno) -> CrossingError {
    move |errno| match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => CrossingError::SourceChanged,
        Errno::XDEV => CrossingError::MountPoint { path: path.to_owned() },
        errno => CrossingError::io(attempted, path.display())(errno),
    }
}

/// An entry on a walk.
pub(super) struct Found<'a> {
    /// Number of its directory.
    pub(super) dir: u32,
    pub(super) name: &'a OsStr,
    pub(super) metadata: &'a Metadata,
}

/// Visits everything below `top`, directories before what they hold.
pub(super) fn walk<S: Storage>(
    storage: &S,
    top: &S::Dir,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<(), CrossingError>,
) -> Result<Dirs, CrossingError> {
    let mut dirs = Dirs::new();
    let mut folders = Folders::<S>::new(top.clone());
    let mut number = 0;
    while number < dirs.len() {
        let dir = folders.open(storage, &dirs, number)?;
        let folder = dirs.path(number);
        for name in list(storage, &dir, &folder)? {
            let metadata = storage
                .stat(&dir, &name)
                .and_then(|found| found.ok_or(Errno::NOENT))
                .map_err(entry_error("look at", &folder.join(&name)))?;
            visit(&Found { dir: number, name: &name, metadata: &metadata })?;
            if metadata.kind == Kind::Directory {
                dirs.push(number, &name)?;
            }
        }
        number = number.saturating_add(1);
    }
    Ok(dirs)
}

/// The names of a directory in order.
pub(super) fn list<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    folder: &Path,
) -> Result<Vec<OsString>, CrossingError> {
    let mut names = storage.list(dir).map_err(entry_error("list", folder))?;
    names.sort_unstable();
    Ok(names)
}

/// The letter of find(1)'s `%y` for what something is.
pub(super) fn letter(kind: &Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Directory => b'd',
        Kind::Symlink(_) => b'l',
        Kind::Fifo => b'p',
        Kind::Socket => b's',
        Kind::CharacterDevice(_) => b'c',
        Kind::BlockDevice(_) => b'b',
    }
}

/// Length of files and links, device number of devices, 0 for the rest: what a file system keeps
/// the length of a directory for is its own.
fn measure(metadata: &Metadata) -> u64 {
    match metadata.kind {
        Kind::File | Kind::Symlink(_) => metadata.identity.size,
        Kind::CharacterDevice(number) | Kind::BlockDevice(number) => number,
        Kind::Directory | Kind::Fifo | Kind::Socket => 0,
    }
}

struct Node {
    dir: u32,
    handle_kind: i32,
    letter: u8,
    measure: u64,
    mtime: Time,
    ctime: Time,
}

/// What is below a directory, as it was found: about a hundred bytes for each entry.
pub(super) struct Tree {
    pub(super) dirs: Dirs,
    nodes: Vec<Node>,
    names: Strings,
    handles: Strings,
    /// The first node of each directory, and the end.
    starts: Vec<u32>,
    /// The nodes that are directories; the n-th has number n + 1.
    dir_nodes: Vec<u32>,
    /// When each of these was last read: walking them is reading.
    atimes: Vec<Time>,
    /// Nodes that are no directories and have several names, with the number of these.
    pub(super) linked: Vec<(u32, u64)>,
    /// One that nobody may change.
    fixed: Option<u32>,
}

/// An entry of a [`Tree`].
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) dir: u32,
    pub(super) name: &'a OsStr,
    pub(super) letter: u8,
    /// See [`measure`].
    pub(super) measure: u64,
    pub(super) mtime: Time,
    pub(super) handle: (i32, &'a [u8]),
}

impl Tree {
    /// Walks what is below `top`.
    pub(super) fn read<S: Storage>(
        storage: &S,
        top: &S::Dir,
        check: &dyn Fn() -> Result<(), CrossingError>,
    ) -> Result<Self, CrossingError> {
        let mut tree = Self {
            dirs: Dirs::new(),
            nodes: Vec::new(),
            names: Strings::default(),
            handles: Strings::default(),
            starts: Vec::new(),
            dir_nodes: Vec::new(),
            atimes: Vec::new(),
            linked: Vec::new(),
            fixed: None,
        };
        tree.dirs = walk(storage, top, &mut |found| {
            check()?;
            tree.push(found)
        })?;
        tree.nodes.shrink_to_fit();
        let mut starts = vec![0_u32; (tree.dirs.len() as usize).saturating_add(1)];
        for node in &tree.nodes {
            if let Some(next) = starts.get_mut((node.dir as usize).saturating_add(1)) {
                *next = next.saturating_add(1);
            }
        }
        let mut sum = 0_u32;
        for start in &mut starts {
            sum = sum.saturating_add(*start);
            *start = sum;
        }
        tree.starts = starts;
        Ok(tree)
    }

    fn push(&mut self, found: &Found<'_>) -> Result<(), CrossingError> {
        let at = u32::try_from(self.nodes.len()).map_err(|_| too_large())?;
        let metadata = found.metadata;
        if metadata.kind == Kind::Directory {
            self.dir_nodes.push(at);
            self.atimes.push(metadata.atime);
        } else if metadata.nlink > 1 {
            self.linked.push((at, metadata.nlink));
        }
        if metadata.fixed {
            self.fixed = Some(at);
        }
        self.names.push(found.name.as_bytes())?;
        self.handles.push(&metadata.identity.handle.bytes)?;
        self.nodes.push(Node {
            dir: found.dir,
            handle_kind: metadata.identity.handle.kind,
            letter: letter(&metadata.kind),
            measure: measure(metadata),
            mtime: metadata.identity.mtime,
            ctime: metadata.identity.ctime,
        });
        Ok(())
    }

    /// A copy would be without what keeps it from being changed, and the original could not be removed.
    pub(super) fn check_fixed(&self) -> Result<(), CrossingError> {
        match self.fixed {
            Some(node) => Err(CrossingError::Fixed { path: self.path(node) }),
            None => Ok(()),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// An entry; SourceChanged if there is none of this number.
    pub(super) fn item(&self, node: u32) -> Result<Item<'_>, CrossingError> {
        let at = node as usize;
        let found = self.nodes.get(at).ok_or(CrossingError::SourceChanged)?;
        Ok(self.show(at, found))
    }

    fn show(&self, at: usize, found: &Node) -> Item<'_> {
        Item {
            dir: found.dir,
            name: OsStr::from_bytes(self.names.get(at)),
            letter: found.letter,
            measure: found.measure,
            mtime: found.mtime,
            handle: (found.handle_kind, self.handles.get(at)),
        }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.nodes.iter().enumerate().map(|(at, found)| self.show(at, found))
    }

    pub(super) fn path(&self, node: u32) -> PathBuf {
        self.item(node)
            .map_or_else(|_| PathBuf::new(), |item| self.dirs.path(item.dir).join(item.name))
    }

    /// What a directory holds.
    pub(super) fn children(&self, number: u32) -> std::ops::Range<u32> {
        let at = |number: usize| self.starts.get(number).copied().unwrap_or(0);
        at(number as usize)..at((number as usize).saturating_add(1))
    }

    /// The number of the directory that a node is.
    pub(super) fn number_of(&self, node: u32) -> Option<u32> {
        u32::try_from(self.dir_nodes.binary_search(&node).ok()?).ok()?.checked_add(1)
    }

    /// The node of a directory; none for the top.
    pub(super) fn node_of(&self, number: u32) -> Option<u32> {
        self.dir_nodes.get((number as usize).checked_sub(1)?).copied()
    }

    /// When a directory had last been read before it was walked; none for the top.
    pub(super) fn atime(&self, number: u32) -> Option<Time> {
        self.atimes.get((number as usize).checked_sub(1)?).copied()
    }

    /// Whether a node is still as it was found, in every respect.
    pub(super) fn is(&self, node: u32, metadata: &Metadata) -> bool {
        let Some(known) = self.nodes.get(node as usize) else { return false };
        let identity = &metadata.identity;
        known.letter == letter(&metadata.kind)
            && known.handle_kind == identity.handle.kind
            && self.handles.get(node as usize) == &*identity.handle.bytes
            && known.measure == measure(metadata)
            && (known.mtime, known.ctime) == (identity.mtime, identity.ctime)
    }

    /// Looks at everything again: nothing may have come, gone or changed.
    pub(super) fn check<S: Storage>(&self, storage: &S, top: &S::Dir) -> Result<(), CrossingError> {
        let mut node = 0;
        walk(storage, top, &mut |found| {
            let known = self.item(node)?;
            let same =
                self.is(node, found.metadata) && known.dir == found.dir && known.name == found.name;
            node = node.saturating_add(1);
            if same { Ok(()) } else { Err(CrossingError::SourceChanged) }
        })?;
        if node == self.len() { Ok(()) } else { Err(CrossingError::SourceChanged) }
    }

    pub(super) fn digest(&self) -> String {
        let mut digest = Digest::new();
        self.items().for_each(|item| digest.add(item));
        digest.finish()
    }
}

impl Item<'_> {
    pub(super) fn handle(&self) -> Handle {
        Handle { kind: self.handle.0, bytes: self.handle.1.into() }
    }
}

/// By what recovery recognises what is below a directory: SHA-256 over every entry, in the order of
/// the walk. Of each: the number of its directory in that order (u32), its name, its letter, its file
/// handle's kind (i32) and bytes; and, unless it is a directory, [`measure`] (u64) and the time of its
/// last write (seconds i64, nanoseconds u32). Each of these has its length before it (u32), and all
/// numbers are little-endian. Not in it is what changes without the content: ctime and attributes.
pub(super) struct Digest(Sha256);

impl Digest {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(super) fn add(&mut self, item: Item<'_>) {
        let hash = &mut self.0;
        let mut text = |bytes: &[u8]| {
            hash.update((bytes.len() as u32).to_le_bytes());
            hash.update(bytes);
        };
        let (kind, handle) = item.handle;
        text(&item.dir.to_le_bytes());
        text(item.name.as_bytes());
        text(&[item.letter]);
        text(&kind.to_le_bytes());
        text(handle);
        if item.letter != b'd' {
            text(&item.measure.to_le_bytes());
            text(&item.mtime.seconds.to_le_bytes());
            text(&item.mtime.nanos.to_le_bytes());
        }
    }

    pub(super) fn finish(self) -> String {
        hex(&self.0.finalize())
    }

    /// The digest of what is below a directory now.
    pub(super) fn of<S: Storage>(storage: &S, top: &S::Dir) -> Result<String, CrossingError> {
        let mut digest = Self::new();
        walk(storage, top, &mut |found| {
            let metadata = found.metadata;
            let handle = &metadata.identity.handle;
            digest.add(Item {
                dir: found.dir,
                name: found.name,
                letter: letter(&metadata.kind),
                measure: measure(metadata),
                mtime: metadata.identity.mtime,
                handle: (handle.kind, &handle.bytes),
            });
            Ok(())
        })?;
        Ok(digest.finish())
    }
}
