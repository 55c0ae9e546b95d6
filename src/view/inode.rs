//! An inode that the kernel knows: where it lies now, and by which names it was found.
//!
//! An inode holds no descriptor. It is found again by its file handle, or by the chain of names up
//! to its branch's root.
//!
//! Lock order: `place` before `names`; neither is held while a disk is asked, but for `place` in
//! the switch of a crossing, which is the point of it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::branch::FileKind;
use crate::types::{BranchIndex, Handle, ViewPath};

use super::handles::OpenFile;
use super::layout::LayoutIndex;

/// An inode of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// Which branch.
    pub branch: BranchIndex,
    /// Which inode there.
    pub handle: Handle,
}

/// The inodes of branches that are shown as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Where it lies; of a merged directory, the part on the first member that has it.
    pub first: Part,
    /// The other parts of a merged directory, in order of the pool's members.
    pub more: Vec<Part>,
}

impl Parts {
    /// One inode.
    pub fn single(branch: BranchIndex, handle: Handle) -> Self {
        Self { first: Part { branch, handle }, more: Vec::new() }
    }

    /// Several, in order of the pool's members; `None` without any.
    pub fn merged(parts: impl IntoIterator<Item = Part>) -> Option<Self> {
        let mut parts = parts.into_iter();
        Some(Self { first: parts.next()?, more: parts.collect() })
    }

    /// The first and the others.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// Where an inode lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of the layout that no branch provides.
    Virtual,
    /// In a branch; a directory of a pool, in several.
    Branch(Parts),
    /// In the virtual `.audit`; the transport's number is the node's.
    Audit,
    /// It crossed to another branch under another number: new opens get ESTALE, which makes the
    /// kernel look the name up again.
    Gone,
}

/// A name by which an inode was found.
#[derive(Debug, Clone)]
pub struct Name {
    /// The directory that has it.
    pub parent: Arc<Inode>,
    /// One component, any bytes.
    pub name: OsString,
}

/// An inode that the kernel knows.
#[derive(Debug)]
pub struct Inode {
    /// The number that the kernel and users see.
    pub number: u64,
    /// What it is; never changes.
    pub kind: FileKind,
    /// Its folder of the layout, if it is one (a branch's root has one too).
    pub layout: Option<LayoutIndex>,
    place: RwLock<Place>,
    names: Mutex<Vec<Name>>,
    /// The path it had when its last name went, for rules and records about open unlinked files.
    unlinked: Mutex<Option<ViewPath>>,
    /// References that the kernel holds; changed by the table alone.
    pub(super) lookups: AtomicU64,
    writers: AtomicUsize,
    opens: Mutex<Vec<Weak<OpenFile>>>,
    /// State of the pool's members ([`super::View`] counts their changes) when the parts were looked for.
    pub epoch: AtomicU64,
    /// Held while an open decides who reads and writes, and is noted: opens must agree.
    pub opening: Mutex<()>,
}

impl Inode {
    pub(super) fn new(
        number: u64,
        kind: FileKind,
        layout: Option<LayoutIndex>,
        place: Place,
        name: Option<Name>,
    ) -> Self {
        Self {
            number,
            kind,
            layout,
            place: RwLock::new(place),
            names: Mutex::new(name.into_iter().collect()),
            unlinked: Mutex::new(None),
            lookups: AtomicU64::new(0),
            writers: AtomicUsize::new(0),
            opens: Mutex::new(Vec::new()),
            epoch: AtomicU64::new(0),
            opening: Mutex::new(()),
        }
    }

