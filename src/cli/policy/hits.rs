//! `octroi policy hits`

use crate::control::protocol::{Answer, HitsReport, Request};

use crate::cli::failure::{Failure, cannot};
use crate::cli::output::{local_time, print, print_json, table};
use crate::cli::target::ViewOption;
use crate::cli::unexpected;

/// How often each rule and gate decided, and when last.
///
/// Counted from the mount, and anew from each reload. A rule counts where it decided, not where it would
/// have said the same as one before it. The same is in .audit/policy/hits.tsv, for audit.readers too; this
/// command is for root and the user who mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi policy hits\n  \
    octroi policy hits --unused                  rules and gates that never decided")]
pub struct Args {
    /// Only those that never decided
    #[arg(long)]
    unused: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let view = args.view.find(None)?;
    let attempt = format!("ask view {} for the hits of its rules", view.mount.name);
    let refused = |failure: Failure| match failure.message.contains("only root") {
        true => failure.hint(format!(
            "readers of the audit find the same in {}",
            view.mount.mountpoint.join(".audit/policy/hits.tsv").display()
        )),
        false => failure,
    };
    let answer = view.client.ask(&Request::Hits).map_err(cannot(attempt)).map_err(refused)?;
    let Answer::Hits(mut report) = answer else { return Err(unexpected()) };
    if args.unused {
        report.counted.retain(|one| one.hits == 0);
    }
    if args.json {
        return print_json(&report);
    }
    print(&render(&report, args.unused))
}

fn render(report: &HitsReport, unused: bool) -> String {
    let since = local_time(&report.since);
    let heading = format!("policy {}, counted since {since}\n", report.generation);
    if report.counted.is_empty() {
        let none = if unused { "every rule and gate has decided" } else { "no rule and no gate" };
        return format!("{heading}{none}\n");
    }
    let mut rows = vec![["KIND", "NAME", "HITS", "LAST"].map(str::to_owned).to_vec()];
    rows.extend(report.counted.iter().map(|one| {
        let last = one.last.as_deref().map_or_else(|| "never".to_owned(), local_time);
        vec![one.kind.clone(), one.name.clone(), one.hits.to_string(), last]
    }));
    heading + "\n" + &table(&rows)
}
