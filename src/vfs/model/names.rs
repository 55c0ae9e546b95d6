//! What the model says of making, changing and taking away names: every errno that may come.

use std::ffi::OsStr;

use crate::branch::FileKind;
use crate::error::Errno;
use crate::types::{BranchMode, Placement};
use crate::vfs::{AUDIT_NAME, PRIVATE_NAME};

use super::tree::{Directory, Errors, Id, Layers, Model, Object, Store};

/// What a file stays with, when the folder that it should go to cannot be made on its store.
pub(super) const IN_THE_WAY: [Errno; 3] = [Errno::NOTDIR, Errno::EXIST, Errno::XDEV];

impl Model {
    pub(super) fn mode_of(&self, id: Id) -> Option<BranchMode> {
        self.object(id).domain.map(|domain| self.domains[domain].mode)
    }

    fn is_domain_root(&self, id: Id) -> bool {
        self.domains.iter().any(|domain| domain.root == id)
    }

    /// Why a name cannot be made or taken away whatever stands there.
    fn site_errors(&self, parent: Id, name: &OsStr, held: Errno, private: Errno) -> Errors {
        let mut errors = Vec::new();
        if name.len() > 255 {
            errors.push(Errno::NAMETOOLONG);
        }
        let Some(directory) = self.directory(parent) else { return vec![Errno::NOTDIR] };
        if self.is_gone(parent) {
            return vec![Errno::NOENT, Errno::STALE];
        }
        if directory.mounts.contains_key(name) {
            errors.push(held);
        } else if parent == self.root && name == AUDIT_NAME {
            errors.push(Errno::ACCESS);
        } else if self.is_domain_root(parent) && name == PRIVATE_NAME {
            errors.push(private);
        }
        match self.mode_of(parent) {
            None | Some(BranchMode::Ro) => errors.push(Errno::ROFS),
            Some(_) => {}
        }
        if self.is_dark(parent) {
            errors.push(Errno::IO);
        }
        errors
    }

    /// Why nothing can be made under a name.
    pub(super) fn add_errors(
        &self,
        parent: Id,
        name: &OsStr,
        uid: u32,
        is_content: bool,
    ) -> Errors {
        let mut errors = self.site_errors(parent, name, Errno::EXIST, Errno::ACCESS);
        if is_content && self.mode_of(parent) == Some(BranchMode::GatesOnly) {
            errors.push(Errno::ACCESS);
        }
        if self.attr(parent).is_some_and(|attr| !attr.allows(uid, 0o3)) {
            errors.push(Errno::ACCESS);
        }
        if self.child(parent, name).is_some() {
            errors.push(Errno::EXIST);
        }
        errors
    }

    /// Why nothing can be moved to a name, whatever stands there.
    pub(super) fn target_errors(&self, parent: Id, name: &OsStr) -> Errors {
        self.site_errors(parent, name, Errno::BUSY, Errno::ACCESS)
    }

    /// Why a name cannot be taken away.
    pub(super) fn remove_errors(&self, parent: Id, name: &OsStr) -> Errors {
        self.site_errors(parent, name, Errno::BUSY, Errno::NOENT)
    }

    pub(super) fn unlink_errors(&self, parent: Id, name: &OsStr) -> Errors {
        let mut errors = self.remove_errors(parent, name);
        match self.child(parent, name) {
            None => errors.push(Errno::NOENT),
            Some(id) if self.directory(id).is_some() => errors.push(Errno::ISDIR),
            // What a file hides nobody has seen, and nobody may lose.
            Some(_) if self.near_layers(parent, name).values().any(|id| self.is_full(*id)) => {
                errors.push(Errno::NOTEMPTY);
            }
            Some(_) => {}
        }
        errors
    }

    pub(super) fn rmdir_errors(&self, parent: Id, name: &OsStr) -> Errors {
        let mut errors = self.remove_errors(parent, name);
        match self.child(parent, name) {
            None => errors.push(Errno::NOENT),
            Some(id) => match self.directory(id) {
                None => errors.push(Errno::NOTDIR),
                Some(found) if !found.entries.is_empty() => {
                    errors.push(Errno::NOTEMPTY);
                    errors.extend(self.is_incomplete(parent).then_some(Errno::IO));
                }
                Some(_) if self.hides_file(parent, name) => errors.push(Errno::NOTEMPTY),
                // Nobody knows what an offline member has in it.
                Some(_) if self.is_incomplete(parent) => errors.push(Errno::IO),
                Some(_) => {}
            },
        }
        errors
    }

    /// Why attributes cannot be changed; `is_content` for what gates-only denies.
    pub(super) fn change_errors(&self, id: Id, is_content: bool) -> Errors {
        let mut errors = match self.mode_of(id) {
            None | Some(BranchMode::Ro) => vec![Errno::ROFS],
            Some(BranchMode::GatesOnly) if is_content => vec![Errno::ACCESS],
            Some(_) => vec![],
        };
        errors.extend(self.is_dark(id).then_some(Errno::IO));
        errors
    }

