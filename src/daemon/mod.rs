//! The daemon of one view: wire everything together, serve, and stop without losing anything.
//!
//! The order matters. Nothing is changed before the configuration, the mountpoint and the state folder
//! were found good; the lock comes before the ledger, the ledger before the branches (whose ids it
//! knows), recovery before the mount. At the end the mount is gone first, then the control socket; what
//! still runs is waited for, and only then the ledger is closed and the lock released.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use signal_hook::consts::SIGXFSZ;

use crate::config::{self, Config, Loaded};
use crate::control::moves::device_of;
use crate::control::protocol::Hello;
use crate::control::{Server, ViewService};
use crate::fuse::{MountOptions, Mounted};
use crate::ledger::record::{MountEvent, MountRecord, PolicyRecord};
use crate::ledger::{Durability, Ledger, Record};
use crate::storage::real::RealStorage;
use crate::sys::limits;
use crate::vfs::Vfs;

mod assemble;
mod audit_source;
pub mod checks;
mod copies;
pub mod detach;
mod difference;
pub mod fsck;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod last_ends;
mod loss;
mod mountpoint;
mod presence;
mod reload;
mod retention;
pub mod state;
mod stop;
mod tending;
pub mod unmount;
mod unprivileged;

use copies::Copies;
pub use loss::accept_loss;
use presence::Presence;
use reload::{By, Reloading};
use retention::TooLarge;
use state::State;
use tending::Tending;

/// Threads that panicked in this process. Each is a bug; the mount goes on without the thread.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How long a stop waits for crossings under way.
const CROSSINGS_WAIT: Duration = Duration::from_secs(60);

/// What to mount, where and how.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The configuration.
    pub config: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// How.
    pub options: MountOptions,
    /// Branches whose directory may carry another id than the ledger knows.
    pub adopt: Vec<String>,
    /// The mountpoint need not be empty.
    pub nonempty: bool,
}

/// Why a view was not mounted, or did not stop cleanly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DaemonError {
    /// The configuration is wrong: rendered diagnostics.
    #[error("{0}")]
    Config(String),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Anything else; a hint may follow on a line of its own after `hint: `.
    #[error("{0}")]
    Failed(String),
}

/// A view that is mounted and serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Name of the view.
    pub view: String,
    /// What the mounting user should know: recoveries, branches that are missing, what cannot be done
    /// without root.
    pub notices: Vec<String>,
}

/// Reads a configuration for mounting.
pub fn load(path: &Path) -> Result<Loaded, DaemonError> {
    config::load(path).map_err(|errors| DaemonError::Config(errors.to_string()))
}

/// Mounts and serves until the view is unmounted, by a signal or from outside. `live` is called once,
/// when the mount answers.
pub fn serve(launch: &Launch, live: impl FnOnce(&Live)) -> Result<(), DaemonError> {
    let config_path = absolute(&launch.config)?;
    let loaded = load(&config_path)?;
    let mut notices: Vec<String> =
        loaded.warnings.iter().map(|warning| warning.message.clone()).collect();
    let mountpoint = mountpoint::prepare(launch, &loaded.config, &mut notices)?;
    assemble::look_at_branches(&loaded.config)?;
    notices.extend(checks::probe(&loaded.config).map_err(DaemonError::Failed)?);
    let state = State::open(&loaded.config.state, &loaded.config.view, &mountpoint)?;
    // A signal from here on ends in a clean stop, not in the middle of a mount.
    let signals = stop::Signals::new()?;
    let open_max = prepare_process(&mut notices);
    if !rustix::process::geteuid().is_root() {
        notices.extend(unprivileged::differences(&loaded.config, &launch.options));
    }

    let assembled = assemble::assemble(&loaded, launch, &state.path, &mut notices)?;
    let (vfs, ledger) = (assembled.vfs, assembled.ledger);
    vfs.set_open_max(open_max);
    let uid = rustix::process::geteuid().as_raw();
    let record = mount_record(&mountpoint, uid, MountEvent::Mounted);
    let policy = PolicyRecord {
        sha256: loaded.sha256.clone(),
        previous: None,
        generation: 1,
        uid,
        by_signal: false,
    };
    append(&ledger, Record::Policy(policy))?;
    append(&ledger, record)?;
    let mounted = match mount(launch, &vfs, assembled.invalidations, &mountpoint) {
        Ok(mounted) => mounted,
        Err(error) => {
            let _ = close(&ledger, &mountpoint, uid);
            return Err(error);
        }
    };
    let hello = Hello {
        view: loaded.config.view.clone(),
        mountpoint: mountpoint.clone(),
        device: device(&mountpoint, &mut notices),
        config: config_path,
        pid: std::process::id(),
        uid,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let reloading = Arc::new(Reloading::new(&vfs, &ledger, &hello.config, &loaded));
    let too_large = assembled.retention.too_large();
    let server =
        start_control(&vfs, hello, &state, (&loaded.config, too_large), &reloading, &mut notices);
    for notice in &notices {
        log::warn!("{notice}");
    }
    log::info!("view {} is mounted at {}", loaded.config.view, mountpoint.display());
    live(&Live { view: loaded.config.view.clone(), notices });

    let watching = signals.watch(mountpoint.clone(), reloading)?;
    let tending = Tending::start(Arc::clone(&vfs))?;
    let presence = Presence::start(
        &vfs,
        &ledger,
        &assembled.mover,
        (loaded.config.hold_max, loaded.config.hold_keep),
    )?;
    let retaining = assembled.retention.start(Arc::clone(&vfs))?;
    let copies = Copies::start(&vfs, &ledger, &assembled.mover, &assembled.adopted)?;
    let ended = mounted.wait();
    if let Err(error) = &ended {
        log::error!("the connection to the kernel ended: {error}");
    }
    drop((watching, server, tending, retaining, presence));
    vfs.shut_down();
    finish_crossings(&vfs);
    last_ends::record_last_ends(&assembled.mover);
    close(&ledger, &mountpoint, uid)?;
    drop(copies);
    log::info!("view {} is unmounted, its ledger closed", loaded.config.view);
    Ok(())
}

/// Waits for crossings whose callers were cut off. What is not done in time is recovered by the next
/// mount, as after a crash.
fn finish_crossings(vfs: &Vfs) {
    let begun = Instant::now();
    while !vfs.active_crossings().is_empty() {
        if begun.elapsed() > CROSSINGS_WAIT {
            return log::warn!("crossings are still under way; the next mount recovers them");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn absolute(path: &Path) -> Result<PathBuf, DaemonError> {
    let failed = |error| DaemonError::Failed(format!("cannot find {}: {error}", path.display()));
    match path.canonicalize() {
        Ok(path) => Ok(path),
        // Left to the reading of the configuration, which says so better.
        Err(_) => std::path::absolute(path).map_err(failed),
    }
}

/// Limits, capabilities and what happens when a thread panics; before there are other threads. Gives how
/// many files users may have open.
fn prepare_process(notices: &mut Vec<String>) -> usize {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(info);
        log::error!("a thread failed, which is a bug: {info}");
    }));
    let limit = limits::raise_open_files().unwrap_or_else(|errno| {
        notices.push(format!("cannot raise the limit of open files: {errno}"));
        limits::open_files()
    });
    match limits::lift_limits() {
        Ok(None) => {}
        Ok(Some(bytes)) => notices.push(format!(
            "no file can grow beyond {bytes} bytes: the limit of the shell that mounts (ulimit -f) holds"
        )),
        Err(errno) => notices.push(format!("cannot lift the limit of file sizes: {errno}")),
    }
    // Then a write fails with EFBIG.
    let seen = Arc::default();
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, seen) {
        notices.push(format!("cannot handle SIGXFSZ: {error}"));
    }
    if let Err(errno) = limits::drop_resource_capability() {
        notices.push(format!("cannot give up CAP_SYS_RESOURCE: {errno}"));
    }
    limits::open_files_for_users(limit)
}

