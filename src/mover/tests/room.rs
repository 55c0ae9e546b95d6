//! Space that hold takes: bounded, counted, and given up oldest first when space runs short.

use std::time::Duration;

use super::*;
use crate::branch::SpaceLimit;

const ALL: SpaceLimit = SpaceLimit::Percent(100);
/// Bytes of each file: four blocks.
const SIZE: usize = 16 * 1024;

/// A machine that has made `count` crossings, each of which keeps its source in hold of the first branch.
fn crossed(count: usize) -> (World, Vec<TxId>) {
    let world = new_world(Names::Independent, false);
    let txids = (0..count).map(|number| cross_one(&world, number)).collect();
    (world, txids)
}

fn cross_one(world: &World, number: usize) -> TxId {
    let name = format!("f{number}");
    let dir = world.roots[0].clone();
    let file = world.disk.create_file(&dir, name.as_ref()).unwrap();
    world.disk.write_at(&file, &vec![number as u8 + 1; SIZE], 0).unwrap();
    world.disk.sync_all();
    world.cross(&name, &format!("sub/g{number}")).unwrap().txid
}

impl World {
    fn tend(&self, max: SpaceLimit) -> Vec<TxId> {
        let branches = (0..ROOTS.len()).map(|at| BranchIndex(at as u16));
        let purged = branches.map(|index| {
            self.mover.tend_branch(index, max, jiff::Timestamp::UNIX_EPOCH, Duration::ZERO)
        });
        purged.flat_map(|purged| purged.transactions).collect()
    }

    /// So much of the first branch's disk is left beside what is on it now.
    fn leave_free(&self, bytes: u64) {
        self.leave_free_in(0, bytes);
    }

    fn leave_free_in(&self, branch: usize, bytes: u64) {
        self.disk.set_options(device(branch, false), DeviceOptions::default());
        let free = self.disk.free_space(&self.roots[branch]).unwrap();
        let used = DeviceOptions::default().capacity - free;
        let options = DeviceOptions { capacity: used + bytes, ..DeviceOptions::default() };
        self.disk.set_options(device(branch, false), options);
    }

    fn make_room(&self, branch: u16, bytes: u64) -> bool {
        self.mover.make_room(BranchIndex(branch), bytes, AUTHOR.uid).is_some()
    }

    /// Those of all purges in the ledger.
    fn reasons(&self) -> Vec<String> {
        self.mover.ledger.flush().unwrap();
        let disk = self.disk.crash(0).shared();
        let dir = disk.open_dir(&disk.root(0).unwrap(), Path::new("ledger")).unwrap();
        let mut reasons = Vec::new();
        let (ledger, _) = Ledger::open(Arc::clone(&disk), dir, "lab", &mut |entry| {
            if let Record::Purge(purge) = &entry.record {
                reasons.push(purge.reason.clone());
            }
        })
        .unwrap();
        ledger.close().unwrap();
        reasons
    }
}

#[test]
fn the_oldest_goes_first_and_no_more_than_is_needed() {
    let (world, txids) = crossed(4);
    world.leave_free(4096);
    let kept = |world: &World| world.private(0, "hold").len();
    assert!(world.make_room(0, 4096), "there is room");
    assert_eq!(kept(&world), 4);
    assert!(world.make_room(0, 2 * SIZE as u64));
    assert_eq!(kept(&world), 2);
    let purged = |txid: &TxId| world.mover.with_journal(|j| j.get(*txid).unwrap().purged);
    assert_eq!(txids.iter().map(purged).collect::<Vec<_>>(), [true, true, false, false]);
    world.undo(txids[3]).unwrap();
    let refused = world.undo(txids[0]).unwrap_err();
    assert!(refused.to_string().contains("purged"), "{refused}");
    assert_eq!(world.reasons(), ["branch a runs short of space for user 1000"; 2]);
}

#[test]
fn what_is_on_another_disk_does_not_help() {
    let (world, txids) = crossed(2);
    world.leave_free_in(1, 0);
    assert!(!world.make_room(1, 1));
    assert_eq!(world.private(0, "hold").len(), 2);
    world.undo(txids[0]).unwrap();
    // What the undo took from the target is there.
    world.leave_free_in(1, 0);
    assert!(world.make_room(1, 1));
    assert_eq!(world.private(0, "hold").len(), 1);
    assert_eq!(world.private(1, "hold").len(), 0);
}

