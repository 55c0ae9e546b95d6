//! `octroi audit`

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config;
use crate::ledger::Reader;

mod files;
mod loss;
mod prove;
mod signed;
mod verify;
mod witness;

use super::failure::{Failure, cannot};
use super::output::{is_terminal, local_time, plain, print_to_reader};
use super::target::ViewOption;
use super::{tx, unexpected};
use crate::control::protocol::{Answer, Request};

/// How often a followed ledger is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// Bytes that are read at once; longer than any line.
const PIECE: usize = 256 * 1024;

/// Look at the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit tail\n  \
    octroi audit tail -n 1000 --json | jq 'select(.decision == \"denied\")'\n  \
    octroi audit tail --view lab/octroi.toml     also while nothing is mounted\n  \
    octroi audit verify --key lab.pub")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the newest records; for root, the mounting user and audit.readers
    Tail(TailArgs),
    Verify(verify::VerifyArgs),
    Prove(prove::ProveArgs),
    Witness(witness::WitnessArgs),
    AcceptLoss(loss::LossArgs),
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// How many
    #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
    count: usize,
    /// Go on with what is recorded from now on
    #[arg(short, long)]
    follow: bool,
    /// Print the lines as they are in the ledger, one JSON object each, as into a pipe or a file
    /// without it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Tail(args) => tail(args),
        Command::Verify(args) => verify::run(args),
        Command::Prove(args) => prove::run(args),
        Command::Witness(args) => witness::run(args),
        Command::AcceptLoss(args) => loss::run(args),
    }
}

fn tail(args: &TailArgs) -> Result<(), Failure> {
    let mut log = Log::find(&args.view)?;
    let raw = args.json || !is_terminal();
    let mut offset = last_lines(&log, args.count).map_err(cannot("read the ledger"))?;
    loop {
        let (text, next) = whole_lines(&log, offset).map_err(cannot("read the ledger"))?;
        if next > offset {
            offset = next;
            let text = String::from_utf8_lossy(&text);
            let shown = if raw { text.into_owned() } else { text.lines().map(readable).collect() };
            if !print_to_reader(&shown)? {
                return Ok(());
            }
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW);
        log.refresh()?;
    }
}

/// Where the lines come from.
pub(super) enum Log {
    /// The state folder, for who may read it.
    Segments(Reader),
    /// `.audit/log.jsonl` of a mounted view, for its readers.
    File(std::fs::File),
}

impl Log {
    /// The ledger of a configuration, mounted or not, or of a mounted view.
    pub(super) fn find(option: &ViewOption) -> Result<Self, Failure> {
        if let Some(config) = option.view.as_deref().filter(|path| path.is_file()) {
            let loaded = config::load(config)
                .map_err(|errors| Failure::diagnostics(errors.render(is_terminal())))?;
            return Self::of_state(&loaded.config.state);
        }
        let view = option.find(None)?;
        match view.client.ask(&Request::Status) {
            Ok(Answer::Status(status)) => Self::of_state(&status.state),
            Ok(_) => Err(unexpected()),
            Err(_) => {
                let path = view.mount.mountpoint.join(".audit/log.jsonl");
                let attempt = format!("read {}", path.display());
                std::fs::File::open(&path).map(Self::File).map_err(|error| {
                    cannot(attempt)(error).hint("audit.readers names who may, beside root")
                })
            }
        }
    }

    /// The ledger in a state folder.
    pub(super) fn of_state(state: &Path) -> Result<Self, Failure> {
        let ledger = state.join("ledger");
        let attempt = format!("read the ledger {}", ledger.display());
        Reader::open(&ledger).map(Self::Segments).map_err(cannot(attempt))
    }

    /// Hands out each line that there is now, without its newline, in order.
    pub(super) fn each_line(&self, mut see: impl FnMut(&[u8])) -> Result<(), Failure> {
        let end = self.len().map_err(cannot("read the ledger"))?;
        let mut offset = 0;
        while offset < end {
            let (piece, next) = whole_lines(self, offset).map_err(cannot("read the ledger"))?;
            if next == offset {
                break;
            }
            piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(&mut see);
            offset = next;
        }
        Ok(())
    }

