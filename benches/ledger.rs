//! What the ledger costs, for `scripts/bench ledger`, which says what each figure means.
//!
//! `ledger STATE group|caller|sync|fill|verify|proof [NUMBER]` works in a state folder and prints JSON.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on may panic"
)]

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use octroi::ledger::record::{OperationRecord, PurgeRecord, Verdict};
use octroi::ledger::store::TreeStore;
use octroi::ledger::verify::{Against, Source, verify};
use octroi::ledger::{Durability, Ledger, Record, Seal};
use octroi::storage::real::{RealDir, RealStorage};
use octroi::types::{Operation, TxId, ViewPath};

type Opened = Arc<Ledger<RealStorage>>;

/// Threads that append at once in `group`.
const APPENDERS: u64 = 4;
/// Threads that wait for their records in `sync`, and how often each.
const WAITING: u64 = 64;
const WAITS: u64 = 200;
/// Appends that are timed in `caller`: bursts that the queue takes, with rests between.
const BURST: usize = 1000;
const BURSTS: usize = 200;
const REST: Duration = Duration::from_millis(20);
/// One in so many lines names a transaction.
const CROSSING_EACH: u64 = 100;

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn record(number: u64) -> Record {
    Record::Operation(Box::new(OperationRecord {
        op: Operation::Create,
        decision: Verdict::Allowed,
        rule: None,
        gate: None,
        reason: None,
        uid: 1000,
        gid: 1000,
        pid: 4321,
        exe: Some("/usr/bin/rsync".into()),
        path: ViewPath::root()
            .join("inbox".as_ref())
            .join("measurements".as_ref())
            .join(format!("sample-{number:08}.csv").as_ref()),
        target: None,
        branch: Some("inbox".into()),
        result: "ok".into(),
        written: None,
        first_write: false,
        grown: None,
        count: None,
        shortened: false,
        open_file: None,
    }))
}

/// The transaction that a line names, if it does.
fn transaction(number: u64) -> TxId {
    let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    TxId(ulid::Ulid::from_parts(1_795_000_000_000 + number, random))
}

fn open(state: &Path) -> io::Result<Opened> {
    std::fs::create_dir_all(state.join("ledger"))?;
    let dir = |path: &Path| RealDir::open(path).map_err(failed);
    let seal = Seal { state: dir(state)?, copies: Vec::new(), accept: None };
    let folder = dir(&state.join("ledger"))?;
    let opened = Ledger::open_signed(Arc::new(RealStorage), folder, "bench", &seal, &mut |_| {});
    Ok(opened.map_err(failed)?.0)
}

/// Records per second, from the first append until all are on the disk.
fn group(state: &Path, count: u64) -> io::Result<String> {
    let ledger = open(state)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..APPENDERS {
            let ledger = &ledger;
            scope.spawn(move || {
                for number in (thread..count).step_by(APPENDERS as usize) {
                    ledger.append(record(number), Durability::Group).expect("it is recorded");
                }
            });
        }
    });
    ledger.append(record(count), Durability::Sync).map_err(failed)?;
    let seconds = begun.elapsed().as_secs_f64();
    ledger.close().map_err(failed)?;
    Ok(format!("{{\"records_per_second\":{:.0}}}", count as f64 / seconds))
}

/// Microseconds of one append on its caller's path.
fn caller(state: &Path) -> io::Result<String> {
    let ledger = open(state)?;
    let mut times = Vec::new();
    for burst in 0..BURSTS {
        let records: Vec<Record> =
            (0..BURST).map(|at| record((burst * BURST + at) as u64)).collect();
        let begun = Instant::now();
        for record in records {
            ledger.append(record, Durability::Group).map_err(failed)?;
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6 / BURST as f64);
        std::thread::sleep(REST);
    }
    ledger.close().map_err(failed)?;
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(format!("{{\"p50_us\":{:.2},\"p90_us\":{:.2}}}", at(50), at(90)))
}

