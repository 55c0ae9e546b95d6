//! Listings, and comparing everything: the tree that users see, and what lies in the stores.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::branch::FileKind;
use crate::error::{Errno, errno_name};

use super::effects::same_bytes;
use super::operation::Slot;
use super::run::{List, Place, Run, stat_at};
use super::tree::{Body, Id, Verdict};

/// How long the kernel may go on to use a number that was given up: until names are asked for again.
const NAMES_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

const DIRECTORY: OFlags = OFlags::CLOEXEC.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

impl Run {
    /// Opens a directory; calls in it name it by this from then on.
    pub(super) fn list(&mut self, uid: u32, at: &[OsString], slot: Slot) -> Verdict {
        if at.is_empty() {
            return Ok(());
        }
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        if self.model.is_incomplete(id) {
            // Listed by the comparison of everything.
            return Ok(());
        }
        let mut errors = self.search_errors(parent, uid, false);
        match self.model.object(id).kind() {
            FileKind::Directory if self.allows(id, uid, 0o4) => {}
            FileKind::Directory => errors.push(Errno::ACCESS),
            _ => errors.extend([Errno::NOTDIR, Errno::LOOP]),
        }
        let Place { base, path } = self.place(parent, name);
        let result = self.by(uid, || rustix::fs::openat(base, &path, DIRECTORY, Mode::empty()));
        if let Some(descriptor) = self.judge("opendir", &errors, result)? {
            self.lists[slot] = Some(List { id, descriptor });
            return self.list_open(slot);
        }
        Ok(())
    }

