//! `octroi tx`

use crate::control::letters::{DeadLetter, Wish};
use crate::control::protocol::{ActiveCrossing, Answer, Request, TransactionReport};
use crate::ledger::record::StoppedBy;
use crate::sys::users;
use crate::types::TxId;

use super::failure::{Failure, cannot};
use super::output::{local_time, plain, print, print_json, size, table};
use super::target::ViewOption;
use super::unexpected;

/// Look at transactions, which are crossings and undos; stop them; settle what needs a person.
///
/// Your own; those of all for root and the user who mounted the view. Only they may settle a dead letter: a
/// transaction that could neither be completed nor put back. Nothing of one is deleted, and it waits for
/// as long as it takes. Begin with show, which says where everything is and what each choice would do.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi tx list\n  \
    octroi tx abort 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B   stop one that has not been decided\n\n\
    A dead letter, step by step:\n  \
    octroi tx list --dead\n  \
    octroi tx show 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B    what happened, where everything is, the choices\n  \
    octroi tx retry 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B   once the cause is mended: complete it, or put back what has not arrived\n  \
    octroi tx abort 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B   put back to the source what can be\n  \
    octroi tx accept 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B  it is right as it is; what is kept stays")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List transactions, newest first
    List {
        /// Only dead letters, which need a person
        #[arg(long)]
        dead: bool,
        /// Only those that were accepted and keep what stage and hold had of them, until accept --discard
        #[arg(long, conflicts_with = "dead")]
        accepted: bool,
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
    /// Try once more to complete a dead letter; where that fails, put back what has not arrived
    ///
    /// After the cause is mended: a full disk, a folder that is gone, a name that is taken. Refused, with
    /// nothing changed, where something of it is nowhere to be found.
    Retry(One),
    /// Stop a transaction that is not decided yet, or take back a dead letter
    ///
    /// One that is not decided yet: the mv or octroi mv that asked for it fails with ECANCELED; everything is as
    /// before. A dead letter: what can be put back is, never onto anything else; what cannot be is
    /// kept, and it says so. It is then a dead letter still.
    Abort(One),
    /// Declare right what is there of a dead letter
    ///
    /// Nothing is moved or deleted. What stage and hold keep of it stays, whatever hold.keep and hold.max say,
    /// until you come again with --discard: it could be the last copy.
    /// Neither retry nor abort is possible after it.
    Accept {
        #[command(flatten)]
        one: One,
        /// Delete for good what stage and hold keep of it
        #[arg(long)]
        discard: bool,
        /// A branch that it waits for, which the configuration has no more, never comes back
        ///
        /// What the other branches keep of it is deleted, also where that is the last copy. What the missing branch
        /// has of it is given up: should it come back, it is kept, and a source that stands there is seen again.
        #[arg(long, requires = "discard")]
        branch_gone: bool,
    },
}

#[derive(Debug, clap::Args)]
struct One {
    /// Its id, as `octroi tx list` shows it
    #[arg(value_parser = txid)]
    txid: TxId,
    #[command(flatten)]
    view: ViewOption,
}

fn txid(text: &str) -> Result<TxId, String> {
    text.parse().map_err(|_| "not an id of a transaction; octroi tx list shows them".to_owned())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List { dead, accepted, limit, json, view } => {
            let view = view.find(None)?;
            let attempt = format!("list the transactions of view {}", view.mount.name);
            let request = Request::Transactions { limit: *limit, dead: *dead, accepted: *accepted };
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Transactions { transactions } if *json => print_json(&transactions),
                Answer::Transactions { transactions } if *dead && transactions.is_empty() => {
                    print("none of the transactions that you may see needs a person\n")
                }
                Answer::Transactions { transactions } if *accepted && transactions.is_empty() => {
                    print(
                        "none of the transactions that you may see was accepted and keeps something\n",
                    )
                }
                Answer::Transactions { transactions } => print(&list(&transactions)),
                _ => Err(unexpected()),
            }
        }
        Command::Show { txid, json, view } => {
            let view = view.find_for(*txid)?;
            let request = Request::Transaction { txid: *txid };
            let attempt = format!("show transaction {txid}");
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Transaction(found) if *json => print_json(&found),
                Answer::Transaction(found) => print(&show(&found)),
                _ => Err(unexpected()),
            }
        }
        Command::Retry(one) => settle("retry", one, Wish::Retry),
        Command::Abort(One { txid, view }) => {
            let view = view.find_for(*txid)?;
            let request = Request::Abort { txid: *txid };
            let attempt = format!("abort transaction {txid}");
            match view.client.ask(&request).map_err(cannot(attempt))? {
                Answer::Aborted => print(&format!("transaction {txid} is rolled back\n")),
                Answer::Settled { done, now } => settled(*txid, done, &now),
                _ => Err(unexpected()),
            }
        }
        Command::Accept { one, discard, branch_gone } => match (discard, branch_gone) {
            (false, _) => settle("accept", one, Wish::Accept),
            (true, false) => settle("discard", one, Wish::Discard),
            (true, true) => settle("give up", one, Wish::GiveUp),
        },
    }
}

