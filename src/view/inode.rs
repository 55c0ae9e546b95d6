//! An inode that the kernel knows: where it lies now, and by which names it was found.
//!
//! An inode holds no descriptor. It is found again by its file handle, or by the chain of names up
//! to its branch's root. The kernel may know millions: what few of them have is in [`Rare`], which is
//! there only while it is needed.
//!
//! Lock order: `place` before `ties`; neither is held while a disk is asked, but for `place` in
//! the switch of a crossing, which is the point of it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::branch::FileKind;
use crate::policy::PathClass;
use crate::types::{BranchIndex, Handle, ViewPath};

use super::epoch::{UNSETTLED, renew_classes};
use super::layout::LayoutIndex;

mod ties;

use ties::Ties;

/// Bytes and names that most paths have room in.
const PATH_USUAL: usize = 256;
const DEPTH_USUAL: usize = 16;

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
    pub more: Box<[Part]>,
}

impl Parts {
    /// One inode.
    pub fn single(branch: BranchIndex, handle: Handle) -> Self {
        Self { first: Part { branch, handle }, more: Box::default() }
    }

    /// Several, in order of the pool's members; `None` without any.
    pub fn merged(parts: impl IntoIterator<Item = Part>) -> Option<Self> {
        let mut parts = parts.into_iter();
        Some(Self { first: parts.next()?, more: parts.collect() })
    }

    /// The first and the others.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(self.more.iter())
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
    pub name: Box<OsStr>,
    /// How rules know the path: the class, and in the upper 40 bits the epoch in which that held; 0 for not
    /// known.
    class: u64,
}

const CLASS_BITS: u32 = 24;

fn kept_class(kept: u64, epoch: u64) -> Option<PathClass> {
    let class = kept & ((1 << CLASS_BITS) - 1);
    let fresh = epoch != UNSETTLED && kept >> CLASS_BITS == epoch;
    fresh.then(|| PathClass::of_number(class as u32))
}

impl Name {
    /// A name that was found in a directory.
    pub fn new(parent: Arc<Inode>, name: &OsStr) -> Self {
        Self { parent, name: name.into(), class: 0 }
    }

