//! Rules and gates that mean nothing: what is written without a mistake and yet can never have an
//! effect. Errors are only given where that is certain; what could be meant is a warning.

mod cover;
mod gates;
mod reach;

use std::ops::Range;

use super::diagnostic::{Report, nearest};
use super::ends::Known;
use super::section::Section;
use crate::policy::{Basis, Gate, Given, Object, Policy, PolicySource, Rule, Subject};
use crate::types::{BranchIndex, BranchIo, Operation, ViewPath};
use reach::{Pattern, Reach};

/// A policy as it was read, with the sections of the file that it was read from.
pub(super) struct Read<'c, 't> {
    pub within_allowed: bool,
    /// Where `policy.within` stands.
    pub within: Option<Range<usize>>,
    pub rules: &'c [(Rule, Section<'t>)],
    pub gates: &'c [(Gate, Section<'t>)],
    pub known: Known<'c, 't>,
}

/// Reports what has no effect.
pub(super) fn check(read: &Read<'_, '_>, report: &mut Report) {
    let modes = Modes::new(read);
    let denials = cover::Denials::new(read.rules.iter().map(|(rule, _)| rule));
    let places = read.places();
    for (position, (rule, section)) in read.rules.iter().enumerate() {
        if cover::is_nobody(&rule.who) {
            nobody(&format!("rule {}", rule.name), section, report);
            continue;
        }
        if !reaches_something(&places, rule, section, report) {
            continue;
        }
        read.check_limit(rule, section, report);
        if !read.is_covered(denials.covering(position), rule, section, report)
            && !modes.deny_already(read, &places, rule, section, report)
            && !rule.denies
            && read.within_allowed
        {
            allows_in_vain(rule, section, report);
        }
    }
    if !read.within_allowed {
        nothing_for_who_runs_it(read, report);
    }
    labels_by_attrs(read, report);
    gates::check(read, report);
}

fn nobody(what: &str, section: &Section<'_>, report: &mut Report) {
    report
        .error(section.value_span("who"), format!("{what} is for nobody"))
        .label("all of these are excepted, or roles without members")
        .hint("user:NAME, group:NAME, the name of a role in [roles], or *");
}

