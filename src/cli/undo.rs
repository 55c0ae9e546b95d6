//! `octroi undo`: the daemon prepares, then this process renames, so that the kernel checks its
//! permissions as for any rename.

use std::path::PathBuf;

use crate::control::protocol::{Answer, Request, UndoReport};
use crate::error::{errno_name, errno_of};
use crate::types::TxId;

use super::failure::{Failure, cannot};
use super::output::{plain, print};
use super::target::{View, ViewOption};
use super::unexpected;

/// Take back a crossing: the file returns to where it was, and what it replaced comes back.
///
/// Possible for the one who made the crossing, root and the user who mounted the view, until what the
/// crossing keeps has been purged (hold.keep), and only while the file is what arrived. Deny rules and
/// permissions hold as for any move.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi undo                             your last crossing\n  \
    octroi undo /mnt/lab/review/a.csv       the last crossing to this path\n  \
    octroi undo 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B  this transaction")]
pub struct Args {
    /// The path that a file crossed to, or a transaction (by default your last crossing)
    #[arg(value_name = "PATH|TXID")]
    what: Option<PathBuf>,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let txid = args.what.as_ref().and_then(|what| what.to_str()?.parse::<TxId>().ok());
    let path = if txid.is_none() { args.what.as_deref() } else { None };
    let view = match txid {
        Some(txid) => args.view.find_for(txid)?,
        None => args.view.find(path)?,
    };
    let path = path.map(|path| args.view.inside(&view.mount, path)).transpose()?;
    let what = match (&txid, &path) {
        (Some(txid), _) => format!("crossing {txid}"),
        (None, Some(path)) => format!("the last crossing to {path}"),
        (None, None) => "your last crossing".to_owned(),
    };
    let request = Request::Undo { txid, path };
    let answer = view.client.ask(&request).map_err(|error| {
        let why = error.to_string();
        // What the daemon says begins with the crossing, which was named already.
        let why = why.strip_prefix(&format!("{what} cannot be undone: ")).unwrap_or(&why);
        let failure = cannot(format!("undo {what}"))(why);
        match why.contains(": denied by ") {
            true => failure.hint("octroi why shows what was considered"),
            false => failure,
        }
    })?;
    let Answer::Undo(plan) = answer else { return Err(unexpected()) };
    rename(&view, &plan)?;
    let (source, target) = (view.outside(&plan.target), view.outside(&plan.source));
    print(&format!(
        "{} is back from {} (crossing {} undone)\n",
        plain(&source.to_string_lossy()),
        plain(&target.to_string_lossy()),
        plan.txid
    ))
}

fn rename(view: &View, plan: &UndoReport) -> Result<(), Failure> {
    let (from, to) = (view.outside(&plan.source), view.outside(&plan.target));
    std::fs::rename(&from, &to).map_err(|error| {
        let failure = Failure::new(format!(
            "cannot undo crossing {}: renaming {} to {}: {}",
            plan.txid,
            from.display(),
            to.display(),
            errno_name(errno_of(&error))
        ));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure.hint(
                "see octroi why; if it knows nothing of this, you may not write in one of the two folders",
            ),
            _ => failure,
        }
    })
}
