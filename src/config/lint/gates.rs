//! Gates that nobody can use, and those by which more can be read than a rule lets.

use super::super::diagnostic::Report;
use super::super::section::Section;
use super::reach::{Pattern, Reach};
use super::{Read, cover, nobody};
use crate::policy::{Gate, Rule};
use crate::types::{BranchIndex, Operation, ViewPath};

pub(super) fn check(read: &Read<'_, '_>, report: &mut Report) {
    for (gate, section) in read.gates {
        if cover::is_nobody(&gate.who) {
            nobody(&format!("gate {}", gate.name), section, report);
            continue;
        }
        closed_by_rule(read, gate, section, report);
        behind_another(read, gate, section, report);
        leads_to_readers(read, gate, section, report);
        if gate.terms.max_size == Some(0) {
            report
                .warning(
                    section.value_span("max_size"),
                    format!("gate {} takes no content", gate.name),
                )
                .label("only empty files pass")
                .hint("without max_size files of any size pass");
        }
    }
}

/// Reports a gate on one of whose sides a rule denies every move.
fn closed_by_rule(read: &Read<'_, '_>, gate: &Gate, section: &Section<'_>, report: &mut Report) {
    let sides =
        [(Operation::MoveSource, &gate.from, "from"), (Operation::MoveTarget, &gate.to, "to")];
    for (operation, end, key) in sides {
        let Some(at) = place(read, end) else { continue };
        let paths = below(at, gate.paths.texts());
        let closing = read.rules.iter().find(|(rule, _)| {
            cover::denies_always(rule)
                && rule.operations.contains(&operation)
                && cover::holds_all(&rule.who, &gate.who)
                && cover::matches_all(rule.paths.texts(), &paths)
        });
        let Some((rule, closing)) = closing else { continue };
        report
            .error(section.name.span(), format!("nobody can use gate {}", gate.name))
            .label(format!("rule {} denies {operation} for all that it takes", rule.name))
            .other(closing.name.span(), "this rule")
            .other(section.value_span(key), format!("`{key}` is there"))
            .hint("remove one of them, or let the rule speak of less");
        return;
    }
}

/// Reports a gate that another before it stands in front of: the first that fits carries every move, also one
/// that it then refuses for its content.
fn behind_another(read: &Read<'_, '_>, gate: &Gate, section: &Section<'_>, report: &mut Report) {
    let before = read.gates.iter().take_while(|(other, _)| other.name != gate.name);
    let in_front = before.into_iter().find(|(other, _)| {
        let leads = |outer: &[BranchIndex], inner: &[BranchIndex]| {
            inner.iter().all(|end| outer.contains(end))
        };
        leads(&other.from, &gate.from)
            && leads(&other.to, &gate.to)
            && cover::holds_all(&other.who, &gate.who)
            && cover::matches_all(&rooted(other), &rooted(gate))
    });
    let Some((other, other_section)) = in_front else { return };
    report
        .error(section.name.span(), format!("gate {} is never used", gate.name))
        .label(format!("gate {} takes all that it would, and comes first", other.name))
        .other(other_section.name.span(), "this gate")
        .hint("remove one of them, or put the narrower one first");
}

/// Warns of a rule that denies reading where the gate begins and not where it leads: who may not read a file there,
/// and may remove it, moves it and reads it then. A gate with checks is meant so: what passes them may be read.
fn leads_to_readers(read: &Read<'_, '_>, gate: &Gate, section: &Section<'_>, report: &mut Report) {
    let (Some(from), Some(to)) = (place(read, &gate.from), place(read, &gate.to)) else { return };
    let takes = below(from, gate.paths.texts());
    let takes_all = gate.paths.texts().iter().any(|text| text == "**");
    let reaches = |rule: &Rule, at: &ViewPath| {
        let mut texts = rule.paths.texts().iter();
        texts.any(|text| matches!(Pattern::parse(text).reach(at), Reach::Inside | Reach::Around))
    };
    let speaks_of = |rule: &Rule| {
        let of_all = |path| cover::matches_all(rule.paths.texts(), std::slice::from_ref(path));
        (takes_all && reaches(rule, from)) || takes.iter().any(of_all)
    };
    let all = || read.rules.iter().map(|(rule, _)| rule);
    let readable = read.within_allowed
        || all().any(|rule| {
            !rule.denies
                && rule.operations.contains(&Operation::OpenRead)
                && cover::share(&rule.who, &gate.who)
                && reaches(rule, to)
        });
    let denies_reading = |rule: &Rule| {
        rule.denies && !rule.observe && rule.operations.contains(&Operation::OpenRead)
    };
    let cannot_leave = |rule: &Rule| {
        all().any(|other| {
            cover::denies_always(other)
                && other.operations.contains(&Operation::MoveSource)
                && cover::holds_all(&other.who, &rule.who)
                && cover::matches_all(other.paths.texts(), rule.paths.texts())
        })
    };
    let holds_there = |rule: &Rule| {
        all().any(|other| {
            denies_reading(other)
                && (other.conditions.is_empty() || other.conditions == rule.conditions)
                && cover::holds_all(&other.who, &rule.who)
                && cover::matches_all(other.paths.texts(), &below(to, &["**".to_owned()]))
        })
    };
    let shed = read.rules.iter().find(|(rule, _)| {
        readable
            && gate.terms.checks.is_empty()
            && denies_reading(rule)
            && cover::share(&rule.who, &gate.who)
            && speaks_of(rule)
            && !cannot_leave(rule)
            && !holds_there(rule)
    });
    let Some((rule, shed)) = shed else { return };
    report
        .warning(section.name.span(), format!("gate {} leads out of rule {}", gate.name, rule.name))
        .label(format!("what may not be read can be moved to {to}, and read there"))
        .other(shed.name.span(), "this rule")
        .hint(format!("let the rule deny remove too, or speak of {to} as well"));
}

/// Patterns of a gate, which are below a place, as those of the view. Wildcards of the place itself are not meant
/// as such.
fn below(at: &ViewPath, texts: &[String]) -> Vec<String> {
    let folder = globset::escape(&at.to_string());
    let folder = folder.trim_end_matches('/');
    texts.iter().map(|text| format!("{folder}/{text}")).collect()
}

/// The patterns of a gate as if its branch were the root.
fn rooted(gate: &Gate) -> Vec<String> {
    gate.paths.texts().iter().map(|text| format!("/{text}")).collect()
}

fn place<'c>(read: &Read<'c, '_>, end: &[BranchIndex]) -> Option<&'c ViewPath> {
    let first = end.first()?;
    let all = read.known.branches.all();
    all.iter().find(|found| found.spec.index == *first).map(|found| &found.place.at)
}