/// Whoever asks for more than there can be takes nobody's undo.
#[test]
fn what_cannot_be_had_purges_nothing() {
    let (world, _) = crossed(3);
    world.leave_free(0);
    for bytes in [4 * SIZE as u64, 1 << 40, u64::MAX] {
        assert!(!world.make_room(0, bytes));
    }
    assert_eq!(world.private(0, "hold").len(), 3);
    assert!(world.make_room(0, 3 * SIZE as u64));
    assert_eq!(world.private(0, "hold").len(), 0);
}

impl World {
    fn purged(&self) -> usize {
        self.mover.with_journal(|journal| journal.iter().filter(|(_, found)| found.purged).count())
    }
}

/// What comes to the same while somebody who wants `bytes` of a full disk is just removing what goes.
fn while_another_purges(make: fn() -> World, bytes: u64, then: impl FnOnce(&World)) -> World {
    while_another_hangs(make, bytes, Duration::from_millis(500), then)
}

fn while_another_hangs(
    make: fn() -> World,
    bytes: u64,
    delay: Duration,
    then: impl FnOnce(&World),
) -> World {
    let world = make();
    world.leave_free(0);
    world.disk.fail_next("unlink", Fault::Delay(delay));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| world.make_room(0, bytes));
        // The record comes first.
        while world.purged() == 0 {
            std::thread::yield_now();
        }
        then(&world);
        assert!(slow.join().unwrap());
    });
    world
}

#[test]
fn two_that_run_short_at_a_time_do_not_take_the_same_room() {
    let four = || crossed(4).0;
    let world = while_another_purges(four, SIZE as u64, |world| {
        assert!(world.make_room(0, SIZE as u64), "it did not wait, and found nothing");
    });
    assert_eq!(world.purged(), 2, "one purge for two");
    assert_eq!(world.disk.free_space(&world.roots[0]).unwrap(), 2 * SIZE as u64);
}

/// Whatever the reason for which it goes: age, `hold.max`, or another disk that ran short.
#[test]
fn who_runs_short_waits_for_any_purge() {
    let later = jiff::Timestamp::now() + Duration::from_secs(10);
    let tend = |world: &World, max, now| {
        world.mover.tend_branch(BranchIndex(0), max, now, Duration::from_secs(1));
    };
    for (max, now) in [(SpaceLimit::Percent(0), jiff::Timestamp::UNIX_EPOCH), (ALL, later)] {
        let (world, _) = crossed(1);
        world.leave_free(0);
        world.disk.fail_next("unlink", Fault::Delay(Duration::from_millis(500)));
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| tend(&world, max, now));
            while world.purged() == 0 {
                std::thread::yield_now();
            }
            assert!(world.make_room(0, SIZE as u64), "it found nothing, and did not wait");
            slow.join().unwrap();
        });
    }
    // The other branch's purge has recorded it, and leaves what is on this disk to who looks after it.
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &[1; SIZE]);
    world.put(1, "sub/g", &[2; SIZE]);
    world.cross("f", "sub/g").unwrap();
    world.tend(ALL);
    tend(&world, ALL, later);
    assert_eq!((world.private(0, "hold").len(), world.private(1, "hold").len()), (0, 1));
    world.leave_free_in(1, 0);
    assert!(world.make_room(1, SIZE as u64 / 2));
    assert!(world.private(1, "hold").is_empty());
}

#[test]
fn who_runs_short_waits_for_what_is_discarded() {
    let (world, txid) = super::letters::retired();
    let other = cross_one(&world, 7);
    world.tend(ALL);
    world.leave_free(0);
    world.disk.fail_next("unlink", Fault::Delay(Duration::from_millis(500)));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| world.settle(txid, Settle::Discard));
        while world.purged() == 0 && !slow.is_finished() {
            std::thread::yield_now();
        }
        assert!(world.make_room(0, 1), "it found nothing, and did not wait");
        assert_eq!(slow.join().unwrap(), Ok(Settled::Accepted));
    });
    assert_eq!(world.private(0, "hold").len(), 1);
    world.undo(other).unwrap();
}

