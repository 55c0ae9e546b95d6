//! Keeps the ledger as small as `audit.keep` and `audit.max_size` say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};
use parking_lot::Mutex;

use super::DaemonError;
use crate::error::Errno;
use crate::ledger::Ledger;
use crate::ledger::pruned::{Keep, Kept, Needed, Pruner};
use crate::mover::{Journal, TransactionState};
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchUuid, TxId, counted};
use crate::vfs::Vfs;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// The same while what is to leave waits for a checkpoint.
const SOON: Duration = Duration::from_secs(1);

/// What is needed to begin.
pub(super) struct Retention {
    pruner: Pruner<RealStorage>,
    /// Branches that the ledger knew at start.
    known: BTreeMap<String, BranchUuid>,
    bounded: bool,
    kept: TooLarge,
}

/// Why the ledger has more than `audit.max_size`, in words, as of the last look.
pub(super) type TooLarge = Arc<Mutex<Option<String>>>;

/// The thread; ends when dropped.
pub(super) struct Retaining {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Retention {
    pub(super) fn new(
        state: &Path,
        ledger: &Arc<Ledger<RealStorage>>,
        keep: Keep,
        (pruned, known): (u64, BTreeMap<String, BranchUuid>),
    ) -> Result<Self, Errno> {
        let dir = RealDir::open(&state.join("ledger"))?;
        let bounded = keep.age.is_some() || keep.size.is_some();
        let pruner = Pruner::new(Arc::new(RealStorage), dir, Arc::clone(ledger), keep, pruned);
        Ok(Self { pruner, known, bounded, kept: TooLarge::default() })
    }

    /// What it tells of a ledger that is too large.
    pub(super) fn too_large(&self) -> TooLarge {
        Arc::clone(&self.kept)
    }

    /// Begins, where there are bounds.
    pub(super) fn start(mut self, vfs: Arc<Vfs>) -> Result<Option<Retaining>, DaemonError> {
        if !self.bounded {
            return Ok(None);
        }
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let retain = move || {
            let mut said = None;
            let mut pause = EVERY;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let failed = self.prune(&vfs).err();
                if let Some(errno) = failed.filter(|errno| said != Some(*errno)) {
                    log::warn!("the ledger cannot be kept small: {errno}");
                }
                said = failed;
                pause = if self.pruner.is_waiting() { SOON } else { EVERY };
            }
        };
        let thread = std::thread::Builder::new()
            .name("retain".into())
            .spawn(retain)
            .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Some(Retaining { stop: Some(stop), thread: Some(thread) }))
    }

    fn prune(&mut self, vfs: &Vfs) -> Result<(), Errno> {
        let mut ids = self.known.clone();
        for (_, branch) in vfs.branches() {
            if let Some(id) = branch.uuid() {
                ids.insert(branch.name().to_owned(), id);
            }
        }
        let transaction = |txid: TxId| {
            vfs.with_journal(|journal| {
                let found = journal.get(txid);
                found.is_some_and(|found| found.keeps_all() || found.is_kept())
                    || journal.is_being_undone(txid)
            })
        };
        let needed = Needed { transaction: &transaction, ids };
        let gone = self.pruner.prune(jiff::Timestamp::now(), &needed)?;
        let kept = self.pruner.kept();
        *self.kept.lock() = kept.map(|kept| vfs.with_journal(|journal| words(kept, journal)));
        if gone > 0 {
            let gone = counted(gone as u64, "segment", "segments");
            log::info!("{gone} of the ledger left, as audit.keep and audit.max_size say");
        }
        Ok(())
    }
}

/// Why the oldest segment stays.
fn words(kept: Kept, journal: &Journal) -> String {
    let txid = match kept {
        Kept::Newest => return "only the newest segment is left, which stays".to_owned(),
        Kept::Unsigned => {
            return "no checkpoint covers the oldest segment, and the record that it leaves, yet"
                .to_owned();
        }
        Kept::Needed(None) => return "the oldest segment names a transaction by no id".to_owned(),
        Kept::Needed(Some(txid)) => txid,
    };
    let why = match journal.get(txid).map(|found| found.state) {
        Some(TransactionState::Active) => "is open",
        Some(TransactionState::Dead) => "needs a person",
        Some(TransactionState::Accepted) => "keeps what a person has not discarded",
        _ if journal.is_being_undone(txid) => "is being taken back",
        _ => "can be taken back, or its hold was not emptied yet",
    };
    format!("transaction {txid} in the oldest segment {why}")
}

impl Drop for Retaining {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that keeps the ledger small had failed");
        }
    }
}
