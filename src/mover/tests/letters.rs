//! Dead letters: what a person has done with them, with the power going at every step, and again in
//! the recovery after that.

use super::*;

pub(super) const OLD: &[u8] = b"what stood there";
const PERSON: Caller = Caller { uid: 0, gid: 0, pid: 9 };
/// No wish takes more steps; a test that gets here hangs.
const STEPS_MAX: u64 = 300;

/// A dead letter: how many of its moves are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause {
    pub(super) made: usize,
    pub(super) same: bool,
}

/// A crossing of `f` onto `sub/g` that stopped after some of its moves, as a daemon leaves one that it can
/// neither complete nor put back. What was in the way is gone. All of it is durable.
pub(super) fn letter(cause: Cause) -> (World, TxId) {
    letter_on(Names::Independent, cause)
}

/// One between two disks, of which RETIRE is made.
pub(super) fn letter_between(names: Names) -> (World, TxId) {
    letter_on(names, Cause { made: 1, same: false })
}

fn letter_on(names: Names, cause: Cause) -> (World, TxId) {
    let world = new_world(names, cause.same);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    let txid = world.cross("f", "sub/g").unwrap().txid;
    let commit = declare_dead(&world, txid);
    for step in commit.moves.iter().skip(cause.made).rev() {
        let place = |spot: &Spot| {
            let branch = world.mover.branch_by_uuid(spot.branch).unwrap();
            world.mover.open_in(&branch, spot).unwrap()
        };
        let (from, to) = (place(&step.from), place(&step.to));
        world.disk.rename(&to.dir, &to.name, &from.dir, &from.name).unwrap();
    }
    world.disk.sync_all();
    (world, txid)
}

pub(super) fn declare_dead(world: &World, txid: TxId) -> CrossingRecord {
    let commit = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    assert!(!commit.moves.is_empty());
    let dead = later_step(&commit, Step::Dead, Some("a test says so".to_owned()), "EIO".to_owned());
    world.mover.record(dead, Durability::Sync).unwrap();
    commit
}

/// Between two disks it is RETIRE, DISPLACE and APPLY, on one disk the last two.
fn causes() -> impl Iterator<Item = Cause> {
    let of = |same, moves| (0..=moves).map(move |made| Cause { made, same });
    of(false, 3).chain(of(true, 2))
}

type Places = Vec<Vec<Vec<u8>>>;

impl World {
    pub(super) fn settle(&self, txid: TxId, what: Settle) -> Result<Settled, LetterError> {
        self.mover.settle(PERSON, None, txid, what)
    }

    pub(super) fn ends(&self) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        (self.get(0, "f"), self.get(1, "sub/g"))
    }

    /// What is where.
    pub(super) fn places(&self) -> Places {
        let private = [0, 1].into_iter().flat_map(|branch| {
            ["stage", "hold"].into_iter().map(move |area| self.private(branch, area))
        });
        let ends = [self.get(0, "f"), self.get(1, "sub/g")];
        ends.map(|end| end.into_iter().collect()).into_iter().chain(private).collect()
    }

    fn everything(&self) -> Vec<Vec<u8>> {
        self.places().concat()
    }

    fn reason(&self, txid: TxId) -> String {
        let reason = self.mover.with_journal(|journal| journal.get(txid).unwrap().reason.clone());
        reason.unwrap_or_default()
    }

    fn hold(&self, branch: usize) -> SimulatedDir {
        self.disk.open_dir(&self.roots[branch], Path::new(".octroi/hold")).unwrap()
    }
}

pub(super) fn before() -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    (Some(new_content()), Some(OLD.to_vec()))
}

fn after() -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    (None, Some(new_content()))
}

