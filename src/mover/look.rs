//! The looks and the syncs that every kind of transaction takes before it is decided.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::CrossingError;
use super::moves::Place;
use super::prepare::Prepared;
use super::sabotage::sabotaged;
use super::tree::entry_error;
use super::{Mover, Name};
use crate::error::{Errno, errno_name};
use crate::storage::{Kind, Metadata, Storage, Xattrs};
use crate::types::{BranchIndex, after};

/// How long a crossing waits for writers to close the source: RELEASE is asynchronous, so a shell's
/// `echo >f; mv f elsewhere` arrives while the daemon still has the file open.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// Between two tries to get the lease.
const LEASE_RETRY: Duration = Duration::from_millis(10);

/// A regular file that is open for hashing, and the lease on it.
pub(super) struct Opened<S: Storage> {
    pub(super) file: S::File,
    pub(super) lease: Option<S::Lease>,
}

impl<S: Storage> Mover<S> {
    pub(super) fn look_at_source(&self, place: &Place<S>) -> Result<Metadata, CrossingError> {
        let found = self
            .storage
            .stat(&place.dir, &place.name)
            .map_err(CrossingError::io("look at", "the source"))?
            .ok_or(CrossingError::SourceGone)?;
        let linked = found.nlink > 1 && !sabotaged("look: no other links");
        if linked && found.kind != Kind::Directory {
            let path = PathBuf::from(&place.name);
            return Err(CrossingError::HardLinked { path, links: found.nlink, inside: 1 });
        }
        if found.fixed {
            return Err(CrossingError::Fixed { path: PathBuf::from(&place.name) });
        }
        Ok(found)
    }

    /// Whether a branch can give and take: its file system may have become read-only. Before the decision
    /// that is an error, after it something to put back.
    pub(super) fn check_writable(&self, branch: BranchIndex) -> Result<(), CrossingError> {
        let branch = self.branch(branch)?;
        let read_only = self
            .storage
            .is_read_only(&branch.root)
            .map_err(CrossingError::io("ask for the state of", &branch.name))?;
        match read_only {
            true => Err(CrossingError::ReadOnly { branch: branch.name.clone() }),
            false => Ok(()),
        }
    }

    /// What stands at a target's name, if something of the kind `arriving` may replace it.
    pub(super) fn look_at_target(
        &self,
        place: &Place<S>,
        arriving: &Kind,
        no_replace: bool,
    ) -> Result<Option<Metadata>, CrossingError> {
        let found = self
            .storage
            .stat(&place.dir, &place.name)
            .map_err(CrossingError::io("look at", "the target"))?;
        let Some(found) = found else { return Ok(None) };
        match (&found.kind, arriving) {
            _ if no_replace => return Err(CrossingError::TargetExists),
            (Kind::Directory, Kind::Directory) => {
                let names = self
                    .open_at(place)
                    .and_then(|dir| self.storage.list(&dir))
                    .map_err(CrossingError::io("list", "the target"))?;
                if !names.is_empty() && !sabotaged("look: the target is empty") {
                    return Err(CrossingError::TargetNotEmpty);
                }
            }
            (Kind::Directory, _) => return Err(CrossingError::TargetIsDirectory),
            (_, Kind::Directory) => return Err(CrossingError::TargetIsNotDirectory),
            _ => {}
        }
        Ok(Some(found))
    }

    pub(super) fn open_at(&self, place: &Place<S>) -> Result<S::Dir, Errno> {
        self.storage.open_dir(&place.dir, Path::new(&place.name))
    }

    /// Opens for reading and takes the lease.
    pub(super) fn open_source(&self, place: &Place<S>) -> Result<Opened<S>, CrossingError> {
        let file = self
            .storage
            .open_read(&place.dir, &place.name)
            .map_err(CrossingError::io("open", "the source"))?;
        let deadline = after(Instant::now(), LEASE_WAIT);
        loop {
            match self.storage.lease(&file) {
                Ok(lease) => return Ok(Opened { file, lease }),
                Err(Errno::AGAIN) if Instant::now() < deadline => sleep(LEASE_RETRY),
                Err(Errno::AGAIN) => return Err(CrossingError::SourceBusy),
                Err(errno) => return Err(CrossingError::io("lease", "the source")(errno)),
            }
        }
    }

