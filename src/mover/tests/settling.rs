//! Dead letters whose branches cannot be looked at, or whose source is not what it was: what is refused then, and
//! what stays where it is.

use super::letters::{Cause, OLD, WORK, before, declare_dead, letter};
use super::*;

/// No wish takes more steps; a test that gets here hangs.
const STEPS_MAX: u64 = 300;

/// What crossed is at its target.
const ARRIVED: Cause = Cause { made: 3, same: false };

/// What the mover has of a branch, after it went offline.
fn leave(world: &World, index: u16) -> MoverBranch<Disk> {
    let branch = world.mover.branch(BranchIndex(index)).unwrap();
    world.mover.branch_left(BranchIndex(index));
    Arc::try_unwrap(branch).ok().expect("nobody else has it")
}

fn set_read_only(world: &World, branch: usize, read_only: bool) {
    let options = DeviceOptions { read_only, ..DeviceOptions::default() };
    world.disk.set_options(device(branch, false), options);
}

fn write(world: &World, branch: usize, path: &str, content: &[u8]) {
    let name = Path::new(path).file_name().unwrap();
    let file = world.disk.open_write(&world.dir(branch, path), name).unwrap();
    world.disk.write_at(&file, content, 0).unwrap();
    world.disk.sync_all();
}

/// The copy is all that can be had.
#[test]
fn nothing_is_taken_back_while_the_sources_branch_is_offline() {
    let (world, txid) = letter(ARRIVED);
    let places = world.places();
    let away = leave(&world, 0);
    let refused = world.settle(txid, Settle::Withdraw);
    assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
    assert_eq!((world.state(txid), world.places()), (Some(TransactionState::Dead), places));
    world.mover.branch_returned(away);
    assert_eq!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(None)));
    assert_eq!(world.ends(), before());
}

/// Nor where its file system takes no changes.
#[test]
fn nothing_is_taken_back_while_the_sources_branch_is_read_only() {
    let (world, txid) = letter(ARRIVED);
    let places = world.places();
    set_read_only(&world, 0, true);
    let refused = world.settle(txid, Settle::Withdraw);
    assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
    assert_eq!((world.state(txid), world.places()), (Some(TransactionState::Dead), places));
    // Of what users have worked on nothing is to be moved.
    write(&world, 1, "sub/g", WORK);
    let places = world.places();
    let asked = world.settle(txid, Settle::Withdraw);
    assert!(matches!(asked, Ok(Settled::Dead(_))), "{asked:?}");
    assert_eq!(world.places(), places);
}

/// Somebody has asked for it before: it waits, and is gone on with when all of it can be moved.
#[test]
fn what_is_to_be_taken_back_waits_for_all_of_its_branches() {
    for away in [0, 1] {
        let (world, txid) = letter(ARRIVED);
        let record = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
        let asked = later_step(&record, Step::Withdraw, None, String::new());
        world.mover.record(asked, Durability::Sync).unwrap();
        let places = world.places();
        let world = world.restart(false);
        let branch = leave(&world, away);
        assert_eq!(world.mover.recover().left_open.len(), 1);
        assert_eq!(world.places(), places, "some of it was moved without branch {away}");
        let recovery = world.mover.branch_returned(branch);
        assert_eq!(recovery.reverted.len(), 1, "{recovery:?}");
        assert_eq!(world.ends(), before());
    }
}

/// What hold has of the source stands at its name again.
fn take_out(world: &World, txid: TxId, name: &str) {
    let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
    let held = txid.to_string();
    world.disk.rename(&hold, OsStr::new(&held), &world.roots[0], OsStr::new(name)).unwrap();
    world.disk.sync_all();
}

/// What crossed is at its target, and the source, which somebody has changed elsewhere, at its own name.
fn letter_with_changed_source() -> (World, TxId) {
    let (world, txid) = letter(ARRIVED);
    take_out(&world, txid, "f");
    write(&world, 0, "f", b"changed");
    (world, txid)
}

/// Users may have worked on it, or be at it.
#[test]
fn what_has_arrived_stays_where_another_try_fails() {
    for worked_on in [false, true] {
        let (world, txid) = letter_with_changed_source();
        if worked_on {
            write(&world, 1, "sub/g", WORK);
        }
        let places = world.places();
        for _ in 0..2 {
            let tried = world.settle(txid, Settle::Retry);
            assert!(matches!(tried, Ok(Settled::Dead(_))), "{tried:?}");
            assert_eq!(world.places(), places, "worked on: {worked_on}");
        }
        assert_eq!(world.settle(txid, Settle::Accept), Ok(Settled::Accepted));
    }
}

