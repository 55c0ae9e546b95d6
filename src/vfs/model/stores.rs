//! What lies in the stores, looked at directly: which one something new went to, and whether each
//! holds what the model says.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::branch::FileKind;
use crate::vfs::{AUDIT_NAME, PRIVATE_NAME};

use super::layout::plant;
use super::tree::{Attr, Body, Id, Model, Store, Verdict};

/// A model and the directories of its stores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stores<'a> {
    pub model: &'a Model,
    pub backing: &'a [PathBuf],
}

impl Stores<'_> {
    /// On which store something new was made: one that placement may choose.
    pub(super) fn placed(&self, parent: Id, name: &OsStr) -> Verdict<Store> {
        let store = self.found_on(parent, name)?;
        let places = self.model.places(parent);
        if places.contains(&store) {
            return Ok(store);
        }
        Err(format!("{name:?} was made on store {store}; the model expects one of {places:?}"))
    }

    /// The one store that can be reached and has a name.
    pub(super) fn found_on(&self, parent: Id, name: &OsStr) -> Verdict<Store> {
        let model = self.model;
        let stores = model.object(parent).domain.map(|at| model.domains[at].stores.clone());
        let below: PathBuf = model.path_in_domain(parent).iter().collect();
        let there = |store: &Store| {
            let path = self.backing[*store].join(&below).join(name);
            !model.away.contains(store) && path.symlink_metadata().is_ok()
        };
        let found: Vec<Store> = stores.unwrap_or_default().into_iter().filter(there).collect();
        match found[..] {
            [store] => Ok(store),
            _ => Err(format!("{name:?} is on the stores {found:?}")),
        }
    }

    /// Compares all of them with the model.
    pub(super) fn compare(&self) -> Verdict {
        for domain in &self.model.domains {
            for store in &domain.stores {
                let mut inodes = BTreeMap::new();
                self.compare_folder(*store, domain.root, &self.backing[*store], &mut inodes)?;
            }
        }
        Ok(())
    }

    /// What a store has of a directory, hidden names included, and nothing else.
    fn compare_folder(
        &self,
        store: Store,
        id: Id,
        path: &Path,
        inodes: &mut BTreeMap<u64, Id>,
    ) -> Verdict {
        let model = self.model;
        let mut wanted: BTreeMap<OsString, Id> = BTreeMap::new();
        if let Some(directory) = model.directory(id) {
            let entries = directory.entries.iter();
            wanted.extend(entries.filter_map(|(name, on)| Some((name.clone(), *on.get(&store)?))));
        }
        let is_root = model.domains.iter().any(|domain| domain.root == id);
        let mut found = names_in(path)?;
        found.retain(|name| !is_root || name != PRIVATE_NAME);
        if !found.iter().eq(wanted.keys()) {
            let wanted: Vec<_> = wanted.keys().collect();
            return Err(format!("{} holds {found:?}; the model has {wanted:?}", path.display()));
        }
        for (name, child) in wanted {
            let path = path.join(&name);
            let inode = self.compare_stored(store, child, &path)?;
            if *inodes.entry(inode).or_insert(child) != child {
                return Err(format!("{} is a link to something else", path.display()));
            }
            if model.directory(child).is_some() {
                self.compare_folder(store, child, &path, inodes)?;
            }
        }
        Ok(())
    }

    /// One file of a store; gives its inode number there.
    fn compare_stored(&self, store: Store, id: Id, path: &Path) -> Verdict<u64> {
        let object = self.model.object(id);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let found = std::fs::symlink_metadata(path).map_err(failed)?;
        let Some(attr) = object.on.get(&store) else {
            return Err(format!("{} is on store {store}, against the model", path.display()));
        };
        let Attr { mode, uid, gid, .. } = attr;
        let is = (found.permissions().mode() & 0o7777, found.uid(), found.gid());
        if is != (*mode, *uid, *gid) {
            let wanted = (mode, uid, gid);
            return Err(format!("{} is {is:?}; the model expects {wanted:?}", path.display()));
        }
        let kind = found.file_type();
        let as_expected = match &object.body {
            Body::File(bytes) if kind.is_file() => std::fs::read(path).map_err(failed)? == *bytes,
            Body::Symlink(text) if kind.is_symlink() => {
                std::fs::read_link(path).map_err(failed)?.as_os_str() == text
            }
            Body::Directory(_) => kind.is_dir(),
            Body::Special(FileKind::Fifo, _) => kind.is_fifo(),
            Body::Special(FileKind::Socket, _) => kind.is_socket(),
            Body::Special(_, rdev) => kind.is_char_device() && found.rdev() == *rdev,
            Body::File(_) | Body::Symlink(_) => false,
        };
        let xattrs = if kind.is_symlink() { attr.all_xattrs() } else { xattrs_of(path)? };
        if xattrs != attr.all_xattrs() {
            let wanted = attr.all_xattrs();
            return Err(format!("{} has {xattrs:?}; the model has {wanted:?}", path.display()));
        }
        if !as_expected {
            return Err(format!("{} is not what the model holds of {id}", path.display()));
        }
        Ok(found.ino())
    }

    /// What is in the stage, and in the hold, of a store.
    pub(super) fn private(&self, store: Store) -> Verdict<[Vec<OsString>; 2]> {
        let private = self.backing[store].join(PRIVATE_NAME);
        Ok([names_in(&private.join("stage"))?, names_in(&private.join("hold"))?])
    }
}

