//! `octroi mv`: a crossing that lets others work. The daemon prepares it while nobody waits in
//! rename(2); then this process renames, so that the kernel checks its permissions, and only the
//! commit is left to do.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use signal_hook::consts::SIGTERM;

use crate::control::protocol::Request;
use crate::control::{Client, ClientError};
use crate::error::{Errno, errno_name};
use crate::types::TxId;

use super::failure::{ExitCode, Failure, cannot};
use super::output::{plain, print, say, size};
use super::target::ViewOption;

pub(super) mod cross;
mod line;
pub(super) mod place;
pub(super) mod show;

use cross::{Crossed, Ended, How, Signals, cross};
use place::Ends;
use show::Show;

/// Move files, with all that crosses prepared before anybody has to wait.
///
/// As mv(1), for names in one mounted view. A plain mv between branches works as well, but while it
/// copies nobody else can create, remove or look up new names in the two folders; octroi mv copies and
/// checks first, shows how far it is, and renames at the end. Within a branch or pool it is a plain
/// rename. Ctrl-C before the end leaves everything as it was.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "octroi mv [OPTIONS] SOURCE TARGET\n       \
        octroi mv [OPTIONS] SOURCE... DIRECTORY\n       \
        octroi mv [OPTIONS] -t DIRECTORY SOURCE...",
    after_help = "Examples:\n  \
        octroi mv /mnt/lab/inbox/run7.tar /mnt/lab/archive/\n  \
        octroi mv -nv inbox/*.csv review/\n  \
        octroi mv --json inbox/a inbox/b review/ | jq -r 'select(.error) | .source'\n\n\
        A line a second on standard error tells how far it is; on a terminal, a bar.\n\
        Exit codes: 0 all moved, 1 some not, 2 usage, 130 interrupted, 143 terminated."
)]
pub struct Args {
    /// What to move, and where to
    #[arg(required = true, value_name = "SOURCE|TARGET")]
    paths: Vec<PathBuf>,
    /// Move all sources into this directory
    #[arg(short, long, value_name = "DIRECTORY", conflicts_with = "no_target_directory")]
    target_directory: Option<PathBuf>,
    /// Take TARGET for the new name, also where it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Do not replace; what would be is left, and counts as not moved
    #[arg(short, long, overrides_with = "force")]
    no_clobber: bool,
    /// Replace, as is done anyway; takes back a -n before it
    #[arg(short, long, overrides_with = "no_clobber")]
    force: bool,
    /// Say what was moved
    #[arg(short, long)]
    verbose: bool,
    /// Do not tell how far it is
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object for each source
    #[arg(long)]
    json: bool,
}

/// Hint where the daemon has not said that it has rolled back.
pub(super) const STILL_ROLLED_BACK: &str = "octroi tx list shows when that is done";

/// What became of one source, for scripts.
#[derive(Debug, Serialize)]
struct Moved<'a> {
    #[serde(with = "crate::types::path_text")]
    source: &'a Path,
    #[serde(with = "crate::types::path_text")]
    target: &'a Path,
    txid: Option<TxId>,
    bytes: u64,
    files: u64,
    /// What the copy has lost, in the words of the gate's `lossy`.
    lost: &'a [String],
    seconds: f64,
    /// `crossed`, `renamed`, `failed` or `interrupted`.
    outcome: &'static str,
    error: Option<String>,
}

