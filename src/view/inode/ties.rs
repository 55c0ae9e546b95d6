//! What an inode is tied to: its names, and who has it open.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::{Inode, Name};
use crate::error::Errno;
use crate::types::BranchIndex;
use crate::view::handles::OpenFile;
use crate::view::kept::Kept;

/// What an inode is tied to.
#[derive(Debug, Default)]
pub(super) struct Ties {
    /// The name by which it was last found.
    pub name: Option<Name>,
    pub rare: Option<Box<Rare>>,
}

/// What most inodes do not have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Names of a file by which it was found earlier, the newest last.
    pub names: Vec<Name>,
    /// Its last name, which went, for rules and records about open unlinked files.
    pub unlinked: Option<Name>,
    /// What leads to it since then.
    pub kept: Option<Kept>,
    pub opens: Vec<Weak<OpenFile>>,
}

impl Ties {
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.rare.iter().flat_map(|rare| &rare.names).chain(&self.name)
    }

    pub fn opens(&self) -> impl Iterator<Item = Arc<OpenFile>> {
        self.rare.iter().flat_map(|rare| &rare.opens).filter_map(Weak::upgrade)
    }

    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Takes a name away, and gives it back; the newest of the others takes its place.
    pub fn remove(&mut self, parent: &Inode, name: &OsStr) -> Option<Name> {
        let mut removed = None;
        if let Some(rare) = &mut self.rare {
            removed = rare.names.extract_if(.., |known| known.is(parent, name)).last();
        }
        if self.name.as_ref().is_some_and(|known| known.is(parent, name)) {
            let next = self.rare.as_mut().and_then(|rare| rare.names.pop());
            removed = std::mem::replace(&mut self.name, next);
        }
        self.tidy();
        removed
    }

    /// The newest name, or the last that it had.
    pub fn last_name(&self) -> Option<&Name> {
        let unlinked = || self.rare.as_ref()?.unlinked.as_ref();
        self.name.as_ref().or_else(unlinked)
    }

    /// Drops what is there no longer.
    pub fn tidy(&mut self) {
        let needed = |rare: &Rare| {
            let known = !rare.names.is_empty() || rare.unlinked.is_some() || rare.kept.is_some();
            known || !rare.opens.is_empty()
        };
        self.rare.take_if(|rare| !needed(rare));
    }
}

impl Inode {
    /// Notes an open file, so that a crossing can find it.
    pub fn opened(&self, file: &Arc<OpenFile>) {
        self.ties.lock().rare().opens.push(Arc::downgrade(file));
    }

    /// Takes back [`Inode::opened`].
    pub fn closed(&self, file: &OpenFile) {
        let mut ties = self.ties.lock();
        if let Some(rare) = &mut ties.rare {
            rare.opens.retain(|open| !std::ptr::eq(open.as_ptr(), file));
        }
        ties.tidy();
    }

    /// How many open files could write.
    pub fn writers(&self) -> usize {
        self.open_files().iter().filter(|file| file.writable).count()
    }

    /// The files that are open now.
    pub fn open_files(&self) -> Vec<Arc<OpenFile>> {
        self.ties.lock().opens().collect()
    }

    /// Whether somebody may have it mapped for writing: of what is stored through a mapping its branch does not
    /// know yet.
    pub fn may_be_mapped(&self) -> bool {
        let maps = |open: Arc<OpenFile>| open.readable && open.writable && !open.is_passthrough();
        self.ties.lock().opens().any(maps)
    }

    /// Keeps what leads to it once its last name is gone. To be called before that goes.
    pub fn keep(&self, kept: Kept) {
        let before = self.ties.lock().rare().kept.replace(kept);
        drop(before);
    }

    /// Takes back [`Inode::keep`]: the name stays, or the inode is forgotten.
    pub fn let_go(&self) -> Option<Kept> {
        let mut ties = self.ties.lock();
        let kept = ties.rare.as_mut().and_then(|rare| rare.kept.take());
        ties.tidy();
        kept
    }

    /// One more descriptor of what is kept of it on a branch.
    pub fn kept(&self, branch: BranchIndex) -> Option<Result<OwnedFd, Errno>> {
        let ties = self.ties.lock();
        let descriptor = ties.rare.as_ref()?.kept.as_ref()?.part(branch)?;
        Some(rustix::io::fcntl_dupfd_cloexec(descriptor, 3))
    }

    /// Whether something is kept of it on a branch of these.
    pub fn keeps_on(&self, these: impl Fn(BranchIndex) -> bool) -> bool {
        let ties = self.ties.lock();
        let kept = ties.rare.as_ref().and_then(|rare| rare.kept.as_ref());
        kept.is_some_and(|kept| kept.branches().any(these))
    }

    /// Whether its last name is gone.
    pub fn is_unlinked(&self) -> bool {
        let ties = self.ties.lock();
        ties.name.is_none() && ties.rare.as_ref().is_some_and(|rare| rare.unlinked.is_some())
    }
}
