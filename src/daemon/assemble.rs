//! From a configuration to a [`Vfs`] that can serve: ledger, branches, recovery.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::audit_source::DaemonSource;
use super::checks::RealCommands;
use super::retention::Retention;
use super::{DaemonError, Launch, append, copies};
use crate::audit_dir::AuditDir;
use crate::branch::{Adoption, Branch, BranchError, BranchSpec, Ids};
use crate::config::{BranchEntry, Config, Loaded, PoolEntry, RecordLevel as Recorded};
use crate::error::Errno;
use crate::ledger::record::BranchRecord;
use crate::ledger::{self, Acceptance, CheckpointCopy, Extends, Ledger, LedgerError, Record, Seal};
use crate::mover::{Journal, Mover, MoverBranch, Recovery};
use crate::policy::Policy;
use crate::stats::Stats;
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchMode, BranchUuid, TxId, ViewPath, counted};
use crate::vfs::{Parts, RecordLevel, Vfs};
use crate::view::{Invalidation, Pool};

/// What serves.
pub(super) struct Assembled {
    pub vfs: Arc<Vfs>,
    pub invalidations: Receiver<Invalidation>,
    pub ledger: Arc<Ledger<RealStorage>>,
    pub mover: Arc<Mover<RealStorage>>,
    pub retention: Retention,
    /// Branches that came into the view.
    pub adopted: Vec<String>,
}

/// What the ledger remembers.
#[derive(Default)]
pub(super) struct Memory {
    pub known: BTreeMap<String, BranchUuid>,
    pub journal: Journal,
    /// Lines before this one were to leave.
    pub pruned: u64,
    /// Lines were lost, perhaps with the ids of branches.
    pub lost: bool,
}

/// Builds everything below the transports. Recovery has run when it returns.
pub(super) fn assemble(
    loaded: &Loaded,
    launch: &Launch,
    state: &Path,
    notices: &mut Vec<String>,
) -> Result<Assembled, DaemonError> {
    let config = &loaded.config;
    let names = || config.branches.iter().map(|entry| entry.spec.name.as_str());
    if let Some(stranger) = launch.adopt.iter().find(|name| !names().any(|known| known == **name)) {
        let known = names().collect::<Vec<_>>().join(", ");
        return Err(DaemonError::Usage(format!(
            "cannot adopt branch {stranger}: there is none of that name\nhint: there are {known}"
        )));
    }
    let storage = Arc::new(RealStorage);
    let found = copies::find(config, &launch.adopt, notices);
    log::info!("reading the ledger");
    let (ledger, mut memory) = open_ledger(&storage, &config.view, state, &found, notices)?;
    let (mut branches, mut adopted) = (Vec::new(), Vec::new());
    let mut ids = Ids::default();
    for entry in &config.branches {
        let adopt = launch.adopt.contains(&entry.spec.name);
        let known = memory.known.get(&entry.spec.name).copied();
        if memory.lost && known.is_none() && !adopt {
            refuse_unknown(&entry.spec)?;
        }
        let (branch, record) = open_branch(&entry.spec, known, adopt, notices)?;
        // Also that of one that is offline, which is known.
        ids.add(&entry.spec, branch.uuid().or(known))
            .map_err(|error| DaemonError::Failed(error.to_string()))?;
        if branch.is_online() && known.is_some() && found.without.contains(&entry.spec.name) {
            notices.push(format!(
                "branch {} has no copy of the ledger's checkpoint, which it had if it was mounted \
                 before: it cannot show whether the state folder was put back to an earlier day",
                entry.spec.name
            ));
        }
        if let Some(BranchRecord { replaced: true, branch, .. }) = &record {
            let path = entry.spec.path.display();
            notices.push(format!(
                "branch {branch} is {path} now, and no longer what was mounted before: what is in that is not shown"
            ));
        }
        if let Some(record) = record {
            refuse_ahead(&branch, &memory.journal)?;
            memory.journal.adopt(record.id, jiff::Timestamp::now());
            append(&ledger, Record::Branch(record))?;
            if adopt {
                forget_others(&branch, &ledger)?;
            }
            adopted.push(branch.name().to_owned());
        }
        if let Some(id) = branch.uuid() {
            memory.journal.name_branch(id, branch.name());
        }
        branches.push((place(config, entry), Arc::new(branch)));
    }
    let movable: Vec<_> = branches
        .iter()
        .map(|(_, branch)| mover_branch_at_start(branch))
        .collect::<Result<_, _>>()?;
    let configured = branches.iter().filter_map(|(_, branch)| {
        branch.uuid().or_else(|| memory.known.get(branch.name()).copied())
    });
    let configured = configured.collect();
    let retention =
        Retention::new(state, &ledger, config.audit_keep, (memory.pruned, memory.known))
            .map_err(|errno| DaemonError::Failed(format!("cannot open the ledger: {errno}")))?;
    let mover = Mover::new(storage, Arc::clone(&ledger), movable, memory.journal);
    mover.set_commands(Box::new(RealCommands::new(config)));
    mover.set_pace(config.crossings.parallel, config.crossings.rate);
    mover.set_configured(configured);
    log::info!("ending what was interrupted");
    let recovery = mover.recover();
    tell(&recovery, notices);
    tell_waiting(&mover, &recovery, notices);
    let stats = Arc::new(Stats::new());
    let source = DaemonSource {
        branches: branches.clone(),
        mover: Arc::clone(&mover),
        stats: Arc::clone(&stats),
    };
    let policy = Policy::new(config.policy.clone(), 1)
        .map_err(|error| DaemonError::Config(format!("cannot compile the policy: {error}")))?;
    let parts = Parts {
        name: config.view.clone(),
        branches,
        pools: config.pools.iter().map(pool).collect(),
        policy,
        ledger: Arc::clone(&ledger),
        mover: Arc::clone(&mover),
        record: match config.record {
            Recorded::Crossings => RecordLevel::Crossings,
            Recorded::Mutations => RecordLevel::Mutations,
            Recorded::Everything => RecordLevel::Everything,
        },
        readers: config.readers.clone(),
        owner: rustix::process::geteuid().as_raw(),
        audit: audit_dir(state, loaded, source, &ledger)?,
        stats,
        locked: recovery.locked,
    };
    let (vfs, invalidations) = Vfs::new(parts);
    Ok(Assembled { vfs, invalidations, ledger, mover, retention, adopted })
}