/// Records that share an fsync, by the marks that the first line after each has.
fn sync(state: &Path) -> io::Result<String> {
    let ledger = open(state)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..WAITING {
            let ledger = &ledger;
            scope.spawn(move || {
                for number in 0..WAITS {
                    let record = record(thread * WAITS + number);
                    ledger.append(record, Durability::Sync).expect("it is recorded");
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    ledger.close().map_err(failed)?;
    let text = std::fs::read_to_string(state.join("ledger/00000001.jsonl"))?;
    let syncs = text.lines().filter(|line| line.contains("\"synced\":")).count();
    let records = WAITING * WAITS;
    Ok(format!(
        "{{\"records_per_fsync\":{:.1},\"records_per_second\":{:.0}}}",
        records as f64 / syncs as f64,
        records as f64 / seconds
    ))
}

/// Makes a ledger of so many lines. Prints transactions that can be looked for.
fn fill(state: &Path, count: u64) -> io::Result<String> {
    let ledger = open(state)?;
    for number in 0..count {
        let record = match number % CROSSING_EACH {
            0 => Record::Purge(PurgeRecord {
                txid: transaction(number),
                reason: "kept for 3600 s".to_owned(),
                lost: false,
                given_up: Vec::new(),
            }),
            _ => record(number),
        };
        ledger.append(record, Durability::Group).map_err(failed)?;
    }
    ledger.close().map_err(failed)?;
    let wanted = (1..=5).map(|part| count * part / 6 / CROSSING_EACH * CROSSING_EACH);
    let wanted: Vec<String> = wanted.map(|at| format!("\"{}\"", transaction(at))).collect();
    Ok(format!("{{\"transactions\":[{}]}}", wanted.join(",")))
}

fn checked(state: &Path) -> io::Result<String> {
    let store = store(state)?;
    let text = std::fs::read_to_string(state.join("key"))?;
    let signer: octroi::ledger::note::NoteSigner = text.parse().map_err(failed)?;
    let checkpoint = store.checkpoint().map_err(failed)?;
    let key = signer.verifier();
    let against = Against { key, checkpoint, copies: &[], tiles: Some(&store), witness: None };
    let begun = Instant::now();
    let source = Source::Folder(state.join("ledger"));
    let report = verify(&source, &against, &mut |_| {})?;
    let seconds = begun.elapsed().as_secs_f64();
    if !report.problems.is_empty() {
        return Err(failed(format!("{:?}", report.problems)));
    }
    let speed = report.lines as f64 / seconds;
    Ok(format!("{{\"lines\":{},\"records_per_second\":{speed:.0}}}", report.lines))
}

fn store(state: &Path) -> io::Result<TreeStore<RealStorage>> {
    let dir = RealDir::open(&state.join("ledger")).map_err(failed)?;
    Ok(TreeStore::new(Arc::new(RealStorage), dir))
}

/// Milliseconds for the path of a line to the root, from the tiles.
fn proof(state: &Path, count: u64) -> io::Result<String> {
    let store = store(state)?;
    let mut times = Vec::new();
    for part in 0..1000 {
        let index = count / 1000 * part + part % 256;
        let begun = Instant::now();
        let path = store.inclusion(index, count).map_err(failed)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(!path.is_empty());
    }
    times.sort_by(f64::total_cmp);
    Ok(format!("{{\"p50_ms\":{:.3},\"max_ms\":{:.3}}}", times[500], times[999]))
}

fn run() -> io::Result<String> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(failed);
    match words.as_slice() {
        [state, "group", count] => group(Path::new(state), number(count)?),
        [state, "caller"] => caller(Path::new(state)),
        [state, "sync"] => sync(Path::new(state)),
        [state, "fill", count] => fill(Path::new(state), number(count)?),
        [state, "verify"] => checked(Path::new(state)),
        [state, "proof", count] => proof(Path::new(state), number(count)?),
        _ => Err(failed("usage: see scripts/bench ledger")),
    }
}

fn main() -> ExitCode {
    let outcome = run();
    // The most memory that it had, of this process alone.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|line| line.trim().strip_suffix(" kB")).unwrap_or("0");
    match outcome {
        Ok(json) => {
            println!("{},\"memory_kib\":{kib}}}", json.trim_end_matches('}'));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ledger: {error}");
            ExitCode::FAILURE
        }
    }
}