/// All sources together.
#[derive(Default)]
struct Totals {
    moved: usize,
    failed: usize,
    bytes: u64,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let plan = place::plan(args).map_err(|failure| {
        let paths = args.paths.iter().chain(&args.target_directory);
        with_branch(failure, paths.map(PathBuf::as_path))
    })?;
    let signals = Signals::catch()?;
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut made: HashSet<&Path> = HashSet::new();
    for (number, (source, target)) in (1..).zip(&plan) {
        let (one, moved) = (Instant::now(), totals.moved);
        let mut show = Show::new(&source.to_string_lossy(), (number, plan.len()), args.quiet);
        let ended = match made.contains(&**target) {
            true => Err(cannot_move(source, target, "another source was just moved there")),
            false => move_one(args, source, target, &signals, &mut show),
        };
        // Its bar goes before anything is said.
        drop(show);
        if args.json {
            print_outcome(source, target, &ended, one.elapsed())?;
        }
        if let Ok(Ended::Crossed(_) | Ended::Renamed) = ended {
            made.insert(target);
        }
        match ended {
            Ok(Ended::Interrupted { rolled_back, .. }) => {
                return Err(interrupted(source, &signals, rolled_back, &totals.so_far(plan.len())));
            }
            Ok(Ended::Failed { why, result }) => {
                let failure = cannot_move(source, target, &why);
                let denied = result.is_some_and(|name| name == errno_name(Errno::ACCESS));
                let unhinted = denied && failure.hint.is_none();
                let failure = match unhinted && !why.starts_with(NO_PERMISSION) {
                    true => failure.hint("octroi why shows what was considered"),
                    false => failure,
                };
                totals.fail(failure, plan.len())?;
            }
            Err(failure) => totals.fail(failure, plan.len())?,
            Ok(Ended::Crossed(crossed)) => {
                totals.moved = totals.moved.saturating_add(1);
                totals.bytes = totals.bytes.saturating_add(crossed.bytes);
                tell(args, source, target, Some(&crossed), one.elapsed())?;
            }
            Ok(Ended::Renamed) => {
                totals.moved = totals.moved.saturating_add(1);
                tell(args, source, target, None, one.elapsed())?;
            }
        }
        // What is all done is not interrupted any more.
        if let Some(signal) = signals.seen().filter(|_| totals.moved < plan.len()) {
            let state = if totals.moved > moved { "was moved" } else { "failed" };
            let state = format!("{} {state}{}", source.display(), totals.so_far(plan.len()));
            return Err(stopped(signal, state));
        }
    }
    if plan.len() > 1 && !args.json && !args.quiet {
        print(&totals.report(begun.elapsed()))?;
    }
    match totals.failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {} not moved", plan.len()))),
    }
}

impl Totals {
    /// Counts a failure of one of `all`. It is printed at once: a large one may come next.
    fn fail(&mut self, failure: Failure, all: usize) -> Result<(), Failure> {
        if all == 1 {
            return Err(failure);
        }
        self.failed = self.failed.saturating_add(1);
        say(failure);
        Ok(())
    }

    /// What became of the others of `all`, where not all are moved.
    fn so_far(&self, all: usize) -> String {
        match all {
            1 => String::new(),
            all => format!("; {} of {all} moved, {} failed", self.moved, self.failed),
        }
    }

    fn report(&self, elapsed: Duration) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} not"),
        };
        let (moved, bytes) = (self.moved, size(self.bytes));
        format!("{moved} moved{failed}: {bytes} crossed in {:.1} s\n", elapsed.as_secs_f64())
    }
}

fn move_one(
    args: &Args,
    source: &Path,
    target: &Path,
    signals: &Signals,
    show: &mut Show,
) -> Result<Ended, Failure> {
    let ends = Ends::open(source, target).map_err(|why| cannot_move(source, target, &why))?;
    let daemon: Client = ends.daemon(source, target)?;
    let how = How { no_replace: args.no_clobber, undoes: None };
    cross(&daemon, &ends, how, signals, show)
        .map_err(|error| cannot_move(source, target, &error.to_string()))
}

/// How the daemon's answer begins where permissions are missing, of which `octroi why` knows nothing.
const NO_PERMISSION: &str = "permission denied: ";

fn cannot_move(source: &Path, target: &Path, why: &str) -> Failure {
    let failure = cannot(format!("move {} to {}", source.display(), target.display()))(why);
    let denied = std::io::Error::from(Errno::ACCESS).to_string();
    let cancelled = std::io::Error::from(Errno::CANCELED).to_string();
    let failure = with_branch(failure, [source, target].into_iter());
    if why == denied {
        failure.hint("see octroi why; if it knows nothing of this, you may not write in a folder")
    } else if why == cancelled {
        failure.hint("somebody stopped it, or it waited too long; see octroi why")
    } else {
        failure
    }
}

