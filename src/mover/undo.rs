//! Undo: what a crossing moved to hold goes back to its name, by the same way as a crossing.

use std::sync::Arc;

use super::error::CrossingError;
use super::journal::TransactionState;
use super::moves::Place;
use super::pass::pass;
use super::prepare::{Ends, Prepared, place};
use super::{Mover, MoverBranch, stage};
use crate::ledger::Durability;
use crate::ledger::record::{Act, Area, CrossingRecord, Move, Spot, Step};
use crate::storage::{Kind, Metadata, Storage};
use crate::types::{Caller, TxId};

impl<S: Storage> Mover<S> {
    /// Prepares to take back a completed crossing; [`Mover::commit`] does it. `may_any` is for root
    /// and the mounting user, who may undo what others did. The caller holds the locks on both
    /// names, and the policy's deny rules have been asked.
    ///
    /// Refused when the target is not what arrived there, when something stands at the source, when
    /// hold has been purged.
    pub fn prepare_undo(
        self: &Arc<Self>,
        caller: Caller,
        exe: Option<String>,
        may_any: bool,
        undone: TxId,
    ) -> Result<Prepared<S>, CrossingError> {
        let purging = self.purging.lock();
        let original = self.undoable(caller, may_any, undone)?;
        let find = |act: Act| original.moves.iter().find(|step| step.act == act);
        let Some(applied) = find(Act::Apply) else {
            return Err(impossible(undone, "its record names no target"));
        };
        let retired = find(Act::Retire);
        let displaced = find(Act::Displace);

        let source = self.spot(&applied.to)?;
        let target = self.spot(retired.map_or(&applied.from, |retired| &retired.from))?;
        self.look_at_target(&target.1, true)?;
        let found = self.look_at_source(&source.1).map_err(|error| match error {
            CrossingError::SourceGone => impossible(undone, "nothing is at its target any more"),
            other => other,
        })?;
        for held in [retired, displaced].into_iter().flatten() {
            self.check_held(undone, held)?;
        }

        let record = self.undo_record(caller, exe, &original);
        let txid = record.txid;
        let mut moves = Vec::new();
        let arriving = match retired {
            Some(retired) => {
                let branch = self.branch_of(&source.0)?;
                moves.push(place(Act::Retire, &source, &branch.in_hold(txid), &found.identity));
                let held = self.spot(&retired.to)?;
                moves.push(place(Act::Apply, &held, &target, &retired.identity));
                retired.identity.clone()
            }
            None => {
                moves.push(place(Act::Apply, &source, &target, &found.identity));
                found.identity.clone()
            }
        };
        if let Some(displaced) = displaced {
            let held = self.spot(&displaced.to)?;
            moves.push(place(Act::Restore, &held, &source, &displaced.identity));
        }
        let target_branch = self.branch_of(&target.0)?;
        let ends = Ends { displaced: target_branch.in_hold(txid), source, target };
        let between = [self.branch_of(&ends.source.0)?.index, target_branch.index];
        self.announce(&record, "prepare");
        if let Err(error) = self.record(record.clone(), Durability::Group) {
            self.active.lock().remove(&txid);
            return Err(error);
        }
        drop(purging);
        let identity = found.identity.clone();
        let mut prepared = self.prepared(record, moves, ends, between, identity, arriving);
        match self.compare_target(&mut prepared, &original, &found) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.abort(Some(&error));
                Err(error)
            }
        }
    }

    /// The COMMIT record of a transaction that may be taken back.
    fn undoable(
        &self,
        caller: Caller,
        may_any: bool,
        txid: TxId,
    ) -> Result<CrossingRecord, CrossingError> {
        let found = self.with_journal(|journal| journal.get(txid).cloned());
        let found = found.ok_or(CrossingError::UndoUnknown { txid })?;
        if found.record.uid != caller.uid && !may_any {
            return Err(CrossingError::UndoNotYours { txid });
        }
        if found.state != TransactionState::Done {
            return Err(CrossingError::UndoUnknown { txid });
        }
        if let Some(by) = found.undone_by {
            return Err(impossible(txid, &format!("{by} has undone it")));
        }
        if found.record.rearrangement {
            return Err(impossible(txid, "it is a rename within a pool; rename back instead"));
        }
        if found.record.undoes.is_some() {
            return Err(impossible(txid, "it is an undo itself; cross again instead"));
        }
        if found.purged {
            return Err(impossible(txid, "what it kept in hold was purged"));
        }
        Ok(found.record)
    }

    fn branch_of(&self, spot: &Spot) -> Result<Arc<MoverBranch<S>>, CrossingError> {
        self.branch_by_uuid(spot.branch)
            .ok_or_else(|| CrossingError::Offline { branch: spot.branch.to_string() })
    }

    fn spot(&self, spot: &Spot) -> Result<(Spot, Place<S>), CrossingError> {
        let place = self.open_in(&*self.branch_of(spot)?, spot)?;
        Ok((spot.clone(), place))
    }

    /// What hold should keep must be there, as it was when it came.
    fn check_held(&self, undone: TxId, held: &Move) -> Result<(), CrossingError> {
        if held.to.area != Area::Hold {
            return Err(impossible(undone, "its record is not understood"));
        }
        let (_, place) = self.spot(&held.to)?;
        let found = self
            .storage
            .stat(&place.dir, &place.name)
            .map_err(CrossingError::io("look at", "what is held"))?
            .ok_or_else(|| impossible(undone, "what it moved to hold is gone"))?;
        let same = match held.act {
            Act::Retire => found.identity.same_content(&held.identity),
            Act::Displace | Act::Apply | Act::Restore | Act::Rename => {
                found.identity.handle == held.identity.handle
            }
        };
        if same { Ok(()) } else { Err(impossible(undone, "what it moved to hold has changed")) }
    }

    fn undo_record(
        &self,
        caller: Caller,
        exe: Option<String>,
        original: &CrossingRecord,
    ) -> CrossingRecord {
        let [from, to] = &original.branches;
        CrossingRecord {
            txid: TxId(ulid::Ulid::generate()),
            step: Step::Prepare,
            gate: None,
            undoes: Some(original.txid),
            rearrangement: false,
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            exe,
            source: original.target.clone(),
            target: original.source.clone(),
            branches: [to.clone(), from.clone()],
            sha256: None,
            size: original.size,
            readback: None,
            moves: Vec::new(),
            replaced: None,
            reason: None,
            result: None,
        }
    }

    /// The target must have the content that COMMIT promised, and keep it until the decision.
    fn compare_target(
        &self,
        prepared: &mut Prepared<S>,
        original: &CrossingRecord,
        found: &Metadata,
    ) -> Result<(), CrossingError> {
        let undone = original.txid;
        let arrived = original.moves.iter().find(|step| step.act == Act::Apply);
        let sha256 = match &found.kind {
            Kind::File => {
                let opened = self.open_source(&prepared.ends.source.1)?;
                let found = self.stat_file(&opened.file)?;
                prepared.identity = found.identity;
                for placed in &mut prepared.moves {
                    if placed.step.from == prepared.ends.source.0 {
                        placed.step.identity = prepared.identity.clone();
                    }
                }
                let size = prepared.identity.size;
                let hashed = pass(&*self.storage, &opened.file, None, size, &prepared.progress)?;
                self.make_durable(&opened.file)?;
                prepared.lease = opened.lease;
                Some(hashed.sha256)
            }
            Kind::Symlink(text) => Some(stage::hash_text(text)),
            _ if arrived.is_some_and(|step| step.identity.handle == found.identity.handle) => None,
            _ => return Err(impossible(undone, "its target has been replaced")),
        };
        if sha256 != original.sha256 {
            return Err(impossible(undone, "its target has changed since"));
        }
        prepared.record.sha256 = sha256;
        prepared.record.readback = Some("same".to_owned());
        let target = &prepared.ends.target.0;
        self.sync_way_to(&*self.branch_of(target)?, &target.path)
    }
}

fn impossible(txid: TxId, why: &str) -> CrossingError {
    CrossingError::UndoImpossible { txid, why: why.to_owned() }
}
