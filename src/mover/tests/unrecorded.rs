//! A full ledger refuses to record how a transaction ended, and has space again later.

use std::time::{Duration, Instant};

use super::letters::letter_between;
use super::past::{Made, seen_twice};
use super::*;
use crate::branch::SpaceLimit;
use crate::ledger::record::PurgeRecord;

impl World {
    /// Takes records until its disk and its reserve are full.
    fn fill_ledger(&self) {
        self.mover.ledger.flush().unwrap();
        self.disk.set_options(0, DeviceOptions { capacity: 0, ..DeviceOptions::default() });
        let fill = || {
            let reason = "x".repeat(30_000);
            let record = PurgeRecord {
                txid: TxId(ulid::Ulid(5)),
                reason,
                lost: false,
                given_up: Vec::new(),
            };
            self.mover.ledger.append(Record::Purge(record), Durability::Sync)
        };
        let full = (0..2000).find_map(|_| fill().err());
        assert_eq!(full, Some(Errno::NOSPC));
    }

    /// The disk has space again. Waits until the ledger knows.
    fn empty_ledger(&self) {
        self.disk.set_options(0, DeviceOptions::default());
        let begun = Instant::now();
        while self.mover.ledger.accepts_mutations().is_err() {
            assert!(begun.elapsed().as_secs() < 60, "it does not heal");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A crossing that is decided, and nobody is at it.
    fn decide(&self) -> TxId {
        let mut prepared = self.mover.prepare(self.request("f", "sub/g")).unwrap();
        let mut commit = prepared.record.clone();
        commit.step = Step::Commit;
        commit.moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
        prepared.ended = true;
        let txid = prepared.txid;
        drop(prepared);
        self.mover.record(commit, Durability::Sync).unwrap();
        txid
    }

    fn sweep(&self) {
        for at in 0..ROOTS.len() {
            let now = jiff::Timestamp::UNIX_EPOCH;
            let index = BranchIndex(at as u16);
            self.mover.tend_branch(index, SpaceLimit::Percent(100), now, Duration::ZERO);
        }
    }
}

/// How a transaction ends while the ledger is full, and as what.
#[derive(Debug, Clone, Copy)]
enum End {
    GivenUp,
    NotDecided,
    Completed,
    PutBack,
    Dead,
}

impl End {
    fn state(self) -> TransactionState {
        match self {
            Self::GivenUp | Self::NotDecided => TransactionState::Aborted,
            Self::Completed => TransactionState::Done,
            Self::PutBack => TransactionState::Reverted,
            Self::Dead => TransactionState::Dead,
        }
    }

    /// Its end is refused.
    fn refused(self) -> (World, TxId) {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        let root = world.roots[0].clone();
        let txid = match self {
            Self::GivenUp | Self::NotDecided => {
                let prepared = world.mover.prepare(world.request("f", "sub/g")).unwrap();
                let txid = prepared.txid;
                world.fill_ledger();
                match self {
                    Self::GivenUp => drop(prepared),
                    _ => {
                        let error = world.mover.commit(prepared).unwrap_err();
                        assert!(matches!(error, CrossingError::InDoubt { .. }), "{error}");
                    }
                }
                return (world, txid);
            }
            Self::Completed | Self::PutBack | Self::Dead => world.decide(),
        };
        match self {
            Self::PutBack => {
                let file = world.disk.open_write(&root, OsStr::new("f")).unwrap();
                world.disk.write_at(&file, b"changed", 0).unwrap();
            }
            Self::Dead => {
                world.disk.rename(&root, OsStr::new("f"), &root, OsStr::new("away")).unwrap();
            }
            _ => {}
        }
        world.disk.sync_all();
        world.fill_ledger();
        world.mover.recover_open(None, &mut Recovery::default());
        (world, txid)
    }
}

const ENDS: [End; 5] = [End::GivenUp, End::NotDecided, End::Completed, End::PutBack, End::Dead];

/// Neither a remount nor a branch that returns is needed.
#[test]
fn an_end_that_a_full_ledger_refused_is_recorded_when_it_has_space() {
    for end in ENDS {
        let (world, txid) = end.refused();
        let ends = |world: &World| (world.get(0, "f"), world.get(1, "sub/g"));
        let before = ends(&world);
        for _ in 0..3 {
            world.mover.record_ends();
            assert_eq!(world.state(txid), Some(TransactionState::Active), "{end:?}");
            assert_eq!(world.mover.left_open().len(), 1, "{end:?}: its names are not locked");
        }
        world.empty_ledger();
        world.mover.record_ends();
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}");
        assert!(world.mover.left_open().is_empty(), "{end:?}");
        world.sweep();
        assert_eq!(ends(&world), before, "{end:?}: something was moved");
        let copies = usize::from(end.state() == TransactionState::Dead);
        assert_eq!(world.private(1, "stage").len(), copies, "{end:?}");
        let world = world.restart(false);
        assert_eq!(world.mover.recover(), Recovery::default(), "{end:?}");
        assert_eq!((world.state(txid), ends(&world)), (Some(end.state()), before), "{end:?}");
    }
}

/// A daemon that is killed meanwhile leaves what a crash would.
#[test]
fn an_end_that_was_refused_is_found_again_after_a_kill() {
    for end in ENDS {
        let (world, txid) = end.refused();
        let before = (world.get(0, "f"), world.get(1, "sub/g"));
        world.disk.set_options(0, DeviceOptions::default());
        let world = start(world.disk.after_kill().shared(), false).unwrap();
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty(), "{end:?}: {recovery:?}");
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}: {recovery:?}");
        assert_eq!((world.get(0, "f"), world.get(1, "sub/g")), before, "{end:?}");
    }
}

