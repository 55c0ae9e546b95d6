//! The engine: a list of rules for each operation, walked in order. Compiled tables come with the
//! policy issue; what must not change then is said here and tested against a naive evaluator.
//!
//! An operation inside a branch is decided by the first of these that speaks:
//!
//! 1. no branch: reading is allowed, everything else denied ([`Basis::Virtual`]);
//! 2. the branch's mode: `ro` denies all but reading, `gates-only` what brings content in;
//! 3. a deny rule that matches caller, operation and path;
//! 4. an allow rule that does;
//! 5. `policy.within`.
//!
//! Deny rules hold for virtual folders too. A move between branches is decided by modes (`ro` denies
//! on either side; a gate is what leads into `gates-only`) and deny rules on both sides, and then by
//! a gate. A gate is itself the permission: neither an allow rule nor `within` can stand for it, and
//! `within = "deny"` does not close it. A pool is asked about member by member: its members differ
//! only in the gates that lead out of them, and between them there is nothing to cross.

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Basis, Decision, Gate, Object, PolicySource, Principal, Rule, Subject};
use crate::types::{BranchIndex, BranchMode, Operation, Verb};

/// Stands for any name below a directory.
const CHILD: &str = "\u{1}";

/// The operations that another name could let through.
fn sheddable() -> impl Iterator<Item = Operation> {
    Operation::ALL.into_iter().filter(|operation| operation.verb() != Verb::Add)
}

/// A policy in force.
#[derive(Debug)]
pub struct Policy {
    pub(super) source: PolicySource,
    generation: u64,
    /// By operation: positions in `source.rules`, in order of declaration.
    denying: [Vec<usize>; Operation::ALL.len()],
    allowing: [Vec<usize>; Operation::ALL.len()],
    /// By rule: what a person denied by it reads.
    rule_reasons: Vec<Arc<str>>,
    /// By branch: what a person denied by its mode reads.
    mode_reasons: Vec<Arc<str>>,
    virtual_reason: Arc<str>,
    within_reason: Arc<str>,
}

impl Policy {
    /// Takes a checked source; `generation` counts from 1 within a run.
    pub fn new(source: PolicySource, generation: u64) -> Self {
        let speaking = |denies: bool| {
            Operation::ALL.map(|operation| {
                let rules = source.rules.iter().enumerate();
                rules
                    .filter(|(_, rule)| rule.denies == denies)
                    .filter(|(_, rule)| rule.operations.contains(&operation))
                    .map(|(position, _)| position)
                    .collect()
            })
        };
        Self {
            denying: speaking(true),
            allowing: speaking(false),
            rule_reasons: source.rules.iter().map(rule_reason).collect(),
            mode_reasons: (0..=u16::MAX)
                .take(source.branches.len())
                .map(|at| mode_reason(&source, BranchIndex(at)))
                .collect(),
            virtual_reason: "no branch provides this folder, so it cannot be changed".into(),
            within_reason: "no rule allows it, and policy.within is \"deny\"".into(),
            source,
            generation,
        }
    }

    /// Which of this run's policies this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Decides one operation inside a branch (or on a virtual folder). Rename and link ask twice or
    /// more: once for each side, and [`Policy::widens`]. A move between branches is asked of
    /// [`Policy::decide_crossing`]; here its sides are decided as if a gate had been found.
    pub fn decide(&self, subject: &Subject, operation: Operation, object: Object<'_>) -> Decision {
        if let Some(denial) = self.denied_by_mode(operation, object) {
            return denial;
        }
        if let Some(position) = self.matching(&self.denying, subject, operation, object) {
            return self.denied_by_rule(position);
        }
        if object.branch.is_none() {
            return self.allowed(Basis::Virtual);
        }
        if let Some(position) = self.matching(&self.allowing, subject, operation, object)
            && let Some(rule) = self.source.rules.get(position)
        {
            return self.allowed(Basis::Rule(rule.name.clone()));
        }
        if self.source.within_allowed {
            return self.allowed(Basis::Default);
        }
        self.denied(Basis::Default, self.within_reason.clone())
    }

    /// The denial of a mode or a deny rule, if there is one: what keeps something below a directory from
    /// crossing with it, whose gate is found for the whole.
    pub fn forbids(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
    ) -> Option<Decision> {
        self.denied_by_mode(operation, object).or_else(|| {
            let position = self.matching(&self.denying, subject, operation, object)?;
            Some(self.denied_by_rule(position))
        })
    }

