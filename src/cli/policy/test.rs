//! `octroi policy test`

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::{is_terminal, print, print_json};
use crate::config::{self, ConfigErrors, Diagnostic, Expectations, Loaded};
use crate::policy::Policy;

/// Ask a policy what it is expected to say.
///
/// FILE is a configuration with [[expect]] blocks, or, with --config, a file of such blocks alone that are
/// asked of CONFIG. Each that is not met is shown with file, line and caret, with what was expected and
/// what came. Needs nothing mounted and changes nothing; `octroi reload` asks a configuration's own
/// expectations before its policy comes into force.
#[derive(Debug, clap::Args)]
#[command(after_help = "An expectation:\n  \
    [[expect]]\n  \
    as = \"user:ana\"\n  \
    do = \"write\"\n  \
    path = \"/review/a.csv\"\n  \
    result = \"deny\"\n  \
    by = \"rule review-only\"          # optional\n\n\
    Examples:\n  \
    octroi policy test lab/octroi.toml\n  \
    octroi policy test expectations.toml --config lab/octroi.toml\n\n\
    Exit codes: 0 all are met; 1 some are not; 2 a file is wrong, or there are no expectations.")]
pub struct Args {
    /// Where the expectations are
    file: PathBuf,
    /// The configuration whose policy is asked, if FILE is none
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    config: &'a Path,
    expectations: usize,
    met: usize,
    /// What was expected and what came, for each that is not met.
    unmet: Vec<String>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.as_deref().unwrap_or(&args.file);
    let wrong = |errors: ConfigErrors| Failure::diagnostics(errors.render(is_terminal()));
    let Loaded { config: loaded, .. } = config::load(config).map_err(wrong)?;
    let expectations: Expectations = match &args.config {
        Some(_) => config::load_expectations(&args.file, &loaded).map_err(wrong)?,
        None => loaded.expectations,
    };
    let count = expectations.list.len();
    if count == 0 {
        let file = args.file.display();
        return Err(Failure::usage(format!("cannot test a policy by {file}: it expects nothing"))
            .hint("write what must be allowed and denied in [[expect]] blocks; octroi help policy test"));
    }
    let policy = Policy::new(loaded.policy, 1).map_err(|error| {
        Failure::usage(format!("cannot compile the policy of {}: {error}", config.display()))
    })?;
    let unmet = expectations.unmet(&policy);
    let met = count.saturating_sub(unmet.len());
    if args.json {
        let unmet = unmet.iter().map(|one| one.message.clone()).collect();
        print_json(&Report { config, expectations: count, met, unmet })?;
    } else {
        show(&unmet, met, count)?;
    }
    ended(unmet.len(), count)
}

fn show(unmet: &[Diagnostic], met: usize, count: usize) -> Result<(), Failure> {
    let colour = is_terminal();
    for one in unmet {
        print(&format!("{}\n\n", one.render(colour)))?;
    }
    let word = if count == 1 { "expectation" } else { "expectations" };
    print(&format!("{met} of {count} {word} met\n"))
}

fn ended(unmet: usize, count: usize) -> Result<(), Failure> {
    if unmet == 0 {
        return Ok(());
    }
    let message = format!("the policy does not meet {unmet} of {count} expectations");
    Err(Failure { code: ExitCode::Failed, ..Failure::new(message) })
}
