//! Crossings: moves of files between branches as transactions (design section 7), and their undo.
//!
//! # Invariants
//!
//! 1. *No commit without its record.* Nothing visible changes before the COMMIT record is durable:
//!    until then a crossing works in the target branch's stage only.
//! 2. *What COMMIT speaks of is durable before COMMIT*: the staged copy (content, attributes and
//!    name), the source's content, the way to the target's folder.
//! 3. *Every move is recognised as made or not by file handle*, so running the moves and running
//!    them again is one function, [`moves::forward`], any number of times.
//! 4. *Nothing is ever replaced.* All renames are NOREPLACE; what stands at the target goes to hold.
//! 5. *Nothing is deleted in doubt.* Stage and hold of a transaction that is open or dead are kept.
//!    Only a recorded end (ABORT, REVERTED, DONE, a purge) lets something be removed, and the
//!    record comes first wherever what is removed could be the last copy.
//! 6. *Names appear before they disappear*, on the disk too: folders that gained a name are synced
//!    before those that lost one.
//!
//! 7. *A tree is one inode to the moves*: its top. What is below is told by a manifest before the
//!    decision ([`tree::Tree::check`]) and by a digest in the record after it ([`tree::Digest`]), so
//!    that a tree that was changed on its way to hold is put back, also by a recovery that
//!    remembers nothing.
//!
//! # States
//!
//! ```text
//!            Mover::prepare, Mover::prepare_undo
//!                         │ PREPARE
//!                         ▼
//!                      Active ── Prepared::abort, Mover::roll_back (recovery) ── ABORT ──▶ Aborted
//!                         │ Mover::commit: COMMIT (durable: the decision)
//!                         ▼
//!    ┌─────────────── committed ◀── Mover::complete (recovery) starts here again
//!    │ moves::forward     │
//!    │ fails              │ moves::forward, moves::sync
//!    │                    ▼
//!    │                 DONE ──▶ Done ── Mover::purge: PURGE ──▶ Done, nothing held
//!    │ Mover::put_back: moves::back
//!    ├──▶ REVERTED ──▶ Reverted ◀─────────────────────────────────────┐
//!    └──▶ DEAD ──▶ Dead       where an inode is at neither end,       │ all is back
//!                   │ ▲       or cannot be put back                   │
//!     Mover::settle │ └──────────────────────────── DEAD: not all ────┤
//!                   ├── RETRY ────▶ committed, as above               │
//!                   ├── WITHDRAW ─▶ withdrawn: Mover::take_back ──────┘
//!                   │               (recovery starts here again)
//!                   └── ACCEPT ───▶ Accepted, all kept ── Mover::discard: PURGE ──▶ nothing kept
//! ```
//!
//! The person's wish is durable before the first rename that it causes.
//!
//! A sync of folders that fails after the decision does not undo it: nobody could trust the disk
//! with the way back either. The transaction then stays open without DONE, and the next recovery
//! finds each inode and completes. So does one that a disk lets neither complete nor put back.
//! Recovery runs at start, and for a branch that comes back while mounted ([`returning`]). Dead letters whose
//! branch left the view for good are gone on with when it is in the view again ([`past`]), accepted ones too: those
//! end by another ACCEPT, or by WITHDRAW where a person had wanted that before. An end that a full ledger refuses
//! is recorded when it has space ([`unrecorded`]).

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::ledger::record::{Area, CrossingRecord, Spot, Step};
use crate::ledger::{Durability, Ledger, Record};
use crate::storage::Storage;
use crate::types::{BranchIndex, BranchUuid, TxId};

mod commands;
mod commit;
mod copy;
mod directory;
mod discard;
mod error;
mod granted;
mod inspect;
mod journal;
mod length;
mod letters;
mod look;
mod making;
mod manifest;
mod may_settle;
mod merge;
mod moves;
mod pace;
mod parallel;
mod pass;
mod past;
mod prepare;
mod progress;
mod purge;
mod rearrange;
mod recover;
mod remove;
mod request;
mod reread;
mod returning;
mod room;
mod sabotage;
mod stage;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod tree;
mod undo;
mod unrecorded;
mod work;

pub use commands::Commands;
pub use error::CrossingError;
pub use inspect::{Irregularity, Outlook, inspect, owner_of};
pub use journal::{Journal, Rest, Transaction, TransactionState};
pub use letters::{Finding, Found, LetterError, Settle, Settled, subject};
pub use prepare::Prepared;
pub use progress::Progress;
pub use purge::Purged;
pub use rearrange::{RearrangeRequest, Rearranged};
pub use recover::Recovery;
pub use request::{Admit, Crossed, CrossingRequest, Entry, Moved, Name, SourcePart};
pub use stop::Stop;
pub use undo::check_done;

