//! The power goes, or a call fails, at every step of a crossing, and at every step of the recovery
//! after it.

use super::*;

const OLD: &[u8] = b"what stood there";
/// Disks found after each power loss.
const SEEDS: u64 = 3;
/// No scenario takes more steps; a test that gets here hangs.
const STEPS_MAX: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Plain,
    Replace,
    Symlink,
    /// The target cannot keep extended attributes: the crossing aborts.
    Lossy,
    Undo,
    UndoReplace,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario::Plain,
    Scenario::Replace,
    Scenario::Symlink,
    Scenario::Lossy,
    Scenario::Undo,
    Scenario::UndoReplace,
];

/// How a scenario's action ended for its caller.
type Outcome = Result<Crossed, CrossingError>;

/// A scenario up to the step that is watched.
struct Stage {
    scenario: Scenario,
    world: World,
    undoes: Option<TxId>,
    request: CrossingRequest<Disk>,
    same: bool,
}

fn set_up(scenario: Scenario, names: Names, same: bool) -> Stage {
    let world = new_world(names, same);
    match scenario {
        Scenario::Symlink => {
            let kind = Kind::Symlink("new".into());
            world.disk.create_special(&world.roots[0], OsStr::new("f"), &kind).unwrap();
        }
        _ => world.put(0, "f", &new_content()),
    }
    if matches!(scenario, Scenario::Replace | Scenario::UndoReplace) {
        world.put(1, "sub/g", OLD);
    }
    let undoes = match scenario {
        Scenario::Undo | Scenario::UndoReplace => Some(world.cross("f", "sub/g").unwrap().txid),
        _ => None,
    };
    if scenario == Scenario::Lossy {
        for device in [1, 2] {
            let options = DeviceOptions { xattrs: false, ..DeviceOptions::default() };
            world.disk.set_options(device, options);
        }
    }
    world.mover.ledger.flush().unwrap();
    world.disk.sync_all();
    let request = world.request("f", "sub/g");
    Stage { scenario, world, undoes, request, same }
}

impl Stage {
    fn act(&self) -> Outcome {
        match self.undoes {
            Some(txid) => self.world.undo(txid),
            None => self.world.cross_as(self.request.clone()),
        }
    }

    fn new_content(&self) -> Vec<u8> {
        match self.scenario {
            Scenario::Symlink => b"new".to_vec(),
            _ => new_content(),
        }
    }

    /// What source and target hold before the crossing, and after it.
    fn ends(&self, crossed: bool) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let replaced = matches!(self.scenario, Scenario::Replace | Scenario::UndoReplace);
        if crossed {
            (None, Some(self.new_content()))
        } else {
            (Some(self.new_content()), replaced.then(|| OLD.to_vec()))
        }
    }

    /// The promises, after a recovery in `world`.
    #[track_caller]
    fn check(&self, world: &World, outcome: Option<&Outcome>, context: &str) {
        let ends = (world.get(0, "f"), world.get(1, "sub/g"));
        let undoing = self.undoes.is_some();
        let crossed = ends == self.ends(true);
        assert!(
            crossed || ends == self.ends(false),
            "{context}: neither before nor after: {:?}",
            (ends.0.map(|content| content.len()), ends.1.map(|content| content.len()))
        );
        if let Some(Ok(done)) = outcome {
            assert_eq!(crossed, !undoing, "{context}: acknowledged, and not so");
            assert_eq!(world.state(done.txid), Some(TransactionState::Done), "{context}");
        }
        if self.scenario == Scenario::Replace && crossed {
            assert!(
                world.private(1, "hold").contains(&OLD.to_vec()),
                "{context}: replaced is lost"
            );
        }
        for branch in [0, 1] {
            let left = world.private(branch, "stage");
            assert!(left.is_empty(), "{context}: {} copies in stage of {branch}", left.len());
        }
        world.mover.with_journal(|journal| {
            for (txid, found) in journal.iter() {
                let ended =
                    !matches!(found.state, TransactionState::Active | TransactionState::Dead);
                assert!(ended, "{context}: {txid} is {:?}: {:?}", found.state, found.reason);
            }
        });
    }
}

