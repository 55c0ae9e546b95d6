//! What the daemon answers, and to whom: anyone may ask in their own name for
//! denials, decisions, undo and the place of what they can see; the rest is root's and the mounting
//! user's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Errno, errno_name};
use crate::mover::{CrossingError, Transaction, TransactionState};
use crate::policy::{Basis, Supposed};
use crate::sys::identity::CallerGuard;
use crate::types::{BranchMode, Caller, Operation, TxId, ViewPath};
use crate::vfs::{Asking, Explained, UndoError, UndoPlan, Vfs, unnamed};

use super::letters::{self, Wish};
use super::moves;
use super::protocol::{
    Answer, Backing, BranchStatus, DenialReport, Explanation, Hello, HitsReport, Limit, Location,
    ReloadReport, Request, Signed, Status, TRANSACTIONS_MAX, TransactionReport, UndoReport,
};
use super::server::{Connection, Service};
use super::transactions::{active, left_open, report, running_report};

/// Answers for one mounted view.
pub struct ViewService {
    /// The operations.
    pub vfs: Arc<Vfs>,
    /// Which view.
    pub hello: Hello,
    /// Its state folder.
    pub state: PathBuf,
    /// Bytes that the ledger may have.
    pub ledger_max: Option<u64>,
    /// Why it has more, as of the last look, if so.
    pub ledger_kept: Arc<Mutex<Option<String>>>,
    /// How long a crossing can be taken back.
    pub hold_keep: Duration,
    /// Since when it is mounted.
    pub started: jiff::Timestamp,
    /// Threads that failed.
    pub panics: &'static AtomicU64,
    /// How the policy is reloaded.
    pub reload: Box<Reload>,
}

type Answered = Result<Answer, String>;

/// Reads the configuration again for a user and puts its policy in force.
pub type Reload = dyn Fn(u32) -> Result<ReloadReport, NotReloaded> + Send + Sync;

/// Bytes of all segments of a ledger; as far as they can be told.
fn bytes_of_segments(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let segments = entries.flatten().filter(|entry| {
        Path::new(&entry.file_name()).extension().is_some_and(|end| end == "jsonl")
    });
    segments.filter_map(|entry| Some(entry.metadata().ok()?.len())).fold(0, u64::saturating_add)
}

