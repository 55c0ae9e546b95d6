//! `octroi audit tail`

use std::time::Duration;

use super::super::failure::{Failure, cannot};
use super::super::output::{in_colour, is_terminal, print_bytes};
use super::super::target::ViewOption;
use super::filter::FilterArgs;
use super::search::Search;
use super::show::Shown;

/// How often a followed ledger is looked at.
const FOLLOW: Duration = Duration::from_millis(200);
/// Records that are shown without -n.
const COUNT: usize = 20;

/// Show the newest records; for root, the mounting user and audit.readers.
///
/// In colours on a terminal, unless NO_COLOR is set. Lines whose checksum does not hold are shown too: the
/// first of them is told on standard error, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit tail -f --denied\n  \
    octroi audit tail --since 2h --user ana --path /inbox\n  \
    octroi audit tail -n 1000 --json | jq 'select(.decision == \"denied\")'\n  \
    octroi audit tail --view lab/octroi.toml     also while nothing is mounted")]
pub(super) struct TailArgs {
    /// How many; by default 20, and with --since or --tx all
    #[arg(short = 'n', long = "lines", value_name = "N")]
    count: Option<usize>,
    /// Go on with what is recorded from now on
    #[arg(short, long)]
    follow: bool,
    /// Print the lines as they are in the ledger, one JSON object each, as into a pipe or a file
    /// without it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    view: ViewOption,
}

pub(super) fn run(args: &TailArgs) -> Result<(), Failure> {
    let mut search = Search::begin(&args.filter, None, &args.view)?;
    let mut shown = (!args.json && is_terminal()).then(|| Shown::new(in_colour()));
    let count = match args.count {
        None if args.filter.is_narrow() => usize::MAX,
        count => count.unwrap_or(COUNT),
    };
    let from = match count {
        usize::MAX => Ok(search.log.first()),
        count => search.log.last_matches(&search.filter, count),
    };
    let mut offset = from.map_err(cannot("read the ledger"))?;
    let mut found = count == 0;
    loop {
        // What has left meanwhile was not read in time, and is passed over.
        offset = offset.max(search.log.first());
        let (piece, next) = search.log.whole_lines(offset).map_err(cannot("read the ledger"))?;
        if next > offset {
            let begun = std::mem::replace(&mut offset, next);
            let mut out = Vec::new();
            search.filter.each_match(&piece, &mut |at, line| {
                found = true;
                search.damage.look(&search.log, begun.saturating_add(at as u64), line);
                match &mut shown {
                    Some(shown) => out.extend_from_slice(shown.line(line).as_bytes()),
                    None => out.extend_from_slice(&[line, b"\n"].concat()),
                }
                Ok(true)
            })?;
            if !print_bytes(&out)? {
                return Ok(());
            }
            continue;
        }
        if !found {
            search.nothing_found();
        }
        if !args.follow {
            return search.damage.judge();
        }
        std::thread::sleep(FOLLOW);
        search.log.refresh()?;
    }
}
