//! Before the ledger is closed it is asked once more for the ends that it has refused: else the next mount would
//! complete what its caller was told is put back.

use std::sync::Arc;
use std::time::Duration;

use crate::mover::Mover;
use crate::storage::real::RealStorage;
use crate::types::within;

/// How long a stop waits for that: as long as Linux gives a SCSI command before it is tried again
/// (`/sys/block/*/device/timeout`).
const ENDS_WAIT: Duration = Duration::from_secs(30);

/// Records what can be, in a bounded time: the ledger's disk may hang.
pub(super) fn record_last_ends(mover: &Arc<Mover<RealStorage>>) {
    let mover = Arc::clone(mover);
    if !matches!(within(ENDS_WAIT, move || mover.record_last_ends()), Ok(Some(()))) {
        log::warn!("the ledger does not take how crossings ended; the next mount recovers them");
    }
}
