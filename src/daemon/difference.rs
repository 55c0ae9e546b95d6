//! Two configurations of one view, value by value: what takes another mount, and what another policy.

use std::collections::HashMap;

use crate::config::{BranchEntry, Config, PoolEntry};
use crate::control::protocol::{Difference, ReloadReport};
use crate::policy::{Gate, Rule};
use crate::types::BranchIndex;

/// The keys whose values cannot change while the view is mounted, and have.
pub(super) fn needs_remount(old: &Config, new: &Config) -> Vec<String> {
    // Named one by one, so that a new field cannot be forgotten.
    let Config {
        view,
        state,
        branches,
        pools,
        crossings,
        hold_keep,
        hold_max,
        record,
        audit_keep,
        policy: _,
        readers: _,
        expectations: _,
    } = new;
    let mut keys = Vec::new();
    let mut key = |name: &str, same: bool| {
        if !same {
            keys.push(name.to_owned());
        }
    };
    key("view.name", *view == old.view);
    key("view.state", *state == old.state);
    key("crossings.parallel", crossings.parallel == old.crossings.parallel);
    key("crossings.rate", crossings.rate == old.crossings.rate);
    key("hold.keep", *hold_keep == old.hold_keep);
    key("hold.max", *hold_max == old.hold_max);
    key("audit.record", *record == old.record);
    key("audit.keep", audit_keep.age == old.audit_keep.age);
    key("audit.max_size", audit_keep.size == old.audit_keep.size);
    let name = |entry: &BranchEntry| entry.spec.name.clone();
    keys.extend(compare("branches", (&old.branches, branches), name, branch_differs));
    let members = |of: &Config, pool: &PoolEntry| -> Vec<Option<String>> {
        let name = |at: &BranchIndex| of.branches.get(usize::from(at.0)).map(name);
        pool.members.iter().map(name).collect()
    };
    let pool_differs = |before: &PoolEntry, now: &PoolEntry| {
        let PoolEntry { index: _, name: _, at, members: _, place, mode } = now;
        let same_members = members(old, before) == members(new, now);
        vec![
            ("at", *at == before.at),
            ("members", same_members),
            ("place", *place == before.place),
            ("mode", *mode == before.mode),
        ]
    };
    keys.extend(compare("pools", (&old.pools, pools), |pool| pool.name.clone(), pool_differs));
    keys
}

fn branch_differs(before: &BranchEntry, now: &BranchEntry) -> Vec<(&'static str, bool)> {
    let crate::branch::BranchSpec { index: _, name: _, path, mode, io, min_free, exposed } =
        &now.spec;
    let was = &before.spec;
    // A member's place and mode are its pool's.
    let own = before.at.is_some() && now.at.is_some();
    vec![
        ("at", !own || now.at == before.at),
        ("path", *path == was.path),
        ("mode", !own || *mode == was.mode),
        ("io", *io == was.io),
        ("min_free", *min_free == was.min_free),
        ("exposed", *exposed == was.exposed),
    ]
}

/// What differs in a table of named sections: those that only one of the two has, keys of those that both
/// have, and the order of the rest, by which branches are told apart while they are mounted.
fn compare<T>(
    table: &str,
    (old, new): (&[T], &[T]),
    name: impl Fn(&T) -> String,
    differs: impl Fn(&T, &T) -> Vec<(&'static str, bool)>,
) -> Vec<String> {
    let names = |list: &[T]| list.iter().map(&name).collect::<Vec<_>>();
    let (before, now) = (names(old), names(new));
    let only_one = |one: &[String], other: &[String]| {
        let only: Vec<_> = one.iter().filter(|name| !other.contains(name)).cloned().collect();
        only.into_iter().map(|name| format!("{table}.{name}"))
    };
    let mut keys: Vec<String> = only_one(&before, &now).chain(only_one(&now, &before)).collect();
    if keys.is_empty() && before != now {
        keys.push(format!("the order of {table}"));
    }
    for (one, before) in new.iter().filter_map(|one| {
        let before = old.iter().find(|before| name(before) == name(one))?;
        Some((one, before))
    }) {
        let changed = differs(before, one).into_iter().filter(|(_, same)| !same);
        keys.extend(changed.map(|(key, _)| format!("{table}.{}.{key}", name(one))));
    }
    keys
}

/// What another policy makes different. Hashes, generation and open files are the caller's to add.
pub(super) fn report(old: &Config, new: &Config) -> ReloadReport {
    let (before, now) = (&old.policy, &new.policy);
    let settings = [
        ("policy.within", before.within_allowed == now.within_allowed),
        ("policy.observe", before.observe == now.observe),
        ("audit.readers", old.readers == new.readers),
    ];
    let settings = settings.into_iter().filter(|(_, same)| !same);
    ReloadReport {
        settings: settings.map(|(key, _)| key.to_owned()).collect(),
        rules: named((&before.rules, &now.rules), |rule| &rule.name, same_rule),
        gates: named((&before.gates, &now.gates), |gate| &gate.name, same_gate),
        ..ReloadReport::default()
    }
}

/// Whether a report names any difference.
pub(super) fn is_any(report: &ReloadReport) -> bool {
    let none = Difference::default();
    !report.settings.is_empty() || report.rules != none || report.gates != none
}

fn named<T>(
    (old, new): (&[T], &[T]),
    name: impl Fn(&T) -> &str,
    same: impl Fn(&T, &T) -> bool,
) -> Difference {
    let by_name = |list| -> HashMap<&str, &T> {
        let list: &[T] = list;
        list.iter().map(|one| (name(one), one)).collect()
    };
    let (before, now) = (by_name(old), by_name(new));
    let names = |list: &[T], wanted: &dyn Fn(&T) -> bool| {
        list.iter().filter(|one| wanted(one)).map(|one| name(one).to_owned()).collect()
    };
    Difference {
        added: names(new, &|one| !before.contains_key(name(one))),
        removed: names(old, &|one| !now.contains_key(name(one))),
        changed: names(new, &|one| before.get(name(one)).is_some_and(|was| !same(was, one))),
    }
}

fn same_rule(a: &Rule, b: &Rule) -> bool {
    let Rule { name, denies, operations, who, paths, conditions, observe, reason } = a;
    *name == b.name
        && *denies == b.denies
        && *operations == b.operations
        && *who == b.who
        && paths.texts() == b.paths.texts()
        && *conditions == b.conditions
        && *observe == b.observe
        && *reason == b.reason
}

fn same_gate(a: &Gate, b: &Gate) -> bool {
    let Gate { name, from, to, who, paths, terms } = a;
    *name == b.name
        && *from == b.from
        && *to == b.to
        && *who == b.who
        && paths.texts() == b.paths.texts()
        && *terms == b.terms
}
