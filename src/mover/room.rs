//! Hold costs space: what it takes, how much it may take (`hold.max`), and what goes first when space runs
//! short. Oldest first, recorded before anything is deleted; never what an open transaction, a dead
//! letter or an undo needs.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::CrossingError;
use super::purge::Purged;
use super::tree::{Dirs, Folders};
use super::{Mover, MoverBranch, Transaction};
use crate::branch::SpaceLimit;
use crate::error::Errno;
use crate::ledger::record::{Area, CrossingRecord, Spot};
use crate::storage::{Kind, Storage};
use crate::types::{BranchIndex, BranchUuid, TxId};

/// What hold takes, as of the last look.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that each transaction keeps, by branch.
    kept: Mutex<HashMap<TxId, HashMap<BranchUuid, u64>>>,
    /// Bytes that would be free if all of hold that may go went, by branch.
    freeable: Vec<AtomicU64>,
    /// Bytes that were free in each branch.
    free: Mutex<HashMap<BranchIndex, u64>>,
    /// Two that run short of one branch at a time must not both take what one purge frees. One for each
    /// branch: a disk that hangs keeps no other waiting.
    making: Vec<Mutex<()>>,
}

impl Room {
    pub(super) fn new(branches: usize) -> Self {
        Self {
            freeable: std::iter::repeat_with(AtomicU64::default).take(branches).collect(),
            making: std::iter::repeat_with(Mutex::default).take(branches).collect(),
            ..Self::default()
        }
    }
}

/// A transaction that keeps something in hold and needs none of it.
struct Purgeable {
    txid: TxId,
    held: Vec<Spot>,
}

fn has_hold(found: &Transaction) -> bool {
    found.is_kept() && found.undone_by.is_none()
}

fn held(record: &CrossingRecord) -> Vec<Spot> {
    let ends = record.moves.iter().map(|step| &step.to);
    ends.filter(|to| to.area == Area::Hold).cloned().collect()
}

impl<S: Storage> Mover<S> {
    /// To be called about once a second, by a thread that only this branch may keep waiting: empties its hold of
    /// what exceeds `max`, and of what would leave less than its `min_free`, with what was used since
    /// the last call on top, so that purging runs ahead.
    pub fn tend_branch(&self, index: BranchIndex, max: SpaceLimit) -> Purged {
        let Ok(branch) = self.branch(index) else { return Purged::default() };
        self.measure(&branch);
        let mut purged = self.keep_below(&branch, max);
        purged.add(self.run_ahead(&branch));
        self.count_freeable();
        if purged.failed > 0 {
            log::warn!("branch {}: hold cannot be emptied: the ledger is full", branch.name);
        }
        purged
    }

    /// Purges, oldest first, until an ordinary user, `uid`, can write `bytes` in a branch beside its `min_free`.
    /// Whether that was made, also by another meanwhile; nothing is purged where space is not what is missing, nor
    /// where all of hold would not be enough.
    pub fn make_room(&self, index: BranchIndex, bytes: u64, uid: u32) -> bool {
        let Ok(branch) = self.branch(index) else { return false };
        let needed = bytes.saturating_add(branch.min_free);
        let made = self.free_up(&branch, needed, Some(uid));
        self.count_freeable();
        made.is_some()
    }

    /// Bytes on the file system of a branch that hold would give back, as of a moment ago.
    pub fn freeable(&self, index: BranchIndex) -> u64 {
        let found = self.room.freeable.get(usize::from(index.0));
        found.map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }

    fn run_ahead(&self, branch: &MoverBranch<S>) -> Purged {
        let Ok(free) = self.storage.free_space(&branch.hold) else { return Purged::default() };
        let before = self.room.free.lock().insert(branch.index, free).unwrap_or(free);
        let used = before.saturating_sub(free);
        self.free_up(branch, branch.min_free.saturating_add(used), None).unwrap_or_default()
    }

    /// Purges until so much is free on the file system of a branch; as far as it goes for nobody in particular,
    /// for a user, `uid`, all that is needed or nothing. `None`: there is not enough.
    fn free_up(&self, branch: &MoverBranch<S>, needed: u64, uid: Option<u32>) -> Option<Purged> {
        let missing = || {
            let free = self.storage.free_space(&branch.hold).unwrap_or(u64::MAX);
            needed.saturating_sub(free)
        };
        let mut purged = Purged::default();
        if missing() == 0 {
            return uid.is_none().then_some(purged);
        }
        let _making = self.room.making.get(usize::from(branch.index.0)).map(Mutex::lock);
        let short = missing();
        if short == 0 {
            return Some(purged);
        }
        let on_it = self.on_disk_of(branch)?;
        on_it.iter().for_each(|branch| self.measure(branch));
        let on_it: HashSet<BranchUuid> = on_it.iter().map(|branch| branch.uuid).collect();
        let bytes_of = |txid: TxId| {
            let kept = self.room.kept.lock();
            let here = kept.get(&txid).into_iter().flatten();
            let here = here.filter(|(branch, _)| on_it.contains(branch));
            here.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
        };
        let all = self.purgeable(&|spot: &Spot| on_it.contains(&spot.branch));
        let sum = all.iter().fold(0_u64, |sum, one| sum.saturating_add(bytes_of(one.txid)));
        if uid.is_some() && sum < short {
            return None;
        }
        let mut reason = format!("branch {} runs short of space", branch.name);
        if let Some(uid) = uid {
            reason.push_str(&format!(" for user {uid}"));
        }
        // Some file systems give back what was removed a while later, so what it took counts.
        let mut freed = 0_u64;
        for due in all {
            let bytes = bytes_of(due.txid);
            let failed = purged.failed;
            self.purge_held(due.txid, &due.held, reason.clone(), &mut purged);
            if purged.failed == failed {
                freed = freed.saturating_add(bytes);
            }
            if freed >= short || missing() == 0 {
                return Some(purged);
            }
        }
        uid.is_none().then_some(purged)
    }