/// A recovery that comes first records the end that is known, and makes no move again.
#[test]
fn a_branch_that_returns_first_records_the_end_that_is_known() {
    for end in ENDS {
        let (world, txid) = end.refused();
        let before = (world.get(0, "f"), world.get(1, "sub/g"));
        let returns = || {
            let branch = world.mover.branches[1].swap(None).unwrap();
            world.mover.branch_returned(Arc::try_unwrap(branch).ok().unwrap())
        };
        assert_eq!(returns().left_open.len(), 1, "{end:?}: the ledger is full");
        world.empty_ledger();
        let recovery = returns();
        let Recovery { completed, aborted, reverted, dead, left_open, .. } = recovery;
        let ended = completed.len() + aborted.len() + reverted.len() + dead.len();
        assert_eq!((ended, left_open.len()), (1, 0), "{end:?}");
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}");
        assert_eq!((world.get(0, "f"), world.get(1, "sub/g")), before, "{end:?}");
        world.mover.record_ends();
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}: recorded again");
    }
}

/// A recovery hangs on the disk of another branch.
#[test]
fn an_end_is_recorded_while_a_recovery_hangs() {
    for end in ENDS {
        let (world, txid) = end.refused();
        world.empty_ledger();
        let hangs = world.mover.recovering.lock();
        world.mover.record_ends();
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}");
        assert!(world.mover.left_open().is_empty(), "{end:?}: its names are locked");
        drop(hangs);
        let (world, txid) = end.refused();
        world.empty_ledger();
        let _hangs = world.mover.recovering.lock();
        world.mover.record_last_ends();
        assert_eq!(world.state(txid), Some(end.state()), "{end:?}");
    }
}

/// A recovery that had found it open comes to it when it has ended.
#[test]
fn what_has_ended_since_it_was_found_open_is_left_alone() {
    for end in ENDS {
        let (world, txid) = end.refused();
        let open = world.mover.left_open().swap_remove(0);
        world.empty_ledger();
        world.mover.record_ends();
        let places = world.places();
        let mut recovery = Recovery::default();
        world.mover.recover_one(&open, &mut recovery);
        assert_eq!(recovery, Recovery::default(), "{end:?}");
        assert_eq!((world.state(txid), world.places()), (Some(end.state()), places), "{end:?}");
    }
}

/// The power goes while it is recorded: it has ended as it did, and nothing is lost.
#[test]
fn power_loss_while_a_late_end_is_recorded() {
    // Each takes as long as a ledger needs to see that it has space.
    for step in (0..).step_by(3) {
        let (world, txid) = End::PutBack.refused();
        world.empty_ledger();
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        world.mover.record_ends();
        world.sweep();
        let after = start(world.disk.crash(step).shared(), false).unwrap();
        after.mover.recover();
        assert_eq!(after.state(txid), Some(End::PutBack.state()), "step {step}");
        assert!(after.get(0, "f").is_some(), "step {step}: it is lost");
        assert!(after.private(1, "stage").is_empty(), "step {step}: a copy was left");
        if world.disk.steps() <= first {
            assert!(step > 2, "it took {step} steps only");
            break;
        }
    }
}

