//! Moves between branches: deny rules and modes on both sides, and then a gate.

use super::{Basis, Decision, Facts, Gate, Object, Policy, Subject};
use crate::types::{BranchIndex, Operation};

impl Policy {
    /// Decides a move between branches: modes and deny rules on both sides, then the first gate in
    /// order of declaration that fits both branches, the caller and both names. The gate comes with
    /// every allowed decision, and with no other. Out of a pool it is asked for every member that holds
    /// part of the source; into a pool any member stands for all.
    pub fn decide_crossing(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
        facts: &dyn Facts,
    ) -> (Decision, Option<&Gate>) {
        let mut observed = None;
        for (operation, object) in
            [(Operation::MoveSource, source), (Operation::MoveTarget, target)]
        {
            if let Some(denial) = self.forbids(subject, operation, object, facts) {
                return (denial, None);
            }
            observed = observed.or_else(|| self.observes(subject, operation, object, facts));
        }
        let gate = self
            .source
            .gates
            .iter()
            .find(|gate| self.gate_misfit(gate, subject, source, target).is_none());
        match gate {
            Some(gate) => {
                let allowed = self.allowed(Basis::Gate(gate.name.clone()));
                (Decision { observed, ..allowed }, Some(gate))
            }
            None => {
                let reason = self.no_gate_reason(subject, source, target);
                (self.denied(Basis::NoGate, reason.into()), None)
            }
        }
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
        if !gate.who.is(subject) {
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
