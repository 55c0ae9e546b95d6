//! The engine against a naive evaluator that was written from design sections 3, 5 and 6 alone.

use proptest::prelude::*;

use super::*;

/// What the design says, in the plainest words.
mod plain {
    use super::*;

    fn about(who: &[Principal], subject: &Subject) -> bool {
        for principal in who {
            match principal {
                Principal::Anyone => return true,
                Principal::User(uid) if *uid == subject.uid => return true,
                Principal::Group(gid) if *gid == subject.gid => return true,
                Principal::Group(gid) if subject.groups.iter().any(|g| g == gid) => return true,
                _ => {}
            }
        }
        false
    }

    fn any_rule(
        source: &PolicySource,
        denies: bool,
        subject: &Subject,
        operation: Operation,
        path: &ViewPath,
    ) -> bool {
        let mut hit = false;
        for rule in source.rules.iter().rev().filter(|rule| rule.denies == denies) {
            let speaks = rule.operations.contains(&operation);
            let matches = rule.paths.texts().iter().any(|glob| {
                let glob = globset::GlobBuilder::new(glob).literal_separator(true).build();
                glob.unwrap().compile_matcher().is_match(path.as_path())
            });
            hit |= speaks && matches && about(&rule.who.included, subject);
        }
        hit
    }

    fn mode_allows(source: &PolicySource, operation: Operation, object: Object<'_>) -> bool {
        let Some(branch) = object.branch else { return operation.verb() == Verb::Read };
        match source.branches[branch.0 as usize].mode {
            BranchMode::Rw => true,
            BranchMode::Ro => matches!(operation.name(), "list" | "open-read" | "exec"),
            BranchMode::GatesOnly => !matches!(
                operation.name(),
                "create"
                    | "mknod"
                    | "symlink"
                    | "link"
                    | "open-write"
                    | "write-data"
                    | "truncate"
                    | "fallocate"
                    | "copy-file-range"
                    | "setxattr"
            ),
        }
    }

    pub fn decide(
        source: &PolicySource,
        subject: &Subject,
        operation: Operation,
        object: Object<'_>,
    ) -> bool {
        let denied = any_rule(source, true, subject, operation, object.path);
        let allowed = any_rule(source, false, subject, operation, object.path);
        let silent = object.branch.is_none() || source.within_allowed;
        mode_allows(source, operation, object) && !denied && (allowed || silent)
    }

    pub fn crossing(
        source: &PolicySource,
        subject: &Subject,
        from: Object<'_>,
        to: Object<'_>,
    ) -> Option<Arc<str>> {
        for (operation, object) in [(Operation::MoveTarget, to), (Operation::MoveSource, from)] {
            if !mode_allows(source, operation, object)
                || any_rule(source, true, subject, operation, object.path)
            {
                return None;
            }
        }
        let (from_branch, to_branch) = (from.branch?, to.branch?);
        let place = |branch: BranchIndex| &source.branches[branch.0 as usize].at;
        // Members of a pool, and nothing else, share a place.
        let one_place = |a, b| place(a) == place(b);
        let inside = |object: Object<'_>, branch: BranchIndex| {
            object.path.as_path().strip_prefix(place(branch).as_path()).unwrap().to_owned()
        };
        let mut fitting = source.gates.iter().filter(|gate| {
            !one_place(from_branch, to_branch)
                && gate.from.contains(&from_branch)
                && gate.to.contains(&to_branch)
                && about(&gate.who.included, subject)
                && gate.paths.matches(inside(from, from_branch).as_os_str())
                && gate.paths.matches(inside(to, to_branch).as_os_str())
        });
        fitting.next().map(|gate| gate.name.clone())
    }
}

fn any_principal() -> impl Strategy<Value = Principal> {
    prop_oneof![
        Just(Principal::Anyone),
        (0..3u32).prop_map(Principal::User),
        (0..4u32).prop_map(Principal::Group),
    ]
}

fn any_path() -> impl Strategy<Value = ViewPath> {
    let tops =
        vec!["/inbox", "/review", "/archive", "/lab/scratch", "/lab", "/store", "/lab/merged"];
    let top = prop::sample::select(tops);
    (top, any_relative()).prop_map(|(top, rest)| path(&format!("{top}/{rest}")))
}

fn any_relative() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b.csv", "c.sh"]);
    prop::collection::vec(names, 0..3).prop_map(|names| names.join("/"))
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let globs = vec!["/**", "/inbox/**", "/*/a", "/**/*.csv", "/review", "/{inbox,lab/*}/?.sh"];
    (
        any::<bool>(),
        prop::sample::subsequence(Operation::ALL.to_vec(), 1..8),
        prop::collection::vec(any_principal(), 1..3),
        prop::sample::subsequence(globs, 1..3),
        0..1000u32,
    )
        .prop_map(|(denies, operations, who, globs, number)| Rule {
            operations,
            who: who.into(),
            ..rule(&format!("r{number}"), denies, &[], Principal::Anyone, &globs)
        })
}