    fn is(&self, parent: &Inode, name: &OsStr) -> bool {
        self.parent.number == parent.number && &*self.name == name
    }
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
    ties: Mutex<Ties>,
    /// References that the kernel holds; changed by the table alone.
    pub(super) lookups: AtomicU64,
    /// How the table recognises the part that has this number by itself; see there.
    pub(super) home: AtomicU64,
    /// State of the pool's members ([`super::View`] counts their changes) when the parts were looked for.
    pub epoch: AtomicU64,
    /// Held while an open decides who reads and writes, and is noted: opens must agree.
    pub opening: Mutex<()>,
    /// Of a file, what tells the content that the kernel's page cache may have from any other; 0 for nothing.
    /// Of a directory, how often names in it may have been taken away ([`Inode::names_changed`]).
    pub cached: AtomicU64,
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
            ties: Mutex::new(Ties { name, rare: None }),
            lookups: AtomicU64::new(0),
            home: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            opening: Mutex::new(()),
            cached: AtomicU64::new(0),
        }
    }

    /// To be called after names in this directory were taken away or given to something else in the branch,
    /// or may have been, and before that is noted: what was found there earlier no longer counts.
    pub fn names_changed(&self) {
        self.cached.fetch_add(1, Ordering::AcqRel);
    }

    /// To be read before a name is looked up in this directory, for [`super::InodeTable::enter_found`].
    pub fn name_changes(&self) -> u64 {
        self.cached.load(Ordering::Acquire)
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
        self.ties.lock().names().cloned().collect()
    }

    /// Adds a name; a directory has only one, so that the new one takes the old one's place.
    pub fn add_name(&self, parent: &Arc<Inode>, name: &OsStr) {
        self.add_name_to(self.ties.lock(), parent, name);
    }

    /// The same for a name that was found when `parent` had so many changes; whether it has no more now.
    pub(super) fn add_found_name(&self, parent: &Arc<Inode>, name: &OsStr, changes: u64) -> bool {
        let ties = self.ties.lock();
        // Whoever takes the name away counts first and then waits for the ties.
        let still = parent.name_changes() == changes;
        if still {
            self.add_name_to(ties, parent, name);
        }
        still
    }

    fn add_name_to(&self, mut ties: MutexGuard<'_, Ties>, parent: &Arc<Inode>, name: &OsStr) {
        match &mut ties.name {
            // Found again: its directory may have been forgotten and entered anew meanwhile.
            Some(newest) if newest.is(parent, name) => {
                if !Arc::ptr_eq(&newest.parent, parent) {
                    newest.parent = Arc::clone(parent);
                    newest.class = 0;
                    drop(ties);
                    self.renamed();
                }
                return;
            }
            Some(_) if self.kind != FileKind::Directory => {
                drop(ties.remove(parent, name));
                let earlier = ties.name.take();
                ties.rare().names.extend(earlier);
            }
            _ => {}
        }
        let before = ties.name.replace(Name::new(Arc::clone(parent), name)).is_some();
        let unlinked = ties.rare.as_mut().and_then(|rare| rare.unlinked.take()).is_some();
        let kept = ties.rare.as_mut().and_then(|rare| rare.kept.take());
        let earlier = ties.rare.as_ref().is_some_and(|rare| !rare.names.is_empty());
        ties.tidy();
        drop(ties);
        drop(kept);
        if before || unlinked || earlier {
            self.renamed();
        }
    }

    /// Has everything be decided anew that was by the names it had: what is below a directory, and what
    /// may still be written.
    fn renamed(&self) {
        if self.kind == FileKind::Directory {
            renew_classes();
        }
        for open in self.open_files() {
            open.generation.store(0, Ordering::Release);
        }
    }

    /// How rules know it, by each of its names; equal ones once. `epoch` is that of the policy that
    /// `classify` asks ([`in_epoch`]), so that no class outlives what it was found by.
    pub fn classes(&self, epoch: u64, classify: &dyn Fn(&ViewPath) -> PathClass) -> Vec<PathClass> {
        let mut classes = Vec::with_capacity(1);
        let mut unknown = Vec::new();
        for name in self.ties.lock().names() {
            match kept_class(name.class, epoch) {
                Some(class) => classes.push(class),
                None => unknown.push(name.clone()),
            }
        }
        let mut found = HashMap::new();
        for name in &unknown {
            let Some(folder) = name.parent.last_path() else { continue };
            let class = classify(&folder.join(&name.name));
            if let Some(number) = class.number().filter(|_| epoch != UNSETTLED) {
                let key = (Arc::as_ptr(&name.parent), name.name.clone());
                found.insert(key, epoch << CLASS_BITS | u64::from(number));
            }
            classes.push(class);
        }
        self.keep_classes(epoch, &found);
        if classes.len() > 1 {
            classes.sort_unstable_by_key(PathClass::number);
            classes.dedup();
        }
        if classes.is_empty() {
            classes.extend(self.last_path().as_ref().map(classify));
        }
        classes
    }

    fn keep_classes(&self, epoch: u64, found: &HashMap<(*const Self, Box<OsStr>), u64>) {
        if found.is_empty() {
            return;
        }
        let mut ties = self.ties.lock();
        let Ties { name, rare } = &mut *ties;
        for name in rare.iter_mut().flat_map(|rare| &mut rare.names).chain(name) {
            if kept_class(name.class, epoch).is_some() {
                continue;
            }
            if let Some(class) = found.get(&(Arc::as_ptr(&name.parent), name.name.clone())) {
                name.class = *class;
            }
        }
    }

    /// Gives it another name. All the while it has one: what is below it keeps its way up.
    pub fn change_name(&self, (parent, name): (&Inode, &OsStr), to: (&Arc<Inode>, &OsStr)) {
        self.add_name(to.0, to.1);
        if (parent.number, name) != (to.0.number, to.1) {
            self.remove_name(parent, name);
        }
    }

    /// Takes a name away.
    pub fn remove_name(&self, parent: &Inode, name: &OsStr) {
        let mut ties = self.ties.lock();
        let removed = ties.remove(parent, name);
        if ties.name.is_none() && removed.is_some() {
            ties.rare().unlinked = removed;
        }
    }

    /// Whether it has a name.
    pub fn has_name(&self) -> bool {
        self.ties.lock().name.is_some()
    }

    fn newest_name(&self) -> Option<Name> {
        self.ties.lock().name.clone()
    }

    /// The path by which users see it (the newest, if it has several names); `None` once it is
    /// unlinked.
    pub fn path(&self) -> Option<ViewPath> {
        self.chain(|inode| inode.number == LayoutIndex::ROOT.number()).map(|names| join(&names))
    }

    /// Its newest path, or the last that it had: an unlinked one has none any more, a directory for a moment
    /// while it is renamed.
    pub fn last_path(&self) -> Option<ViewPath> {
        // Each name from here up, in one piece of memory.
        let mut bytes = Vec::with_capacity(PATH_USUAL);
        let mut ends = Vec::with_capacity(DEPTH_USUAL);
        let mut at = None::<Arc<Self>>;
        loop {
            let here = at.as_deref().unwrap_or(self);
            if here.number == LayoutIndex::ROOT.number() {
                break;
            }
            let parent = {
                let ties = here.ties.lock();
                let link = ties.last_name()?;
                bytes.extend_from_slice(link.name.as_bytes());
                ends.push(bytes.len());
                Arc::clone(&link.parent)
            };
            at = Some(parent);
        }
        let begins = [0].into_iter().chain(ends.iter().copied());
        let spans: Vec<_> = begins.zip(ends.iter().copied()).collect();
        let below = spans.iter().rev().filter_map(|(begin, end)| bytes.get(*begin..*end));
        Some(ViewPath::of_names(below.map(OsStr::from_bytes)))
    }

    /// How rules know it, each class with one of the paths that are of it: there may be 65,000 names, of which
    /// all paths together would take gigabytes. Likewise by the last name of what has none any more.
    pub fn paths_by_class(
        &self,
        epoch: u64,
        classify: &dyn Fn(&ViewPath) -> PathClass,
    ) -> Vec<(PathClass, ViewPath)> {
        // Notes the class of each name.
        let classes = self.classes(epoch, classify);
        let mut names = self.names();
        if names.is_empty() {
            let path = self.last_path();
            return path.map(|path| (classify(&path), path)).into_iter().collect();
        }
        // The newest first.
        names.reverse();
        let mut found: Vec<(PathClass, ViewPath)> = Vec::with_capacity(classes.len());
        for name in names {
            let known = kept_class(name.class, epoch);
            if known.as_ref().is_some_and(|class| found.iter().any(|(other, _)| other == class)) {
                continue;
            }
            let Some(folder) = name.parent.last_path() else { continue };
            let path = folder.join(&name.name);
            let class = known.unwrap_or_else(|| classify(&path));
            if found.iter().all(|(other, _)| *other != class) {
                found.push((class, path));
            }
            if found.len() >= classes.len() {
                break;
            }
        }
        found
    }

    /// The path relative to its branch's root, the way to it where there are no file handles.
    pub fn path_in_branch(&self) -> Option<PathBuf> {
        let names = self.chain(|inode| inode.layout.is_some())?;
        Some(names.iter().rev().map(|name| &**name).collect())
    }

    /// The names from here up to the first inode for which `top` holds, this one's own first.
    fn chain(&self, top: impl Fn(&Inode) -> bool) -> Option<Vec<Box<OsStr>>> {
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
}

impl Drop for Inode {
    /// The directories above may go with it, each held by the one below alone: one after the other, for
    /// a chain can be longer than the stack is deep.
    fn drop(&mut self) {
        let ties = std::mem::take(self.ties.get_mut());
        let rare = ties.rare.map(|rare| *rare).unwrap_or_default();
        for name in rare.names.into_iter().chain(rare.unlinked).chain(ties.name) {
            let mut above = Some(name.parent);
            while let Some(parent) = above {
                // A directory has one name, or had.
                above = Arc::into_inner(parent).and_then(|mut inode| {
                    let ties = inode.ties.get_mut();
                    let unlinked = || ties.rare.as_mut()?.unlinked.take();
                    Some(ties.name.take().or_else(unlinked)?.parent)
                });
            }
        }
    }
}

fn join(names: &[Box<OsStr>]) -> ViewPath {
    ViewPath::of_names(names.iter().rev().map(|name| &**name))
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

#[cfg(test)]
mod tests;
