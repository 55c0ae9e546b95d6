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

fn place<'c>(read: &Read<'c, '_>, end: &[BranchIndex]) -> Option<&'c ViewPath> {
    let first = end.first()?;
    let all = read.known.branches.all();
    all.iter().find(|found| found.spec.index == *first).map(|found| &found.place.at)
}