/// A directory is found to be another only when it is in hold.
#[test]
fn a_tree_that_has_arrived_stays_and_its_changed_source_too() {
    let world = new_world(Names::Independent, false);
    world.make_dirs(0, &["d"]);
    world.put(0, "d/f", &new_content());
    let txid = world.cross("d", "sub/t").unwrap().txid;
    declare_dead(&world, txid);
    take_out(&world, txid, "d");
    world.put(0, "d/new", b"new");
    let ends = || (world.get(0, "d"), world.get(1, "sub/t"));
    let before = ends();
    let tried = world.settle(txid, Settle::Retry);
    assert!(matches!(tried, Ok(Settled::Dead(_))), "{tried:?}");
    assert_eq!(ends(), before);
    assert!(before.0.is_some() && before.1.is_some());
}

/// Something else has its name by now.
#[test]
fn what_an_undo_brought_back_stays_where_the_rest_of_it_fails() {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    let crossed = world.cross("f", "sub/g").unwrap().txid;
    let undo = world.undo(crossed).unwrap().txid;
    declare_dead(&world, undo);
    let hold = world.disk.open_dir(&world.roots[1], Path::new(".octroi/hold")).unwrap();
    let (sub, held) = (world.dir(1, "sub/g"), crossed.to_string());
    world.disk.rename(&sub, OsStr::new("g"), &hold, OsStr::new(&held)).unwrap();
    world.put(1, "sub/g", b"another's");
    let places = world.places();
    let tried = world.settle(undo, Settle::Retry);
    assert!(matches!(tried, Ok(Settled::Dead(_))), "{tried:?}");
    assert_eq!(world.places(), places);
    // Whoever makes way has it completed.
    world.disk.rename(&sub, OsStr::new("g"), &sub, OsStr::new("mine")).unwrap();
    assert_eq!(world.settle(undo, Settle::Retry), Ok(Settled::Done));
    assert_eq!(world.ends(), before());
}

/// It comes to the same when the power goes at any step of it.
#[test]
fn what_has_arrived_stays_whenever_the_power_goes() {
    for step in 0..STEPS_MAX {
        let (world, txid) = letter_with_changed_source();
        let places = world.places();
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        let _ = world.settle(txid, Settle::Retry);
        for seed in 0..3 {
            let world = start(world.disk.crash(seed).shared(), false).expect("starts");
            world.mover.recover();
            assert_eq!(world.places(), places, "step {step} seed {seed}");
            assert_eq!(world.state(txid), Some(TransactionState::Dead), "step {step} seed {seed}");
        }
        if world.disk.steps() <= first {
            assert!(step > 4, "it took {step} steps only");
            return;
        }
    }
    panic!("it does not end");
}

/// What such a branch keeps is named to nobody, and may be the last copy.
#[test]
fn nothing_is_discarded_while_a_branch_is_out_that_may_keep_some_of_it() {
    for out in [0, 1] {
        for accepted in [false, true] {
            // The source is in hold, its copy in stage.
            let (world, txid) = letter(Cause { made: 1, same: false });
            world.mover.branch_left(BranchIndex(out));
            let left = UUIDS.into_iter().filter(|uuid| *uuid != UUIDS[usize::from(out)]);
            world.mover.set_configured(left.collect());
            if accepted {
                world.settle(txid, Settle::Accept).unwrap();
            }
            let (state, places) = (world.state(txid), world.places());
            let refused = world.settle(txid, Settle::Discard);
            assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
            assert_eq!((world.state(txid), world.places()), (state, places.clone()));
            let world = world.restart(false);
            assert_eq!(world.mover.recover(), Recovery::default());
            assert_eq!(world.places(), places);
            assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
            assert_eq!(world.ends(), (None, Some(OLD.to_vec())));
            let private = |branch| [world.private(branch, "stage"), world.private(branch, "hold")];
            assert_eq!([private(0), private(1)].concat().concat(), [] as [Vec<u8>; 0]);
        }
    }
}

/// What was said to be deleted would still be there.
#[test]
fn nothing_is_discarded_of_a_branch_that_is_read_only() {
    let (world, txid) = letter(Cause { made: 1, same: false });
    set_read_only(&world, 1, true);
    let (state, places) = (world.state(txid), world.places());
    let refused = world.settle(txid, Settle::Discard).unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");
    assert_eq!((world.state(txid), world.places()), (state, places));
    set_read_only(&world, 1, false);
    assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
}
