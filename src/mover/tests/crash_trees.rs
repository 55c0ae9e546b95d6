//! The power goes, or a call fails, at every step of the crossing of a tree or its undo, and of the
//! recovery after it. What lies where is either all as before or all as after.

use super::*;

/// No scenario takes more steps; a test that gets here hangs.
const STEPS_MAX: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// A tree with a group of links, onto an empty directory.
    Tree,
    /// The same with file systems that cannot be synced as a whole.
    SyncedEach,
    /// Two members hold part of it.
    Merged,
    /// A file that hides a tree.
    Hiding,
    UndoTree,
    UndoMerged,
    /// What a crossing left in hold is removed.
    Purge,
}

/// How a scenario's action ended for its caller.
type Outcome = Result<Option<Crossed>, CrossingError>;

/// What stands at the source on both members, at the target, and (see `whole`) in hold.
type Picture = [Option<Vec<u8>>; 3];

struct Stage {
    scenario: Scenario,
    world: World,
    crossed: Option<Crossed>,
    request: CrossingRequest<Disk>,
    same: bool,
}

fn plant(world: &World) {
    world.make_dirs(0, &["f", "f/d"]);
    world.put(0, "f/a", &new_content());
    world.put(0, "f/d/x", b"x");
    world.link(0, "f/a", "f/d/again");
    world.special(0, "f/link", &Kind::Symlink("elsewhere".into()));
    world.dress_dir(0, "f/d");
    world.dress_dir(0, "f");
}

fn plant_second(world: &World) {
    world.make_dirs(2, &["f", "f/d", "f/e"]);
    world.put(2, "f/a", b"hidden");
    world.put(2, "f/d/y", b"y");
    world.dress_dir(2, "f/e");
}

fn request(scenario: Scenario, world: &World) -> CrossingRequest<Disk> {
    let mut request = world.request("f", "sub/g");
    if matches!(scenario, Scenario::Merged | Scenario::UndoMerged | Scenario::Hiding) {
        request.sources.push(part(world.name(2, "f"), Verify::Readback));
    }
    request
}

fn set_up(scenario: Scenario, names: Names, same: bool) -> Stage {
    let world = new_world(names, same);
    match scenario {
        Scenario::Hiding => world.put(0, "f", &new_content()),
        _ => plant(&world),
    }
    match scenario {
        Scenario::Merged | Scenario::UndoMerged | Scenario::Hiding => plant_second(&world),
        _ => world.make_dirs(1, &["sub/g"]),
    }
    if scenario == Scenario::SyncedEach {
        let options = DeviceOptions { syncs_whole: false, ..DeviceOptions::default() };
        (1..=3).for_each(|device| world.disk.set_options(device, options));
    }
    let crossed = match scenario {
        Scenario::UndoTree | Scenario::UndoMerged | Scenario::Purge => {
            Some(world.cross_as(request(scenario, &world)).unwrap())
        }
        _ => None,
    };
    world.mover.ledger.flush().unwrap();
    world.disk.sync_all();
    let request = request(scenario, &world);
    Stage { scenario, world, crossed, request, same }
}

impl Stage {
    fn act(&self) -> Outcome {
        let world = &self.world;
        match (&self.crossed, self.scenario) {
            (Some(_), Scenario::Purge) => {
                let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
                world.mover.purge(later, std::time::Duration::ZERO);
                Ok(None)
            }
            (Some(crossed), _) => world.undo(crossed.txid).map(Some),
            (None, _) => world.cross_as(self.request.clone()).map(Some),
        }
    }
}

fn picture(world: &World) -> Picture {
    [world.get(0, "f"), world.get(2, "f"), world.get(1, "sub/g")]
}

/// Everything, to be compared with what a second recovery leaves.
fn whole(world: &World) -> (Picture, Vec<Vec<Vec<u8>>>) {
    let areas = (0..3).flat_map(|branch| [(branch, "stage"), (branch, "hold")]);
    (picture(world), areas.map(|(branch, area)| world.private(branch, area)).collect())
}

/// Before and after the action, as it goes without faults.
fn ends(scenario: Scenario, names: Names, same: bool) -> [Picture; 2] {
    let stage = set_up(scenario, names, same);
    let before = picture(&stage.world);
    stage.act().unwrap();
    [before, picture(&stage.world)]
}

