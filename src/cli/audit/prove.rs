//! `octroi audit prove`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ledger::prove::prove;
use crate::ledger::record::{Record, Step};
use crate::ledger::verify::Source;
use crate::ledger::{Reader, decode_line};
use crate::types::TxId;

use super::super::failure::{Failure, cannot};
use super::super::output::print;
use super::super::target::ViewOption;
use super::Log;
use super::filter::Filter;
use super::signed::Signed;

/// How long a record that is not signed yet is waited for: it is a second, where a daemon runs.
const SIGNED_WAIT: Duration = Duration::from_secs(3);

/// Write the proof that a record is in the ledger, as one small file with the record itself.
///
/// Whoever has the file and the public key of .audit/key.pub can check it, with octroi audit verify or
/// other programs that know c2sp.org/tlog-proof, and needs nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit prove 1234\n  \
    octroi audit prove 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B -o crossing.tlog-proof")]
pub struct ProveArgs {
    /// The record's seq; or the id of a transaction, whose decision is proven
    #[arg(value_name = "SEQ|TXID")]
    what: String,
    /// The file; - for standard output. Without it SEQ.tlog-proof in the current folder
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &ProveArgs) -> Result<(), Failure> {
    let seq = match (args.what.parse::<u64>(), args.what.parse::<TxId>()) {
        (Ok(seq), _) => seq,
        (_, Ok(txid)) => decision_of(txid, &Log::find(&args.view)?)?,
        _ => {
            let what = &args.what;
            return Err(Failure::usage(format!("cannot prove {what}: neither a seq nor a txid")));
        }
    };
    let signed = Signed::find(&args.view)?;
    let begun = Instant::now();
    let proof = loop {
        if let Some(proof) = proof_of(&signed, seq)? {
            break proof;
        }
        if let Some(first) = first_kept(&args.view)?.filter(|first| seq < *first) {
            return Err(Failure::new(format!(
                "cannot prove record {seq}: it has left the ledger, which begins with {first}"
            )));
        }
        if let Some(last) = last(&args.view)?.filter(|last| seq > *last) {
            return Err(Failure::new(format!(
                "cannot prove record {seq}: the ledger has no such record, its last is {last}"
            )));
        }
        if begun.elapsed() > SIGNED_WAIT {
            return Err(Failure::new(format!(
                "cannot prove record {seq}: no checkpoint covers it"
            ))
            .hint("the newest records are signed within a second, and at unmount"));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let name = PathBuf::from(format!("{seq}.tlog-proof"));
    match &args.output {
        Some(path) if path == Path::new("-") => print(&String::from_utf8_lossy(&proof)),
        Some(path) => write(path, &proof, false),
        None => {
            write(&name, &proof, true)?;
            print(&format!("{}\n", name.display()))
        }
    }
}

fn proof_of(signed: &Signed, seq: u64) -> Result<Option<Vec<u8>>, Failure> {
    let attempt = format!("prove record {seq}");
    match &signed.lines {
        Source::Folder(folder) => {
            let reader = Reader::open(folder).map_err(cannot(&attempt))?;
            let key = signed.key.clone().map_err(|why| {
                cannot(format!("read the key of the ledger {}", signed.place))(why)
            })?;
            let proof = prove(&reader, &signed.tree, &key, seq).map_err(cannot(&attempt))?;
            Ok(proof.map(|proof| proof.to_bytes()))
        }
        // The daemon makes it.
        Source::File(log) => match std::fs::read(log.with_file_name("proof").join(seq.to_string()))
        {
            Ok(proof) => Ok(Some(proof)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot(attempt)(error)),
        },
    }
}

/// The position of the ledger's first line: those before have left.
fn first_kept(view: &ViewOption) -> Result<Option<u64>, Failure> {
    let mut first = None;
    Log::find(view)?.each_match(&Filter::between(None, None), |_at, line| {
        first = decode_line(line).ok().map(|entry| entry.seq);
        Ok(false)
    })?;
    Ok(first)
}

/// The position of the ledger's last line, if that can be read.
fn last(view: &ViewOption) -> Result<Option<u64>, Failure> {
    let log = Log::find(view)?;
    let lines = log.last_matches(&Filter::default(), 1).and_then(|at| log.whole_lines(at));
    let (lines, _) = lines.map_err(cannot("read the ledger"))?;
    let last = lines.strip_suffix(b"\n").unwrap_or(&lines);
    Ok(decode_line(last).ok().map(|entry| entry.seq))
}

/// The position of a transaction's COMMIT, or of its last step if it never had one.
fn decision_of(txid: TxId, log: &Log) -> Result<u64, Failure> {
    let text = txid.to_string();
    let mut found = None;
    let mut decided = None;
    log.each_line(|line| {
        if !line.windows(text.len()).any(|part| part == text.as_bytes()) {
            return;
        }
        let Ok(entry) = decode_line(line) else { return };
        let Record::Crossing(record) = &entry.record else { return };
        if record.txid == txid {
            found = Some(entry.seq);
            if record.step == Step::Commit {
                decided = Some(entry.seq);
            }
        }
    })?;
    decided.or(found).ok_or_else(|| {
        Failure::new(format!("cannot prove transaction {txid}: the ledger has no record of it"))
    })
}

fn write(path: &Path, proof: &[u8], new: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(new);
    let written = options.open(path).and_then(|mut file| file.write_all(proof));
    written.map_err(cannot(format!("write {}", path.display())))
}
