//! Renames within a pool: wholly made or not at all, whatever fails.

use super::lab::{Lab, Picture, view};
use super::*;

/// No scenario takes more steps.
const STEPS_MAX: u64 = 500;
pub(super) const SEEDS: u64 = 3;

/// Members with what they hold, and what is asked for: names by member and path.
pub(super) struct Scenario {
    name: &'static str,
    members: &'static [&'static [(&'static str, &'static str)]],
    moves: &'static [(usize, &'static str, &'static str)],
    displace: &'static [(usize, &'static str)],
}

pub(super) const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "a merged directory",
        members: &[
            &[("d/", ""), ("d/0", "zero"), ("sub/", "")],
            &[("d/", ""), ("d/1", "one"), ("d/deep/", ""), ("sub/", "")],
        ],
        moves: &[(0, "d", "sub/e"), (1, "d", "sub/e")],
        displace: &[],
    },
    Scenario {
        name: "a merged directory onto an empty one",
        members: &[
            &[("d/", ""), ("d/0", "zero"), ("e/", "")],
            &[("e/", "")],
            &[("d/", ""), ("d/2", "two"), ("e/", "")],
        ],
        moves: &[(0, "d", "e"), (2, "d", "e")],
        displace: &[(2, "e"), (1, "e"), (0, "e")],
    },
    Scenario {
        name: "a file with shadows at both ends",
        members: &[
            &[("f", "new"), ("sub/", ""), ("sub/g", "old 0")],
            &[("f", "shadow"), ("sub/", ""), ("sub/g", "old 1")],
            &[("sub/", ""), ("sub/g", "old 2")],
        ],
        moves: &[(0, "f", "sub/g")],
        displace: &[(1, "f"), (2, "sub/g"), (1, "sub/g"), (0, "sub/g")],
    },
    Scenario {
        name: "a file that something would hide",
        members: &[&[("g", "hides")], &[("f", "new")]],
        moves: &[(1, "f", "g")],
        displace: &[(0, "g")],
    },
    Scenario {
        name: "a directory whose shadow is a file",
        members: &[&[("d/", ""), ("d/x", "x")], &[("d", "a file")], &[("d/", ""), ("d/y", "y")]],
        moves: &[(0, "d", "e"), (2, "d", "e")],
        displace: &[(1, "d")],
    },
];

fn set_up(scenario: &Scenario, names: Names) -> Lab {
    let devices: Vec<usize> = (1..=scenario.members.len()).collect();
    let lab = Lab::new(names, &devices);
    for (member, things) in scenario.members.iter().enumerate() {
        lab.put(member, things);
    }
    lab.mover.ledger.flush().unwrap();
    lab.disk.sync_all();
    lab
}

fn request(lab: &Lab, scenario: &Scenario) -> RearrangeRequest<Disk> {
    let (_, source, target) = scenario.moves[0];
    let names = |(at, from, to): &(usize, &str, &str)| (lab.name(*at, from), lab.name(*at, to));
    RearrangeRequest {
        caller: AUTHOR,
        exe: None,
        source: view(source),
        target: view(target),
        moves: scenario.moves.iter().map(names).collect(),
        displace: scenario.displace.iter().map(|(at, path)| lab.name(*at, path)).collect(),
    }
}

/// The members' trees before, and after.
pub(super) fn before_and_after(scenario: &Scenario) -> [Vec<Picture>; 2] {
    let lab = set_up(scenario, Names::Journal);
    let before: Vec<Picture> = (0..scenario.members.len()).map(|member| lab.tree(member)).collect();
    let mut after = before.clone();
    for (member, path) in scenario.displace {
        after[*member].remove(Path::new(path));
    }
    for (member, from, to) in scenario.moves {
        let renamed = std::mem::take(&mut after[*member]).into_iter();
        let renamed = renamed.map(|(path, thing)| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => (PathBuf::from(to), thing),
            Ok(rest) => (Path::new(to).join(rest), thing),
            Err(_) => (path, thing),
        });
        after[*member] = renamed.collect();
    }
    [before, after]
}

