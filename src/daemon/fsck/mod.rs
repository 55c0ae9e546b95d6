//! `octroi fsck`: a view that is not mounted, looked through: ledger, ids of branches, transactions, stage
//! and hold, shadows in pools. Repairing is what the next mount's recovery would do, and no more;
//! nothing in hold is ever deleted in doubt.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::assemble::{mover_branch_at_start, open_ledger, tell};
use super::state::State;
use super::{DaemonError, append, copies, mount_record};
use crate::branch::{Branch, BranchError, BranchSpec};
use crate::config::{Config, Loaded};
use crate::ledger::record::MountEvent;
use crate::mover::{Irregularity, Mover, MoverBranch, Outlook, inspect};
use crate::storage::Storage as _;
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchMode, BranchUuid, TxId, counted};

mod ledger;
mod shadows;

use ledger::Memory;

/// What the record of a repair has in place of a mountpoint.
const IN_PLACE_OF_A_MOUNT: &str = "(octroi fsck --repair)";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `ledger`, `branch`, `transaction`, `stage`, `hold` or `pool`.
    pub about: &'static str,
    /// In words.
    pub text: String,
    /// What to do about it.
    pub advice: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The view.
    pub view: String,
    /// What was done, in order, where repairing was asked for.
    pub repaired: Vec<String>,
    /// What is not as it should be, after repairing.
    pub findings: Vec<Finding>,
    /// What is worth knowing and needs nothing.
    pub notes: Vec<String>,
}

/// What is known of the branches' ids.
enum Known<'a> {
    /// The view was never mounted.
    Nothing,
    /// Only a ledger that is not there, or cannot be read, could tell.
    Untold,
    /// What the ledger tells.
    Told(&'a Memory),
}

impl Known<'_> {
    fn id(&self, name: &str) -> Option<BranchUuid> {
        match self {
            Self::Nothing | Self::Untold => None,
            Self::Told(memory) => memory.ids.get(name).copied(),
        }
    }
}

/// Looks a view through; with `repair` what can be repaired is, first. An error where the view is mounted or
/// cannot be looked at at all.
pub fn check(loaded: &Loaded, repair: bool) -> Result<Report, DaemonError> {
    let config = &loaded.config;
    let mut report = Report { view: config.view.clone(), ..Report::default() };
    let Some(state) = State::look(&config.state, &config.view)? else {
        let known = match ledger::look_for_another(config, &mut report) {
            true => Known::Untold,
            false => Known::Nothing,
        };
        look_at_branches(config, known, &mut report);
        look_at_pools(config, &mut report);
        return Ok(report);
    };
    if repair {
        repair_all(config, &state.path, &mut report.repaired)?;
    }
    let memory = ledger::look(config, &state.path, &mut report);
    let known = memory.as_ref().map_or(Known::Untold, Known::Told);
    let branches = look_at_branches(config, known, &mut report);
    if let Some(memory) = &memory {
        let ids = configured(config, |name| memory.ids.get(name).copied());
        let is_past = |uuid| ids.as_ref().is_some_and(|ids| !ids.contains(&uuid));
        for found in inspect(&RealStorage, &memory.journal, &branches, &is_past) {
            report.findings.push(finding(found, &memory.ids));
        }
    }
    look_at_pools(config, &mut report);
    Ok(report)
}

impl Report {
    fn find(&mut self, about: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { about, text: text.into(), advice: advice.into() });
    }
}

/// The ids of all branches of the view, as a mount would have them: of any other, what records say is past. None
/// where a branch that the ledger does not know cannot be looked at: it may be any.
fn configured(
    config: &Config,
    known: impl Fn(&str) -> Option<BranchUuid>,
) -> Option<HashSet<BranchUuid>> {
    let mut ids = HashSet::new();
    for entry in &config.branches {
        match known(&entry.spec.name) {
            Some(id) => ids.extend([id]),
            None => ids.extend(Branch::look(&entry.spec).ok()?),
        }
    }
    Some(ids)
}

