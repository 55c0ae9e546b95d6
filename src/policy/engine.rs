//! The engine: what decides, in which order. [`super::compiled`] says which rules speak.
//!
//! An operation inside a branch is decided by the first of these that speaks:
//!
//! 1. no branch: reading is allowed, everything else denied ([`Basis::Virtual`]);
//! 2. the branch's mode: `ro` denies all but reading, `gates-only` what brings content in;
//! 3. a deny rule that matches caller, operation and path, whose conditions hold, and that is not only
//!    observed: the first in order of declaration;
//! 4. an allow rule that does: the first in order of declaration;
//! 5. `policy.within`.
//!
//! Under `policy.observe` 3 and 5 deny nothing. What would have denied, by a rule with `observe` or by
//! `policy.observe`, comes with the decision as [`Observed`]: the first such deny rule, else `within`.
//! The labels of an object change only by an allow rule ([`Basis::Label`] denies all else).
//!
//! Deny rules hold for virtual folders too, but for those that ask for labels or the owner: such a folder
//! has neither. A move between branches is decided by modes (`ro` denies
//! on either side; a gate is what leads into `gates-only`) and deny rules on both sides, and then by
//! a gate. A gate is itself the permission: neither an allow rule nor `within` can stand for it, and
//! `within = "deny"` does not close it. A pool is asked about member by member: its members differ
//! only in the gates that lead out of them, and between them there is nothing to cross.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::below::Below;
use super::compiled::{Compiled, PathClass, Ruling, SubjectClass};
use super::conditions::Once;
use super::widen::below;
use super::{Basis, Decision, Facts, Object, Observed, PolicySource, Rule, Subject};
use crate::error::Errno;
use crate::types::{BranchIndex, BranchMode, Operation, Verb, ViewPath};

/// A policy in force.
#[derive(Debug)]
pub struct Policy {
    pub(super) source: PolicySource,
    generation: u64,
    pub(super) compiled: Compiled,
    rule_hits: HashMap<Arc<str>, Hits>,
    gate_hits: HashMap<Arc<str>, Hits>,
    /// By rule.
    pub(super) below: Vec<Option<Below>>,
    /// By rule: what a person denied by it reads.
    rule_reasons: Vec<Arc<str>>,
    /// By branch: what a person denied by its mode reads.
    mode_reasons: Vec<Arc<str>>,
    virtual_reason: Arc<str>,
    pub(super) within_reason: Arc<str>,
    label_reason: Arc<str>,
}

/// How often a rule or gate decided since the policy came into force.
#[derive(Debug, Default)]
pub struct Hits {
    /// Times.
    pub count: AtomicU64,
    /// The last time, in seconds since 1970; 0 for never.
    pub last: AtomicU64,
}

impl Hits {
    fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec;
        let now = u64::try_from(now).unwrap_or_default();
        if self.last.load(Ordering::Relaxed) != now {
            self.last.store(now, Ordering::Relaxed);
        }
    }
}

/// What must be asked again at each write through a handle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteWatch {
    /// Some condition decides: time, owner or labels may have changed.
    pub conditions: bool,
    /// A size is among them, so that every store must be seen before it is done.
    pub size: bool,
}

impl Policy {
    /// Takes a checked source; `generation` counts from 1 within a run. The error is that of a pattern
    /// that cannot be compiled.
    pub fn new(mut source: PolicySource, generation: u64) -> Result<Self, globset::Error> {
        for rule in source.rules.iter_mut().filter(|rule| rule.denies) {
            rule.observe |= source.observe;
        }
        Ok(Self {
            compiled: Compiled::new(&source.rules)?,
            below: source.rules.iter().map(|rule| below(rule, source.within_allowed)).collect(),
            rule_hits: hits_by_name(source.rules.iter().map(|rule| &rule.name)),
            gate_hits: hits_by_name(source.gates.iter().map(|gate| &gate.name)),
            rule_reasons: source.rules.iter().map(rule_reason).collect(),
            mode_reasons: (0..=u16::MAX)
                .take(source.branches.len())
                .map(|at| mode_reason(&source, BranchIndex(at)))
                .collect(),
            virtual_reason: "no branch provides this folder, so it cannot be changed".into(),
            within_reason: "no rule allows it, and policy.within is \"deny\"".into(),
            label_reason: format!(
                "{} is changed only by those whom a rule allows it",
                super::LABEL
            )
            .into(),
            source,
            generation,
        })
    }

    /// Which of this run's policies this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it was made of.
    pub fn source(&self) -> &PolicySource {
        &self.source
    }

