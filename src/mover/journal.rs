//! The transactions, folded from the ledger's records: what recovery must look at, what hold keeps,
//! what can be undone, and how a file came where it is. Does no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::error::CrossingError;
use crate::ledger::Entry;
use crate::ledger::record::{CrossingRecord, Move, Record, Step, StoppedBy};
use crate::types::{BranchUuid, TxId, ViewPath};

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransactionState {
    /// Announced or decided, and not ended.
    Active,
    /// Completed.
    Done,
    /// Put back after the decision.
    Reverted,
    /// Rolled back before the decision.
    Aborted,
    /// Needs a person; everything is kept.
    Dead,
    /// It needed a person, who declared what is there right. What it keeps stays until that person
    /// has it discarded.
    Accepted,
}

impl TransactionState {
    /// As the ledger's and the commands' readers know it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Done => "done",
            Self::Reverted => "reverted",
            Self::Aborted => "aborted",
            Self::Dead => "dead",
            Self::Accepted => "accepted",
        }
    }
}

/// One transaction as its records tell it.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// How far it is.
    pub state: TransactionState,
    /// Time of its first record.
    pub started: jiff::Timestamp,
    /// Time of its last record.
    pub changed: jiff::Timestamp,
    /// PREPARE, or COMMIT once there is one: that repeats what PREPARE says and adds to it.
    pub record: CrossingRecord,
    /// Why it ended as it did, from its last record.
    pub reason: Option<String>,
    /// Who had it stopped, from its last record.
    pub stopped_by: Option<StoppedBy>,
    /// Name of the errno that the caller got, from its last record.
    pub result: Option<String>,
    /// What it kept in hold was removed for good, or is lost.
    pub purged: bool,
    /// What it kept in hold was found gone. Should it reappear, nobody deletes it.
    pub lost: bool,
    /// Where what it kept was discarded, if a branch was given up by that: what others have of it nobody deletes.
    pub discarded_on: Option<Vec<BranchUuid>>,
    /// The transaction that took it back.
    pub undone_by: Option<TxId>,
    /// A person wants it taken back: recovery goes that way only.
    pub withdrawn: bool,
    /// What crosses had arrived when a person asked for another try: it stays, whatever fails.
    pub arrived: bool,
    /// Lines of the ledger were lost after its last record: how it went on is not known.
    pub doubtful: bool,
    /// What waits for branches that left the view for good.
    pub rest: Rest,
    /// Its place in [`Journal::order`].
    begun: u64,
}

/// What branches that left the view for good keep from being known or made. It is gone on with when they are in
/// the view again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// In order, the moves that are not known to be made.
    pub moves: Vec<Move>,
    /// A person wanted it taken back.
    pub back: bool,
}

impl Transaction {
    /// The moves whose ends must be in the view before it waits no more.
    pub fn waits_for(&self) -> &[Move] {
        match self.rest.back && !self.rest.moves.is_empty() {
            true => &self.record.moves,
            false => &self.rest.moves,
        }
    }

    /// Whether the decision was recorded.
    pub fn committed(&self) -> bool {
        self.record.step == Step::Commit
    }

    /// Whether hold still keeps something for it: from DONE until it is purged.
    pub fn is_kept(&self) -> bool {
        self.state == TransactionState::Done && !self.purged
    }

    /// Whether stage and hold must keep what they have of it, however old it is.
    pub fn keeps_all(&self) -> bool {
        matches!(self.state, TransactionState::Active | TransactionState::Dead)
            || self.is_accepted_and_kept()
    }

    /// Whether a person declared it right and has not had discarded what it keeps.
    pub fn is_accepted_and_kept(&self) -> bool {
        self.state == TransactionState::Accepted && !self.purged
    }

    /// Whether nothing waits for it and nothing is kept for it.
    fn is_over(&self) -> bool {
        !self.keeps_all() && !self.is_kept() && !self.is_lost_somewhere()
    }

    /// Whether what it kept was found gone, or is on a branch that was given up.
    pub fn is_lost_somewhere(&self) -> bool {
        self.lost || self.discarded_on.is_some()
    }

