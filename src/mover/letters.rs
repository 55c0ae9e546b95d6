//! Dead letters: what a person finds of a transaction that needs one, and what may be done about it.
//!
//! Each wish is recorded before anything is moved, and from then on it is an open transaction like any
//! other: cut off anywhere, the next recovery goes on with it ([`Step::Retry`] by the way of a
//! decided crossing, [`Step::Withdraw`] by [`Mover::take_back`]). It ends as DONE, as REVERTED, or
//! as a dead letter again. [`Step::Accept`] moves nothing. Nothing that a dead letter keeps is deleted
//! but by [`Settle::Discard`] and [`Settle::GiveUp`].

use std::sync::Arc;

use super::error::CrossingError;
use super::journal::{Transaction, TransactionState};
use super::moves::{self, Place, PlacedMove, Whereabouts};
use super::recover::{NotNow, is_disk_trouble};
use super::sabotage::sabotaged;
use super::{Mover, Recovery, later_step};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, Area, CrossingRecord, Move, Spot, Step};
use crate::storage::Storage;
use crate::types::{Caller, TxId};

/// What a person wants of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Try once more to complete it, and where that fails to put it back; what has arrived stays.
    Retry,
    /// Put back what can be; keep everything else.
    Withdraw,
    /// What is there is right. What stage and hold have of it stays.
    Accept,
    /// As [`Settle::Accept`], also of one that was accepted before; and what stage and hold have of it is
    /// deleted.
    Discard,
    /// As [`Settle::Discard`], where branches of it that left the view never come back.
    GiveUp,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Completed: what crossed is at its target.
    Done,
    /// Everything is as before the crossing; why, where it could not be completed.
    Reverted(Option<String>),
    /// It is no dead letter any more.
    Accepted,
    /// It is still one; why.
    Dead(String),
    /// A disk failed: recovery goes on when the branch is back or the view is mounted again; why.
    Waits(String),
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    /// None of that id is remembered.
    #[error("there is no such transaction")]
    Unknown,
    /// It needs nobody.
    #[error("it is {state}, and needs nobody")]
    NotDead {
        /// How it is, as `octroi tx list` says it.
        state: &'static str,
    },
    /// It could not end well.
    #[error("{why}\nhint: nothing was changed; {hint}")]
    InVain {
        /// What is in the way.
        why: String,
        /// What may be done.
        hint: &'static str,
    },
    /// Something else stands where it should have something.
    #[error(
        "{at} is not what the transaction put there; nothing was deleted\n\
         hint: it may be a copy that somebody brought back: move it away, and discard again"
    )]
    NotIts {
        /// Name, area and branch.
        at: String,
    },
    /// The ledger did not take the wish.
    #[error("the ledger did not take the record: {}", errno_name(*errno))]
    Ledger {
        /// Why.
        errno: Errno,
    },
}

/// Where what a move speaks of is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Where the move would take it from.
    NotMoved,
    /// Where the move would take it to.
    Moved,
    /// At both names, by a rename that a crash left half done.
    AtBoth,
    /// It left stage or hold, and is not where it should have gone: moved on, or gone.
    Left,
    /// At neither name.
    Nowhere,
    /// One name cannot be looked at, for good: its folder is gone. In words.
    NoFolder(String),
    /// One name was on a branch that the view has no more. In words.
    Past(String),
    /// It cannot be looked for now: in words.
    NotNow(String),
}

/// One move of a transaction, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// As the decision has it.
    pub step: Move,
    /// Where it is now.
    pub found: Found,
    /// It is a copy that somebody has written to since it was made.
    pub written: bool,
}

/// What taking back did with a move.
enum Back {
    /// Its inode is where it was.
    Home,
    /// It is not, and why.
    Left(String),
    /// The copy keeps its name, as it arrived, and why.
    Stands(String),
}

impl<S: Storage> Mover<S> {
    /// Looks for everything that a transaction has moved or would have. Changes nothing.
    pub fn examine(&self, txid: TxId) -> Vec<Finding> {
        let moves = self.with_journal(|journal| {
            journal.get(txid).map(|found| found.record.moves.clone()).unwrap_or_default()
        });
        moves.into_iter().map(|step| self.find(step)).collect()
    }

