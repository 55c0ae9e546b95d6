//! `octroi umount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::control::protocol::{Answer, Request};
use crate::control::{Client, mounts};
use crate::daemon::unmount::{self, UnmountError};
use crate::error::Errno;

use super::failure::{Failure, cannot};
use super::output::{plain, say};

/// How long the daemon may take to finish what is crossing and to close its ledger.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// After so long it is said that it is waited for.
const SILENT: Duration = Duration::from_secs(2);

/// Unmount a view, and wait until its ledger is closed.
///
/// Refused while anybody uses it, unless --lazy. For root and the user who mounted the view.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  octroi umount /mnt/lab")]
pub struct Args {
    /// Where the view is mounted
    mountpoint: PathBuf,
    /// Detach now, and finish when nobody uses it any more; does not wait
    #[arg(long)]
    lazy: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let attempt = format!("unmount {}", args.mountpoint.display());
    let path = match args.mountpoint.canonicalize() {
        Ok(path) => path,
        // A dead mount cannot be looked into, but its name is good.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            super::target::absolute(&args.mountpoint)?
        }
        Err(error) => return Err(cannot(attempt)(error)),
    };
    let mount = mounts::mount_at(&path).map_err(cannot("read the table of mounts"))?;
    let Some(view) = mount.and_then(|mount| mount.view) else {
        return Err(Failure::new(format!("cannot {attempt}: no view is mounted there")));
    };
    let own = rustix::process::geteuid().as_raw();
    if own != 0 && own != view.owner {
        return Err(Failure::new(format!(
            "cannot {attempt}: only root and the user who mounted it may"
        )));
    }
    let lock = if args.lazy { None } else { Client::find(&view).ok().and_then(|c| state_lock(&c)) };
    unmount::unmount(&path, args.lazy).map_err(|error| match error {
        UnmountError::Busy => {
            Failure::new(format!("cannot {attempt}: it is in use")).hint(busy_hint(&path))
        }
        UnmountError::Other(why) => Failure::new(format!("cannot {attempt}: {why}")),
    })?;
    let mut left = mounts::views().unwrap_or_default().into_iter();
    if let Some(left) = left.find(|left| left.device == view.device) {
        let at = plain(&left.mountpoint.to_string_lossy());
        say(format_args!("octroi: view {} stays mounted at {at}", view.name));
        return Ok(());
    }
    match lock {
        Some(lock) => wait_for(&lock, &attempt),
        None => Ok(()),
    }
}

fn busy_hint(path: &Path) -> String {
    let path = path.display();
    format!("close what is open there (fuser -vm {path} shows who), or use --lazy")
}

/// The daemon's lock, opened while it is still there to tell where.
fn state_lock(client: &Client) -> Option<std::os::fd::OwnedFd> {
    let Ok(Answer::Status(status)) = client.ask(&Request::Status) else { return None };
    // Whatever the daemon calls its state folder, opening must not wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(status.state.join("lock"), flags, Mode::empty()).ok()
}

/// The daemon holds its lock until everything is written.
fn wait_for(lock: &std::os::fd::OwnedFd, attempt: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut silent = true;
    loop {
        if silent && begun.elapsed() > SILENT {
            silent = false;
            say(
                "octroi: it is unmounted here; waiting for its daemon, which ends what is crossing, \
                 or serves another mount namespace (see lsns -t mnt)",
            );
        }
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN | Errno::INTR) if begun.elapsed() < WAIT_MAX => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::AGAIN) => {
                let minutes = WAIT_MAX.as_secs() / 60;
                return Err(Failure::new(format!(
                    "cannot {attempt} to the end: the daemon is still busy after {minutes} minutes"
                )));
            }
            Err(errno) => return Err(cannot("wait for the daemon's lock")(errno)),
        }
    }
}
