//! Asking the policy, and what a denial leads to: a record, an entry for `octroi why`, an errno.

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;

use crate::error::Errno;
use crate::ledger::Durability;
use crate::ledger::record::Verdict;
use crate::policy::{
    Basis, Decision, Facts as _, Object, Observed, PathClass, Policy, Subject, Supposed, WriteWatch,
};
use crate::sys::process::exe_of;
use crate::types::{BranchIndex, BranchMode, Caller, Operation, ViewPath};
use crate::view::{Inode, in_epoch};

use super::Vfs;
use super::crossing::Refused;
use super::facts::Asked;

/// Denials kept for each user, for `octroi why`.
const DENIALS_MAX: usize = 32;
/// Bytes of their paths: who goes down folder by folder makes one of megabytes.
const DENIED_PATHS_MAX: usize = 64 * 1024;
/// Users whose denials are kept.
const USERS_MAX: usize = 1000;

/// A denial, for the one who met it.
#[derive(Debug, Clone)]
pub struct Denial {
    /// When.
    pub time: jiff::Timestamp,
    /// What was tried.
    pub operation: Operation,
    /// On what.
    pub path: ViewPath,
    /// The other path of a rename, move or link.
    pub target: Option<ViewPath>,
    /// The outcome.
    pub decision: Decision,
    /// What was asked with it: the size that the file would have got, and whether its labels would have
    /// changed.
    pub supposed: Supposed,
}

impl Denial {
    fn path_bytes(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| target.as_bytes().len());
        self.path.as_bytes().len().saturating_add(target)
    }
}

/// The last denials by user.
#[derive(Debug, Default)]
pub(super) struct Denials(DashMap<u32, VecDeque<Denial>>);

impl Denials {
    fn push(&self, uid: u32, denial: Denial) {
        if self.0.len() >= USERS_MAX && !self.0.contains_key(&uid) {
            let last = |own: &VecDeque<Denial>| own.front().map(|denial| denial.time);
            let oldest = self.0.iter().min_by_key(|own| last(own)).map(|own| *own.key());
            if let Some(uid) = oldest {
                self.0.remove(&uid);
            }
        }
        let mut own = self.0.entry(uid).or_default();
        own.push_front(denial);
        let mut bytes = 0_usize;
        let fit = own.iter().take_while(|denial| {
            bytes = bytes.saturating_add(denial.path_bytes());
            bytes <= DENIED_PATHS_MAX
        });
        let fit = fit.take(DENIALS_MAX).count();
        own.truncate(fit);
    }

    /// The newest denial of a user, or the newest that names a path.
    pub fn last(&self, uid: u32, path: Option<&ViewPath>) -> Option<Denial> {
        let own = self.0.get(&uid)?;
        own.iter()
            .find(|denial| {
                path.is_none_or(|path| denial.path == *path || denial.target.as_ref() == Some(path))
            })
            .cloned()
    }
}

/// What is asked about: an object of the view with all its known names.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub caller: Caller,
    pub path: &'a ViewPath,
    pub branch: Option<BranchIndex>,
    pub is_directory: bool,
    pub target: Option<&'a ViewPath>,
}

impl Question<'_> {
    /// What the policy is asked about.
    pub(super) fn object(&self) -> Object<'_> {
        Object { path: self.path, branch: self.branch, is_directory: self.is_directory }
    }
}

impl Vfs {
    /// Who asks, with groups; EACCES if they cannot be had.
    pub(super) fn subject(&self, caller: Caller) -> Result<Subject, Errno> {
        let groups = self.identities.groups(caller.uid).map_err(|_| Errno::ACCESS)?;
        Ok(Subject { uid: caller.uid, gid: caller.gid, groups })
    }

    pub(super) fn decide(
        &self,
        caller: Caller,
        operation: Operation,
        object: Object<'_>,
        facts: &Asked<'_>,
    ) -> Decision {
        let policy = self.policy();
        match self.subject(caller) {
            Ok(subject) => policy.decide(&subject, operation, object, facts),
            Err(_) => groups_unknown(&policy),
        }
    }

