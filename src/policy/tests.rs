//! The engine against examples, and against a naive evaluator that was written from design sections
//! 3 and 5 alone.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::types::Verb;

const ANA: u32 = 1001;
const BEN: u32 = 1002;
const CURATORS: u32 = 2001;

fn subject(uid: u32, groups: &[u32]) -> Subject {
    Subject { uid, gid: uid, groups: Arc::from(groups) }
}

fn path(text: &str) -> ViewPath {
    ViewPath::parse(Path::new(text)).unwrap()
}

fn patterns(texts: &[&str]) -> PathPatterns {
    PathPatterns::new(texts.iter().map(|text| (*text).to_owned()).collect()).unwrap()
}

fn of_verbs(verbs: &[Verb]) -> Vec<Operation> {
    Operation::ALL.into_iter().filter(|operation| verbs.contains(&operation.verb())).collect()
}

fn rule(name: &str, denies: bool, verbs: &[Verb], who: Principal, paths: &[&str]) -> Rule {
    Rule {
        name: name.into(),
        denies,
        operations: of_verbs(verbs),
        who: vec![who],
        paths: patterns(paths),
        reason: denies.then(|| "because".into()),
    }
}

fn gate(name: &str, from: u16, to: u16, who: Principal, paths: &[&str]) -> Gate {
    Gate {
        name: name.into(),
        from: Arc::new([BranchIndex(from)]),
        to: Arc::new([BranchIndex(to)]),
        who: vec![who],
        paths: patterns(paths),
        terms: Arc::new(GateTerms { types: vec![], max_size: None, verify: Verify::Stream }),
    }
}

/// inbox (rw, 0), review (gates-only, 1), archive (ro, 2), scratch (rw, 3, at /lab/scratch).
fn lab(within_allowed: bool, rules: Vec<Rule>, gates: Vec<Gate>) -> PolicySource {
    let branch = |name: &str, at: &str, mode| BranchFacts {
        name: name.into(),
        pool: None,
        at: path(at),
        mode,
    };
    PolicySource {
        within_allowed,
        rules,
        gates,
        branches: vec![
            branch("inbox", "/inbox", BranchMode::Rw),
            branch("review", "/review", BranchMode::GatesOnly),
            branch("archive", "/archive", BranchMode::Ro),
            branch("scratch", "/lab/scratch", BranchMode::Rw),
        ],
    }
}

fn branch_of(path: &ViewPath) -> Option<BranchIndex> {
    let found = [(0, "/inbox"), (1, "/review"), (2, "/archive"), (3, "/lab/scratch")]
        .into_iter()
        .find(|(_, at)| path.as_path().starts_with(at));
    found.map(|(index, _)| BranchIndex(index))
}

fn object(path: &ViewPath) -> Object<'_> {
    Object { path, branch: branch_of(path), is_directory: false }
}

#[track_caller]
fn check(policy: &Policy, who: &Subject, operation: Operation, at: &str, wanted: (bool, Basis)) {
    let at = path(at);
    let decision = policy.decide(who, operation, object(&at));
    assert_eq!((decision.allowed, decision.basis.clone()), wanted, "{operation} of {at}");
    assert_eq!(decision.reason.is_some(), !decision.allowed, "{decision:?}");
    assert_eq!(decision.generation, policy.generation());
    let (explained, considered) = policy.explain(who, operation, object(&at), None);
    assert_eq!(explained, decision);
    assert!(considered.iter().any(|line| line.applies) || branch_of(&at).is_none());
}

#[test]
fn modes_deny_what_design_section_5_lists() {
    let policy = Policy::new(lab(true, vec![], vec![]), 1);
    let ana = subject(ANA, &[]);
    let content = [
        Operation::OpenWrite,
        Operation::WriteData,
        Operation::Truncate,
        Operation::Fallocate,
        Operation::CopyFileRange,
        Operation::Create,
        Operation::Mknod,
        Operation::Symlink,
        Operation::Link,
        Operation::Setxattr,
    ];
    for operation in Operation::ALL {
        let reads = operation.verb() == Verb::Read;
        let default = (true, Basis::Default);
        check(&policy, &ana, operation, "/inbox/a", default.clone());
        let ro = if reads { default.clone() } else { (false, Basis::Mode(BranchMode::Ro)) };
        check(&policy, &ana, operation, "/archive/a", ro);
        let denied = (false, Basis::Mode(BranchMode::GatesOnly));
        let gates_only = if content.contains(&operation) { denied } else { default };
        check(&policy, &ana, operation, "/review/a", gates_only);
        check(&policy, &ana, operation, "/lab", (reads, Basis::Virtual));
        check(&policy, &ana, operation, "/", (reads, Basis::Virtual));
    }
}