use moves::Place;
use pace::{Limiter, Turns};
use room::Room;

/// A branch that is online and can be written, with its private folders opened.
pub struct MoverBranch<S: Storage> {
    /// Position in the configuration.
    pub index: BranchIndex,
    /// Its lasting identity.
    pub uuid: BranchUuid,
    /// Name in the configuration.
    pub name: String,
    /// Its root.
    pub root: S::Dir,
    /// `.octroi/stage`.
    pub stage: S::Dir,
    /// `.octroi/hold`.
    pub hold: S::Dir,
    /// Bytes that a crossing leaves free.
    pub min_free: u64,
}

/// Makes crossings. Callers hold the locks on both names, and have waited for writers through the
/// mount; this never looks at either.
///
/// A transaction is in `active` before its first record and until after its last, so that recovery can
/// tell what is left open from what is under way.
///
/// Lock order: `recovering`, which keeps two recoveries apart; then `recording`, which keeps an end that was refused from
/// being recorded twice, or where a dead letter is opened again; and then `purging`, which keeps an undo from
/// beginning while what it needs is purged; they are held over steps, `recording` over those of the ledger only; then `journal`, `active`, `unsynced`,
/// `unrecorded`, `swept`, `same_filesystem`, `going` and those of `room`, which are leaves, never held
/// together or over a step of storage or ledger.
pub struct Mover<S: Storage> {
    storage: Arc<S>,
    ledger: Arc<Ledger<S>>,
    branches: Vec<ArcSwapOption<MoverBranch<S>>>,
    /// Ids of all branches of the view, online or not.
    configured: OnceLock<HashSet<BranchUuid>>,
    journal: Mutex<Journal>,
    active: Mutex<HashMap<TxId, Arc<Progress>>>,
    /// Names of branches that went offline.
    left: Mutex<HashMap<BranchIndex, String>>,
    same_filesystem: Mutex<HashMap<(BranchIndex, BranchIndex), bool>>,
    /// Transactions whose moves could not be synced. A second sync would prove nothing while the kernel
    /// has the pages of the first, so they wait for another mount of the view.
    unsynced: Mutex<HashSet<TxId>>,
    /// How transactions ended whose end the ledger has not taken.
    unrecorded: Mutex<HashMap<TxId, CrossingRecord>>,
    /// Copies that nobody needs since: name of the branch, and in its stage.
    swept: Mutex<Vec<(String, OsString)>>,
    purging: Mutex<()>,
    recovering: Mutex<()>,
    recording: Mutex<()>,
    room: Room,
    /// What hold has of those whose purge is recorded, where those who purged could not wait for its disk. After
    /// a crash recovery removes it.
    going: Mutex<Vec<(TxId, Spot)>>,
    turns: Turns,
    limiter: Arc<Limiter>,
    commands: OnceLock<Box<dyn Commands<S>>>,
}

impl<S: Storage> Mover<S> {
    /// `branches` is indexed by [`BranchIndex`]; `None` for those that are offline or read-only.
    /// `journal` has taken in the whole ledger. Call [`Mover::recover`] before serving.
    pub fn new(
        storage: Arc<S>,
        ledger: Arc<Ledger<S>>,
        branches: Vec<Option<MoverBranch<S>>>,
        journal: Journal,
    ) -> Arc<Self> {
        Arc::new(Self {
            storage,
            ledger,
            room: Room::new(branches.len()),
            going: Mutex::default(),
            branches: branches.into_iter().map(ArcSwapOption::from_pointee).collect(),
            left: Mutex::default(),
            configured: OnceLock::new(),
            journal: Mutex::new(journal),
            active: Mutex::default(),
            same_filesystem: Mutex::default(),
            unsynced: Mutex::default(),
            unrecorded: Mutex::default(),
            swept: Mutex::default(),
            purging: Mutex::default(),
            recovering: Mutex::default(),
            recording: Mutex::default(),
            turns: Turns::new(usize::MAX),
            limiter: Arc::default(),
            commands: OnceLock::new(),
        })
    }

    /// At most `parallel` transactions are prepared at a time, and all together read at most `rate`
    /// bytes a second. Without this call both are unbounded.
    pub fn set_pace(&self, parallel: usize, rate: Option<u64>) {
        self.turns.set(parallel.max(1));
        self.limiter.set(rate);
    }