fn audit_dir(
    state: &Path,
    loaded: &Loaded,
    source: DaemonSource,
    ledger: &Ledger<RealStorage>,
) -> Result<AuditDir, DaemonError> {
    let path = state.join("ledger");
    let audit = AuditDir::new(path.clone(), loaded.text.clone(), Box::new(source));
    let Some(key) = ledger.key() else { return Ok(audit) };
    audit.signed(key.to_string()).map_err(|errno| {
        DaemonError::Failed(format!("cannot open the ledger {}: {errno}", path.display()))
    })
}

/// Where a branch appears, or the pool that it is a member of.
fn place(config: &Config, entry: &BranchEntry) -> ViewPath {
    let mut pools = config.pools.iter();
    let pool = pools.find(|pool| pool.members.contains(&entry.spec.index));
    let at = entry.at.as_ref().or(pool.map(|pool| &pool.at));
    at.cloned().unwrap_or_else(ViewPath::root)
}

fn pool(entry: &PoolEntry) -> Pool {
    Pool {
        name: entry.name.clone(),
        at: entry.at.clone(),
        members: entry.members.clone(),
        place: entry.place,
    }
}

pub(super) fn open_ledger(
    storage: &Arc<RealStorage>,
    view: &str,
    state: &Path,
    found: &copies::Found,
    notices: &mut Vec<String>,
) -> Result<(Arc<Ledger<RealStorage>>, Memory), DaemonError> {
    let mut memory = Memory::default();
    let mut remember = |entry: &crate::ledger::Entry| {
        for (name, id) in entry.record.ids() {
            memory.known.insert(name.to_owned(), id);
        }
        memory.lost |= matches!(entry.record, Record::Loss(_));
        memory.journal.apply(entry);
    };
    let copies = found.copies.clone();
    let (ledger, opened) = open_signed(storage, view, state, copies, None, &mut remember)?;
    memory.journal.begin(jiff::Timestamp::now());
    let is_extended = |note: &[u8]| ledger.extends(note) == Extends::Yes;
    found.doubt_others(&mut memory.journal, &memory.known, is_extended);
    memory.pruned = opened.pruned;
    if opened.unclean {
        notices
            .push("the last run did not stop cleanly; the ledger says so in a gap record".into());
    }
    if opened.torn_bytes > 0 {
        let bytes = counted(opened.torn_bytes, "byte", "bytes");
        notices.push(format!("cut {bytes} of a torn last line off the ledger"));
    }
    if opened.damaged_tiles > 0 {
        let tiles = counted(opened.damaged_tiles, "tile", "tiles");
        notices.push(format!(
            "missing or wrong in the ledger's tree: {tiles}; made again from its lines, which are \
             those that were signed"
        ));
    }
    Ok((ledger, memory))
}

