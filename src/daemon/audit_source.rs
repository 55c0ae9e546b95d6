//! What `.audit` shows of the daemon, from memory alone: it is asked on request threads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::audit_dir::{AuditSource, TxState};
use crate::branch::Branch;
use crate::mover::{Mover, Progress, Transaction, TransactionState};
use crate::stats::Stats;
use crate::storage::real::RealStorage;
use crate::types::{TxId, ViewPath};

/// The parts that are shown.
pub(super) struct DaemonSource {
    pub branches: Vec<(ViewPath, Arc<Branch>)>,
    pub mover: Arc<Mover<RealStorage>>,
    pub stats: Arc<Stats>,
}

impl DaemonSource {
    /// Those that run, or wait for their turn; all of them are active.
    fn running(&self, state: TxState) -> Vec<Arc<Progress>> {
        match state {
            TxState::Active => self.mover.active(),
            TxState::Done | TxState::Dead => Vec::new(),
        }
    }
}

fn is_shown_in(found: &Transaction, state: TxState) -> bool {
    match state {
        TxState::Active => found.state == TransactionState::Active,
        TxState::Done => found.state == TransactionState::Done && !found.purged,
        TxState::Dead => found.state == TransactionState::Dead,
    }
}

fn describe(found: &Transaction) -> Option<Value> {
    let mut value = serde_json::to_value(&found.record).ok()?;
    let fields = value.as_object_mut()?;
    fields.insert("state".into(), serde_json::to_value(found.state).ok()?);
    fields.insert("started".into(), found.started.to_string().into());
    fields.insert("changed".into(), found.changed.to_string().into());
    fields.insert("purged".into(), found.purged.into());
    let optional = [
        ("reason", found.reason.clone()),
        ("result", found.result.clone()),
        ("undone_by", found.undone_by.map(|txid| txid.to_string())),
    ];
    for (name, text) in optional {
        if let Some(text) = text {
            fields.insert(name.into(), text.into());
        }
    }
    Some(value)
}

/// One that runs, as far as it is now; one that waits for its turn is not in the journal yet.
fn describe_running(progress: &Progress) -> Value {
    json!({
        "txid": progress.txid,
        "state": TransactionState::Active,
        "step": *progress.step.lock(),
        "bytes": progress.bytes.load(Ordering::Relaxed),
        "size": progress.size.load(Ordering::Relaxed),
        "files": progress.files.load(Ordering::Relaxed),
        "files_all": progress.files_all.load(Ordering::Relaxed),
        "gate": progress.gate,
        "undoes": progress.undoes,
        "uid": progress.uid,
        "source": progress.source,
        "target": progress.target,
        "branches": progress.branches,
        "started": progress.began.to_string(),
    })
}

impl AuditSource for DaemonSource {
    fn branches(&self) -> Vec<String> {
        self.branches.iter().map(|(_, branch)| branch.spec().name.clone()).collect()
    }

    fn branch(&self, name: &str) -> Option<Value> {
        let (at, branch) = self.branches.iter().find(|(_, branch)| branch.spec().name == name)?;
        let spec = branch.spec();
        let (fault, why, since) = branch.health().fault();
        Some(json!({
            "name": spec.name,
            "at": at,
            "path": spec.path.to_string_lossy(),
            "mode": spec.mode,
            "io": spec.io,
            "min_free": spec.min_free,
            "online": branch.is_online(),
            "id": branch.uuid(),
            "fault": fault,
            "why": why,
            "since": since.map(|since| since.to_string()),
        }))
    }

    fn transactions(&self, state: TxState) -> Vec<TxId> {
        let running = self.running(state);
        let is_running: HashSet<TxId> = running.iter().map(|progress| progress.txid).collect();
        let mut shown: Vec<TxId> = self.mover.with_journal(|journal| {
            let found = journal.iter().filter(|(_, found)| is_shown_in(found, state));
            found.map(|(txid, _)| txid).filter(|txid| !is_running.contains(txid)).collect()
        });
        shown.extend(running.iter().map(|progress| progress.txid));
        shown
    }

    fn is_in(&self, state: TxState, txid: TxId) -> bool {
        self.running(state).iter().any(|progress| progress.txid == txid)
            || self.mover.with_journal(|journal| {
                journal.get(txid).is_some_and(|found| is_shown_in(found, state))
            })
    }

    fn transaction(&self, state: TxState, txid: TxId) -> Option<Value> {
        if let Some(running) = self.running(state).iter().find(|progress| progress.txid == txid) {
            return Some(describe_running(running));
        }
        let found = self.mover.with_journal(|journal| {
            journal.get(txid).filter(|found| is_shown_in(found, state)).cloned()
        });
        describe(&found?)
    }

    fn stats(&self) -> String {
        self.stats.to_string()
    }
}
