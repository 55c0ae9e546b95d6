//! Answers for people: the decision that the mount would make, and every rule and gate that was
//! looked at on the way. The decision comes from the engine's own functions, so that what is said
//! here and what the mount does cannot part.

use super::gates::GateMisfit;
use super::{
    Basis, Considered, Decision, Facts, Gate, LABEL, Object, Policy, Rule, Subject, Supposed,
    Supposing,
};
use crate::types::{Operation, ViewPath, binary_size};

impl Policy {
    /// What would be decided, and everything considered: for each side of the request the mode,
    /// every rule in order of declaration and the default; then, for a move between branches, every
    /// gate.
    ///
    /// With a `target` in another branch or pool a rename or move is a crossing. With one in the same
    /// (or a virtual folder) a rename is decided on both sides; for a link `object` is the file that
    /// exists and `target` the new name. Without a target the one operation is decided.
    pub fn explain(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        target: Option<Object<'_>>,
        facts: &dyn Facts,
    ) -> (Decision, Vec<Considered>) {
        let decision = self.decide_request(subject, operation, object, target, facts);
        let list = match target {
            None => self.considered(subject, operation, object, facts),
            Some(target) if self.crosses(operation, object, target) => {
                self.crossing_considered(subject, object, target, facts)
            }
            Some(target) if is_rename(operation) => {
                let mut list = self.considered(subject, Operation::RenameSource, object, facts);
                list.extend(self.considered(subject, Operation::RenameTarget, target, facts));
                list
            }
            Some(target) => self.considered(subject, operation, target, facts),
        };
        (decision, list)
    }

    /// What [`Policy::explain`] says would be decided.
    pub fn decide_request(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        target: Option<Object<'_>>,
        facts: &dyn Facts,
    ) -> Decision {
        let Some(target) = target else {
            return self.decide(subject, operation, object, facts);
        };
        if self.crosses(operation, object, target) {
            return self.decide_crossing(subject, object, target, facts).0;
        }
        let decision = if is_rename(operation) {
            let from = self.decide(subject, Operation::RenameSource, object, facts);
            match from.allowed {
                true => self.decide(subject, Operation::RenameTarget, target, facts),
                false => from,
            }
        } else {
            self.decide(subject, operation, target, facts)
        };
        self.unless_widened(subject, decision, object, target)
    }

    /// How large, in bytes, an operation that is allowed may make a file, and what denies more; none if
    /// nothing limits it.
    pub fn size_limit(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &Supposing<'_>,
    ) -> Option<(u64, Basis)> {
        let rules = self.source.rules.iter();
        let mut limits: Vec<u64> = rules.filter_map(|rule| rule.conditions.max_file_size).collect();
        limits.sort_unstable();
        limits.dedup();
        limits.into_iter().find_map(|max| {
            let supposed = Supposed { size: Some(max.saturating_add(1)), ..facts.supposed.clone() };
            let facts = Supposing { supposed: &supposed, ..*facts };
            let decision = self.decide(subject, operation, object, &facts);
            (!decision.allowed).then_some((max, decision.basis))
        })
    }

    fn crosses(&self, operation: Operation, source: Object<'_>, target: Object<'_>) -> bool {
        is_rename(operation) && !self.source.one_domain(source.branch, target.branch)
    }

    fn crossing_considered(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
        facts: &dyn Facts,
    ) -> Vec<Considered> {
        let mut list = self.rules_considered(subject, Operation::MoveSource, source, facts);
        list.extend(self.rules_considered(subject, Operation::MoveTarget, target, facts));
        list.extend(self.source.gates.iter().map(|gate| {
            let from = self.source.end_name(&gate.from);
            let to = self.source.end_name(&gate.to);
            let misfit = self.gate_misfit(gate, subject, source, target);
            let fits = misfit.map_or("it fits caller and names", |misfit| misfit.text());
            let asks = if misfit.is_none() { asked_of_files(gate) } else { String::new() };
            Considered {
                what: format!("gate {}", gate.name),
                applies: misfit.is_none(),
                near: misfit.is_some_and(|misfit| !matches!(misfit, GateMisfit::Branches)),
                why: format!("leads from {from} to {to}: {fits}{asks}"),
            }
        }));
        list
    }

