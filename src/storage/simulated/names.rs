//! Directory entries: as programs see them, as the disk has them, and the changes between.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::Names;
use super::random::Random;

/// A directory's inode number and a name in it.
pub(super) type Key = (u64, OsString);

/// A change of entries that survives whole or not at all.
#[derive(Debug, Clone)]
struct Change {
    id: u64,
    device: usize,
    entries: Vec<(Key, Option<u64>)>,
    /// A change that the disk has whenever it has this one.
    needs: Option<u64>,
    /// Whether a directory gets another place by it.
    moves_directory: bool,
    /// A sync of it failed; later syncs do not write it.
    stuck: bool,
}

/// What names stand for, by directory. A copy shares the directories until one of them changes.
#[derive(Debug, Clone, Default)]
struct Directories(BTreeMap<u64, Arc<BTreeMap<OsString, u64>>>);

impl Directories {
    fn get(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.0.get(&directory)?.get(name).copied()
    }

    fn names_in(&self, directory: u64) -> impl Iterator<Item = (&OsString, u64)> {
        let names = self.0.get(&directory).into_iter().flat_map(|names| names.iter());
        names.map(|(name, inode)| (name, *inode))
    }

    /// Gives what the name stood for.
    fn set(&mut self, (directory, name): &Key, inode: Option<u64>) -> Option<u64> {
        let names = Arc::make_mut(self.0.entry(*directory).or_default());
        match inode {
            Some(inode) => names.insert(name.clone(), inode),
            None => names.remove(name),
        }
    }
}

/// All entries of all devices.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    cached: Directories,
    durable: Directories,
    pending: Vec<Change>,
    next_id: u64,
    /// How many names each inode has in `cached`; absent for none.
    links: BTreeMap<u64, u64>,
}

impl Entries {
    pub(super) fn get(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.cached.get(directory, name)
    }

    pub(super) fn list(&self, directory: u64) -> Vec<OsString> {
        self.cached.names_in(directory).map(|(name, _)| name.clone()).collect()
    }

    /// The names in a directory and what they stand for.
    #[cfg(test)]
    pub(super) fn named_in(&self, directory: u64) -> impl Iterator<Item = (&OsString, u64)> {
        self.cached.names_in(directory)
    }

    /// Number of names of an inode.
    pub(super) fn links(&self, inode: u64) -> u64 {
        self.links.get(&inode).copied().unwrap_or(0)
    }

    /// What the names in a directory stand for.
    pub(super) fn inodes_in(&self, directory: u64) -> impl Iterator<Item = u64> {
        self.cached.names_in(directory).map(|(_, inode)| inode)
    }

    /// Whether `inode` is `directory` or below it.
    pub(super) fn is_within(&self, inode: u64, directory: u64) -> bool {
        self.reachable([directory]).contains(&inode)
    }

    /// All inodes that a name below one of `roots` leads to, and the roots.
    pub(super) fn reachable(&self, roots: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut open: Vec<u64> = roots.into_iter().collect();
        while let Some(inode) = open.pop() {
            if found.insert(inode) {
                open.extend(self.inodes_in(inode));
            }
        }
        found
    }

    /// Drops the names in directories that nothing leads to.
    pub(super) fn retain_in(&mut self, directories: &BTreeSet<u64>) {
        self.cached.0.retain(|directory, _| directories.contains(directory));
        self.durable = self.cached.clone();
        self.links.clear();
        for inode in self.cached.0.values().flat_map(|names| names.values()) {
            *self.links.entry(*inode).or_default() += 1;
        }
    }

    fn set_cached(&mut self, key: &Key, inode: Option<u64>) {
        if let Some(inode) = inode {
            *self.links.entry(inode).or_default() += 1;
        }
        let before = self.cached.set(key, inode);
        if let Some(count) = before.and_then(|before| self.links.get_mut(&before)) {
            *count -= 1;
        }
    }

    fn push(&mut self, device: usize, entries: Vec<(Key, Option<u64>)>, needs: Option<u64>) -> u64 {
        for (key, inode) in &entries {
            self.set_cached(key, *inode);
        }
        let id = self.next_id;
        self.next_id += 1;
        let (moves_directory, stuck) = (false, false);
        self.pending.push(Change { id, device, entries, needs, moves_directory, stuck });
        id
    }