    /// The branches on the same file system, itself included.
    fn on_disk_of(&self, branch: &MoverBranch<S>) -> Option<Vec<Arc<MoverBranch<S>>>> {
        let wanted = self.storage.file_system(&branch.hold).ok()?;
        let on_it = self.online().filter(|branch| {
            let found = self.storage.file_system(&branch.hold);
            found.is_ok_and(|found| found.device == wanted.device)
        });
        Some(on_it.collect())
    }

    fn keep_below(&self, branch: &MoverBranch<S>, max: SpaceLimit) -> Purged {
        let mut purged = Purged::default();
        let Ok(found) = self.storage.file_system(&branch.hold) else { return purged };
        let max = max.of(found.size);
        let kept = |room: &Room| {
            let kept = room.kept.lock();
            let here = kept.values().filter_map(|kept| kept.get(&branch.uuid));
            here.fold(0_u64, |sum, bytes| sum.saturating_add(*bytes))
        };
        if kept(&self.room) <= max {
            return purged;
        }
        for due in self.purgeable(&|spot| spot.branch == branch.uuid) {
            let reason = format!("hold.max of branch {}", branch.name);
            self.purge_held(due.txid, &due.held, reason, &mut purged);
            if kept(&self.room) <= max {
                break;
            }
        }
        purged
    }

    /// Those that keep something where `here` says, oldest first. What was undone went back.
    fn purgeable(&self, here: &dyn Fn(&Spot) -> bool) -> Vec<Purgeable> {
        self.with_journal(|journal| {
            let kept = journal.iter().filter(|(_, found)| has_hold(found));
            let kept = kept.map(|(txid, found)| Purgeable { txid, held: held(&found.record) });
            kept.filter(|one| one.held.iter().any(here)).collect()
        })
    }

    /// Forgets what a transaction keeps.
    pub(super) fn released(&self, txid: TxId) {
        self.room.kept.lock().remove(&txid);
    }

    /// Measures what has come to the hold of a branch since the last call, and forgets what has gone.
    fn measure(&self, branch: &MoverBranch<S>) {
        let known: HashSet<TxId> = {
            let kept = self.room.kept.lock();
            let here = kept.iter().filter(|(_, kept)| kept.contains_key(&branch.uuid));
            here.map(|(txid, _)| *txid).collect()
        };
        let (new, gone) = self.with_journal(|journal| {
            let new =
                journal.iter().filter(|(txid, found)| has_hold(found) && !known.contains(txid));
            let new = new.map(|(txid, found)| Purgeable { txid, held: held(&found.record) });
            let new = new.filter(|one| one.held.iter().any(|spot| spot.branch == branch.uuid));
            let new: Vec<_> = new.collect();
            let gone = |txid: &&TxId| !journal.get(**txid).is_some_and(has_hold);
            (new, known.iter().filter(gone).copied().collect::<Vec<_>>())
        });
        gone.into_iter().for_each(|txid| self.released(txid));
        for one in new {
            let here = one.held.iter().filter(|spot| spot.branch == branch.uuid);
            let bytes = here.map(|spot| self.bytes_in(&branch.hold, &spot.path).unwrap_or(0));
            let bytes = bytes.fold(0_u64, u64::saturating_add);
            self.room.kept.lock().entry(one.txid).or_default().insert(branch.uuid, bytes);
        }
    }

    /// Bytes of disk that a name in hold and all below it take.
    fn bytes_in(&self, hold: &S::Dir, name: &Path) -> Result<u64, CrossingError> {
        let storage = &*self.storage;
        let error = || CrossingError::io("measure", name.display());
        let mut sum = storage.disk_bytes(hold, name.as_os_str()).map_err(error())?;
        let top = match storage.open_dir(hold, name) {
            Ok(top) => top,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(sum),
            Err(errno) => return Err(error()(errno)),
        };
        let mut dirs = Dirs::new();
        let mut folders = Folders::<S>::new(top);
        let mut number = 0;
        while number < dirs.len() {
            let here = folders.open(storage, &dirs, number)?;
            for name in storage.list(&here).map_err(error())? {
                let bytes = storage.disk_bytes(&here, &name).map_err(error())?;
                sum = sum.saturating_add(bytes);
                let found = storage.stat(&here, &name).map_err(error())?;
                if found.is_some_and(|found| found.kind == Kind::Directory) {
                    dirs.push(number, &name)?;
                }
            }
            number = number.saturating_add(1);
        }
        Ok(sum)
    }

    fn count_freeable(&self) {
        let mut sums: HashMap<BranchUuid, u64> = HashMap::new();
        let needed: Vec<TxId> = self.with_journal(|journal| {
            let undone = journal.iter().filter(|(_, found)| found.keeps_all());
            undone.filter_map(|(_, found)| found.record.undoes).collect()
        });
        for (txid, kept) in &*self.room.kept.lock() {
            for (branch, bytes) in kept.iter().filter(|_| !needed.contains(txid)) {
                let sum = sums.entry(*branch).or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
        for branch in self.online() {
            if let Some(freeable) = self.room.freeable.get(usize::from(branch.index.0)) {
                freeable.store(sums.get(&branch.uuid).copied().unwrap_or(0), Ordering::Relaxed);
            }
        }
    }
}
