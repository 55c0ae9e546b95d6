//! Branches that left the view for good, adopted anew or taken out of the configuration, and are in it again.
//!
//! A decided transaction that has a part on such a branch becomes a dead letter, for nobody can tell how far
//! that part came: after a power loss the source may stand on a disk that left, beside what has arrived.
//! The letter's record has the moves that are not known to be made ([`Rest`](super::Rest)). When their branch is in
//! the view again, and what crosses is at its target, they are made before users reach the branch: a file is seen once.
//! What has arrived is never taken out of the view for that, unless a person wanted it back ([`back`](super::Rest::back));
//! where a move fails, a person is asked. None of it is forgotten while one of its branches cannot be looked at.

use super::error::CrossingError;
use super::journal::{Transaction, TransactionState};
use super::letters::subject;
use super::moves::{self, PlacedMove, Whereabouts};
use super::recover::{NotNow, is_disk_trouble};
use super::sabotage::sabotaged;
use super::{Mover, Recovery, later_step};
use crate::error::{Errno, errno_name};
use crate::ledger::Durability;
use crate::ledger::record::{Act, CrossingRecord, Move, Spot, Step};
use crate::storage::{Kind, Metadata, Storage};
use crate::types::BranchUuid;

/// What is to be done with a rest.
enum Plan<S: Storage> {
    /// Nothing, for now.
    Wait,
    /// These moves are to be made. Whether that is all.
    Make(Vec<PlacedMove<S>>, bool),
    /// All is to be taken back.
    TakeBack,
    /// It cannot be gone on with; why.
    Ask(String),
}

/// Whether what crosses is seen at its target.
enum Arrival {
    There,
    NotYet,
    /// Somebody has moved or replaced it, or it is lost; which, in words.
    Nowhere(String),
}

impl<S: Storage> Mover<S> {
    /// Whether no branch of the view has one of its ends any more.
    pub(super) fn is_past_move(&self, step: &Move) -> bool {
        self.is_past(step.from.branch) || self.is_past(step.to.branch)
    }

    /// The first branch that a transaction has a part on and the view no more.
    pub(super) fn past_of(&self, record: &CrossingRecord) -> Option<BranchUuid> {
        let mut ends = record.moves.iter().flat_map(|step| [step.from.branch, step.to.branch]);
        ends.find(|uuid| self.is_past(*uuid))
    }

    /// Whether what crossed is at its target, and where it came from is in the view no more: then it must stay.
    /// An error, in words, says nothing.
    pub(super) fn must_stay(&self, record: &CrossingRecord) -> Result<bool, String> {
        let is_homeless = |step: &Move| step.act == Act::Retire && self.is_past_move(step);
        if !record.moves.iter().any(is_homeless) || sabotaged("past: what has arrived stays") {
            return Ok(false);
        }
        for step in record.moves.iter().filter(|step| brings(step)) {
            match self.open_ends(step) {
                Ok(ends) => match self.where_is(&ends)? {
                    Whereabouts::To | Whereabouts::Both => return Ok(true),
                    Whereabouts::From | Whereabouts::MovedOn | Whereabouts::Doubt => {}
                },
                Err(NotNow::LeftOpen(why)) => return Err(why),
                Err(NotNow::Impossible(_)) => {}
            }
        }
        Ok(false)
    }

    /// What a dead letter waits for that a person wanted taken back.
    pub(super) fn past_moves(&self, record: &CrossingRecord) -> Vec<Move> {
        record.moves.iter().filter(|step| self.is_past_move(step)).cloned().collect()
    }

    /// What of a rest waits on when a person declares right what is there: all of it, while a part of it cannot be
    /// looked at.
    pub(super) fn rest_of_accepted(&self, letter: &Transaction) -> Vec<Move> {
        match letter.waits_for().iter().all(|step| self.is_in_sight(step)) {
            true => Vec::new(),
            false => letter.rest.moves.clone(),
        }
    }

    /// Whether both ends of a move can be looked at.
    fn is_in_sight(&self, step: &Move) -> bool {
        let online = |spot: &Spot| self.branch_by_uuid(spot.branch).is_some();
        [&step.from, &step.to].into_iter().all(online)
            && match self.open_ends(step) {
                Ok(ends) => self.where_is(&ends).is_ok(),
                Err(NotNow::LeftOpen(_)) => false,
                Err(NotNow::Impossible(_)) => true,
            }
    }

