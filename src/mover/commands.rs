//! CHECK by the commands of a gate. What runs them is given by whoever builds the mover: commands want
//! files of the operating system, which a simulated disk has not.

use std::path::Path;

use super::error::CrossingError;
use super::moves::Place;
use super::{Mover, Progress, SourcePart};
use crate::check::{About, Outcome, Verdict};
use crate::ledger::record::{CheckRecord, CheckResult};
use crate::ledger::{Durability, Record};
use crate::policy::GateTerms;
use crate::storage::Storage;
use crate::types::{Check, CheckInput, ViewPath};

/// Mode of a copy while commands look at it by path, closed in as it is by the stage folder: META comes
/// after.
const SHOWN: u32 = 0o444;

/// Runs the commands of gates.
pub trait Commands<S: Storage>: Send + Sync {
    /// Runs one on the content of a file, to its end, to that of its time, or until `cancelled`.
    fn run(
        &self,
        check: &Check,
        file: &S::File,
        about: &About<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Verdict;
}

impl<S: Storage> Mover<S> {
    /// What runs the commands of gates. To be said once; without it a gate with commands lets nothing
    /// through.
    pub fn set_commands(&self, commands: Box<dyn Commands<S>>) {
        if self.commands.set(commands).is_err() {
            log::error!("what runs the commands of gates was given already");
        }
    }

    /// Asks every command of a gate about a copy in stage, or about a source that only will be renamed
    /// (`staged` is none then). `below` is the path below the top of a tree. The answers are recorded; the
    /// first that is not good ends it.
    pub(super) fn ask_commands(
        &self,
        part: &SourcePart<S>,
        file: &S::File,
        staged: Option<&Place<S>>,
        below: &Path,
        progress: &Progress,
    ) -> Result<(), CrossingError> {
        let checks = &part.terms.checks;
        if let (Some(place), true) = (staged, shows_path(&part.terms)) {
            self.storage
                .set_mode(&place.dir, &place.name, SHOWN)
                .map_err(CrossingError::io("set the mode of", "the copy"))?;
        }
        let (source, target) = (path(&progress.source, below), path(&progress.target, below));
        let about = About { gate: &part.gate, source: &source, target: &target };
        for check in checks {
            progress.check_cancel()?;
            let running = progress.begin_check(check.to_string());
            let verdict = match self.commands.get() {
                Some(commands) => commands.run(check, file, &about, &|| progress.is_cancelled()),
                None => unable(),
            };
            drop(running);
            if verdict.outcome == Outcome::Cancelled {
                return Err(progress.cancelled());
            }
            self.record_check(check, &about, &verdict, progress)?;
            if verdict.outcome != Outcome::Passed {
                return Err(CrossingError::CheckFailed {
                    command: check.to_string(),
                    outcome: verdict.outcome.to_string(),
                    said: verdict.last_line,
                });
            }
        }
        Ok(())
    }

    fn record_check(
        &self,
        check: &Check,
        about: &About<'_>,
        verdict: &Verdict,
        progress: &Progress,
    ) -> Result<(), CrossingError> {
        let passed = verdict.outcome == Outcome::Passed;
        let record = CheckRecord {
            txid: progress.txid,
            gate: about.gate.to_owned(),
            run: check.run.clone(),
            path: about.source.clone(),
            result: if passed { CheckResult::Passed } else { CheckResult::Failed },
            reason: (!passed).then(|| verdict.outcome.to_string()),
            line: verdict.last_line.clone(),
            ms: u64::try_from(verdict.took.as_millis()).unwrap_or(u64::MAX),
        };
        // COMMIT and ABORT come after it in the same ledger, and are not durable without it.
        self.ledger
            .append(Record::Check(Box::new(record)), Durability::Group)
            .map_err(|errno| CrossingError::Ledger { errno })
    }
}

fn unable() -> Verdict {
    let outcome = Outcome::NotRun("nothing here runs commands".to_owned());
    Verdict { outcome, last_line: None, took: std::time::Duration::ZERO }
}

/// Whether a command wants the content as a file.
fn shows_path(terms: &GateTerms) -> bool {
    terms.checks.iter().any(|check| check.input == CheckInput::Path)
}

/// The path of the view of what is below a top; of itself for the empty path.
fn path(top: &ViewPath, below: &Path) -> ViewPath {
    if below.as_os_str().is_empty() { top.clone() } else { top.join(below.as_os_str()) }
}