    fn find(&self, step: Move) -> Finding {
        let (found, written) = match self.open_ends(&step) {
            Ok(placed) => match moves::whereabouts(&*self.storage, &placed) {
                Ok(at) => (found(at), self.is_written(&placed, at).unwrap_or(false)),
                Err(error) => (Found::NotNow(error.to_string()), false),
            },
            Err(NotNow::LeftOpen(why)) => (Found::NotNow(why), false),
            Err(NotNow::Impossible(error @ CrossingError::NoBranch { .. })) => {
                (Found::Past(error.to_string()), false)
            }
            Err(NotNow::Impossible(error)) => (Found::NoFolder(error.to_string()), false),
        };
        Finding { step, found, written }
    }

    pub(super) fn open_ends(&self, step: &Move) -> Result<PlacedMove<S>, NotNow> {
        let (from, to) = (self.open_spot(&step.from)?, self.open_spot(&step.to)?);
        Ok(PlacedMove { step: step.clone(), from, to })
    }

    /// Does what a person, `caller`, wants of a dead letter. The caller of this holds locks on both names
    /// and whatever the moves speak of.
    pub fn settle(
        &self,
        caller: Caller,
        exe: Option<Arc<str>>,
        txid: TxId,
        settle: Settle,
    ) -> Result<Settled, LetterError> {
        let settled = {
            let recovering = self.recovering.lock();
            let letter = self.letter(txid, settle)?;
            self.check_wish(&letter, settle)?;
            let wish = |step| CrossingRecord {
                uid: caller.uid,
                gid: caller.gid,
                pid: caller.pid,
                exe: exe.clone(),
                result: None,
                ..later_step(&letter.record, step, letter.reason.clone(), String::new())
            };
            match settle {
                Settle::Retry => {
                    let moves = self.arrived(&letter.record);
                    let wish = CrossingRecord { moves, ..wish(Step::Retry) };
                    self.go_on(&letter.record, wish)?
                }
                Settle::Withdraw => self.go_on(&letter.record, wish(Step::Withdraw))?,
                Settle::Accept => {
                    let moves = self.rest_of_accepted(&letter);
                    self.write_wish(CrossingRecord { moves, ..wish(Step::Accept) })?;
                    Settled::Accepted
                }
                Settle::Discard | Settle::GiveUp => {
                    if letter.state == TransactionState::Dead {
                        // Until the purge is recorded too, it waits as before.
                        let moves = letter.rest.moves.clone();
                        self.write_wish(CrossingRecord { moves, ..wish(Step::Accept) })?;
                    }
                    self.discard(caller, txid, settle == Settle::GiveUp, recovering)?;
                    return Ok(Settled::Accepted);
                }
            }
        };
        self.purge_rearrangements();
        Ok(settled)
    }

    /// What a wish is about, if it fits how that is now.
    pub fn letter(&self, txid: TxId, settle: Settle) -> Result<Transaction, LetterError> {
        let found = self.with_journal(|journal| journal.get(txid).cloned());
        let found = found.ok_or(LetterError::Unknown)?;
        let fits = match found.state {
            TransactionState::Dead => true,
            TransactionState::Accepted => {
                matches!(settle, Settle::Discard | Settle::GiveUp) && !found.purged
            }
            _ => false,
        };
        if fits { Ok(found) } else { Err(LetterError::NotDead { state: found.state.word() }) }
    }

    fn write_wish(&self, wish: CrossingRecord) -> Result<(), LetterError> {
        let recorded = self.record(wish, Durability::Sync);
        recorded.map_err(|error| LetterError::Ledger { errno: error.errno() })
    }

    /// What is at neither end is not found by trying again; and what has left stage or hold, which nobody
    /// but a person with rights over the branch can reach, may be gone.
    pub(super) fn check_worth_trying(&self, txid: TxId) -> Result<(), LetterError> {
        let in_vain = |finding: &Finding| {
            let what = subject(&finding.step);
            let (why, hint) = match &finding.found {
                Found::Nowhere | Found::Left => (
                    format!("{what} is at neither of its names"),
                    "bring it back to one of them, or see octroi tx show for the other choices",
                ),
                Found::NotNow(why) => (why.clone(), "try again when the branch is well"),
                Found::Past(why) => (
                    why.clone(),
                    "when the configuration has that branch again, the mount goes on with what has arrived; \
                     try again then where nothing has",
                ),
                Found::NotMoved | Found::Moved | Found::AtBoth | Found::NoFolder(_) => return None,
            };
            Some(LetterError::InVain { why, hint })
        };
        self.examine(txid).iter().find_map(in_vain).map_or(Ok(()), Err)
    }