/// Opens the ledger of a state folder, which must extend every checkpoint, or takes the loss.
pub(super) fn open_signed(
    storage: &Arc<RealStorage>,
    view: &str,
    state: &Path,
    copies: Vec<CheckpointCopy>,
    accept: Option<Acceptance>,
    remember: &mut dyn FnMut(&crate::ledger::Entry),
) -> Result<(Arc<Ledger<RealStorage>>, ledger::Opened), DaemonError> {
    let path = state.join("ledger");
    let failed = |why: String| {
        DaemonError::Failed(format!("cannot open the ledger {}: {why}", path.display()))
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {
            let synced = std::fs::File::open(state).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failed(error.to_string()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error.to_string())),
    }
    let open = |path: &Path| RealDir::open(path).map_err(|errno| failed(errno.to_string()));
    let (state, dir) = (open(state)?, open(&path)?);
    let seal = Seal { state, copies, accept };
    Ledger::open_signed(Arc::clone(storage), dir, view, &seal, remember)
        .map_err(|error: LedgerError| failed(error.to_string()))
}

/// Refuses branches that are not fit, before anything is made or adopted. Whether each is the one
/// that the ledger knows is asked later, and so are branches that are missing from a view that has
/// been mounted before.
pub(super) fn look_at_branches(config: &Config) -> Result<(), DaemonError> {
    let mounted_before = config.state.exists();
    let mut ids = Ids::default();
    for entry in &config.branches {
        match Branch::look(&entry.spec).and_then(|id| ids.add(&entry.spec, id)) {
            Ok(()) | Err(BranchError::InUse { .. }) => {}
            Err(error) if error.is_missing() && mounted_before => {}
            Err(error) => return Err(DaemonError::Failed(error.to_string())),
        }
    }
    Ok(())
}

/// Where lines of the ledger were lost that may have named a branch, an empty folder may be the mount point
/// of its disk.
fn refuse_unknown(spec: &BranchSpec) -> Result<(), DaemonError> {
    let is_new = |found: Option<BranchUuid>| found.is_none() && spec.mode != BranchMode::Ro;
    if !Branch::look(spec).is_ok_and(is_new) {
        return Ok(());
    }
    let name = &spec.name;
    Err(DaemonError::Failed(format!(
        "branch {name} has no id, and the ledger has lost lines that may have had one for it\n\
         hint: if its disk is not mounted, mount it; if the branch is new, octroi mount --adopt {name}"
    )))
}

/// Opens a branch, with what the ledger must learn where its id is new, or somebody adopts it. One that was there
/// before and is missing now comes up offline.
fn open_branch(
    spec: &BranchSpec,
    known: Option<BranchUuid>,
    adopt: bool,
    notices: &mut Vec<String>,
) -> Result<(Branch, Option<BranchRecord>), DaemonError> {
    let opened = match Branch::open(spec.clone(), known, adopt) {
        Ok(opened) => opened,
        Err(error)
            if error.is_missing()
                && !adopt
                && let Some(known) = known =>
        {
            let offline = Branch::offline(spec.clone(), known, &error);
            notices.push(format!("branch {} is offline: {error}", spec.name));
            return Ok((offline, None));
        }
        Err(error) => return Err(DaemonError::Failed(error.to_string())),
    };
    let branch = opened.branch;
    let id = match opened.adoption {
        Adoption::Found(id) | Adoption::New(id) => Some(id),
        // It may have been another view's meanwhile.
        Adoption::Known => branch.uuid().filter(|_| adopt),
    };
    let record = id.map(|id| {
        let replaced = known.is_some_and(|known| known != id);
        BranchRecord { branch: spec.name.clone(), id, replaced }
    });
    Ok((branch, record))
}

/// Removes what an adopted branch holds of another ledger: by that, the other view would trust it again.
fn forget_others(branch: &Branch, ledger: &Ledger<RealStorage>) -> Result<(), DaemonError> {
    let failed = |errno| {
        let name = branch.name();
        DaemonError::Failed(format!("cannot remove .octroi/checkpoint of branch {name}: {errno}"))
    };
    match branch.kept_checkpoint() {
        Ok(None) => Ok(()),
        Ok(Some(found)) if ledger.extends(&found) == Extends::Yes => Ok(()),
        _ => branch.remove_checkpoint().map_err(failed),
    }
}