/// The promises, after a recovery in `world`.
#[track_caller]
fn check(
    stage: &Stage,
    world: &World,
    ends: &[Picture; 2],
    outcome: Option<&Outcome>,
    context: &str,
) {
    let now = picture(world);
    let lengths = now.each_ref().map(|found| found.as_ref().map(Vec::len));
    assert!(ends.contains(&now), "{context}: neither before nor after: {lengths:?}");
    if let Some(Ok(Some(done))) = outcome {
        assert_eq!(now, ends[1], "{context}: acknowledged, and not so");
        assert_eq!(world.state(done.txid), Some(TransactionState::Done), "{context}");
    }
    for branch in 0..3 {
        let left = world.private(branch, "stage");
        assert!(left.is_empty(), "{context}: {} copies in stage of {branch}", left.len());
    }
    if stage.scenario == Scenario::Tree && now == ends[1] && !stage.same {
        let held = world.private(0, "hold");
        assert_eq!(held, [ends[0][0].clone().unwrap()], "{context}: the source is not in hold");
    }
    world.mover.with_journal(|journal| {
        for (txid, found) in journal.iter() {
            let ended = !matches!(found.state, TransactionState::Active | TransactionState::Dead);
            assert!(ended, "{context}: {txid} is {:?}: {:?}", found.state, found.reason);
            if found.purged {
                let left = (0..3).map(|branch| world.private(branch, "hold").len());
                assert_eq!(left.sum::<usize>(), 0, "{context}: purged, and left");
            }
        }
    });
}

