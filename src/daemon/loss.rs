//! `octroi audit accept-loss`: going on with a ledger that is damaged or does not extend its checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state::State;
use super::{DaemonError, assemble, copies, load};
use crate::ledger::Acceptance;
use crate::storage::real::RealStorage;

/// What came of it.
#[derive(Debug)]
pub struct AcceptedLoss {
    /// What was found, in words.
    pub found: Vec<String>,
    /// The folder with what was taken out of the ledger.
    pub kept: Option<PathBuf>,
}

/// Records in the ledger of a view that is not mounted what differs from its checkpoints, and begins a
/// new key.
pub fn accept_loss(config: &Path, why: &str) -> Result<AcceptedLoss, DaemonError> {
    let loaded = load(config)?;
    let state = State::open_unmounted(&loaded.config.state, &loaded.config.view)?;
    let mut found = Vec::new();
    let copies = copies::find(&loaded.config, &[], &mut found).copies;
    let uid = rustix::process::getuid().as_raw();
    let accept = Some(Acceptance { why: why.to_owned(), uid });
    let (storage, view) = (Arc::new(RealStorage), &loaded.config.view);
    let (ledger, opened) =
        assemble::open_signed(&storage, view, &state.path, copies, accept, &mut |_| {})?;
    ledger
        .close()
        .map_err(|errno| DaemonError::Failed(format!("cannot close the ledger: {errno}")))?;
    found.extend(opened.lost);
    let kept = opened.kept.map(|folder| loaded.config.state.join(folder));
    Ok(AcceptedLoss { found, kept })
}
