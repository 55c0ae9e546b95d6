//! `octroi check`

use std::path::PathBuf;

use crate::branch::{Branch, BranchError, BranchSpec};
use crate::config::{self, BranchEntry, Config, ConfigErrors};
use crate::daemon::checks;
use crate::policy::Policy;
use crate::types::BranchMode;

use super::failure::{ExitCode, Failure};
use super::output::{is_terminal, print};

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
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let Some(config) = &args.config else { return print(&config::schema()) };
    let colour = is_terminal();
    let loaded =
        config::load(config).map_err(|errors| Failure::diagnostics(errors.render(colour)))?;
    for warning in &loaded.warnings {
        print(&format!("{}\n\n", warning.render(colour)))?;
    }
    expect(&loaded.config, colour)?;
    for lack in checks::probe(&loaded.config).map_err(Failure::new)? {
        print(&format!("warning: {lack}\n\n"))?;
    }
    let mut faults = Vec::new();
    for BranchEntry { spec, .. } in &loaded.config.branches {
        let mut pools = loaded.config.pools.iter();
        let name = match pools.find(|pool| pool.members.contains(&spec.index)) {
            Some(pool) => format!("branch {} of pool {}", spec.name, pool.name),
            None => format!("branch {}", spec.name),
        };
        match look(spec) {
            Ok(found) => print(&format!("{name}: {found}\n"))?,
            Err(error @ BranchError::Io { .. }) => faults.push(format!("{name}: {error}")),
            Err(error) => faults.push(error.to_string()),
        }
    }
    if let Some(first) = faults.first() {
        let mut failure = Failure { code: ExitCode::Usage, ..Failure::new(first) };
        if faults.len() > 1 {
            let more = faults.len().saturating_sub(1);
            failure.message =
                format!("{} (branches that are not fit, beside it: {more})", failure.message);
        }
        return Err(failure);
    }
    print(&format!("{}: view {} is good\n", config.display(), loaded.config.view))
}

/// Fails with every expectation that the policy does not meet.
fn expect(config: &Config, colour: bool) -> Result<(), Failure> {
    let policy = Policy::new(config.policy.clone(), 1).map_err(|error| {
        Failure::usage(format!("cannot compile the patterns of the policy: {error}"))
    })?;
    let unmet = config.expectations.unmet(&policy);
    if unmet.is_empty() {
        return Ok(());
    }
    let errors = ConfigErrors { errors: unmet, warnings: Vec::new() };
    Err(Failure::diagnostics(errors.render(colour)))
}

fn look(spec: &BranchSpec) -> Result<String, BranchError> {
    match Branch::look(spec) {
        Ok(Some(id)) => Ok(format!("id {id}")),
        Ok(None) if spec.mode == BranchMode::Ro => Ok("read-only".to_owned()),
        Ok(None) => Ok("new, gets its id when it is mounted".to_owned()),
        Err(BranchError::InUse { .. }) => Ok("mounted now".to_owned()),
        Err(error) => Err(error),
    }
}
