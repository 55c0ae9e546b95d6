//! Making, taking away and renaming names, as users and kernel do it.

use std::ffi::{OsStr, OsString};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};

use crate::branch::FileKind;
use crate::error::Errno;

use super::operation::{Access, Slot};
use super::run::{Place, Run, UMASK, flags};
use super::tree::{Body, Directory, Errors, Id, Verdict};

impl Run {
    /// Why somebody cannot make something under a name.
    fn make_errors(&self, parent: Id, name: &OsStr, uid: u32, is_content: bool) -> Errors {
        let mut errors = self.model.add_errors(parent, name, uid, is_content);
        errors.extend(self.search_errors(parent, uid, false));
        if !self.allows(parent, uid, 0o3) {
            errors.push(Errno::ACCESS);
        }
        errors
    }

    /// Notes something new, and looks at it.
    fn made(
        &mut self,
        parent: Id,
        name: &OsStr,
        body: Body,
        owner: (u32, u32, u32),
    ) -> Verdict<Id> {
        let store = self.stores().placed(parent, name)?;
        let id = self.model.make((parent, name), body, store, owner);
        self.check(parent, name, id)?;
        Ok(id)
    }

    pub(super) fn mkdir(&mut self, uid: u32, at: &[OsString], mode: u32) -> Verdict {
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        if !self.is_even(parent, uid) {
            return Ok(());
        }
        let errors = self.make_errors(parent, name, uid, false);
        let Place { base, path } = self.place(parent, name);
        let bits = Mode::from_bits_truncate(mode);
        let result = self.by(uid, || rustix::fs::mkdirat(base, &path, bits));
        if self.judge("mkdir", &errors, result)?.is_some() {
            let body = Body::Directory(Directory::default());
            return self.made(parent, name, body, (uid, mode, UMASK)).map(drop);
        }
        self.settle(parent);
        Ok(())
    }

    pub(super) fn mknod(&mut self, uid: u32, at: &[OsString], kind: FileKind) -> Verdict {
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        if !self.is_even(parent, uid) {
            return Ok(());
        }
        let mut errors = self.make_errors(parent, name, uid, true);
        let (file_type, rdev) = match kind {
            FileKind::File => (FileType::RegularFile, 0),
            FileKind::Fifo => (FileType::Fifo, 0),
            FileKind::Socket => (FileType::Socket, 0),
            _ => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        };
        if rdev != 0 && uid != 0 {
            errors.push(Errno::PERM);
        }
        let Place { base, path } = self.place(parent, name);
        let mode = Mode::from_bits_truncate(0o644);
        let result = self.by(uid, || rustix::fs::mknodat(base, &path, file_type, mode, rdev));
        if self.judge("mknod", &errors, result)?.is_some() {
            let body = match kind {
                FileKind::File => Body::File(Vec::new()),
                kind => Body::Special(kind, rdev),
            };
            return self.made(parent, name, body, (uid, 0o644, UMASK)).map(drop);
        }
        self.settle(parent);
        Ok(())
    }

    pub(super) fn symlink(&mut self, uid: u32, at: &[OsString], text: &str) -> Verdict {
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        if !self.is_even(parent, uid) {
            return Ok(());
        }
        let errors = self.make_errors(parent, name, uid, true);
        let Place { base, path } = self.place(parent, name);
        let result = self.by(uid, || rustix::fs::symlinkat(text, base, &path));
        if self.judge("symlink", &errors, result)?.is_some() {
            return self.made(parent, name, Body::Symlink(text.into()), (uid, 0o777, 0)).map(drop);
        }
        self.settle(parent);
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        uid: u32,
        at: &[OsString],
        (mode, exclusive): (u32, bool),
        access: Access,
        slot: Slot,
    ) -> Verdict {
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        if !self.is_even(parent, uid) {
            return Ok(());
        }
        let there = self.model.child(parent, name);
        let mut errors = self.make_errors(parent, name, uid, true);
        if let Some(id) = there.filter(|_| !exclusive) {
            let mut opening = self.open_errors(parent, id, uid, access);
            if self.model.object(id).kind() == FileKind::Directory {
                opening.push(Errno::ISDIR);
            }
            if self.is_special(id) || self.attr(parent).mode & 0o1000 != 0 {
                // What is opened blocks, or the kernel protects what others made (proc(5)).
                return Ok(());
            }
            errors = opening;
        }
        let Place { base, path } = self.place(parent, name);
        let mut flags = flags(access) | OFlags::CREATE | OFlags::NOFOLLOW;
        flags.set(OFlags::EXCL, exclusive);
        let bits = Mode::from_bits_truncate(mode);
        let result = self.by(uid, || rustix::fs::openat(base, &path, flags, bits));
        let Some(descriptor) = self.judge("create", &errors, result)? else {
            self.settle(parent);
            return Ok(());
        };
        let id = match there {
            Some(id) => id,
            None => self.made(parent, name, Body::File(Vec::new()), (uid, mode, UMASK))?,
        };
        self.keep(id, access, slot, descriptor);
        Ok(())
    }