/// Why a policy was not put in force; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    /// The file is wrong, or asks for more than another policy: diagnostics, ready to be shown.
    #[error("{0}")]
    Config(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Service for ViewService {
    fn answer(&self, peer: Caller, request: Request) -> Answer {
        let answered = match request {
            Request::Hello => Ok(Answer::Hello(self.hello.clone())),
            Request::Status => self.status(peer),
            Request::Why { path } => self.why(peer, path.as_ref()),
            Request::Where { path } => self.locate(peer, &path),
            Request::Explain { uid, operation, path, target, supposed } => {
                let uid = uid.unwrap_or(peer.uid);
                if uid == peer.uid || self.vfs.is_privileged(peer.uid) {
                    let paths = (&path, target.as_ref());
                    let asked = self.explain(peer, uid, operation, paths, &supposed);
                    asked.map(|explained| Answer::Explain(explanation(explained)))
                } else {
                    Err(not_permitted("explain for other users"))
                }
            }
            Request::Transactions { limit, dead, accepted } => {
                Ok(self.transactions(peer, limit, (dead, accepted)))
            }
            Request::Transaction { txid } => self.transaction(peer, txid),
            Request::PlanUndo { txid, path } => self.plan_undo(peer, txid, path.as_ref()),
            Request::Reload => self.reload(peer),
            Request::Hits => self.hits(peer),
            Request::Settle { txid, wish } => letters::settle(&self.vfs, peer, txid, wish),
            Request::Abort { txid } if self.is_dead(txid) && self.vfs.is_privileged(peer.uid) => {
                letters::settle(&self.vfs, peer, txid, Wish::Abort)
            }
            Request::Abort { txid } => {
                let aborted = self.vfs.abort(peer, txid);
                aborted.map(|()| Answer::Aborted).map_err(|error| error.to_string())
            }
            Request::Move { .. } => Err("a move is a conversation".to_owned()),
        };
        answered.unwrap_or_else(|why| Answer::Failed { why })
    }

    fn converse(
        &self,
        peer: Caller,
        request: Request,
        descriptors: Vec<OwnedFd>,
        connection: &Connection,
    ) -> io::Result<()> {
        moves::converse(self, peer, request, descriptors, connection)
    }
}

impl ViewService {
    fn status(&self, peer: Caller) -> Answered {
        if !self.vfs.is_privileged(peer.uid) {
            return Err(not_permitted("see the status"));
        }
        let (dead, accepted) = self.vfs.with_journal(|journal| {
            let dead = journal.dead().map(|(txid, _)| txid).take(TRANSACTIONS_MAX).collect();
            (dead, journal.iter().filter(|(_, found)| found.is_accepted_and_kept()).count())
        });
        Ok(Answer::Status(Box::new(Status {
            hello: self.hello.clone(),
            state: self.state.clone(),
            started: self.started.to_string(),
            generation: self.vfs.policy_generation(),
            ledger: self.vfs.ledger_fault().map(|errno| errno_name(errno).to_owned()),
            ledger_bytes: bytes_of_segments(&self.state.join("ledger")),
            ledger_max: self.ledger_max,
            ledger_kept: self.ledger_kept.lock().clone(),
            ledger_signed: self.vfs.ledger_signing().map(|(lines, signing)| Signed {
                lines,
                age_s: signing.age.map(|age| age.as_secs()),
                waiting_s: signing.waiting.map(|waiting| waiting.as_secs()),
                fault: signing.fault.map(|errno| errno_name(errno).to_owned()),
            }),
            known: self.vfs.known(),
            panics: self.panics.load(Ordering::Relaxed),
            branches: self.branches(),
            active: self
                .vfs
                .active_crossings()
                .iter()
                .map(|found| active(found))
                .chain(self.vfs.left_open().iter().map(left_open))
                .collect(),
            dead,
            accepted,
        })))
    }

    fn reload(&self, peer: Caller) -> Answered {
        if !self.vfs.is_privileged(peer.uid) {
            return Err(not_permitted("reload the policy"));
        }
        match (self.reload)(peer.uid) {
            Ok(report) => Ok(Answer::Reloaded(Box::new(report))),
            Err(NotReloaded::Config(why)) => Ok(Answer::NotReloaded { why }),
            Err(NotReloaded::Failed(why)) => Err(why),
        }
    }

    fn hits(&self, peer: Caller) -> Answered {
        if !self.vfs.is_privileged(peer.uid) {
            return Err(not_permitted("see how often rules decided"));
        }
        let in_force = self.vfs.in_force();
        let policy = in_force.policy.as_ref();
        Ok(Answer::Hits(HitsReport {
            generation: policy.map_or(0, |policy| policy.generation()),
            since: in_force.since.to_string(),
            counted: policy.map(|policy| policy.counted()).unwrap_or_default(),
        }))
    }

    fn branches(&self) -> Vec<BranchStatus> {
        let status = |(at, branch): (ViewPath, Arc<crate::branch::Branch>)| {
            let spec = branch.spec();
            // All from memory: a branch that hangs must not keep the others from being shown.
            let space = branch.last_space().unwrap_or_default();
            let bytes = |blocks: u64| blocks.saturating_mul(space.block_size.into());
            let (fault, why, since) = branch.health().fault();
            BranchStatus {
                name: spec.name.clone(),
                at,
                path: spec.path.clone(),
                mode: spec.mode,
                io: spec.io,
                id: branch.uuid(),
                fault: fault.map(str::to_owned),
                why,
                since: since.map(|since| since.to_string()),
                size: bytes(space.blocks),
                available: bytes(space.blocks_available),
                min_free: spec.min_free,
            }
        };
        self.vfs.branches().into_iter().map(status).collect()
    }

    fn why(&self, peer: Caller, path: Option<&ViewPath>) -> Answered {
        let Some(denial) = self.vfs.last_denial(peer.uid, path) else {
            return Ok(Answer::Why { denial: None });
        };
        let operation = denial.operation;
        let (path, target) = operation.sides(&denial.path, denial.target.as_ref());
        let explained =
            self.explain(peer, peer.uid, operation, (path, target), &denial.supposed)?;
        let (shown, target) =
            (self.shown(peer, path), target.map(|target| self.shown(peer, target)));
        let considered = match shown == *path {
            true => explained.considered,
            false => vec![unnamed(&denial.decision)],
        };
        let explained = Explained { decision: denial.decision, considered, limit: None };
        Ok(Answer::Why {
            denial: Some(Box::new(DenialReport {
                time: denial.time.to_string(),
                operation: denial.operation,
                path: shown,
                target,
                explanation: explanation(explained),
            })),
        })
    }

    /// What the policy says for a user, told to a peer who may ask that.
    fn explain(
        &self,
        peer: Caller,
        uid: u32,
        operation: Operation,
        (path, target): (&ViewPath, Option<&ViewPath>),
        supposed: &Supposed,
    ) -> Result<Explained, String> {
        let known = |path: &ViewPath| self.check_known(peer, path).is_ok();
        let visible = (known(path), target.is_some_and(known));
        let known = &known;
        let asking = Asking { uid, operation, path, target, visible, known, supposed };
        self.vfs.explain(&asking).map_err(groups_unknown)
    }

    /// What a peer is told of a path of a denial: it may be by another name of the file, in a folder where
    /// the peer may not look.
    fn shown(&self, peer: Caller, path: &ViewPath) -> ViewPath {
        let hidden = |path: &ViewPath| self.check_known(peer, path) == Err(Errno::ACCESS);
        let mut shown = path.clone();
        while hidden(&shown) {
            let Some(parent) = shown.parent() else { break };
            shown = parent;
        }
        shown
    }

    /// Whether a peer may know what is at a path.
    fn check_known(&self, peer: Caller, path: &ViewPath) -> Result<(), Errno> {
        if self.vfs.is_privileged(peer.uid) {
            Ok(())
        } else {
            self.check_visible(peer, path, false)
        }
    }

    /// Whether a peer may know what is in a folder.
    fn check_entered(&self, peer: Caller, folder: &ViewPath) -> Result<(), Errno> {
        if self.vfs.is_privileged(peer.uid) {
            Ok(())
        } else {
            self.check_visible(peer, folder, true)
        }
    }

    fn locate(&self, peer: Caller, path: &ViewPath) -> Answered {
        let privileged = self.vfs.is_privileged(peer.uid);
        let failed = |errno: Errno| match self.vfs.offline_at(path) {
            Some(branch) if errno == Errno::IO => CrossingError::Offline { branch }.to_string(),
            _ => errno.to_string(),
        };
        self.check_known(peer, path).map_err(failed)?;
        let located = self.vfs.locate(path).map_err(failed)?;
        let history = self.vfs.with_journal(|journal| {
            // Others' hold what a caller who may stat the path may still not know: where the file came
            // from, what it contained.
            let history = journal.history(path).into_iter();
            let history = history.filter(|(_, found)| privileged || found.record.uid == peer.uid);
            let history = history.take(TRANSACTIONS_MAX);
            history.map(|(txid, found)| report(txid, found, privileged)).collect()
        });
        Ok(Answer::Where(Location {
            branch: located.branch,
            backing: located.backing.filter(|_| privileged).map(Backing),
            history,
        }))
    }

    /// Whether a caller could stat a path, or what is in it: tried in the caller's name, through the
    /// mount, so that the kernel decides.
    fn check_visible(&self, peer: Caller, path: &ViewPath, inside: bool) -> Result<(), Errno> {
        let groups = self.vfs.groups_of(peer)?;
        let below = path.as_path().strip_prefix("/").map_err(|_| Errno::INVAL)?;
        let below = if inside { below.join(".") } else { below.to_owned() };
        let _guard = CallerGuard::assume(peer.uid, peer.gid, &groups, 0o077)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = &self.hello.mountpoint;
        let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
        if below.as_os_str().is_empty() {
            return Ok(());
        }
        // Callers' links could lead through the daemon's own /proc/self.
        let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&root, below, flags, Mode::empty(), confined).map(|_| ())
    }

    fn is_dead(&self, txid: TxId) -> bool {
        self.vfs.with_journal(|journal| {
            journal.get(txid).is_some_and(|found| found.state == TransactionState::Dead)
        })
    }

    /// Newest first: those that run, whether or not they are recorded yet, then those that have ended.
    /// With `dead` only those that need a person, with `accepted` those that were accepted and keep something.
    fn transactions(&self, peer: Caller, limit: usize, (dead, accepted): (bool, bool)) -> Answer {
        let all = self.vfs.is_privileged(peer.uid);
        let mut running = self.vfs.active_crossings();
        running.retain(|found| !dead && !accepted && (all || found.uid == peer.uid));
        let is_running = |txid| running.iter().any(|found| found.txid == txid);
        let ended: Vec<_> = self.vfs.with_journal(|journal| {
            let seen = journal.iter().rev().filter(|(txid, found)| {
                (all || found.record.uid == peer.uid)
                    && !is_running(*txid)
                    && (!dead || found.state == TransactionState::Dead)
                    && (!accepted || found.is_accepted_and_kept())
            });
            seen.take(limit.min(TRANSACTIONS_MAX))
                .map(|(txid, found)| report(txid, found, all))
                .collect()
        });
        running.sort_by_key(|found| std::cmp::Reverse((found.began, found.txid)));
        let mut transactions: Vec<_> = running.iter().map(|found| running_report(found)).collect();
        transactions.extend(ended);
        transactions.truncate(limit.min(TRANSACTIONS_MAX));
        Answer::Transactions { transactions }
    }

    fn transaction(&self, peer: Caller, txid: TxId) -> Answered {
        let privileged = self.vfs.is_privileged(peer.uid);
        let may = |uid: u32| uid == peer.uid || privileged;
        let running = self.vfs.active_crossings().into_iter().find(|found| found.txid == txid);
        if let Some(running) = running.filter(|found| may(found.uid)) {
            return Ok(Answer::Transaction(Box::new(running_report(&running))));
        }
        let found = self.vfs.with_journal(|journal| {
            journal.get(txid).filter(|found| may(found.record.uid)).cloned()
        });
        // Another's looks like none, so that ids cannot be probed.
        let found = found.ok_or("there is no such transaction, or it is another user's")?;
        let mut told = report(txid, &found, privileged);
        self.tell_undo(peer, &found, &mut told);
        told.letter = privileged.then(|| letters::letter(&self.vfs, txid, &found)).flatten();
        Ok(Answer::Transaction(Box::new(told)))
    }

    /// Whether an undo would find what it needs, and for how long it will.
    fn tell_undo(&self, peer: Caller, found: &Transaction, told: &mut TransactionReport) {
        if !found.is_crossing_made() {
            return;
        }
        if !told.undoable {
            told.not_undoable = Some(found.why_not_kept().to_owned());
            return;
        }
        let folders = [found.record.source.parent(), found.record.target.parent()];
        let known = |folder: ViewPath| self.check_entered(peer, &folder).is_ok();
        let names = match folders.into_iter().flatten().all(known) {
            true => self.vfs.check_undo_names(told.txid),
            false => Ok(()),
        };
        let hold = self.vfs.check_hold(told.txid);
        match hold.map_err(UndoError::from).and(names) {
            Ok(()) => {
                let until = found.changed.checked_add(self.hold_keep).ok();
                told.undoable_until = until.map(|until| until.to_string());
            }
            Err(error) => {
                told.undoable = false;
                told.not_undoable = Some(match error {
                    UndoError::Crossing(CrossingError::UndoImpossible { why, .. }) => why,
                    other => other.to_string(),
                });
            }
        }
    }

    fn plan_undo(&self, peer: Caller, txid: Option<TxId>, path: Option<&ViewPath>) -> Answered {
        let plan = self.vfs.plan_undo(peer, txid, path).map_err(|error| error.to_string())?;
        let UndoPlan { txid, source, target } = plan;
        Ok(Answer::UndoPlan(UndoReport { txid, source, target }))
    }
}