#[test]
fn deny_wins_in_either_order() {
    let deny = rule("no-sh", true, &[Verb::Add], Principal::User(ANA), &["/inbox/**/*.sh"]);
    let allow = rule("add", false, &[Verb::Add], Principal::Anyone, &["/inbox/**"]);
    for rules in [vec![deny.clone(), allow.clone()], vec![allow, deny]] {
        let policy = Policy::new(lab(false, rules, vec![]), 1);
        let denied = (false, Basis::Rule("no-sh".into()));
        let allowed = (true, Basis::Rule("add".into()));
        check(&policy, &subject(ANA, &[]), Operation::Create, "/inbox/x/run.sh", denied);
        check(&policy, &subject(ANA, &[]), Operation::Create, "/inbox/run.txt", allowed.clone());
        check(&policy, &subject(BEN, &[]), Operation::Create, "/inbox/x/run.sh", allowed);
        let default = (false, Basis::Default);
        check(&policy, &subject(BEN, &[]), Operation::Unlink, "/inbox/x/run.sh", default);
    }
}

#[test]
fn groups_match_by_primary_and_supplementary() {
    let rules =
        vec![rule("only", true, &[Verb::Read], Principal::Group(CURATORS), &["/inbox/secret/**"])];
    let policy = Policy::new(lab(true, rules, vec![]), 1);
    let denied = (false, Basis::Rule("only".into()));
    let primary = Subject { uid: BEN, gid: CURATORS, groups: Arc::from([]) };
    check(&policy, &primary, Operation::OpenRead, "/inbox/secret/a", denied.clone());
    check(&policy, &subject(BEN, &[5, CURATORS]), Operation::OpenRead, "/inbox/secret/a", denied);
    let free = (true, Basis::Default);
    check(&policy, &subject(CURATORS, &[]), Operation::OpenRead, "/inbox/secretary", free);
}

#[test]
fn a_pattern_of_everything_covers_the_root_and_virtual_folders() {
    let rules = vec![rule("shut", true, &[Verb::Read], Principal::User(BEN), &["/**"])];
    let policy = Policy::new(lab(true, rules, vec![]), 1);
    for at in ["/", "/lab", "/inbox", "/inbox/a/b"] {
        let denied = (false, Basis::Rule("shut".into()));
        check(&policy, &subject(BEN, &[]), Operation::List, at, denied);
    }
    check(&policy, &subject(ANA, &[]), Operation::List, "/", (true, Basis::Virtual));
}

#[test]
fn a_branch_that_the_policy_does_not_know_is_denied() {
    let policy = Policy::new(lab(true, vec![], vec![]), 1);
    let at = path("/inbox/a");
    let object = Object { path: &at, branch: Some(BranchIndex(99)), is_directory: false };
    let decision = policy.decide(&subject(0, &[]), Operation::OpenRead, object);
    assert_eq!((decision.allowed, decision.basis), (false, Basis::Error));
}

#[track_caller]
fn check_crossing(
    policy: &Policy,
    who: &Subject,
    source: &str,
    target: &str,
    wanted: Basis,
    reason: Option<&str>,
) {
    let (source, target) = (path(source), path(target));
    let (decision, gate) = policy.decide_crossing(who, object(&source), object(&target));
    assert_eq!(decision.basis, wanted);
    assert_eq!(decision.reason.as_deref(), reason);
    assert_eq!(decision.allowed, gate.is_some());
    if let (Basis::Gate(name), Some(gate)) = (&decision.basis, gate) {
        assert_eq!(*name, gate.name);
    }
    let asked = Some(object(&target));
    let (explained, list) = policy.explain(who, Operation::RenameSource, object(&source), asked);
    assert_eq!(explained, decision);
    assert_eq!(list.iter().any(|line| line.applies && line.what.starts_with("gate ")), {
        policy
            .source
            .gates
            .iter()
            .any(|gate| policy.gate_misfit(gate, who, object(&source), object(&target)).is_none())
    });
}

