//! The driver: does each operation through the view as a kernel would (it walks names, keeps the numbers
//! that it was given and gives them back), and compares what comes of it with the model.

use std::ffi::{OsStr, OsString};

use crate::branch::{FileKind, RenameFlags, XattrFlags};
use crate::error::{Errno, errno_name};
use crate::types::Caller;

use super::super::{AUDIT_NAME, Attributes};
use super::crossings::Crossed;
use super::files::Handle;
use super::lists::List;
use super::operation::{FILES_MAX, LISTS_MAX, Op, split};
use super::tree::{Body, Directory, Errors, Id, Object, Verdict};
use super::world::World;

pub(super) use crate::vfs::tests::fixture::ROOT;

/// Somebody; no thread has this id.
pub(super) fn caller(uid: u32) -> Caller {
    if uid == 0 { *ROOT } else { Caller { uid, gid: uid, pid: u32::MAX } }
}

/// A run: the view, the model, and what the kernel has open.
pub(super) struct Run {
    pub world: World,
    pub files: [Option<Handle>; FILES_MAX],
    pub lists: [Option<List>; LISTS_MAX],
    /// Nothing has crossed since hold was emptied.
    pub purged: bool,
    /// What crossed since then and may be taken back.
    pub crossed: Vec<Crossed>,
}

impl Run {
    pub(super) fn new(layout: u64) -> Self {
        let mut world = World::new(layout);
        let root = world.model.root;
        world.model.object_mut(root).number = Some(1);
        let (files, lists) = Default::default();
        Self { world, files, lists, purged: true, crossed: Vec::new() }
    }

    /// Does one operation. What cannot be done now (nothing is open there, say) is left out.
    pub(super) fn step(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Look { at } => self.walk(at, true).map(drop),
            Op::Mkdir { at, uid, mode } => self.mkdir(at, *uid, *mode),
            Op::Mknod { at, kind } => self.mknod(at, *kind),
            Op::Symlink { at, uid, text } => self.symlink(at, *uid, text),
            Op::Link { from, to } => match self.walk(from, false)? {
                Some(id) => self.link(id, to),
                None => Ok(()),
            },
            Op::Unlink { at } => self.unlink(at),
            Op::Rmdir { at } => self.rmdir(at),
            Op::Rename { from, to, flags } => self.rename(from, to, *flags, false),
            Op::Move { from, to, no_replace } => {
                let flags = if *no_replace { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
                self.rename(from, to, flags, true)
            }
            Op::Undo { back } => self.undo(*back),
            Op::Chmod { at, mode } => match self.walk(at, false)? {
                Some(id) => self.chmod(id, *mode),
                None => Ok(()),
            },
            Op::Chown { at, uid, gid } => self.chown(at, *uid, *gid),
            Op::Utimes { at, seconds } => self.utimes(at, *seconds),
            Op::SetAcl { at, default, acl } => self.set_acl(at, *default, *acl),
            Op::GetXattr { at, key } => self.get_xattr(at, key),
            Op::Readlink { at } => self.readlink(at),
            Op::Space { at } => self.space(at),
            Op::SetXattr { at, key, value, create, replace } => {
                let mut flags = XattrFlags::empty();
                flags.set(XattrFlags::CREATE, *create);
                flags.set(XattrFlags::REPLACE, *replace && !*create);
                self.set_xattr(at, key, value, flags)
            }
            Op::RemoveXattr { at, key } => self.remove_xattr(at, key),
            Op::Forget { at, all } => self.forget(at, *all),
            Op::Plant { at, nth, text } => self.plant(at, *nth, *text),
            Op::Leave { nth } => self.leave(*nth),
            Op::Return => self.come_back(),
            Op::Purge => self.purge(),
            Op::Refresh => self.refresh(),
            Op::List { at, slot } => self.list(at, *slot),
            Op::ListOn { slot, count } => self.list_on(*slot, *count, false),
            Op::ListBack { slot, to, plus } => self.list_back(*slot, *to, *plus),
            Op::ListEnd { slot } => self.list_end(*slot),
            op => self.on_file(op),
        }?;
        self.note_listings();
        Ok(())
    }

    /// Compares a result with what the model allows. What succeeded and may succeed comes back.
    pub(super) fn judge<T>(
        &self,
        what: &str,
        errors: &Errors,
        result: Result<T, Errno>,
    ) -> Verdict<Option<T>> {
        let names = || errors.iter().map(|errno| errno_name(*errno)).collect::<Vec<_>>();
        match result {
            Ok(value) if errors.is_empty() => Ok(Some(value)),
            Ok(_) => Err(format!("{what} succeeded; the model expects one of {:?}", names())),
            Err(errno) if errors.contains(&errno) => Ok(None),
            Err(errno) => {
                let errno = errno_name(errno);
                Err(format!("{what} gave {errno}; the model expects one of {:?}", names()))
            }
        }
    }