    /// One entry appears or disappears.
    pub(super) fn set(&mut self, device: usize, key: Key, inode: Option<u64>) {
        self.push(device, vec![(key, inode)], None);
    }

    /// A directory gets another place: always one change, for no file system lets a directory have
    /// two names, and after all earlier ones, for none lets directories form a ring.
    pub(super) fn rename_directory(&mut self, device: usize, from: Key, to: Key, inode: u64) {
        let moves_one = |change: &&Change| change.moves_directory && change.device == device;
        let needs = self.pending.iter().rfind(moves_one).map(|change| change.id);
        self.push(device, vec![(from, None), (to, Some(inode))], needs);
        if let Some(change) = self.pending.last_mut() {
            change.moves_directory = true;
        }
    }

    /// The entry of a file gets another place. In one directory, or with a journal, that is one
    /// change; else the disk may have the new name before the old one is gone, but never neither.
    pub(super) fn rename(&mut self, device: usize, names: Names, from: Key, to: Key, inode: u64) {
        if names == Names::Journal || from.0 == to.0 {
            self.push(device, vec![(from, None), (to, Some(inode))], None);
        } else {
            let appears = self.push(device, vec![(to, Some(inode))], None);
            self.push(device, vec![(from, None)], Some(appears));
        }
    }

    /// Makes changes durable: with a journal all of the device, else those of one directory.
    pub(super) fn sync(&mut self, device: usize, names: Names, directory: Option<u64>) {
        let wanted = |change: &Change| {
            !change.stuck
                && change.device == device
                && match names {
                    Names::Journal => true,
                    Names::Independent | Names::Separate => {
                        change.entries.iter().any(|(key, _)| Some(key.0) == directory)
                    }
                }
        };
        let keep: BTreeSet<u64> =
            self.pending.iter().filter(|change| wanted(change)).map(|change| change.id).collect();
        self.apply(keep, names != Names::Separate);
    }

    /// Makes all changes of a device durable.
    pub(super) fn sync_device(&mut self, device: usize) {
        let wanted = |change: &&Change| !change.stuck && change.device == device;
        let keep = self.pending.iter().filter(wanted).map(|change| change.id).collect();
        self.apply(keep, true);
    }

    /// As `fail_sync`, of a whole device.
    pub(super) fn fail_sync_device(&mut self, device: usize) {
        for change in self.pending.iter_mut().filter(|change| change.device == device) {
            change.stuck = true;
        }
    }

    /// A sync that failed: what it should have written stays unsure for good.
    pub(super) fn fail_sync(&mut self, directory: u64) {
        for change in &mut self.pending {
            change.stuck |= change.entries.iter().any(|(key, _)| key.0 == directory);
        }
    }

    /// Writes the chosen changes and all that they build on: earlier changes of the same name, and,
    /// `with_needs`, what a change needs.
    fn apply(&mut self, mut keep: BTreeSet<u64>, with_needs: bool) {
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for change in self.pending.iter().rev() {
            let built_on = change.entries.iter().any(|(key, _)| keys.contains(key));
            if built_on || keep.contains(&change.id) {
                keep.insert(change.id);
                keep.extend(change.needs.filter(|_| with_needs));
                keys.extend(change.entries.iter().map(|(key, _)| key.clone()));
            }
        }
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            if !keep.contains(&change.id) {
                return true;
            }
            for (key, inode) in &change.entries {
                durable.set(key, *inode);
            }
            false
        });
    }

    /// The entries as they are found after power loss.
    pub(super) fn crash(&self, random: &mut Random, names: Names) -> Self {
        let mut after = Self {
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            next_id: self.next_id,
            ..Self::default()
        };
        let keep = match names {
            Names::Journal => {
                // Each device has a journal of its own, and of each a beginning survives.
                let mut keep = BTreeSet::new();
                let devices: BTreeSet<usize> = self.pending.iter().map(|c| c.device).collect();
                for device in devices {
                    let mine: Vec<u64> =
                        self.pending.iter().filter(|c| c.device == device).map(|c| c.id).collect();
                    let survive = random.below(mine.len() as u64 + 1) as usize;
                    keep.extend(&mine[..survive]);
                }
                keep
            }
            Names::Independent | Names::Separate => {
                self.pending.iter().filter(|_| random.flip()).map(|change| change.id).collect()
            }
        };
        after.apply(keep, true);
        after.pending.clear();
        after.cached = after.durable.clone();
        after
    }
}