fn picture(world: &World) -> Vec<Vec<Vec<u8>>> {
    let ends = [world.get(0, "f"), world.get(1, "sub/g")];
    let mut picture = vec![ends.into_iter().flatten().collect()];
    for branch in [0, 1] {
        picture.extend(["stage", "hold"].map(|area| world.private(branch, area)));
    }
    picture
}

/// Recovers on the disks as found, twice; the second time nothing is left to do.
#[track_caller]
fn recover_and_check(found: Disk, stage: &Stage, outcome: Option<&Outcome>, context: &str) {
    let world = start(found.shared(), stage.same).expect("starts");
    let recovery = world.mover.recover();
    assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
    assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
    stage.check(&world, outcome, context);
    let before = picture(&world);
    let world = world.restart(stage.same);
    assert_eq!(world.mover.recover(), Recovery::default(), "{context}: the second recovery");
    assert_eq!(picture(&world), before, "{context}: the second recovery changed something");
}

/// Runs the scenario with a fault at its n-th step; `None` when it has no such step.
fn run_with(
    scenario: Scenario,
    names: Names,
    same: bool,
    step: u64,
    fault: Fault,
) -> Option<(Stage, Outcome)> {
    assert!(step < STEPS_MAX, "{scenario:?} does not end");
    let stage = set_up(scenario, names, same);
    let first = stage.world.disk.steps();
    stage.world.disk.fail_at(first + step, fault);
    let outcome = stage.act();
    (stage.world.disk.steps() > first + step).then_some((stage, outcome))
}

fn cut_power_at_every_step(names: Names, same: bool) {
    for scenario in SCENARIOS {
        let mut steps = 0;
        while let Some((stage, outcome)) = run_with(scenario, names, same, steps, Fault::Crash) {
            for seed in 0..SEEDS {
                let context =
                    format!("{scenario:?} {names:?} same={same} step {steps} seed {seed}");
                recover_and_check(stage.world.disk.crash(seed), &stage, Some(&outcome), &context);
            }
            steps += 1;
        }
        assert!(steps > 10, "{scenario:?} took {steps} steps only");
    }
}

#[test]
fn power_loss_between_two_disks_with_journals() {
    cut_power_at_every_step(Names::Journal, false);
}

#[test]
fn power_loss_between_two_harsh_disks() {
    cut_power_at_every_step(Names::Independent, false);
}

#[test]
fn power_loss_on_one_disk_with_a_journal() {
    cut_power_at_every_step(Names::Journal, true);
}

#[test]
fn power_loss_on_one_harsh_disk() {
    cut_power_at_every_step(Names::Independent, true);
}

/// The power goes again at every step of the recovery.
fn cut_power_in_recovery(scenario: Scenario, same: bool) {
    let mut step = 0;
    while let Some((stage, outcome)) =
        run_with(scenario, Names::Independent, same, step, Fault::Crash)
    {
        for again in 0..STEPS_MAX {
            let found = stage.world.disk.crash(step);
            found.fail_at(again, Fault::Crash);
            let found = found.shared();
            if let Some(world) = start(Arc::clone(&found), same) {
                world.mover.recover();
            }
            if found.steps() <= again {
                break;
            }
            let context = format!("{scenario:?} same={same} step {step} recovery {again}");
            recover_and_check(found.crash(again), &stage, Some(&outcome), &context);
        }
        step += 1;
    }
}

#[test]
fn power_loss_in_recovery_between_two_disks() {
    cut_power_in_recovery(Scenario::Replace, false);
}

#[test]
fn power_loss_in_recovery_on_one_disk() {
    cut_power_in_recovery(Scenario::UndoReplace, true);
}

