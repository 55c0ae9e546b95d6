//! `octroi fsck`

use std::path::PathBuf;

use crate::config;
use crate::daemon::DaemonError;
use crate::daemon::fsck::{self, Report};
use crate::types::counted;

use super::failure::{ExitCode, Failure};
use super::output::{in_colour, one_line, print, print_json};

/// Look through a view that is not mounted: its ledger, its branches, what crossings left.
///
/// Looks at every line of the ledger; whether each branch is the one that the ledger knows; transactions that
/// have not ended or need a person; what stage and hold have that no transaction knows, and what they lack;
/// names in pools of which one member has a file and another a directory. Changes nothing without --repair,
/// which does what the next mount would: open transactions are completed, rolled back or put back, what
/// nothing needs is removed from stage. Nothing is removed from hold unless its purge was recorded.
///
/// Refused while the view is mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi fsck --view lab/octroi.toml\n  \
    octroi fsck --view lab/octroi.toml --repair\n\n\
    Exit codes: 0 nothing is wrong, 1 something is, or it failed, 2 usage or configuration.")]
pub struct Args {
    /// The configuration of the view
    #[arg(long, value_name = "CONFIG")]
    view: PathBuf,
    /// Repair what can be, then look again
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if !args.view.is_file() {
        let view = args.view.display();
        let why = match args.view.exists() {
            true => "it is not a configuration file",
            false => "there is no such file",
        };
        return Err(Failure::usage(format!("cannot check {view}: {why}"))
            .hint("fsck works on views that are not mounted, by their configuration: --view lab/octroi.toml"));
    }
    let loaded = config::load(&args.view)
        .map_err(|errors| Failure::diagnostics(errors.render(in_colour())))?;
    let report = fsck::check(&loaded, args.repair).map_err(|error| match error {
        DaemonError::Config(text) => Failure::diagnostics(text),
        DaemonError::Usage(text) => Failure::usage(text),
        DaemonError::Failed(text) => Failure::new(text),
    })?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&readable(&report))?;
    }
    match report.findings.len() {
        0 => Ok(()),
        count => {
            let (view, count) = (&report.view, counted(count as u64, "finding", "findings"));
            let message = format!("view {view} is not clean: {count}");
            Err(Failure { code: ExitCode::Failed, ..Failure::new(message) })
        }
    }
}

fn readable(report: &Report) -> String {
    let mut text = String::new();
    for done in &report.repaired {
        text.push_str(&format!("repaired: {}\n", one_line(done)));
    }
    for note in &report.notes {
        text.push_str(&format!("{}\n", one_line(note)));
    }
    for finding in &report.findings {
        let (about, what) = (finding.about, one_line(&finding.text));
        text.push_str(&format!("{about}: {what}\n    {}\n", one_line(&finding.advice)));
    }
    if report.findings.is_empty() {
        text.push_str(&format!("view {} is clean\n", report.view));
    }
    text
}
