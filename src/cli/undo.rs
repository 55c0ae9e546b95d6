//! `octroi undo`: the daemon prepares, then this process renames, so that the kernel checks its
//! permissions as for any rename; all of it as `octroi mv` does.

use std::path::PathBuf;

use crate::control::protocol::{Answer, Request};
use crate::error::Errno;
use crate::types::TxId;

use super::failure::{Failure, cannot};
use super::mv::cross::{Ended, How, Signals, cross};
use super::mv::place::Ends;
use super::mv::show::Show;
use super::mv::{STILL_ROLLED_BACK, stopped};
use super::output::{plain, print};
use super::target::ViewOption;
use super::unexpected;

/// Take back a crossing: the file returns to where it was, and what it replaced comes back.
///
/// Possible for the one who made the crossing, root and the user who mounted the view, until what the
/// crossing keeps has been purged (hold.keep), and only while the file is what arrived. Deny rules and
/// permissions hold as for any move. A large file is read again first, as by octroi mv: it is shown how
/// far that is, and Ctrl-C leaves everything as it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi undo                             your last crossing\n  \
    octroi undo /mnt/lab/review/a.csv       the last crossing to this path\n  \
    octroi undo 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B  this transaction\n\n\
    Exit codes: 0 undone, 1 not, 2 usage, 130 interrupted, 143 terminated.")]
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
    let failed = |why: String| cannot_undo(&what, &why);
    let answer = view.client.ask(&Request::PlanUndo { txid, path });
    let Answer::UndoPlan(plan) = answer.map_err(|error| failed(error.to_string()))? else {
        return Err(unexpected());
    };
    let (source, target) = (&plan.source, &plan.target);
    let ends = view.outside(&[source, target]);
    let Some([from, to]) = ends.as_deref() else {
        return Err(failed(format!("no mount of the view shows both {source} and {target}")));
    };
    let ends = Ends::in_view(&view.mount, from, to).map_err(failed)?;
    let signals = Signals::catch()?;
    let mut show = Show::new(&format!("undo of {}", from.display()), (1, 1), false);
    let how = How { no_replace: true, undoes: Some(plan.txid) };
    let ended = cross(&view.client, &ends, how, &signals, &mut show);
    drop(show);
    match ended.map_err(|error| failed(error.to_string()))? {
        Ended::Crossed(_) | Ended::Renamed => {}
        Ended::Failed { why, .. } => return Err(failed(why)),
        Ended::Interrupted { rolled_back, .. } => {
            let signal = signals.seen().unwrap_or_default();
            let failure = stopped(signal, format!("{} is where it was", from.display()));
            return Err(if rolled_back { failure } else { failure.hint(STILL_ROLLED_BACK) });
        }
    }
    if let Some(signal) = signals.seen() {
        return Err(stopped(signal, format!("{} is back", to.display())));
    }
    print(&format!(
        "{} is back from {} (crossing {} undone)\n",
        plain(&to.to_string_lossy()),
        plain(&from.to_string_lossy()),
        plan.txid
    ))
}

fn cannot_undo(what: &str, why: &str) -> Failure {
    // What the daemon says begins with the crossing, which was named already.
    let why = why.strip_prefix(&format!("{what} cannot be undone: ")).unwrap_or(why);
    let failure = cannot(format!("undo {what}"))(why);
    let denied = std::io::Error::from(Errno::ACCESS).to_string();
    if why.contains(": denied by ") {
        failure.hint("octroi why shows what was considered")
    } else if why.ends_with(&denied) {
        failure.hint(
            "see octroi why; if it knows nothing of this, you may not write in one of the two folders",
        )
    } else {
        failure
    }
}
