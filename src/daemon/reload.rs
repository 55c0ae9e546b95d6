//! The policy of a mounted view, read again from its file: all of it or nothing.
//!
//! The file is read, validated and compiled aside; only then the record is made durable, and only then the
//! new policy takes the old one's place, in one step ([`Vfs::replace_policy`]). Whatever goes wrong before
//! changes nothing. One reload at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{checks, difference};
use crate::config::{self, Config, ConfigErrors, Loaded};
use crate::control::protocol::{KEPT_MAX, KeptHandle, ReloadReport};
use crate::control::{NotReloaded, by_text};
use crate::ledger::record::PolicyRecord;
use crate::ledger::{Durability, Ledger, Record};
use crate::policy::Policy;
use crate::storage::real::RealStorage;
use crate::vfs::{KeptRight, Vfs};

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A user, by `octroi reload`.
    User(u32),
    /// Whoever sent SIGHUP.
    Signal,
}

/// Reads the configuration again when asked to.
pub(super) struct Reloading {
    vfs: Arc<Vfs>,
    ledger: Arc<Ledger<RealStorage>>,
    path: PathBuf,
    in_force: Mutex<InForce>,
}

struct InForce {
    config: Config,
    sha256: String,
    generation: u64,
}

impl Reloading {
    /// `loaded` was read from `path` and is in force.
    pub fn new(
        vfs: &Arc<Vfs>,
        ledger: &Arc<Ledger<RealStorage>>,
        path: &Path,
        loaded: &Loaded,
    ) -> Self {
        let in_force = InForce {
            config: loaded.config.clone(),
            sha256: loaded.sha256.clone(),
            generation: vfs.policy_generation(),
        };
        Self {
            vfs: Arc::clone(vfs),
            ledger: Arc::clone(ledger),
            path: path.to_owned(),
            in_force: Mutex::new(in_force),
        }
    }

    /// Puts the policy in force that the file holds now.
    pub fn reload(&self, by: By) -> Result<ReloadReport, NotReloaded> {
        let mut in_force = self.in_force.lock();
        // Whoever reloads for a group that has changed must not wait until it is asked about again.
        self.vfs.forget_groups();
        let loaded =
            config::load(&self.path).map_err(|errors| NotReloaded::Config(errors.to_string()))?;
        let fixed = difference::needs_remount(&in_force.config, &loaded.config);
        if !fixed.is_empty() {
            return Err(NotReloaded::Config(remount_text(&self.path, &fixed)));
        }
        let mut report = difference::report(&in_force.config, &loaded.config);
        report.config.clone_from(&self.path);
        report.previous.clone_from(&in_force.sha256);
        report.sha256.clone_from(&loaded.sha256);
        report.warnings = loaded.warnings.iter().map(|warning| warning.render(false)).collect();
        report.generation = in_force.generation;
        report.changed = in_force.sha256 != loaded.sha256 || difference::is_any(&report);
        if !report.changed {
            return Ok(report);
        }
        report.generation = in_force.generation.saturating_add(1);
        let lacks = checks::probe(&loaded.config).map_err(NotReloaded::Failed)?;
        report.warnings.extend(lacks);
        let policy = self.compile(&loaded, report.generation)?;
        self.record(&report, by)?;
        self.vfs.replace_policy(policy, loaded.text, loaded.config.readers.clone());
        *in_force =
            InForce { config: loaded.config, sha256: loaded.sha256, generation: report.generation };
        self.add_kept(&mut report);
        tell(&report, by);
        Ok(report)
    }

    /// The policy of a file, which must be what the file expects of it.
    fn compile(&self, loaded: &Loaded, generation: u64) -> Result<Policy, NotReloaded> {
        let policy = Policy::new(loaded.config.policy.clone(), generation).map_err(|error| {
            let path = self.path.display();
            NotReloaded::Config(format!("cannot compile the policy of {path}: {error}"))
        })?;
        let unmet = loaded.config.expectations.unmet(&policy);
        if unmet.is_empty() {
            return Ok(policy);
        }
        let errors = ConfigErrors { errors: unmet, warnings: Vec::new() };
        Err(NotReloaded::Config(errors.to_string()))
    }

    /// Before it is in force: there is no policy without its record.
    fn record(&self, report: &ReloadReport, by: By) -> Result<(), NotReloaded> {
        let uid = match by {
            By::User(uid) => uid,
            By::Signal => rustix::process::geteuid().as_raw(),
        };
        let record = PolicyRecord {
            sha256: report.sha256.clone(),
            previous: Some(report.previous.clone()),
            generation: report.generation,
            uid,
            by_signal: by == By::Signal,
        };
        let failed = |errno| {
            NotReloaded::Failed(format!(
                "the ledger cannot record it, so nothing has changed: {errno}"
            ))
        };
        self.ledger.accepts_mutations().map_err(failed)?;
        self.ledger.append(Record::Policy(record), Durability::Sync).map_err(failed)
    }

    /// What the kernel reads and writes by itself, and would not be opened now.
    fn add_kept(&self, report: &mut ReloadReport) {
        let kept = self.vfs.kept_rights();
        report.kept_more = kept.len().saturating_sub(KEPT_MAX);
        report.kept = kept.into_iter().take(KEPT_MAX).map(kept_handle).collect();
    }
}

fn kept_handle(kept: KeptRight) -> KeptHandle {
    KeptHandle {
        path: kept.path,
        uid: kept.opener.uid,
        pid: kept.opener.pid,
        operation: kept.operation,
        by: by_text(&kept.decision.basis),
    }
}

fn remount_text(path: &Path, keys: &[String]) -> String {
    let verb = if keys.len() == 1 { "differs" } else { "differ" };
    format!(
        "cannot reload {}: {} {verb} from what is mounted\n\
         hint: a reload takes roles, policy, rules, gates, expectations and audit.readers alone; unmount and mount again for the rest",
        path.display(),
        keys.join(", ")
    )
}

fn tell(report: &ReloadReport, by: By) {
    let by = match by {
        By::User(uid) => format!("user {uid}"),
        By::Signal => "a signal".to_owned(),
    };
    log::info!(
        "policy {} is in force, asked for by {by}: configuration {} in the place of {}",
        report.generation,
        report.sha256,
        report.previous
    );
    for warning in &report.warnings {
        log::warn!("{warning}");
    }
    for kept in &report.kept {
        log::warn!(
            "{} stays open to thread {} of user {}: the kernel reads and writes it by itself, though {} \
             denies {} now",
            kept.path,
            kept.pid,
            kept.uid,
            kept.by,
            kept.operation
        );
    }
}
