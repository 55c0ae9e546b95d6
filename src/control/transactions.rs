//! Transactions in answers: those that run, and those that have ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::ledger::record::{CrossingRecord, StoppedBy};
use crate::mover::{Progress, Transaction};
use crate::types::{TxId, ViewPath};
use crate::vfs::HIDDEN_LOSS;

use super::letters::DeadLetter;

/// A crossing under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveCrossing {
    /// The transaction.
    pub txid: TxId,
    /// User of the caller.
    pub uid: u32,
    /// From where.
    pub source: ViewPath,
    /// To where.
    pub target: ViewPath,
    /// `waiting` for its turn, or step of the protocol; `left open` where nobody is at it.
    pub step: String,
    /// Bytes that the step has copied, hashed or read back so far.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
    /// Files and other entries that the step has finished.
    #[serde(default)]
    pub files: u64,
    /// Files and other entries in all.
    #[serde(default)]
    pub files_all: u64,
    /// The command of the gate that has been running for longest, if one is.
    #[serde(default)]
    pub check: Option<RunningCheck>,
}

/// A command of a gate that looks at content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCheck {
    /// With its arguments.
    pub command: String,
    /// For how many seconds.
    pub seconds: u64,
}

/// Where a file lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// The branch; none for a folder that no branch provides.
    pub branch: Option<String>,
    /// Backing path, for root and the mounting user.
    pub backing: Option<Backing>,
    /// The crossings that brought it here, newest first.
    pub history: Vec<TransactionReport>,
}

/// A path on the backing file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing(#[serde(with = "crate::types::path_text")] pub PathBuf);

/// A transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransactionReport {
    /// Its id.
    pub txid: TxId,
    /// `active`, `done`, `reverted`, `aborted` or `dead`.
    pub state: String,
    /// How far it is, while it runs.
    #[serde(default)]
    pub running: Option<ActiveCrossing>,
    /// Time of the first record, RFC 3339.
    pub started: String,
    /// Time of the last record, RFC 3339.
    pub changed: String,
    /// The gate; none for an undo or a rearrangement.
    pub gate: Option<String>,
    /// A rename within a pool that is no crossing.
    #[serde(default)]
    pub rearrangement: bool,
    /// User of the caller.
    pub uid: u32,
    /// The caller's executable, a hint.
    pub exe: Option<Arc<str>>,
    /// From where.
    pub source: ViewPath,
    /// To where.
    pub target: ViewPath,
    /// Names of the branches of source and target.
    pub branches: [String; 2],
    /// SHA-256 of the content.
    pub sha256: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// How the copy was verified.
    pub readback: Option<String>,
    /// What the copy has lost, in the words of the gate's `lossy`.
    #[serde(default)]
    pub lost: Vec<String>,
    /// The transaction that this one takes back.
    pub undoes: Option<TxId>,
    /// The transaction that took this one back.
    pub undone_by: Option<TxId>,
    /// Whether it can still be taken back; told of one, also whether hold has what that needs.
    pub undoable: bool,
    /// Until when, RFC 3339; sooner where space runs short.
    #[serde(default)]
    pub undoable_until: Option<String>,
    /// Why it cannot be, of a crossing that was done and not taken back; for one only.
    #[serde(default)]
    pub not_undoable: Option<String>,
    /// Why it ended as it did.
    pub reason: Option<String>,
    /// Who had it stopped by `octroi tx abort`.
    #[serde(default)]
    pub stopped_by: Option<StoppedBy>,
    /// What the caller got.
    pub result: Option<String>,
    /// What there is of one that needs a person, and the choices; for root and the mounting user.
    #[serde(default)]
    pub letter: Option<Box<DeadLetter>>,
}

pub(super) fn active(progress: &Progress) -> ActiveCrossing {
    ActiveCrossing {
        txid: progress.txid,
        uid: progress.uid,
        source: progress.source.clone(),
        target: progress.target.clone(),
        step: (*progress.step.lock()).to_owned(),
        bytes: progress.bytes.load(Ordering::Relaxed),
        size: progress.size.load(Ordering::Relaxed),
        files: progress.files.load(Ordering::Relaxed),
        files_all: progress.files_all.load(Ordering::Relaxed),
        check: progress
            .oldest_check()
            .map(|(command, since)| RunningCheck { command, seconds: since.elapsed().as_secs() }),
    }
}

/// One that waits for a branch that is offline, or whose disk fails.
pub(super) fn left_open(record: &CrossingRecord) -> ActiveCrossing {
    ActiveCrossing {
        txid: record.txid,
        uid: record.uid,
        source: record.source.clone(),
        target: record.target.clone(),
        step: "left open".to_owned(),
        bytes: 0,
        size: record.size.unwrap_or(0),
        files: 0,
        files_all: 0,
        check: None,
    }
}

pub(super) fn running_report(progress: &Progress) -> TransactionReport {
    let began = progress.began.to_string();
    TransactionReport {
        txid: progress.txid,
        state: "active".to_owned(),
        running: Some(active(progress)),
        started: began.clone(),
        changed: began,
        gate: progress.gate.clone(),
        uid: progress.uid,
        exe: None,
        source: progress.source.clone(),
        target: progress.target.clone(),
        branches: progress.branches.clone(),
        sha256: None,
        size: Some(progress.size.load(Ordering::Relaxed)),
        readback: None,
        lost: Vec::new(),
        undoes: progress.undoes,
        rearrangement: progress.rearrangement,
        undone_by: None,
        undoable: false,
        undoable_until: None,
        not_undoable: None,
        reason: None,
        stopped_by: None,
        result: None,
        letter: None,
    }
}

/// A transaction that has ended. Its author may have moved what only others can read: the hash of the
/// content, what a directory has lost, and a reason that may name what is inside, are for the privileged.
/// `octroi why` tells the author what can be told.
pub(super) fn report(txid: TxId, found: &Transaction, privileged: bool) -> TransactionReport {
    let record = &found.record;
    let state = found.state.word();
    let is_tree = record.moves.is_empty() || record.moves.iter().any(|step| step.below.is_some());
    let lost = match !is_tree || privileged || record.lost.is_empty() {
        true => record.lost.clone(),
        false => vec![HIDDEN_LOSS.to_owned()],
    };
    TransactionReport {
        txid,
        state: state.to_owned(),
        running: None,
        started: found.started.to_string(),
        changed: found.changed.to_string(),
        gate: record.gate.clone(),
        uid: record.uid,
        exe: record.exe.clone(),
        source: record.source.clone(),
        target: record.target.clone(),
        branches: record.branches.clone(),
        sha256: record.sha256.clone().filter(|_| privileged),
        size: record.size,
        readback: record.readback.clone(),
        lost,
        undoes: record.undoes,
        undone_by: found.undone_by,
        rearrangement: record.rearrangement,
        undoable: found.is_undoable(),
        undoable_until: None,
        not_undoable: None,
        reason: found.reason.clone().filter(|_| privileged),
        stopped_by: found.stopped_by,
        result: found.result.clone(),
        letter: None,
    }
}
