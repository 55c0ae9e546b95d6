//! What stage and hold have, held against the journal, for a view that is not mounted. Changes nothing.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::journal::{Journal, Transaction, TransactionState};
use super::moves::{Place, PlacedMove, Whereabouts, whereabouts};
use super::{Mover, MoverBranch, subject};
use crate::error::errno_name;
use crate::ledger::record::{Area, Move, Spot, Step};
use crate::storage::Storage;
use crate::types::{BranchUuid, TxId};

/// Something that is not as it should be, or that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Irregularity {
    /// Announced and not decided: rolled back by recovery.
    Undecided(TxId),
    /// Decided and not ended: recovery goes on with it.
    Unfinished(TxId, Outlook),
    /// Needs a person; why.
    Dead(TxId, String),
    /// An entry of stage that no open transaction needs: branch and name. Recovery removes it.
    Stage(String, OsString),
    /// Something that no transaction knows: branch, and where it is in the private folder. It is kept.
    Unknown(String, PathBuf),
    /// Something that was recorded as lost: branch, and where it is in the private folder. It is kept.
    Returned(String, PathBuf),
    /// An entry of hold whose purge is recorded: branch and name. Recovery removes it.
    Purged(String, OsString),
    /// What a completed crossing should have in hold is not there, or is something else: it cannot be
    /// undone. In words; and whether nothing of it is there.
    Missing(TxId, String, bool),
    /// A folder cannot be looked at: branch, and why.
    Unreadable(String, String),
}

/// What recovery will make of a transaction that is decided and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// Complete it, or put it back.
    Ends,
    /// Nothing until these branches are there.
    Waits(Vec<BranchUuid>),
    /// A dead letter: why, in words.
    NeedsPerson(String),
}

/// Looks through the stage and hold of `branches`, and through the journal. What has a part on another branch
/// is not looked for. `is_past` tells of which ids the view has no branch any more.
pub fn inspect<S: Storage, B: Deref<Target = MoverBranch<S>>>(
    storage: &S,
    journal: &Journal,
    branches: &[B],
    is_past: &dyn Fn(BranchUuid) -> bool,
) -> Vec<Irregularity> {
    let mut found = Vec::new();
    for (txid, transaction) in journal.iter() {
        match transaction.state {
            TransactionState::Active if transaction.record.step == Step::Commit => {
                let outlook = outlook(storage, journal, branches, is_past, transaction);
                found.push(Irregularity::Unfinished(txid, outlook));
            }
            TransactionState::Active => found.push(Irregularity::Undecided(txid)),
            TransactionState::Dead => {
                let why = transaction.reason.clone().unwrap_or_default();
                found.push(Irregularity::Dead(txid, why));
            }
            TransactionState::Done if transaction.is_kept() && transaction.undone_by.is_none() => {
                found.extend(missing(storage, journal, branches, txid));
            }
            TransactionState::Done
            | TransactionState::Reverted
            | TransactionState::Aborted
            | TransactionState::Accepted => {}
        }
    }
    for branch in branches {
        let list = |area: &str, dir: &S::Dir| {
            storage.list(dir).map_err(|errno| {
                let why = format!("cannot list {area}: {}", errno_name(errno));
                Irregularity::Unreadable(branch.name.clone(), why)
            })
        };
        match list("stage", &branch.stage) {
            Ok(names) => {
                let needed: HashSet<OsString> = needed(journal);
                let idle = names.into_iter().filter(|name| !needed.contains(name));
                found.extend(idle.map(|name| {
                    let at = Path::new("stage").join(&name);
                    match idle_in_stage(journal, branch.uuid, &name) {
                        Idle::Goes => Irregularity::Stage(branch.name.clone(), name),
                        Idle::Lost => Irregularity::Returned(branch.name.clone(), at),
                        Idle::Unknown => Irregularity::Unknown(branch.name.clone(), at),
                    }
                }));
            }
            Err(error) => found.push(error),
        }
        match list("hold", &branch.hold) {
            Ok(names) => {
                found
                    .extend(names.into_iter().filter_map(|name| stray::<S>(journal, branch, name)));
            }
            Err(error) => found.push(error),
        }
    }
    found
}

impl<S: Storage> Mover<S> {
    /// As [`inspect`], of what is online now. The journal is locked while the disks are looked at: for when
    /// nothing crosses.
    pub fn inspect(&self) -> Vec<Irregularity> {
        let branches: Vec<_> = self.online().collect();
        let is_past = |uuid| self.is_past(uuid);
        self.with_journal(|journal| inspect(&*self.storage, journal, &branches, &is_past))
    }
}

/// The names in stage that must stay.
pub(super) fn needed(journal: &Journal) -> HashSet<OsString> {
    let keeping = journal.iter().filter(|(_, found)| found.keeps_all());
    keeping.map(|(txid, _)| txid.to_string().into()).collect()
}

/// The transaction that an entry of hold belongs to by its name: `TXID`, or `TXID.N` where it took more than
/// one thing from a branch.
pub fn owner_of(name: &OsStr) -> Option<TxId> {
    let name = name.to_str()?;
    let (txid, number) = name.split_once('.').unwrap_or((name, ""));
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| txid.parse().ok())?
}

/// What becomes of an entry of stage that no open transaction needs.
pub(super) enum Idle {
    /// It is removed: a probe, or the copy of a transaction that has ended, or whose announcement a power loss took.
    Goes,
    /// It was recorded as lost, and is kept.
    Lost,
    /// It is from before the ledger's first line, before lines of it were lost, or before its branch came into the
    /// view, or the branch is in doubt ([`Journal::doubt`]), and is kept.
    Unknown,
}

