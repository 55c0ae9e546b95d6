//! Gates from every branch to every other, against the naive evaluator; and what is said of them.

use proptest::prelude::*;

use super::naive::plain::{Answer, Plain, Question};
use super::*;

fn any_principal() -> impl Strategy<Value = Principal> {
    prop_oneof![
        Just(Principal::Anyone),
        (0..3u32).prop_map(Principal::User),
        (0..4u32).prop_map(Principal::Group),
    ]
}

fn any_relative() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b.csv", "c.sh"]);
    prop::collection::vec(names, 0..3).prop_map(|names| names.join("/"))
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn gates_lead_from_every_branch_to_every_other_as_the_naive_evaluator_says(
        gates in prop::collection::vec(any_gate(), 0..8),
        (uid, gid) in (0..3u32, 0..4u32),
        (from_name, to_name) in (any_relative(), any_relative()),
    ) {
        let whole_pools = gates.iter().all(|gate| gate.from.len() == 2 || gate.from[0].0 < 4);
        let lab = lab(true, vec![], gates);
        let plain = Plain::new(&lab);
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
            let question = Question::Cross(source, target);
            let found = gate.map(|gate| gate.name.clone());
            let crossed = Answer::Crossed { basis: decision.basis.clone(), gate: found };
            let wanted = plain.answer(&who, question, &Given::default());
            prop_assert_eq!(crossed, wanted, "{} to {}", from, to);
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
