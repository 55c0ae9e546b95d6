//! The content of a tree: hashed where it lies, or copied to stage; and read back there. Each entry
//! is worked on by itself, by several threads when there are many.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::CrossingError;
use super::merge::{Plan, Planned, Trees};
use super::moves::Place;
use super::parallel::{Pieces, in_parallel};
use super::pass::{CopyTo, Hashed, pass};
use super::prepare::{check_kind, check_type};
use super::sabotage::sabotaged;
use super::stage::{self, Losses};
use super::tree::{Folders, Tree, entry_error};
use super::{Mover, Progress, SourcePart};
use crate::error::Errno;
use crate::policy::Verify;
use crate::storage::{Kind, Metadata, Storage, Xattrs};
use crate::types::{Handle, Time};

/// Files up to this length are written without asking for room first.
const SMALL_MAX: u64 = 256 * 1024;

/// What one part of the source is to the work.
pub(super) struct Origin<'a, S: Storage> {
    pub(super) top: S::Dir,
    /// As what it leaves, with its gate; none for an undo, which needs none.
    pub(super) leaving: Option<&'a SourcePart<S>>,
    /// The file system must be told of each file by itself.
    pub(super) sync_each: bool,
}

/// Where the copy is built.
pub(super) struct Copy<'a, S: Storage> {
    pub(super) branch: &'a str,
    pub(super) top: S::Dir,
    pub(super) sync_each: bool,
}

/// What became of an entry.
#[derive(Clone, Default)]
pub(super) struct Arrived {
    /// SHA-256 of a file's content or a link's text.
    pub(super) sha256: [u8; 32],
    /// The copy was compared with what its disk gives.
    pub(super) compared: bool,
    /// The copy's inode, and when it had last been read.
    pub(super) copy: Option<(Handle, Time)>,
}

/// The work on a tree.
pub(super) struct Work<'a, S: Storage> {
    pub(super) mover: &'a Mover<S>,
    /// By part; none where the tree is none.
    pub(super) origins: Vec<Option<Origin<'a, S>>>,
    pub(super) trees: Trees<'a>,
    pub(super) plan: &'a Plan,
    /// Further names of inodes: position and position of the first.
    pub(super) links: &'a [(u32, u32)],
    pub(super) copy: Option<Copy<'a, S>>,
    pub(super) progress: &'a Progress,
    /// One large file at a time: each takes memory, and threads of its own.
    pub(super) large: Mutex<()>,
}

/// The directories that one thread has open.
pub(super) struct Hands<S: Storage> {
    origins: Vec<Option<Folders<S>>>,
    copy: Option<Folders<S>>,
}

pub(super) type CopyPlace<'a, S> = Option<(Place<S>, &'a Copy<'a, S>)>;

/// An entry and where it is taken from.
struct Taken<'a, S: Storage> {
    origin: &'a Origin<'a, S>,
    tree: &'a Tree,
    node: u32,
    place: Place<S>,
}