    /// Walks names from the root, by look-ups of all or of what the kernel does not know.
    pub(super) fn walk(&mut self, way: &[OsString], fresh: bool) -> Verdict<Option<Id>> {
        let mut here = self.world.model.root;
        for name in way {
            match self.look(here, name, fresh)? {
                Some(id) => here = id,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    pub(super) fn look(&mut self, parent: Id, name: &OsStr, fresh: bool) -> Verdict<Option<Id>> {
        let model = &self.world.model;
        let child = model.child(parent, name);
        if let Some(id) = child
            && !fresh
            && model.object(id).is_known()
        {
            return Ok(Some(id));
        }
        let result = self.world.vfs.lookup(*ROOT, self.number(parent)?, name);
        let what = format!("look-up of {name:?} in {parent}");
        let errors = match child {
            _ if model.directory(parent).is_none() => vec![Errno::NOTDIR, Errno::NAMETOOLONG],
            Some(_) => vec![],
            // The one name that is there and in no model.
            None if parent == model.root && name == AUDIT_NAME => return Ok(None),
            None if name.len() > 255 => vec![Errno::NAMETOOLONG],
            None => vec![Errno::NOENT],
        };
        let errors = self.lookup_errors(parent, name, child, errors);
        match (self.judge(&what, &errors, result)?, child) {
            (Some(attributes), Some(id)) => {
                self.note(id, &attributes)?;
                Ok(Some(id))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn number(&self, id: Id) -> Verdict<u64> {
        let object = self.world.model.object(id);
        object
            .number
            .filter(|_| object.is_known())
            .ok_or(format!("{id} is not known to the kernel"))
    }

    /// Notes a reply that counts a reference: numbers stay, are no two objects', and attributes are
    /// those of the model.
    pub(super) fn note(&mut self, id: Id, attributes: &Attributes) -> Verdict {
        self.check(id, attributes)?;
        let model = &mut self.world.model;
        let object = model.object_mut(id);
        object.number = Some(attributes.number);
        object.lookups += u64::from(!object.fixed);
        Ok(())
    }

    /// Compares attributes with the model.
    pub(super) fn check(&self, id: Id, attributes: &Attributes) -> Verdict {
        let model = &self.world.model;
        let object = model.object(id);
        let number = attributes.number;
        if object.is_known() && object.number != Some(number) {
            return Err(format!("the number of {id} was {:?} and is {number}", object.number));
        }
        let same = |other: &(&Id, &Object)| {
            *other.0 != id && other.1.is_known() && other.1.number == Some(number)
        };
        if let Some((other, _)) = model.objects.iter().find(same) {
            return Err(format!("{id} has the number of {other}"));
        }
        model.check_stat(id, &attributes.stat)
    }

    /// The directory of a way, looked up as far as needed, if it is one that can be named.
    pub(super) fn folder(&mut self, way: &[OsString]) -> Verdict<Option<Id>> {
        let found = self.walk(way, false)?;
        Ok(found.filter(|id| self.world.model.directory(*id).is_some()))
    }

    /// As [`Run::folder`], to make a name in. A user may do so on all stores that have it or on none;
    /// and the kernel looks first whether it is there.
    pub(super) fn folder_for(
        &mut self,
        uid: u32,
        way: &[OsString],
        name: &OsStr,
    ) -> Verdict<Option<Id>> {
        let Some(id) = self.folder(way)? else { return Ok(None) };
        if self.world.model.is_ghost(id, name) {
            return self.look(id, name, true).map(|_| None);
        }
        let mut may = self.world.model.object(id).on.values().map(|attr| attr.allows(uid, 0o3));
        let first = may.next();
        Ok(may.all(|other| Some(other) == first).then_some(id))
    }

    fn made(
        &mut self,
        (parent, name): (Id, &OsStr),
        body: Body,
        owner: (u32, u32, u32),
        attributes: &Attributes,
    ) -> Verdict<Id> {
        let store = self.world.stores().placed(parent, name)?;
        let id = self.world.model.make((parent, name), body, store, owner);
        self.note(id, attributes)?;
        Ok(id)
    }

    pub(super) fn made_file(
        &mut self,
        spot: (Id, &OsStr),
        owner: (u32, u32, u32),
        attributes: &Attributes,
    ) -> Verdict<Id> {
        self.made(spot, Body::File(Vec::new()), owner, attributes)
    }

    fn mkdir(&mut self, at: &[OsString], uid: u32, mode: u32) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder_for(uid, folder, name)? else { return Ok(()) };
        let errors = self.world.model.add_errors(parent, name, uid, false);
        let number = self.number(parent)?;
        let result = self.world.vfs.mkdir(caller(uid), number, name, mode, 0o002);
        if let Some(attributes) = self.judge("mkdir", &errors, result)? {
            let body = Body::Directory(Directory::default());
            self.made((parent, name), body, (uid, mode, 0o002), &attributes)?;
        } else {
            self.settle(parent);
        }
        Ok(())
    }

    fn mknod(&mut self, at: &[OsString], kind: FileKind) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder_for(0, folder, name)? else { return Ok(()) };
        let errors = self.world.model.add_errors(parent, name, 0, true);
        let (bits, rdev) = match kind {
            FileKind::File => (libc::S_IFREG, 0),
            FileKind::Fifo => (libc::S_IFIFO, 0),
            FileKind::Socket => (libc::S_IFSOCK, 0),
            _ => (libc::S_IFCHR, rustix::fs::makedev(1, 3)),
        };
        let number = self.number(parent)?;
        let result = self.world.vfs.mknod(*ROOT, number, name, bits | 0o644, 0o022, rdev);
        if let Some(attributes) = self.judge("mknod", &errors, result)? {
            let body = match kind {
                FileKind::File => Body::File(Vec::new()),
                kind => Body::Special(kind, rdev),
            };
            self.made((parent, name), body, (0, 0o644, 0o022), &attributes)?;
        } else {
            self.settle(parent);
        }
        Ok(())
    }

    fn symlink(&mut self, at: &[OsString], uid: u32, text: &str) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder_for(uid, folder, name)? else { return Ok(()) };
        let errors = self.world.model.add_errors(parent, name, uid, true);
        let number = self.number(parent)?;
        let result = self.world.vfs.symlink(caller(uid), number, name, OsStr::new(text));
        if let Some(attributes) = self.judge("symlink", &errors, result)? {
            self.made((parent, name), Body::Symlink(text.into()), (uid, 0o777, 0), &attributes)?;
        } else {
            self.settle(parent);
        }
        Ok(())
    }

    pub(super) fn link(&mut self, id: Id, to: &[OsString]) -> Verdict {
        let (folder, name) = split(to);
        let Some(parent) = self.folder_for(0, folder, name)? else { return Ok(()) };
        let errors = self.world.model.link_errors(id, parent, name);
        let (number, into) = (self.number(id)?, self.number(parent)?);
        let result = self.world.vfs.link(*ROOT, number, into, name);
        if let Some(attributes) = self.judge("link", &errors, result)? {
            let store = self.world.stores().found_on(parent, name)?;
            if !self.world.model.object(id).on.contains_key(&store) {
                return Err(format!("{name:?} was linked to {id} on store {store}"));
            }
            self.world.model.spread(parent, store);
            self.world.model.put(parent, name, store, id);
            self.note(id, &attributes)?;
        } else {
            self.settle(parent);
        }
        Ok(())
    }

    fn unlink(&mut self, at: &[OsString]) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder(folder)? else { return Ok(()) };
        let errors = self.world.model.unlink_errors(parent, name);
        let result = self.world.vfs.unlink(*ROOT, self.number(parent)?, name);
        if self.judge("unlink", &errors, result)?.is_some() {
            self.world.model.take(parent, name);
        }
        Ok(())
    }

    fn rmdir(&mut self, at: &[OsString]) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder(folder)? else { return Ok(()) };
        let errors = self.world.model.rmdir_errors(parent, name);
        let result = self.world.vfs.rmdir(*ROOT, self.number(parent)?, name);
        if self.judge("rmdir", &errors, result)?.is_some() {
            self.world.model.take(parent, name);
        }
        Ok(())
    }

    /// The kernel gives back references, but for what is open.
    fn forget(&mut self, at: &[OsString], all: bool) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let lookups = self.world.model.object(id).lookups;
        let in_use = self.in_use().contains(&id);
        let count = if all && !in_use { lookups } else { lookups.saturating_sub(1) };
        self.give_back(id, count)
    }

