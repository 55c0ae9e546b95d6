//! Renames within a pool of which a member is out of the configuration after a power loss.

use super::lab::Picture;
use super::rearranging::{SCENARIOS, SEEDS, before_and_after, run_with, trees};
use super::*;

/// A member is out of the configuration after a power loss: its part follows when it is back, if another's has moved.
#[test]
fn a_member_that_was_out_follows_when_it_is_back() {
    let scenario = &SCENARIOS[0];
    let [before, after] = before_and_after(scenario);
    let (mut step, mut split) = (0, 0);
    while let Some((lab, _)) = run_with(scenario, Names::Independent, step, Fault::Crash) {
        for seed in 0..SEEDS {
            let context = format!("step {step} seed {seed}");
            let lab = lab.after_crash(seed);
            lab.mover.branch_left(BranchIndex(1));
            lab.mover.set_configured([BranchUuid(ulid::Ulid(1))].into());
            let dead = lab.mover.recover().dead;
            let moved = [0, 1].map(|member| lab.tree(member) == after[member]);
            split += usize::from(moved == [true, false]);
            assert!(!dead.is_empty() || moved[0] == moved[1], "{context}: half of it");
            lab.disk.sync_all();
            let lab = lab.restart();
            lab.mover.recover();
            let wanted = if moved.contains(&true) { &after } else { &before };
            assert_eq!(trees(&lab), *wanted, "{context}: {dead:?}");
            let hold = [0, 1].map(|member| lab.private(member, "hold"));
            assert!(hold.iter().all(Picture::is_empty), "{context}: {hold:?}");
        }
        step += 1;
    }
    assert!(split > 0, "no power loss splits it in {step} steps");
}

/// What was to make way stands on a member that is out of the configuration after a power loss. Whoever works on
/// it meanwhile has it back with the member; else it goes.
#[test]
fn what_makes_way_is_not_deleted_where_somebody_has_changed_it() {
    let scenario = &SCENARIOS[3];
    let [_, after] = before_and_after(scenario);
    let (mut step, mut met) = (0, 0);
    while let Some((lab, _)) = run_with(scenario, Names::Independent, step, Fault::Crash) {
        step += 1;
        for changed in [false, true] {
            let lab = lab.after_crash(step);
            lab.mover.branch_left(BranchIndex(0));
            lab.mover.set_configured([BranchUuid(ulid::Ulid(2))].into());
            let dead = lab.mover.recover().dead;
            if dead.is_empty() || lab.tree(1) != after[1] || lab.tree(0) == after[0] {
                continue;
            }
            met += 1;
            if changed {
                let file = lab.disk.open_write(&lab.roots[0], OsStr::new("g")).unwrap();
                lab.disk.write_at(&file, b"worked on", 0).unwrap();
            }
            lab.disk.sync_all();
            let wanted = if changed { lab.tree(0) } else { after[0].clone() };
            let lab = lab.restart();
            let recovery = lab.mover.recover();
            assert_eq!(recovery.dead.len(), usize::from(changed), "step {step}: {recovery:?}");
            assert_eq!(lab.tree(0), wanted, "step {step}: {recovery:?}");
            assert_eq!(lab.tree(1), after[1], "step {step}");
            let lab = lab.restart();
            assert_eq!(lab.mover.recover(), Recovery::default(), "step {step}");
            assert_eq!(lab.tree(0), wanted, "step {step}");
        }
    }
    assert!(met > 1, "no power loss leaves it in {step} steps");
}