    /// Of one that is purged: why hold has nothing for its undo, for people.
    pub fn why_not_kept(&self) -> &'static str {
        match self.lost {
            true => "what it kept in hold is lost, given up, or no longer kept for an undo",
            false => "what it kept in hold was purged",
        }
    }

    /// Whether nobody deletes what a branch has of it, should that reappear.
    pub fn is_lost_on(&self, branch: BranchUuid) -> bool {
        self.lost || self.discarded_on.as_ref().is_some_and(|there| !there.contains(&branch))
    }

    /// Whether it can be taken back.
    pub fn is_undoable(&self) -> bool {
        self.is_kept() && self.is_crossing_made()
    }

    /// Whether it is a crossing that was made and not taken back: no undo, and no rename within a pool.
    pub fn is_crossing_made(&self) -> bool {
        self.state == TransactionState::Done && self.is_crossing_decided()
    }

    /// Whether it is one that was decided and not taken back, though it may not have ended well.
    fn is_crossing_decided(&self) -> bool {
        let stands = match self.state {
            TransactionState::Done => true,
            TransactionState::Active | TransactionState::Dead | TransactionState::Accepted => {
                self.committed()
            }
            TransactionState::Reverted | TransactionState::Aborted => false,
        };
        stands
            && self.undone_by.is_none()
            && self.record.undoes.is_none()
            && !self.record.rearrangement
    }
}

/// Transactions that ended and keep nothing are forgotten beyond this number, oldest first; the
/// ledger still has them.
pub(super) const ENDED_MAX: usize = 10_000;

/// After so many steps of crossings it is worth packing what is remembered.
const LOOSE_MIN: u32 = 1_000;
/// So many times it was asked for, and no step came between.
const QUIET_MIN: u32 = 3;
/// Transactions that are packed at a time: so many are there twice meanwhile.
const PACKED_AT_ONCE: usize = 500;

/// All transactions that matter.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// No hash table: it would keep its room for the most there ever were, and each is half a KB and more.
    transactions: BTreeMap<TxId, Box<Transaction>>,
    /// In order of their first records: ids do not sort within a millisecond, and clocks are set
    /// back.
    order: BTreeMap<u64, TxId>,
    begun: u64,
    /// Those of `order` that ended and keep nothing.
    ended: BTreeSet<u64>,
    /// Undos that have begun and not ended well, and what each takes back.
    undoing: HashMap<TxId, TxId>,
    /// Time of the first entry.
    begins: Option<jiff::Timestamp>,
    /// When lines were accepted as lost, if some were.
    lost_until: Option<jiff::Timestamp>,
    /// What branches were called when they were last adopted, also those that left.
    names: HashMap<BranchUuid, String>,
    /// When they were, where the ledger still has that: what is there from before may be another view's.
    adopted: HashMap<BranchUuid, jiff::Timestamp>,
    /// See [`Journal::doubt`].
    doubted: HashSet<BranchUuid>,
    /// Steps since [`Journal::pack_when_quiet`] has packed.
    loose: u32,
    /// How often it was called since the last step.
    quiet: u32,
}

impl Journal {
    /// Takes in an entry of the ledger; all but crossings, purges and losses only tell how far back it goes, and
    /// what branches are called.
    pub fn apply(&mut self, entry: &Entry) {
        self.begins.get_or_insert(entry.time);
        for (name, id) in entry.record.ids() {
            self.name_branch(id, name);
        }
        match &entry.record {
            Record::Crossing(record) => self.apply_crossing(record, entry.time),
            Record::Purge(record) => {
                if let Some(transaction) = self.transactions.get_mut(&record.txid) {
                    transaction.purged = true;
                    transaction.lost = record.lost;
                    let moves = std::mem::take(&mut transaction.record.moves);
                    transaction.rest = Rest::default();
                    if !record.given_up.is_empty() {
                        let ends = moves.iter().flat_map(|step| [&step.from, &step.to]);
                        let there = ends.map(|spot| spot.branch);
                        let there = there.filter(|uuid| !record.given_up.contains(uuid));
                        transaction.discarded_on = Some(there.collect());
                    }
                    self.settle(record.txid);
                }
            }
            Record::Loss(_) => {
                self.lose_until(entry.time);
                for transaction in self.transactions.values_mut() {
                    transaction.doubtful |= transaction.state == TransactionState::Active;
                    transaction.rest = Rest::default();
                }
            }
            Record::Branch(record) => self.adopt(record.id, entry.time),
            Record::Version(_)
            | Record::Mount(_)
            | Record::Operation(_)
            | Record::Policy(_)
            | Record::Gap(_)
            | Record::Key(_)
            | Record::Check(_)
            | Record::Prune(_) => {}
        }
    }