    /// What an open directory has, wherever it is now.
    pub(super) fn list_open(&mut self, slot: Slot) -> Verdict {
        match &self.lists[slot] {
            Some(list) if !self.model.is_gone(list.id) => {
                self.listed(list.id, list.descriptor.as_fd()).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Reads a directory and compares names and kinds; gives the inode numbers.
    fn listed(&self, id: Id, descriptor: BorrowedFd<'_>) -> Verdict<BTreeMap<OsString, u64>> {
        let failed = |errno| format!("reading {id}: {}", errno_name(errno));
        let mut kinds = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        let again =
            rustix::fs::openat(descriptor, ".", DIRECTORY, Mode::empty()).map_err(failed)?;
        for entry in Dir::new(again).map_err(failed)? {
            let entry = match entry {
                // It is what there is.
                Err(Errno::IO) if self.model.is_incomplete(id) => break,
                entry => entry.map_err(failed)?,
            };
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if numbers.insert(name.clone(), entry.ino()).is_some() {
                return Err(format!("{name:?} was listed twice in {id}"));
            }
            kinds.insert(name, entry.file_type());
        }
        for own in [".", ".."].map(OsStr::new) {
            kinds.remove(own).ok_or(format!("{own:?} was not listed in {id}"))?;
        }
        let wanted: BTreeMap<OsString, FileType> = self
            .model
            .listing(id)
            .into_iter()
            .map(|(name, child)| (name, file_type(self.model.object(child).kind())))
            .collect();
        if kinds != wanted {
            return Err(format!("{id} lists {kinds:?}; the model has {wanted:?}"));
        }
        Ok(numbers)
    }

    pub(super) fn readlink(&mut self, uid: u32, at: &[OsString]) -> Verdict {
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        let mut errors = self.search_errors(parent, uid, false);
        let text = match &self.model.object(id).body {
            Body::Symlink(text) => text.clone(),
            _ => {
                errors.push(Errno::INVAL);
                OsString::new()
            }
        };
        let Place { base, path } = self.place(parent, name);
        let result = self.by(uid, || rustix::fs::readlinkat(base, &path, Vec::new()));
        match self.judge("readlink", &errors, result)? {
            Some(found) if found.as_bytes() != text.as_bytes() => {
                Err(format!("{id} says {found:?}; the model expects {text:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Compares the mount, what is open and all stores with the model.
    pub(super) fn compare(&mut self) -> Verdict {
        self.check_open_files()?;
        let mut inodes = BTreeMap::new();
        let root = rustix::fs::open(self.mount.root(), DIRECTORY, Mode::empty());
        let root = root.map_err(|errno| format!("the root: {}", errno_name(errno)))?;
        let mut compared = self.compare_folder(self.model.root, root.as_fd(), &mut inodes);
        let begun = std::time::Instant::now();
        while self.passthrough.is_some() && compared.is_err() && begun.elapsed() < NAMES_WAIT {
            // What was still being closed when it crossed gets another number, which the kernel is told of.
            std::thread::sleep(std::time::Duration::from_millis(50));
            inodes.clear();
            compared = self.compare_folder(self.model.root, root.as_fd(), &mut inodes);
        }
        compared?;
        for store in 0..self.stores().backing.len() {
            let [stage, _] = self.stores().private(store)?;
            if !stage.is_empty() {
                return Err(format!("store {store} has {stage:?} in stage"));
            }
        }
        self.stores().compare()?;
        let files = self.files.iter().flatten().map(|file| file.id);
        let open: Vec<Id> = files.chain(self.lists.iter().flatten().map(|list| list.id)).collect();
        let held: Vec<Id> = open.iter().flat_map(|id| self.model.ancestors(*id)).collect();
        self.model.collect(&held);
        Ok(())
    }

    fn compare_folder(
        &self,
        id: Id,
        folder: BorrowedFd<'_>,
        inodes: &mut BTreeMap<u64, Id>,
    ) -> Verdict {
        if self.model.is_dark(id) {
            return Ok(());
        }
        let numbers = self.listed(id, folder)?;
        for (name, child) in self.model.listing(id) {
            if self.model.is_dark(child) {
                continue;
            }
            let failed = |errno| format!("{name:?} in {id}: {}", errno_name(errno));
            let path = std::path::Path::new(&name);
            let stat = stat_at(folder, path, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            self.model.check_stat(child, &stat)?;
            let mut listed = numbers[&name];
            if self.model.is_pooled(child) && listed != stat.inode {
                // A directory that got a part before its first, and that the kernel has forgotten since then.
                listed = self.listed(id, folder)?[&name];
            }
            if listed != stat.inode {
                return Err(format!("{name:?} is listed as {listed}, and is {}", stat.inode));
            }
            if *inodes.entry(stat.inode).or_insert(child) != child {
                return Err(format!("{name:?} in {id} has the number of another: {}", stat.inode));
            }
            self.compare_xattrs(child, &self.path(id, &name))?;
            match &self.model.object(child).body {
                Body::File(bytes) => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(folder, path, flags, Mode::empty());
                    let mut buffer = vec![0; bytes.len() + 1];
                    let read = rustix::io::pread(file.map_err(failed)?, &mut buffer[..], 0);
                    same_bytes(child, bytes, &buffer[..read.map_err(failed)?])?;
                }
                Body::Symlink(text) => {
                    let found = rustix::fs::readlinkat(folder, path, Vec::new()).map_err(failed)?;
                    same_bytes(child, text.as_bytes(), found.as_bytes())?;
                }
                Body::Directory(_) => {
                    let below = rustix::fs::openat(folder, path, DIRECTORY, Mode::empty());
                    self.compare_folder(child, below.map_err(failed)?.as_fd(), inodes)?;
                }
                Body::Special(..) => {}
            }
        }
        Ok(())
    }

    fn compare_xattrs(&self, id: Id, path: &std::path::Path) -> Verdict {
        let wanted = self.model.attr(id).map(|attr| attr.all_xattrs()).unwrap_or_default();
        let found = super::stores::xattrs_of(path)?;
        if found != wanted {
            return Err(format!("{id} has the attributes {found:?}; the model has {wanted:?}"));
        }
        Ok(())
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}
