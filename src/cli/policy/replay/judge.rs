//! A record of the ledger, decided again.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Errno;
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
    /// What decides asks about size, owner or labels, which are not recorded.
    Facts,
    /// A gate refused what it found in the file.
    Content,
}

impl Untold {
    pub fn text(self) -> &'static str {
        match self {
            Self::Groups => "the caller's groups cannot be looked up",
            Self::Branch => "it lies in a branch that the configuration does not have there",
            Self::Shortened => "the record was too long for a line and is cut",
            Self::Unreadable => "the line cannot be read",
            Self::Facts => "a rule asks for size, owner or labels, which are not recorded",
            Self::Content => "a gate refused what it found in the file, which is not recorded",
        }
    }
}

/// What would be decided, and whether something that is not recorded could make it otherwise.
pub(super) struct Judged {
    pub decision: Decision,
    pub assumed: bool,
}

/// The facts that a record has; notes when another is asked for.
struct Recorded {
    given: Given,
    assumed: Cell<bool>,
}

impl Facts for Recorded {
    fn now(&self) -> Timestamp {
        self.given.now
    }

    fn size_after(&self) -> Option<u64> {
        if self.given.size_after.is_none() {
            self.assumed.set(true);
        }
        self.given.size_after
    }

    fn owner(&self) -> Result<Option<u32>, Errno> {
        self.assumed.set(true);
        self.given.owner()
    }

    fn labels(&self) -> Result<Vec<String>, Errno> {
        self.assumed.set(true);
        self.given.labels()
    }

    fn changes_labels(&self) -> bool {
        self.given.changes_labels
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
    ) -> Result<Judged, Untold> {
        let subject = self.subject(record.uid, record.gid)?;
        let here = self.branch(&record.path, record.branch.as_deref())?;
        let object = Object { path: &record.path, branch: here, is_directory: false };
        let target = record.target.as_ref().map(|path| {
            let branch = self.branch_beside(path, here);
            Object { path, branch, is_directory: false }
        });
        let label = record.reason.as_ref().is_some_and(|reason| reason.starts_with(LABEL));
        let given = Given { now: time, changes_labels: label, ..Given::default() };
        Ok(self.judged(given, |facts| {
            self.policy.decide_request(&subject, record.op, object, target, facts)
        }))
    }

    /// What would be decided of a crossing, a rename within a pool or an undo.
    pub fn crossing(&mut self, time: Timestamp, record: &CrossingRecord) -> Result<Judged, Untold> {
        let subject = self.subject(record.uid, record.gid)?;
        let is_directory = record.moves.iter().any(|step| step.below.is_some());
        let [from, to] = &record.branches;
        let (source, target) = (&record.source, &record.target);
        let source =
            Object { path: source, branch: self.branch(source, Some(from))?, is_directory };
        let target = Object { path: target, branch: self.branch(target, Some(to))?, is_directory };
        let size_after = record.size.filter(|_| !is_directory);
        let given = Given { now: time, size_after, ..Given::default() };
        if record.undoes.is_some() {
            return Ok(self.judged(given, |facts| self.undo(&subject, source, target, facts)));
        }
        let operation =
            if record.rearrangement { Operation::RenameSource } else { Operation::MoveSource };
        Ok(self.judged(given, |facts| {
            self.policy.decide_request(&subject, operation, source, Some(target), facts)
        }))
    }

    /// Decides, and where something is asked that is not recorded, by all that it could have been: owned by
    /// the caller or another, without labels or with all that the policy knows, small or large.
    fn judged(&self, given: Given, decide: impl Fn(&dyn Facts) -> Decision) -> Judged {
        let recorded = Recorded { given, assumed: Cell::new(false) };
        let decision = decide(&recorded);
        if !recorded.assumed.get() {
            return Judged { decision, assumed: false };
        }
        let rules = self.policy.source().rules.iter();
        let every: Vec<String> = rules.flat_map(|rule| &rule.conditions.labels).cloned().collect();
        let labelled = [Vec::new(), every];
        let given = recorded.given;
        let sizes = [given.size_after, Some(given.size_after.unwrap_or(u64::MAX))];
        let assumed = [None, Some(u32::MAX)].into_iter().any(|owner| {
            labelled.iter().any(|labels| {
                sizes.into_iter().any(|size_after| {
                    let labels = labels.clone();
                    let other = Given { owner, labels, size_after, ..given };
                    decide(&other).allowed != decision.allowed
                })
            })
        });
        Judged { decision, assumed }
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
    fn branch_beside(&self, path: &ViewPath, beside: Option<BranchIndex>) -> Option<BranchIndex> {
        let at = self.policy.source().branches_at(path);
        let same = beside.filter(|beside| at.contains(beside));
        same.or(at.first().copied())
    }
}
