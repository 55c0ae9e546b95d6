//! The tree that the view should show, in memory: what POSIX and the design say of every operation,
//! written down without a thought for how the view does it.
//!
//! A *store* is what one branch holds. A domain is one branch, or a pool of several; a name in a
//! directory of a domain leads to what each store has there, in the order of precedence ([`Layers`]).
//! Directories of one path are one object, whatever the number of stores that have it.
//!
//! Each operation has a function that gives every errno it may fail with; none of them means that it
//! must succeed, several that POSIX leaves the choice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::{BranchMode, Placement, Time};

use super::acl::Acl;

/// An object; stays the same over renames and crossings.
pub(super) type Id = usize;
/// Position of a branch in the view.
pub(super) type Store = usize;
/// What the stores of a domain have under one name; the first is seen.
pub(super) type Layers = BTreeMap<Store, Id>;
/// The ways in which an operation may fail.
pub(super) type Errors = Vec<Errno>;

/// What a disagreement is: which, in words.
pub(super) type Verdict<T = ()> = Result<T, String>;

/// A user who has nothing but what the modes of directories give to everybody.
pub(super) const USER: u32 = 54_242;

#[derive(Debug, Clone, Default)]
pub(super) struct Attr {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Known only while it is what was set.
    pub mtime: Option<Time>,
    pub acl: Option<Acl>,
    /// What new entries of a directory inherit.
    pub default: Option<Acl>,
    /// All others.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directory {
    pub entries: BTreeMap<OsString, Layers>,
    /// Folders of the layout, which hide entries.
    pub mounts: BTreeMap<OsString, Id>,
    /// None for the root of the view and for what was removed.
    pub parent: Option<(Id, OsString)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    File(Vec<u8>),
    Directory(Directory),
    Symlink(OsString),
    Special(FileKind, u64),
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    /// None for folders that no branch provides.
    pub domain: Option<usize>,
    pub body: Body,
    /// Attributes on each store that has it; those of the first are seen.
    pub on: BTreeMap<Store, Attr>,
    /// How many names of it crossings have replaced, which wait in hold.
    pub held: u32,
    /// Its inode number: what the view said last.
    pub number: Option<u64>,
    /// References that the kernel holds.
    pub lookups: u64,
    /// A folder of the layout: never forgotten.
    pub fixed: bool,
}

impl Object {
    pub(super) fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    pub(super) fn size(&self) -> Option<u64> {
        match &self.body {
            Body::File(bytes) => Some(bytes.len() as u64),
            Body::Symlink(text) => Some(text.len() as u64),
            Body::Directory(_) => None,
            Body::Special(..) => Some(0),
        }
    }

    /// The kernel may name it by its number.
    pub(super) fn is_known(&self) -> bool {
        self.number.is_some() && (self.fixed || self.lookups > 0)
    }
}

/// A domain of the view.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    pub mode: BranchMode,
    /// In order of precedence, which is that of the numbers.
    pub stores: Vec<Store>,
    /// Where something new goes, in a pool.
    pub place: Option<Placement>,
    pub root: Id,
}

/// A gate, as the model reads it.
#[derive(Debug, Clone)]
pub(super) struct ModelGate {
    pub from: usize,
    pub to: usize,
    /// Both names must end so, and those of all files in a directory.
    pub suffix: &'static str,
    pub text_only: bool,
    pub max_size: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub objects: BTreeMap<Id, Object>,
    pub domains: Vec<Domain>,
    pub gates: Vec<ModelGate>,
    pub root: Id,
    /// Stores that are offline.
    pub away: BTreeSet<Store>,
    next: Id,
}

impl Model {
    pub(super) fn add(
        &mut self,
        domain: Option<usize>,
        body: Body,
        on: BTreeMap<Store, Attr>,
    ) -> Id {
        let id = self.next;
        self.next += 1;
        let object = Object { domain, body, on, held: 0, number: None, lookups: 0, fixed: false };
        self.objects.insert(id, object);
        id
    }