#[test]
fn crossings_need_a_gate_that_fits_both_names() {
    let gates = vec![
        gate("submit", 0, 1, Principal::Anyone, &["**/*.csv"]),
        gate("curate", 0, 1, Principal::Group(CURATORS), &["**"]),
        gate("store", 1, 2, Principal::Anyone, &["**"]),
    ];
    // within = deny does not close a gate; a rule does.
    let rules = vec![rule("keep", true, &[Verb::Remove], Principal::Anyone, &["/inbox/keep/*"])];
    let policy = Policy::new(lab(false, rules, gates), 1);
    let (ana, curator) = (subject(ANA, &[]), subject(BEN, &[CURATORS]));
    let submit = Basis::Gate("submit".into());
    check_crossing(&policy, &ana, "/inbox/a.csv", "/review/b.csv", submit.clone(), None);
    check_crossing(&policy, &ana, "/inbox/d/a.csv", "/review/a.csv", submit, None);
    let source_name = "gate submit leads from inbox to review, but its paths do not match the \
                       source's name";
    let target_name = "gate submit leads from inbox to review, but its paths do not match the \
                       target's name";
    check_crossing(&policy, &ana, "/inbox/a", "/review/a.csv", Basis::NoGate, Some(source_name));
    check_crossing(&policy, &ana, "/inbox/a.csv", "/review/a", Basis::NoGate, Some(target_name));
    let curate = Basis::Gate("curate".into());
    check_crossing(&policy, &curator, "/inbox/a", "/review/a", curate, None);
    let none = "no gate leads from inbox to scratch; gates from inbox: submit (to review), curate \
                (to review)";
    check_crossing(&policy, &ana, "/inbox/a", "/lab/scratch/a", Basis::NoGate, Some(none));
    let none = "no gate leads from scratch to inbox; gates from scratch: none";
    check_crossing(&policy, &ana, "/lab/scratch/a", "/inbox/a", Basis::NoGate, Some(none));
    let ro = "branch archive is read-only";
    let mode = Basis::Mode(BranchMode::Ro);
    check_crossing(&policy, &ana, "/review/a", "/archive/a", mode.clone(), Some(ro));
    check_crossing(&policy, &ana, "/archive/a", "/inbox/a", mode, Some(ro));
    let keep = Basis::Rule("keep".into());
    let because = Some("because");
    check_crossing(&policy, &ana, "/inbox/keep/a.csv", "/review/a.csv", keep, because);
    let folder = "no branch provides this folder, so it cannot be changed";
    check_crossing(&policy, &ana, "/inbox/a.csv", "/lab/a.csv", Basis::Virtual, Some(folder));
}

#[test]
fn an_allow_rule_stands_for_no_gate_and_lifts_no_mode() {
    let every = [Verb::Read, Verb::Write, Verb::Add, Verb::Remove, Verb::Attrs];
    let rules = vec![rule("all", false, &every, Principal::Anyone, &["/**"])];
    let policy = Policy::new(lab(true, rules, vec![]), 1);
    let ana = subject(ANA, &[]);
    let none = "no gate leads from inbox to review; gates from inbox: none";
    check_crossing(&policy, &ana, "/inbox/a", "/review/a", Basis::NoGate, Some(none));
    let gates_only = (false, Basis::Mode(BranchMode::GatesOnly));
    check(&policy, &ana, Operation::Create, "/review/a", gates_only);
    check(&policy, &ana, Operation::Unlink, "/archive/a", (false, Basis::Mode(BranchMode::Ro)));
    check(&policy, &ana, Operation::Mkdir, "/lab/a", (false, Basis::Virtual));
}