    /// To be called about once a second. What is remembered is so much longer than the requests that came and
    /// went beside it, and holds the pages that they shared: when crossings pause it is copied to where it lies
    /// close together. Whether it was.
    pub fn pack_when_quiet(&mut self) -> bool {
        self.quiet = self.quiet.saturating_add(1);
        if self.loose < LOOSE_MIN || self.quiet < QUIET_MIN {
            return false;
        }
        self.loose = 0;
        let mut all: Vec<_> = self.transactions.values_mut().collect();
        for some in all.chunks_mut(PACKED_AT_ONCE) {
            // First all copies, then what they replace: the allocator gives out again what came back last.
            let copies: Vec<Box<Transaction>> = some.iter().map(|one| (**one).clone()).collect();
            some.iter_mut().zip(copies).for_each(|(one, copy)| **one = copy);
        }
        true
    }

    fn apply_crossing(&mut self, record: &CrossingRecord, time: jiff::Timestamp) {
        self.loose = self.loose.saturating_add(1);
        self.quiet = 0;
        let transaction = self.transactions.entry(record.txid).or_insert_with(|| {
            self.begun = self.begun.wrapping_add(1);
            self.order.insert(self.begun, record.txid);
            Box::new(Transaction {
                state: TransactionState::Active,
                started: time,
                changed: time,
                record: record.clone(),
                reason: None,
                stopped_by: None,
                result: None,
                purged: false,
                lost: false,
                discarded_on: None,
                undone_by: None,
                withdrawn: false,
                arrived: false,
                doubtful: false,
                rest: Rest::default(),
                begun: self.begun,
            })
        });
        transaction.changed = time;
        transaction.reason.clone_from(&record.reason);
        transaction.stopped_by = record.stopped_by;
        transaction.result.clone_from(&record.result);
        transaction.state = match record.step {
            Step::Prepare | Step::Retry | Step::Withdraw => TransactionState::Active,
            Step::Commit => {
                transaction.record = record.clone();
                TransactionState::Active
            }
            Step::Done => TransactionState::Done,
            Step::Abort => TransactionState::Aborted,
            Step::Reverted => TransactionState::Reverted,
            Step::Dead => TransactionState::Dead,
            Step::Accept => TransactionState::Accepted,
        };
        transaction.rest = match record.step {
            Step::Dead | Step::Accept => Rest {
                moves: record.moves.clone(),
                back: transaction.withdrawn || transaction.rest.back,
            },
            _ => Rest::default(),
        };
        transaction.withdrawn = record.step == Step::Withdraw;
        transaction.arrived = record.step == Step::Retry && !record.moves.is_empty();
        transaction.doubtful = false;
        let undoes = transaction.record.undoes;
        match transaction.state {
            TransactionState::Active | TransactionState::Dead | TransactionState::Accepted => {}
            TransactionState::Aborted | TransactionState::Reverted => {
                transaction.record.moves = Vec::new();
            }
            TransactionState::Done if transaction.record.keeps_nothing() => {
                transaction.purged = true;
                transaction.record.moves = Vec::new();
            }
            TransactionState::Done => {
                if let Some(undone) = undoes.and_then(|undone| self.transactions.get_mut(&undone)) {
                    undone.undone_by = Some(record.txid);
                }
            }
        }
        self.settle(record.txid);
    }

    /// Notes how far a transaction is now, and forgets the oldest of those that are over.
    fn settle(&mut self, txid: TxId) {
        let Some(transaction) = self.transactions.get(&txid) else { return };
        match transaction.is_over() {
            true => self.ended.insert(transaction.begun),
            false => self.ended.remove(&transaction.begun),
        };
        if let Some(undone) = transaction.record.undoes {
            match transaction.keeps_all() {
                true => self.undoing.insert(txid, undone),
                false => self.undoing.remove(&txid),
            };
        }
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_first()
            && let Some(txid) = self.order.remove(&oldest)
        {
            self.transactions.remove(&txid);
        }
    }

    /// For people: a branch that records speak of by its id has this name.
    pub fn name_branch(&mut self, id: BranchUuid, name: &str) {
        self.names.insert(id, name.to_owned());
    }