/// Refuses to adopt a branch in whose stage somebody's clock was ahead of ours.
fn refuse_ahead(branch: &Branch, journal: &Journal) -> Result<(), DaemonError> {
    let name = branch.name();
    let ahead = copies::ahead_in_stage(branch, |txid| journal.get(txid).is_some());
    match ahead {
        Ok(None) => Ok(()),
        Ok(Some(txid)) => Err(DaemonError::Failed(format!(
            "cannot adopt branch {name}: .octroi/stage/{txid} in it is of a time that this machine's clock has not \
             reached\nhint: set the clock, or move that out of .octroi: it may be the last copy that another view has"
        ))),
        Err(errno) => Err(DaemonError::Failed(format!(
            "cannot look into .octroi/stage of branch {name}: {errno}"
        ))),
    }
}

pub(super) fn mover_branch_at_start(
    branch: &Branch,
) -> Result<Option<MoverBranch<RealStorage>>, DaemonError> {
    let folders = match (branch.root(), branch.stage(), branch.hold()) {
        (Ok(root), Ok(stage), Ok(hold)) => [root, stage, hold],
        // Offline, or read-only: it has neither stage nor hold.
        (Err(_), ..) | (_, Err(_), _) | (_, _, Err(_)) => return Ok(None),
    };
    let [root, stage, hold] = folders.each_ref().map(|folder| folder.as_fd());
    mover_branch(branch, [root, stage, hold]).map_err(|errno| {
        let name = branch.name();
        DaemonError::Failed(format!("cannot open the folders of branch {name}: {errno}"))
    })
}

/// What the mover needs of a branch that can be written: its root, stage and hold.
pub(super) fn mover_branch(
    branch: &Branch,
    folders: [BorrowedFd<'_>; 3],
) -> Result<Option<MoverBranch<RealStorage>>, Errno> {
    let Some(uuid) = branch.uuid() else { return Ok(None) };
    let [root, stage, hold] = folders;
    Ok(Some(MoverBranch {
        index: branch.spec().index,
        uuid,
        name: branch.name().to_owned(),
        root: RealDir::from_fd(root)?,
        stage: RealDir::from_fd(stage)?,
        hold: RealDir::from_fd(hold)?,
        min_free: branch.spec().min_free,
    }))
}

/// More dead letters than these are counted.
const WAITING_TOLD: usize = 5;

/// Dead letters of earlier mounts.
fn tell_waiting(mover: &Mover<RealStorage>, recovery: &Recovery, notices: &mut Vec<String>) {
    let waiting: Vec<TxId> = mover.with_journal(|journal| {
        let of_before = |txid: &TxId| !recovery.dead.iter().any(|(dead, _)| dead == txid);
        journal.dead().map(|(txid, _)| txid).filter(of_before).collect()
    });
    if waiting.len() > WAITING_TOLD {
        let count = waiting.len();
        notices.push(format!("{count} transactions need a person; see octroi tx list --dead"));
        return;
    }
    for txid in waiting {
        notices.push(format!("transaction {txid} still needs a person; see octroi tx show {txid}"));
    }
}

pub(super) fn tell(recovery: &Recovery, notices: &mut Vec<String>) {
    for txid in &recovery.completed {
        notices.push(format!("crossing {txid} was cut off after its decision; it is completed"));
    }
    for txid in &recovery.aborted {
        notices.push(format!("crossing {txid} was cut off before its decision; it is rolled back"));
    }
    for (txid, why) in &recovery.reverted {
        notices.push(format!("crossing {txid} could not be completed and was put back: {why}"));
    }
    for (txid, why) in &recovery.dead {
        notices.push(format!("crossing {txid} needs a person; all of it is kept: {why}"));
    }
    for (txid, why) in &recovery.accepted {
        notices.push(format!("crossing {txid}, which was accepted, waits no more: {why}"));
    }
    for (txid, why) in &recovery.left_open {
        notices.push(format!("crossing {txid} waits for its branch: {why}"));
    }
    for (branch, at) in &recovery.unknown {
        let at = at.display();
        notices.push(format!(
            "branch {branch} has .octroi/{at}, which no transaction knows; it is kept"
        ));
    }
    for (branch, at) in &recovery.returned {
        let at = at.display();
        notices.push(format!(
            "branch {branch} has .octroi/{at}, which was recorded as lost; it is kept"
        ));
    }
}