    fn refresh(&mut self) -> Result<(), Failure> {
        match self {
            Self::Segments(reader) => reader.refresh().map_err(cannot("read the ledger")),
            Self::File(_) => Ok(()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Segments(reader) => Ok(reader.len()),
            Self::File(file) => Ok(file.metadata()?.len()),
        }
    }

    /// At most `length` bytes; less at the end, and elsewhere where less came at once.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = match self {
            Self::Segments(reader) => reader.read_at(offset, &mut bytes)?,
            Self::File(file) => file.read_at(&mut bytes, offset)?,
        };
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The whole lines in the next piece, and the offset after them.
fn whole_lines(log: &Log, offset: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut bytes = log.read_at(offset, PIECE)?;
    let length =
        bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end.saturating_add(1));
    bytes.truncate(length);
    Ok((bytes, offset.saturating_add(length as u64)))
}

/// Offset at which the last `count` lines begin. Looks at pieces from the end.
fn last_lines(log: &Log, count: usize) -> io::Result<u64> {
    let mut end = log.len()?;
    // The newline before the first line that is wanted, counted from the end.
    let mut newlines = count.saturating_add(1);
    while end > 0 {
        let start = end.saturating_sub(PIECE as u64);
        let piece =
            log.read_at(start, usize::try_from(end.saturating_sub(start)).unwrap_or(PIECE))?;
        for (at, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            newlines = newlines.saturating_sub(1);
            if newlines == 0 {
                return Ok(start.saturating_add(at as u64).saturating_add(1));
            }
        }
        end = start;
    }
    Ok(0)
}

/// A line for people; the line itself where it is none of ours.
fn readable(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        return plain(line.trim_end()) + "\n";
    };
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let user = fields
        .get("uid")
        .and_then(Value::as_u64)
        .and_then(|uid| u32::try_from(uid).ok())
        .map_or_else(|| "-".to_owned(), tx::user);
    let what = match text("kind").as_str() {
        "operation" => {
            let by = [text("rule"), text("gate")].concat();
            let by = if by.is_empty() { by } else { format!(" by {by}") };
            let target = arrow(&text("target"));
            let (op, path) = (text("op"), text("path"));
            format!("{op} {path}{target} {}{by} {}", text("decision"), text("result"))
        }
        "crossing" => {
            let ends = format!("{}{}", text("source"), arrow(&text("target")));
            format!("crossing {} {ends} {} {}", text("step"), text("txid"), text("reason"))
        }
        "purge" => format!("purge {} {}", text("txid"), text("reason")),
        "policy" => {
            let by = if text("by_signal") == "true" { ", by SIGHUP" } else { "" };
            format!("policy {} is in force: {}{by}", text("generation"), text("sha256"))
        }
        "version" => format!("{} serves view {}", text("program"), text("view")),
        "gap" => "gap: the last run did not stop cleanly, changes before may be missing".to_owned(),
        "loss" => format!("a loss is accepted: {}", text("why")),
        "mount" => format!("{} {}", text("event"), text("mountpoint")),
        "branch" => format!("branch {} is {}", text("branch"), text("id")),
        other => other.to_owned(),
    };
    format!("{}  {user:<8}  {}\n", local_time(&text("time")), plain(what.trim_end()))
}

fn arrow(target: &str) -> String {
    if target.is_empty() { String::new() } else { format!(" -> {target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_well_and_foreign_lines_stay() {
        let line = r#"{"seq":1,"time":"2026-11-23T10:00:00Z","kind":"operation","op":"mkdir",
            "decision":"denied","rule":"no","uid":4294967294,"path":"/a\u001b","result":"EACCES"}"#;
        let text = readable(line);
        assert!(text.contains("mkdir /a\\u{1b} denied by no EACCES"), "{text}");
        assert!(text.contains("4294967294"), "{text}");
        assert_eq!(readable("not json\n"), "not json\n");
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lines: String = (0..60_000).map(|at| format!("{{\"seq\":{at}}}\n")).collect();
        std::fs::write(dir.path().join("00000001.jsonl"), &lines).expect("write");
        let log = Log::Segments(Reader::open(dir.path()).expect("open"));
        check(&log, &lines, 3, 3);
        check(&log, &lines, 0, 0);
        check(&log, &lines, 30_000, 30_000);
        check(&log, &lines, 15_000, 15_000);
        check(&log, &lines, usize::MAX, 60_000);
        let file = std::fs::File::open(dir.path().join("00000001.jsonl")).expect("open");
        check(&Log::File(file), &lines, 40_000, 40_000);
    }

    #[track_caller]
    fn check(log: &Log, lines: &str, count: usize, expected: usize) {
        let offset = last_lines(log, count).expect("read");
        let rest = lines.get(offset as usize..).expect("an offset of the text");
        assert_eq!(rest.lines().count(), expected);
    }
}
