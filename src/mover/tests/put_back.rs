//! What cannot be completed after the decision is put back, and what is not certainly decided is kept:
//! also when the power goes meanwhile.

use super::moves::{PlacedMove, Whereabouts};
use super::*;

/// No crossing takes more steps; a test that gets here hangs.
const STEPS_MAX: u64 = 500;

/// A target's name that no disk takes, as is found out by the last of the moves.
fn impossible() -> String {
    format!("sub/{}", "g".repeat(256))
}

/// APPLY is refused, so RETIRE is taken back. Whenever the power goes, the source is where it was, and the copy
/// has gone only when no recovery will look for it.
#[test]
fn a_crossing_that_is_put_back_is_back_whenever_the_power_goes() {
    for names in [Names::Independent, Names::Journal] {
        for step in 0..=STEPS_MAX {
            assert!(step < STEPS_MAX, "a crossing does not end");
            let world = new_world(names, false);
            world.put(0, "f", &new_content());
            let prepared = world.mover.prepare(world.request("f", &impossible())).unwrap();
            let first = world.disk.steps();
            world.disk.fail_at(first + step, Fault::Crash);
            let outcome = world.mover.commit(prepared);
            let ended = world.disk.steps() <= first + step;
            for seed in 0..4 {
                let context = format!("{names:?} step {step} seed {seed}: {outcome:?}");
                let world = start(world.disk.crash(seed).shared(), false).unwrap();
                let recovery = world.mover.recover();
                assert!(recovery.completed.is_empty(), "{context}: {recovery:?}");
                assert!(recovery.dead.is_empty(), "{context}: {recovery:?}");
                assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
                assert_eq!(world.get(0, "f"), Some(new_content()), "{context}: {recovery:?}");
                assert!(world.private(1, "stage").is_empty(), "{context}: a copy was left");
            }
            if ended {
                assert!(matches!(outcome, Err(CrossingError::Reverted { .. })), "{outcome:?}");
                assert!(step > 10, "it took {step} steps only");
                break;
            }
        }
    }
}

/// The ledger fails at the decision, and again: COMMIT may be on its disk, so the copy stays, and a recovery
/// that finds it decided can complete it.
#[test]
fn a_decision_in_doubt_keeps_its_copy() {
    let (mut doubted, mut decided) = (0, 0);
    for (step, shift) in (0..8).flat_map(|step| (0..4).map(move |shift| (step, shift))) {
        for second in 1..6 {
            let world = new_world(Names::Independent, false);
            world.put(0, "f", &new_content());
            let prepared = world.mover.prepare(world.request("f", "sub/g")).unwrap();
            world.mover.ledger.flush().unwrap();
            // What a failed sync leaves depends on the number of its step.
            (0..shift).for_each(|_| assert!(world.get(0, "none").is_none()));
            let first = world.disk.steps() + step;
            for step in [first, first + second] {
                world.disk.fail_at(step, Fault::Errno(Errno::IO));
            }
            let outcome = world.mover.commit(prepared);
            if !matches!(outcome, Err(CrossingError::InDoubt { .. })) {
                continue;
            }
            doubted += 1;
            let context = format!("step {step} and {second} later, {shift}");
            assert_eq!(world.private(1, "stage"), [new_content()], "{context}: the copy is gone");
            for seed in 0..4 {
                let world = start(world.disk.crash(seed).shared(), false).unwrap();
                let recovery = world.mover.recover();
                let ends = (world.get(0, "f"), world.get(1, "sub/g"));
                let wanted = match recovery.completed.is_empty() {
                    true => (Some(new_content()), None),
                    false => (None, Some(new_content())),
                };
                assert_eq!(ends, wanted, "{context} seed {seed}: {recovery:?}");
                decided += recovery.completed.len();
            }
        }
    }
    assert!(doubted > 0, "no decision was in doubt");
    assert!(decided > 0, "no decision that was in doubt was on the disk");
}

/// Decided and not moved when the power goes.
fn decided(names: Names, same: bool, source: &str) -> Disk {
    for step in 0..STEPS_MAX {
        let world = new_world(names, same);
        if let Some(folder) = Path::new(source).parent().filter(|path| path != &Path::new("")) {
            world.make_dirs(0, &[folder.to_str().unwrap()]);
        }
        world.put(0, source, &new_content());
        let request = world.request(source, "sub/g");
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        let _ = world.cross_as(request);
        assert!(world.disk.steps() > first + step, "no power loss leaves it decided and not moved");
        let world = start(world.disk.crash(0).shared(), same).unwrap();
        let is_decided =
            world.mover.with_journal(|journal| journal.open().any(|(_, found)| found.committed()));
        if is_decided && world.get(0, source).is_some() && world.get(1, "sub/g").is_none() {
            world.disk.sync_all();
            return world.disk.crash(0);
        }
    }
    panic!("a crossing does not end");
}