#[test]
fn when_the_cause_is_gone_both_ways_are_open() {
    for cause in causes() {
        let (world, txid) = letter(cause);
        assert_eq!(world.settle(txid, Settle::Retry), Ok(Settled::Done), "{cause:?}");
        assert_eq!(world.ends(), after(), "{cause:?}");
        assert_eq!(world.state(txid), Some(TransactionState::Done));
        // It is a crossing like any other: it can be undone.
        world.undo(txid).unwrap();
        assert_eq!(world.ends(), before(), "{cause:?}");

        let (world, txid) = letter(cause);
        assert_eq!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(None)), "{cause:?}");
        assert_eq!(world.ends(), before(), "{cause:?}");
        assert_eq!(world.state(txid), Some(TransactionState::Reverted));
        assert!(world.private(1, "stage").is_empty(), "{cause:?}: a copy was left");
        let refused = world.settle(txid, Settle::Retry).unwrap_err();
        assert_eq!(refused, LetterError::NotDead { state: "reverted" });
    }
}

#[test]
fn nothing_stays_in_stage_when_the_folder_of_the_target_is_gone() {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/other", OLD);
    let txid = world.cross("f", "sub/g").unwrap().txid;
    let commit = declare_dead(&world, txid);
    let applied = commit.moves.last().unwrap();
    let branch = world.mover.branch_by_uuid(applied.to.branch).unwrap();
    let [from, to] =
        [&applied.from, &applied.to].map(|spot| world.mover.open_in(&branch, spot).unwrap());
    world.disk.rename(&to.dir, &to.name, &from.dir, &from.name).unwrap();
    let root = &world.roots[1];
    world.disk.rename(root, OsStr::new("sub"), root, OsStr::new("renamed")).unwrap();

    assert_eq!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(None)));
    assert_eq!(world.get(0, "f"), Some(new_content()));
    assert!(world.private(1, "stage").is_empty(), "a copy was left");
}

/// After a wish that was cut off, and a recovery: the letter is as it was, or it has ended as wished; and
/// a second recovery finds nothing to do.
#[track_caller]
fn check_after_crash(
    found: Disk,
    (same, untouched): (bool, &Places),
    txid: TxId,
    wish: Settle,
    context: &str,
) {
    let world = start(found.shared(), same).expect("starts");
    if world.state(txid) == Some(TransactionState::Dead) {
        assert_eq!(world.places(), *untouched, "{context}: moved before the wish was durable");
    }
    let recovery = world.mover.recover();
    assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
    assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
    let ended = match wish {
        Settle::Retry => (TransactionState::Done, after()),
        Settle::Withdraw => (TransactionState::Reverted, before()),
        Settle::Accept | Settle::Discard | Settle::GiveUp => unreachable!("they move nothing"),
    };
    let state = world.state(txid).unwrap();
    if state != TransactionState::Dead {
        assert_eq!((state, world.ends()), ended, "{context}");
    }
    let all = world.everything();
    assert!(all.contains(&new_content()), "{context}: the source is lost");
    assert!(all.contains(&OLD.to_vec()), "{context}: the replaced is lost");
    let world = world.restart(same);
    assert_eq!(world.mover.recover(), Recovery::default(), "{context}: the second recovery");
    assert_eq!(world.everything(), all, "{context}: the second recovery changed something");
    // Whatever was cut off, the person may ask again.
    if state == TransactionState::Dead {
        world.settle(txid, wish).unwrap();
        assert_eq!((world.state(txid).unwrap(), world.ends()), ended, "{context}: asked again");
    }
}

#[test]
fn power_loss_at_every_step_of_a_wish() {
    for cause in causes() {
        for wish in [Settle::Retry, Settle::Withdraw] {
            cut_wish(Names::Independent, cause, wish);
        }
    }
    // Where each folder is synced by itself, in an order.
    cut_wish(Names::Separate, Cause { made: 3, same: false }, Settle::Withdraw);
}

