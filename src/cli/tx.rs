//! `octroi tx`

use crate::control::protocol::{ActiveCrossing, Answer, Request, TransactionReport};
use crate::sys::users;
use crate::types::TxId;

use super::failure::{Failure, cannot};
use super::output::{local_time, plain, print, print_json, size, table};
use super::target::ViewOption;
use super::unexpected;

/// Look at transactions, which are crossings and undos, and stop them.
///
/// Your own; those of all for root and the user who mounted the view.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi tx list\n  \
    octroi tx show 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B\n  \
    octroi tx abort 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B   stop one that has not been decided")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List transactions, newest first
    List {
        /// At most so many
        #[arg(short = 'n', long = "lines", default_value_t = 50, value_name = "N")]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        view: ViewOption,
    },
    /// Show all that is known of one transaction
    Show {
        /// Its id, as `octroi tx list` shows it
        #[arg(value_parser = txid)]
        txid: TxId,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        view: ViewOption,
    },
    /// Stop a transaction that is not decided yet, and roll it back
    ///
    /// The mv or octroi mv that asked for it fails with ECANCELED; everything is as before.
    Abort {
        /// Its id, as `octroi tx list` shows it
        #[arg(value_parser = txid)]
        txid: TxId,
        #[command(flatten)]
        view: ViewOption,
    },
}

fn txid(text: &str) -> Result<TxId, String> {
    text.parse().map_err(|_| "not an id of a transaction; octroi tx list shows them".to_owned())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List { limit, json, view } => {
            let view = view.find(None)?;
            let attempt = format!("list the transactions of view {}", view.mount.name);
            let request = Request::Transactions { limit: *limit };
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Transactions { transactions } if *json => print_json(&transactions),
                Answer::Transactions { transactions } => print(&list(&transactions)),
                _ => Err(unexpected()),
            }
        }
        Command::Show { txid, json, view } => {
            let view = view.find(None)?;
            let request = Request::Transaction { txid: *txid };
            let attempt = format!("show transaction {txid}");
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Transaction(found) if *json => print_json(&found),
                Answer::Transaction(found) => print(&show(&found)),
                _ => Err(unexpected()),
            }
        }
        Command::Abort { txid, view } => {
            let view = view.find(None)?;
            let request = Request::Abort { txid: *txid };
            let attempt = format!("abort transaction {txid}");
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Aborted => print(&format!("transaction {txid} is rolled back\n")),
                _ => Err(unexpected()),
            }
        }
    }
}

/// Transactions as a table.
pub(super) fn list(transactions: &[TransactionReport]) -> String {
    let heading = ["TRANSACTION", "TIME", "STATE", "USER", "GATE", "SOURCE", "TARGET"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for found in transactions {
        rows.push(vec![
            found.txid.to_string(),
            local_time(&found.started),
            state(found),
            user(found.uid),
            gate(found),
            found.source.to_string(),
            found.target.to_string(),
        ]);
    }
    table(&rows)
}

fn state(found: &TransactionReport) -> String {
    match &found.running {
        Some(running) => step(running),
        None if found.undone_by.is_some() => "undone".to_owned(),
        None => found.state.clone(),
    }
}

/// The step of one that runs, and how far it is.
fn step(running: &ActiveCrossing) -> String {
    let percent = running.bytes.saturating_mul(100).checked_div(running.size);
    match percent.filter(|_| running.bytes > 0) {
        Some(percent) => format!("{} {percent}%", running.step),
        None => running.step.clone(),
    }
}

fn gate(found: &TransactionReport) -> String {
    match (&found.gate, &found.undoes) {
        (Some(gate), _) => gate.clone(),
        (None, Some(_)) => "(undo)".to_owned(),
        (None, None) if found.rearrangement => "(rename)".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// A user's name, or the number where there is none.
pub(super) fn user(uid: u32) -> String {
    users::name_of(uid).ok().flatten().unwrap_or_else(|| uid.to_string())
}

/// The words of the ledger's `readback`, for people.
fn verified(readback: &str) -> String {
    match readback {
        "same" => "the file itself was hashed and moved, for both branches are on one file system",
        "stream" => "the copy was hashed while it was written",
        "disk" => "the copy was read again from the disk",
        "cached" => "the copy was read again, perhaps from memory",
        other => other,
    }
    .to_owned()
}

fn show(found: &TransactionReport) -> String {
    let text = |txid: &Option<TxId>| txid.map(|txid| txid.to_string());
    let fields = [
        ("transaction", Some(found.txid.to_string())),
        ("state", Some(state(found))),
        ("copied", found.running.as_ref().map(|running| size(running.bytes))),
        ("source", Some(format!("{} ({})", found.source, found.branches[0]))),
        ("target", Some(format!("{} ({})", found.target, found.branches[1]))),
        ("gate", found.gate.clone()),
        ("user", Some(user(found.uid))),
        ("program", found.exe.clone()),
        ("began", Some(local_time(&found.started))),
        ("ended", Some(local_time(&found.changed)).filter(|_| found.state != "active")),
        ("size", found.size.map(size)),
        ("sha256", found.sha256.clone()),
        ("verified", found.readback.as_deref().map(verified)),
        ("undoes", text(&found.undoes)),
        ("undone by", text(&found.undone_by)),
        ("undo", Some("possible".to_owned()).filter(|_| found.undoable)),
        ("result", found.result.clone()),
        ("reason", found.reason.clone()),
    ];
    let shown = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name:<12} {}\n", plain(&value?))));
    shown.collect()
}