pub(super) fn trees(lab: &Lab) -> Vec<Picture> {
    (0..lab.roots.len()).map(|member| lab.tree(member)).collect()
}

/// Recovers twice and holds the result against the two allowed ones.
#[track_caller]
fn recover_and_check(lab: Lab, scenario: &Scenario, made: Option<bool>, context: &str) {
    let recovery = lab.mover.recover();
    let untold = (&recovery.left_open, &recovery.dead, &recovery.unknown);
    assert!(recovery.left_open.is_empty() && recovery.dead.is_empty(), "{context}: {untold:?}");
    assert!(recovery.unknown.is_empty(), "{context}: {untold:?}");
    let [before, after] = before_and_after(scenario);
    let found = trees(&lab);
    assert!(found == before || found == after, "{context}: half made: {found:#?}");
    if let Some(made) = made {
        assert_eq!(found == after, made, "{context}: {found:?}");
    }
    for member in 0..scenario.members.len() {
        for area in ["stage", "hold"] {
            let left = lab.private(member, area);
            assert!(left.is_empty(), "{context}: {left:?} in {area} of {member}");
        }
    }
    let everything = lab.everything();
    let lab = lab.restart();
    assert_eq!(lab.mover.recover(), Recovery::default(), "{context}: the second recovery");
    assert_eq!(lab.everything(), everything, "{context}: the second recovery changed something");
}

/// Runs a scenario with a fault at its n-th step; `None` when it has no such step.
pub(super) fn run_with(
    scenario: &Scenario,
    names: Names,
    step: u64,
    fault: Fault,
) -> Option<(Lab, Result<Rearranged, CrossingError>)> {
    assert!(step < STEPS_MAX, "{} does not end", scenario.name);
    let lab = set_up(scenario, names);
    let request = request(&lab, scenario);
    let first = lab.disk.steps();
    lab.disk.fail_at(first + step, fault);
    let outcome = lab.mover.rearrange(request);
    (lab.disk.steps() > first + step).then_some((lab, outcome))
}

#[test]
fn everything_moves_at_once_and_nothing_is_kept() {
    for scenario in &SCENARIOS {
        let lab = set_up(scenario, Names::Journal);
        let displaced = scenario.displace.iter().map(|(member, path)| {
            let name = lab.name(*member, path);
            let found = lab.disk.stat(&name.parent, &name.name).unwrap().unwrap();
            (name.branch, found.identity.handle)
        });
        let displaced: Vec<_> = displaced.collect();
        let done = lab.mover.rearrange(request(&lab, scenario)).unwrap();
        assert_eq!((done.displaced, done.confirmed), (displaced, true), "{}", scenario.name);
        recover_and_check(lab, scenario, Some(true), scenario.name);
    }
}

#[test]
fn who_runs_short_waits_for_what_is_displaced() {
    let lab = set_up(&SCENARIOS[3], Names::Journal);
    let (index, keep) = (BranchIndex(0), std::time::Duration::from_secs(3600));
    let max = crate::branch::SpaceLimit::Percent(100);
    lab.mover.tend_branch(index, max, jiff::Timestamp::now(), keep);
    let free = lab.disk.free_space(&lab.roots[0]).unwrap();
    let capacity = DeviceOptions::default().capacity - free;
    lab.disk.set_options(lab.devices[0], DeviceOptions { capacity, ..DeviceOptions::default() });
    let delay = std::time::Duration::from_millis(500);
    lab.disk.fail_next("unlink", Fault::Delay(delay));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| lab.mover.rearrange(request(&lab, &SCENARIOS[3])).unwrap());
        let purged = || lab.mover.with_journal(|journal| journal.iter().any(|(_, one)| one.purged));
        while !purged() && !slow.is_finished() {
            std::thread::yield_now();
        }
        assert!(
            lab.mover.make_room(index, 1, AUTHOR.uid).is_some(),
            "it found nothing, and did not wait"
        );
        slow.join().unwrap();
    });
}

