//! `octroi status`

use crate::control::protocol::{Answer, BranchStatus, Request, Status};
use crate::types::{BranchIo, BranchMode, counted};

use super::failure::{Failure, cannot};
use super::output::{local_time, plain, print, print_json, size, table};
use super::target::ViewOption;
use super::unexpected;

/// Show branches, their health and space, and what is crossing.
///
/// For root and the user who mounted the view.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi status\n  \
    octroi status --view lab --json | jq '.branches[] | select(.fault)'")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let view = args.view.find(None)?;
    let attempt = format!("show the status of view {}", view.mount.name);
    match view.client.ask(&Request::Status).map_err(cannot(attempt))? {
        Answer::Status(status) if args.json => print_json(&status),
        Answer::Status(status) => print(&render(&status)),
        _ => Err(unexpected()),
    }
}

fn render(status: &Status) -> String {
    let mut text = format!(
        "view {} at {}, mounted {}, process {}\nconfiguration {}, state {}\n",
        status.hello.view,
        plain(&status.hello.mountpoint.to_string_lossy()),
        local_time(&status.started),
        status.hello.pid,
        plain(&status.hello.config.to_string_lossy()),
        plain(&status.state.to_string_lossy()),
    );
    match &status.ledger {
        None => text.push_str(&format!("ledger: ok, {}\n", fill(status))),
        Some(why) => text.push_str(&format!("ledger: nothing may be changed: {}\n", plain(why))),
    }
    text.push_str(&signed(status));
    let known = status.known;
    text.push_str(&format!(
        "known: {}; open: {}, {}\n",
        counted(known.inodes as u64, "inode", "inodes"),
        counted(known.files as u64, "file", "files"),
        counted(known.directories as u64, "directory", "directories")
    ));
    if status.panics > 0 {
        let panics = counted(status.panics, "thread", "threads");
        text.push_str(&format!("{panics} failed; mount again, and see octroi.log\n"));
    }
    text.push('\n');
    text.push_str(&branches(status));
    if !status.active.is_empty() {
        text.push('\n');
        text.push_str(&active(status));
    }
    for txid in &status.dead {
        text.push_str(&format!("\ntransaction {txid} needs a person; see octroi tx show {txid}\n"));
    }
    if status.accepted > 0 {
        let accepted = counted(
            status.accepted as u64,
            "accepted transaction keeps",
            "accepted transactions keep",
        );
        text.push_str(&format!(
            "\n{accepted} what is in stage and hold; see octroi tx list --accepted\n"
        ));
    }
    text
}

/// Seconds that lines may wait to be signed before status says so.
const UNSIGNED: u64 = 5;

/// How far the ledger is signed.
fn signed(status: &Status) -> String {
    let Some(signed) = &status.ledger_signed else { return String::new() };
    let age = signed.age_s.map_or_else(String::new, |age| format!(", {age} s ago"));
    let mut text = format!("signed: {}{age}", counted(signed.lines, "record", "records"));
    if let Some(waiting) = signed.waiting_s.filter(|waiting| *waiting >= UNSIGNED) {
        text.push_str(&format!("; newer ones have waited for {waiting} s"));
    }
    if let Some(fault) = &signed.fault {
        text.push_str(&format!("; no checkpoint can be made: {}", plain(fault)));
    }
    text.push('\n');
    text
}

/// Share of what the ledger may have from which on status warns.
const LEDGER_LOW: u128 = 80;

/// How much of what the ledger may have is there.
fn fill(status: &Status) -> String {
    let bytes = status.ledger_bytes;
    let Some(max) = status.ledger_max.filter(|max| *max > 0) else { return size(bytes) };
    let percent = u128::from(bytes).saturating_mul(100).checked_div(max.into()).unwrap_or(0);
    let of = format!("{} of {} ({percent}%)", size(bytes), size(max));
    match &status.ledger_kept {
        Some(why) if bytes > max => format!("{of}: beyond audit.max_size, for {}", plain(why)),
        _ if percent >= LEDGER_LOW => {
            format!("{of}: beyond audit.max_size the oldest segments leave; copy what must stay")
        }
        _ => of,
    }
}

fn branches(status: &Status) -> String {
    let heading = ["BRANCH", "AT", "MODE", "IO", "SIZE", "AVAILABLE", "HEALTH"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for branch in &status.branches {
        rows.push(vec![
            branch.name.clone(),
            branch.at.to_string(),
            mode(branch.mode).to_owned(),
            io(branch.io).to_owned(),
            size(branch.size),
            size(branch.available),
            health(branch),
        ]);
    }
    table(&rows)
}

fn health(branch: &BranchStatus) -> String {
    let Some(fault) = &branch.fault else {
        let low = branch.available < branch.min_free;
        return match low {
            true => format!("full: min_free is {}", size(branch.min_free)),
            false => "ok".to_owned(),
        };
    };
    let since = branch.since.as_ref().map(|since| format!(" since {}", local_time(since)));
    let why = branch.why.as_ref().map(|why| format!(": {}", plain(why)));
    format!("{fault}{}{}", since.unwrap_or_default(), why.unwrap_or_default())
}

fn active(status: &Status) -> String {
    let heading = ["CROSSING", "STEP", "DONE", "SOURCE", "TARGET"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for crossing in &status.active {
        rows.push(vec![
            crossing.txid.to_string(),
            crossing.step.clone(),
            format!("{} of {}", size(crossing.bytes), size(crossing.size)),
            crossing.source.to_string(),
            crossing.target.to_string(),
        ]);
    }
    table(&rows)
}

pub(super) fn mode(mode: BranchMode) -> &'static str {
    match mode {
        BranchMode::Rw => "rw",
        BranchMode::Ro => "ro",
        BranchMode::GatesOnly => "gates-only",
    }
}

fn io(io: BranchIo) -> &'static str {
    match io {
        BranchIo::Checked => "checked",
        BranchIo::Passthrough => "passthrough",
    }
}