impl<S: Storage> Work<'_, S> {
    /// Hashes or copies everything but directories.
    pub(super) fn transfer(&self) -> Result<Vec<Arrived>, CrossingError> {
        let arrived = Mutex::new(vec![Arrived::default(); self.plan.entries.len()]);
        self.each(|hands, at, entry| {
            let letter = self.plan.item(self.trees, entry)?.letter;
            if letter == b'd' || self.leader(at).is_some() {
                return Ok(());
            }
            let taken = self.taken(hands, entry)?;
            let done = if letter == b'f' {
                self.transfer_file(hands, entry, &taken)?
            } else {
                self.transfer_special(hands, entry, &taken)?
            };
            if let Some(slot) = arrived.lock().get_mut(at) {
                *slot = done;
            }
            Ok(())
        })?;
        let mut arrived = arrived.into_inner();
        for &(at, leader) in self.links {
            let first = arrived.get(leader as usize).cloned().unwrap_or_default();
            if let Some(slot) = arrived.get_mut(at as usize) {
                *slot = first;
            }
        }
        Ok(arrived)
    }

    /// Bytes of the files that are not holes, each inode once.
    pub(super) fn data_bytes(&self) -> Result<u64, CrossingError> {
        let bytes = AtomicU64::new(0);
        self.each(|hands, at, entry| {
            let letter = self.plan.item(self.trees, entry)?.letter;
            if letter != b'f' || self.leader(at).is_some() {
                return Ok(());
            }
            let storage = &*self.mover.storage;
            let place = self.taken(hands, entry)?.place;
            let file = storage
                .open_read(&place.dir, &place.name)
                .map_err(CrossingError::io("open", "the source"))?;
            bytes.fetch_add(stage::data_bytes(storage, &file)?, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(bytes.into_inner())
    }

    pub(super) fn leader(&self, at: usize) -> Option<u32> {
        let found = self.links.binary_search_by_key(&(at as u32), |(at, _)| *at).ok()?;
        self.links.get(found).map(|(_, leader)| *leader)
    }

    fn taken(&self, hands: &mut Hands<S>, entry: Planned) -> Result<Taken<'_, S>, CrossingError> {
        let part = usize::from(entry.part);
        let origin = self.origins.get(part).and_then(Option::as_ref);
        let tree = self.trees.get(part).copied().flatten();
        let folders = hands.origins.get_mut(part).and_then(Option::as_mut);
        let (Some(origin), Some(tree), Some(folders)) = (origin, tree, folders) else {
            return Err(CrossingError::SourceChanged);
        };
        let item = tree.item(entry.node)?;
        let dir = folders.open(&*self.mover.storage, &tree.dirs, item.dir)?;
        let place = Place { dir, name: item.name.to_owned() };
        Ok(Taken { origin, tree, node: entry.node, place })
    }

    /// The place of an entry's copy; none where nothing is copied.
    pub(super) fn copy_place(
        &self,
        hands: &mut Hands<S>,
        entry: Planned,
    ) -> Result<CopyPlace<'_, S>, CrossingError> {
        let (Some(copy), Some(folders)) = (&self.copy, &mut hands.copy) else { return Ok(None) };
        let name = self.plan.item(self.trees, entry)?.name.to_owned();
        let dir = folders.open(&*self.mover.storage, &self.plan.dirs, entry.dir)?;
        Ok(Some((Place { dir, name }, copy)))
    }

    fn transfer_file(
        &self,
        hands: &mut Hands<S>,
        entry: Planned,
        taken: &Taken<'_, S>,
    ) -> Result<Arrived, CrossingError> {
        let storage = &*self.mover.storage;
        let opened = self.mover.open_source(&taken.place)?;
        let found = self.mover.stat_file(&opened.file)?;
        if !taken.tree.is(taken.node, &found) && !sabotaged("copy: the file is what was walked") {
            return Err(CrossingError::SourceChanged);
        }
        let size = found.identity.size;
        let target = self.copy_place(hands, entry)?;
        let file = match &target {
            None => None,
            Some((place, copy)) => {
                Some(make_file(storage, copy.branch, place, &opened.file, size)?)
            }
        };
        let leaving = taken.origin.leaving;
        let verify = leaving.map_or(Verify::Stream, |part| part.terms.verify);
        let to = match (&target, &file) {
            (Some((_, copy)), Some(file)) => Some(CopyTo { file, branch: copy.branch, verify }),
            _ => None,
        };
        let hashed = self.pass(&opened.file, to, size)?;
        if let Some(part) = leaving {
            check_type(hashed.content_type, &part.terms)?;
            if !part.terms.checks.is_empty() {
                let staged = target.as_ref().map(|(place, _)| place);
                if let (Some(file), true) = (&file, size <= SMALL_MAX) {
                    set_len(storage, file, size)?;
                }
                let content = file.as_ref().unwrap_or(&opened.file);
                self.mover.ask_commands(part, content, staged, &self.path(entry), self.progress)?;
            }
        }
        if opened.lease.as_ref().is_some_and(|lease| !storage.lease_holds(lease)) {
            return Err(CrossingError::SourceChanged);
        }
        if taken.origin.sync_each {
            self.mover.make_durable(&opened.file)?;
        }
        let compared = hashed.compared;
        let mut arrived = Arrived { sha256: digest_of(&hashed)?, compared, copy: None };
        if let (Some((place, copy)), Some(file)) = (target, file) {
            if size <= SMALL_MAX {
                set_len(storage, &file, size)?;
            }
            let xattrs = self.xattrs(&taken.place)?;
            let with = (&xattrs, self.losses(Some(taken.origin)));
            let made = stage::dress_file(storage, (&file, &place), &found, with)?;
            arrived.copy = Some((made.identity.handle, made.atime));
            if copy.sync_each {
                self.mover.make_durable(&file)?;
            }
        }
        Ok(arrived)
    }

    pub(super) fn pass(
        &self,
        file: &S::File,
        copy: Option<CopyTo<'_, S>>,
        size: u64,
    ) -> Result<Hashed, CrossingError> {
        let _turn = (size > SMALL_MAX).then(|| self.large.lock());
        pass(&*self.mover.storage, file, copy, size, self.progress)
    }

    fn transfer_special(
        &self,
        hands: &mut Hands<S>,
        entry: Planned,
        taken: &Taken<'_, S>,
    ) -> Result<Arrived, CrossingError> {
        let storage = &*self.mover.storage;
        let found = self.look(taken)?;
        let mut arrived = Arrived::default();
        if let Some(part) = taken.origin.leaving {
            check_kind(&found.kind, &part.terms)?;
        }
        if let Kind::Symlink(text) = &found.kind {
            arrived.sha256 = stage::hash_text(text);
        }
        if let Some((place, copy)) = self.copy_place(hands, entry)? {
            storage
                .create_special(&place.dir, &place.name, &found.kind)
                .map_err(CrossingError::io("make the copy in", copy.branch))?;
            arrived.copy = Some(self.dress(taken, &place, &found)?);
            if copy.sync_each {
                storage
                    .sync_special(&place.dir, &place.name)
                    .map_err(CrossingError::io("sync", "the copy"))?;
            }
        }
        Ok(arrived)
    }

    fn look(&self, taken: &Taken<'_, S>) -> Result<Metadata, CrossingError> {
        let found = self.mover.storage.stat(&taken.place.dir, &taken.place.name);
        match found.map_err(CrossingError::io("look at", "the source"))? {
            Some(found)
                if taken.tree.is(taken.node, &found)
                    || sabotaged("copy: the entry is what was walked") =>
            {
                Ok(found)
            }
            _ => Err(CrossingError::SourceChanged),
        }
    }

    fn xattrs(&self, place: &Place<S>) -> Result<Xattrs, CrossingError> {
        self.mover
            .storage
            .xattrs(&place.dir, &place.name)
            .map_err(CrossingError::io("read the extended attributes of", "the source"))
    }

    /// META of an entry that is no regular file.
    fn dress(
        &self,
        source: &Taken<'_, S>,
        copy: &Place<S>,
        found: &Metadata,
    ) -> Result<(Handle, Time), CrossingError> {
        let storage = &*self.mover.storage;
        let xattrs = self.xattrs(&source.place)?;
        let losses = self.losses(Some(source.origin));
        stage::dress(storage, copy, found, &xattrs, losses)?;
        let made = stage::check_dress(storage, copy, found, &xattrs, losses)?;
        Ok((made.identity.handle, made.atime))
    }

    pub(super) fn losses<'b>(&'b self, origin: Option<&'b Origin<'_, S>>) -> Losses<'b> {
        let leaving = origin.and_then(|origin| origin.leaving);
        Losses { lossy: leaving.map(|part| &part.terms.lossy), progress: self.progress }
    }

    /// Makes the directories of the copy, which are empty and closed to others.
    pub(super) fn make_directories(&self, copy: &S::Dir) -> Result<(), CrossingError> {
        let storage = &*self.mover.storage;
        let dirs = &self.plan.dirs;
        let mut folders = Folders::<S>::new(copy.clone());
        for number in 1..dirs.len() {
            self.progress.check_cancel()?;
            let parent = folders.open(storage, dirs, dirs.parent(number))?;
            storage
                .create_dir(&parent, dirs.name(number))
                .map_err(entry_error("make", &dirs.path(number)))?;
        }
        Ok(())
    }

    /// Gives the copies of files with several names the others of these.
    pub(super) fn make_links(&self, copy: &S::Dir) -> Result<(), CrossingError> {
        let storage = &*self.mover.storage;
        let mut folders = Folders::<S>::new(copy.clone());
        let mut place = |at: u32| {
            let entry = self.plan.entries.get(at as usize).ok_or(CrossingError::SourceChanged)?;
            let name = self.plan.item(self.trees, *entry)?.name;
            Ok::<_, CrossingError>((folders.open(storage, &self.plan.dirs, entry.dir)?, name))
        };
        for &(at, leader) in self.links {
            self.progress.check_cancel()?;
            let ((from, old), (to, new)) = (place(leader)?, place(at)?);
            storage.link(&from, old, &to, new).map_err(CrossingError::io("link", new.display()))?;
        }
        Ok(())
    }

    /// META of the directories, after all that they hold: from the last up to the top's own.
    pub(super) fn dress_directories(
        &self,
        copy: &S::Dir,
        arrived: &mut [Arrived],
    ) -> Result<(), CrossingError> {
        let mut hands = self.hands();
        let mut folders = Folders::<S>::new(copy.clone());
        let mut number = self.plan.dirs.len();
        for (entry, arrived) in self.plan.entries.iter().zip(arrived).rev() {
            if self.plan.item(self.trees, *entry)?.letter != b'd' {
                continue;
            }
            self.progress.check_cancel()?;
            let taken = self.taken(&mut hands, *entry)?;
            let mut found = self.look(&taken)?;
            let atime = taken.tree.number_of(entry.node).and_then(|dir| taken.tree.atime(dir));
            found.atime = atime.unwrap_or(found.atime);
            let dir = folders.open(&*self.mover.storage, &self.plan.dirs, entry.dir)?;
            let place = Place { dir, name: taken.place.name.clone() };
            number = number.checked_sub(1).ok_or(CrossingError::SourceChanged)?;
            let changed = self.plan.changed(self.trees, number)?;
            found.identity.mtime = changed.unwrap_or(found.identity.mtime);
            let made = match &self.copy {
                Some(copy) if copy.sync_each => {
                    Some(folders.open(&*self.mover.storage, &self.plan.dirs, number)?)
                }
                _ => None,
            };
            arrived.copy = Some(self.dress(&taken, &place, &found)?);
            if let Some(made) = made {
                self.sync_dir(&made)?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &S::Dir) -> Result<(), CrossingError> {
        self.mover.storage.sync_dir(dir).map_err(CrossingError::io("sync", "a folder of the copy"))
    }

    fn hands(&self) -> Hands<S> {
        Hands {
            origins: self
                .origins
                .iter()
                .map(|origin| origin.as_ref().map(|origin| Folders::new(origin.top.clone())))
                .collect(),
            copy: self.copy.as_ref().map(|copy| Folders::new(copy.top.clone())),
        }
    }

    /// Does something for every entry; what fails names its path.
    pub(super) fn each(
        &self,
        work: impl Fn(&mut Hands<S>, usize, Planned) -> Result<(), CrossingError> + Sync,
    ) -> Result<(), CrossingError> {
        self.progress.files.store(0, Ordering::Relaxed);
        in_parallel(
            self.plan.entries.len(),
            self.pieces(),
            || self.hands(),
            |hands, at| {
                self.progress.check_cancel()?;
                let Some(&entry) = self.plan.entries.get(at) else { return Ok(()) };
                work(hands, at, entry).map_err(|why| why.at(|| self.path(entry)))?;
                self.progress.files.fetch_add(1, Ordering::Relaxed);
                Ok(())
            },
        )
    }

    /// Commands take longer than all the rest.
    fn pieces(&self) -> Pieces {
        let asks = |origin: &Origin<'_, S>| {
            origin.leaving.is_some_and(|part| !part.terms.checks.is_empty())
        };
        if self.origins.iter().flatten().any(asks) { Pieces::Large } else { Pieces::Small }
    }

    fn path(&self, entry: Planned) -> PathBuf {
        let item = self.plan.item(self.trees, entry);
        let name = item.map_or(Path::new(""), |item| Path::new(item.name));
        self.plan.dirs.path(entry.dir).join(name)
    }
}

pub(super) fn digest_of(hashed: &Hashed) -> Result<[u8; 32], CrossingError> {
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hashed.sha256.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16)
            .map_err(|_| CrossingError::io("understand", "a hash")(Errno::INVAL))?;
    }
    Ok(bytes)
}

fn set_len<S: Storage>(storage: &S, file: &S::File, size: u64) -> Result<(), CrossingError> {
    storage.set_len(file, size).map_err(CrossingError::io("write", "the copy"))
}

fn make_file<S: Storage>(
    storage: &S,
    branch: &str,
    place: &Place<S>,
    source: &S::File,
    size: u64,
) -> Result<S::File, CrossingError> {
    let file = storage
        .create_file(&place.dir, &place.name)
        .map_err(CrossingError::io("make the copy in", branch))?;
    if size > SMALL_MAX {
        let data = stage::data_bytes(storage, source)?;
        // Room for the whole length would fill the holes.
        let room = if data >= size { storage.reserve(&file, size) } else { Ok(()) };
        room.and_then(|()| storage.set_len(&file, size))
            .map_err(CrossingError::io("make room in", branch))?;
    }
    Ok(file)
}