#[test]
fn another_name_sheds_no_rule() {
    let rules = vec![
        rule("secret", true, &[Verb::Read], Principal::User(BEN), &["/inbox/secret/**"]),
        rule("final", true, &[Verb::Add], Principal::User(BEN), &["/inbox/final/**"]),
    ];
    let policy = Policy::new(lab(true, rules, vec![]), 1);
    let (ana, ben) = (subject(ANA, &[]), subject(BEN, &[]));
    let (secret, open) = (path("/inbox/secret/a"), path("/inbox/a"));
    let (other, last) = (path("/inbox/secret/b"), path("/inbox/final/a"));
    let shed = policy.widens(&ben, object(&secret), object(&open)).unwrap();
    assert_eq!(shed.basis, Basis::Rule("secret".into()));
    assert_eq!(policy.widens(&ana, object(&secret), object(&open)), None);
    assert_eq!(policy.widens(&ben, object(&open), object(&secret)), None);
    assert_eq!(policy.widens(&ben, object(&secret), object(&other)), None);
    // A rule about adding is no property of the file.
    assert_eq!(policy.widens(&ben, object(&last), object(&open)), None);
    for operation in [Operation::Link, Operation::RenameSource] {
        let (decision, _) = policy.explain(&ben, operation, object(&secret), Some(object(&open)));
        assert_eq!(decision, shed);
        let folder = Object { is_directory: true, ..object(&secret) };
        let (decision, _) = policy.explain(&ben, operation, folder, Some(object(&open)));
        assert_eq!(decision, shed);
    }
}

/// What design sections 3 and 5 say, in the plainest words: (allowed, and which gate).
mod naive {
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
            hit |= speaks && matches && about(&rule.who, subject);
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
        let inside = |object: Object<'_>, branch: BranchIndex| {
            let at = source.branches[branch.0 as usize].at.as_path().to_owned();
            object.path.as_path().strip_prefix(at).unwrap().to_owned()
        };
        let mut fitting = source.gates.iter().filter(|gate| {
            from_branch != to_branch
                && gate.from.contains(&from_branch)
                && gate.to.contains(&to_branch)
                && about(&gate.who, subject)
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
    let top = prop::sample::select(vec!["/inbox", "/review", "/archive", "/lab/scratch", "/lab"]);
    let rest = prop::collection::vec(prop::sample::select(vec!["a", "b.csv", "c.sh"]), 0..3);
    (top, rest).prop_map(|(top, rest)| path(&format!("{top}/{}", rest.join("/"))))
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
            who,
            ..rule(&format!("r{number}"), denies, &[], Principal::Anyone, &globs)
        })
}

fn any_gate() -> impl Strategy<Value = Gate> {
    let globs = vec!["**", "*", "**/*.csv", "a/**"];
    (0..4u16, 0..4u16, any_principal(), prop::sample::subsequence(globs, 1..3), 0..1000u32)
        .prop_map(|(from, to, who, globs, n)| gate(&format!("g{n}"), from, to, who, &globs))
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
        let policy = Policy::new(lab.clone(), 3);
        let who = Subject { uid, gid, groups: Arc::from([group]) };
        let mut sheds = false;
        for operation in Operation::ALL {
            let wanted = naive::decide(&lab, &who, operation, object(&source));
            let decision = policy.decide(&who, operation, object(&source));
            prop_assert_eq!(decision.allowed, wanted, "{} of {}", operation, &source);
            let (explained, _) = policy.explain(&who, operation, object(&source), None);
            prop_assert_eq!(explained, decision);
            let elsewhere = naive::decide(&lab, &who, operation, object(&target));
            sheds |= operation.verb() != Verb::Add && !wanted && elsewhere;
        }
        prop_assert_eq!(policy.widens(&who, object(&source), object(&target)).is_some(), sheds);
        let (decision, gate) = policy.decide_crossing(&who, object(&source), object(&target));
        let wanted = naive::crossing(&lab, &who, object(&source), object(&target));
        prop_assert_eq!(gate.map(|gate| gate.name.clone()), wanted.clone());
        prop_assert_eq!(decision.allowed, wanted.is_some());
    }
}