fn cut_wish(names: Names, cause: Cause, wish: Settle) {
    let mut steps = 0;
    loop {
        assert!(steps < STEPS_MAX, "{wish:?} does not end");
        let (world, txid) = letter_on(names, cause);
        let untouched = world.places();
        let first = world.disk.steps();
        world.disk.fail_at(first + steps, Fault::Crash);
        let _ = world.settle(txid, wish);
        if world.disk.steps() <= first + steps {
            break;
        }
        for seed in 0..3 {
            let context = format!("{names:?} {cause:?} {wish:?} step {steps} seed {seed}");
            let found = world.disk.crash(seed);
            check_after_crash(found, (cause.same, &untouched), txid, wish, &context);
        }
        steps += 1;
    }
    assert!(steps > 4, "{cause:?} {wish:?} took {steps} steps only");
}

#[test]
fn power_loss_in_the_recovery_of_a_wish() {
    let cause = Cause { made: 2, same: false };
    for wish in [Settle::Retry, Settle::Withdraw] {
        for step in 0..STEPS_MAX {
            let (world, txid) = letter(cause);
            let untouched = world.places();
            let first = world.disk.steps();
            world.disk.fail_at(first + step, Fault::Crash);
            let _ = world.settle(txid, wish);
            if world.disk.steps() <= first + step {
                break;
            }
            for again in (0..STEPS_MAX).step_by(3) {
                let found = world.disk.crash(step);
                found.fail_at(again, Fault::Crash);
                let found = found.shared();
                if let Some(world) = start(Arc::clone(&found), cause.same) {
                    world.mover.recover();
                }
                if found.steps() <= again {
                    break;
                }
                let context = format!("{wish:?} step {step} recovery {again}");
                check_after_crash(
                    found.crash(again),
                    (cause.same, &untouched),
                    txid,
                    wish,
                    &context,
                );
            }
        }
    }
}

/// A call fails while a wish is carried out: nothing is lost, and what waits is ended by a restart.
#[test]
fn a_failing_call_of_a_wish_loses_nothing() {
    for errno in [Errno::IO, Errno::ACCESS] {
        for cause in causes() {
            for wish in [Settle::Retry, Settle::Withdraw] {
                for step in 0..STEPS_MAX {
                    let (world, txid) = letter(cause);
                    let first = world.disk.steps();
                    world.disk.fail_at(first + step, Fault::Errno(errno));
                    let outcome = world.settle(txid, wish);
                    let ended = world.disk.steps() <= first + step;
                    world.disk.take_faults();
                    let context = format!("{cause:?} {wish:?} {errno:?} at {step}: {outcome:?}");
                    let all = world.everything();
                    assert!(all.contains(&new_content()), "{context}: the source is lost");
                    assert!(all.contains(&OLD.to_vec()), "{context}: the replaced is lost");
                    let twice = (Some(new_content()), Some(new_content()));
                    assert_ne!(world.ends(), twice, "{context}: it is in two places");
                    assert!(world.mover.active().is_empty(), "{context}: it is shown as running");
                    let world = world.restart(cause.same);
                    let recovery = world.mover.recover();
                    assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
                    let all = world.everything();
                    assert!(all.contains(&new_content()), "{context}: the source is lost later");
                    assert!(all.contains(&OLD.to_vec()), "{context}: the replaced is lost later");
                    if ended {
                        break;
                    }
                }
            }
        }
    }
}

/// A dead letter between two disks of which the source is in hold, and so is what it replaces.
pub(super) fn retired() -> (World, TxId) {
    letter(Cause { made: 2, same: false })
}

#[test]
fn a_name_that_is_taken_keeps_its_owner() {
    let (world, txid) = retired();
    world.put(0, "f", b"another's");
    let Ok(Settled::Dead(why)) = world.settle(txid, Settle::Withdraw) else {
        panic!("it was put onto another's file");
    };
    assert!(why.contains("EEXIST"), "{why}");
    assert_eq!(world.reason(txid), why);
    assert_eq!(world.get(0, "f").unwrap(), b"another's");
    assert_eq!(world.get(1, "sub/g").unwrap(), OLD, "what can be put back is");
    assert!(world.private(0, "hold").contains(&new_content()), "the source is lost");
    // The person makes way, and asks again.
    world.disk.rename(&world.roots[0], "f".as_ref(), &world.roots[0], "mine".as_ref()).unwrap();
    assert_eq!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(None)));
    assert_eq!(world.ends(), before());
}

