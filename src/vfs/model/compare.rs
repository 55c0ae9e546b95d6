//! Comparing everything: the tree that the view shows, and what lies in every store.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::branch::FileKind;
use crate::error::{Errno, errno_name};

use super::effects::same_bytes;
use super::lists::Entry;
use super::run::{ROOT, Run};
use super::tree::{Body, Id, Store, Verdict};

impl Run {
    /// Compares the view, what is open and all stores with the model.
    pub(super) fn compare(&mut self) -> Verdict {
        self.check_open_files()?;
        self.compare_folder(self.world.model.root)?;
        self.world.stores().compare()?;
        (0..self.world.backing.len()).try_for_each(|store| self.compare_private(store))?;
        let in_use = self.in_use();
        self.world.model.collect(&in_use);
        Ok(())
    }

    /// A directory and everything below it, as users see it.
    fn compare_folder(&mut self, id: Id) -> Verdict {
        let number = self.number(id)?;
        let handle = self.world.vfs.opendir(*ROOT, number);
        let handle = handle.map_err(|errno| format!("opendir of {id}: {errno}"))?;
        let listed = self.whole_listing(id, handle);
        self.world.vfs.releasedir(handle);
        if self.world.model.is_dark(id) {
            return self.compare_dark(id, listed);
        }
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
            if self.look(id, &name, true)?.is_none() {
                // Its branch is offline.
                continue;
            }
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

    /// A directory that is offline: nothing of it is listed; the folders of the layout in it are served.
    fn compare_dark(&mut self, id: Id, listed: Verdict<Vec<Entry>>) -> Verdict {
        if listed != Err(format!("reading a directory gave {}", errno_name(Errno::IO))) {
            return Err(format!("{id} is offline and lists {listed:?}"));
        }
        for (name, child) in self.world.model.listing(id) {
            if self.look(id, &name, true)?.is_some() {
                self.compare_object(child)?;
            }
        }
        Ok(())
    }

    /// A listing from start to end. Where a member is offline it is what there is, and then an error.
    fn whole_listing(&self, id: Id, handle: u64) -> Verdict<Vec<Entry>> {
        let entries = self.entries(handle, 0, usize::MAX, false)?;
        if self.world.model.is_incomplete(id) {
            let end = entries.last().map_or(0, |entry| entry.next);
            if self.world.vfs.readdir(handle, end, &mut |_| false) != Err(Errno::IO) {
                return Err(format!("the listing of {id} ends, though a member is offline"));
            }
        }
        Ok(entries)
    }

    /// Something with its content; a reference is held meanwhile.
    fn compare_object(&mut self, id: Id) -> Verdict {
        let number = self.number(id)?;
        let vfs = &self.world.vfs;
        let object = self.world.model.object(id);
        if self.world.model.is_dark(id) {
            return self.compare_folder(id);
        }
        let attr = self.world.model.attr(id);
        let xattrs = attr.map(|attr| attr.all_xattrs()).unwrap_or_default();
        let keys = vfs.listxattr(*ROOT, number).map_err(|errno| format!("listxattr: {errno}"))?;
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
                let read = vfs.open(*ROOT, number, libc::O_RDONLY as u32).and_then(|opened| {
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

    /// Nothing is left in stage; hold keeps what crossings replaced until it is purged.
    fn compare_private(&self, store: Store) -> Verdict {
        let [stage, hold] = self.world.stores().private(store)?;
        if !stage.is_empty() {
            return Err(format!("store {store} has {stage:?} in stage"));
        }
        let purged = self.world.model.objects.values().all(|object| object.held == 0);
        if self.purged && purged && !hold.is_empty() {
            return Err(format!("store {store} has {hold:?} in hold after a purge"));
        }
        Ok(())
    }
}