    /// What has arrived is not taken out of the view while its source cannot come back to it.
    pub(super) fn check_may_leave(&self, record: &CrossingRecord) -> Result<(), LetterError> {
        let Some(uuid) = self.past_of(record) else { return Ok(()) };
        match self.must_stay(record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(why) => {
                let hint = "try again when the branch is well";
                return Err(LetterError::InVain { why, hint });
            }
        }
        let why = format!(
            "what crossed is at its target, and where it came from is gone: {}",
            self.no_branch(uuid)
        );
        let hint =
            "accept what has arrived; or have the branch in the configuration again, and undo";
        Err(LetterError::InVain { why, hint })
    }

    /// Records the wish and goes on with the transaction as recovery would.
    fn go_on(&self, commit: &CrossingRecord, wish: CrossingRecord) -> Result<Settled, LetterError> {
        let withdrawn = wish.step == Step::Withdraw;
        // Shown as under way, so that nobody takes it for left open; it is too late to cancel it.
        let progress = self.announce(commit, if withdrawn { "withdraw" } else { "retry" });
        let _ = progress.decide();
        let mut recovery = Recovery::default();
        let early = sabotaged("letters: the wish comes first");
        if early && withdrawn {
            self.take_back(commit, &mut Recovery::default());
        }
        let recorded = self.write_wish(wish);
        if recorded.is_ok() {
            match withdrawn {
                true => self.take_back(commit, &mut recovery),
                false => self.complete(commit, &mut recovery),
            }
        }
        self.active.lock().remove(&commit.txid);
        recorded?;
        let Recovery { completed, reverted, dead, left_open, .. } = recovery;
        let first = |list: Vec<(TxId, String)>| list.into_iter().next().map(|(_, why)| why);
        Ok(match (first(dead), first(left_open), first(reverted)) {
            (Some(why), ..) => Settled::Dead(why),
            (_, Some(why), _) => Settled::Waits(why),
            (.., Some(why)) => Settled::Reverted(Some(why).filter(|_| !withdrawn)),
            _ if completed.is_empty() => Settled::Waits("it has not ended".to_owned()),
            _ => Settled::Done,
        })
    }

    /// Puts back what can be, last first, never replacing anything. May be cut off anywhere and run again.
    pub(super) fn take_back(&self, commit: &CrossingRecord, recovery: &mut Recovery) {
        match self.must_stay(commit) {
            Ok(false) => {}
            Ok(true) => {
                let why = "it cannot be taken back while its source's branch is not in the view";
                return self.give_up(commit, why.to_owned(), self.past_moves(commit), recovery);
            }
            Err(why) => return recovery.leave_open(commit, why),
        }
        if let Err(why) = self.check_all_can_move(commit) {
            return recovery.leave_open(commit, why);
        }
        let mut placed = Vec::new();
        let mut left = Vec::new();
        // Work on one part keeps all where it is, and nothing of it goes to where it may be deleted.
        let mut stands = match self.is_worked_on(commit) {
            Ok(worked_on) => worked_on && !sabotaged("letters: work keeps all in place"),
            Err(why) => return recovery.leave_open(commit, why),
        };
        for step in commit.moves.iter().rev() {
            match self.take_back_one(step, stands, &mut placed) {
                Ok(Back::Home) => {}
                Ok(Back::Left(why)) => left.push(why),
                Ok(Back::Stands(why)) => {
                    stands = true;
                    left.push(why);
                }
                Err(why) => return recovery.leave_open(commit, why),
            }
        }
        // As the moves are in the record.
        placed.reverse();
        if let Err(error) = self.sync_moves(commit, &placed, true) {
            return recovery.leave_open(commit, error.to_string());
        }
        match self.check_copy(&placed) {
            Ok(()) => {}
            Err(error @ CrossingError::CopyChanged) => left.push(error.to_string()),
            Err(error) => return recovery.leave_open(commit, error.to_string()),
        }
        let whole = left.is_empty();
        let (step, why) = match whole {
            true => (Step::Reverted, "taken back on request".to_owned()),
            false => (
                Step::Dead,
                format!("taken back on request, as far as it goes; {}", left.join("; ")),
            ),
        };
        let record = later_step(commit, step, Some(why.clone()), "ECANCELED".to_owned());
        let rest = if whole { Vec::new() } else { self.past_moves(commit) };
        let record = CrossingRecord { moves: rest, ..record };
        if sabotaged("letters: the copy goes after REVERTED") {
            self.remove_copy(commit);
        }
        match self.record(record, Durability::Sync) {
            Ok(()) if whole => {
                self.remove_copy(commit);
                recovery.reverted.push((commit.txid, why));
            }
            Ok(()) => recovery.dead.push((commit.txid, why)),
            Err(error) => recovery.leave_open(commit, error.to_string()),
        }
    }