/// Compares the ids, and gives the branches that are the ones the ledger knows.
fn look_at_branches(
    config: &Config,
    known: Known<'_>,
    report: &mut Report,
) -> Vec<Arc<MoverBranch<RealStorage>>> {
    let mut good = Vec::new();
    let mut untold = Vec::new();
    for entry in &config.branches {
        let spec = &entry.spec;
        let name = &spec.name;
        match (Branch::look(spec), known.id(name)) {
            (Ok(Some(found)), Some(known)) if found == known => match folders(spec, known) {
                Ok(branch) => good.extend(branch.map(Arc::new)),
                Err(why) => report.find("branch", why, "look at its .octroi folder"),
            },
            (Ok(found), Some(known)) => {
                let found = found.map_or("no id".to_owned(), |id| format!("the id {id}"));
                let text = format!("branch {name} carries {found}; the ledger knows it as {known}");
                let advice = format!(
                    "is its disk mounted? if it was replaced on purpose, octroi mount --adopt {name}"
                );
                report.find("branch", text, advice);
            }
            (Ok(found), None) => match (&known, found) {
                (Known::Untold, _) => untold.push(name.as_str()),
                (_, Some(id)) => report.notes.push(format!(
                    "branch {name} is new here, and has the id {id}: mounting adopts it"
                )),
                (Known::Told(Memory { lost: true, .. }), None) if spec.mode != BranchMode::Ro => {
                    let text = format!(
                        "branch {name} has no id, and the ledger has lost lines that may have had \
                         one for it"
                    );
                    let advice = format!(
                        "if its disk is not mounted, mount it; if the branch is new, octroi mount \
                         --adopt {name}"
                    );
                    report.find("branch", text, advice);
                }
                // What is only read needs no id.
                (_, None) if spec.mode == BranchMode::Ro => {}
                (_, None) => {
                    report.notes.push(format!("branch {name} is new: mounting adopts it"));
                }
            },
            (Err(error), _) => {
                let (text, advice) = split_hint(&error);
                let advice =
                    advice.unwrap_or("what concerns it waits until it is there".to_owned());
                report.find("branch", text, advice);
            }
        }
    }
    if !untold.is_empty() {
        let names = untold.join(", ");
        report.notes.push(format!(
            "only the ledger could tell whether the branches are the right ones; not compared: {names}"
        ));
    }
    good
}

/// The folders of a branch that can be written; none of another.
fn folders(
    spec: &BranchSpec,
    uuid: BranchUuid,
) -> Result<Option<MoverBranch<RealStorage>>, String> {
    if spec.mode == BranchMode::Ro {
        return Ok(None);
    }
    let open = |below: &str| {
        let root = RealDir::open(&spec.path)?;
        RealStorage.open_dir(&root, Path::new(below))
    };
    let failed = |errno| format!("cannot open the folders of branch {}: {errno}", spec.name);
    Ok(Some(MoverBranch {
        index: spec.index,
        uuid,
        name: spec.name.clone(),
        root: open("").map_err(failed)?,
        stage: open(".octroi/stage").map_err(failed)?,
        hold: open(".octroi/hold").map_err(failed)?,
        min_free: spec.min_free,
    }))
}

fn split_hint(error: &BranchError) -> (String, Option<String>) {
    let text = error.to_string();
    match text.split_once("\nhint: ") {
        Some((text, hint)) => (text.to_owned(), Some(hint.to_owned())),
        None => (text, None),
    }
}

fn finding(found: Irregularity, ids: &BTreeMap<String, BranchUuid>) -> Finding {
    let shown = |name: &OsStr| name.to_string_lossy().into_owned();
    let (about, text, advice) = match found {
        Irregularity::Undecided(txid) => (
            "transaction",
            format!("{txid} was cut off before its decision"),
            "--repair rolls it back, as the next mount does".to_owned(),
        ),
        Irregularity::Unfinished(txid, outlook) => {
            let text = format!("{txid} is decided and not ended");
            let (text, advice) = match outlook {
                Outlook::Ends => (
                    text,
                    "--repair completes it or puts it back, as the next mount does; where neither can be, \
                     it needs a person, and all of it is kept"
                        .to_owned(),
                ),
                Outlook::Waits(branches) => {
                    let names = named(&branches, ids);
                    (text, format!("it waits until what it needs can be written: {names}"))
                }
                Outlook::NeedsPerson(why) => (
                    format!("{text}, and {why}"),
                    format!(
                        "bring back what is missing, if that is it, before you repair or mount: as it is, it \
                         will need a person (octroi tx show {txid}), and all of it is kept"
                    ),
                ),
            };
            ("transaction", text, advice)
        }
        Irregularity::Dead(txid, why) => (
            "transaction",
            format!("{txid} needs a person: {why}"),
            format!("mount the view, then octroi tx show {txid}"),
        ),
        Irregularity::Stage(branch, name) => (
            "stage",
            format!("branch {branch} has {} in stage, which no transaction needs", shown(&name)),
            "--repair removes it, as the next mount does".to_owned(),
        ),
        Irregularity::Unknown(branch, at) => (
            area(&at),
            format!("branch {branch} has .octroi/{}, which no transaction knows", shown(at.as_os_str())),
            "it is kept; look at it, and remove it by hand if nobody wants it".to_owned(),
        ),
        Irregularity::Returned(branch, at) => (
            area(&at),
            format!("branch {branch} has .octroi/{}, which was recorded as lost", shown(at.as_os_str())),
            "it is kept; take what you want of it, and remove it by hand".to_owned(),
        ),
        Irregularity::Purged(branch, name) => (
            "hold",
            format!("branch {branch} holds {}, whose purge is recorded", shown(&name)),
            "--repair removes it, as the next mount does".to_owned(),
        ),
        Irregularity::Missing(txid, why, true) => (
            "hold",
            format!("crossing {txid} cannot be undone: {why}"),
            "--repair records that, so that it is not offered".to_owned(),
        ),
        Irregularity::Missing(txid, why, false) => (
            "hold",
            format!("crossing {txid} cannot be undone: {why}"),
            "it can once all is back; --repair leaves it, for a part is there and kept until hold.keep has \
             passed"
                .to_owned(),
        ),
        Irregularity::Unreadable(branch, why) => {
            ("branch", format!("branch {branch}: {why}"), "look at its disk".to_owned())
        }
    };
    Finding { about, text, advice }
}