    /// Asks for one operation on one path. A denial is recorded; its errno comes back.
    pub(super) fn permit(
        &self,
        operation: Operation,
        question: &Question<'_>,
        facts: &Asked<'_>,
    ) -> Result<Decision, Errno> {
        let decision = self.decide(question.caller, operation, question.object(), facts);
        self.settle(operation, question, decision, facts)
    }

    /// Counts a decision. A denial is recorded, and its errno comes back; so is what only would have been
    /// denied.
    pub(super) fn settle(
        &self,
        operation: Operation,
        question: &Question<'_>,
        decision: Decision,
        facts: &Asked<'_>,
    ) -> Result<Decision, Errno> {
        self.policy().count(&decision);
        if !decision.allowed {
            return Err(self.deny(operation, question, &decision, Some(facts)));
        }
        if let Some(observed) = &decision.observed {
            self.record_observed(operation, question, observed);
        }
        Ok(decision)
    }

    /// As [`Vfs::settle`]; a denial comes back with its reason.
    pub(super) fn settle_told(
        &self,
        operation: Operation,
        question: &Question<'_>,
        decision: Decision,
        facts: &Asked<'_>,
    ) -> Result<(), Refused> {
        let reason = decision.reason.clone();
        let by = match &decision.basis {
            // The reason names the gate, or where one is missing.
            Basis::Gate(_) | Basis::NoGate => String::new(),
            basis => format!("denied by {}: ", basis.text()),
        };
        let why = reason.map(|reason| format!("{by}{reason}"));
        self.settle(operation, question, decision, facts)
            .map(drop)
            .map_err(|errno| Refused { errno, why })
    }

    /// Asks for one operation on an inode: by every name it is known by, and any denial wins, so that
    /// a hard link does not shed a rule.
    pub(super) fn permit_inode(
        &self,
        caller: Caller,
        operation: Operation,
        inode: &Arc<Inode>,
        facts: &Asked<'_>,
    ) -> Result<Decision, Errno> {
        let (epoch, policy) = in_epoch(|| self.policy());
        let classify = |path: &ViewPath| policy.classify_path(path);
        let branch = inode.place().branch();
        let subject = self.subject(caller);
        let mut allowed = None;
        for class in inode.classes(epoch, &classify) {
            let decision = match &subject {
                Ok(subject) => policy.decide_class(subject, operation, (&class, branch), facts),
                Err(_) => groups_unknown(&policy),
            };
            if decision.allowed && decision.observed.is_none() {
                policy.count(&decision);
                allowed = Some(decision);
                continue;
            }
            // The name that it was, for the record.
            let paths = inode.paths_by_class(epoch, &classify);
            let same = |(known, _): &&(PathClass, ViewPath)| *known == class;
            let (_, path) = paths.iter().find(same).or(paths.first()).ok_or(Errno::STALE)?;
            let is_directory = inode.kind == crate::branch::FileKind::Directory;
            let question = Question { caller, path, branch, is_directory, target: None };
            allowed = Some(self.settle(operation, &question, decision, facts)?);
        }
        allowed.ok_or(Errno::STALE)
    }

    /// What a caller's writes to an inode have to be asked about each time.
    pub(super) fn write_watch(&self, caller: Caller, inode: &Inode) -> WriteWatch {
        let (epoch, policy) = in_epoch(|| self.policy());
        let Ok(subject) = self.subject(caller) else { return WriteWatch::ALL };
        let classes = inode.classes(epoch, &|path| policy.classify_path(path));
        classes.iter().map(|class| policy.watch_writes(&subject, class)).fold(
            WriteWatch::default(),
            |all, one| WriteWatch {
                conditions: all.conditions || one.conditions,
                size: all.size || one.size,
            },
        )
    }

    /// Records a denial, keeps it for the caller, and gives its errno.
    pub(super) fn deny(
        &self,
        operation: Operation,
        question: &Question<'_>,
        decision: &Decision,
        facts: Option<&Asked<'_>>,
    ) -> Errno {
        self.remember_failure(operation, question, decision.clone(), facts);
        self.record_denial(operation, question, decision)
    }

