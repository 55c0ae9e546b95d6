//! Who makes room on which disk now, and what is going there: what is no longer kept and not yet removed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::Mover;
use super::room::Room;
use crate::ledger::record::Spot;
use crate::storage::Storage;
use crate::types::{BranchUuid, TxId};

/// Room that is being made on one disk: two that run short of it at a time must not both take what one purge
/// frees.
#[derive(Default)]
pub(super) struct Making {
    /// Bytes that those who purge now want to write.
    pub(super) wanted: u64,
    /// What is purged now, by age, by `hold.max` or to make room, or is chosen for it.
    pub(super) going: HashMap<TxId, Going>,
    /// How often one of these has gone: whoever has measured before that must measure again.
    pub(super) gone: u64,
}

#[derive(Default)]
pub(super) struct Going {
    /// That it gives back.
    pub(super) bytes: u64,
    /// How many are at it or have chosen it.
    by: usize,
}

impl Making {
    pub(super) fn goes(&mut self, txid: TxId, bytes: u64) {
        let going = self.going.entry(txid).or_default();
        going.bytes = going.bytes.max(bytes);
        going.by = going.by.saturating_add(1);
    }

    /// One of those at it is through with it, or leaves it to others.
    pub(super) fn let_go(&mut self, txid: TxId) {
        if let Entry::Occupied(mut going) = self.going.entry(txid) {
            going.get_mut().by = going.get().by.saturating_sub(1);
            if going.get().by == 0 {
                going.remove();
            }
        }
    }

    /// One of those at it is through with it.
    pub(super) fn gone(&mut self, txid: TxId) {
        self.let_go(txid);
        self.gone = self.gone.wrapping_add(1);
    }
}

/// What a purge is at, from before it is recorded until it is removed: who runs short of room meanwhile finds
/// it kept no more and the room not made, and waits.
pub(super) struct Removing<'a> {
    room: &'a Room,
    txid: TxId,
    devices: Vec<u64>,
    recorded: bool,
}

impl Removing<'_> {
    /// The purge is recorded: what is on other disks than these is left to others, who find it in `going`.
    pub(super) fn recorded(&mut self, here: &HashSet<u64>) {
        self.recorded = true;
        let mut making = self.room.making.lock();
        self.devices.retain(|device| {
            let stays = here.contains(device);
            if !stays {
                making.entry(*device).or_default().gone(self.txid);
            }
            stays
        });
        drop(making);
        self.room.made.notify_all();
    }
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        let mut making = self.room.making.lock();
        for device in &self.devices {
            let at_it = making.entry(*device).or_default();
            // What was refused has not gone on: who waits for it does not wait longer.
            if self.recorded { at_it.gone(self.txid) } else { at_it.let_go(self.txid) }
        }
        drop(making);
        self.room.made.notify_all();
    }
}

impl<S: Storage> Mover<S> {
    /// The disks that these are on, as far as they are known.
    pub(super) fn known_devices(&self, spots: &[Spot]) -> HashSet<u64> {
        let known = |spot: &Spot| self.known_device(&*self.branch_by_uuid(spot.branch)?);
        spots.iter().filter_map(known).collect()
    }

    /// Bytes of what was never measured, by branch, as its record tells.
    fn estimate(&self, txid: TxId, held: &[Spot]) -> HashMap<BranchUuid, u64> {
        let mut sums: HashMap<BranchUuid, u64> = HashMap::new();
        self.with_journal(|journal| {
            let Some(record) = journal.get(txid).map(|found| &found.record) else { return };
            for spot in held {
                let mut moves = record.moves.iter();
                let Some(step) = moves.find(|step| [&step.from, &step.to].contains(&spot)) else {
                    continue;
                };
                let bytes = match step.below {
                    Some(_) => record.size.unwrap_or(0),
                    None => step.identity.size,
                };
                let sum = sums.entry(spot.branch).or_default();
                *sum = sum.saturating_add(bytes);
            }
        });
        sums
    }

    /// To be called before the purge of what a transaction has there is recorded, or taken up.
    pub(super) fn removing(&self, txid: TxId, held: &[Spot]) -> Removing<'_> {
        let branches: HashSet<BranchUuid> = held.iter().map(|spot| spot.branch).collect();
        let kept = self.room.kept.lock().get(&txid).cloned();
        let kept = kept.unwrap_or_else(|| self.estimate(txid, held));
        // Of what was never looked at nobody knows that it runs short.
        let known = |uuid| Some((self.known_device(&*self.branch_by_uuid(uuid)?)?, uuid));
        let mut on: HashMap<u64, u64> = HashMap::new();
        for (device, uuid) in branches.into_iter().filter_map(known) {
            let sum = on.entry(device).or_default();
            *sum = sum.saturating_add(kept.get(&uuid).copied().unwrap_or(0));
        }
        let mut making = self.room.making.lock();
        for (device, bytes) in &on {
            making.entry(*device).or_default().goes(txid, *bytes);
        }
        drop(making);
        Removing { room: &self.room, txid, devices: on.into_keys().collect(), recorded: false }
    }
}