    /// Goes on with what waited for branches that are in the view again: with all of it at start, when nobody
    /// uses anything; for a branch that has `returned` only what it has of it, for nobody can reach its names
    /// yet. May be cut off anywhere and run again.
    pub(super) fn go_on_with_rests(&self, returned: Option<BranchUuid>, recovery: &mut Recovery) {
        // The disks of other letters may hang.
        let concerned = |step: &Move| {
            returned.is_none_or(|uuid| step.from.branch == uuid && !self.is_past_move(step))
        };
        let waits = |found: &Transaction| {
            let state = found.state;
            let kept = matches!(state, TransactionState::Dead | TransactionState::Accepted);
            kept && found.waits_for().iter().any(concerned)
        };
        let letters: Vec<Transaction> = self.with_journal(|journal| {
            journal
                .iter()
                .filter(|(_, found)| waits(found))
                .map(|(_, found)| found.clone())
                .collect()
        });
        for letter in letters {
            let txid = letter.record.txid;
            if self.unsynced.lock().contains(&txid) {
                continue;
            }
            let gone_on = match self.plan_rest(&letter, returned) {
                Ok(Plan::Wait) => continue,
                Ok(Plan::Make(moves, all)) => self.make_rest(&letter, &moves, all, recovery),
                Ok(Plan::TakeBack) => self.take_rest_back(&letter, recovery),
                Ok(Plan::Ask(why)) => self.ask(&letter, why, recovery),
                Err(why) => Err(why),
            };
            if let Err(why) = gone_on {
                log::warn!("transaction {txid} waits: {why}");
            }
        }
    }

    /// Looks where everything is. An error, in words, says nothing.
    fn plan_rest(
        &self,
        letter: &Transaction,
        returned: Option<BranchUuid>,
    ) -> Result<Plan<S>, String> {
        let (record, rest) = (&letter.record, &letter.rest);
        // Where the target is not in the view, the source is all that there is.
        if record.moves.iter().any(|step| brings(step) && self.is_past(step.to.branch)) {
            return Ok(Plan::Wait);
        }
        let arrived = match self.arrival(record)? {
            Arrival::There => true,
            Arrival::NotYet => false,
            Arrival::Nowhere(why) => return Ok(Plan::Ask(why)),
        };
        if rest.back && !(arrived && self.is_worked_on(record)?) {
            return match self.may_go_back(record, returned)? {
                true => Ok(self.is_shut_out(record)?.map_or(Plan::TakeBack, Plan::Ask)),
                false if arrived => {
                    Err("it is taken back by a mount that has all its branches".into())
                }
                false => Ok(Plan::Wait),
            };
        }
        if !arrived {
            // It is at its source, or out of the view: in one place at most. What was accepted so needs nobody.
            return Ok(match letter.state {
                TransactionState::Accepted => Plan::Ask("nothing has arrived".to_owned()),
                _ => Plan::Wait,
            });
        }
        self.plan_arrived(letter, returned)
    }

    /// What is to be made where what crosses is seen at its target.
    fn plan_arrived(
        &self,
        letter: &Transaction,
        returned: Option<BranchUuid>,
    ) -> Result<Plan<S>, String> {
        let (mut placed, mut all, mut ask) = (Vec::new(), true, None);
        for step in &letter.record.moves {
            let waits = letter.rest.moves.contains(step);
            if self.is_past_move(step) {
                all = false;
                continue;
            }
            let ends = match self.open_ends(step) {
                Ok(ends) => ends,
                Err(NotNow::LeftOpen(why)) if waits => return Err(why),
                Err(NotNow::LeftOpen(_)) => {
                    all = false;
                    continue;
                }
                Err(NotNow::Impossible(error)) => {
                    ask = (waits || leaves(step)).then(|| error.to_string()).or(ask);
                    continue;
                }
            };
            let at = self.where_is(&ends)?;
            let stands = matches!(at, Whereabouts::From | Whereabouts::Both);
            if !waits {
                // It was made, and was given back since; and users may have moved on with it.
                let path = step.from.path.display();
                let gone = at == Whereabouts::Doubt && leaves(step);
                ask = gone.then(|| format!("{} is no longer kept", subject(step))).or(ask);
                ask = stands.then(|| format!("{} is at {path} again", subject(step))).or(ask);
                continue;
            }
            let here = returned.is_none_or(|uuid| uuid == step.from.branch);
            // Of what is made elsewhere nothing is compared, and so nothing moved.
            let made = at == Whereabouts::To && !leaves(step);
            if here || made {
                placed.push(ends);
                continue;
            }
            if stands {
                return Ok(Plan::Wait);
            }
            // The next start looks at it.
            all = false;
        }
        Ok(ask.map_or(Plan::Make(placed, all), Plan::Ask))
    }

