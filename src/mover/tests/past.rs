//! A branch leaves the view for good: it was adopted anew, or is in the configuration no more.

use super::*;

const OLD: &[u8] = b"what stood there";
const PERSON: Caller = Caller { uid: 0, gid: 0, pid: 9 };
/// A crossing takes fewer steps; a test that gets here hangs.
const STEPS_MAX: u64 = 500;

impl World {
    /// Without the branch of the targets.
    fn bereft(self) -> Self {
        self.bereft_of(1)
    }

    fn bereft_of(self, branch: usize) -> Self {
        self.mover.branch_left(BranchIndex(branch as u16));
        let left = UUIDS.into_iter().filter(|uuid| *uuid != UUIDS[branch]);
        self.mover.set_configured(left.collect());
        self
    }
}

/// The power goes at each step. What was decided is a person's, who can have the source back.
#[test]
fn no_crossing_waits_for_a_branch_that_left_for_good() {
    let mut dead = 0;
    for step in 0..STEPS_MAX {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        world.put(1, "sub/g", OLD);
        let request = world.request("f", "sub/g");
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        let _ = world.cross_as(request);
        if world.disk.steps() <= first {
            assert!(dead > 3, "{dead} in {step} steps");
            return;
        }
        let world = start(world.disk.crash(0).shared(), false).unwrap().bereft();
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty() && recovery.locked.is_empty(), "{recovery:?}");
        assert!(recovery.completed.is_empty(), "step {step}: taken for completed: {recovery:?}");
        for (txid, why) in &recovery.dead {
            dead += 1;
            assert!(why.contains("no branch of the view has the id"), "{why}");
            let found = world.mover.examine(*txid);
            assert!(found.iter().any(|one| matches!(one.found, Found::NoFolder(_))), "{found:?}");
            let settled = world.mover.settle(PERSON, None, *txid, Settle::Withdraw);
            assert!(matches!(settled, Ok(Settled::Dead(_))), "{settled:?}");
            assert_eq!(world.get(0, "f"), Some(new_content()), "step {step}");
            let settled = world.mover.settle(PERSON, None, *txid, Settle::Discard);
            assert_eq!(settled, Ok(Settled::Accepted));
        }
        let held = world.private(0, "hold").contains(&new_content());
        assert!(held || world.get(0, "f") == Some(new_content()), "step {step}: it is lost");
    }
    panic!("a crossing does not end");
}

/// What has arrived stays, and is done; what has not is kept in stage.
#[test]
fn what_has_arrived_stays_where_the_sources_branch_left_for_good() {
    let (mut done, mut dead) = (0, 0);
    for step in 0..STEPS_MAX {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        world.put(1, "sub/g", OLD);
        let request = world.request("f", "sub/g");
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        let _ = world.cross_as(request);
        if world.disk.steps() <= first {
            assert!(done > 0 && dead > 0, "{done} and {dead} in {step} steps");
            return;
        }
        let world = start(world.disk.crash(0).shared(), false).unwrap().bereft_of(0);
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty(), "{recovery:?}");
        done += recovery.completed.len();
        for _ in &recovery.completed {
            assert_eq!(world.get(1, "sub/g"), Some(new_content()), "step {step}");
        }
        for (txid, _) in &recovery.dead {
            dead += 1;
            assert_ne!(world.get(1, "sub/g"), Some(new_content()), "step {step}: it had arrived");
            world.mover.settle(PERSON, None, *txid, Settle::Withdraw).unwrap();
            assert_eq!(world.get(1, "sub/g"), Some(OLD.to_vec()), "step {step}");
            assert!(world.private(1, "stage").contains(&new_content()), "step {step}: it is lost");
        }
    }
    panic!("a crossing does not end");
}

/// Where its copy was to come is not known by its id yet: the branch may be there by another name.
#[test]
fn what_was_not_decided_waits_for_no_branch() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    std::mem::forget(world.mover.prepare(world.request("f", "sub/g")).unwrap());
    world.mover.ledger.flush().unwrap();
    let world = start(world.disk.after_kill().shared(), false).unwrap();
    let target = world.mover.branch(BranchIndex(1)).unwrap();
    world.mover.branch_left(BranchIndex(1));
    let recovery = world.mover.recover();
    assert_eq!((recovery.aborted.len(), recovery.left_open.len()), (1, 0), "{recovery:?}");
    assert_eq!(world.private(1, "stage").len(), 1);
    let renamed =
        MoverBranch { name: "renamed".to_owned(), ..Arc::try_unwrap(target).ok().unwrap() };
    assert_eq!(world.mover.branch_returned(renamed).swept, 1);
    assert!(world.private(1, "stage").is_empty());
    world.cross("f", "sub/g").unwrap();
}

#[test]
fn hold_is_emptied_of_what_crossed_to_it() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    world.cross("f", "sub/g").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.branch_left(BranchIndex(1));
    let keep = std::time::Duration::from_secs(1);
    assert_eq!(world.mover.purge(later, keep), Purged::default(), "the branch may come back");
    let world = world.bereft();
    assert_eq!(world.mover.purge(later, keep).transactions.len(), 1);
    assert!(world.private(0, "hold").is_empty());
}

#[test]
fn an_undo_that_would_need_it_says_so() {
    for left in 0..2 {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        let txid = world.cross("f", "sub/g").unwrap().txid;
        world.mover.branch_left(BranchIndex(left));
        let undo = || world.mover.prepare_undo(AUTHOR, None, false, txid, &any()).map(drop);
        assert!(matches!(undo(), Err(CrossingError::Offline { .. })), "it may come back");
        let world = world.bereft_of(usize::from(left));
        let undone = world.mover.prepare_undo(AUTHOR, None, false, txid, &any()).map(drop);
        let uuid = UUIDS[usize::from(left)];
        assert_eq!(undone, Err(CrossingError::NoBranch { uuid }));
    }
}
