//! What a signed ledger has more, and how its signing begins.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::accounted::Accounted;
use super::note::VerifierKey;
use super::sealer::{Durable, Sealer};
use super::store::TreeStore;
use super::{LedgerError, keys, start};
use crate::storage::Storage;

/// Whether a ledger extends a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extends {
    /// Shown by the tree.
    Yes,
    /// It vouches for lines that were accepted as lost.
    Lost,
    /// It cannot be told now; why not.
    Unknown(String),
    /// It does not; in words.
    No(String),
}

/// What a signed ledger has more.
pub struct Sealing<S: Storage> {
    pub durable: Arc<Durable>,
    pub thread: Mutex<Option<JoinHandle<()>>>,
    pub key: VerifierKey,
    pub accounted: Accounted,
    pub store: TreeStore<S>,
}

/// Starts the sealer. The first checkpoint of a key is published, and the key has its name, when this
/// returns.
pub fn begin<S: Storage>(
    storage: Arc<S>,
    dir: S::Dir,
    durable: Arc<Durable>,
    finished: start::Finished<S>,
) -> Result<Sealing<S>, LedgerError> {
    let failed = |attempted, file: &str, errno| {
        let file = file.to_owned();
        LedgerError::Tree { attempted, file, errno }
    };
    let start::Finished { begin, unborn, accounted, .. } = finished;
    let key = begin.signer.verifier().clone();
    let store = TreeStore::new(Arc::clone(&storage), dir.clone());
    let mut sealer = Sealer::new(storage, dir, Arc::clone(&durable), begin);
    if let Some((storage, state)) = unborn {
        sealer.seal().map_err(|errno| failed("publish", "the first checkpoint", errno))?;
        keys::name_key(&*storage, &state)?;
    }
    let thread = sealer.start().map_err(|error| {
        failed("start", "the thread that signs", crate::error::errno_of(&error))
    })?;
    Ok(Sealing { durable, thread: Mutex::new(Some(thread)), key, accounted, store })
}