/// It is written to before a recovery in which the power goes again: it is not what was decided upon, and does
/// not cross.
#[test]
fn what_was_written_before_recovery_does_not_cross() {
    let found = decided(Names::Journal, true, "f");
    let dir = found.open_dir(&found.root(device(0, true)).unwrap(), Path::new("a")).unwrap();
    let file = found.open_write(&dir, OsStr::new("f")).unwrap();
    found.write_at(&file, b"meddled", 4096).unwrap();
    found.sync_all();
    for step in 0..=STEPS_MAX {
        assert!(step < STEPS_MAX, "a recovery does not end");
        let disk = found.crash(0).shared();
        disk.fail_at(step, Fault::Crash);
        if let Some(world) = start(Arc::clone(&disk), true) {
            world.mover.recover();
        }
        for seed in 0..4 {
            let world = start(disk.crash(seed).shared(), true).unwrap();
            let recovery = world.mover.recover();
            let context = format!("step {step} seed {seed}: {recovery:?}");
            assert_eq!(world.get(1, "sub/g"), None, "{context}: what nobody has checked crossed");
            let written = world.get(0, "f").expect("it is at its source");
            assert_eq!(&written[4096..4103], b"meddled", "{context}");
        }
        if disk.steps() <= step {
            assert!(step > 10, "it took {step} steps only");
            return;
        }
    }
}

/// Its user moves it elsewhere before recovery, and removes the folder that it came from: nobody can tell what
/// became of it, so it is not called done.
#[test]
fn what_left_with_its_folder_before_recovery_is_not_done() {
    for names in [Names::Independent, Names::Journal] {
        let disk = decided(names, true, "gone/f").shared();
        let root = disk.open_dir(&disk.root(device(0, true)).unwrap(), Path::new("a")).unwrap();
        let folder = disk.open_dir(&root, Path::new("gone")).unwrap();
        disk.rename(&folder, OsStr::new("f"), &root, OsStr::new("mine")).unwrap();
        disk.remove_dir(&root, OsStr::new("gone")).unwrap();
        let world = start(disk, true).unwrap();
        let recovery = world.mover.recover();
        assert!(recovery.completed.is_empty() && recovery.dead.len() == 1, "{recovery:?}");
        assert_eq!(world.get(0, "mine"), Some(new_content()));
    }
}

/// The moves of a crossing that is made, and durable.
fn made(world: &World) -> Vec<PlacedMove<Disk>> {
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", b"old");
    let txid = world.cross("f", "sub/g").unwrap().txid;
    world.disk.sync_all();
    let record = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    let place = |spot: &Spot| {
        let branch = world.mover.branch_by_uuid(spot.branch).unwrap();
        world.mover.open_in(&branch, spot).unwrap()
    };
    let placed = |step: &crate::ledger::record::Move| PlacedMove {
        step: step.clone(),
        from: place(&step.from),
        to: place(&step.to),
    };
    record.moves.iter().map(placed).collect()
}

/// The moves are made or taken back, and the power goes while their folders are synced, each by itself: no file
/// is without a name, or nobody could tell it from one that its user has moved on.
#[test]
fn no_file_is_without_a_name_while_folders_are_synced() {
    for taken_back in [true, false] {
        for step in 0.. {
            let world = new_world(Names::Separate, false);
            let moves = made(&world);
            let disk = &*world.disk;
            moves::back(disk, &moves).unwrap();
            if !taken_back {
                disk.sync_all();
                moves::forward(disk, &moves, None).unwrap();
            }
            let first = disk.steps();
            disk.fail_at(first + step, Fault::Crash);
            let synced = moves::sync(disk, &moves, taken_back);
            for seed in 0..24 {
                let found = disk.crash(seed);
                for placed in &moves {
                    let at = moves::whereabouts(&found, placed).unwrap();
                    let (act, wanted) = (placed.step.act, [Whereabouts::To, Whereabouts::From]);
                    let context = format!("{act:?} step {step} seed {seed}: {at:?}");
                    match &synced {
                        Ok(()) => assert_eq!(at, wanted[usize::from(taken_back)], "{context}"),
                        Err(_) => assert!(
                            !matches!(at, Whereabouts::MovedOn | Whereabouts::Doubt),
                            "{context}"
                        ),
                    }
                }
            }
            if synced.is_ok() {
                assert!(step > 5, "it took {step} steps only");
                break;
            }
        }
    }
}

/// Where a sync may not tell that another one of the same folder has just failed, each is ended before the next
/// one is begun, however many there are.
#[test]
fn where_syncs_do_not_tell_recovery_ends_one_after_the_other() {
    const ALL: usize = 70;
    let world = new_world(Names::Journal, false);
    let options = DeviceOptions { syncs_whole: false, ..DeviceOptions::default() };
    (1..=3).for_each(|device| world.disk.set_options(device, options));
    for number in 0..ALL {
        let name = format!("f{number}");
        world.disk.create_file(&world.roots[0], OsStr::new(&name)).unwrap();
        let request = world.request(&name, &format!("sub/{name}"));
        let mut prepared = world.mover.prepare(request).unwrap();
        prepared.ended = true;
        let moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
        let commit = CrossingRecord { step: Step::Commit, moves, ..prepared.record.clone() };
        world.mover.record(commit, Durability::Group).unwrap();
    }
    let world = world.restart(false);
    world.disk.keep_log();
    // Meanwhile others would go on.
    world.disk.fail_next("rename", Fault::Delay(std::time::Duration::from_millis(50)));
    let recovery = world.mover.recover();
    assert_eq!(recovery.completed.len(), ALL, "{:?}", recovery.left_open);
    let log = world.disk.log();
    let renamed = log.iter().filter_map(|line| line.split_once(": rename ")).map(|(_, to)| to);
    let renamed: Vec<&str> = renamed.collect();
    assert_eq!(renamed.len(), 2 * ALL);
    for pair in renamed.chunks(2) {
        let in_hold = |to: &str| to.parse::<TxId>().is_ok();
        assert!(in_hold(pair[0]) && !in_hold(pair[1]), "{pair:?}: one came into the other");
    }
}