#[test]
fn it_is_told_from_a_crossing_and_cannot_be_undone() {
    for scenario in &SCENARIOS {
        let lab = set_up(scenario, Names::Journal);
        let done = lab.mover.rearrange(request(&lab, scenario)).unwrap();
        let lab = lab.restart();
        lab.mover.with_journal(|journal| {
            let found = journal.get(done.txid).unwrap();
            assert!(found.record.rearrangement && found.record.gate.is_none());
            assert_eq!(found.state, TransactionState::Done);
            assert!(found.purged && !found.is_undoable(), "{}", scenario.name);
            assert_eq!(journal.last_of(AUTHOR.uid), None);
            assert_eq!(journal.last_to(&found.record.target), None);
            assert!(journal.history(&found.record.target).is_empty());
        });
        let undone = lab.mover.prepare_undo(AUTHOR, None, true, done.txid, &any());
        let Err(CrossingError::UndoImpossible { why, .. }) = undone else {
            panic!("{}: it could be undone", scenario.name);
        };
        assert!(why.contains("within a pool"), "{why}");
    }
}

#[test]
fn power_loss_at_every_step() {
    for scenario in &SCENARIOS {
        for names in [Names::Journal, Names::Independent] {
            let mut step = 0;
            while let Some((lab, outcome)) = run_with(scenario, names, step, Fault::Crash) {
                for seed in 0..SEEDS {
                    let context = format!("{} {names:?} step {step} seed {seed}", scenario.name);
                    let made = outcome.is_ok().then_some(true);
                    recover_and_check(lab.after_crash(seed), scenario, made, &context);
                }
                step += 1;
            }
            assert!(step > 10, "{} took {step} steps only", scenario.name);
        }
    }
}

#[test]
fn power_loss_at_every_step_of_the_recovery() {
    // Two that leave much to do; of where the first power loss comes, every sixth step.
    for (first, scenario) in SCENARIOS[1..3].iter().enumerate() {
        let devices: Vec<usize> = (1..=scenario.members.len()).collect();
        for step in (3 * first as u64..).step_by(6) {
            let run = run_with(scenario, Names::Independent, step, Fault::Crash);
            let Some((lab, outcome)) = run else { break };
            for again in 0..STEPS_MAX {
                let found = lab.disk.crash(step).shared();
                found.fail_at(again, Fault::Crash);
                if let Some(lab) = Lab::start(Arc::clone(&found), &devices) {
                    lab.mover.recover();
                }
                if found.steps() <= again {
                    break;
                }
                let context = format!("{} step {step} recovery {again}", scenario.name);
                let lab = Lab::start(found.crash(again).shared(), &devices).unwrap();
                recover_and_check(lab, scenario, outcome.is_ok().then_some(true), &context);
            }
        }
    }
}

/// One call fails and the machine goes on: all was made or nothing. Then the power goes.
#[test]
fn a_failing_call_takes_all_back() {
    for scenario in &SCENARIOS {
        let [before, after] = before_and_after(scenario);
        for errno in [Errno::IO, Errno::NOSPC] {
            let mut step = 0;
            let fault = Fault::Errno(errno);
            while let Some((lab, outcome)) = run_with(scenario, Names::Independent, step, fault) {
                let context = format!("{} {errno:?} step {step}: {outcome:?}", scenario.name);
                let wanted = if outcome.is_ok() { &after } else { &before };
                assert_eq!(trees(&lab), *wanted, "{context}");
                if let Err(error) = &outcome {
                    assert_eq!(error.errno(), errno, "{context}");
                }
                recover_and_check(lab.after_crash(step), scenario, None, &context);
                step += 1;
            }
        }
    }
}

/// Without a power loss: the daemon ends and the next one finds what the first left.
#[test]
fn a_restart_after_a_failing_call_ends_it() {
    for scenario in &SCENARIOS {
        let mut step = 0;
        let fault = Fault::Errno(Errno::IO);
        while let Some((lab, outcome)) = run_with(scenario, Names::Journal, step, fault) {
            let context = format!("{} step {step}: {outcome:?}", scenario.name);
            recover_and_check(lab.restart(), scenario, Some(outcome.is_ok()), &context);
            step += 1;
        }
    }
}

