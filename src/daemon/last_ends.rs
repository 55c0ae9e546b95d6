//! Before the ledger is closed it is asked once more for the ends that it has refused: else the next mount would
//! complete what its caller was told is put back.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::mover::Mover;
use crate::storage::real::RealStorage;

/// How long a stop waits for that: as long as Linux gives a SCSI command before it is tried again
/// (`/sys/block/*/device/timeout`).
const ENDS_WAIT: Duration = Duration::from_secs(30);

/// Records what can be, in a bounded time: the ledger's disk may hang.
pub(super) fn record_last_ends(mover: &Arc<Mover<RealStorage>>) {
    let mover = Arc::clone(mover);
    if !ends_within(ENDS_WAIT, move || mover.record_last_ends()) {
        log::warn!("the ledger does not take how crossings ended; the next mount recovers them");
    }
}

/// Whether work ends in time; what does not ends with the process.
fn ends_within(wait: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (running, ended) = crossbeam_channel::bounded::<()>(0);
    let work = move || {
        work();
        drop(running);
    };
    let started = std::thread::Builder::new().name("last-ends".into()).spawn(work);
    started.is_ok() && ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_does_not_wait_for_a_ledger_that_hangs() {
        let (release, hangs) = crossbeam_channel::bounded::<()>(0);
        let (told, done) = crossbeam_channel::bounded(1);
        let work = move || {
            let _ = hangs.recv();
            let _ = told.send(());
        };
        assert!(!ends_within(Duration::from_millis(1), work), "it waited");
        drop(release);
        assert_eq!(done.recv(), Ok(()), "it was not even begun");
        assert!(ends_within(Duration::from_secs(60), || ()));
    }
}