#[test]
fn who_runs_short_takes_no_more_than_others_leave() {
    let large = || {
        let (world, _) = crossed(1);
        world.put(0, "large", &vec![7; 2 * SIZE]);
        world.cross("large", "sub/large").unwrap();
        world
    };
    // The oldest is not enough for both, and the other one is more than is needed.
    let world = while_another_purges(large, 2 * SIZE as u64, |world| {
        assert!(world.make_room(0, SIZE as u64));
        assert!(!world.make_room(0, 4 * SIZE as u64), "there never was so much");
    });
    assert_eq!(world.purged(), 2);
}

#[test]
fn who_waits_for_what_hangs_is_told_that_there_is_no_space() {
    let one = || crossed(1).0;
    let world = while_another_hangs(one, SIZE as u64, Duration::from_secs(3), |world| {
        assert!(!world.make_room(0, SIZE as u64), "it waited for the end");
        assert_eq!(world.private(0, "hold").len(), 1, "it had gone on");
    });
    assert!(world.make_room(0, SIZE as u64));
}

/// The crossing holds something on both disks.
#[test]
fn what_is_old_goes_from_one_disk_while_the_other_hangs() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", &new_content());
    world.cross("f", "sub/g").unwrap();
    let later = jiff::Timestamp::now() + Duration::from_secs(10);
    let tend = |index| {
        let keep = Duration::from_secs(1);
        let purged = world.mover.tend_branch(BranchIndex(index), ALL, later, keep);
        purged.transactions.len()
    };
    world.disk.keep_log();
    assert_eq!(tend(0), 1);
    assert_eq!((world.private(0, "hold").len(), world.private(1, "hold").len()), (0, 1));
    assert_eq!(world.disk.log().iter().filter(|line| line.contains("unlink")).count(), 1);
    assert_eq!(tend(1), 0);
    assert!(world.private(1, "hold").is_empty());
}

#[test]
fn what_is_old_goes_a_while_at_a_time() {
    let (world, txids) = crossed(3);
    let later = jiff::Timestamp::now() + Duration::from_secs(10);
    let branch = world.mover.branch(BranchIndex(0)).unwrap();
    let purge = |at_most| {
        world.mover.purge_old(&branch, later, (Duration::from_secs(1), at_most)).transactions
    };
    assert_eq!(purge(Duration::ZERO), txids[..1]);
    assert_eq!(purge(Duration::MAX), txids[1..]);
    assert!(purge(Duration::MAX).is_empty() && world.private(0, "hold").is_empty());
}

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting_on_another() {
    let both = || {
        let (world, txids) = crossed(2);
        world.undo(txids[1]).unwrap();
        world.tend(ALL);
        world
    };
    let world = while_another_purges(both, SIZE as u64, |world| {
        world.leave_free_in(1, 0);
        assert!(world.make_room(1, SIZE as u64));
        assert_eq!(world.private(1, "hold").len(), 0);
        assert_eq!(world.private(0, "hold").len(), 1, "the other one went on");
    });
    // Nor is it asked what it is.
    world.leave_free_in(1, 0);
    world.disk.keep_log();
    assert!(!world.make_room(1, 1));
    let log = world.disk.log();
    assert_eq!(log.iter().filter(|line| line.contains("file_system")).count(), 1, "{log:?}");
}

#[test]
fn what_is_needed_is_never_purged() {
    let (world, txids) = crossed(3);
    let undo = world.mover.prepare_undo(AUTHOR, None, false, txids[0], &any()).unwrap();
    let commit = world.mover.with_journal(|j| j.get(txids[1]).unwrap().record.clone());
    let dead = later_step(&commit, Step::Dead, Some("a test says so".to_owned()), "EIO".to_owned());
    world.mover.record(dead, Durability::Sync).unwrap();
    world.leave_free(0);
    assert_eq!(world.tend(SpaceLimit::Bytes(0)), [txids[2]]);
    assert!(!world.make_room(0, u64::MAX));
    assert_eq!(world.mover.freeable(BranchIndex(0)), 0, "what cannot go does not count");
    assert_eq!(world.private(0, "hold").len(), 2);
    world.mover.commit(undo).unwrap();
    assert_eq!(world.get(0, "f0").unwrap(), [1; SIZE]);
}

