//! What people are told where pools are concerned, and what gates of pools lead from and to.

use super::*;

const DISK1: u16 = 4;
const DISK2: u16 = 5;

fn of(branch: u16, path: &ViewPath) -> Object<'_> {
    Object { branch: Some(BranchIndex(branch)), ..object(path) }
}

/// `submit` leads from inbox to store, `recall` from store to inbox, `retire` from disk1 alone to
/// scratch.
fn policy() -> Policy {
    let all = &["**"];
    let gates = vec![
        gate_between("submit", &[0], &[DISK1, DISK2], Principal::Anyone, &["**/*.csv"]),
        gate_between("recall", &[DISK1, DISK2], &[0], Principal::User(ANA), all),
        gate_between("retire", &[DISK1], &[3], Principal::Anyone, all),
    ];
    Policy::new(lab(true, vec![], gates), 1).expect("patterns that compile")
}

#[track_caller]
fn check_move(uid: u32, (from, source): (u16, &str), (to, target): (u16, &str), wanted: &str) {
    let (source, target) = (path(source), path(target));
    let (source, target) = (of(from, &source), of(to, &target));
    let policy = policy();
    let who = subject(uid, &[]);
    let (decision, gate) = policy.decide_crossing(&who, source, target, &Given::default());
    match gate {
        Some(gate) => assert_eq!(gate.name.as_ref(), wanted),
        None => assert_eq!(decision.reason.as_deref(), Some(wanted)),
    }
}

#[test]
fn into_a_pool_every_member_is_as_good() {
    for member in [DISK1, DISK2] {
        check_move(BEN, (0, "/inbox/a.csv"), (member, "/store/a.csv"), "submit");
        let name =
            "gate submit leads from inbox to store, but its paths do not match the source's name";
        check_move(BEN, (0, "/inbox/a"), (member, "/store/a.csv"), name);
        let none = "no gate leads from review to store; gates from review: none";
        check_move(BEN, (1, "/review/a"), (member, "/store/a"), none);
    }
}

#[test]
fn out_of_a_pool_every_member_has_its_gate() {
    for member in [DISK1, DISK2] {
        check_move(ANA, (member, "/store/a"), (0, "/inbox/a"), "recall");
        let who = "gate recall leads from store to inbox, but it is not for this caller";
        check_move(BEN, (member, "/store/a"), (0, "/inbox/a"), who);
    }
    check_move(BEN, (DISK1, "/store/a"), (3, "/lab/scratch/a"), "retire");
    let none = "no gate leads from disk2, a member of pool store, to scratch; gates from store: \
                recall (to inbox), retire (from disk1 to scratch)";
    check_move(BEN, (DISK2, "/store/a"), (3, "/lab/scratch/a"), none);
    let none = "no gate leads from work to review; gates from work: none";
    check_move(BEN, (7, "/lab/merged/a"), (1, "/review/a"), none);
}

#[test]
fn nothing_crosses_inside_a_pool() {
    let inside = "a move inside pool store is no crossing";
    check_move(ANA, (DISK1, "/store/a"), (DISK2, "/store/b"), inside);
    // Not even by a gate that the configuration would not let pass.
    let gates = vec![gate_between("g", &[DISK1], &[DISK2], Principal::Anyone, &["**"])];
    let policy = Policy::new(lab(true, vec![], gates), 1).expect("patterns that compile");
    let (source, target) = (path("/store/a"), path("/store/b"));
    let (source, target) = (of(DISK1, &source), of(DISK2, &target));
    let ana = subject(ANA, &[]);
    assert!(policy.decide_crossing(&ana, source, target, &Given::default()).1.is_none());
    let (decision, list) =
        policy.explain(&ana, Operation::RenameSource, source, Some(target), &Given::default());
    assert_eq!((decision.allowed, decision.basis), (true, Basis::Default));
    assert!(list.iter().all(|line| !line.what.starts_with("gate ")));
}

#[test]
fn explanations_name_the_pool() {
    let policy = policy();
    let (ana, at, source) = (subject(ANA, &[]), path("/store/a.csv"), path("/inbox/a.csv"));
    let denied = policy.decide(&ana, Operation::Create, of(DISK2, &at), &Given::default());
    let reason = "content enters pool store only through a gate: submit (from inbox)";
    assert_eq!(denied.reason.as_deref(), Some(reason));
    let (_, list) = policy.explain(
        &ana,
        Operation::MoveSource,
        of(0, &source),
        Some(of(DISK2, &at)),
        &Given::default(),
    );
    let why: Vec<&str> = list.iter().map(|line| line.why.as_str()).collect();
    let wanted = [
        "the mode of branch inbox does not deny move-source",
        "the mode of pool store does not deny move-target",
        "leads from inbox to store: it fits caller and names",
        "leads from store to inbox: it connects other branches",
        "leads from disk1 to scratch: it connects other branches",
    ];
    assert_eq!(why, wanted);
}

#[test]
fn a_read_only_pool_is_named_too() {
    let mut source = lab(true, vec![], vec![]);
    for branch in &mut source.branches {
        branch.mode = BranchMode::Ro;
    }
    let policy = Policy::new(source, 1).expect("patterns that compile");
    let at = path("/store/a");
    let denied =
        policy.decide(&subject(0, &[]), Operation::Unlink, of(DISK2, &at), &Given::default());
    assert_eq!(denied.reason.as_deref(), Some("pool store is read-only"));
}

#[test]
fn a_gate_admits_what_matches_on_both_sides() {
    let gate = gate("g", 0, 1, Principal::Anyone, &["run/**/*.csv", "*.json"]);
    for (source, target, wanted) in [
        ("run/a.csv", "run/deep/er/a.csv", true),
        ("a.json", "run/a.csv", true),
        ("run/a.csv", "a.csv", false),
        ("a.csv", "run/a.csv", false),
        ("run/a.sh", "run/a.sh", false),
    ] {
        assert_eq!(gate.admits(Path::new(source), Path::new(target)), wanted, "{source}");
    }
}