    pub(super) fn object(&self, id: Id) -> &Object {
        &self.objects[&id]
    }

    pub(super) fn object_mut(&mut self, id: Id) -> &mut Object {
        self.objects.get_mut(&id).expect("an object of the model")
    }

    pub(super) fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.object(id).body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self, id: Id) -> &mut Directory {
        match &mut self.object_mut(id).body {
            Body::Directory(directory) => directory,
            other => panic!("not a directory: {other:?}"),
        }
    }

    /// What a name of a directory leads users to.
    pub(super) fn child(&self, parent: Id, name: &OsStr) -> Option<Id> {
        let directory = self.directory(parent)?;
        if let Some(mount) = directory.mounts.get(name) {
            return Some(*mount);
        }
        directory.entries.get(name).and_then(|layers| self.seen(layers))
    }

    /// What users see of a name. What lies outside pools is known also while it cannot be reached.
    fn seen(&self, layers: &Layers) -> Option<Id> {
        let first = layers.iter().find(|(store, _)| !self.away.contains(store));
        let alone = layers.values().next().filter(|id| !self.is_pooled(**id));
        first.map(|(_, id)| *id).or(alone.copied())
    }

    /// Whether nothing of its branch can be reached.
    pub(super) fn is_dark(&self, id: Id) -> bool {
        let object = self.object(id);
        object.domain.is_some() && object.on.keys().all(|store| self.away.contains(store))
    }

    /// Whether it is in a pool of which a member is offline.
    pub(super) fn is_incomplete(&self, id: Id) -> bool {
        let Some(domain) = self.object(id).domain else { return false };
        self.is_pooled(id) && self.domains[domain].stores.iter().any(|at| self.away.contains(at))
    }

    /// Attributes as users see them: those of the first store that can be reached.
    pub(super) fn attr(&self, id: Id) -> Option<&Attr> {
        let on = &self.object(id).on;
        let first = on.iter().find(|(store, _)| !self.away.contains(store));
        first.map(|(_, attr)| attr).or(on.values().next())
    }

    /// Changes attributes on every store that can be reached.
    pub(super) fn on_each(&mut self, id: Id, change: impl Fn(&mut Attr)) {
        let away = self.away.clone();
        let on = self.object_mut(id).on.iter_mut();
        on.filter(|(store, _)| !away.contains(store)).for_each(|(_, attr)| change(attr));
    }

    /// All names of a directory that users see.
    pub(super) fn listing(&self, id: Id) -> BTreeMap<OsString, Id> {
        let Some(directory) = self.directory(id) else { return BTreeMap::new() };
        let own = directory.entries.keys().filter_map(|name| Some((name, self.child(id, name)?)));
        let mounts = directory.mounts.iter().map(|(name, id)| (name, *id));
        own.chain(mounts).map(|(name, id)| (name.clone(), id)).collect()
    }

    /// How many names it has, seen or hidden.
    pub(super) fn names(&self, id: Id) -> u32 {
        let all = self.objects.values().filter_map(|object| match &object.body {
            Body::Directory(directory) => Some(directory.entries.values()),
            _ => None,
        });
        all.flatten().flat_map(BTreeMap::values).filter(|named| **named == id).count() as u32
    }

    /// Whether no name leads to it any more.
    pub(super) fn is_gone(&self, id: Id) -> bool {
        match &self.object(id).body {
            Body::Directory(directory) => directory.parent.is_none() && id != self.root,
            _ => self.names(id) == 0,
        }
    }

    /// The directory itself and all above it.
    pub(super) fn ancestors(&self, id: Id) -> Vec<Id> {
        let mut above = vec![id];
        let mut here = id;
        while let Some((parent, _)) = self.directory(here).and_then(|found| found.parent.as_ref()) {
            here = *parent;
            above.push(here);
        }
        above
    }

    /// The names from the root of its domain down to a directory.
    pub(super) fn path_in_domain(&self, id: Id) -> Vec<OsString> {
        let mut names = Vec::new();
        let mut here = id;
        while !self.object(here).fixed {
            let Some((parent, name)) = self.directory(here).and_then(|found| found.parent.clone())
            else {
                break;
            };
            names.push(name);
            here = parent;
        }
        names.reverse();
        names
    }

    /// Makes something new, on one store; gives its object.
    pub(super) fn make(
        &mut self,
        (parent, name): (Id, &OsStr),
        body: Body,
        store: Store,
        (uid, mode, umask): (u32, u32, u32),
    ) -> Id {
        self.spread(parent, store);
        let above = self.object(parent).on.get(&store).cloned().unwrap_or_default();
        let inherits = above.mode & 0o2000 != 0;
        let is_directory = matches!(body, Body::Directory(_));
        let mut attr = match body {
            Body::Symlink(_) => Attr { mode, ..Attr::default() },
            _ => above.inherited(mode, umask, is_directory),
        };
        attr.mode |= if inherits && is_directory { 0o2000 } else { 0 };
        (attr.uid, attr.gid) = (uid, if inherits { above.gid } else { uid });
        let domain = self.object(parent).domain;
        let id = self.add(domain, body, BTreeMap::from([(store, attr)]));
        if is_directory {
            self.directory_mut(id).parent = Some((parent, name.to_owned()));
        }
        self.put(parent, name, store, id);
        id
    }

    /// Gives a directory, and those above it, to a store that has none of them yet.
    pub(super) fn spread(&mut self, id: Id, store: Store) {
        if self.object(id).on.contains_key(&store) {
            return;
        }
        let Some((parent, name)) = self.directory(id).and_then(|found| found.parent.clone()) else {
            return;
        };
        self.spread(parent, store);
        let attr = self.attr(id).cloned().unwrap_or_default();
        self.object_mut(id).on.insert(store, attr);
        self.put(parent, &name, store, id);
    }

    /// Gives a name on one store to an object.
    pub(super) fn put(&mut self, parent: Id, name: &OsStr, store: Store, id: Id) {
        let directory = self.directory_mut(parent);
        directory.entries.entry(name.to_owned()).or_default().insert(store, id);
        self.touch(parent);
    }

    /// Takes a name away on all stores that can be reached.
    pub(super) fn take(&mut self, parent: Id, name: &OsStr) -> Layers {
        let away = self.away.clone();
        let directory = self.directory_mut(parent);
        let all = directory.entries.remove(name).unwrap_or_default();
        let (kept, layers): (Layers, Layers) =
            all.into_iter().partition(|(store, _)| away.contains(store));
        if !kept.is_empty() {
            directory.entries.insert(name.to_owned(), kept);
        }
        self.touch(parent);
        for id in layers.values() {
            if let Body::Directory(directory) = &mut self.object_mut(*id).body {
                directory.parent = None;
            }
        }
        layers
    }

    /// Gives a name to what another name had.
    pub(super) fn give(&mut self, parent: Id, name: &OsStr, layers: Layers) {
        for (store, id) in layers {
            self.spread(parent, store);
            if let Body::Directory(directory) = &mut self.object_mut(id).body {
                directory.parent = Some((parent, name.to_owned()));
            }
            self.put(parent, name, store, id);
        }
    }

    /// Its time of last write is not what was set any more.
    pub(super) fn touch(&mut self, id: Id) {
        for attr in self.object_mut(id).on.values_mut() {
            attr.mtime = None;
        }
    }

    /// Drops what nobody can name any more.
    pub(super) fn collect(&mut self, in_use: &[Id]) {
        let gone: Vec<Id> = self
            .objects
            .keys()
            .copied()
            .filter(|id| {
                let object = self.object(*id);
                self.is_gone(*id)
                    && object.held == 0
                    && object.lookups == 0
                    && !object.fixed
                    && !in_use.contains(id)
            })
            .collect();
        for id in gone {
            self.objects.remove(&id);
        }
    }
}