/// Which of the private folders a place is in.
fn area(at: &Path) -> &'static str {
    if at.starts_with("stage") { "stage" } else { "hold" }
}

/// Branches as the configuration calls them.
fn named(branches: &[BranchUuid], ids: &BTreeMap<String, BranchUuid>) -> String {
    let name = |uuid: &BranchUuid| {
        let known = ids.iter().find(|(_, id)| *id == uuid);
        known.map_or_else(|| format!("branch {uuid}"), |(name, _)| format!("branch {name}"))
    };
    branches.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn look_at_pools(config: &Config, report: &mut Report) {
    for pool in &config.pools {
        let specs = pool.members.iter().filter_map(|member| {
            config.branches.get(usize::from(member.0)).map(|entry| &entry.spec)
        });
        // Those that cannot be opened have been reported.
        let members =
            specs.filter_map(|spec| Some((spec.name.clone(), RealDir::open(&spec.path).ok()?)));
        let found = shadows::find(&RealStorage, members.collect());
        for shadow in found.conflicts {
            let text = format!("pool {}: {shadow}", pool.name);
            let advice = "the first is what is seen; rename or remove one of them, in its branch";
            report.find("pool", text, advice);
        }
        for why in found.failed {
            report.find("pool", format!("pool {}: {why}", pool.name), "look at the member's disk");
        }
        if found.hidden > 0 {
            let (name, files) = (&pool.name, counted(found.hidden, "name is", "names are"));
            report.notes.push(format!(
                "pool {name}: {files} on more than one member; the first is what is seen"
            ));
        }
    }
}

/// Opens everything as a mount would, recovers, and closes the ledger. New branches are not adopted.
fn repair_all(
    config: &Config,
    state: &Path,
    repaired: &mut Vec<String>,
) -> Result<(), DaemonError> {
    let storage = Arc::new(RealStorage);
    let found = copies::find(config, &[], repaired);
    let (ledger, memory) = open_ledger(&storage, &config.view, state, &found, repaired)?;
    let mut branches = Vec::new();
    for entry in &config.branches {
        let known = memory.known.get(&entry.spec.name).copied();
        let opened = known.map(|known| Branch::open(entry.spec.clone(), Some(known), false));
        branches.push(match opened {
            Some(Ok(opened)) => Some(opened.branch),
            // What is wrong with it is a finding.
            Some(Err(_)) | None => None,
        });
    }
    let ids = configured(config, |name| memory.known.get(name).copied());
    let movable = branches.iter().map(|branch| match branch {
        Some(branch) => mover_branch_at_start(branch),
        None => Ok(None),
    });
    let movable = movable.collect::<Result<Vec<_>, _>>()?;
    let uid = rustix::process::geteuid().as_raw();
    let record = |event| mount_record(Path::new(IN_PLACE_OF_A_MOUNT), uid, event);
    append(&ledger, record(MountEvent::Mounted))?;
    let lost = |mover: &Mover<RealStorage>, found: Vec<Irregularity>| {
        let lost = found.into_iter().filter_map(|one| match one {
            Irregularity::Missing(txid, _, true) => Some(txid),
            _ => None,
        });
        lost.filter(|txid| mover.record_lost(*txid)).collect::<Vec<TxId>>()
    };
    let mover = Mover::new(storage, Arc::clone(&ledger), movable, memory.journal);
    if let Some(ids) = ids {
        mover.set_configured(ids);
    }
    let mut recovery = mover.recover();
    // What is kept is a finding.
    recovery.unknown.clear();
    recovery.returned.clear();
    tell(&recovery, repaired);
    if recovery.swept > 0 {
        let swept = counted(recovery.swept, "entry", "entries");
        repaired.push(format!("removed {swept} of stage that nothing needs"));
    }
    if recovery.purged_left > 0 {
        let left = counted(recovery.purged_left, "entry", "entries");
        repaired.push(format!("removed {left} of hold whose purge was recorded"));
    }
    for txid in lost(&mover, mover.inspect()) {
        repaired.push(format!("recorded that nothing is left of what crossing {txid} kept"));
    }
    let closed = ledger.close_with(record(MountEvent::Unmounted));
    closed.map_err(|errno| DaemonError::Failed(format!("cannot close the ledger: {errno}")))
}
