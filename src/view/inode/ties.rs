//! What an inode is tied to: its names, and who has it open.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};

use super::{Inode, Name};
use crate::types::ViewPath;
use crate::view::handles::OpenFile;

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
    /// The path it had when its last name went, for rules and records about open unlinked files.
    pub unlinked: Option<ViewPath>,
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

    /// Takes a name away; the newest of the others takes its place.
    pub fn remove(&mut self, parent: &Inode, name: &OsStr) {
        if let Some(rare) = &mut self.rare {
            rare.names.retain(|known| !known.is(parent, name));
        }
        if self.name.as_ref().is_some_and(|known| known.is(parent, name)) {
            self.name = self.rare.as_mut().and_then(|rare| rare.names.pop());
        }
        self.tidy();
    }

    /// Drops what is there no longer.
    pub fn tidy(&mut self) {
        let needed = |rare: &Rare| {
            !rare.names.is_empty() || rare.unlinked.is_some() || !rare.opens.is_empty()
        };
        self.rare.take_if(|rare| !needed(rare));
    }
}