    /// Takes back one move. What was opened of it is added to `placed`. `stands`: the copy keeps the
    /// target, so its source must not come back beside it. An error, in words, says nothing.
    fn take_back_one(
        &self,
        step: &Move,
        stands: bool,
        placed: &mut Vec<PlacedMove<S>>,
    ) -> Result<Back, String> {
        let ends = match self.open_ends(step) {
            Ok(ends) => ends,
            Err(NotNow::LeftOpen(why)) => return Err(why),
            Err(NotNow::Impossible(error)) => return self.half_open(step, &error),
        };
        let at = moves::whereabouts(&*self.storage, &ends).map_err(|error| error.to_string())?;
        let written = self.is_written(&ends, at).map_err(|error| error.to_string())?;
        let back = self.move_back(&ends, at, written, stands);
        placed.push(ends);
        match back {
            Ok(back) => Ok(back),
            Err(error) if is_disk_trouble(&error) => Err(error.to_string()),
            // The copy is not to be had away from the target: then there would be two.
            Err(error) if step.from.area == Area::Stage => Ok(Back::Stands(error.to_string())),
            Err(error) => Ok(Back::Left(error.to_string())),
        }
    }

    fn move_back(
        &self,
        ends: &PlacedMove<S>,
        at: Whereabouts,
        written: bool,
        stands: bool,
    ) -> Result<Back, CrossingError> {
        let (step, storage) = (&ends.step, &*self.storage);
        let to = step.to.path.display();
        match at {
            Whereabouts::From => Ok(Back::Home),
            // Work of users, which nobody takes out of the view.
            _ if written => {
                Ok(Back::Stands(format!("{} at {to} was written to, and stays", subject(step))))
            }
            _ if stands => {
                let branch = self.branch_by_uuid(step.to.branch);
                let branch = branch.map_or_else(String::new, |found| found.name.clone());
                let hold = if step.to.area == Area::Hold { ".octroi/hold/" } else { "" };
                let (what, at) = (subject(step), format!("{hold}{to} of branch {branch}"));
                Ok(Back::Left(format!("{what} stays at {at}, for what was written to is in place")))
            }
            Whereabouts::To => storage
                .rename(&ends.to.dir, &ends.to.name, &ends.from.dir, &ends.from.name)
                .map(|()| Back::Home)
                .map_err(CrossingError::io("put back", step.from.path.display())),
            Whereabouts::Both => {
                moves::finish_rename(storage, &ends.from, &ends.to).map(|()| Back::Home)
            }
            Whereabouts::MovedOn | Whereabouts::Doubt => {
                Ok(Back::Left(format!("{} ({to}) is not found", subject(step))))
            }
        }
    }

    /// The folder of one end is gone: what is at the other, where that is where it was, is home.
    fn half_open(&self, step: &Move, error: &CrossingError) -> Result<Back, String> {
        let is_at = |spot: &Spot| match self.open_spot(spot) {
            Ok(Place { dir, name }) => {
                let found = self.storage.stat(&dir, &name);
                let found = found.map_err(|errno| {
                    format!("cannot look at {}: {}", spot.path.display(), errno_name(errno))
                })?;
                Ok(found.is_some_and(|found| found.identity.handle == step.identity.handle))
            }
            Err(NotNow::LeftOpen(why)) => Err(why),
            Err(NotNow::Impossible(_)) => Ok(false),
        };
        if is_at(&step.from)? {
            return Ok(Back::Home);
        }
        let to = step.to.path.display();
        match is_at(&step.to)? {
            true => Ok(Back::Left(format!("{} stays at {to}: {error}", subject(step)))),
            false => Ok(Back::Left(format!("{} is not found: {error}", subject(step)))),
        }
    }
}

fn found(at: Whereabouts) -> Found {
    match at {
        Whereabouts::From => Found::NotMoved,
        Whereabouts::To => Found::Moved,
        Whereabouts::Both => Found::AtBoth,
        Whereabouts::MovedOn => Found::Left,
        Whereabouts::Doubt => Found::Nowhere,
    }
}

/// What a move is about, for people.
pub fn subject(step: &Move) -> &'static str {
    match (step.act, step.from.area) {
        (Act::Retire, _) => "the source",
        (Act::Displace, _) => "what stood at the target",
        (Act::Apply, Area::Stage) => "the copy",
        (Act::Apply, Area::Tree) => "what crosses",
        (Act::Apply, Area::Hold) => "what comes back",
        (Act::Restore, _) => "what had been replaced",
        (Act::Rename, _) => "what is renamed",
    }
}