fn not_permitted(what: &str) -> String {
    format!("only root and the user who mounted the view may {what}")
}

fn groups_unknown(errno: Errno) -> String {
    format!("the user's groups cannot be looked up: {}", errno_name(errno))
}

fn explanation(explained: Explained) -> Explanation {
    let Explained { decision, considered, limit } = explained;
    Explanation {
        allowed: decision.allowed,
        by: by_text(&decision.basis),
        reason: decision.reason.as_deref().map(str::to_owned),
        limit: limit.map(|(bytes, basis)| Limit { bytes, by: by_text(&basis) }),
        considered,
    }
}

/// What decided where nothing of the policy did: it was allowed, and failed.
pub const BY_ERROR: &str = "an error";

/// What decided, for people.
pub fn by_text(basis: &Basis) -> String {
    match basis {
        Basis::Rule(name) => format!("rule {name}"),
        Basis::Gate(name) => format!("gate {name}"),
        Basis::NoGate => "no gate leads there".to_owned(),
        Basis::Mode(BranchMode::Rw) => "mode rw".to_owned(),
        Basis::Mode(BranchMode::Ro) => "mode ro".to_owned(),
        Basis::Mode(BranchMode::GatesOnly) => "mode gates-only".to_owned(),
        Basis::Default => "policy.within".to_owned(),
        Basis::Label => "the guard of labels".to_owned(),
        Basis::Virtual => "a folder that no branch provides".to_owned(),
        Basis::View => "the view itself".to_owned(),
        Basis::Error => BY_ERROR.to_owned(),
    }
}