fn mount(
    launch: &Launch,
    vfs: &Arc<Vfs>,
    invalidations: crossbeam_channel::Receiver<crate::view::Invalidation>,
    mountpoint: &Path,
) -> Result<Mounted, DaemonError> {
    Mounted::new(Arc::clone(vfs), invalidations, mountpoint, &launch.options).map_err(|error| {
        DaemonError::Failed(format!("cannot mount {}: {error}", mountpoint.display()))
    })
}

fn device(mountpoint: &Path, notices: &mut Vec<String>) -> Option<(u32, u32)> {
    let unknown = |errno| {
        notices.push(format!("octroi mv will not work: the mount cannot be told: {errno}"));
    };
    device_of(mountpoint).map_err(unknown).ok()
}

/// The view is worth more than its control socket: without one it serves all the same.
fn start_control(
    vfs: &Arc<Vfs>,
    hello: Hello,
    state: &State,
    (config, too_large): (&Config, TooLarge),
    reloading: &Arc<Reloading>,
    notices: &mut Vec<String>,
) -> Option<Server> {
    let reloading = Arc::clone(reloading);
    let view = hello.view.clone();
    let service = ViewService {
        vfs: Arc::clone(vfs),
        hello,
        state: state.path.clone(),
        ledger_max: config.audit_keep.size,
        ledger_kept: too_large,
        hold_keep: config.hold_keep,
        started: jiff::Timestamp::now(),
        panics: &PANICS,
        reload: Box::new(move |uid| reloading.reload(By::User(uid))),
    };
    match Server::start(&view, Arc::new(service)) {
        Ok(server) => Some(server),
        Err(error) => {
            notices.push(format!("octroi status, why, undo will not work: no socket: {error}"));
            None
        }
    }
}

fn mount_record(mountpoint: &Path, uid: u32, event: MountEvent) -> Record {
    let mountpoint = mountpoint.to_string_lossy().into_owned();
    Record::Mount(MountRecord { event, mountpoint, uid, pid: std::process::id() })
}

fn append(ledger: &Ledger<RealStorage>, record: Record) -> Result<(), DaemonError> {
    ledger
        .append(record, Durability::Sync)
        .map_err(|errno| DaemonError::Failed(format!("cannot write to the ledger: {errno}")))
}

fn close(ledger: &Ledger<RealStorage>, mountpoint: &Path, uid: u32) -> Result<(), DaemonError> {
    ledger
        .close_with(mount_record(mountpoint, uid, MountEvent::Unmounted))
        .map_err(|errno| DaemonError::Failed(format!("cannot close the ledger: {errno}")))
}