#[test]
fn what_is_lost_is_not_tried_again_and_may_be_accepted() {
    let (world, txid) = retired();
    let name = txid.to_string();
    world.disk.unlink(&world.hold(0), OsStr::new(&name)).unwrap();
    let records = |world: &World| {
        world.mover.with_journal(|journal| {
            let found = journal.get(txid).unwrap();
            (found.state, found.changed)
        })
    };
    let then = records(&world);
    let refused = world.settle(txid, Settle::Retry).unwrap_err();
    assert!(matches!(&refused, LetterError::InVain { .. }), "{refused}");
    assert_eq!(records(&world), then, "it was recorded");
    assert_eq!(world.mover.examine(txid)[0].found, Found::Nowhere);
    let Ok(Settled::Dead(why)) = world.settle(txid, Settle::Withdraw) else { panic!() };
    assert!(why.contains("the source") && why.contains("not found"), "{why}");
    assert_eq!(world.get(1, "sub/g").unwrap(), OLD);
    let copy = world.private(1, "stage");
    assert_eq!(copy, [new_content()], "the last copy is lost");

    assert_eq!(world.settle(txid, Settle::Accept), Ok(Settled::Accepted));
    assert_eq!(world.state(txid), Some(TransactionState::Accepted));
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1000);
    world.mover.purge(later, std::time::Duration::ZERO);
    let world = world.restart(false);
    assert_eq!(world.mover.recover(), Recovery::default());
    assert_eq!(world.private(1, "stage"), copy, "what was accepted is kept");
    let refused = world.settle(txid, Settle::Withdraw).unwrap_err();
    assert_eq!(refused, LetterError::NotDead { state: "accepted" });

    // A copy that somebody brought back is not what the crossing put there.
    let stage = world.disk.open_dir(&world.roots[1], Path::new(".octroi/stage")).unwrap();
    let name = txid.to_string();
    let (name, aside) = (OsStr::new(&name), OsStr::new("aside"));
    world.disk.rename(&stage, name, &stage, aside).unwrap();
    world.disk.create_file(&stage, name).unwrap();
    let refused = world.settle(txid, Settle::Discard).unwrap_err();
    assert!(refused.to_string().contains(&format!("{txid} in stage of branch")), "{refused}");
    assert_eq!(world.private(1, "stage").len(), 2);
    world.disk.unlink(&stage, name).unwrap();
    world.disk.rename(&stage, aside, &stage, name).unwrap();

    assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    assert!(world.private(1, "stage").is_empty());
    assert_eq!(world.get(1, "sub/g").unwrap(), OLD);
    assert!(world.settle(txid, Settle::Discard).is_err());
}

/// What a discard removes is recorded first: all that was accepted is there, or none of it after a recovery.
#[test]
fn power_loss_at_every_step_of_a_discard() {
    for step in 0..STEPS_MAX {
        let (world, txid) = retired();
        let kept = world.places();
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        let _ = world.settle(txid, Settle::Discard);
        for seed in 0..6 {
            let context = format!("step {step} seed {seed}");
            let world = start(world.disk.crash(seed).shared(), false).unwrap();
            world.mover.recover();
            match world.mover.with_journal(|journal| journal.get(txid).unwrap().purged) {
                true => assert!(world.everything().is_empty(), "{context}: something was left"),
                false => assert_eq!(world.places(), kept, "{context}: gone without a record"),
            }
        }
        if world.disk.steps() <= first + step {
            assert!(step > 4, "it took {step} steps only");
            return;
        }
    }
    panic!("it does not end");
}

