//! Gates that nobody can use.

use super::super::diagnostic::Report;
use super::super::section::Section;
use super::{Read, cover, nobody};
use crate::policy::Gate;
use crate::types::{BranchIndex, Operation, ViewPath};

pub(super) fn check(read: &Read<'_, '_>, report: &mut Report) {
    for (gate, section) in read.gates {
        if cover::is_nobody(&gate.who) {
            nobody(&format!("gate {}", gate.name), section, report);
            continue;
        }
        closed_by_rule(read, gate, section, report);
        behind_another(read, gate, section, report);
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
        // Patterns of gates are below the place; its own wildcards would not be meant as such.
        let folder = globset::escape(&at.to_string());
        let folder = folder.trim_end_matches('/');
        let paths: Vec<String> =
            gate.paths.texts().iter().map(|text| format!("{folder}/{text}")).collect();
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

/// The patterns of a gate as if its branch were the root.
fn rooted(gate: &Gate) -> Vec<String> {
    gate.paths.texts().iter().map(|text| format!("/{text}")).collect()
}

fn place<'c>(read: &Read<'c, '_>, end: &[BranchIndex]) -> Option<&'c ViewPath> {
    let first = end.first()?;
    let all = read.known.branches.all();
    all.iter().find(|found| found.spec.index == *first).map(|found| &found.place.at)
}