impl Read<'_, '_> {
    /// The places of branches and pools.
    fn places(&self) -> Vec<&ViewPath> {
        let mut places: Vec<_> =
            self.known.branches.all().iter().map(|found| &found.place.at).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The branches in which something can be that a pattern matches.
    fn branches_reached(&self, pattern: &Pattern<'_>) -> Vec<&super::branches::Found> {
        let all = self.known.branches.all();
        let hidden = |at: &ViewPath| {
            all.iter().any(|other| {
                let other = &other.place.at;
                other != at && other.below(at).is_some() && pattern.begins_with(other)
            })
        };
        let inside = |reach| matches!(reach, Reach::Inside | Reach::Around);
        all.iter()
            .filter(|found| inside(pattern.reach(&found.place.at)) && !hidden(&found.place.at))
            .collect()
    }

    /// Reports a limit that nothing can pass, and one at write time where writes are not seen.
    fn check_limit(&self, rule: &Rule, section: &Section<'_>, report: &mut Report) {
        if rule.conditions.max_file_size.is_none() {
            return;
        }
        let key = if rule.denies { "deny" } else { "allow" };
        if rule.conditions.max_file_size == Some(0) {
            let message = format!("rule {} is about every file that has content", rule.name);
            report
                .warning(section.value_span("max_file_size"), message)
                .label("only empty files are not larger")
                .hint("without max_file_size files of any size are meant");
        }
        if !rule.operations.iter().any(|operation| operation.has_size()) {
            let sized = Operation::ALL.into_iter().filter(|operation| operation.has_size());
            let names: Vec<_> = sized.map(Operation::name).collect();
            let message =
                format!("rule {} has max_file_size, but no operation with a size", rule.name);
            report
                .error(section.span_of("max_file_size"), message)
                .other(section.value_span(key), "none of these makes a file larger")
                .hint(format!("give one of: {}", names.join(", ")));
        }
        let unchecked =
            self.known.branches.all().iter().any(|found| found.spec.io == BranchIo::Passthrough);
        if !unchecked || !rule.operations.contains(&Operation::WriteData) {
            return;
        }
        let unseen = rule.paths.texts().iter().enumerate().find_map(|(position, text)| {
            let reached = self.branches_reached(&Pattern::parse(text));
            let unseen = reached.iter().find(|found| found.spec.io == BranchIo::Passthrough)?;
            Some((position, unseen.name.clone(), unseen.spec.name.clone()))
        });
        let Some((position, branch, name)) = unseen else { return };
        let message = format!("rule {} limits writes that are not checked", rule.name);
        let error = report.error(section.span_of("max_file_size"), message);
        error.other(branch, "io = \"passthrough\": the kernel writes by itself");
        if section.has("paths") {
            error.other(section.item_span("paths", position), format!("this can be in {name}"));
        }
        error.hint(format!("give paths outside {name}, or branches.{name}.io = \"checked\""));
    }

    /// Reports a rule of which another, at this position, denies all; true if there is such.
    fn is_covered(
        &self,
        covering: Option<usize>,
        rule: &Rule,
        section: &Section<'_>,
        report: &mut Report,
    ) -> bool {
        let covering = covering.and_then(|position| self.rules.get(position));
        let Some((other, other_section)) = covering else { return false };
        let cancel = !rule.denies && rule.conditions.is_empty() && cover::covers(rule, other);
        let message = match cancel {
            true => format!("rules {} and {} cancel each other", other.name, rule.name),
            false => format!("rule {} never applies", rule.name),
        };
        let why = match rule.denies {
            true => "this one comes first",
            false => "this one, whatever the order: deny wins",
        };
        report
            .error(section.name.span(), message)
            .label(format!("rule {} denies all that it speaks of", other.name))
            .other(other_section.name.span(), why)
            .hint(format!("remove one of them, or let rule {} speak of less", other.name));
        true
    }
}

/// Reports patterns that match nothing in the view; false if all are such.
fn reaches_something(
    places: &[&ViewPath],
    rule: &Rule,
    section: &Section<'_>,
    report: &mut Report,
) -> bool {
    let mut some = false;
    for (position, text) in rule.paths.texts().iter().enumerate() {
        let pattern = Pattern::parse(text);
        if places.iter().any(|place| pattern.reach(place) != Reach::Nowhere) {
            some = true;
            continue;
        }
        let span = section.item_span("paths", position);
        let error = report.error(span, format!("pattern `{text}` can never match"));
        let near = pattern.stray(places);
        match near.and_then(|(own, names)| Some((own, nearest(own, names)?))) {
            Some((own, near)) => error.label(format!("did you mean `{near}` for `{own}`?")),
            None => error.label("no branch or pool lies there"),
        };
        let places: Vec<_> = places.iter().map(|place| place.to_string()).collect();
        error.hint(format!("places of branches and pools: {}", places.join(", ")));
    }
    some
}

/// What the modes of branches deny, as the engine says.
struct Modes {
    policy: Option<Policy>,
}

impl Modes {
    fn new(read: &Read<'_, '_>) -> Self {
        let source = PolicySource {
            within_allowed: true,
            observe: false,
            rules: Vec::new(),
            gates: Vec::new(),
            branches: read.known.branches.facts(),
        };
        Self { policy: Policy::new(source, 0).ok() }
    }

