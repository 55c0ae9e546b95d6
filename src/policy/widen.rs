//! Another name for what has one already: it may not shed what is denied under the first.

use super::below::Below;
use super::{Basis, Decision, Object, Policy, Rule, Subject};
use crate::types::{BranchIndex, Operation, Verb, ViewPath};

/// The operations that another name could let through.
fn sheddable() -> impl Iterator<Item = Operation> {
    Operation::ALL.into_iter().filter(|operation| operation.verb() != Verb::Add)
}

impl Policy {
    /// Whether giving the inode at `source` the name `target` as well, or instead, would let the
    /// subject read, write, change or remove what is denied under its present name. Returns the
    /// denial that would be shed. Link and rename inside a branch are denied with it, so that a rule
    /// is not shed by another name. Of a directory, all that may lie below it counts too, also what may
    /// not be brought to the target.
    pub fn widens(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<Decision> {
        if self.widens_nothing(source.branch, target.branch) {
            return None;
        }
        let shed = self.widens_one(subject, source, target);
        if shed.is_some() || !source.is_directory {
            return shed;
        }
        self.shed_below(subject, source, target)
    }

    /// Whether no name in one branch can widen what may be done under one in the other.
    pub fn widens_nothing(&self, source: Option<BranchIndex>, target: Option<BranchIndex>) -> bool {
        let one_domain = self.source.one_domain(source, target);
        self.source.observe || (self.source.rules.is_empty() && one_domain)
    }

    /// Whatever the facts: each deny rule that speaks of the source must speak of the target too, unless
    /// that one is denied in any case; and where `within` may deny the source, nothing may allow the
    /// target that does not allow the source.
    fn widens_one(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<Decision> {
        let class = self.classify_subject(subject);
        let (from, to) = (self.classify_path(source.path), self.classify_path(target.path));
        if from == to && self.source.one_domain(source.branch, target.branch) {
            return None;
        }
        let cell = |path| self.compiled.cell(&self.source.rules, &class, path);
        let (Ok(from), Ok(to)) = (cell(&from), cell(&to)) else {
            return Some(self.fact_missing());
        };
        sheddable().find_map(|operation| {
            let (from, to) = (from.every(operation), to.every(operation));
            let enforced = |position: &&u32| {
                self.source.rules.get(**position as usize).is_some_and(|rule| !rule.observe)
            };
            let settled = |position: &u32| {
                let rule = self.source.rules.get(*position as usize);
                rule.is_some_and(|rule| !rule.observe && rule.conditions.is_empty())
            };
            let unspoken =
                !self.source.within_allowed && target.branch.is_some() && to.allows.is_empty();
            let closed = unspoken || self.denied_by_mode(operation, target.branch).is_some();
            if closed || to.denies.iter().any(settled) {
                return None;
            }
            if let Some(shed) = self.denied_by_mode(operation, source.branch) {
                return Some(shed);
            }
            let mut denying = from.denies.iter().filter(enforced);
            if let Some(shed) = denying.find(|position| !to.denies.contains(position)) {
                return Some(self.denied_by_rule(*shed));
            }
            let may_be_denied = !self.source.within_allowed
                && source.branch.is_some()
                && !from.allows.iter().any(settled);
            let wider = target.branch.is_none()
                || to.allows.iter().any(|position| !from.allows.contains(position));
            (may_be_denied && wider)
                .then(|| self.denied(Basis::Default, self.within_reason.clone()))
        })
    }

    /// A deny rule for the subject that speaks of something below a directory as it is and not as it would be,
    /// unless all of that is denied there; or an allow rule the other way round, where `within` denies. Also a
    /// deny rule against something being brought to where it would be, for nobody looks into the directory.
    fn shed_below(
        &self,
        subject: &Subject,
        source: Object<'_>,
        target: Object<'_>,
    ) -> Option<Decision> {
        let rules = self.source.rules.iter().zip(&self.below).zip(0u32..);
        for ((rule, below), position) in rules.filter(|((rule, _), _)| rule.who.is(subject)) {
            let Some(below) = below else { continue };
            if rule.denies {
                let brings = rule.operations.contains(&Operation::RenameTarget)
                    && below.loses(target.path, source.path);
                let sheds = sheds(rule)
                    && below.loses(source.path, target.path)
                    && !self.all_below(subject, true, target.path, rule);
                if brings || sheds {
                    return Some(self.denied_by_rule(position));
                }
            } else if source.branch.is_some()
                && below.loses(target.path, source.path)
                && !self.all_below(subject, false, source.path, rule)
                && !self.all_below(subject, true, target.path, rule)
            {
                return Some(self.denied(Basis::Default, self.within_reason.clone()));
            }
        }
        None
    }

    /// Whether a rule denies, or allows, to a subject all that `like` speaks of, below a path, in any case.
    fn all_below(&self, subject: &Subject, denies: bool, path: &ViewPath, like: &Rule) -> bool {
        let operations = || like.operations.iter().filter(|one| one.verb() != Verb::Add);
        self.source.rules.iter().zip(&self.below).any(|(rule, below)| {
            rule.denies == denies
                && !rule.observe
                && rule.conditions.is_empty()
                && below.as_ref().is_some_and(|below| below.holds_all(path))
                && operations().all(|operation| rule.operations.contains(operation))
                && rule.who.is(subject)
        })
    }
}

/// What a rule says below directories, if it can be shed.
pub(super) fn below(rule: &Rule, within_allowed: bool) -> Option<Below> {
    let matters = if rule.denies { !rule.observe } else { !within_allowed };
    let brings = rule.denies && rule.operations.contains(&Operation::RenameTarget);
    (matters && (sheds(rule) || brings)).then(|| Below::new(rule.paths.texts()))
}

fn sheds(rule: &Rule) -> bool {
    rule.operations.iter().any(|operation| operation.verb() != Verb::Add)
}
