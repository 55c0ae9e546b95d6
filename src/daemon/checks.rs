//! The commands of gates, run for the mover, and whether this machine can run them.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use crate::check::{About, Runner, Verdict};
use crate::config::Config;
use crate::mover::Commands;
use crate::storage::real::{RealFile, RealStorage};
use crate::types::Check;

/// This program, also when its file was replaced or removed since.
const HELPER: &str = "/proc/self/exe";

/// Runs commands on files of the operating system.
pub(super) struct RealCommands(Runner);

impl RealCommands {
    pub(super) fn new(config: &Config) -> Self {
        Self(runner(config))
    }
}

impl Commands<RealStorage> for RealCommands {
    fn run(
        &self,
        check: &Check,
        file: &RealFile,
        about: &About<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Verdict {
        self.0.run(check, file.as_fd(), about, cancelled)
    }
}

fn runner(config: &Config) -> Runner {
    let branches = config.branches.iter().map(|entry| entry.spec.path.clone());
    Runner::new(PathBuf::from(HELPER), branches.chain([config.state.clone()]).collect())
}

/// Whether the commands of a configuration can be shut in here; tried out if there are any. Gives a
/// sentence for each thing that the kernel lacks and that is done without; an error says what cannot be
/// done without.
pub fn probe(config: &Config) -> Result<Vec<String>, String> {
    let mut gates = config.policy.gates.iter();
    let Some(gate) = gates.find(|gate| !gate.terms.checks.is_empty()) else {
        return Ok(Vec::new());
    };
    let lacks = runner(config).probe().map_err(|why| {
        format!(
            "cannot run the checks of gate {}: a command cannot be shut in here: {why}",
            gate.name
        )
    })?;
    let said = |what: String| format!("checks of gates run without what this kernel lacks: {what}");
    Ok(lacks.into_iter().map(said).collect())
}