    /// Reports a rule all of whose operations are denied by mode wherever it speaks.
    fn deny_already(
        &self,
        read: &Read<'_, '_>,
        places: &[&ViewPath],
        rule: &Rule,
        section: &Section<'_>,
        report: &mut Report,
    ) -> bool {
        let mut reached = Vec::new();
        for text in rule.paths.texts() {
            let pattern = Pattern::parse(text);
            let outside = places
                .iter()
                .any(|place| matches!(pattern.reach(place), Reach::Above | Reach::Around));
            if outside {
                return false;
            }
            reached.extend(read.branches_reached(&pattern));
        }
        let denied = |branch: BranchIndex, at: &ViewPath| {
            rule.operations.iter().all(|operation| self.denies(*operation, branch, at))
        };
        if !reached.iter().all(|found| denied(found.spec.index, &found.place.at)) {
            return false;
        }
        let Some(first) = reached.first() else { return false };
        let error = report.error(section.name.span(), format!("rule {} never applies", rule.name));
        error.label("the mode denies all that it speaks of");
        match &first.pool {
            Some(membership) => error.other(membership.word.clone(), "in this pool"),
            None => error.other(first.name.clone(), "in this branch"),
        };
        error.hint("remove it, or give it paths where the mode lets something through");
        true
    }

    fn denies(&self, operation: Operation, branch: BranchIndex, path: &ViewPath) -> bool {
        let nobody = Subject { uid: u32::MAX, gid: u32::MAX, groups: [].into() };
        let object = Object { path, branch: Some(branch), is_directory: false };
        self.policy.as_ref().is_some_and(|policy| {
            let decision = policy.decide(&nobody, operation, object, &Given::default());
            matches!(decision.basis, Basis::Mode(_)) && !decision.allowed
        })
    }
}

/// Warns where nobody who looks after the view is allowed anything: root has no rights of its own here.
fn nothing_for_who_runs_it(read: &Read<'_, '_>, report: &mut Report) {
    let own = rustix::process::geteuid().as_raw();
    let runs_it = |uid: u32, gid: u32| Subject { uid, gid, groups: [gid].into() };
    let them = [runs_it(0, 0), runs_it(own, rustix::process::getegid().as_raw())];
    let allowed = |(rule, _): &(Rule, Section<'_>)| {
        !rule.denies && them.iter().any(|subject| rule.who.is(subject))
    };
    let (false, Some(within)) = (read.rules.iter().any(allowed), &read.within) else { return };
    report
        .warning(within.clone(), "root is not allowed anything in this view")
        .label("this holds for root and the user who mounts too")
        .hint("give them a rule of their own, such as allow = [\"read\", \"write\", \"add\", \"remove\", \"attrs\"], who = [\"user:root\"]");
}

/// Warns of callers who may change the labels that a rule denies them by: `attrs` is setxattr too.
fn labels_by_attrs(read: &Read<'_, '_>, report: &mut Report) {
    let labelled =
        || read.rules.iter().filter(|(rule, _)| rule.denies && !rule.conditions.labels.is_empty());
    for (rule, section) in read.rules {
        let by_verb = section.lists("allow", "attrs");
        if rule.denies || !by_verb {
            continue;
        }
        let met = labelled().find(|(denying, _)| cover::share(&denying.who, &rule.who));
        let Some((denying, denying_section)) = met else { continue };
        report
            .warning(
                section.value_span("allow"),
                format!("rule {} allows changing labels too", rule.name),
            )
            .label("attrs is setxattr too, by which labels are changed")
            .other(
                denying_section.span_of("labels"),
                format!("who it allows can rid a file of what rule {} asks for", denying.name),
            )
            .hint("give chmod, chown and utimes instead of attrs, if that is not meant");
    }
}

/// Warns of an allow rule where everything is allowed anyway.
fn allows_in_vain(rule: &Rule, section: &Section<'_>, report: &mut Report) {
    let labels = [Operation::Setxattr, Operation::Removexattr];
    if rule.operations.iter().any(|operation| labels.contains(operation)) {
        return;
    }
    report
        .warning(section.name.span(), format!("rule {} changes nothing", rule.name))
        .label("policy.within is \"allow\"")
        .hint(
            "an allow rule matters under policy.within = \"deny\", and for who may change labels",
        );
}