/// The folder that the source left was removed: nothing is moved, and the person is told where it is.
#[test]
fn what_cannot_go_home_stays_and_is_said_where() {
    let world = new_world(Names::Independent, false);
    world.make_dirs(0, &["gone"]);
    world.put(0, "gone/f", &new_content());
    let txid = world.cross("gone/f", "sub/g").unwrap().txid;
    declare_dead(&world, txid);
    let stage = world.disk.open_dir(&world.roots[1], Path::new(".octroi/stage")).unwrap();
    let (dir, name) = (world.dir(1, "sub/g"), txid.to_string());
    world.disk.rename(&dir, OsStr::new("g"), &stage, OsStr::new(&name)).unwrap();
    world.disk.remove_dir(&world.roots[0], OsStr::new("gone")).unwrap();
    let Ok(Settled::Dead(why)) = world.settle(txid, Settle::Withdraw) else { panic!() };
    assert!(why.contains(&format!("the source stays at {name}")), "{why}");
    assert_eq!(world.private(0, "hold"), [new_content()]);
    world.disk.unlink(&world.hold(0), OsStr::new(&name)).unwrap();
    let Ok(Settled::Dead(why)) = world.settle(txid, Settle::Withdraw) else { panic!() };
    assert!(why.contains("the source is not found"), "{why}");
}

pub(super) const WORK: &[u8] = b"work of users";

/// The copy arrived, the source's hold entry was meddled with, DONE was lost, and a user has written to
/// what arrived: putting back must not take the user's work out of the view, nor show beside it what it
/// was made from.
#[test]
fn work_on_the_target_stays_where_it_is_and_its_source_in_hold() {
    let (world, txid) = letter_with_work();
    let Ok(Settled::Dead(why)) = world.settle(txid, Settle::Withdraw) else { panic!() };
    assert!(why.contains("written to"), "{why}");
    let told = |branch| format!(".octroi/hold/{txid} of branch {branch}");
    assert!(["a", "b"].into_iter().all(|branch| why.contains(&told(branch))), "{why}");
    assert_eq!(world.ends(), (None, Some(WORK.to_vec())), "it is in two places");
    let kept = [0, 1].map(|branch| world.private(branch, "hold"));
    assert_eq!(kept, [vec![new_content()], vec![OLD.to_vec()]], "all of it is kept");
    // Whoever wants the source all the same takes the copy away first.
    let sub = world.dir(1, "sub/g");
    world.disk.rename(&sub, "g".as_ref(), &sub, "work".as_ref()).unwrap();
    let Ok(Settled::Dead(_)) = world.settle(txid, Settle::Withdraw) else { panic!() };
    assert_eq!(world.ends(), before());
    assert_eq!(world.get(1, "sub/work").unwrap(), WORK);

    let (world, txid) = letter_with_work();
    assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    assert!([0, 1].iter().all(|branch| world.private(*branch, "hold").is_empty()));
    assert_eq!(world.get(1, "sub/g").unwrap(), WORK);
}

#[test]
fn work_on_the_target_is_never_beside_its_source_also_when_the_power_goes() {
    for step in 0..STEPS_MAX {
        let (world, txid) = letter_with_work();
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        let _ = world.settle(txid, Settle::Withdraw);
        if world.disk.steps() <= first + step {
            assert!(step > 1, "it took {step} steps only");
            return;
        }
        for seed in 0..3 {
            let world = start(world.disk.crash(seed).shared(), false).expect("starts");
            world.mover.recover();
            assert_eq!(world.ends(), (None, Some(WORK.to_vec())), "step {step} seed {seed}");
            let kept = [0, 1].map(|branch| world.private(branch, "hold"));
            assert_eq!(kept, [vec![new_content()], vec![OLD.to_vec()]], "step {step} seed {seed}");
        }
    }
    panic!("it does not end");
}

fn letter_with_work() -> (World, TxId) {
    let (world, txid) = letter(Cause { made: 3, same: false });
    let file = world.disk.open_write(&world.dir(1, "sub/g"), OsStr::new("g")).unwrap();
    world.disk.set_len(&file, 0).unwrap();
    world.disk.write_at(&file, WORK, 0).unwrap();
    world.disk.sync_file(&file).unwrap();
    (world, txid)
}