/// A failure to look at something, with the branch that is offline, where that is why.
fn with_branch<'a>(failure: Failure, mut paths: impl Iterator<Item = &'a Path>) -> Failure {
    let unreadable = std::io::Error::from(Errno::IO).to_string();
    let Some(attempt) = failure.message.strip_suffix(&unreadable) else { return failure };
    let offline = |path: &Path| {
        let (view, path) = ViewOption { view: None }.find_with_path(path).ok()?;
        match view.client.ask(&Request::Where { path }) {
            Err(ClientError::Refused(why)) if why.ends_with(" is offline") => Some(why),
            _ => None,
        }
    };
    match paths.find_map(offline) {
        Some(why) => Failure::new(format!("{attempt}{why}")).hint("octroi status says why"),
        None => failure,
    }
}

fn interrupted(source: &Path, signals: &Signals, rolled_back: bool, so_far: &str) -> Failure {
    let what = source.display();
    let state = match rolled_back {
        true => format!("{what} is where it was, and its copy is removed{so_far}"),
        false => format!("{what} is where it was; its copy is still being removed{so_far}"),
    };
    let failure = stopped(signals.seen().unwrap_or_default(), state);
    if rolled_back { failure } else { failure.hint(STILL_ROLLED_BACK) }
}

/// What a signal left.
pub(super) fn stopped(signal: i32, state: String) -> Failure {
    let (code, word) = match signal {
        SIGTERM => (ExitCode::Terminated, "terminated"),
        _ => (ExitCode::Interrupted, "interrupted"),
    };
    Failure { code, ..Failure::new(format!("{word}: {state}")) }
}

fn tell(
    args: &Args,
    source: &Path,
    target: &Path,
    crossed: Option<&Crossed>,
    elapsed: Duration,
) -> Result<(), Failure> {
    if !args.verbose || args.json {
        return Ok(());
    }
    let names = format!("{} -> {}", source.display(), target.display());
    let how = crossed.map_or_else(String::new, |crossed| {
        let files = match crossed.files {
            0 | 1 => String::new(),
            files => format!("{files} files, "),
        };
        let (bytes, seconds) = (size(crossed.bytes), elapsed.as_secs_f64());
        let lost = match crossed.lost.as_slice() {
            [] => String::new(),
            lost => format!(", lost {}", lost.join(", ")),
        };
        format!(" ({files}{bytes} in {seconds:.1} s, crossing {}{lost})", crossed.txid)
    });
    print(&format!("{}{how}\n", plain(&names)))
}

fn print_outcome(
    source: &Path,
    target: &Path,
    ended: &Result<Ended, Failure>,
    elapsed: Duration,
) -> Result<(), Failure> {
    let (mut txid, mut bytes, mut files, mut lost) = (None, 0, 0, [].as_slice());
    let (outcome, error) = match ended {
        Ok(Ended::Crossed(crossed)) => {
            (txid, bytes, files) = (Some(crossed.txid), crossed.bytes, crossed.files);
            lost = &crossed.lost;
            ("crossed", None)
        }
        Ok(Ended::Renamed) => ("renamed", None),
        Ok(Ended::Failed { result, why }) => {
            let name = result.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            ("failed", Some(format!("{why}{name}")))
        }
        Ok(Ended::Interrupted { txid: stopped, .. }) => {
            txid = *stopped;
            ("interrupted", Some(errno_name(Errno::CANCELED).to_owned()))
        }
        Err(failure) => ("failed", Some(failure.message.clone())),
    };
    let seconds = elapsed.as_secs_f64();
    let moved = Moved { source, target, txid, bytes, files, lost, seconds, outcome, error };
    let line = serde_json::to_string(&moved).map_err(cannot("write JSON"))?;
    print(&format!("{line}\n"))
}
