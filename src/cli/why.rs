//! `octroi why`

use std::path::PathBuf;

use crate::control::protocol::{Answer, DenialReport, Explanation, Request};

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
        Some(denial) => print(&render(&denial)),
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

fn render(denial: &DenialReport) -> String {
    let target = denial.target.as_ref().map(|target| format!(" to {target}")).unwrap_or_default();
    let heading = format!(
        "{} {} {}{} was denied\n",
        local_time(&denial.time),
        denial.operation,
        plain(&denial.path.to_string()),
        plain(&target),
    );
    heading + &explained(&denial.explanation)
}

/// What decided, the reason, and everything considered.
pub(super) fn explained(explanation: &Explanation) -> String {
    let mut text = format!("  by      {}\n", plain(&explanation.by));
    if let Some(reason) = &explanation.reason {
        text.push_str(&format!("  reason  {}\n", plain(reason)));
    }
    if !explanation.considered.is_empty() {
        text.push_str("considered:\n");
    }
    for considered in &explanation.considered {
        let mark = if considered.applies { '*' } else { '-' };
        text.push_str(&format!(
            "  {mark} {}: {}\n",
            plain(&considered.what),
            plain(&considered.why)
        ));
    }
    text
}