fn any_gate() -> impl Strategy<Value = Gate> {
    let ends: Vec<&[u16]> = vec![&[0], &[1], &[2], &[3], &[4, 5], &[6, 7]];
    let members: Vec<&[u16]> = vec![&[4], &[5], &[7]];
    let globs = vec!["**", "*", "**/*.csv", "a/**"];
    (
        prop_oneof![
            3 => prop::sample::select(ends.clone()),
            1 => prop::sample::select(members),
        ],
        prop::sample::select(ends),
        any_principal(),
        prop::sample::subsequence(globs, 1..3),
        0..1000u32,
    )
        .prop_map(|(from, to, who, globs, n)| gate_between(&format!("g{n}"), from, to, who, &globs))
}

/// As [`object`], of the last member where a pool provides it.
fn of_the_other_member(path: &ViewPath) -> Object<'_> {
    let own = object(path);
    let other = match own.branch {
        Some(BranchIndex(first @ (4 | 6))) => Some(BranchIndex(first + 1)),
        other => other,
    };
    Object { branch: other, ..own }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_engine_agrees_with_a_naive_evaluator(
        within in any::<bool>(),
        rules in prop::collection::vec(any_rule(), 0..6),
        gates in prop::collection::vec(any_gate(), 0..6),
        (uid, gid, group) in (0..3u32, 0..4u32, 0..4u32),
        (source, target) in (any_path(), any_path()),
    ) {
        let lab = lab(within, rules, gates);
        let policy = Policy::new(lab.clone(), 3).expect("patterns that compile");
        let who = Subject { uid, gid, groups: Arc::from([group]) };
        let mut sheds = false;
        for operation in Operation::ALL {
            let wanted = plain::decide(&lab, &who, operation, object(&source));
            let decision = policy.decide(&who, operation, object(&source), &Given::default());
            prop_assert_eq!(decision.allowed, wanted, "{} of {}", operation, &source);
            let (explained, _) = policy.explain(&who, operation, object(&source), None, &Given::default());
            prop_assert_eq!(&explained, &decision);
            let other = policy.decide(&who, operation, of_the_other_member(&source), &Given::default());
            prop_assert_eq!(other, decision, "{} of {}", operation, &source);
            let elsewhere = plain::decide(&lab, &who, operation, object(&target));
            sheds |= operation.verb() != Verb::Add && !wanted && elsewhere;
        }
        for target in [object(&target), of_the_other_member(&target)] {
            prop_assert_eq!(policy.widens(&who, object(&source), target).is_some(), sheds);
            let (decision, gate) = policy.decide_crossing(&who, object(&source), target, &Given::default());
            let wanted = plain::crossing(&lab, &who, object(&source), target);
            prop_assert_eq!(gate.map(|gate| gate.name.clone()), wanted.clone());
            prop_assert_eq!(decision.allowed, wanted.is_some());
        }
    }

    #[test]
    fn gates_lead_from_every_branch_to_every_other_as_the_naive_evaluator_says(
        gates in prop::collection::vec(any_gate(), 0..8),
        (uid, gid) in (0..3u32, 0..4u32),
        (from_name, to_name) in (any_relative(), any_relative()),
    ) {
        let whole_pools = gates.iter().all(|gate| gate.from.len() == 2 || gate.from[0].0 < 4);
        let lab = lab(true, vec![], gates);
        let policy = Policy::new(lab.clone(), 3).expect("patterns that compile");
        let who = Subject { uid, gid, groups: Arc::from([]) };
        let below = |branch: u16, name: &str| {
            path(&format!("{}/{name}", lab.branches[usize::from(branch)].at))
        };
        for (from, to) in (0..8).flat_map(|from| (0..8).map(move |to| (from, to))) {
            let (source, target) = (below(from, &from_name), below(to, &to_name));
            let source = Object { branch: Some(BranchIndex(from)), ..object(&source) };
            let target = Object { branch: Some(BranchIndex(to)), ..object(&target) };
            let (decision, gate) = policy.decide_crossing(&who, source, target, &Given::default());
            let wanted = plain::crossing(&lab, &who, source, target);
            prop_assert_eq!(gate.map(|gate| gate.name.clone()), wanted, "{} to {}", from, to);
            let (from_name, to_name) = (Path::new(&from_name), Path::new(&to_name));
            prop_assert!(gate.is_none_or(|gate| gate.admits(from_name, to_name)));
            let (explained, list) =
                policy.explain(&who, Operation::MoveSource, source, Some(target), &Given::default());
            let renames = lab.branches[usize::from(from)].at == lab.branches[usize::from(to)].at;
            let gates_told = list.iter().any(|one| one.what.starts_with("gate "));
            prop_assert_eq!(gates_told, !renames && !lab.gates.is_empty());
            prop_assert!(renames || explained == decision);
            let said = decision.reason.as_deref().unwrap_or_default().to_owned();
            let said = list.iter().fold(said, |said, one| said + "\n" + &one.why);
            let member = ["disk1", "disk2", "fast", "slow"].into_iter().find(|name| said.contains(name));
            prop_assert!(!whole_pools || member.is_none(), "{}", said);
        }
    }
}