fn settle(attempt: &str, One { txid, view }: &One, wish: Wish) -> Result<(), Failure> {
    let view = view.find_for(*txid)?;
    let attempt = format!("{attempt} transaction {txid}");
    match view.client.ask(&Request::Settle { txid: *txid, wish }).map_err(cannot(attempt))? {
        Answer::Settled { done, now } => settled(*txid, done, &now),
        _ => Err(unexpected()),
    }
}

fn settled(txid: TxId, done: bool, now: &str) -> Result<(), Failure> {
    if done {
        return print(&format!("transaction {txid} {}\n", plain(now)));
    }
    let hint = format!("see octroi tx show {txid}");
    Err(Failure::new(format!("transaction {txid} {}", plain(now))).hint(hint))
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

/// Who had it stopped.
fn stopper(by: StoppedBy) -> String {
    format!("{}, with octroi tx abort (process {})", user(by.uid), by.pid)
}

/// Whether it can be taken back; of a crossing that was.
fn undo(found: &TransactionReport) -> Option<String> {
    if let Some(why) = &found.not_undoable {
        return Some(format!("not possible: {why}"));
    }
    let until = found.undoable_until.as_deref().map(local_time);
    let until = until.map(|until| {
        format!(" until {until}, sooner by hold.max or where space runs short, while the target is what arrived")
    });
    found.undoable.then(|| format!("possible{}", until.unwrap_or_default()))
}

/// The words of the ledger's `readback`, for people.
fn verified(readback: &str) -> String {
    match readback {
        "same" => "what moved is the file itself, which was hashed",
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
        ("program", found.exe.as_deref().map(str::to_owned)),
        ("began", Some(local_time(&found.started))),
        ("ended", Some(local_time(&found.changed)).filter(|_| found.state != "active")),
        ("size", found.size.map(size)),
        ("sha256", found.sha256.clone()),
        ("verified", found.readback.as_deref().map(verified)),
        ("lost", Some(found.lost.join(", ")).filter(|lost| !lost.is_empty())),
        ("undoes", text(&found.undoes)),
        ("undone by", text(&found.undone_by)),
        ("undo", undo(found)),
        ("stopped by", found.stopped_by.map(stopper)),
        ("result", found.result.clone()),
        ("reason", found.reason.clone()),
    ];
    let shown = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name:<12} {}\n", plain(&value?))));
    let mut text: String = shown.collect();
    match &found.letter {
        Some(letter) => text.push_str(&choices(letter)),
        None if found.state == "dead" => {
            text.push_str("\nit needs root, or the user who mounted the view: tell them its id\n");
        }
        None => {}
    }
    text
}

/// What there is of a dead letter, and what may be done.
fn choices(letter: &DeadLetter) -> String {
    let mut text = format!("\n{}\n", plain(&letter.happened));
    for found in &letter.found {
        text.push_str(&format!("  - {}\n", plain(found)));
    }
    if !letter.choices.is_empty() {
        text.push_str("\nThe choices:\n");
    }
    for choice in &letter.choices {
        text.push_str(&format!("  {}\n      {}\n", choice.command, plain(&choice.effect)));
    }
    text
}
