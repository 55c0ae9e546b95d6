//! The model test of the library, through a mount: the same random operations, done by real system calls
//! of three users, against the same tree in memory that says what POSIX and the design want.
//!
//! The tree and the choice of operations are those of `src/vfs/model`, taken from there as they are. A
//! run that fails prints its seed and its operations. `OCTROI_MODEL_SEEDS=FIRST-LAST` runs other seeds,
//! `OCTROI_MODEL_STEPS=N` longer ones.
//!
//! - [`run`]: the driver: users, ways to names, which operation is which call.
//! - [`making`], [`content`], [`changes`], [`whole`]: the calls, and what becomes of the model.
//! - [`offline`]: branches that go away and come back.

// Each is whole for the driver of the library, which uses all of it.
#[allow(dead_code)]
#[path = "../../../src/vfs/model/acl.rs"]
mod acl;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/dice.rs"]
mod dice;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/effects.rs"]
mod effects;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/layout.rs"]
mod layout;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/names.rs"]
mod names;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/operation.rs"]
mod operation;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/rename.rs"]
mod rename;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/stores.rs"]
mod stores;
#[allow(dead_code)]
#[path = "../../../src/vfs/model/tree.rs"]
mod tree;

mod changes;
mod content;
mod making;
mod offline;
mod run;
mod whole;

use crate::harness::require_root;
use dice::Dice;
use operation::Op;
use run::Run;

/// Operations between two comparisons of everything.
const COMPARE_EVERY: usize = 100;
/// Operations that mostly fill the branches.
const EARLY: usize = 30;
/// Things that others put into pools before they are mounted.
const PLANTED: usize = 20;
/// Operations of a run.
const STEPS: usize = 3000;
/// Runs of each layout.
const RUNS: u64 = 3;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// One run; the operations are chosen by what the model is at the time.
fn run_seed(seed: u64, steps: usize) {
    let mut dice = Dice::new(seed);
    let mut run = Run::new(seed, |model, backing| {
        for _ in 0..PLANTED {
            let Op::Plant { at, nth, text } = dice.plant(model) else { continue };
            let (folder, name) = operation::split(&at);
            if let Some((parent, store)) = model.plantable(folder, name, nth) {
                model.plant_deep(backing, (parent, name), store, text).expect("planted");
            }
        }
    });
    let mut done = Vec::new();
    for step in 0..steps {
        let op = dice.operation(&run.model, step < EARLY);
        let uid = dice.of(&[0, 0, 0, 0, tree::USER, 77]);
        done.push((uid, op.clone()));
        let mut verdict = run.step(uid, &op);
        if verdict.is_ok() && (step + 1) % COMPARE_EVERY == 0 {
            verdict = run.compare();
        }
        if let Err(why) = verdict {
            let last = done.len().saturating_sub(COMPARE_EVERY);
            let lines: Vec<String> = done[last..].iter().map(|op| format!("  {op:?}\n")).collect();
            let text = format!("seed {seed}, step {step}: {why}\nafter\n{}", lines.concat());
            panic!("{}", text.replace(operation::LONG.as_str(), "LONG"));
        }
    }
    if let Err(why) = run.compare() {
        panic!("seed {seed}: {why}");
    }
    assert!(steps < STEPS || run.leaves > 0, "seed {seed}: no branch ever went away");
    run.end();
}

/// Runs every fourth of the seeds: each layout has a test of its own.
fn run_layout(layout: u64) {
    require_root();
    let steps = setting("OCTROI_MODEL_STEPS").and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    let (first, last) = setting("OCTROI_MODEL_SEEDS")
        .and_then(|text| {
            let (first, last) = text.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .unwrap_or((1, RUNS * layout::LAYOUT_COUNT));
    let seeds = (first..=last).filter(|seed| seed % layout::LAYOUT_COUNT == layout);
    seeds.for_each(|seed| run_seed(seed, steps));
}

#[test]
fn the_mount_is_as_the_model_with_branches() {
    run_layout(0);
}

#[test]
fn the_mount_is_as_the_model_with_pools() {
    run_layout(1);
}

#[test]
fn the_mount_is_as_the_model_with_a_branch_at_the_root() {
    run_layout(2);
}

#[test]
fn the_mount_is_as_the_model_with_a_pool_at_the_root() {
    run_layout(3);
}
