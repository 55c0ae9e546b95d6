//! Random operations on two branches and a pool of three, held against plain trees in memory, with power
//! losses and failing calls at random steps. After each operation, and after each recovery, every
//! branch holds what the trees say: what was acknowledged is there once, what was not is wholly before or
//! wholly after, stage is empty, and hold keeps what can be undone and nothing else.
//!
//! `OCTROI_MODEL_RUNS` multiplies the runs, `OCTROI_MODEL_SEED` takes one run alone. The ledger's
//! writer is a thread of its own, so that a seed gives the same operations each time but not always the
//! same step at which a fault strikes.

use super::*;

mod ask;
mod change;
mod run;
mod trees;

use run::{Counts, Run};

/// Operations of a run on one machine.
const STEPS: usize = 250;

/// A generator of which a seed always gives the same operations.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((mixed >> 16) % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run_seeds(seeds: std::ops::Range<u64>) {
    let span = seeds.end - seeds.start;
    let last = seeds.start + span * number_of("OCTROI_MODEL_RUNS").unwrap_or(1);
    let mut all = Counts::default();
    for seed in seeds.start..last {
        if number_of("OCTROI_MODEL_SEED").is_some_and(|only| only != seed) {
            continue;
        }
        let mut run = Run::new(seed);
        for _ in 0..STEPS {
            run.step();
        }
        all.add(&run.end());
    }
    if number_of("OCTROI_MODEL_SEED").is_none() {
        all.check_all_happened();
    }
}

#[test]
fn model_of_the_mover_1() {
    run_seeds(0..35);
}

#[test]
fn model_of_the_mover_2() {
    run_seeds(1000..1035);
}

#[test]
fn model_of_the_mover_3() {
    run_seeds(2000..2035);
}