/// One call fails, and the machine goes on: the caller gets an error and the source is whole, or the
/// crossing was made. Then the power goes: the promises hold then too.
fn fail_every_step(errno: Errno, same: bool) {
    for scenario in SCENARIOS {
        for step in 0.. {
            let fault = Fault::Errno(errno);
            let Some((stage, outcome)) = run_with(scenario, Names::Independent, same, step, fault)
            else {
                break;
            };
            let context = format!("{scenario:?} same={same} {errno:?} at step {step}: {outcome:?}");
            let world = &stage.world;
            let ends = (world.get(0, "f"), world.get(1, "sub/g"));
            let crossed = outcome.is_ok() != stage.undoes.is_some();
            assert_eq!(ends, stage.ends(crossed), "{context}");
            let seed = step;
            recover_and_check(world.disk.crash(seed), &stage, None, &context);
        }
    }
}

#[test]
fn a_failing_call_between_two_disks() {
    fail_every_step(Errno::IO, false);
    fail_every_step(Errno::NOSPC, false);
}

#[test]
fn a_failing_call_on_one_disk() {
    fail_every_step(Errno::IO, true);
}

/// A source that was just written, and never synced by its writer, survives its crossing.
#[test]
fn an_unsynced_source_survives_power_loss() {
    for seed in 0..20 {
        let world = new_world(Names::Independent, false);
        let file = world.disk.create_file(&world.roots[0], OsStr::new("f")).unwrap();
        world.disk.sync_dir(&world.roots[0]).unwrap();
        world.disk.write_at(&file, &new_content(), 0).unwrap();
        let crossed = world.cross("f", "sub/g").unwrap();
        let after = start(world.disk.crash(seed).shared(), false).unwrap();
        after.mover.recover();
        assert_eq!(after.state(crossed.txid), Some(TransactionState::Done));
        assert_eq!(after.get(1, "sub/g"), Some(new_content()));
        assert!(after.get(0, "f").is_none());
        assert!(after.private(0, "hold").contains(&new_content()), "undo would lose it");
    }
}

/// What arrived is renamed by its user before the power goes, and before DONE was synced.
#[test]
fn a_file_that_moved_on_before_power_loss_is_not_a_riddle() {
    for names in [Names::Journal, Names::Independent] {
        for seed in 0..20 {
            let world = new_world(names, false);
            world.put(0, "f", &new_content());
            world.cross("f", "sub/g").unwrap();
            let sub = world.dir(1, "sub/g");
            world.disk.rename(&sub, OsStr::new("g"), &sub, OsStr::new("h")).unwrap();
            world.disk.sync_dir(&sub).unwrap();
            let after = start(world.disk.crash(seed).shared(), false).unwrap();
            let recovery = after.mover.recover();
            assert!(recovery.dead.is_empty(), "{recovery:?}");
            assert_eq!(after.get(1, "sub/h"), Some(new_content()));
            assert_eq!((after.get(0, "f"), after.get(1, "sub/g")), (None, None));
        }
    }
}

/// The folders of both ends are gone by the time that the power goes, and DONE was not yet durable.
#[test]
fn folders_that_were_removed_before_power_loss_are_no_riddle() {
    for names in [Names::Journal, Names::Independent] {
        for seed in 0..20 {
            let world = new_world(names, false);
            world.put(0, "sub/f", &new_content());
            world.cross("sub/f", "sub/g").unwrap();
            let (from, to) = (&world.roots[0], &world.roots[1]);
            world.disk.remove_dir(from, OsStr::new("sub")).unwrap();
            world.disk.rename(to, OsStr::new("sub"), to, OsStr::new("renamed")).unwrap();
            for root in [from, to] {
                world.disk.sync_dir(root).unwrap();
            }
            let after = start(world.disk.crash(seed).shared(), false).unwrap();
            let recovery = after.mover.recover();
            assert!(recovery.dead.is_empty(), "{recovery:?}");
            assert_eq!(after.get(1, "renamed/g"), Some(new_content()));
            assert!(after.private(0, "hold").contains(&new_content()), "undo would lose it");
        }
    }
}

