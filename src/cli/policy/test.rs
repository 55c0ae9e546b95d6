//! `octroi policy test`

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::{in_colour, print, print_json};
use crate::config::{self, ConfigErrors, Diagnostic, Expectations, Loaded};
use crate::policy::{Expectation, Policy, Unmet};
use crate::types::{Operation, ViewPath};

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
    /// Those that are not met.
    unmet: Vec<One>,
}

#[derive(Serialize)]
struct One {
    /// Of its `result` in the file of expectations.
    line: Option<usize>,
    /// User id of who asks.
    #[serde(rename = "as")]
    uid: u32,
    #[serde(rename = "do")]
    operation: Operation,
    path: ViewPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<ViewPath>,
    /// `allow` or `deny`, and `by` what if that was said.
    expected: String,
    got: String,
    /// All of it in a sentence.
    message: String,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.as_deref().unwrap_or(&args.file);
    let wrong = |errors: ConfigErrors| Failure::diagnostics(errors.render(in_colour()));
    if args.config.is_none() && expects_alone(&args.file) {
        let file = args.file.display();
        let message = format!("cannot test a policy by {file}: it has expectations and no policy");
        return Err(Failure::usage(message)
            .hint("name the configuration that is asked with --config CONFIG"));
    }
    let Loaded { config: loaded, warnings, .. } = config::load_unseen(config).map_err(wrong)?;
    if !args.json {
        for warning in warnings {
            print(&format!("{}\n\n", warning.render(in_colour())))?;
        }
    }
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
        let unmet = expectations.each_unmet(&policy).into_iter().map(one).collect();
        print_json(&Report { config, expectations: count, met, unmet })?;
    } else {
        show(&unmet, met, count)?;
    }
    ended(unmet.len(), count)
}

/// Whether a file has `[[expect]]` and nothing else that a configuration must have.
fn expects_alone(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let heads = || text.lines().map(str::trim_start).filter(|line| line.starts_with('['));
    heads().next().is_some() && heads().all(|line| line.starts_with("[[expect]]"))
}

fn one((expected, line, unmet): (&Expectation, Option<usize>, Unmet)) -> One {
    let verdict = if expected.allowed { "allow" } else { "deny" };
    let by = expected.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    One {
        line,
        uid: expected.subject.uid,
        operation: expected.operation,
        path: expected.path.clone(),
        target: expected.target.clone(),
        expected: format!("{verdict}{by}"),
        got: unmet.got,
        message: unmet.message,
    }
}

fn show(unmet: &[Diagnostic], met: usize, count: usize) -> Result<(), Failure> {
    let colour = in_colour();
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
