use super::super::record::{Act, Area, CrossingRecord, Move, Spot, Step};
use super::super::tests::step;
use super::story::Story;
use crate::types::{BranchUuid, Handle, Identity, Time, TxId};

const FIRST: TxId = TxId(ulid::Ulid(1));
const SEVEN: TxId = TxId(ulid::Ulid(7));

#[track_caller]
fn check(steps: &[Step], wrong: Option<&str>) {
    let mut story = Story::default();
    let mut found = None;
    for kind in steps {
        if let Err(why) = story.step(&step(SEVEN, *kind)) {
            found.get_or_insert(why);
        }
    }
    match (found, wrong) {
        (None, None) => {}
        (Some(found), Some(wrong)) if found.contains(wrong) => {}
        (found, wrong) => panic!("{steps:?}: {found:?}, not {wrong:?}"),
    }
}

#[test]
fn each_step_needs_the_one_before() {
    use Step::{Abort, Accept, Commit, Dead, Done, Prepare, Retry, Reverted, Withdraw};
    check(&[Prepare, Commit, Done], None);
    check(&[Prepare, Commit, Reverted], None);
    check(&[Prepare, Abort], None);
    check(&[Prepare, Commit, Abort], None);
    check(&[Prepare, Commit, Dead], None);
    check(&[Prepare, Commit, Dead, Retry, Done], None);
    check(&[Prepare, Commit, Dead, Retry, Dead, Withdraw, Reverted], None);
    check(&[Prepare, Commit, Dead, Withdraw, Dead, Accept], None);
    check(&[Prepare], None);
    check(&[Commit, Done], Some("COMMIT without PREPARE"));
    check(&[Prepare, Done], Some("DONE without COMMIT"));
    check(&[Done], Some("DONE without COMMIT"));
    check(&[Prepare, Commit, Done, Done], Some("DONE without COMMIT"));
    check(&[Prepare, Commit, Commit], Some("COMMIT a second time"));
    check(&[Prepare, Prepare], Some("PREPARE a second time"));
    check(&[Prepare, Reverted], Some("REVERTED without COMMIT"));
    check(&[Abort], Some("ABORT of what was not prepared"));
    check(&[Prepare, Commit, Done, Abort], Some("ABORT"));
    check(&[Dead], Some("DEAD without COMMIT"));
    check(&[Prepare, Commit, Retry], Some("RETRY of what is no dead letter"));
    check(&[Prepare, Commit, Withdraw], Some("WITHDRAW of what is no dead letter"));
    check(&[Prepare, Commit, Dead, Accept, Accept], Some("ACCEPT of what is no dead letter"));
    check(&[Prepare, Commit, Dead, Withdraw, Done], Some("DONE without COMMIT"));
    check(&[Prepare, Commit, Dead, Done], Some("DONE without COMMIT"));
}

/// What a branch that left the view keeps from being moved is in the record of a dead letter.
#[test]
fn what_waits_for_a_branch_ends_by_itself() {
    use Step::{Accept, Commit, Dead, Done, Prepare, Retry, Reverted, Withdraw};
    let place = |name: &str| Spot {
        branch: BranchUuid(ulid::Ulid(1)),
        area: Area::Tree,
        path: name.into(),
    };
    let time = Time { seconds: 0, nanos: 0 };
    let handle = Handle { kind: 1, bytes: Box::new([1]) };
    let rest = Move {
        act: Act::Retire,
        from: place("f"),
        to: place("g"),
        identity: Identity { handle, size: 0, mtime: time, ctime: time },
        below: None,
    };
    let run = |steps: &[(Step, bool)]| {
        let mut story = Story::default();
        let step = |(kind, waits): &(Step, bool)| {
            let moves = waits.then(|| rest.clone()).into_iter().collect();
            story.step(&CrossingRecord { moves, ..step(SEVEN, *kind) }).err()
        };
        steps.iter().find_map(step)
    };
    let dead = [(Prepare, false), (Commit, true), (Dead, true)];
    let after = |more: &[(Step, bool)]| run(&[&dead[..], more].concat());
    for end in [Done, Reverted, Dead, Retry] {
        assert_eq!(after(&[(end, false)]), None, "{end:?}");
    }
    assert_eq!(after(&[(Accept, true), (Accept, false)]), None);
    let again = after(&[(Accept, true), (Accept, false), (Accept, false)]);
    assert!(again.is_some_and(|why| why.contains("ACCEPT of what is no dead letter")));
    for end in [Reverted, Dead] {
        assert_eq!(after(&[(Accept, true), (Withdraw, false), (end, false)]), None, "{end:?}");
    }
    let asked = [(Accept, true), (Withdraw, false), (Dead, false), (Retry, false), (Done, false)];
    assert_eq!(after(&asked), None);
    let again = after(&[(Accept, false), (Withdraw, false)]);
    assert!(again.is_some_and(|why| why.contains("WITHDRAW of what is no dead letter")));
    let again = after(&[(Dead, false), (Done, false)]);
    assert!(again.is_some_and(|why| why.contains("DONE without COMMIT")), "it waits no more");
}

#[test]
fn only_what_is_done_is_taken_back_once() {
    let mut story = Story::default();
    let mut run = |record: &CrossingRecord| story.step(record).map(drop);
    for kind in [Step::Prepare, Step::Commit, Step::Done] {
        run(&step(FIRST, kind)).unwrap();
    }
    let undo =
        |txid, kind| CrossingRecord { undoes: Some(FIRST), ..step(TxId(ulid::Ulid(txid)), kind) };
    for kind in [Step::Prepare, Step::Commit, Step::Done] {
        run(&undo(2, kind)).unwrap();
    }
    run(&undo(3, Step::Prepare)).unwrap();
    let again = run(&undo(3, Step::Commit)).unwrap_err();
    assert!(again.contains("which is not done"), "{again}");
    let counts = story.counts();
    assert!(counts.contains(&("done", 2)) && counts.contains(&("undone", 1)), "{counts:?}");
    assert!(counts.contains(&("open", 1)), "{counts:?}");
}
