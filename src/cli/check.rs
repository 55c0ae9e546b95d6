//! `octroi check`

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::branch::{Branch, BranchError, BranchSpec, Ids};
use crate::config::{self, BranchEntry, Config, ConfigErrors, Diagnostic, Loaded};
use crate::daemon::checks;
use crate::policy::Policy;
use crate::types::BranchMode;

use super::failure::{ExitCode, Failure};
use super::output::{in_colour, print, print_json};

/// Validate a configuration, ask its policy what its [[expect]] blocks expect, and look whether its
/// branches are fit for use. Changes nothing.
///
/// Mistakes and expectations that are not met are shown with file, line and caret. Warnings do not fail
/// the check.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi check lab/octroi.toml\n  \
    octroi check --schema > octroi.schema.json")]
pub struct Args {
    /// The configuration
    #[arg(required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Print the JSON Schema of configurations, by which editors complete them, and check nothing
    #[arg(long, conflicts_with = "config")]
    schema: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "schema")]
    json: bool,
}

/// What is said with --json.
#[derive(Serialize)]
struct Checked<'a> {
    config: &'a Path,
    /// Its name, where the file could be read.
    view: Option<&'a str>,
    good: bool,
    errors: Vec<Said<'a>>,
    warnings: Vec<Said<'a>>,
    /// What the kernel lacks for the checks of gates, and is done without.
    lacks: &'a [String],
    branches: &'a [Looked],
}

/// A mistake, a doubt, or an expectation that is not met.
#[derive(Serialize)]
struct Said<'a> {
    line: Option<usize>,
    message: &'a str,
    hints: &'a [String],
}

impl<'a> From<&'a Diagnostic> for Said<'a> {
    fn from(one: &'a Diagnostic) -> Self {
        Self { line: one.line(), message: &one.message, hints: &one.hints }
    }
}

/// A branch as it was found.
#[derive(Serialize)]
struct Looked {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    /// What it is, where it is fit for use.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let Some(path) = &args.config else { return print(&config::schema()) };
    let (loaded, errors) = match config::load(path) {
        Ok(loaded) => {
            let unmet = unmet(&loaded.config)?;
            (Some(loaded), ConfigErrors { errors: unmet, warnings: Vec::new() })
        }
        Err(errors) => (None, errors),
    };
    let warnings = loaded.as_ref().map_or(&errors.warnings, |loaded| &loaded.warnings);
    let fit = loaded.as_ref().filter(|_| errors.errors.is_empty()).map(|loaded| &loaded.config);
    let lacks = match fit {
        Some(config) => checks::probe(config).map_err(Failure::new)?,
        None => Vec::new(),
    };
    let branches: Vec<Looked> = fit.into_iter().flat_map(look_at_all).collect();
    let faults: Vec<&str> = branches.iter().filter_map(|branch| branch.fault.as_deref()).collect();
    if args.json {
        let checked = Checked {
            config: path,
            view: loaded.as_ref().map(|loaded| loaded.config.view.as_str()),
            good: errors.errors.is_empty() && faults.is_empty(),
            errors: errors.errors.iter().map(Said::from).collect(),
            warnings: warnings.iter().map(Said::from).collect(),
            lacks: &lacks,
            branches: &branches,
        };
        print_json(&checked)?;
    } else {
        show(&loaded, &lacks, &branches)?;
    }
    let Some(config) = fit else {
        return Err(Failure::diagnostics(errors.render(in_colour())));
    };
    match faults.split_first() {
        Some((first, more)) => Err(not_fit(first, more.len())),
        None if args.json => Ok(()),
        None => print(&format!("{}: view {} is good\n", path.display(), config.view)),
    }
}

/// What is found before the end: warnings, and branches that are fit for use.
fn show(loaded: &Option<Loaded>, lacks: &[String], branches: &[Looked]) -> Result<(), Failure> {
    for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
        print(&format!("{}\n\n", warning.render(in_colour())))?;
    }
    for lack in lacks {
        print(&format!("warning: {lack}\n\n"))?;
    }
    for Looked { name, pool, found, .. } in branches {
        let Some(found) = found else { continue };
        let of = pool.as_ref().map(|pool| format!(" of pool {pool}")).unwrap_or_default();
        print(&format!("branch {name}{of}: {found}\n"))?;
    }
    Ok(())
}

fn not_fit(first: &str, more: usize) -> Failure {
    let mut failure = Failure { code: ExitCode::Usage, ..Failure::new(first) };
    if more > 0 {
        failure.message =
            format!("{} (branches that are not fit, beside it: {more})", failure.message);
    }
    failure
}

/// Every expectation that the policy does not meet.
fn unmet(config: &Config) -> Result<Vec<Diagnostic>, Failure> {
    let policy = Policy::new(config.policy.clone(), 1).map_err(|error| {
        Failure::usage(format!("cannot compile the patterns of the policy: {error}"))
    })?;
    Ok(config.expectations.unmet(&policy))
}

fn look_at_all(config: &Config) -> Vec<Looked> {
    let mut ids = Ids::default();
    let looked = |BranchEntry { spec, .. }: &BranchEntry| {
        let mut pools = config.pools.iter();
        let pool = pools.find(|pool| pool.members.contains(&spec.index));
        let pool = pool.map(|pool| pool.name.clone());
        let (found, fault) = match look(spec, &mut ids) {
            Ok(found) => (Some(found), None),
            Err(error @ BranchError::Io { .. }) => {
                let of = pool.as_ref().map(|pool| format!(" of pool {pool}")).unwrap_or_default();
                (None, Some(format!("branch {}{of}: {error}", spec.name)))
            }
            Err(error) => (None, Some(error.to_string())),
        };
        Looked { name: spec.name.clone(), pool, found, fault }
    };
    config.branches.iter().map(looked).collect()
}

fn look(spec: &BranchSpec, ids: &mut Ids) -> Result<String, BranchError> {
    match Branch::look(spec) {
        Ok(Some(id)) => ids.add(spec, Some(id)).map(|()| format!("id {id}")),
        Ok(None) if spec.mode == BranchMode::Ro => Ok("read-only".to_owned()),
        Ok(None) => Ok("new, gets its id when it is mounted".to_owned()),
        Err(BranchError::InUse { .. }) => Ok("mounted now".to_owned()),
        Err(error) => Err(error),
    }
}