    /// Counts what decided an operation that was asked for in earnest.
    pub fn count(&self, decision: &Decision) {
        let observed = decision.observed.as_ref().map(|observed| &observed.basis);
        for basis in [Some(&decision.basis), observed].into_iter().flatten() {
            if let Some(hits) = self.hits_of(basis) {
                hits.count();
            }
        }
    }

    /// How often a rule or gate decided.
    pub fn hits_of(&self, basis: &Basis) -> Option<&Hits> {
        match basis {
            Basis::Rule(name) => self.rule_hits.get(name),
            Basis::Gate(name) => self.gate_hits.get(name),
            _ => None,
        }
    }

    /// How the rules know a caller.
    pub fn classify_subject(&self, subject: &Subject) -> SubjectClass {
        self.compiled.subject(subject)
    }

    /// How the rules know a path.
    pub fn classify_path(&self, path: &ViewPath) -> PathClass {
        self.compiled.path(path)
    }

    /// Decides one operation inside a branch (or on a virtual folder). Rename and link ask twice or
    /// more: once for each side, and [`Policy::widens`]. A move between branches is asked of
    /// [`Policy::decide_crossing`]; here its sides are decided as if a gate had been found.
    pub fn decide(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> Decision {
        let class = self.classify_path(object.path);
        self.decide_class(subject, operation, (&class, object.branch), facts)
    }

    /// [`Policy::decide`] for a path that is classified already.
    pub fn decide_class(
        &self,
        subject: &Subject,
        operation: Operation,
        (class, branch): (&PathClass, Option<BranchIndex>),
        facts: &dyn Facts,
    ) -> Decision {
        if let Some(denial) = self.denied_by_mode(operation, branch) {
            return denial;
        }
        let (denied, allowing) = match self.spoken(subject, operation, (class, branch), facts) {
            Ok(spoken) => (spoken.denied, spoken.allowed),
            Err(_) => return self.fact_missing(),
        };
        let observed = match denied {
            Some((position, true)) => return self.denied_by_rule(position),
            Some((position, false)) => self.observed_rule(position),
            None => None,
        };
        let decision = self.unless_denied(branch, allowing);
        let decision = self.guard_labels(decision, facts);
        Decision { observed: observed.or(decision.observed), ..decision }
    }

    /// What stands once no deny rule does.
    fn unless_denied(&self, branch: Option<BranchIndex>, allowing: Option<u32>) -> Decision {
        if branch.is_none() {
            return self.allowed(Basis::Virtual);
        }
        if let Some(position) = allowing
            && let Some(rule) = self.source.rules.get(position as usize)
        {
            return self.allowed(Basis::Rule(rule.name.clone()));
        }
        if self.source.within_allowed {
            return self.allowed(Basis::Default);
        }
        self.denied_or_observed(Basis::Default, &self.within_reason)
    }

    fn guard_labels(&self, decision: Decision, facts: &dyn Facts) -> Decision {
        let by_rule = matches!(decision.basis, Basis::Rule(_));
        let unheard = decision.observed.is_none() && !by_rule;
        if decision.allowed && unheard && facts.changes_labels() {
            return self.denied_or_observed(Basis::Label, &self.label_reason);
        }
        decision
    }

    fn denied_or_observed(&self, basis: Basis, reason: &Arc<str>) -> Decision {
        if !self.source.observe {
            return self.denied(basis, reason.clone());
        }
        let observed = Observed { basis, reason: reason.clone() };
        Decision { observed: Some(Box::new(observed)), ..self.allowed(Basis::Default) }
    }

    fn observed_rule(&self, position: u32) -> Option<Box<Observed>> {
        let rule = self.source.rules.get(position as usize)?;
        let reason = self.rule_reasons.get(position as usize)?.clone();
        Some(Box::new(Observed { basis: Basis::Rule(rule.name.clone()), reason }))
    }

    pub(super) fn fact_missing(&self) -> Decision {
        self.denied(Basis::Error, "what a rule asks about the object could not be found out".into())
    }

    pub(super) fn observes(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> Option<Box<Observed>> {
        let class = self.classify_path(object.path);
        match self.spoken(subject, operation, (&class, object.branch), facts) {
            Ok(Spoken { denied: Some((position, false)), .. }) => self.observed_rule(position),
            _ => None,
        }
    }

    pub(super) fn denied_by_rule(&self, position: u32) -> Decision {
        let position = position as usize;
        match (self.source.rules.get(position), self.rule_reasons.get(position)) {
            (Some(rule), Some(reason)) => {
                self.denied(Basis::Rule(rule.name.clone()), reason.clone())
            }
            _ => self.denied(Basis::Error, "the policy does not know this rule".into()),
        }
    }

    /// The denial of a mode or a deny rule, if there is one: what keeps something below a directory from
    /// crossing with it, whose gate is found for the whole.
    pub fn forbids(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> Option<Decision> {
        self.denied_by_mode(operation, object.branch).or_else(|| {
            let class = self.classify_path(object.path);
            match self.spoken(subject, operation, (&class, object.branch), facts) {
                Ok(Spoken { denied: Some((position, true)), .. }) => {
                    Some(self.denied_by_rule(position))
                }
                Ok(_) => None,
                Err(_) => Some(self.fact_missing()),
            }
        })
    }

    /// What has to be asked again at each write of an object by a subject.
    pub fn watch_writes(&self, subject: &Subject, class: &PathClass) -> WriteWatch {
        let subject = self.classify_subject(subject);
        let Ok(cell) = self.compiled.cell(&self.source.rules, &subject, class) else {
            return WriteWatch::ALL;
        };
        let mut watch = WriteWatch::default();
        for operation in [Operation::WriteData, Operation::Fallocate, Operation::CopyFileRange] {
            let Ruling::Open(at) = cell.ruling(operation) else { continue };
            for position in
                cell.open(at).iter().flat_map(|open| open.denies.iter().chain(&open.allows))
            {
                let Some(rule) = self.source.rules.get(*position as usize) else { continue };
                watch.conditions |= !rule.conditions.is_empty();
                watch.size |= rule.conditions.max_file_size.is_some() && !rule.observe;
            }
        }
        watch
    }

    /// What the mode, or the want of a branch, denies whatever the rules say.
    pub(super) fn denied_by_mode(
        &self,
        operation: Operation,
        branch: Option<BranchIndex>,
    ) -> Option<Decision> {
        let reads = operation.verb() == Verb::Read;
        let Some(index) = branch else {
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

    /// The rules that decide, their conditions asked.
    fn spoken(
        &self,
        subject: &Subject,
        operation: Operation,
        (class, branch): (&PathClass, Option<BranchIndex>),
        facts: &dyn Facts,
    ) -> Result<Spoken, Errno> {
        let unmet = |rule: &Rule, facts: &dyn Facts| {
            rule.conditions.unmet(rule.denies, operation, subject, (branch, facts))
        };
        let who = self.classify_subject(subject);
        let cell = self.compiled.cell(&self.source.rules, &who, class)?;
        let at = match cell.ruling(operation) {
            Ruling::Silent => return Ok(Spoken::default()),
            Ruling::Allow(position) => {
                return Ok(Spoken { allowed: Some(position), ..Spoken::default() });
            }
            Ruling::Deny(position) => {
                return Ok(Spoken { denied: Some((position, true)), ..Spoken::default() });
            }
            Ruling::Open(at) => at,
        };
        let Some(open) = cell.open(at) else { return Ok(Spoken::default()) };
        let facts = &Once::of(facts);
        let mut denied = None;
        for position in &open.denies {
            let Some(rule) = self.source.rules.get(*position as usize) else { continue };
            let enforced = !rule.observe;
            if denied.is_some() && !enforced {
                continue;
            }
            if unmet(rule, facts)?.is_none() {
                denied = Some((*position, enforced));
                if enforced {
                    break;
                }
            }
        }
        let mut allowed = None;
        if !matches!(denied, Some((_, true))) {
            for position in &open.allows {
                let Some(rule) = self.source.rules.get(*position as usize) else { continue };
                if unmet(rule, facts)?.is_none() {
                    allowed = Some(*position);
                    break;
                }
            }
        }
        Ok(Spoken { denied, allowed })
    }

    pub(super) fn allowed(&self, basis: Basis) -> Decision {
        Decision { allowed: true, basis, reason: None, generation: self.generation, observed: None }
    }

    pub(super) fn denied(&self, basis: Basis, reason: Arc<str>) -> Decision {
        Decision {
            allowed: false,
            basis,
            reason: Some(reason),
            generation: self.generation,
            observed: None,
        }
    }
}

impl WriteWatch {
    /// Where it could not be found out.
    pub const ALL: Self = Self { conditions: true, size: true };
}

/// The rules that decide.
#[derive(Debug, Default)]
struct Spoken {
    /// The deny rule, and whether it is enforced.
    denied: Option<(u32, bool)>,
    /// The allow rule.
    allowed: Option<u32>,
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

fn hits_by_name<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> HashMap<Arc<str>, Hits> {
    names.map(|name| (Arc::clone(name), Hits::default())).collect()
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
