//! `octroi reload`

use serde::Serialize;

use crate::control::protocol::{Answer, Difference, ReloadReport, Request};

use super::failure::{Failure, cannot};
use super::output::{plain, print, print_json};
use super::target::ViewOption;
use super::{tx, unexpected};

/// Put the policy of a changed configuration in force, without unmounting.
///
/// The file that the view was mounted from is read again, validated and compiled; only when all of it is
/// good it takes the old policy's place, in one step, and the ledger has who asked and the hashes of
/// both files. Else nothing changes. SIGHUP to the daemon does the same and writes to its log.
///
/// A reload takes [roles], [policy], [rules], [gates], [[expect]] and audit.readers. Where anything else
/// differs from what is mounted it is refused, and says which keys.
///
/// Open files are asked about again at their next write. What a branch with io = "passthrough" has open
/// the kernel reads and writes by itself until it is closed: such files are listed where the new policy
/// would deny them. An operation that was allowed already may still end.
///
/// For root and the user who mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi check lab/octroi.toml && octroi reload --view lab\n  \
    octroi reload --json | jq .generation\n\n\
    Exit codes: 0 in force, or the file is unchanged; 1 it failed; 2 the file is wrong or needs a remount.")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

/// In place of the report, with --json.
#[derive(Serialize)]
struct NotReloaded {
    changed: bool,
    /// Diagnostics, or a sentence.
    why: String,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let view = args.view.find(None)?;
    let attempt = format!("reload the policy of view {}", view.mount.name);
    match view.client.ask(&Request::Reload).map_err(cannot(attempt))? {
        Answer::Reloaded(report) if args.json => print_json(&report),
        Answer::Reloaded(report) => print(&render(&report)),
        Answer::NotReloaded { why } => {
            if args.json {
                print_json(&NotReloaded { changed: false, why: why.clone() })?;
            }
            Err(not_reloaded(&why))
        }
        _ => Err(unexpected()),
    }
}

/// Diagnostics as they are; one sentence as any other failure.
fn not_reloaded(why: &str) -> Failure {
    if why.starts_with("cannot ") {
        return Failure::usage(why).unchanged();
    }
    Failure::diagnostics(format!("{why}\n\noctroi: cannot reload the policy; nothing has changed"))
}

impl Failure {
    fn unchanged(self) -> Self {
        Self { message: format!("{}; nothing has changed", self.message), ..self }
    }
}

fn render(report: &ReloadReport) -> String {
    let config = plain(&report.config.to_string_lossy());
    if !report.changed {
        return format!("{config} is unchanged; policy {} stays in force\n", report.generation);
    }
    let mut text = String::new();
    for warning in &report.warnings {
        text.push_str(warning);
        text.push_str("\n\n");
    }
    text.push_str(&format!("policy {} is in force, from {config}\n", report.generation));
    text.push_str(&format!("  before  {}\n  now     {}\n", report.previous, report.sha256));
    let parts = [difference("rules", &report.rules), difference("gates", &report.gates)].concat();
    if parts.is_empty() && report.settings.is_empty() {
        text.push_str("  no rule and no gate differs\n");
    }
    text.push_str(&parts);
    if !report.settings.is_empty() {
        text.push_str(&format!("  new values: {}\n", report.settings.join(", ")));
    }
    text + &kept(report)
}

fn difference(what: &str, difference: &Difference) -> String {
    let kinds = [
        ("added", &difference.added),
        ("removed", &difference.removed),
        ("changed", &difference.changed),
    ];
    let named = kinds.into_iter().filter(|(_, names)| !names.is_empty());
    named.map(|(kind, names)| format!("  {what} {kind}: {}\n", plain(&names.join(", ")))).collect()
}

fn kept(report: &ReloadReport) -> String {
    if report.kept.is_empty() {
        return String::new();
    }
    let mut text = "open files that are denied now, and stay as they are until they are closed \
                    (io = \"passthrough\"):\n"
        .to_owned();
    for kept in &report.kept {
        let path = plain(&kept.path.to_string());
        let (user, by) = (tx::user(kept.uid), plain(&kept.by));
        text.push_str(&format!(
            "  {path}  opened by {user}, thread {}: {} by {by}\n",
            kept.pid, kept.operation
        ));
    }
    if report.kept_more > 0 {
        text.push_str(&format!("  and {} more\n", report.kept_more));
    }
    text
}