    /// Decides a move between branches: modes and deny rules on both sides, then the first gate in
    /// order of declaration that fits both branches, the caller and both names. The gate comes with
    /// every allowed decision, and with no other. Out of a pool it is asked for every member that holds
    /// part of the source; into a pool any member stands for all.
    pub fn decide_crossing(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> (Decision, Option<&Gate>) {
        for (operation, object) in
            [(Operation::MoveSource, source), (Operation::MoveTarget, target)]
        {
            if let Some(denial) = self.forbids(subject, operation, object) {
                return (denial, None);
            }
        }
        let gate = self
            .source
            .gates
            .iter()
            .find(|gate| self.gate_misfit(gate, subject, source, target).is_none());
        match gate {
            Some(gate) => (self.allowed(Basis::Gate(gate.name.clone())), Some(gate)),
            None => {
                let reason = self.no_gate_reason(subject, source, target);
                (self.denied(Basis::NoGate, reason.into()), None)
            }
        }
    }

    /// Whether giving the inode at `source` the name `target` as well, or instead, would let the
    /// subject read, write, change or remove what is denied under its present name. Returns the
    /// denial that would be shed. Link and rename inside a branch are denied with it, so that a rule
    /// is not shed by another name. Of a directory, what may lie below it counts too: any child, and
    /// whatever a deny rule names below it.
    pub fn widens(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<Decision> {
        if self.source.rules.is_empty() && self.source.one_domain(source.branch, target.branch) {
            return None;
        }
        let shed = self.widens_one(subject, source, target);
        if shed.is_some() || !source.is_directory {
            return shed;
        }
        let (from, to) = (source.path.join(OsStr::new(CHILD)), target.path.join(OsStr::new(CHILD)));
        let below_source = Object { path: &from, is_directory: false, ..source };
        let below_target = Object { path: &to, is_directory: false, ..target };
        self.widens_one(subject, below_source, below_target)
            .or_else(|| self.named_below(subject, source))
    }

    fn widens_one(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<Decision> {
        sheddable()
            .map(|operation| (operation, self.decide(subject, operation, source)))
            .find(|(operation, now)| {
                !now.allowed && self.decide(subject, *operation, target).allowed
            })
            .map(|(_, denial)| denial)
    }

    /// A deny rule for the subject that names something below a directory.
    fn named_below(&self, subject: &Subject, directory: Object<'_>) -> Option<Decision> {
        let speaks = |rule: &Rule| {
            rule.denies
                && rule.operations.iter().any(|operation| operation.verb() != Verb::Add)
                && speaks_of(&rule.who, subject)
                && rule.paths.name_below(directory.path)
        };
        self.source.rules.iter().position(speaks).map(|position| self.denied_by_rule(position))
    }

    /// What the mode, or the want of a branch, denies whatever the rules say.
    pub(super) fn denied_by_mode(
        &self,
        operation: Operation,
        object: Object<'_>,
    ) -> Option<Decision> {
        let reads = operation.verb() == Verb::Read;
        let Some(index) = object.branch else {
            return (!reads).then(|| self.denied(Basis::Virtual, self.virtual_reason.clone()));
        };
        let at = usize::from(index.0);
        let (Some(branch), Some(reason)) =
            (self.source.branches.get(at), self.mode_reasons.get(at))
        else {
            // The caller knows a branch that this policy does not: an error denies.
            return Some(self.denied(Basis::Error, "the policy does not know this branch".into()));
        };
        let denies = match branch.mode {
            BranchMode::Rw => false,
            BranchMode::Ro => !reads,
            BranchMode::GatesOnly => brings_content(operation),
        };
        denies.then(|| self.denied(Basis::Mode(branch.mode), reason.clone()))
    }

    /// Why a gate does not carry this move; `None` if it does.
    pub(super) fn gate_misfit(
        &self,
        gate: &Gate,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<GateMisfit> {
        let connects = |end: &[BranchIndex], object: Object<'_>| {
            object.branch.is_some_and(|branch| end.contains(&branch))
        };
        if !connects(&gate.from, source)
            || !connects(&gate.to, target)
            || self.source.one_domain(source.branch, target.branch)
        {
            return Some(GateMisfit::Branches);
        }
        if !speaks_of(&gate.who, subject) {
            return Some(GateMisfit::Who);
        }
        // Of a directory, the paths speak of what is in it.
        if !source.is_directory && !self.gate_matches(gate, source) {
            return Some(GateMisfit::SourceName);
        }
        if !source.is_directory && !self.gate_matches(gate, target) {
            return Some(GateMisfit::TargetName);
        }
        None
    }

    fn gate_matches(&self, gate: &Gate, object: Object<'_>) -> bool {
        self.source
            .facts(object.branch)
            .and_then(|branch| object.path.below(&branch.at))
            .is_some_and(|below| gate.paths.matches(below.as_os_str()))
    }

    fn matching(
        &self,
        lists: &[Vec<usize>; Operation::ALL.len()],
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
    ) -> Option<usize> {
        let path: &OsStr = object.path.as_path().as_os_str();
        let positions = lists.get(operation as usize)?;
        positions.iter().copied().find(|position| {
            self.source
                .rules
                .get(*position)
                .is_some_and(|rule| speaks_of(&rule.who, subject) && rule.paths.matches(path))
        })
    }

    fn denied_by_rule(&self, position: usize) -> Decision {
        match (self.source.rules.get(position), self.rule_reasons.get(position)) {
            (Some(rule), Some(reason)) => {
                self.denied(Basis::Rule(rule.name.clone()), reason.clone())
            }
            _ => self.denied(Basis::Error, "the policy does not know this rule".into()),
        }
    }

    fn allowed(&self, basis: Basis) -> Decision {
        Decision { allowed: true, basis, reason: None, generation: self.generation }
    }

    fn denied(&self, basis: Basis, reason: Arc<str>) -> Decision {
        Decision { allowed: false, basis, reason: Some(reason), generation: self.generation }
    }

    /// Names the gates that exist from the source's domain, and what kept the ones to the target's from
    /// fitting.
    fn no_gate_reason(&self, subject: &Subject, source: Object<'_>, target: Object<'_>) -> String {
        let names = &self.source;
        if names.one_domain(source.branch, target.branch) {
            return format!("a move inside {} is no crossing", names.domain_text(source.branch));
        }
        let near = names.gates.iter().find_map(|gate| {
            match self.gate_misfit(gate, subject, source, target)? {
                GateMisfit::Branches => None,
                misfit => Some((gate, misfit)),
            }
        });
        if let Some((gate, misfit)) = near {
            let (from, to) = (names.end_name(&gate.from), names.end_name(&gate.to));
            return format!("gate {} leads from {from} to {to}, but {}", gate.name, misfit.text());
        }
        let from = names.domain_name(source.branch);
        let to = names.domain_name(target.branch);
        let starts_here =
            |gate: &&Gate| names.one_domain(source.branch, gate.from.first().copied());
        let mut members_matter = false;
        let mut others = Vec::new();
        for gate in names.gates.iter().filter(starts_here) {
            let (start, end) = (names.end_name(&gate.from), names.end_name(&gate.to));
            others.push(if start == from {
                format!("{} (to {end})", gate.name)
            } else {
                members_matter = true;
                format!("{} (from {start} to {end})", gate.name)
            });
        }
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let whence = match names.facts(source.branch) {
            Some(member) if members_matter => format!("{}, a member of pool {from},", member.name),
            _ => from.to_owned(),
        };
        format!("no gate leads from {whence} to {to}; gates from {from}: {others}")
    }
}

/// What kept a gate from carrying a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateMisfit {
    /// It connects other branches.
    Branches,
    /// It is not for this caller.
    Who,
    /// Its patterns do not match the source.
    SourceName,
    /// Its patterns do not match the target.
    TargetName,
}

impl GateMisfit {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Branches => "it connects other branches",
            Self::Who => "it is not for this caller",
            Self::SourceName => "its paths do not match the source's name",
            Self::TargetName => "its paths do not match the target's name",
        }
    }
}