    /// Nothing may get a name under which less is denied.
    fn unless_widened(
        &self,
        subject: &Subject,
        decision: Decision,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Decision {
        if !decision.allowed {
            return decision;
        }
        self.widens(subject, source, target).unwrap_or(decision)
    }

    fn considered(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> Vec<Considered> {
        let mut list = self.rules_considered(subject, operation, object, facts);
        if object.branch.is_some() {
            let within = if self.source.within_allowed { "allow" } else { "deny" };
            if facts.changes_labels() {
                let unheard = !self.allows_by_rule(subject, operation, object, facts);
                let why = match unheard {
                    true => format!("{LABEL} is changed only by those whom a rule allows it"),
                    false => format!("a rule allows changing {LABEL}"),
                };
                list.push(Considered {
                    what: "label".to_owned(),
                    applies: unheard,
                    near: false,
                    why,
                });
            }
            let spoken = list.iter().any(|considered| considered.applies);
            let why = if spoken { "something else speaks of it" } else { "nothing else does" };
            list.push(Considered {
                what: "default".to_owned(),
                applies: !spoken,
                near: false,
                why: format!("policy.within is \"{within}\": {why}"),
            });
        }
        list
    }

    fn allows_by_rule(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> bool {
        let speaks = |rule: &Rule| rule_fit(rule, subject, operation, object, facts).speaks;
        self.source.rules.iter().any(|rule| !rule.denies && speaks(rule))
    }

    /// The mode and the rules, for one side.
    fn rules_considered(
        &self,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &dyn Facts,
    ) -> Vec<Considered> {
        let denial = self.denied_by_mode(operation, object.branch);
        let why = match &denial {
            Some(denial) => denial.reason.as_deref().unwrap_or_default().to_owned(),
            None => match object.branch {
                Some(_) => format!(
                    "the mode of {} does not deny {operation}",
                    self.source.domain_text(object.branch)
                ),
                None => "no branch provides this folder; reading it is allowed".to_owned(),
            },
        };
        let mode =
            Considered { what: "mode".to_owned(), applies: denial.is_some(), near: false, why };
        let rules = self.source.rules.iter().map(|rule| {
            let fit = rule_fit(rule, subject, operation, object, facts);
            let what = format!("rule {}", rule.name);
            Considered { what, applies: fit.speaks, near: fit.near, why: fit.why }
        });
        std::iter::once(mode).chain(rules).collect()
    }
}

impl Operation {
    /// Source and target of what was asked about a path, with the other path of the same request: of the
    /// target side of a rename or move the path is the target, and what removes what is replaced has one
    /// side.
    pub fn sides<'a>(
        self,
        path: &'a ViewPath,
        other: Option<&'a ViewPath>,
    ) -> (&'a ViewPath, Option<&'a ViewPath>) {
        match (self, other) {
            (Self::RenameTarget | Self::MoveTarget, Some(source)) => (source, Some(path)),
            (Self::RenameSource | Self::MoveSource | Self::Link, target) => (path, target),
            _ => (path, None),
        }
    }
}

/// What a gate will ask of content, which nobody looks at before it crosses.
fn asked_of_files(gate: &Gate) -> String {
    let terms = &gate.terms;
    let mut asked = Vec::new();
    if !terms.types.is_empty() {
        asked.push(format!("be {}", terms.types.join(" or ")));
    }
    if let Some(max) = terms.max_size {
        asked.push(format!("have at most {}", binary_size(max)));
    }
    let commands: Vec<String> = terms.checks.iter().map(|check| format!("`{check}`")).collect();
    if !commands.is_empty() {
        asked.push(format!("pass {}", commands.join(", ")));
    }
    match asked.as_slice() {
        [] => String::new(),
        all => format!("; each file must then {}", all.join(", ")),
    }
}

fn is_rename(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::RenameSource
            | Operation::RenameTarget
            | Operation::MoveSource
            | Operation::MoveTarget
    )
}

/// Whether a rule speaks of a request, or all but a condition would have it do so.
struct Fit {
    speaks: bool,
    near: bool,
    why: String,
}

fn rule_fit(
    rule: &Rule,
    subject: &Subject,
    operation: Operation,
    object: Object<'_>,
    facts: &dyn Facts,
) -> Fit {
    let path = object.path;
    let no = |near, why| Fit { speaks: false, near, why };
    if !rule.operations.contains(&operation) {
        return no(false, format!("does not speak of {operation}"));
    }
    if !rule.who.is(subject) {
        return no(false, "is not about this caller".to_owned());
    }
    if !rule.paths.matches(path.as_path().as_os_str()) {
        let why = format!("no pattern of {} matches {path}", rule.paths.texts().join(", "));
        return no(false, why);
    }
    let asked = (object.branch, facts);
    let effect = match rule.conditions.unmet(rule.denies, operation, subject, asked) {
        Ok(Some(unmet)) => return no(true, unmet.text(rule.denies).to_owned()),
        Err(errno) => {
            let why = format!("cannot be decided: {errno}");
            return Fit { speaks: true, near: false, why };
        }
        Ok(None) if rule.denies && rule.observe => "would deny (observe)",
        Ok(None) if rule.denies => "denies",
        Ok(None) => "allows",
    };
    let reason = rule.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Fit { speaks: true, near: false, why: format!("{effect} {operation} of {path}{reason}") }
}