    pub(super) fn stat_file(&self, file: &S::File) -> Result<Metadata, CrossingError> {
        self.storage.stat_file(file).map_err(CrossingError::io("look at", "the source"))
    }

    /// Invariant 2. A sync that fails is never tried again.
    pub(super) fn make_durable(&self, file: &S::File) -> Result<(), CrossingError> {
        self.storage.sync_file(file).map_err(CrossingError::io("sync", "the content"))
    }

    pub(super) fn source_xattrs(&self, source: &Name<S>) -> Result<Xattrs, CrossingError> {
        self.storage
            .xattrs(&source.parent, &source.name)
            .map_err(CrossingError::io("read the extended attributes of", "the source"))
    }

    /// Every part's name must still lead to the inode that was hashed, unchanged in every respect, and
    /// so must every name below it.
    pub(super) fn check_sources(&self, prepared: &Prepared<S>) -> Result<(), CrossingError> {
        for part in &prepared.parts {
            let place = &part.at.1;
            let found = self.look_at_source(place)?;
            let leased = part.lease.as_ref().is_none_or(|lease| self.storage.lease_holds(lease));
            let leased = leased || sabotaged("look: lease");
            let same = found.identity == part.found.identity || sabotaged("look: identity");
            if !leased || !same {
                return Err(CrossingError::SourceChanged);
            }
            if let Some(tree) = part.tree.as_ref().filter(|_| !sabotaged("look: tree")) {
                let top = self.open_at(place).map_err(entry_error("open", Path::new("")))?;
                tree.check(&*self.storage, &top)?;
            }
        }
        Ok(())
    }

    /// Names and the folders above them may be new and not durable: after a crash nobody could tell
    /// where an inode was.
    pub(super) fn sync_ways_to<'a>(
        &self,
        names: impl Iterator<Item = (BranchIndex, &'a Path)>,
    ) -> Result<(), CrossingError> {
        let mut synced = HashSet::new();
        for (branch, path) in names {
            let mut dir = self.branch(branch)?.root.clone();
            let mut way = PathBuf::new();
            let folder = path.parent().unwrap_or(Path::new(""));
            // The root, then each folder on the way.
            for step in [None].into_iter().chain(folder.iter().map(Some)) {
                if let Some(step) = step {
                    way.push(step);
                    dir = self
                        .storage
                        .open_dir(&dir, Path::new(step))
                        .map_err(CrossingError::io("open the folder of", path.display()))?;
                }
                if synced.insert((branch, way.clone())) {
                    self.storage
                        .sync_dir(&dir)
                        .map_err(CrossingError::io("sync the folder of", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a rename leads from one branch to the other, tried once between their stages.
    pub(super) fn same_filesystem(
        &self,
        source: &Name<S>,
        target: &Name<S>,
    ) -> Result<bool, CrossingError> {
        let (source, target) = (self.branch(source.branch)?, self.branch(target.branch)?);
        let pair: (BranchIndex, BranchIndex) = (source.index, target.index);
        if let Some(&known) = self.same_filesystem.lock().get(&pair) {
            return Ok(known);
        }
        let storage = &*self.storage;
        // Not that of a transaction, of which a copy might be kept.
        let name = format!("probe-{}", ulid::Ulid::generate());
        let name = std::ffi::OsStr::new(&name);
        let probe = CrossingError::io("probe the stage of", &source.name);
        if let Err(errno) = storage.create_special(&source.stage, name, &Kind::Fifo) {
            return Err(probe(errno));
        }
        let renamed = storage.rename(&source.stage, name, &target.stage, name);
        let at = if renamed.is_ok() { &target.stage } else { &source.stage };
        if let Err(errno) = storage.unlink(at, name) {
            log::warn!("a probe stays in stage until the next start: {}", errno_name(errno));
        }
        let same = match renamed {
            Ok(()) => true,
            Err(Errno::XDEV) => false,
            Err(errno) => return Err(probe(errno)),
        };
        self.same_filesystem.lock().insert(pair, same);
        Ok(same)
    }
}