    /// Where it lies. Waits while a crossing switches it.
    pub fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read()
    }

    /// Where it lies, unless a crossing is switching that.
    pub fn try_place(&self) -> Option<RwLockReadGuard<'_, Place>> {
        self.place.try_read()
    }

    /// Takes the place for the switch of a crossing: whoever asks for it waits.
    pub fn switch(&self) -> RwLockWriteGuard<'_, Place> {
        self.place.write()
    }

    /// The names by which it was found and that are still its own, the newest last.
    pub fn names(&self) -> Vec<Name> {
        self.names.lock().clone()
    }

    /// Adds a name; a directory has only one, so that the new one takes the old one's place.
    pub fn add_name(&self, parent: &Arc<Inode>, name: &OsStr) {
        let mut names = self.names.lock();
        if self.kind == FileKind::Directory {
            names.clear();
        } else {
            names.retain(|known| !(known.parent.number == parent.number && known.name == name));
        }
        names.push(Name { parent: Arc::clone(parent), name: name.to_owned() });
    }

    /// Takes a name away.
    pub fn remove_name(&self, parent: &Inode, name: &OsStr) {
        let path = parent.path().map(|path| path.join(name));
        let mut names = self.names.lock();
        names.retain(|known| !(known.parent.number == parent.number && known.name == name));
        if names.is_empty() {
            *self.unlinked.lock() = path;
        }
    }

    fn newest_name(&self) -> Option<Name> {
        self.names.lock().last().cloned()
    }

    /// The path by which users see it (the newest, if it has several names); `None` once it is
    /// unlinked.
    pub fn path(&self) -> Option<ViewPath> {
        self.chain(|inode| inode.number == LayoutIndex::ROOT.number()).map(|names| join(&names))
    }

    /// All paths by which it is known: one for each hard link that was looked up; for an unlinked
    /// inode the one it had last. The root of the view has `/`.
    pub fn paths(&self) -> Vec<ViewPath> {
        if self.number == LayoutIndex::ROOT.number() {
            return vec![ViewPath::root()];
        }
        let mut paths: Vec<_> = self
            .names()
            .iter()
            .filter_map(|name| Some(name.parent.path()?.join(&name.name)))
            .collect();
        if paths.is_empty() {
            paths.extend(self.unlinked.lock().clone());
        }
        paths
    }

    /// The path relative to its branch's root, the way to it where there are no file handles.
    pub fn path_in_branch(&self) -> Option<PathBuf> {
        let names = self.chain(|inode| inode.layout.is_some())?;
        Some(names.iter().rev().collect())
    }

    /// The names from here up to the first inode for which `top` holds, this one's own first.
    fn chain(&self, top: impl Fn(&Inode) -> bool) -> Option<Vec<OsString>> {
        let mut names = Vec::new();
        if top(self) {
            return Some(names);
        }
        let mut link = self.newest_name()?;
        loop {
            names.push(link.name);
            if top(&link.parent) {
                return Some(names);
            }
            link = link.parent.newest_name()?;
        }
    }

    /// The directories above, nearest first, up to the root of the view.
    pub fn ancestors(&self) -> Vec<Arc<Inode>> {
        let mut above = Vec::new();
        let mut link = self.newest_name();
        while let Some(Name { parent, .. }) = link {
            link = parent.newest_name();
            above.push(parent);
        }
        above
    }

    /// Notes an open file, so that a crossing can find it.
    pub fn opened(&self, file: &Arc<OpenFile>) {
        if file.writable {
            self.writers.fetch_add(1, Ordering::AcqRel);
        }
        let mut opens = self.opens.lock();
        opens.retain(|open| open.strong_count() > 0);
        opens.push(Arc::downgrade(file));
    }

    /// Takes back [`Inode::opened`].
    pub fn closed(&self, file: &OpenFile) {
        if file.writable {
            self.writers.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How many open files could write.
    pub fn writers(&self) -> usize {
        self.writers.load(Ordering::Acquire)
    }

    /// The files that are open now.
    pub fn open_files(&self) -> Vec<Arc<OpenFile>> {
        self.opens.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

fn join(names: &[OsString]) -> ViewPath {
    ViewPath::of_names(names.iter().rev().map(OsString::as_os_str))
}

impl Place {
    /// Its parts, if it lies in a branch.
    pub fn parts(&self) -> Option<&Parts> {
        match self {
            Self::Branch(parts) => Some(parts),
            Self::Virtual | Self::Audit | Self::Gone => None,
        }
    }

    /// The branch that holds it; of a merged directory, the first.
    pub fn branch(&self) -> Option<BranchIndex> {
        self.parts().map(|parts| parts.first.branch)
    }
}