/// All extended attributes of what a path names.
pub(super) fn xattrs_of(path: &Path) -> Verdict<BTreeMap<OsString, Vec<u8>>> {
    let failed = |errno| format!("attributes of {}: {errno}", path.display());
    let mut list = [0u8; 1024];
    let length = rustix::fs::llistxattr(path, &mut list[..]).map_err(failed)?;
    let mut found = BTreeMap::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = [0u8; 1024];
        let length = rustix::fs::lgetxattr(path, key, &mut value[..]).map_err(failed)?;
        found.insert(OsStr::from_bytes(key).to_owned(), value[..length].to_vec());
    }
    Ok(found)
}

/// The names in a directory, in order; none where there is no directory.
fn names_in(path: &Path) -> Verdict<Vec<OsString>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names: Vec<OsString> =
        names.collect::<Result<_, _>>().map_err(|error| format!("{}: {error}", path.display()))?;
    names.sort();
    Ok(names)
}

impl Model {
    /// Notes folders that were made on more stores by something that failed after that.
    pub(super) fn settle(&mut self, backing: &[PathBuf], parent: Id) {
        let mut above = self.ancestors(parent);
        above.retain(|id| self.is_pooled(*id) && !self.object(*id).fixed);
        let Some(domain) = self.object(parent).domain else { return };
        let stores = self.domains[domain].stores.clone();
        for id in above.into_iter().rev() {
            let below: PathBuf = self.path_in_domain(id).iter().collect();
            for store in &stores {
                let path = backing[*store].join(&below);
                let found = path.symlink_metadata().is_ok_and(|found| found.is_dir());
                if found && !self.is_blocked(id, *store) {
                    self.spread(id, *store);
                }
            }
        }
    }

    /// Where in a pool somebody else may put something: a directory, its store, if nothing is there.
    pub(super) fn plantable(
        &self,
        folder: &[OsString],
        name: &OsStr,
        nth: usize,
    ) -> Option<(Id, Store)> {
        let parent = folder.iter().try_fold(self.root, |here, name| self.child(here, name));
        let parent = parent.filter(|id| self.is_pooled(*id))?;
        let domain = &self.domains[self.object(parent).domain?];
        let store = domain.stores[nth % domain.stores.len()];
        let directory = self.directory(parent)?;
        let taken = directory.mounts.contains_key(name)
            || self.layers(parent, name).contains_key(&store)
            || (parent == domain.root && name == PRIVATE_NAME)
            || (parent == self.root && name == AUDIT_NAME)
            || self.away.contains(&store);
        let free = !taken && name.len() <= 255 && !self.is_gone(parent);
        (free && !self.is_blocked(parent, store)).then_some((parent, store))
    }

    /// Puts something into a store, with the folders above it.
    pub(super) fn plant_deep(
        &mut self,
        backing: &[PathBuf],
        (parent, name): (Id, &OsStr),
        store: Store,
        text: Option<&str>,
    ) -> Verdict {
        let mut path = backing[store].clone();
        let domain = self.object(parent).domain.ok_or("no domain")?;
        let mut here = self.domains[domain].root;
        for name in self.path_in_domain(parent) {
            path.push(&name);
            let next = self.child(here, &name).ok_or("a folder that is hidden")?;
            if !self.object(next).on.contains_key(&store) {
                plant(self, (here, &name), store, &path, None);
            }
            here = next;
        }
        plant(self, (parent, name), store, &path.join(name), text);
        Ok(())
    }
}
