//! A model test of the whole view, without a mount: random operations, each done through [`super::Vfs`] as a
//! kernel would and to a plain tree in memory that says what POSIX and the design want; after each the
//! results are compared, and now and then everything.
//!
//! - [`tree`], [`acl`], [`names`], [`rename`], [`effects`]: the tree, the errors that each operation may
//!   give, and what it does.
//! - [`operation`], [`dice`]: what operations there are, and how a run chooses them.
//! - [`layout`], [`stores`]: the branches and pools of a run, and what lies in them.
//! - [`world`]: the view over them.
//! - [`run`], [`attributes`], [`files`], [`lists`], [`crossings`]: the driver, which is the kernel to the view.
//! - [`plant`], [`offline`]: what others do to the stores of pools meanwhile, and branches that come and go.
//! - [`compare`]: the whole tree, and what lies in the branches.
//! - [`met`]: that the runs meet what matters.
//!
//! The files of the first three know nothing of [`super::Vfs`]: `tests/it/model` takes them as they are
//! and does the operations by system calls through a mount.
//!
//! A run that fails prints its seed and the shortest part of it that still fails.
//! `OCTROI_MODEL_SEEDS=FIRST-LAST` runs other seeds, `OCTROI_MODEL_STEPS=N` longer ones.

mod acl;
mod attributes;
mod compare;
mod crossings;
mod dice;
mod effects;
mod files;
mod layout;
mod lists;
mod met;
mod names;
mod offline;
mod operation;
mod plant;
mod rename;
mod run;
mod stores;
mod tree;
mod world;

use std::time::{Duration, Instant};

use dice::Dice;
use met::{CASES, Met};
use operation::Op;
use run::Run;

/// Operations between two comparisons of everything.
const COMPARE_EVERY: usize = 50;
/// Operations that mostly fill the stores.
const EARLY: usize = 30;
/// Runs, one for each seed.
const SEEDS: u64 = 72;
/// Operations of a run.
const STEPS: usize = 1000;
/// How long a failing run may be shortened.
const SHORTEN_MAX: Duration = Duration::from_secs(120);

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Does operations one by one; after the last and now and then between, all is compared. Gives where it
/// failed and why.
fn perform(layout: u64, ops: impl IntoIterator<Item = Op>) -> Result<(), (usize, String)> {
    let mut run = Run::new(layout);
    let mut done = 0;
    for op in ops {
        run.step(&op).map_err(|why| (done, why))?;
        done += 1;
        if done % COMPARE_EVERY == 0 {
            run.compare().map_err(|why| (done - 1, why))?;
        }
    }
    run.compare().map_err(|why| (done.saturating_sub(1), why))
}

/// One run; the operations are chosen by what the model is at the time.
fn run_seed(seed: u64, steps: usize, met: &mut Met) {
    let mut dice = Dice::new(seed);
    let layout = seed % layout::LAYOUT_COUNT;
    let mut run = Run::new(layout);
    let mut ops = Vec::new();
    for step in 0..steps {
        let op = dice.operation(&run.world.model, step < EARLY);
        ops.push(op.clone());
        if let Some(case) = run.case(&op) {
            *met.entry(case).or_default() += 1;
        }
        let mut verdict = run.step(&op);
        if verdict.is_ok() && step % COMPARE_EVERY == COMPARE_EVERY - 1 {
            verdict = run.compare();
        }
        if let Err(why) = verdict {
            drop(run);
            fail(seed, layout, ops, &why);
        }
    }
    if let Err(why) = run.compare() {
        drop(run);
        fail(seed, layout, ops, &why);
    }
}

fn fail(seed: u64, layout: u64, ops: Vec<Op>, why: &str) -> ! {
    let (short, now) = shorten(layout, ops);
    let lines: Vec<String> = short.iter().map(|op| format!("  {op:?}\n")).collect();
    let text = format!(
        "seed {seed}, layout {layout}: {why}\nshortened to, failing with: {now}\n{}",
        lines.concat()
    );
    panic!("{}", text.replace(operation::LONG.as_str(), "LONG"));
}

/// Leaves out what is not needed for a failure, in ever smaller pieces.
fn shorten(layout: u64, mut ops: Vec<Op>) -> (Vec<Op>, String) {
    let deadline = Instant::now() + SHORTEN_MAX;
    let mut why = match perform(layout, ops.iter().cloned()) {
        Ok(()) => return (ops, "nothing, the second time".to_owned()),
        Err((at, why)) => {
            ops.truncate(at + 1);
            why
        }
    };
    let mut piece = ops.len() / 2;
    while piece > 0 && Instant::now() < deadline {
        let mut start = 0;
        while start < ops.len() && Instant::now() < deadline {
            let end = (start + piece).min(ops.len());
            let without: Vec<Op> = ops[..start].iter().chain(&ops[end..]).cloned().collect();
            match perform(layout, without.iter().cloned()) {
                Ok(()) => start = end,
                Err((at, now)) => {
                    ops = without;
                    ops.truncate(at + 1);
                    why = now;
                }
            }
        }
        piece /= 2;
    }
    (ops, why)
}

/// Runs every fourth of the seeds: four tests share them.
fn run_quarter(quarter: u64) {
    let steps = setting("OCTROI_MODEL_STEPS").and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    let (first, last) = setting("OCTROI_MODEL_SEEDS")
        .and_then(|text| {
            let (first, last) = text.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .unwrap_or((1, SEEDS));
    let mut met = Met::new();
    let seeds = (first..=last).filter(|seed| seed % 4 == quarter);
    seeds.for_each(|seed| run_seed(seed, steps, &mut met));
    eprintln!("{met:?}");
    if (steps, first, last) == (STEPS, 1, SEEDS) {
        let never: Vec<_> = CASES.iter().filter(|case| !met.contains_key(*case)).collect();
        assert!(never.is_empty(), "no run met: {never:?}");
    }
}

#[test]
fn the_view_is_as_the_model_0() {
    run_quarter(0);
}

#[test]
fn the_view_is_as_the_model_1() {
    run_quarter(1);
}

#[test]
fn the_view_is_as_the_model_2() {
    run_quarter(2);
}

#[test]
fn the_view_is_as_the_model_3() {
    run_quarter(3);
}