    pub(super) fn open_errors(&self, id: Id, writes: bool) -> Errors {
        match self.object(id).kind() {
            FileKind::File if writes => self.change_errors(id, true),
            FileKind::File => self.is_dark(id).then_some(Errno::IO).into_iter().collect(),
            FileKind::Directory => vec![Errno::ISDIR],
            _ => vec![Errno::INVAL],
        }
    }

    pub(super) fn link_errors(&self, id: Id, parent: Id, name: &OsStr) -> Errors {
        let mut errors = self.add_errors(parent, name, 0, true);
        if self.directory(id).is_some() {
            errors.push(Errno::PERM);
        }
        if self.object(id).domain != self.object(parent).domain {
            errors.push(Errno::XDEV);
        }
        if self.is_gone(id) {
            errors.push(Errno::NOENT);
        }
        if self.is_dark(id) {
            errors.push(Errno::IO);
        }
        if self.object(id).on.keys().any(|store| self.is_blocked(parent, *store)) {
            errors.extend(IN_THE_WAY);
        }
        errors
    }

    /// What the stores have under a name.
    pub(super) fn layers(&self, parent: Id, name: &OsStr) -> Layers {
        let found = self.directory(parent).and_then(|directory| directory.entries.get(name));
        found.cloned().unwrap_or_default()
    }

    /// What the stores that can be reached have under a name.
    pub(super) fn near_layers(&self, parent: Id, name: &OsStr) -> Layers {
        let mut layers = self.layers(parent, name);
        layers.retain(|store, _| !self.away.contains(store));
        layers
    }

    /// Whether a name is on nothing but stores that are offline.
    pub(super) fn is_ghost(&self, parent: Id, name: &OsStr) -> bool {
        self.is_pooled(parent)
            && !self.layers(parent, name).is_empty()
            && self.near_layers(parent, name).is_empty()
    }

    /// Whether the way to other branches leads through it.
    pub(super) fn leads_on(&self, id: Id) -> bool {
        id == self.root || self.directory(id).is_some_and(|found| !found.mounts.is_empty())
    }

    /// Whether it is a directory with something in it, on any store.
    pub(super) fn is_full(&self, id: Id) -> bool {
        self.directory(id).is_some_and(|found| !found.entries.is_empty())
    }

    /// Whether a directory stands before a file of its name.
    pub(super) fn hides_file(&self, parent: Id, name: &OsStr) -> bool {
        let layers = self.near_layers(parent, name);
        let is_file = |id: &Id| self.directory(*id).is_none();
        layers.values().next().is_some_and(|first| !is_file(first)) && layers.values().any(is_file)
    }

    /// Links of a directory: two, and one for each folder in it; one where several stores have folders in
    /// it, or mounts may hide some.
    pub(super) fn links_of_directory(&self, object: &Object, directory: &Directory) -> u32 {
        let mounts = directory.mounts.len();
        if object.domain.is_none() {
            return 2 + mounts as u32;
        }
        let folders_on = |store: &Store| {
            let below = directory.entries.values().filter_map(|layers| layers.get(store));
            below.filter(|id| self.directory(**id).is_some()).count() as u32
        };
        let folders: Vec<u32> =
            object.on.keys().map(folders_on).filter(|folders| *folders > 0).collect();
        match folders[..] {
            _ if mounts > 0 => 1,
            [] => 2,
            [folders] => 2 + folders,
            [..] => 1,
        }
    }

    pub(super) fn is_pooled(&self, id: Id) -> bool {
        self.object(id).domain.is_some_and(|domain| self.domains[domain].place.is_some())
    }

    /// Whether a directory cannot be made on a store, because something else has its name there, or
    /// the name of one above it.
    pub(super) fn is_blocked(&self, id: Id, store: Store) -> bool {
        if self.object(id).on.contains_key(&store) {
            return false;
        }
        let Some((parent, name)) = self.directory(id).and_then(|found| found.parent.clone()) else {
            return true;
        };
        self.layers(parent, &name).contains_key(&store) || self.is_blocked(parent, store)
    }

    /// The stores that something new in a directory may go to.
    pub(super) fn places(&self, parent: Id) -> Vec<Store> {
        let Some(domain) = self.object(parent).domain else { return Vec::new() };
        let Some(place) = self.domains[domain].place else {
            return self.domains[domain].stores.clone();
        };
        let stores = self.domains[domain].stores.iter().copied();
        let near = stores.filter(|store| !self.away.contains(store));
        let able: Vec<Store> = near.filter(|store| !self.is_blocked(parent, *store)).collect();
        let first = |found: Option<&Store>| found.copied().into_iter().collect();
        match place {
            Placement::First => first(able.first()),
            Placement::MostFree => able,
            Placement::SameDirectory => {
                first(able.iter().find(|store| self.object(parent).on.contains_key(store)))
            }
        }
    }

    /// Everything that users see below, itself included.
    pub(super) fn below(&self, id: Id) -> Vec<Id> {
        let mut all = vec![id];
        let mut at = 0;
        while at < all.len() {
            all.extend(self.listing(all[at]).into_values());
            at += 1;
        }
        all
    }
}