    /// Records a denial and gives its errno.
    pub(super) fn record_denial(
        &self,
        operation: Operation,
        question: &Question<'_>,
        decision: &Decision,
    ) -> Errno {
        let errno = match decision.basis {
            Basis::Mode(BranchMode::Ro) | Basis::Virtual => Errno::ROFS,
            Basis::Mode(BranchMode::Rw | BranchMode::GatesOnly)
            | Basis::Rule(_)
            | Basis::Gate(_)
            | Basis::NoGate
            | Basis::Label
            | Basis::Default
            | Basis::View
            | Basis::Error => Errno::ACCESS,
        };
        let record =
            self.operation_record(operation, question, Err(errno), exe_of(question.caller.pid));
        let record = crate::ledger::record::OperationRecord {
            decision: Verdict::Denied,
            rule: rule_of(&decision.basis),
            gate: gate_of(&decision.basis),
            reason: decision.reason.as_deref().map(str::to_owned),
            ..record
        };
        self.append(crate::ledger::Record::Operation(Box::new(record)), Durability::Group);
        errno
    }
}

impl Vfs {
    /// Records what would have been denied.
    fn record_observed(&self, operation: Operation, question: &Question<'_>, observed: &Observed) {
        let record =
            self.operation_record(operation, question, Ok(()), exe_of(question.caller.pid));
        let record = crate::ledger::record::OperationRecord {
            decision: Verdict::Observed,
            rule: rule_of(&observed.basis),
            reason: Some(observed.reason.to_string()),
            ..record
        };
        self.append(crate::ledger::Record::Operation(Box::new(record)), Durability::Group);
    }

    /// Keeps a denial, or why an allowed crossing failed, for `octroi why`.
    pub(super) fn remember_failure(
        &self,
        operation: Operation,
        question: &Question<'_>,
        decision: Decision,
        facts: Option<&Asked<'_>>,
    ) {
        let supposed = Supposed {
            size: facts.and_then(|facts| facts.size_after()),
            changes_labels: facts.is_some_and(|facts| facts.changes_labels),
            ..Supposed::default()
        };
        let denial = Denial {
            time: jiff::Timestamp::now(),
            operation,
            path: question.path.clone(),
            target: question.target.cloned(),
            decision,
            supposed,
        };
        self.denials.push(question.caller.uid, denial);
    }
}

pub(super) fn groups_unknown(policy: &Policy) -> Decision {
    Decision {
        allowed: false,
        basis: Basis::Error,
        reason: Some(Arc::from("the caller's groups could not be looked up")),
        generation: policy.generation(),
        observed: None,
    }
}

fn rule_of(basis: &Basis) -> Option<String> {
    match basis {
        Basis::Rule(name) => Some(name.to_string()),
        _ => None,
    }
}

fn gate_of(basis: &Basis) -> Option<String> {
    match basis {
        Basis::Gate(name) => Some(name.to_string()),
        Basis::NoGate => Some("none".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_denials_of_a_user_are_bounded_in_number_and_bytes() {
        let denials = Denials::default();
        let denial = |path: &str| Denial {
            time: jiff::Timestamp::UNIX_EPOCH,
            operation: Operation::List,
            path: ViewPath::parse(std::path::Path::new(path)).expect("a path"),
            target: None,
            decision: Decision {
                allowed: false,
                basis: Basis::Error,
                reason: None,
                generation: 1,
                observed: None,
            },
            supposed: Supposed::default(),
        };
        let kept = || denials.0.get(&1).map_or(0, |own| own.len());
        for number in 0..DENIALS_MAX * 2 {
            denials.push(1, denial(&format!("/{number}")));
        }
        assert_eq!(kept(), DENIALS_MAX);
        let long = format!("/{}", ["x"; DENIED_PATHS_MAX / 5].join("/"));
        denials.push(1, denial(&long));
        assert!((1..DENIALS_MAX * 2).contains(&kept()));
        denials.push(1, denial(&long));
        denials.push(1, denial(&long));
        assert_eq!(kept(), 2);
        for uid in 2..USERS_MAX as u32 * 2 {
            let time = jiff::Timestamp::from_second(i64::from(uid)).expect("a time");
            denials.push(uid, Denial { time, ..denial("/a") });
            assert!(denials.0.len() <= USERS_MAX);
        }
        assert_eq!(denials.0.len(), USERS_MAX);
        assert_eq!(kept(), 0, "they are the oldest");
    }
}