fn check_refused(errno: Errno, change: impl Fn(&Lab, &mut RearrangeRequest<Disk>)) {
    let scenario = &SCENARIOS[1];
    let lab = set_up(scenario, Names::Journal);
    let mut asked = request(&lab, scenario);
    change(&lab, &mut asked);
    let before = lab.everything();
    let refused = lab.mover.rearrange(asked).unwrap_err();
    assert_eq!(refused.errno(), errno, "{refused}");
    assert_eq!(lab.everything(), before, "{refused}");
    assert_eq!(lab.mover.with_journal(|journal| journal.iter().count()), 0, "{refused}");
}

#[test]
fn refusals_change_nothing() {
    check_refused(Errno::NOENT, |lab, _| {
        let root = &lab.roots[2];
        lab.disk.rename(root, "d".as_ref(), root, "elsewhere".as_ref()).unwrap();
    });
    check_refused(Errno::EXIST, |_, asked| asked.displace.truncate(1));
    check_refused(Errno::NOTEMPTY, |lab, _| lab.put(1, &[("e/came", "late")]));
    check_refused(Errno::XDEV, |lab, asked| asked.moves[0].1 = lab.name(1, "e"));
    check_refused(Errno::IO, |_, asked| asked.displace[0].branch = BranchIndex(9));
}

/// What is displaced may be gone already, and files may be written while they move.
#[test]
fn what_is_gone_need_not_be_displaced_and_writers_go_on() {
    let scenario = &SCENARIOS[2];
    let lab = set_up(scenario, Names::Journal);
    let asked = request(&lab, scenario);
    lab.disk.unlink(&lab.roots[1], "f".as_ref()).unwrap();
    lab.disk.open_outside(&lab.roots[0], "f".as_ref()).unwrap();
    let done = lab.mover.rearrange(asked).unwrap();
    assert_eq!(done.displaced.len(), 3);
    recover_and_check(lab, scenario, Some(true), "gone");
}

/// Both ends are names of one inode: the old name goes, whatever happens in between.
#[test]
fn another_link_of_the_same_file_is_no_riddle() {
    let lab = || {
        let lab = Lab::new(Names::Independent, &[1, 2]);
        lab.put(0, &[("g", "hides")]);
        lab.put(1, &[("f", "one inode")]);
        let root = &lab.roots[1];
        lab.disk.link_outside(root, "f".as_ref(), root, "g".as_ref()).unwrap();
        lab.disk.sync_all();
        lab
    };
    for step in 0..STEPS_MAX {
        let lab = lab();
        let asked = RearrangeRequest {
            caller: AUTHOR,
            exe: None,
            source: view("f"),
            target: view("g"),
            moves: vec![(lab.name(1, "f"), lab.name(1, "g"))],
            displace: vec![lab.name(0, "g"), lab.name(1, "g")],
        };
        let before = trees(&lab);
        let first = lab.disk.steps();
        lab.disk.fail_at(first + step, Fault::Crash);
        let outcome = lab.mover.rearrange(asked);
        if lab.disk.steps() <= first + step {
            outcome.unwrap();
            return;
        }
        let found = lab.after_crash(step);
        let recovery = found.mover.recover();
        assert!(recovery.dead.is_empty(), "step {step}: {recovery:?}");
        let names: Vec<_> = trees(&found).iter().map(|tree| tree.len()).collect();
        assert!(trees(&found) == before || names == [0, 1], "step {step}: {:?}", trees(&found));
    }
    panic!("it does not end");
}

/// Decided, and the power goes before any move.
fn decided(scenario: &Scenario, names: Names) -> Disk {
    let mut step = 0;
    while let Some((lab, _)) = run_with(scenario, names, step, Fault::Crash) {
        let lab = lab.after_crash(0);
        let is_decided = lab.mover.with_journal(|journal| journal.open().count()) > 0;
        if is_decided && trees(&lab) == before_and_after(scenario)[0] {
            lab.disk.sync_all();
            return lab.disk.crash(0);
        }
        step += 1;
    }
    panic!("{}: no power loss leaves it decided and not moved", scenario.name);
}