    /// A branch came into the view, or came back from another.
    pub fn adopt(&mut self, id: BranchUuid, time: jiff::Timestamp) {
        let adopted = self.adopted.entry(id).or_insert(time);
        *adopted = time.max(*adopted);
    }

    /// The checkpoint in a branch was not compared with the ledger that this journal is of, or not since the branch
    /// was away: all that is there and that nobody knows may be another view's, or of lines that are missing.
    pub fn doubt(&mut self, id: BranchUuid) {
        self.doubted.insert(id);
    }

    /// What a branch is called, or was when it left.
    pub fn branch_name(&self, id: BranchUuid) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// Why nothing is done with what is on a branch that left the view.
    pub fn no_branch(&self, uuid: BranchUuid) -> CrossingError {
        CrossingError::NoBranch { uuid, name: self.branch_name(uuid).map(str::to_owned) }
    }

    /// One transaction.
    pub fn get(&self, txid: TxId) -> Option<&Transaction> {
        self.transactions.get(&txid).map(Box::as_ref)
    }

    /// Lines that were written before `now` are missing.
    pub fn lose_until(&mut self, now: jiff::Timestamp) {
        self.lost_until = self.lost_until.max(Some(now));
    }

    /// A ledger without an entry begins at `now`.
    pub fn begin(&mut self, now: jiff::Timestamp) {
        self.begins.get_or_insert(now);
    }

    /// The ledger has every transaction that ever was.
    #[cfg(test)]
    pub fn begin_long_ago(&mut self) {
        self.begins = Some(jiff::Timestamp::UNIX_EPOCH);
    }

    /// Whether a transaction is from before the first entry, before entries were lost, or before a branch came into
    /// the view, or the branch is in doubt: if it is not known, nobody can tell what is there of it.
    pub fn is_before(&self, txid: TxId, branch: BranchUuid) -> bool {
        let begins = self.begins.max(self.lost_until).max(self.adopted.get(&branch).copied());
        let begins = begins.and_then(|begins| u64::try_from(begins.as_millisecond()).ok());
        self.doubted.contains(&branch)
            || begins.is_some_and(|begins| txid.0.timestamp_ms() <= begins)
    }

    /// All that are remembered, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (TxId, &Transaction)> {
        self.order.values().filter_map(|txid| Some((*txid, self.get(*txid)?)))
    }

    /// Those that have begun and not ended, oldest first.
    pub fn open(&self) -> impl Iterator<Item = (TxId, &Transaction)> {
        self.iter().filter(|(_, transaction)| transaction.state == TransactionState::Active)
    }

    /// Whether an undo of `txid` has begun and not ended well: it may need what `txid` keeps.
    pub fn is_being_undone(&self, txid: TxId) -> bool {
        self.undoing.values().any(|undone| *undone == txid)
    }

    /// Those that need a person, oldest first.
    pub fn dead(&self) -> impl DoubleEndedIterator<Item = (TxId, &Transaction)> {
        self.iter().filter(|(_, transaction)| transaction.state == TransactionState::Dead)
    }

    fn not_taken_back(&self) -> impl Iterator<Item = (TxId, &Transaction)> {
        self.iter().rev().filter(|(_, transaction)| transaction.is_crossing_decided())
    }

    /// The caller's last crossing that was decided and not taken back. What it kept may be gone, or it may wait for
    /// a person: then it cannot be, and no earlier one is meant.
    pub fn last_of(&self, uid: u32) -> Option<TxId> {
        self.not_taken_back().find(|(_, found)| found.record.uid == uid).map(|(txid, _)| txid)
    }

    /// The last crossing to a path that was decided and not taken back.
    pub fn last_to(&self, target: &ViewPath) -> Option<TxId> {
        self.not_taken_back()
            .find(|(_, found)| found.record.target == *target)
            .map(|(txid, _)| txid)
    }

    /// The crossings by which a file came to `path`, newest first: the last to `path`, before it
    /// the last to that one's source, and so on. Renames between crossings end the chain.
    pub fn history(&self, path: &ViewPath) -> Vec<(TxId, &Transaction)> {
        let mut path = path;
        let mut chain = Vec::new();
        for (txid, transaction) in self.iter().rev() {
            let record = &transaction.record;
            let done = transaction.state == TransactionState::Done && !record.rearrangement;
            if done && record.target == *path {
                path = &transaction.record.source;
                chain.push((txid, transaction));
            }
        }
        chain
    }
}
