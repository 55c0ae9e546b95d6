//! What the ledger costs: appending, signing, verifying, proving.
//!
//! `cargo bench --bench ledger [RECORDS]` makes a signed ledger of so many records (1,000,000) in a
//! temporary folder and prints a line for each figure.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use octroi::ledger::note::VerifierKey;
use octroi::ledger::prove::prove;
use octroi::ledger::record::{OperationRecord, Verdict};
use octroi::ledger::store::TreeStore;
use octroi::ledger::verify::{Against, Source, verify};
use octroi::ledger::{Durability, Ledger, Reader, Record, Seal};
use octroi::storage::real::{RealDir, RealStorage};
use octroi::types::{Operation, ViewPath};

type Failed = Box<dyn std::error::Error>;

fn record(number: u64) -> Result<Record, Failed> {
    let path = format!("/inbox/folder-{}/file-{number}.csv", number % 1000);
    Ok(Record::Operation(Box::new(OperationRecord {
        op: Operation::Create,
        decision: Verdict::Allowed,
        rule: None,
        gate: None,
        reason: None,
        uid: 1000,
        gid: 1000,
        pid: 4711,
        exe: Some("/usr/bin/python3".into()),
        path: ViewPath::parse(Path::new(&path)).ok_or("a path")?,
        target: None,
        branch: Some("inbox".into()),
        result: "ok".into(),
        written: None,
        count: None,
    })))
}

/// Seconds that `act` takes.
fn timed<T>(act: impl FnOnce() -> Result<T, Failed>) -> Result<(f64, T), Failed> {
    let started = Instant::now();
    let made = act()?;
    Ok((started.elapsed().as_secs_f64(), made))
}

fn append(folder: &Path, count: u64) -> Result<(f64, VerifierKey), Failed> {
    let dir = folder.join("ledger");
    std::fs::create_dir(&dir)?;
    let open = |path: &Path| RealDir::open(path);
    let seal = Seal { state: open(folder)?, copies: Vec::new(), accept: None };
    let storage = Arc::new(RealStorage);
    let (ledger, _) = Ledger::open_signed(storage, open(&dir)?, "bench", &seal, &mut |_| {})?;
    let records = (0..count).map(record).collect::<Result<Vec<_>, _>>()?;
    let (seconds, ()) = timed(|| {
        for record in records {
            ledger.append(record, Durability::Group)?;
        }
        Ok(ledger.flush()?)
    })?;
    let (closing, ()) = timed(|| Ok(ledger.close()?))?;
    println!("sign what is left at a stop: {closing:.3} s");
    Ok((seconds, ledger.key().ok_or("a key")?.clone()))
}

/// Kilobytes of memory at most so far (`VmHWM` of /proc/self/status).
fn memory_peak() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).ok_or("a figure")?.parse()?)
}

fn run() -> Result<(), Failed> {
    let given = std::env::args().skip(1).find(|word| word != "--bench");
    let count: u64 = given.map_or(Ok(1_000_000), |given| given.parse())?;
    let folder = tempfile::tempdir()?;
    let (seconds, key) = append(folder.path(), count)?;
    println!("append, group: {:.0} records/s", count as f64 / seconds);
    let dir = folder.path().join("ledger");
    let tree = TreeStore::new(Arc::new(RealStorage), RealDir::open(&dir)?);
    let against =
        Against { key: &key, checkpoint: tree.checkpoint()?, copies: &[], tiles: Some(&tree) };
    // The peak of the records that were made above is not that of verifying.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let (seconds, report) =
        timed(|| Ok(verify(&Source::Folder(dir.clone()), &against, &mut |_| {})?))?;
    if !report.problems.is_empty() || report.signed != Some(report.lines) {
        return Err(format!("{:?}", report.problems).into());
    }
    println!(
        "verify: {:.0} records/s, {} KiB of memory",
        report.lines as f64 / seconds,
        memory_peak()?
    );
    let reader = Reader::open(&dir)?;
    let (seconds, ()) = timed(|| {
        for seq in (0..count).step_by(usize::try_from(count / 100)?.max(1)) {
            prove(&reader, &tree, &key, seq)?.ok_or("a proof")?;
        }
        Ok(())
    })?;
    println!("prove: {:.2} ms", seconds * 1000.0 / 100.0);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger: {error}");
            ExitCode::FAILURE
        }
    }
}
