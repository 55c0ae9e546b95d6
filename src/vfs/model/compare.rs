//! Comparing everything: the tree that the view shows, and what lies in every store.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::branch::FileKind;

use super::files::same_bytes;
use super::run::{ROOT, Run, Verdict, is_private};
use super::tree::{Attr, Body, Id, Store};

impl Run {
    /// Compares the view, what is open and all stores with the model.
    pub(super) fn compare(&mut self) -> Verdict {
        self.check_open_files()?;
        self.compare_folder(self.world.model.root)?;
        for domain in 0..self.world.model.domains.len() {
            let root = self.world.model.domains[domain].root;
            for store in self.world.model.domains[domain].stores.clone() {
                let path = self.world.backing[store].clone();
                let mut inodes = BTreeMap::new();
                self.compare_store(store, root, &path, &mut inodes)?;
                self.compare_private(&path)?;
            }
        }
        let in_use = self.in_use();
        self.world.model.collect(&in_use);
        Ok(())
    }

    /// A directory and everything below it, as users see it.
    fn compare_folder(&mut self, id: Id) -> Verdict {
        let number = self.number(id)?;
        let handle = self.world.vfs.opendir(ROOT, number);
        let handle = handle.map_err(|errno| format!("opendir of {id}: {errno}"))?;
        let listed = self.entries(handle, 0, usize::MAX, false);
        self.world.vfs.releasedir(handle);
        let mut listed: BTreeMap<OsString, (u64, FileKind)> =
            listed?.into_iter().map(|entry| (entry.name, (entry.number, entry.kind))).collect();
        let own = listed.remove(OsStr::new(".")).map(|(number, _)| number);
        if own != Some(number) || listed.remove(OsStr::new("..")).is_none() {
            return Err(format!("{id} lists no . with its own number, or no .."));
        }
        let wanted = self.world.model.listing(id);
        if !listed.keys().eq(wanted.keys()) {
            let names = (listed.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            return Err(format!("{id} lists {:?}; the model has {:?}", names.0, names.1));
        }
        for (name, child) in wanted {
            self.look(id, &name, true)?;
            let (number, kind) = listed[&name];
            let wanted = (self.number(child)?, self.world.model.object(child).kind());
            if (number, kind) != wanted {
                return Err(format!("{name:?} is listed as {number}, {kind:?}; it is {wanted:?}"));
            }
            self.compare_object(child)?;
            self.give_back(child, 1)?;
        }
        Ok(())
    }

    /// Something with its content; a reference is held meanwhile.
    fn compare_object(&mut self, id: Id) -> Verdict {
        let number = self.number(id)?;
        let vfs = &self.world.vfs;
        let object = self.world.model.object(id);
        let xattrs = object.attr().map(|attr| attr.xattrs.clone()).unwrap_or_default();
        let keys = vfs.listxattr(ROOT, number).map_err(|errno| format!("listxattr: {errno}"))?;
        let mut found = BTreeMap::new();
        for key in keys {
            let value = vfs.getxattr(number, &key).map_err(|errno| format!("{key:?}: {errno}"))?;
            found.insert(key, value);
        }
        if found != xattrs {
            return Err(format!("{id} has the attributes {found:?}; the model expects {xattrs:?}"));
        }
        match &object.body {
            Body::File(bytes) => {
                let read = vfs.open(ROOT, number, libc::O_RDONLY as u32).and_then(|opened| {
                    let read = vfs.read(opened.handle, 0, 1 << 20);
                    vfs.release(opened.handle);
                    read
                });
                same_bytes(id, bytes, &read.map_err(|errno| format!("reading {id}: {errno}"))?)
            }
            Body::Symlink(text) => match vfs.readlink(number) {
                Ok(found) if found == *text => Ok(()),
                other => Err(format!("{id} says {other:?}; the model expects {text:?}")),
            },
            Body::Special(..) => Ok(()),
            Body::Directory(_) => self.compare_folder(id),
        }
    }

    /// What a store has of a directory, hidden names included, and nothing else.
    fn compare_store(
        &self,
        store: Store,
        id: Id,
        path: &Path,
        inodes: &mut BTreeMap<u64, Id>,
    ) -> Verdict {
        let model = &self.world.model;
        let mut wanted: BTreeMap<OsString, Id> = BTreeMap::new();
        if let Some(directory) = model.directory(id) {
            let entries = directory.entries.iter();
            wanted.extend(entries.filter_map(|(name, on)| Some((name.clone(), *on.get(&store)?))));
        }
        let is_root = model.domains.iter().any(|domain| domain.root == id);
        let mut found = names_in(path)?;
        found.retain(|name| !is_root || !is_private(name));
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
                self.compare_store(store, child, &path, inodes)?;
            }
        }
        Ok(())
    }

    /// One file of a store; gives its inode number there.
    fn compare_stored(&self, store: Store, id: Id, path: &Path) -> Verdict<u64> {
        let object = self.world.model.object(id);
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
        if !as_expected {
            return Err(format!("{} is not what the model holds of {id}", path.display()));
        }
        Ok(found.ino())
    }

    /// Nothing is left in stage; hold keeps what crossings replaced until it is purged.
    fn compare_private(&self, store: &Path) -> Verdict {
        let private = store.join(OsStr::from_bytes(b".octroi"));
        let stage = names_in(&private.join("stage"))?;
        if !stage.is_empty() {
            return Err(format!("{} has {stage:?} in stage", store.display()));
        }
        let purged = self.world.model.objects.values().all(|object| object.held == 0);
        let hold = names_in(&private.join("hold"))?;
        if self.purged && purged && !hold.is_empty() {
            return Err(format!("{} has {hold:?} in hold after a purge", store.display()));
        }
        Ok(())
    }
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
