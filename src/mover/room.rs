//! Hold costs space: what it takes, how much it may take (`hold.max`), and what goes first when space runs
//! short. Oldest first, recorded before anything is deleted; never what an open transaction, a dead
//! letter or an undo needs.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::CrossingError;
use super::making::Making;
use super::purge::{Purged, held};
use super::tree::{Dirs, Folders};
use super::{Mover, MoverBranch, Transaction};
use crate::branch::SpaceLimit;
use crate::error::Errno;
use crate::ledger::record::Spot;
use crate::storage::{Kind, Storage};
use crate::types::{BranchIndex, BranchUuid, TxId};

/// How long to wait for others before looking again; they tell when they go on.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(1);

/// How long none of them may go on before there is no space: what they purge may be on a disk that hangs too.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// How long a look at a branch empties its hold of what is old: whoever does also sees whether the branch is there.
const PURGE_TIME: Duration = Duration::from_secs(1);

/// What hold takes, as of the last look.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that each transaction keeps, by branch.
    pub(super) kept: Mutex<HashMap<TxId, HashMap<BranchUuid, u64>>>,
    /// Bytes that would be free if all of hold that may go went, by branch.
    freeable: Vec<AtomicU64>,
    /// Bytes that were free in each branch.
    free: Mutex<HashMap<BranchIndex, u64>>,
    /// The number of each branch's file system, as it told last.
    devices: Vec<Mutex<Option<u64>>>,
    /// By file system. Held for choosing only, never over a step of storage or ledger: a disk that hangs
    /// keeps no other waiting.
    pub(super) making: Mutex<HashMap<u64, Making>>,
    /// One of those in `making` has gone on.
    pub(super) made: Condvar,
}

/// What one of them has chosen. Dropped, it wants nothing any more.
struct Claim<'a> {
    room: &'a Room,
    device: u64,
    bytes: u64,
    /// What must be given back, beside what others give up.
    short: u64,
    chosen: Vec<(Purgeable, u64)>,
    /// How many of these, from the first on, were purged, or are not to be.
    done: Cell<usize>,
}

enum Claimed<'a> {
    This(Claim<'a>),
    /// Others give up all there is; one of them has gone on.
    Others,
}

impl Claim<'_> {
    /// The next was purged, or is not to be.
    fn gone(&self, txid: TxId) {
        self.done.set(self.done.get().saturating_add(1));
        self.room.making.lock().entry(self.device).or_default().gone(txid);
        self.room.made.notify_all();
    }

    /// Bytes that others want.
    fn of_others(&self) -> u64 {
        let making = self.room.making.lock();
        making.get(&self.device).map_or(0, |at_it| at_it.wanted.saturating_sub(self.bytes))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut making = self.room.making.lock();
        let at_it = making.entry(self.device).or_default();
        at_it.wanted = at_it.wanted.saturating_sub(self.bytes);
        let left = self.chosen.iter().skip(self.done.get());
        left.for_each(|(one, _)| at_it.gone(one.txid));
        drop(making);
        self.room.made.notify_all();
    }
}

