//! `octroi audit accept-loss`: going on with a ledger that does not extend its checkpoints.

use std::path::Path;
use std::sync::Arc;

use super::state::State;
use super::{DaemonError, assemble, copies, load};
use crate::ledger::Acceptance;
use crate::storage::real::RealStorage;

/// Records in the ledger of a view that is not mounted what differs from its checkpoints, and begins a
/// new key. Gives what was found, in words.
pub fn accept_loss(config: &Path, why: &str) -> Result<Vec<String>, DaemonError> {
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
    Ok(found)
}