    /// Whether all can be taken back now: no part of it is missing, and where a branch has `returned`, no name of
    /// another one changes.
    fn may_go_back(
        &self,
        record: &CrossingRecord,
        returned: Option<BranchUuid>,
    ) -> Result<bool, String> {
        for step in &record.moves {
            if !self.is_in_sight(step) {
                return Ok(false);
            }
            let is_here = |spot: &Spot| returned.is_none_or(|uuid| uuid == spot.branch);
            if is_here(&step.from) && is_here(&step.to) {
                continue;
            }
            let Ok(ends) = self.open_ends(step) else { return Ok(false) };
            if self.where_is(&ends)? != Whereabouts::From {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Why a source cannot come back to its name, in words, if so: what crosses would be at neither of its names then.
    fn is_shut_out(&self, record: &CrossingRecord) -> Result<Option<String>, String> {
        for step in record.moves.iter().filter(|step| step.act == Act::Retire) {
            let path = step.from.path.display();
            let ends = match self.open_ends(step) {
                Ok(ends) => ends,
                Err(NotNow::LeftOpen(why)) => return Err(why),
                Err(NotNow::Impossible(error)) => return Ok(Some(error.to_string())),
            };
            if self.where_is(&ends)? != Whereabouts::To {
                continue;
            }
            let found = self.storage.stat(&ends.from.dir, &ends.from.name);
            let found =
                found.map_err(|errno| format!("cannot look at {path}: {}", errno_name(errno)))?;
            // What another move brought there goes first, where it can.
            let goes = |found: &Metadata| -> Result<bool, String> {
                let mut others = record.moves.iter().filter(|other| other.to == step.from);
                let brought = others.find(|other| other.identity.handle == found.identity.handle);
                let from = match brought.map(|other| self.open_spot(&other.from)) {
                    None | Some(Err(NotNow::Impossible(_))) => return Ok(false),
                    Some(Err(NotNow::LeftOpen(why))) => return Err(why),
                    Some(Ok(from)) => from,
                };
                let there = self.storage.stat(&from.dir, &from.name);
                let there = there
                    .map_err(|errno| format!("cannot look at {path}: {}", errno_name(errno)))?;
                // A rename that a crash left half done is finished.
                Ok(there.is_none_or(|there| there.identity.handle == found.identity.handle))
            };
            if let Some(found) = found
                && !goes(&found)?
            {
                return Ok(Some(format!("{path} is taken")));
            }
        }
        Ok(None)
    }

    /// The wish comes first, as when a person has it: cut off, the next recovery goes on with it.
    fn take_rest_back(&self, letter: &Transaction, recovery: &mut Recovery) -> Result<(), String> {
        let record = &letter.record;
        let wish = later_step(record, Step::Withdraw, letter.reason.clone(), String::new());
        let wish = CrossingRecord { result: None, ..wish };
        if !sabotaged("past: the wish comes first") {
            self.record(wish, Durability::Sync).map_err(|error| error.to_string())?;
        }
        self.take_back(record, recovery);
        Ok(())
    }

    /// Looks whether what crosses is at its target, whatever the record says: a disk may have been put back to an
    /// earlier day while it was out. An error, in words, says nothing.
    fn arrival(&self, record: &CrossingRecord) -> Result<Arrival, String> {
        let is_at = |spot: &Spot, step: &Move| {
            let place = match self.open_spot(spot) {
                Ok(place) => place,
                Err(NotNow::LeftOpen(why)) => return Err(why),
                Err(NotNow::Impossible(_)) => return Ok(false),
            };
            let found = self.storage.stat(&place.dir, &place.name).map_err(|errno| {
                format!("cannot look at {}: {}", spot.path.display(), errno_name(errno))
            })?;
            Ok(found.is_some_and(|found| found.identity.handle == step.identity.handle))
        };
        let mut arrival = Arrival::NotYet;
        for step in record.moves.iter().filter(|step| brings(step)) {
            if is_at(&step.to, step)? {
                arrival = Arrival::There;
            } else if !self.is_past(step.from.branch) && !is_at(&step.from, step)? {
                let (what, path) = (subject(step), step.to.path.display());
                return Ok(Arrival::Nowhere(format!("{what} is not at {path}")));
            }
        }
        Ok(arrival)
    }

    pub(super) fn where_is(&self, ends: &PlacedMove<S>) -> Result<Whereabouts, String> {
        moves::whereabouts(&*self.storage, ends).map_err(|error| error.to_string())
    }

    /// Makes what of a rest can be made. What has arrived stays, whatever fails.
    fn make_rest(
        &self,
        letter: &Transaction,
        placed: &[PlacedMove<S>],
        all: bool,
        recovery: &mut Recovery,
    ) -> Result<(), String> {
        let record = &letter.record;
        for ends in placed {
            let one = std::slice::from_ref(ends);
            let stands = matches!(self.where_is(ends)?, Whereabouts::From | Whereabouts::Both);
            let forward = || {
                if stands {
                    self.check_displaced(ends)?;
                }
                moves::forward(&*self.storage, one, None)
            };
            // Of a second name that went, the second run compares what is under the first.
            let Err(stopped) = forward().and_then(|()| forward()) else { continue };
            let mut why = stopped.why.to_string();
            if !stopped.doubt {
                if is_disk_trouble(&stopped.why) {
                    return Err(why);
                }
                // It may have been moved before it was found to be another.
                if let Err(error) = moves::back(&*self.storage, one) {
                    why = format!("{why}; then: {error}");
                }
            }
            return self.ask(letter, why, recovery);
        }
        if !all {
            return self.sync_moves(record, placed, false).map_err(|error| error.to_string());
        }
        if letter.state == TransactionState::Accepted {
            self.sync_moves(record, placed, false).map_err(|error| error.to_string())?;
            return self.end_rest(
                record,
                Step::Accept,
                "what waited for a branch is made".to_owned(),
            );
        }
        if self.confirm(record, placed) {
            recovery.completed.push(record.txid);
        }
        Ok(())
    }

    /// What makes way is deleted in the end: it must be as it was, for its branch was out of the view, and somebody
    /// may have worked on it.
    fn check_displaced(&self, ends: &PlacedMove<S>) -> Result<(), CrossingError> {
        if ends.step.act != Act::Displace {
            return Ok(());
        }
        let expected = &ends.step.identity;
        for place in [&ends.from, &ends.to] {
            let found = self.storage.stat(&place.dir, &place.name);
            let found = found.map_err(CrossingError::io("look at", place.name.display()))?;
            let changed = found.is_some_and(|found| {
                found.kind == Kind::File
                    && found.identity.handle == expected.handle
                    && !expected.same_content(&found.identity)
            });
            if changed {
                let path = ends.step.from.path.display();
                return Err(CrossingError::io("move away what somebody changed,", path)(
                    Errno::BUSY,
                ));
            }
        }
        Ok(())
    }

    /// It waits no more: a person must look. But not while a part of it is missing, for that would be forgotten then.
    fn ask(
        &self,
        letter: &Transaction,
        why: String,
        recovery: &mut Recovery,
    ) -> Result<(), String> {
        if !letter.waits_for().iter().all(|step| self.is_in_sight(step)) {
            return Err(why);
        }
        let why =
            format!("its branch is in the view again, but not everything can be moved: {why}");
        // What somebody has declared right stays so.
        let accepted = letter.state == TransactionState::Accepted;
        let step = if accepted { Step::Accept } else { Step::Dead };
        self.end_rest(&letter.record, step, why.clone())?;
        let told = if accepted { &mut recovery.accepted } else { &mut recovery.dead };
        told.push((letter.record.txid, why));
        Ok(())
    }

    fn end_rest(&self, record: &CrossingRecord, step: Step, why: String) -> Result<(), String> {
        let record = later_step(record, step, Some(why), "EIO".to_owned());
        self.record(record, Durability::Sync).map_err(|error| error.to_string())
    }
}

/// Whether a move takes something out of the view.
fn leaves(step: &Move) -> bool {
    matches!(step.act, Act::Retire | Act::Displace)
}

/// Whether a move brings what moves to its target.
fn brings(step: &Move) -> bool {
    matches!(step.act, Act::Apply | Act::Rename)
}

/// Why a transaction becomes a dead letter whose branch left, as `why` says.
pub(super) fn why_past(record: &CrossingRecord, why: &CrossingError, rest: &[Move]) -> String {
    match record.moves.iter().any(|step| brings(step) && !rest.contains(step)) {
        true => format!(
            "{why}. What crossed is at its target and stays; what may be left of it on that branch is \
             moved when it is in the view again"
        ),
        false => why.to_string(),
    }
}
