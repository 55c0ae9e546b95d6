//! Changes from outside: what others put into the stores of a pool, shadows above all. What the kernel
//! knows of a place is looked up again after it changed, as when its time is over.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::super::AUDIT_NAME;
use super::operation::split;
use super::run::{Run, Verdict, is_private};
use super::tree::{Attr, Body, Directory, Id, Model, Store};
use super::world::attr_of;

impl Model {
    /// Something that was put into a store: a part of a directory that others have, or something new.
    pub(super) fn plant(
        &mut self,
        (parent, name): (Id, &OsStr),
        store: Store,
        text: Option<&str>,
        attr: Attr,
    ) -> Id {
        let known =
            self.layers(parent, name).into_values().find(|id| self.directory(*id).is_some());
        let id = match (text, known) {
            (None, Some(known)) => {
                self.put(parent, name, store, known);
                // Users see the newest time of all parts.
                self.touch(known);
                known
            }
            (None, None) => {
                let body = Body::Directory(Directory::default());
                self.make((parent, name), body, store, (0, 0))
            }
            (Some(text), _) => {
                let body = Body::File(text.as_bytes().to_vec());
                self.make((parent, name), body, store, (0, 0))
            }
        };
        self.object_mut(id).on.insert(store, attr);
        id
    }
}

/// Puts a file or a directory into a store, and into the model.
pub(super) fn plant(
    model: &mut Model,
    spot: (Id, &OsStr),
    store: Store,
    path: &Path,
    text: Option<&str>,
) -> Id {
    match text {
        Some(text) => std::fs::write(path, text).expect("write"),
        None => std::fs::create_dir(path).expect("mkdir"),
    }
    model.plant(spot, store, text, attr_of(path))
}

impl Run {
    /// Plants a file or directory on one of a pool's stores, with the folders above it.
    pub(super) fn plant(&mut self, at: &[OsString], nth: usize, text: Option<&str>) -> Verdict {
        let (folder, name) = split(at);
        let model = &self.world.model;
        let parent = folder.iter().try_fold(model.root, |here, name| model.child(here, name));
        let Some(parent) = parent.filter(|id| model.is_pooled(*id)) else { return Ok(()) };
        let Some(domain) = model.object(parent).domain.map(|domain| &model.domains[domain]) else {
            return Ok(());
        };
        let store = domain.stores[nth % domain.stores.len()];
        let Some(directory) = model.directory(parent) else { return Ok(()) };
        let taken = directory.mounts.contains_key(name)
            || model.layers(parent, name).contains_key(&store)
            || (parent == domain.root && is_private(name))
            || (parent == model.root && name == AUDIT_NAME);
        if taken || name.len() > 255 || model.is_blocked(parent, store) || model.is_gone(parent) {
            return Ok(());
        }
        if self.would_hide((parent, name), store, text.is_some()) {
            return Ok(());
        }
        let mut path: PathBuf = self.world.backing[store].clone();
        let mut here = self.world.model.domains
            [self.world.model.object(parent).domain.unwrap_or_default()]
        .root;
        for name in self.world.model.path_in_domain(parent) {
            path.push(&name);
            let model = &mut self.world.model;
            let next = model.child(here, &name).ok_or("a folder that is hidden")?;
            if !model.object(next).on.contains_key(&store) {
                plant(model, (here, &name), store, &path, None);
            }
            here = next;
        }
        plant(&mut self.world.model, (parent, name), store, &path.join(name), text);
        self.walk(at, true).map(drop)
    }

    /// Whether it would stand before something else that the kernel knows.
    fn would_hide(&self, (parent, name): (Id, &OsStr), store: Store, file: bool) -> bool {
        let model = &self.world.model;
        let layers = model.layers(parent, name);
        let Some((first, seen)) = layers.first_key_value() else { return false };
        let merges = !file && model.directory(*seen).is_some();
        if store > *first || merges {
            return false;
        }
        let in_use = self.in_use();
        model.below(*seen).iter().any(|id| model.object(*id).is_known() || in_use.contains(id))
    }

    /// Notes folders that were made on more stores by something that failed after that.
    pub(super) fn settle(&mut self, parent: Id) {
        let model = &self.world.model;
        let mut above = model.ancestors(parent);
        above.retain(|id| model.is_pooled(*id) && !model.object(*id).fixed);
        let Some(domain) = model.object(parent).domain else { return };
        let stores = model.domains[domain].stores.clone();
        for id in above.into_iter().rev() {
            let below: PathBuf = self.world.model.path_in_domain(id).iter().collect();
            for store in &stores {
                let path = self.world.backing[*store].join(&below);
                let found = path.symlink_metadata().is_ok_and(|found| found.is_dir());
                if found && !self.world.model.is_blocked(id, *store) {
                    self.world.model.spread(id, *store);
                }
            }
        }
    }
}
