//! A record of the ledger, decided again.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::ledger::record::{CrossingRecord, OperationRecord};
use crate::policy::{Conditions, Decision, Facts, Given, LABEL, Object, Policy, Subject};
use crate::sys::users;
use crate::types::{BranchIndex, Operation, ViewPath};

/// Users whose groups are kept; with more they are looked up again.
const USERS_MAX: usize = 10_000;

/// Why a record cannot be decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Untold {
    /// The user database does not answer.
    Groups,
    /// The configuration has no branch of that name there.
    Branch,
    /// The record's texts were cut.
    Shortened,
    /// It is no record that this program reads.
    Unreadable,
    /// What decided then asked about size, owner or labels, which are not recorded.
    Facts,
}

impl Untold {
    pub fn text(self) -> &'static str {
        match self {
            Self::Groups => "the caller's groups cannot be looked up",
            Self::Branch => "it lies in a branch that the configuration does not have there",
            Self::Shortened => "the record was too long for a line and is cut",
            Self::Unreadable => "the line cannot be read",
            Self::Facts => "the rule asks for size, owner or labels, which are not recorded",
        }
    }
}

/// Decides by one policy.
pub(super) struct Judge {
    policy: Policy,
    branches: HashMap<Arc<str>, BranchIndex>,
    groups: HashMap<u32, Option<Arc<[u32]>>>,
}

impl Judge {
    pub fn new(policy: Policy) -> Self {
        let numbered = policy.source().branches.iter().zip(0u16..);
        let branches =
            numbered.map(|(branch, at)| (Arc::clone(&branch.name), BranchIndex(at))).collect();
        Self { policy, branches, groups: HashMap::new() }
    }

    /// What would be decided of an operation. Of both sides of a rename or move, whichever the record is of.
    pub fn operation(
        &mut self,
        time: Timestamp,
        record: &OperationRecord,
    ) -> Result<Decision, Untold> {
        let subject = self.subject(record.uid, record.gid)?;
        let (path, target) = record.op.sides(&record.path, record.target.as_ref());
        let recorded = record.branch.as_deref();
        let here = self.branch(&record.path, recorded)?;
        let branch_of = |judge: &Self, path: &ViewPath| match *path == record.path {
            true => Ok(here),
            false => judge.branch_beside(path, here),
        };
        let object = Object { path, branch: branch_of(self, path)?, is_directory: false };
        let target = match target {
            Some(path) => {
                Some(Object { path, branch: branch_of(self, path)?, is_directory: false })
            }
            None => None,
        };
        let label = record.reason.as_ref().is_some_and(|reason| reason.starts_with(LABEL));
        let facts = Given { now: time, changes_labels: label, ..Given::default() };
        Ok(self.policy.decide_request(&subject, record.op, object, target, &facts))
    }

    /// What would be decided of a crossing, a rename within a pool or an undo.
    pub fn crossing(
        &mut self,
        time: Timestamp,
        record: &CrossingRecord,
    ) -> Result<Decision, Untold> {
        let subject = self.subject(record.uid, record.gid)?;
        let is_directory = record.moves.iter().any(|step| step.below.is_some());
        let [from, to] = &record.branches;
        let (source, target) = (&record.source, &record.target);
        let source =
            Object { path: source, branch: self.branch(source, Some(from))?, is_directory };
        let target = Object { path: target, branch: self.branch(target, Some(to))?, is_directory };
        let size_after = record.size.filter(|_| !is_directory);
        let facts = Given { now: time, size_after, ..Given::default() };
        if record.undoes.is_some() {
            return Ok(self.undo(&subject, source, target, &facts));
        }
        let operation =
            if record.rearrangement { Operation::RenameSource } else { Operation::MoveSource };
        Ok(self.policy.decide_request(&subject, operation, source, Some(target), &facts))
    }

    /// An undo needs no gate; modes and deny rules hold for it.
    fn undo(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
        facts: &dyn Facts,
    ) -> Decision {
        let sides = [(Operation::MoveSource, source), (Operation::MoveTarget, target)];
        let mut denials = sides.into_iter();
        let denial = denials
            .find_map(|(operation, side)| self.policy.forbids(subject, operation, side, facts));
        denial.unwrap_or_else(|| self.policy.decide(subject, Operation::List, source, facts))
    }

    /// Whether a rule of this name asks for what is not recorded.
    pub fn asks_for_more(&self, rule: &str) -> bool {
        let found = self.policy.source().rules.iter().find(|one| &*one.name == rule);
        found.is_some_and(|rule| {
            let when_alone =
                Conditions { when: rule.conditions.when.clone(), ..Conditions::default() };
            rule.conditions != when_alone
        })
    }

    fn subject(&mut self, uid: u32, gid: u32) -> Result<Subject, Untold> {
        if self.groups.len() >= USERS_MAX {
            self.groups.clear();
        }
        let look_up = || users::groups_of(uid).ok().map(Arc::from);
        let groups = self.groups.entry(uid).or_insert_with(look_up).clone();
        Ok(Subject { uid, gid, groups: groups.ok_or(Untold::Groups)? })
    }

    /// The branch of a path: the one that was recorded, which must still be there; none for a virtual folder.
    fn branch(
        &self,
        path: &ViewPath,
        recorded: Option<&str>,
    ) -> Result<Option<BranchIndex>, Untold> {
        let at = self.policy.source().branches_at(path);
        match recorded {
            None if at.is_empty() => Ok(None),
            None => Err(Untold::Branch),
            Some(name) => {
                let known = self.branches.get(name).copied().filter(|known| at.contains(known));
                known.map(Some).ok_or(Untold::Branch)
            }
        }
    }

    /// The branch of another path of the same operation: the same where it can be.
    fn branch_beside(
        &self,
        path: &ViewPath,
        beside: Option<BranchIndex>,
    ) -> Result<Option<BranchIndex>, Untold> {
        let at = self.policy.source().branches_at(path);
        let same = beside.filter(|beside| at.contains(beside));
        Ok(same.or(at.first().copied()))
    }
}