/// What a rename within a pool displaced goes when its end is recorded late, as it does else.
#[test]
fn what_a_rename_displaced_goes_with_its_late_end() {
    for step in 0..500 {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        world.put(0, "g", b"displaced");
        let [source, target] = ["f", "g"].map(|path| world.name(0, path).view);
        let request = RearrangeRequest {
            caller: AUTHOR,
            exe: None,
            source,
            target,
            moves: vec![(world.name(0, "f"), world.name(0, "g"))],
            displace: vec![world.name(0, "g")],
        };
        world.disk.fail_at(world.disk.steps() + step, Fault::Crash);
        let _ = world.mover.rearrange(request);
        let world = start(world.disk.crash(0).shared(), false).unwrap();
        if world.mover.left_open().is_empty() {
            continue;
        }
        world.fill_ledger();
        world.mover.recover_open(None, &mut Recovery::default());
        assert_eq!(world.mover.left_open().len(), 1, "the ledger is full");
        assert_eq!(world.private(0, "hold"), [b"displaced".to_vec()]);
        world.empty_ledger();
        world.mover.record_ends();
        assert!(world.mover.left_open().is_empty());
        world.sweep();
        assert_eq!(world.private(0, "hold"), [] as [Vec<u8>; 0]);
        assert_eq!(world.get(0, "g"), Some(new_content()));
        let world = world.restart(false);
        assert_eq!(world.mover.recover(), Recovery::default());
        return;
    }
    panic!("no power loss leaves it open");
}

/// So is that of what waited for a branch: the crossing is done, or asks for a person.
#[test]
fn the_end_of_what_waited_for_a_branch_is_recorded_late() {
    for changed in [false, true] {
        let (world, txid) = seen_twice(Made::Crossing { same: false }, 0).swap_remove(0);
        if changed {
            let file = world.disk.open_write(&world.roots[0], OsStr::new("f")).unwrap();
            world.disk.write_at(&file, b"changed", 0).unwrap();
            world.disk.sync_all();
        }
        let world = world.restart(false);
        let rest = |world: &World| {
            world.mover.with_journal(|journal| journal.get(txid).unwrap().rest.moves.len())
        };
        world.fill_ledger();
        world.mover.recover();
        world.mover.record_ends();
        assert_eq!((world.state(txid), rest(&world)), (Some(TransactionState::Dead), 1));
        world.empty_ledger();
        let settling = world.mover.recovering.lock();
        world.mover.record_ends();
        assert_eq!((world.state(txid), rest(&world)), (Some(TransactionState::Dead), 1));
        drop(settling);
        world.mover.record_ends();
        let ended = if changed { TransactionState::Dead } else { TransactionState::Done };
        assert_eq!((world.state(txid), rest(&world)), (Some(ended), 0), "changed: {changed}");
        let world = world.restart(false);
        assert_eq!(world.mover.recover(), Recovery::default());
    }
}

/// Else an end of an earlier try would be recorded of one that is under way.
#[test]
fn no_dead_letter_is_opened_again_while_ends_are_recorded() {
    for wish in [Settle::Retry, Settle::Withdraw] {
        let (world, txid) = letter_between(Names::Journal);
        let recording = world.mover.recording.lock();
        std::thread::scope(|scope| {
            let settling = scope.spawn(|| world.settle(txid, wish));
            while world.mover.active().is_empty() {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(world.state(txid), Some(TransactionState::Dead), "{wish:?}");
            drop(recording);
            assert!(settling.join().expect("no panic").is_ok(), "{wish:?}");
        });
        assert_ne!(world.state(txid), Some(TransactionState::Dead), "{wish:?}");
    }
}

/// The target's disk takes no changes for a moment.
#[test]
fn a_copy_that_cannot_be_removed_now_is_removed_later() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let prepared = world.mover.prepare(world.request("f", "g")).unwrap();
    world.disk.fail_next("unlink", Fault::Errno(Errno::ROFS));
    drop(prepared);
    assert_eq!(world.private(1, "stage"), [b"new"]);
    world.disk.fail_next("unlink", Fault::Errno(Errno::ROFS));
    world.sweep();
    assert_eq!(world.private(1, "stage"), [b"new"]);
    world.sweep();
    assert!(world.private(1, "stage").is_empty());
    assert_eq!(world.get(0, "f").unwrap(), b"new");
}