    /// Tells the ids of all branches of the view, online or not: what records say of others is past. Without
    /// this call nothing is.
    pub fn set_configured(&self, ids: HashSet<BranchUuid>) {
        let _ = self.configured.set(ids);
    }

    /// Whether no branch of the view has this id any more.
    fn is_past(&self, uuid: BranchUuid) -> bool {
        self.configured.get().is_some_and(|ids| !ids.contains(&uuid))
    }

    /// See [`Journal::pack_when_quiet`].
    pub fn pack_journal_when_quiet(&self) -> bool {
        self.journal.lock().pack_when_quiet()
    }

    /// Looks at the transactions. The lock is held while `look` runs.
    pub fn with_journal<T>(&self, look: impl FnOnce(&Journal) -> T) -> T {
        look(&self.journal.lock())
    }

    /// The transactions running now.
    pub fn active(&self) -> Vec<Arc<Progress>> {
        self.active.lock().values().map(Arc::clone).collect()
    }

    fn branch(&self, index: BranchIndex) -> Result<Arc<MoverBranch<S>>, CrossingError> {
        self.branches
            .get(usize::from(index.0))
            .and_then(ArcSwapOption::load_full)
            .ok_or_else(|| CrossingError::Offline { branch: self.name_at(index) })
    }

    /// The name of a branch that was online once.
    fn name_at(&self, index: BranchIndex) -> String {
        let name = self.left.lock().get(&index).cloned();
        name.unwrap_or_else(|| format!("number {}", index.0))
    }

    fn branch_by_uuid(&self, uuid: BranchUuid) -> Option<Arc<MoverBranch<S>>> {
        self.online().find(|branch| branch.uuid == uuid)
    }

    /// What people call a branch: its name, or where nobody knows that any more, its id.
    fn name_of(&self, uuid: BranchUuid) -> String {
        let name = self.with_journal(|journal| journal.branch_name(uuid).map(str::to_owned));
        name.unwrap_or_else(|| uuid.to_string())
    }

    fn no_branch(&self, uuid: BranchUuid) -> CrossingError {
        self.with_journal(|journal| journal.no_branch(uuid))
    }

    fn online(&self) -> impl Iterator<Item = Arc<MoverBranch<S>>> {
        self.branches.iter().filter_map(ArcSwapOption::load_full)
    }

    /// Appends a step and takes it into the journal.
    fn record(&self, record: CrossingRecord, durability: Durability) -> Result<(), CrossingError> {
        let opens_again = matches!(record.step, Step::Retry | Step::Withdraw);
        let _recording = opens_again.then(|| self.recording.lock());
        let outcome = self.append(Record::Crossing(Box::new(record.clone())), durability);
        self.note_recorded(&record, &outcome);
        outcome
    }

    fn append(&self, record: Record, durability: Durability) -> Result<(), CrossingError> {
        self.ledger
            .append(record.clone(), durability)
            .map_err(|errno| CrossingError::Ledger { errno })?;
        // The journal asks for kind and time only; positions in the ledger are the writer's.
        let entry = crate::ledger::Entry { seq: 0, time: jiff::Timestamp::now(), record };
        self.journal.lock().apply(&entry);
        Ok(())
    }
}

impl<S: Storage> MoverBranch<S> {
    fn in_stage(&self, txid: TxId) -> (Spot, Place<S>) {
        self.private(Area::Stage, &self.stage, txid)
    }

    fn in_hold(&self, txid: TxId) -> (Spot, Place<S>) {
        self.private(Area::Hold, &self.hold, txid)
    }

    fn private(&self, area: Area, dir: &S::Dir, txid: TxId) -> (Spot, Place<S>) {
        let name = txid.to_string();
        let spot = Spot { branch: self.uuid, area, path: PathBuf::from(&name) };
        (spot, Place { dir: dir.clone(), name: name.into() })
    }

    fn in_tree(&self, name: &Name<S>) -> (Spot, Place<S>) {
        let spot = Spot { branch: self.uuid, area: Area::Tree, path: name.path.clone() };
        (spot, name.place())
    }
}

/// A later step of the transaction that `prepared` began: only what changed.
fn later_step(
    prepared: &CrossingRecord,
    step: Step,
    reason: Option<String>,
    result: String,
) -> CrossingRecord {
    CrossingRecord {
        step,
        moves: Vec::new(),
        replaced: None,
        reason,
        stopped_by: None,
        result: Some(result),
        ..prepared.clone()
    }
}
