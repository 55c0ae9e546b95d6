//! `octroi why`

use std::path::PathBuf;

use jiff::Timestamp;

use crate::control::BY_ERROR;
use crate::control::protocol::{Answer, DenialReport, Explanation, Request};
use crate::policy::Considered;
use crate::types::binary_size;

use super::failure::{Failure, cannot};
use super::output::{local_time, plain, print, print_json};
use super::target::ViewOption;
use super::unexpected;

/// Explain the last "Permission denied" that you met.
///
/// Says what was denied, by which rule, gate or mode, for what reason, and what the policy in force
/// considers for the same request, so that you see what would be allowed. Everybody sees only their
/// own denials.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi why\n  \
    octroi why /mnt/lab/inbox/run.sh")]
pub struct Args {
    /// The last denial that names this path
    path: Option<PathBuf>,
    /// Show everything that is considered, not only what speaks of the request or nearly does
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let view = args.view.find(args.path.as_deref())?;
    let path = args.path.as_ref().map(|path| args.view.inside(&view.mount, path)).transpose()?;
    let attempt = format!("ask view {} for a denial", view.mount.name);
    let answer = view.client.ask(&Request::Why { path: path.clone() }).map_err(cannot(attempt))?;
    let Answer::Why { denial } = answer else { return Err(unexpected()) };
    match denial {
        Some(denial) if args.json => print_json(&denial),
        Some(denial) => print(&render(&denial, args.verbose, Timestamp::now())),
        None => {
            let (of, at) = match path {
                Some(path) => (format!(" of {path}"), " there"),
                None => (String::new(), ""),
            };
            Err(Failure::new(format!(
                "cannot explain a denial{of}: view {} has denied you nothing{at} since it was mounted",
                view.mount.name
            ))
            .hint("the permissions of the file or folder may have refused it; see ls -ld"))
        }
    }
}

/// Seconds after which a denial may not be the one that is meant.
const OLD_SECONDS: i64 = 1;

fn render(denial: &DenialReport, verbose: bool, now: Timestamp) -> String {
    let target = denial.target.as_ref().map(|target| format!(" to {target}")).unwrap_or_default();
    let time = denial.time.parse::<Timestamp>();
    let seconds = time.map_or(0, |time| now.as_second().saturating_sub(time.as_second()));
    let age =
        if seconds > OLD_SECONDS { format!(", {} ago", span(seconds)) } else { String::new() };
    // No decision of the policy: something was in the way, or somebody stopped it.
    let failed = denial.explanation.by == BY_ERROR;
    let mut text = format!(
        "{}{age}: {} {}{} {}\n",
        local_time(&denial.time),
        denial.operation,
        plain(&denial.path.to_string()),
        plain(&target),
        if failed { "failed" } else { "was denied" },
    );
    text.push_str(&match failed {
        true => reasons(&denial.explanation, verbose),
        false => explained(&denial.explanation, verbose),
    });
    if seconds > OLD_SECONDS {
        text.push_str(NOT_THIS_ONE);
    }
    text
}

const NOT_THIS_ONE: &str = "\
if it is not this one that you met: the policy has denied you nothing since; see ls -ld for permissions, and
octroi explain, which knows what the view itself refuses (.octroi, .audit, hard links between branches)
";

fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What decided, the reason, the limit, and what was considered: all of it, or what speaks of the request or
/// nearly does.
pub(super) fn explained(explanation: &Explanation, verbose: bool) -> String {
    format!("  by      {}\n{}", plain(&explanation.by), reasons(explanation, verbose))
}

/// The same without what decided.
fn reasons(explanation: &Explanation, verbose: bool) -> String {
    let mut text = String::new();
    if let Some(reason) = &explanation.reason {
        text.push_str(&format!("  reason  {}\n", plain(reason)));
    }
    if let Some(limit) = &explanation.limit {
        let (bytes, by) = (binary_size(limit.bytes), plain(&limit.by));
        text.push_str(&format!("  up to   {bytes}, by {by}\n"));
    }
    let shown = |considered: &&Considered| verbose || considered.applies || considered.near;
    let all = &explanation.considered;
    if !all.is_empty() {
        text.push_str("considered:\n");
    }
    for considered in all.iter().filter(shown) {
        let mark = if considered.applies { '*' } else { '-' };
        let (what, why) = (plain(&considered.what), plain(&considered.why));
        text.push_str(&format!("  {mark} {what}: {why}\n"));
    }
    match all.iter().filter(|considered| !shown(considered)).count() {
        0 => {}
        hidden => text.push_str(&format!("  {hidden} more, with -v, speak of something else\n")),
    }
    text
}
