//! What a decision costs, with 1, 100 and 10,000 rules: `cargo bench --bench policy`, and `scripts/bench
//! policy` for the spread, which `policy percentiles` prints as Markdown.
//!
//! hot: caller and path are known; the class of the path is kept, as with an inode.
//! named: the path is matched anew, as for a name that is about to be made.
//! first sight: a caller that no table knows; groups are given, the user database is not asked.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::manual_is_multiple_of,
    reason = "nobody's data depends on it"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use octroi::policy::{
    BranchFacts, Conditions, Given, Object, PathPatterns, Policy, PolicySource, Principal, Rule,
    Subject,
};
use octroi::types::{BranchIndex, BranchMode, Operation, ViewPath};

const COUNTS: [usize; 3] = [1, 100, 10_000];
const BRANCH: Option<BranchIndex> = Some(BranchIndex(0));

/// Rules as people write them: folders of teams, kinds of files, names anywhere; half of them deny.
fn rule(number: usize) -> Rule {
    let text = match number % 4 {
        0 => format!("/data/team-{number}/**"),
        1 => format!("/data/**/*.kind{number}"),
        2 => format!("/data/team-{number}/{{raw,final}}/*.csv"),
        _ => format!("/data/*/archive-{number}/**"),
    };
    let denies = number % 2 == 0;
    Rule {
        name: format!("rule-{number}").into(),
        denies,
        operations: Operation::ALL[number % 5..20].to_vec(),
        who: vec![Principal::Group(2000 + (number % 50) as u32), Principal::User(number as u32)]
            .into(),
        paths: PathPatterns::new(vec![text]).expect("a glob"),
        conditions: Conditions::default(),
        observe: false,
        reason: denies.then(|| "not here".into()),
    }
}

fn source(rules: usize) -> PolicySource {
    let branch =
        BranchFacts { name: "data".into(), pool: None, at: path("/data"), mode: BranchMode::Rw };
    PolicySource {
        within_allowed: true,
        observe: false,
        rules: (0..rules).map(rule).collect(),
        gates: vec![],
        branches: vec![branch],
    }
}

fn policy(rules: usize) -> Policy {
    Policy::new(source(rules), 1).expect("patterns that compile")
}

fn path(text: &str) -> ViewPath {
    ViewPath::parse(Path::new(text)).expect("a path of the view")
}

fn subject(uid: u32) -> Subject {
    Subject { uid, gid: 2001, groups: Arc::from([2001, 2007, 2042]) }
}

/// What is asked about: what rules speak of, and what none does.
fn paths() -> Vec<ViewPath> {
    let texts =
        ["/data/team-0/a", "/data/team-2/raw/x.csv", "/data/x/archive-3/y", "/data/plain/name"];
    texts.iter().map(|text| path(text)).collect()
}

#[divan::bench(args = COUNTS)]
fn hot(bencher: divan::Bencher<'_, '_>, rules: usize) {
    let policy = policy(rules);
    let classes: Vec<_> = paths().iter().map(|path| policy.classify_path(path)).collect();
    let (subject, facts) = (subject(1001), Given::default());
    let mut next = (0..classes.len()).cycle();
    bencher.bench_local(|| {
        let class = &classes[next.next().expect("a cycle")];
        policy.decide_class(&subject, Operation::OpenRead, (class, BRANCH), &facts)
    });
}

#[divan::bench(args = COUNTS)]
fn named(bencher: divan::Bencher<'_, '_>, rules: usize) {
    let policy = policy(rules);
    let (subject, facts, paths) = (subject(1001), Given::default(), paths());
    let mut next = paths.iter().cycle();
    bencher.bench_local(|| {
        let path = next.next().expect("a cycle");
        let object = Object { path, branch: BRANCH, is_directory: false };
        policy.decide(&subject, Operation::Create, object, &facts)
    });
}

#[divan::bench(args = COUNTS)]
fn first_sight(bencher: divan::Bencher<'_, '_>, rules: usize) {
    let policy = policy(rules);
    let class = policy.classify_path(&path("/data/team-2/raw/x.csv"));
    let facts = Given::default();
    let uid = AtomicU32::new(100_000);
    bencher.bench_local(|| {
        let subject = subject(uid.fetch_add(1, Ordering::Relaxed));
        policy.decide_class(&subject, Operation::OpenRead, (&class, BRANCH), &facts)
    });
}

#[divan::bench(args = COUNTS, sample_count = 5)]
fn compile(bencher: divan::Bencher<'_, '_>, rules: usize) {
    bencher.with_inputs(|| source(rules)).bench_local_values(|source| Policy::new(source, 1));
}

/// Nanoseconds of each of many calls, in order, less what reading the clock takes.
fn spread(mut call: impl FnMut()) -> Vec<u64> {
    let nanos = |started: Instant| u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut clock: Vec<u64> = (0..10_000).map(|_| nanos(Instant::now())).collect();
    clock.sort_unstable();
    let clock = clock[clock.len() / 2];
    let mut times: Vec<u64> = (0..1_000_000)
        .map(|_| {
            let started = Instant::now();
            call();
            nanos(started).saturating_sub(clock)
        })
        .collect();
    times.sort_unstable();
    times
}

fn percentiles() {
    println!(
        "| rules | hot p50, ns | hot p99, ns | named p50, ns | named p99, ns | first sight p50, us | compile, s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for rules in COUNTS {
        let started = Instant::now();
        let policy = policy(rules);
        let compile = started.elapsed().as_secs_f64();
        let (paths, facts) = (paths(), Given::default());
        let classes: Vec<_> = paths.iter().map(|path| policy.classify_path(path)).collect();
        let known = subject(1001);
        let mut next = (0..paths.len()).cycle();
        let hot = spread(|| {
            let class = &classes[next.next().unwrap_or(0)];
            black_box(policy.decide_class(&known, Operation::OpenRead, (class, BRANCH), &facts));
        });
        let named = spread(|| {
            let path = &paths[next.next().unwrap_or(0)];
            let object = Object { path, branch: BRANCH, is_directory: false };
            black_box(policy.decide(&known, Operation::Create, object, &facts));
        });
        let mut sights = Vec::new();
        for uid in 100_000..110_000 {
            let stranger = subject(uid);
            let started = Instant::now();
            black_box(policy.decide_class(
                &stranger,
                Operation::OpenRead,
                (&classes[1], BRANCH),
                &facts,
            ));
            sights.push(started.elapsed().as_nanos() as u64);
        }
        sights.sort_unstable();
        let of = |times: &[u64], share: usize| times[times.len() * share / 100];
        println!(
            "| {rules} | {} | {} | {} | {} | {:.1} | {compile:.3} |",
            of(&hot, 50),
            of(&hot, 99),
            of(&named, 50),
            of(&named, 99),
            of(&sights, 50) as f64 / 1000.0,
        );
    }
}

fn main() {
    if std::env::args().any(|word| word == "percentiles") {
        return percentiles();
    }
    divan::main();
}
