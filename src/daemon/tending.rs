//! What is looked after while the view is served: what was prepared expires, and what is written through open
//! files is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::DaemonError;
use crate::types::after;
use crate::vfs::Vfs;

/// How often what was prepared expires.
const TEND: Duration = Duration::from_secs(1);
/// How often what was written through open files is recorded.
const TOTALS: Duration = Duration::from_secs(60);
/// How long a stop waits for the thread; what holds it ends with the process.
const STOP_WAIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// The thread that looks after it; ends when dropped.
pub(super) struct Tending {
    stop: Option<Sender<()>>,
    /// Disconnected when it has ended.
    ended: Receiver<()>,
}

impl Tending {
    pub(super) fn start(vfs: Arc<Vfs>) -> Result<Self, DaemonError> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (running, ended) = crossbeam_channel::bounded::<()>(0);
        let asking = Arc::new(AtomicBool::new(false));
        let mut totals = after(Instant::now(), TOTALS);
        let tend = move || {
            while stopped.recv_timeout(TEND) == Err(RecvTimeoutError::Timeout) {
                vfs.tend();
                if totals <= Instant::now() {
                    totals = after(Instant::now(), TOTALS);
                    vfs.record_open_totals();
                    ask_disks(&vfs, &asking);
                }
            }
            drop(running);
        };
        std::thread::Builder::new()
            .name("tend".into())
            .spawn(tend)
            .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { stop: Some(stop), ended })
    }
}

/// On a thread of its own, which nobody waits for: one of the disks may not answer.
fn ask_disks(vfs: &Arc<Vfs>, asking: &Arc<AtomicBool>) {
    if asking.swap(true, Ordering::AcqRel) {
        return;
    }
    let (vfs, done) = (Arc::clone(vfs), Arc::clone(asking));
    let ask = move || {
        vfs.record_passthrough_totals();
        done.store(false, Ordering::Release);
    };
    if let Err(error) = std::thread::Builder::new().name("totals".into()).spawn(ask) {
        log::warn!("cannot start a thread to record what is written: {error}");
        asking.store(false, Ordering::Release);
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        self.stop = None;
        let deadline = after(Instant::now(), STOP_WAIT);
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the thread that looks after the view does not end; it is given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::tests::fixture::Fixture;

    #[test]
    fn a_stop_does_not_wait_for_what_hangs() {
        let fixture = Fixture::new(vec![]);
        let tending = Tending::start(Arc::clone(&fixture.vfs)).expect("a thread");
        let (dropped, told) = crossbeam_channel::bounded(1);
        let stopping = fixture.vfs.with_journal(|_| {
            // By now it waits for the journal.
            std::thread::sleep(TEND * 2);
            let stopping = std::thread::spawn(move || {
                drop(tending);
                let _ = dropped.send(());
            });
            let stopped = told.recv_timeout(TEND * 30).is_ok();
            (stopping, stopped)
        });
        stopping.0.join().expect("no panic");
        assert!(stopping.1, "it waited");
    }
}
