//! SIGTERM and SIGINT unmount; what follows is the same as after `fusermount3 -u`. SIGHUP reloads the policy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Handle;

use super::DaemonError;
use super::reload::{By, Reloading};
use super::unmount::{UnmountError, cut_off, unmount};

/// How long a stop waits for users of the view to leave, before they are cut off.
const GRACE: Duration = Duration::from_secs(5);

/// The signals, caught.
pub(super) struct Signals(signal_hook::iterator::Signals);

/// The thread that waits for signals; ends when dropped.
pub(super) struct Watching {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches them from now on; they are acted on once [`Signals::watch`] is called.
    pub fn new() -> Result<Self, DaemonError> {
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map(Self)
            .map_err(|error| DaemonError::Failed(format!("cannot catch signals: {error}")))
    }

    /// Unmounts or reloads when told to.
    pub fn watch(
        mut self,
        mountpoint: PathBuf,
        reloading: Arc<Reloading>,
    ) -> Result<Watching, DaemonError> {
        let handle = self.0.handle();
        let reload = start_reloads(reloading)?;
        let wait = move || {
            for signal in &mut self.0 {
                if signal == SIGHUP {
                    // Full: one that has not begun yet will read the file as it is now.
                    let _ = reload.try_send(());
                    continue;
                }
                log::info!("stopping on signal {signal}");
                stop(&mountpoint);
            }
        };
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Watching { handle, thread: Some(thread) })
    }
}

/// A thread of its own, so that a user database that hangs does not keep the view from being unmounted. It
/// ends with the sender, and is not waited for.
fn start_reloads(reloading: Arc<Reloading>) -> Result<Sender<()>, DaemonError> {
    let (asked, asks) = crossbeam_channel::bounded(1);
    let reload = move || {
        for () in asks {
            match reloading.reload(By::Signal) {
                Ok(report) if report.changed => {}
                Ok(report) => log::info!("{} is unchanged", report.config.display()),
                Err(why) => log::error!("cannot reload the policy, nothing has changed: {why}"),
            }
        }
    };
    std::thread::Builder::new()
        .name("reload".into())
        .spawn(reload)
        .map_err(|error| DaemonError::Failed(format!("cannot start a thread: {error}")))?;
    Ok(asked)
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.handle.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that waits for signals had failed");
        }
    }
}

/// Unmounts; whoever is still inside after the grace time is cut off, for the machine may be going
/// down.
fn stop(mountpoint: &Path) {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match unmount(mountpoint, false) {
            Ok(()) => return,
            Err(UnmountError::Busy) if begun.elapsed() < GRACE => {
                if !told {
                    log::warn!("the view is in use; waiting {} s", GRACE.as_secs());
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(UnmountError::Busy) => break,
            Err(UnmountError::Other(why)) => {
                log::error!("cannot unmount {}: {why}", mountpoint.display());
                break;
            }
        }
    }
    log::warn!("the view is still in use; cutting off who uses it");
    if let Err(error) = cut_off(mountpoint) {
        log::error!("cannot cut off who uses {}: {error}", mountpoint.display());
    }
}
