//! `octroi audit query`

use jiff::Timestamp;

use super::super::failure::Failure;
use super::super::moment::moment;
use super::super::output::{Printer, in_colour, is_terminal, print_bytes};
use super::super::target::ViewOption;
use super::filter::FilterArgs;
use super::search::Search;
use super::show::Shown;

/// Search the ledger, the oldest records first; for root, the mounting user and audit.readers.
///
/// By transaction it is found by an index beside the ledger's segments, which is made when it is
/// missing or stale; everything else is searched for. Lines whose checksum does not hold are shown too: the
/// first of them is told on standard error, and the exit code is 1. A line that was changed so that it
/// does not fit any more is not found, nor one that was removed: that, and all else that may be wrong with
/// a ledger, octroi audit verify tells.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit query --denied --since 7d --path '/inbox/**/*.sh'\n  \
    octroi audit query --tx 01KB3M4Z5W6V7T8S9R0Q1P2N3M --json\n  \
    octroi audit query --user ana --verb remove --since 2026-11-01 --until 2026-12-01\n  \
    octroi audit query --denied --view lab/octroi.toml     also while nothing is mounted")]
pub(super) struct QueryArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the lines as they are in the ledger, one JSON object each, as into a pipe or a file
    /// without it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub(super) fn run(args: &QueryArgs) -> Result<(), Failure> {
    let mut search = Search::begin(&args.filter, args.until, &args.view)?;
    let mut shown = (!args.json && is_terminal()).then(|| Shown::new(in_colour()));
    let mut printer = Printer::new();
    let mut left = args.limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    let mut found = false;
    search.log.each_match(&search.filter, |at, line| {
        found = true;
        search.damage.look(&search.log, at, line);
        left = left.saturating_sub(1);
        let there = match &mut shown {
            Some(shown) => print_bytes(shown.line(line).as_bytes())?,
            None => printer.print(line)? && printer.print(b"\n")?,
        };
        Ok(there && left > 0)
    })?;
    if !found {
        search.nothing_found();
    }
    printer.finish()?;
    search.damage.judge()
}