/// Recovers on the disks as found, twice; the second time nothing is left to do.
#[track_caller]
fn recover_and_check(
    found: Disk,
    stage: &Stage,
    ends: &[Picture; 2],
    outcome: Option<&Outcome>,
    context: &str,
) {
    let world = start(found.shared(), stage.same).expect("starts");
    let recovery = world.mover.recover();
    assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
    assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
    check(stage, &world, ends, outcome, context);
    let before = whole(&world);
    let world = world.restart(stage.same);
    assert_eq!(world.mover.recover(), Recovery::default(), "{context}: the second recovery");
    assert!(whole(&world) == before, "{context}: the second recovery changed something");
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

fn cut_power(scenario: Scenario, names: Names, same: bool) {
    let ends = ends(scenario, names, same);
    let mut steps = 0;
    while let Some((stage, outcome)) = run_with(scenario, names, same, steps, Fault::Crash) {
        let context = format!("{scenario:?} {names:?} same={same} step {steps}");
        let found = stage.world.disk.crash(steps);
        recover_and_check(found, &stage, &ends, Some(&outcome), &context);
        steps += 1;
    }
    assert!(steps > 20, "{scenario:?} took {steps} steps only");
}

#[test]
fn power_loss_while_a_tree_crosses_between_disks() {
    cut_power(Scenario::Tree, Names::Journal, false);
    cut_power(Scenario::Tree, Names::Independent, false);
}

#[test]
fn power_loss_while_a_tree_crosses_on_one_disk() {
    cut_power(Scenario::Tree, Names::Journal, true);
    cut_power(Scenario::Tree, Names::Independent, true);
}

#[test]
fn power_loss_while_a_tree_crosses_that_is_synced_file_by_file() {
    cut_power(Scenario::SyncedEach, Names::Independent, false);
}

#[test]
fn power_loss_while_parts_cross() {
    cut_power(Scenario::Merged, Names::Journal, true);
    cut_power(Scenario::Merged, Names::Independent, false);
    cut_power(Scenario::Hiding, Names::Independent, false);
}

#[test]
fn power_loss_while_a_tree_is_undone() {
    cut_power(Scenario::UndoTree, Names::Independent, true);
    cut_power(Scenario::UndoTree, Names::Independent, false);
}

#[test]
fn power_loss_while_parts_are_undone() {
    cut_power(Scenario::UndoMerged, Names::Journal, false);
    cut_power(Scenario::UndoMerged, Names::Independent, false);
}

#[test]
fn power_loss_while_held_trees_are_purged() {
    cut_power(Scenario::Purge, Names::Journal, false);
    cut_power(Scenario::Purge, Names::Independent, false);
}

/// The power goes again in the recovery, at every n-th step of both.
fn cut_power_in_recovery(scenario: Scenario, same: bool, every: usize) {
    let names = Names::Independent;
    let ends = ends(scenario, names, same);
    for step in (0..).step_by(every) {
        let Some((stage, outcome)) = run_with(scenario, names, same, step, Fault::Crash) else {
            assert!(step > 20, "{scenario:?} took {step} steps only");
            return;
        };
        for again in (step % 7..STEPS_MAX).step_by(every) {
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
            recover_and_check(found.crash(again), &stage, &ends, Some(&outcome), &context);
        }
    }
}

#[test]
fn power_loss_in_the_recovery_of_a_tree() {
    cut_power_in_recovery(Scenario::Tree, false, 5);
    cut_power_in_recovery(Scenario::UndoTree, true, 5);
}

#[test]
fn power_loss_in_the_recovery_of_parts() {
    cut_power_in_recovery(Scenario::Merged, false, 7);
    cut_power_in_recovery(Scenario::UndoMerged, false, 7);
}

#[test]
fn power_loss_in_the_recovery_of_a_purge() {
    cut_power_in_recovery(Scenario::Purge, false, 3);
}

/// One call fails, and the machine goes on: the caller gets an error and all is as before, or it was
/// made. Then the power goes: the promises hold then too.
fn fail_every_step(scenario: Scenario, errno: Errno, same: bool) {
    let names = Names::Independent;
    let ends = ends(scenario, names, same);
    for step in 0.. {
        let fault = Fault::Errno(errno);
        let Some((stage, outcome)) = run_with(scenario, names, same, step, fault) else {
            assert!(step > 20, "{scenario:?} took {step} steps only");
            return;
        };
        let context = format!("{scenario:?} same={same} {errno:?} at step {step}: {outcome:?}");
        let now = picture(&stage.world);
        assert_eq!(now == ends[1], outcome.is_ok(), "{context}");
        assert!(ends.contains(&now), "{context}");
        if outcome.is_err() {
            let open = stage.world.mover.with_journal(|journal| journal.open().count());
            let left = stage.world.private(1, "stage").len();
            assert!(left == 0 || open > 0 || errno == Errno::IO, "{context}: the copy is left");
        }
        recover_and_check(stage.world.disk.crash(step), &stage, &ends, None, &context);
    }
}

#[test]
fn a_failing_call_while_a_tree_crosses() {
    fail_every_step(Scenario::Tree, Errno::IO, false);
    fail_every_step(Scenario::Tree, Errno::IO, true);
    fail_every_step(Scenario::Tree, Errno::NOSPC, false);
}

#[test]
fn a_failing_call_while_parts_cross_and_return() {
    fail_every_step(Scenario::Merged, Errno::IO, false);
    fail_every_step(Scenario::UndoMerged, Errno::IO, false);
}

/// A source that was just written, and never synced by its writer, survives its crossing.
#[test]
fn an_unsynced_tree_survives_power_loss() {
    for same in [false, true] {
        for seed in 0..20 {
            let world = new_world(Names::Independent, same);
            world.disk.create_dir(&world.roots[0], OsStr::new("f")).unwrap();
            world.disk.sync_dir(&world.roots[0]).unwrap();
            let top = world.dir(0, "f/x");
            world.disk.create_dir(&top, OsStr::new("d")).unwrap();
            let file = world.disk.create_file(&world.dir(0, "f/d/x"), OsStr::new("x")).unwrap();
            world.disk.write_at(&file, &new_content(), 0).unwrap();
            let before = world.get(0, "f");
            let crossed = world.cross("f", "sub/g").unwrap();
            let after = start(world.disk.crash(seed).shared(), same).unwrap();
            after.mover.recover();
            assert_eq!(after.state(crossed.txid), Some(TransactionState::Done), "{same} {seed}");
            assert_eq!((after.get(0, "f"), after.get(1, "sub/g")), (None, before.clone()));
            let held: Vec<Vec<u8>> = before.into_iter().filter(|_| !same).collect();
            assert_eq!(after.private(0, "hold"), held, "undo would lose it");
        }
    }
}

/// The power goes after the decision. Before recovery somebody outside puts something into the tree,
/// still at the source or already in hold: it was not what was decided upon, and all comes back.
#[test]
fn what_came_before_recovery_is_not_lost() {
    for same in [false, true] {
        let mut found_at = [0, 0];
        for step in 0.. {
            let run = run_with(Scenario::Tree, Names::Journal, same, step, Fault::Crash);
            let Some((stage, _)) = run else { break };
            let world = start(stage.world.disk.crash(0).shared(), same).unwrap();
            let committed = world.mover.with_journal(|journal| {
                journal.open().any(|(_, transaction)| transaction.committed())
            });
            let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
            let (dir, name) = match world.disk.list(&hold).unwrap().pop() {
                Some(held) => (hold, held),
                None => (world.roots[0].clone(), "f".into()),
            };
            let top = world.disk.open_dir(&dir, Path::new(&name));
            let (true, Ok(top)) = (committed, top) else { continue };
            found_at[usize::from(name == "f")] += 1;
            let inside = world.disk.open_dir(&top, Path::new("d")).unwrap();
            world.disk.create_file(&inside, OsStr::new("came")).unwrap();
            let recovery = world.mover.recover();
            assert_eq!(recovery.reverted.len(), 1, "{same} step {step}: {recovery:?}");
            assert!(world.get(0, "f/d/came").is_some(), "{same} step {step}");
            assert!(world.get(1, "sub/g").is_some() && world.private(1, "stage").is_empty());
        }
        assert!(found_at[1] > 0 && (same || found_at[0] > 0), "{same}: {found_at:?}");
    }
}