/// DONE is lost, what hold keeps was changed from outside, and the target was written by its user: the
/// crossing cannot be completed, and putting it back must not cost the user's work.
#[test]
fn work_on_the_target_outlives_a_crossing_that_is_put_back() {
    let mut kept_for_a_person = 0;
    for seed in 0..20 {
        let world = new_world(Names::Independent, false);
        world.put(0, "f", &new_content());
        let crossed = world.cross("f", "sub/g").unwrap();
        let write = |dir: &SimulatedDir, name: &OsStr, bytes: &[u8]| {
            let file = world.disk.open_write(dir, name).unwrap();
            world.disk.write_at(&file, bytes, 0).unwrap();
            world.disk.sync_file(&file).unwrap();
        };
        let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
        write(&hold, OsStr::new(&crossed.txid.to_string()), b"meddled");
        write(&world.dir(1, "sub/g"), OsStr::new("g"), b"work");
        let after = start(world.disk.crash(seed).shared(), false).unwrap();
        let recovery = after.mover.recover();
        kept_for_a_person += recovery.dead.len();
        let staged = after.private(1, "stage");
        let found = staged.into_iter().chain(after.get(1, "sub/g"));
        assert!(found.into_iter().any(|bytes| bytes.starts_with(b"work")), "{seed}: {recovery:?}");
    }
    assert!(kept_for_a_person > 0, "DONE was never lost");
}

/// A branch is offline at recovery: its transaction waits, and its names are reported as locked.
#[test]
fn an_offline_branch_keeps_its_transaction_open() {
    let stage = set_up(Scenario::Plain, Names::Journal, false);
    let first = stage.world.disk.steps();
    let mut waited = false;
    for step in first..first + STEPS_MAX {
        let stage = set_up(Scenario::Plain, Names::Journal, false);
        stage.world.disk.fail_at(step, Fault::Crash);
        let _ = stage.act();
        if stage.world.disk.steps() <= step {
            break;
        }
        let found = stage.world.disk.crash(0).shared();
        let world = start(Arc::clone(&found), false).unwrap();
        world.mover.branch_left(BranchIndex(1));
        let recovery = world.mover.recover();
        if let Some((txid, why)) = recovery.left_open.first() {
            waited = true;
            assert!(why.contains("offline"), "{why}");
            assert_eq!(recovery.locked.len(), 2);
            assert_eq!(world.state(*txid), Some(TransactionState::Active));
        }
        drop(world);
        let world = start(found, false).unwrap();
        world.mover.recover();
        stage.check(&world, None, &format!("step {step}"));
    }
    assert!(waited, "no crash left a transaction open");
}

/// Two calls fail, one after the other: the decision and its withdrawal, a move and putting it back.
/// Then the power goes, and recovery ends it one way or the other, or asks a person; nothing is lost.
#[test]
fn two_failing_calls_lose_nothing() {
    for same in [false, true] {
        'steps: for step in 0..STEPS_MAX {
            for second in 1..4 {
                let stage = set_up(Scenario::Replace, Names::Independent, same);
                let disk = &stage.world.disk;
                let first = disk.steps() + step;
                for step in [first, first + second] {
                    disk.fail_at(step, Fault::Errno(Errno::IO));
                }
                let outcome = stage.act();
                if disk.steps() <= first {
                    assert!(step > 10, "{step} steps only");
                    break 'steps;
                }
                for seed in 0..SEEDS {
                    let context = format!(
                        "same={same} step {step} and {second} later, seed {seed}: {outcome:?}"
                    );
                    let world = start(disk.crash(seed).shared(), same).unwrap();
                    let recovery = world.mover.recover();
                    assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
                    let everywhere: Vec<_> = picture(&world).concat();
                    assert!(everywhere.contains(&new_content()), "{context}: the source is lost");
                    assert!(everywhere.contains(&OLD.to_vec()), "{context}: the replaced is lost");
                    if recovery.dead.is_empty()
                        && !matches!(outcome, Err(CrossingError::Dead { .. }))
                    {
                        stage.check(&world, None, &context);
                    }
                }
            }
        }
    }
}