pub(super) fn idle_in_stage(journal: &Journal, branch: BranchUuid, name: &OsStr) -> Idle {
    let Some(txid) = owner_of(name) else { return Idle::Goes };
    match is_lost(journal, branch, name) {
        true => Idle::Lost,
        false if journal.get(txid).is_none() && journal.is_before(txid, branch) => Idle::Unknown,
        false => Idle::Goes,
    }
}

/// Whether what has this name in stage or hold of a branch was recorded as lost: nobody deletes it.
pub(super) fn is_lost(journal: &Journal, branch: BranchUuid, name: &OsStr) -> bool {
    let known = owner_of(name).and_then(|txid| journal.get(txid));
    known.is_some_and(|found| found.is_lost_on(branch))
}

fn stray<S: Storage>(
    journal: &Journal,
    branch: &MoverBranch<S>,
    name: OsString,
) -> Option<Irregularity> {
    if is_lost(journal, branch.uuid, &name) {
        return Some(Irregularity::Returned(branch.name.clone(), Path::new("hold").join(name)));
    }
    let known = owner_of(&name).and_then(|txid| journal.get(txid));
    match known.map(|found| (found.state, found.purged)) {
        Some((TransactionState::Done | TransactionState::Accepted, true)) => {
            Some(Irregularity::Purged(branch.name.clone(), name))
        }
        Some((TransactionState::Aborted | TransactionState::Reverted, _)) | None => {
            Some(Irregularity::Unknown(branch.name.clone(), Path::new("hold").join(name)))
        }
        Some(_) => None,
    }
}

/// What recovery will make of it, as far as the names of its moves tell.
fn outlook<S: Storage, B: Deref<Target = MoverBranch<S>>>(
    storage: &S,
    journal: &Journal,
    branches: &[B],
    is_past: &dyn Fn(BranchUuid) -> bool,
    transaction: &Transaction,
) -> Outlook {
    if transaction.doubtful {
        let why = "lines of the ledger that may tell how it ended are lost";
        return Outlook::NeedsPerson(why.to_owned());
    }
    let moves = &transaction.record.moves;
    let branch = |spot: &Spot| branches.iter().find(|branch| branch.uuid == spot.branch);
    let mut waits: Vec<BranchUuid> = Vec::new();
    let mut past = None;
    for spot in moves.iter().flat_map(|step| [&step.from, &step.to]) {
        if is_past(spot.branch) {
            past = past.or(Some(spot.branch));
        } else if branch(spot).is_none() && !waits.contains(&spot.branch) {
            waits.push(spot.branch);
        }
    }
    match past {
        _ if !waits.is_empty() => return Outlook::Waits(waits),
        Some(uuid) => return Outlook::NeedsPerson(journal.no_branch(uuid).to_string()),
        None => {}
    }
    let place = |spot: &Spot| {
        let branch = branch(spot)?;
        let dir = match spot.area {
            Area::Stage => branch.stage.clone(),
            Area::Hold => branch.hold.clone(),
            Area::Tree => {
                let folder = spot.path.parent().unwrap_or(Path::new(""));
                storage.open_dir(&branch.root, folder).ok()?
            }
        };
        Some(Place::<S> { dir, name: spot.path.file_name()?.to_owned() })
    };
    let nowhere = |step: &&Move| {
        // Where a folder is gone recovery asks what is at the other ends.
        let (Some(from), Some(to)) = (place(&step.from), place(&step.to)) else { return false };
        let placed = PlacedMove { step: (*step).clone(), from, to };
        matches!(whereabouts(storage, &placed), Ok(Whereabouts::Doubt))
    };
    match moves.iter().find(nowhere) {
        None => Outlook::Ends,
        Some(step) => {
            let at = |spot: &Spot| {
                let name = branch(spot).map_or("?", |branch| branch.name.as_str());
                let path = spot.path.display();
                match spot.area {
                    Area::Tree => format!("{path} of branch {name}"),
                    Area::Stage => format!("{path} in stage of branch {name}"),
                    Area::Hold => format!("{path} in hold of branch {name}"),
                }
            };
            let (what, from, to) = (subject(step), at(&step.from), at(&step.to));
            Outlook::NeedsPerson(format!("{what} is neither at {from} nor at {to}"))
        }
    }
}

/// What a completed crossing should have in hold.
fn missing<S: Storage, B: Deref<Target = MoverBranch<S>>>(
    storage: &S,
    journal: &Journal,
    branches: &[B],
    txid: TxId,
) -> Option<Irregularity> {
    // A running undo, or one that needs a person, may have taken it.
    let record = &journal.get(txid).filter(|_| !journal.is_being_undone(txid))?.record;
    let held = record.moves.iter().filter(|step| step.to.area == Area::Hold);
    let (mut lost, mut there) = (Vec::new(), 0_usize);
    for step in held {
        let branch = branches.iter().find(|branch| branch.uuid == step.to.branch)?;
        let name = step.to.path.as_os_str();
        let what = subject(step);
        match storage.stat(&branch.hold, name) {
            Ok(Some(found)) if found.identity.handle == step.identity.handle => {
                there = there.saturating_add(1);
            }
            Ok(Some(_)) => {
                there = there.saturating_add(1);
                lost.push(format!(
                    "{} in hold of branch {} is not {what}",
                    name.display(),
                    branch.name
                ));
            }
            Ok(None) => {
                lost.push(format!("{what} is not in hold of branch {}", branch.name));
            }
            Err(errno) => {
                let (branch, why) = (branch.name.clone(), errno_name(errno));
                let why = format!("cannot look at {} in hold: {why}", name.display());
                return Some(Irregularity::Unreadable(branch, why));
            }
        }
    }
    (!lost.is_empty()).then(|| Irregularity::Missing(txid, lost.join("; "), there == 0))
}
