//! `octroi audit export`

use jiff::Timestamp;

use super::super::failure::Failure;
use super::super::moment::moment;
use super::super::output::Printer;
use super::super::target::ViewOption;
use super::filter::FilterArgs;
use super::ocsf::Exporter;
use super::search::Search;

/// Print the ledger for other programs; for root, the mounting user and audit.readers.
///
/// As JSON lines, as they are in the ledger, or as events of the class File System Activity (1001) of
/// OCSF 1.3: one for each operation and for each crossing that has ended. What is no such activity
/// (changes of the policy, gaps, what left hold) is left out there, and so are lines that are not as they
/// were written: the first of them is told on standard error, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit export --format ocsf --since 1d > events.jsonl\n  \
    octroi audit export --denied | zstd > denied.jsonl.zst")]
pub(super) struct ExportArgs {
    /// How
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    #[command(flatten)]
    view: ViewOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The lines of the ledger
    Json,
    /// OCSF File System Activity
    Ocsf,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), Failure> {
    let mut search = Search::begin(&args.filter, args.until, &args.view)?;
    let mut printer = Printer::new();
    let mut exporter = Exporter::new();
    let mut found = false;
    search.log.each_match(&search.filter, |at, line| {
        found = true;
        search.damage.look(&search.log, at, line);
        match args.format {
            Format::Json => Ok(printer.print(line)? && printer.print(b"\n")?),
            Format::Ocsf => match exporter.event(line) {
                None => Ok(true),
                Some(event) => {
                    Ok(printer.print(event.to_string().as_bytes())? && printer.print(b"\n")?)
                }
            },
        }
    })?;
    if !found {
        search.nothing_found();
    }
    printer.finish()?;
    search.damage.judge()
}
