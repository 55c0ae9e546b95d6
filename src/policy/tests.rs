//! The engine against examples; `naive` has it against an evaluator in the plainest words.

use std::path::Path;

use super::*;
use crate::types::Verb;

mod gates;
mod naive;
mod pools;
mod shed;

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
        who: vec![who].into(),
        paths: patterns(paths),
        conditions: Conditions::default(),
        observe: false,
        reason: denies.then(|| "because".into()),
    }
}

fn gate(name: &str, from: u16, to: u16, who: Principal, paths: &[&str]) -> Gate {
    gate_between(name, &[from], &[to], who, paths)
}

fn gate_between(name: &str, from: &[u16], to: &[u16], who: Principal, paths: &[&str]) -> Gate {
    let end = |branches: &[u16]| branches.iter().copied().map(BranchIndex).collect();
    Gate {
        name: name.into(),
        from: end(from),
        to: end(to),
        who: vec![who].into(),
        paths: patterns(paths),
        terms: Arc::new(GateTerms {
            types: vec![],
            max_size: None,
            verify: Verify::Stream,
            lossy: Default::default(),
            checks: vec![],
        }),
    }
}

/// inbox (rw, 0), review (gates-only, 1), archive (ro, 2), scratch (rw, 3, at /lab/scratch); pool store
/// (gates-only) of disk1 and disk2 (4, 5), pool work (rw, at /lab/merged) of fast and slow (6, 7).
fn lab(within_allowed: bool, rules: Vec<Rule>, gates: Vec<Gate>) -> PolicySource {
    let branch = |name: &str, pool: Option<&str>, at: &str, mode| BranchFacts {
        name: name.into(),
        pool: pool.map(Arc::from),
        at: path(at),
        mode,
    };
    PolicySource {
        within_allowed,
        observe: false,
        rules,
        gates,
        branches: vec![
            branch("inbox", None, "/inbox", BranchMode::Rw),
            branch("review", None, "/review", BranchMode::GatesOnly),
            branch("archive", None, "/archive", BranchMode::Ro),
            branch("scratch", None, "/lab/scratch", BranchMode::Rw),
            branch("disk1", Some("store"), "/store", BranchMode::GatesOnly),
            branch("disk2", Some("store"), "/store", BranchMode::GatesOnly),
            branch("fast", Some("work"), "/lab/merged", BranchMode::Rw),
            branch("slow", Some("work"), "/lab/merged", BranchMode::Rw),
        ],
    }
}

/// The branch that provides a path, or the first member of the pool that does.
fn branch_of(path: &ViewPath) -> Option<BranchIndex> {
    let places = [
        (0, "/inbox"),
        (1, "/review"),
        (2, "/archive"),
        (3, "/lab/scratch"),
        (4, "/store"),
        (6, "/lab/merged"),
    ];
    let found = places.into_iter().find(|(_, at)| path.as_path().starts_with(at));
    found.map(|(index, _)| BranchIndex(index))
}

fn object(path: &ViewPath) -> Object<'_> {
    Object { path, branch: branch_of(path), is_directory: false }
}

#[track_caller]
fn check(policy: &Policy, who: &Subject, operation: Operation, at: &str, wanted: (bool, Basis)) {
    let at = path(at);
    let decision = policy.decide(who, operation, object(&at), &Given::default());
    assert_eq!((decision.allowed, decision.basis.clone()), wanted, "{operation} of {at}");
    assert_eq!(decision.reason.is_some(), !decision.allowed, "{decision:?}");
    assert_eq!(decision.generation, policy.generation());
    let (explained, considered) =
        policy.explain(who, operation, object(&at), None, &Given::default());
    assert_eq!(explained, decision);
    assert!(considered.iter().any(|line| line.applies) || branch_of(&at).is_none());
}

#[test]
fn modes_deny_what_design_section_5_lists() {
    let policy = Policy::new(lab(true, vec![], vec![]), 1).expect("patterns that compile");
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
        let policy = Policy::new(lab(false, rules, vec![]), 1).expect("patterns that compile");
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
    let policy = Policy::new(lab(true, rules, vec![]), 1).expect("patterns that compile");
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
    let policy = Policy::new(lab(true, rules, vec![]), 1).expect("patterns that compile");
    for at in ["/", "/lab", "/inbox", "/inbox/a/b"] {
        let denied = (false, Basis::Rule("shut".into()));
        check(&policy, &subject(BEN, &[]), Operation::List, at, denied);
    }
    check(&policy, &subject(ANA, &[]), Operation::List, "/", (true, Basis::Virtual));
}

#[test]
fn a_branch_that_the_policy_does_not_know_is_denied() {
    let policy = Policy::new(lab(true, vec![], vec![]), 1).expect("patterns that compile");
    let at = path("/inbox/a");
    let object = Object { path: &at, branch: Some(BranchIndex(99)), is_directory: false };
    let decision = policy.decide(&subject(0, &[]), Operation::OpenRead, object, &Given::default());
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
    let (decision, gate) =
        policy.decide_crossing(who, object(&source), object(&target), &Given::default());
    assert_eq!(decision.basis, wanted);
    assert_eq!(decision.reason.as_deref(), reason);
    assert_eq!(decision.allowed, gate.is_some());
    if let (Basis::Gate(name), Some(gate)) = (&decision.basis, gate) {
        assert_eq!(*name, gate.name);
    }
    let asked = Some(object(&target));
    let (explained, list) =
        policy.explain(who, Operation::RenameSource, object(&source), asked, &Given::default());
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
    let policy = Policy::new(lab(false, rules, gates), 1).expect("patterns that compile");
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
    let policy = Policy::new(lab(true, rules, vec![]), 1).expect("patterns that compile");
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
    let policy = Policy::new(lab(true, rules, vec![]), 1).expect("patterns that compile");
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
        let (decision, _) = policy.explain(
            &ben,
            operation,
            object(&secret),
            Some(object(&open)),
            &Given::default(),
        );
        assert_eq!(decision, shed);
        let folder = Object { is_directory: true, ..object(&secret) };
        let (decision, _) =
            policy.explain(&ben, operation, folder, Some(object(&open)), &Given::default());
        assert_eq!(decision, shed);
    }
}

#[test]
fn what_is_observed_is_what_would_have_denied() {
    for (within, observed) in [(true, Basis::Label), (false, Basis::Default)] {
        let source = PolicySource { observe: true, ..lab(within, vec![], vec![]) };
        let policy = Policy::new(source, 1).expect("patterns that compile");
        let facts = Given { changes_labels: true, ..Given::default() };
        let (ana, at) = (subject(ANA, &[]), path("/inbox/a"));
        let decision = policy.decide(&ana, Operation::Setxattr, object(&at), &facts);
        assert_eq!((decision.allowed, decision.basis), (true, Basis::Default));
        assert_eq!(decision.observed.map(|denial| denial.basis), Some(observed));
    }
}