impl Room {
    pub(super) fn new(branches: usize) -> Self {
        Self {
            freeable: std::iter::repeat_with(AtomicU64::default).take(branches).collect(),
            devices: std::iter::repeat_with(Mutex::default).take(branches).collect(),
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

impl<S: Storage> Mover<S> {
    /// To be called about once a second, by a thread that only this branch may keep waiting: empties its hold of
    /// what is older than `keep`, of what exceeds `max`, and of what would leave less than its `min_free`, with
    /// what was used since the last call on top, so that purging runs ahead.
    pub fn tend_branch(
        &self,
        index: BranchIndex,
        max: SpaceLimit,
        now: jiff::Timestamp,
        keep: Duration,
    ) -> Purged {
        let Ok(branch) = self.branch(index) else { return Purged::default() };
        self.device_of(&branch);
        self.remove_going(&branch);
        self.sweep_late(&branch);
        self.measure(&branch);
        let mut purged = self.purge_old(&branch, now, (keep, PURGE_TIME));
        purged.add(self.keep_below(&branch, max));
        purged.add(self.run_ahead(&branch));
        self.count_freeable();
        if purged.failed > 0 {
            log::warn!("branch {}: hold cannot be emptied: the ledger is full", branch.name);
        }
        purged
    }

    /// To be called by the same thread when it ends: removes what is recorded to go.
    pub fn finish_branch(&self, index: BranchIndex) {
        if let Ok(branch) = self.branch(index) {
            self.remove_going(&branch);
            self.sweep_late(&branch);
        }
    }

    /// Purges, oldest first, until an ordinary user, `uid`, can write `bytes` in a branch beside its `min_free`.
    /// What it purged, if that is so now, by whomever it was made: then it is worth trying once more. Nothing is
    /// purged where space is not what is missing, nor where all of hold would not be enough.
    pub fn make_room(&self, index: BranchIndex, bytes: u64, uid: u32) -> Option<Purged> {
        let branch = self.branch(index).ok()?;
        let made = self.free_up(&branch, bytes, Some(uid));
        self.count_freeable();
        made
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
        self.free_up(branch, used, None).unwrap_or_default()
    }

    /// Purges until so much is free on the file system of a branch beside its `min_free`; as far as it goes for
    /// nobody in particular, for a user, `uid`, all that is needed or nothing. `None`: there is not enough.
    fn free_up(&self, branch: &MoverBranch<S>, bytes: u64, uid: Option<u32>) -> Option<Purged> {
        let needed = bytes.saturating_add(branch.min_free);
        let free = || self.storage.free_space(&branch.hold).unwrap_or(u64::MAX);
        let mut reason = format!("branch {} runs short of space", branch.name);
        if let Some(uid) = uid {
            reason.push_str(&format!(" for user {uid}"));
        }
        let mut purged = Purged::default();
        let mut went_on = (0, Instant::now());
        loop {
            let device = self.device_of(branch)?;
            let gone = self.room.making.lock().get(&device).map_or(0, |at_it| at_it.gone);
            if went_on.0 != gone {
                went_on = (gone, Instant::now());
            } else if went_on.1.elapsed() >= PATIENCE {
                return None;
            }
            let found = free();
            if found >= needed {
                return Some(purged);
            }
            self.on_disk(device, branch).iter().for_each(|other| self.remove_going(other));
            let claim = match self.claim(branch, (device, gone), (bytes, needed, found), uid)? {
                Claimed::Others => continue,
                Claimed::This(claim) => claim,
            };
            // Some file systems give back what was removed a while later, so what it took counts.
            let mut freed = 0_u64;
            for (due, bytes) in &claim.chosen {
                let before = purged.transactions.len();
                let here = |spot: &Spot| self.is_on_disk(device, spot.branch);
                self.purge_held(due.txid, &due.held, reason.clone(), &here, &mut purged);
                if purged.transactions.len() > before {
                    freed = freed.saturating_add(*bytes);
                }
                claim.gone(due.txid);
                if freed >= claim.short || free() >= needed.saturating_add(claim.of_others()) {
                    return Some(purged);
                }
            }
            if uid.is_none() {
                return Some(purged);
            }
            // Undos of all of it began meanwhile, or the ledger is full.
            let is_kept = |txid| {
                self.with_journal(|journal| journal.get(txid).is_some_and(Transaction::is_kept))
            };
            if claim.chosen.iter().all(|(one, _)| is_kept(one.txid)) {
                return None;
            }
        }
    }

    /// Chooses what goes, oldest first, for `bytes` on a disk where so much is needed and so much is free, with
    /// what others who run short of it at the same time need and give up. Where these give up all there is,
    /// waits until one of them has gone on. `None`: there is not enough.
    fn claim(
        &self,
        branch: &MoverBranch<S>,
        (device, gone): (u64, u64),
        (bytes, needed, free): (u64, u64, u64),
        uid: Option<u32>,
    ) -> Option<Claimed<'_>> {
        let on_it = self.on_disk(device, branch);
        on_it.iter().for_each(|branch| self.measure(branch));
        let on_it: HashSet<BranchUuid> = on_it.iter().map(|branch| branch.uuid).collect();
        let all = self.purgeable(&|spot: &Spot| on_it.contains(&spot.branch));
        let all: Vec<(Purgeable, u64)> = {
            let kept = self.room.kept.lock();
            let bytes_of = |txid: &TxId| {
                let here = kept.get(txid).into_iter().flatten();
                let here = here.filter(|(branch, _)| on_it.contains(branch));
                here.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
            };
            all.into_iter()
                .map(|one| {
                    let bytes = bytes_of(&one.txid);
                    (one, bytes)
                })
                .collect()
        };
        let mut making = self.room.making.lock();
        let at_it = making.entry(device).or_default();
        if at_it.gone != gone {
            return Some(Claimed::Others);
        }
        let coming = at_it.going.values().fold(free, |sum, one| sum.saturating_add(one.bytes));
        let short = needed.saturating_add(at_it.wanted).saturating_sub(coming);
        let mut sum = 0_u64;
        let mut chosen = Vec::new();
        for (one, bytes) in all {
            if sum >= short {
                break;
            }
            if !at_it.going.contains_key(&one.txid) {
                sum = sum.saturating_add(bytes);
                chosen.push((one, bytes));
            }
        }
        if uid.is_some() && (short == 0 || sum < short) {
            if at_it.going.is_empty() {
                return None;
            }
            self.room.made.wait_for(&mut making, WAIT_FOR_OTHERS);
            return Some(Claimed::Others);
        }
        at_it.wanted = at_it.wanted.saturating_add(bytes);
        chosen.iter().for_each(|(one, bytes)| at_it.goes(one.txid, *bytes));
        let done = Cell::new(0);
        Some(Claimed::This(Claim { room: &self.room, device, bytes, short, chosen, done }))
    }

    /// The number of the file system of a branch, as it tells now.
    fn device_of(&self, branch: &MoverBranch<S>) -> Option<u64> {
        let device = self.storage.file_system(&branch.hold).ok()?.device;
        if let Some(known) = self.room.devices.get(usize::from(branch.index.0)) {
            *known.lock() = Some(device);
        }
        Some(device)
    }

    /// The branches on a file system, `branch` included. Of the others what they told last counts, so that one
    /// whose disk hangs keeps nobody waiting.
    fn on_disk(&self, device: u64, branch: &MoverBranch<S>) -> Vec<Arc<MoverBranch<S>>> {
        let on_it = self
            .online()
            .filter(|other| other.index == branch.index || self.told_device(other) == Some(device));
        on_it.collect()
    }

    fn told_device(&self, branch: &MoverBranch<S>) -> Option<u64> {
        self.known_device(branch).or_else(|| self.device_of(branch))
    }

    pub(super) fn known_device(&self, branch: &MoverBranch<S>) -> Option<u64> {
        *self.room.devices.get(usize::from(branch.index.0))?.lock()
    }

    fn is_on_disk(&self, device: u64, uuid: BranchUuid) -> bool {
        self.branch_by_uuid(uuid).is_some_and(|branch| self.told_device(&branch) == Some(device))
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
            let here = |spot: &Spot| spot.branch == branch.uuid;
            self.purge_held(due.txid, &due.held, reason, &here, &mut purged);
            if kept(&self.room) <= max {
                break;
            }
        }
        purged
    }

    /// Those that keep something where `here` says, oldest first, and can be purged now. What was undone went
    /// back; what an undo that has not ended well may need stays.
    fn purgeable(&self, here: &dyn Fn(&Spot) -> bool) -> Vec<Purgeable> {
        self.with_journal(|journal| {
            let undone = journal.iter().filter(|(_, found)| found.keeps_all());
            let needed: HashSet<TxId> =
                undone.filter_map(|(_, found)| found.record.undoes).collect();
            let kept =
                journal.iter().filter(|(txid, found)| has_hold(found) && !needed.contains(txid));
            let kept = kept.map(|(txid, found)| Purgeable { txid, held: held(&found.record) });
            let there =
                |one: &Purgeable| one.held.iter().all(|spot| self.is_online_or_past(spot.branch));
            kept.filter(|one| one.held.iter().any(here) && there(one)).collect()
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
