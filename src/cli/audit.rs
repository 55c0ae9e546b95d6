//! `octroi audit`

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::config;
use crate::ledger::Reader;

use super::failure::{Failure, cannot};
use super::output::{is_terminal, local_time, plain, print};
use super::target::ViewOption;
use super::{tx, unexpected};
use crate::control::protocol::{Answer, Request};

/// How often a followed ledger is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// Look at the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit tail\n  \
    octroi audit tail -n 1000 --json | jq 'select(.decision == \"denied\")'\n  \
    octroi audit tail --view lab/octroi.toml     also while nothing is mounted")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the newest records; for those who may read the state folder
    Tail(TailArgs),
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// How many
    #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
    count: usize,
    /// Go on with what is recorded from now on
    #[arg(short, long)]
    follow: bool,
    /// Print the lines as they are in the ledger, also on a terminal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let Command::Tail(args) = &args.command;
    let ledger = ledger_of(&args.view)?;
    let attempt = format!("read the ledger {}", ledger.display());
    let mut reader = Reader::open(&ledger).map_err(cannot(&attempt))?;
    let raw = args.json || !is_terminal();
    let mut offset = last_lines(&reader, args.count).map_err(cannot(&attempt))?;
    loop {
        let mut lines = reader.lines(offset);
        for line in lines.by_ref() {
            let (_, line) = line.map_err(cannot(&attempt))?;
            let text = String::from_utf8_lossy(&line);
            print(&if raw { text.into_owned() } else { readable(&text) })?;
        }
        offset = lines.offset();
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW);
        reader.refresh().map_err(cannot(&attempt))?;
    }
}

/// The ledger's folder: of a configuration, mounted or not, or of a mounted view.
fn ledger_of(option: &ViewOption) -> Result<PathBuf, Failure> {
    if let Some(config) = option.view.as_deref().filter(|path| path.is_file()) {
        let loaded = config::load(config)
            .map_err(|errors| Failure::diagnostics(errors.render(is_terminal())))?;
        return Ok(loaded.config.state.join("ledger"));
    }
    let view = option.find(None)?;
    let attempt = format!("find the ledger of view {}", view.mount.name);
    match view.client.ask(&Request::Status).map_err(cannot(attempt))? {
        Answer::Status(status) => Ok(status.state.join("ledger")),
        _ => Err(unexpected()),
    }
}

/// Offset at which the last `count` lines begin. Looks at windows from the end that double.
fn last_lines(reader: &Reader, count: usize) -> std::io::Result<u64> {
    let end = reader.len();
    let mut window: u64 = 64 * 1024;
    loop {
        let start = end.saturating_sub(window);
        let length = usize::try_from(end - start).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        let read = reader.read_at(start, &mut bytes)?;
        bytes.truncate(read);
        let newlines: Vec<usize> = bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(at, _)| at)
            .collect();
        // The newline before the first line that is wanted.
        let before = newlines.len().checked_sub(count + 1).and_then(|at| newlines.get(at));
        match before {
            Some(before) => return Ok(start + *before as u64 + 1),
            None if start == 0 => return Ok(0),
            None => window = window.saturating_mul(2),
        }
    }
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
        let lines: String = (0..20_000).map(|at| format!("{{\"seq\":{at}}}\n")).collect();
        std::fs::write(dir.path().join("00000001.jsonl"), &lines).expect("write");
        let reader = Reader::open(dir.path()).expect("open");
        let offset = last_lines(&reader, 3).expect("read");
        assert_eq!(lines.get(offset as usize..).map(|rest| rest.lines().count()), Some(3));
        assert_eq!(last_lines(&reader, 0).expect("read"), lines.len() as u64);
        assert_eq!(last_lines(&reader, 30_000).expect("read"), 0);
        let offset = last_lines(&reader, 15_000).expect("read");
        assert_eq!(lines.get(offset as usize..).map(|rest| rest.lines().count()), Some(15_000));
    }
}