    pub(super) fn is_special(&self, id: Id) -> bool {
        let kind = self.model.object(id).kind();
        !matches!(kind, FileKind::File | FileKind::Directory | FileKind::Symlink)
    }

    pub(super) fn link(&mut self, uid: u32, from: &[OsString], to: &[OsString]) -> Verdict {
        let Some((parent, name, id)) = self.found(from) else { return Ok(()) };
        let mut errors = self.search_errors(parent, uid, false);
        if !self.may_link(id, uid) {
            errors.push(Errno::PERM);
        }
        self.link_at(uid, id, to, errors, |run| {
            let Place { base, path } = run.place(parent, name);
            (base.try_clone_to_owned().expect("dup"), path, AtFlags::empty())
        })
    }

    /// By way of an open file, whatever became of its name.
    pub(super) fn link_open(&mut self, slot: Slot, to: &[OsString]) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let id = file.id;
        self.link_at(0, id, to, Vec::new(), |run| {
            use std::os::fd::{AsFd, AsRawFd};
            let file = run.files[slot].as_ref().expect("open");
            let path = format!("/proc/self/fd/{}", file.descriptor.as_raw_fd());
            let base = file.descriptor.as_fd().try_clone_to_owned().expect("dup");
            (base, path.into(), AtFlags::SYMLINK_FOLLOW)
        })
    }

    fn link_at(
        &mut self,
        uid: u32,
        id: Id,
        to: &[OsString],
        mut errors: Errors,
        source: impl Fn(&Self) -> (std::os::fd::OwnedFd, std::path::PathBuf, AtFlags),
    ) -> Verdict {
        let Some((parent, name)) = self.spot(to) else { return Ok(()) };
        errors.extend(self.model.link_errors(id, parent, name));
        errors.extend(self.make_errors(parent, name, uid, true));
        let (from, from_path, flags) = source(self);
        let Place { base, path } = self.place(parent, name);
        let result = self.by(uid, || rustix::fs::linkat(&from, &from_path, base, &path, flags));
        if self.judge("link", &errors, result)?.is_some() {
            let store = self.stores().found_on(parent, name)?;
            if !self.model.object(id).on.contains_key(&store) {
                return Err(format!("{name:?} was linked to {id} on store {store}"));
            }
            self.model.spread(parent, store);
            self.model.put(parent, name, store, id);
            return self.check(parent, name, id);
        }
        self.settle(parent);
        Ok(())
    }

    /// Whether the kernel lets somebody link to a file that is not theirs (protected_hardlinks, proc(5)).
    fn may_link(&self, id: Id, uid: u32) -> bool {
        let protects = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks");
        let protects = protects.is_ok_and(|text| text.trim() == "1");
        let mode = self.attr(id).mode;
        let safe = self.model.object(id).kind() == FileKind::File
            && mode & 0o4000 == 0
            && mode & 0o2010 != 0o2010
            && self.allows(id, uid, 0o6);
        !protects || self.owns(id, uid) || safe
    }

    pub(super) fn remove(&mut self, uid: u32, at: &[OsString], directory: bool) -> Verdict {
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        let mut errors = self.delete_errors(parent, name, uid);
        errors.extend(match directory {
            true => self.model.rmdir_errors(parent, name),
            false => self.model.unlink_errors(parent, name),
        });
        let Place { base, path } = self.place(parent, name);
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let result = self.by(uid, || rustix::fs::unlinkat(base, &path, flags));
        if self.judge("removing", &errors, result)?.is_some() {
            self.model.take(parent, name);
        }
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        uid: u32,
        from: &[OsString],
        to: &[OsString],
        flags: RenameFlags,
    ) -> Verdict {
        let (Some((parent, name)), Some((new_parent, new_name))) = (self.spot(from), self.spot(to))
        else {
            return Ok(());
        };
        let model = &self.model;
        let (source, target) = (model.child(parent, name), model.child(new_parent, new_name));
        let crossing = model.object(parent).domain != model.object(new_parent).domain;
        if source == target && flags.contains(RenameFlags::WHITEOUT) {
            return Ok(());
        }
        if crossing && [parent, new_parent].iter().any(|id| model.is_incomplete(*id)) {
            return Ok(());
        }
        if crossing && let Some(source) = source {
            self.close_crossing(source, parent, new_parent);
        }
        let spots = ((parent, name), (new_parent, new_name));
        let mut errors = self.rename_errors(uid, spots, flags);
        if source.is_some() && source == target {
            // Names of one inode: the kernel does nothing, and asks nobody.
            errors = self.search_errors(parent, uid, false);
            errors.extend(self.search_errors(new_parent, uid, false));
            if flags.contains(RenameFlags::NOREPLACE) {
                errors.extend([Errno::EXIST, Errno::INVAL]);
            }
        }
        let (old, new) = (self.place(parent, name), self.place(new_parent, new_name));
        let call = || rustix::fs::renameat_with(old.base, &old.path, new.base, &new.path, flags);
        let result = self.by(uid, call);
        let what = if crossing { "crossing" } else { "rename" };
        if self.judge(what, &errors, result)?.is_none() {
            self.settle(new_parent);
            self.settle(parent);
            return Ok(());
        }
        let stores = self.stores();
        let store = crossing.then(|| stores.placed(new_parent, new_name)).transpose()?;
        if source != target {
            self.model.rename(spots.0, spots.1, flags, store);
        }
        self.check(new_parent, new_name, source.ok_or("it had no source")?)
    }

    fn rename_errors(
        &self,
        uid: u32,
        (from, to): ((Id, &OsStr), (Id, &OsStr)),
        flags: RenameFlags,
    ) -> Errors {
        let mut errors = self.model.rename_errors(from, to, flags);
        errors.extend(self.delete_errors(from.0, from.1, uid));
        errors.extend(self.delete_errors(to.0, to.1, uid));
        let ends = [self.model.child(from.0, from.1), self.model.child(to.0, to.1)];
        // A directory that moves gets another `..`.
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let moving = if exchange { &ends[..] } else { &ends[..1] };
        for id in moving.iter().flatten() {
            if from.0 != to.0 && self.model.directory(*id).is_some() && !self.allows(*id, uid, 0o2)
            {
                errors.push(Errno::ACCESS);
            }
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            errors.push(Errno::PERM);
        }
        // What the kernel finds out before it asks, also of what another branch has at the target.
        if flags.contains(RenameFlags::NOREPLACE) && ends[1].is_some() {
            errors.push(Errno::EXIST);
        }
        if let [Some(source), Some(target)] = ends
            && !exchange
        {
            match [source, target].map(|id| self.model.directory(id).is_some()) {
                [true, false] => errors.push(Errno::NOTDIR),
                [false, true] => errors.push(Errno::ISDIR),
                _ => {}
            }
        }
        if exchange && ends[1].is_none() {
            errors.push(Errno::NOENT);
        }
        if ends[0].is_some_and(|source| self.model.ancestors(to.0).contains(&source)) {
            errors.push(Errno::INVAL);
        }
        if ends[1].is_some_and(|target| self.model.ancestors(from.0).contains(&target)) {
            errors.extend([Errno::NOTEMPTY, Errno::INVAL]);
        }
        errors
    }
}