/// Whether any of the principals is this subject.
pub(super) fn speaks_of(who: &[Principal], subject: &Subject) -> bool {
    who.iter().any(|principal| match *principal {
        Principal::Anyone => true,
        Principal::User(uid) => subject.uid == uid,
        Principal::Group(gid) => subject.gid == gid || subject.groups.contains(&gid),
    })
}

/// What a gates-only branch denies: everything by which bytes could enter it unseen. A rename inside
/// the branch, and all that only removes or describes, is left to the rules; a move into it to the
/// gate.
fn brings_content(operation: Operation) -> bool {
    match operation {
        Operation::OpenWrite
        | Operation::WriteData
        | Operation::Truncate
        | Operation::Fallocate
        | Operation::CopyFileRange
        | Operation::Create
        | Operation::Mknod
        | Operation::Symlink
        | Operation::Link
        | Operation::Setxattr => true,
        Operation::List
        | Operation::OpenRead
        | Operation::Exec
        | Operation::Mkdir
        | Operation::RenameTarget
        | Operation::MoveTarget
        | Operation::Unlink
        | Operation::Rmdir
        | Operation::RenameSource
        | Operation::MoveSource
        | Operation::Chmod
        | Operation::Chown
        | Operation::Utimes
        | Operation::Removexattr => false,
    }
}

fn rule_reason(rule: &Rule) -> Arc<str> {
    match &rule.reason {
        Some(reason) => reason.clone(),
        None => format!("rule {} denies it", rule.name).into(),
    }
}

fn mode_reason(source: &PolicySource, branch: BranchIndex) -> Arc<str> {
    let mode = source.facts(Some(branch)).map(|facts| facts.mode);
    let domain = source.domain_text(Some(branch));
    let gates: Vec<String> = source
        .gates
        .iter()
        .filter(|gate| gate.to.contains(&branch))
        .map(|gate| format!("{} (from {})", gate.name, source.end_name(&gate.from)))
        .collect();
    match (mode, gates.is_empty()) {
        (None | Some(BranchMode::Rw), _) => "".into(),
        (Some(BranchMode::Ro), _) => format!("{domain} is read-only").into(),
        (Some(BranchMode::GatesOnly), true) => {
            format!("content enters {domain} only through a gate, and none leads to it").into()
        }
        (Some(BranchMode::GatesOnly), false) => {
            format!("content enters {domain} only through a gate: {}", gates.join(", ")).into()
        }
    }
}