/// After the decision somebody outside puts something into an empty directory that is to make way, where it
/// stands or already in hold: it comes back with what it holds.
#[test]
fn what_came_into_a_directory_that_makes_way_is_not_lost() {
    let scenario = &SCENARIOS[1];
    let mut found_at = [0, 0];
    let mut step = 0;
    while let Some((lab, _)) = run_with(scenario, Names::Journal, step, Fault::Crash) {
        step += 1;
        let lab = lab.after_crash(0);
        if lab.mover.with_journal(|journal| journal.open().count()) == 0 {
            continue;
        }
        let hold = lab.disk.open_dir(&lab.roots[1], Path::new(".octroi/hold")).unwrap();
        let held = lab.disk.list(&hold).unwrap().pop();
        found_at[usize::from(held.is_some())] += 1;
        let dir = match held {
            Some(name) => lab.disk.open_dir(&hold, Path::new(&name)).unwrap(),
            None => lab.disk.open_dir(&lab.roots[1], Path::new("e")).unwrap(),
        };
        lab.disk.create_file(&dir, OsStr::new("came")).unwrap();
        lab.mover.recover();
        assert!(lab.tree(1).contains_key(Path::new("e/came")), "step {step}: {:?}", lab.tree(1));
        let lab = lab.restart();
        lab.mover.recover();
        assert!(lab.tree(1).contains_key(Path::new("e/came")), "step {step}: {:?}", lab.tree(1));
    }
    assert!(found_at.iter().all(|count| *count > 0), "{found_at:?}");
}

/// After the decision somebody outside gives the file its new name beside the old one. Then the old one goes, and
/// whenever the power goes there is one.
#[test]
fn a_second_name_from_outside_costs_nothing() {
    let scenario = Scenario {
        name: "a file",
        members: &[&[("f", "one inode")]],
        moves: &[(0, "f", "g")],
        displace: &[],
    };
    let found = decided(&scenario, Names::Independent);
    let root = found.open_dir(&found.root(1).unwrap(), Path::new("b0")).unwrap();
    // It is not synced.
    found.link_outside(&root, OsStr::new("f"), &root, OsStr::new("g")).unwrap();
    let [_, after] = before_and_after(&scenario);
    for step in 0..STEPS_MAX {
        let disk = found.after_kill().shared();
        disk.fail_at(step, Fault::Crash);
        if let Some(lab) = Lab::start(Arc::clone(&disk), &[1]) {
            lab.mover.recover();
        }
        for seed in 0..6 {
            let lab = Lab::start(disk.crash(seed).shared(), &[1]).unwrap();
            lab.mover.recover();
            assert_eq!(trees(&lab), after, "step {step} seed {seed}");
        }
        if disk.steps() <= step {
            assert!(step > 10, "it took {step} steps only");
            return;
        }
    }
    panic!("it does not end");
}

/// The folders could not be synced, so that DONE is missing, and a user has removed the folder that the
/// directory left: it is done all the same, once it can be synced.
#[test]
fn a_folder_that_is_gone_since_leaves_no_dead_letter() {
    let scenario = Scenario {
        name: "out of a folder",
        members: &[
            &[("p/", ""), ("p/d/", ""), ("p/d/0", "zero"), ("sub/", "")],
            &[("p/", ""), ("p/d/", ""), ("p/d/1", "one"), ("sub/", "")],
        ],
        moves: &[(0, "p/d", "sub/e"), (1, "p/d", "sub/e")],
        displace: &[],
    };
    let (mut unconfirmed, mut step) = (0, 0);
    while let Some((lab, outcome)) =
        run_with(&scenario, Names::Journal, step, Fault::Errno(Errno::IO))
    {
        step += 1;
        let Ok(Rearranged { txid, confirmed: false, .. }) = outcome else { continue };
        unconfirmed += 1;
        for root in &lab.roots {
            lab.disk.remove_dir(root, OsStr::new("p")).unwrap();
        }
        let found = trees(&lab);
        let lab = lab.restart();
        let recovery = lab.mover.recover();
        assert_eq!(recovery.completed, [txid], "step {step}: {recovery:?}");
        assert_eq!(trees(&lab), found, "step {step}");
    }
    assert!(unconfirmed > 0, "none of {step} steps left it unconfirmed");
}