#[test]
fn hold_keeps_below_its_maximum() {
    let (world, txids) = crossed(4);
    let size = 200 * SIZE as u64;
    world.disk.set_options(1, DeviceOptions { capacity: size, ..DeviceOptions::default() });
    assert_eq!(world.tend(ALL), []);
    assert_eq!(world.tend(SpaceLimit::Bytes(3 * SIZE as u64)), [txids[0]]);
    assert_eq!(world.tend(SpaceLimit::Percent(1)), [txids[1]]);
    assert_eq!(world.tend(SpaceLimit::Percent(1)), []);
    assert_eq!(world.reasons(), ["hold.max of branch a"; 2]);
    let world = world.restart(false);
    assert_eq!(world.mover.recover(), Recovery::default());
    assert_eq!(world.tend(SpaceLimit::Percent(1)), [], "what is held is measured anew");
    assert_eq!(world.tend(SpaceLimit::Percent(0)), txids[2..]);
}

#[test]
fn purging_runs_ahead_of_min_free() {
    let (world, txids) = crossed(6);
    let min_free = 2 * SIZE as u64;
    let branch = world.mover.branch(BranchIndex(0)).unwrap();
    let MoverBranch { index, uuid, name, root, stage, hold, .. } = &*branch;
    let (root, stage, hold) = (root.clone(), stage.clone(), hold.clone());
    let branch =
        MoverBranch { index: *index, uuid: *uuid, name: name.clone(), root, stage, hold, min_free };
    world.mover.branch_returned(branch);
    world.leave_free(3 * SIZE as u64);
    assert_eq!(world.tend(ALL), [], "there is enough");
    // Users write: less than min_free is left, and as much again may go before the next look.
    world.put(0, "more", &vec![7; 2 * SIZE]);
    assert_eq!(world.tend(ALL), txids[..3], "one below min_free, and what was used on top");
    assert_eq!(world.tend(ALL), []);
}

#[test]
fn what_hold_would_give_back_is_counted() {
    let (world, txids) = crossed(2);
    assert_eq!(world.mover.freeable(BranchIndex(0)), 0, "nobody has looked");
    world.tend(ALL);
    assert_eq!(world.mover.freeable(BranchIndex(0)), 2 * SIZE as u64);
    assert_eq!(world.mover.freeable(BranchIndex(1)), 0);
    world.undo(txids[0]).unwrap();
    world.tend(ALL);
    assert_eq!(world.mover.freeable(BranchIndex(0)), SIZE as u64, "what was undone went back");
    // The copy that the undo took from the target waits there.
    assert_eq!(world.mover.freeable(BranchIndex(1)), SIZE as u64);
    // A sparse file takes what it has, a tree what is in it.
    world.make_dirs(0, &["d", "d/sub"]);
    world.put(0, "d/sub/hole", &[vec![0; 4096], vec![1; 8192]].concat());
    world.put(0, "d/flat", &[2; 4096]);
    world.cross("d", "sub/d").unwrap();
    world.tend(ALL);
    assert_eq!(world.mover.freeable(BranchIndex(0)), SIZE as u64 + 8192 + 4096);
    assert_eq!(world.tend(SpaceLimit::Bytes(0)).len(), 3);
    assert_eq!(world.mover.freeable(BranchIndex(0)), 0);
}

/// What is gone is never offered for undo, and what is recorded to go goes with the next recovery.
#[test]
fn power_loss_at_every_step_of_a_purge() {
    for step in 0..200 {
        let (world, txids) = crossed(3);
        world.leave_free(0);
        world.mover.ledger.flush().unwrap();
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        world.make_room(0, 2 * SIZE as u64);
        let ended = world.disk.steps() <= first + step;
        for seed in 0..3 {
            let context = format!("step {step} seed {seed}");
            let world = start(world.disk.crash(seed).shared(), false).unwrap();
            let recovery = world.mover.recover();
            assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
            let held = world.private(0, "hold").len();
            let purged = txids.iter().filter(|txid| {
                world.mover.with_journal(|journal| journal.get(**txid).unwrap().purged)
            });
            assert_eq!(purged.count() + held, 3, "{context}");
            assert!(held >= 1, "{context}: too much is gone");
            let world = world.restart(false);
            assert_eq!(world.mover.recover(), Recovery::default(), "{context}");
        }
        if ended {
            assert!(step > 4, "a purge took {step} steps only");
            return;
        }
    }
    panic!("a purge does not end");
}