    pub(super) fn give_back(&mut self, id: Id, count: u64) -> Verdict {
        let object = self.world.model.object_mut(id);
        if object.fixed || count == 0 {
            return Ok(());
        }
        let number = object.number.ok_or(format!("{id} has no number"))?;
        object.lookups -= count;
        self.world.vfs.forget(number, count);
        Ok(())
    }

    /// What is open as a file or a directory, and the directories above, which the kernel keeps as long.
    pub(super) fn in_use(&self) -> Vec<Id> {
        let model = &self.world.model;
        let files = self.files.iter().flatten().map(|file| file.id);
        let open: Vec<Id> = files.chain(self.lists.iter().flatten().map(|list| list.id)).collect();
        let holds = |object: &Object| match &object.body {
            Body::Directory(directory) => {
                directory.entries.values().flat_map(|on| on.values()).any(|id| open.contains(id))
            }
            _ => false,
        };
        let parents = model.objects.iter().filter(|(_, object)| holds(object)).map(|(id, _)| *id);
        let above = parents.chain(open.iter().copied()).flat_map(|id| model.ancestors(id));
        above.collect()
    }

    /// Gives back everything that is not open; what comes next is looked up.
    pub(super) fn refresh(&mut self) -> Verdict {
        let in_use = self.in_use();
        let known: Vec<(Id, u64)> = self
            .world
            .model
            .objects
            .iter()
            .filter(|(id, object)| object.lookups > 0 && !in_use.contains(id))
            .map(|(id, object)| (*id, object.lookups))
            .collect();
        known.into_iter().try_for_each(|(id, lookups)| self.give_back(id, lookups))
    }
}
