//! The state folder and its lock: one daemon a view.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use super::DaemonError;
use crate::error::Errno;

/// How long to wait for a daemon that is just stopping, or a command that waits for it.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// A state folder that nobody else uses. The lock lives as long as this.
#[derive(Debug)]
pub struct State {
    /// Its absolute path.
    pub path: PathBuf,
    _lock: File,
}

impl State {
    /// Takes the state folder for a view that will be mounted at `mountpoint`.
    pub fn open(path: &Path, view: &str, mountpoint: &Path) -> Result<Self, DaemonError> {
        check_outside(path, view, mountpoint)?;
        make(path)?;
        let path = path.canonicalize().map_err(|error| failed(path, "find", &error))?;
        check_outside(&path, view, mountpoint)?;
        let lock = take_lock(&path.join("lock"), view, "mount")?;
        Ok(Self { path, _lock: lock })
    }

    /// Takes the state folder of a view that is not mounted, and must have been.
    pub fn open_unmounted(path: &Path, view: &str) -> Result<Self, DaemonError> {
        let path = path.canonicalize().map_err(|error| failed(path, "find", &error))?;
        let lock = take_lock(&path.join("lock"), view, "repair")?;
        Ok(Self { path, _lock: lock })
    }
}

impl State {
    /// Takes the state folder of a view that is not mounted, and changes nothing; `None` where there is
    /// none.
    pub fn look(path: &Path, view: &str) -> Result<Option<Self>, DaemonError> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let at = path.join("lock");
        let lock = match File::open(&at) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, "read", &error)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(Errno::AGAIN) => Err(DaemonError::Failed(format!(
                "cannot check view {view}: it is mounted, or being mounted, with {}\n\
                 hint: unmount it first; while it is mounted, see octroi status and octroi tx list --dead",
                path.display()
            ))),
            Err(errno) => Err(failed(&path, "lock", &errno.into())),
        }
    }
}

/// Refuses a state folder that the view would hide. To be asked before anything is made in it.
pub fn check_outside(path: &Path, view: &str, mountpoint: &Path) -> Result<(), DaemonError> {
    if !path.starts_with(mountpoint) {
        return Ok(());
    }
    Err(DaemonError::Failed(format!(
        "cannot mount view {view}: its state folder {} is below the mountpoint {}\n\
         hint: set view.state to a folder outside",
        path.display(),
        mountpoint.display()
    )))
}

/// Makes the state folder, open to its owner alone. One that is there must be ours.
pub fn make(path: &Path) -> Result<(), DaemonError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(path, "make", &error))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path, "make", &error)),
    }
    let found = std::fs::metadata(path).map_err(|error| failed(path, "use", &error))?;
    if !found.is_dir() {
        let why = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(failed(path, "use", &why));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        let why = std::io::Error::other("it belongs to another user");
        return Err(failed(path, "use", &why));
    }
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| failed(path, "close to others", &error))?;
    }
    Ok(())
}

fn failed(path: &Path, verb: &str, error: &std::io::Error) -> DaemonError {
    DaemonError::Failed(format!(
        "cannot {verb} the state folder {}: {error}\n\
         hint: view.state in the configuration names it; it must be yours to write",
        path.display()
    ))
}

fn take_lock(path: &Path, view: &str, attempted: &str) -> Result<File, DaemonError> {
    let io = |error: std::io::Error| {
        DaemonError::Failed(format!("cannot lock {}: {error}", path.display()))
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(io)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::AGAIN) if begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::AGAIN) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(DaemonError::Failed(format!(
                    "cannot {attempted} view {view}: process {} has a view mounted with this state folder, {}\n\
                     hint: octroi status shows it; octroi umount ends it; a view that was detached (--lazy) ends when \
                     nobody uses it any more",
                    holder.trim(),
                    path.parent().unwrap_or(path).display()
                )));
            }
            Err(errno) => return Err(io(errno.into())),
        }
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/state");
        let first = State::open(&path, "lab", Path::new("/mnt/lab")).expect("free");
        let second = State::open(&path, "lab", Path::new("/mnt/lab")).expect_err("taken");
        assert!(second.to_string().contains(&format!("process {}", std::process::id())));
        drop(first);
        State::open(&path, "lab", Path::new("/mnt/lab")).expect("free again");
        let mode = std::fs::metadata(&path).expect("made").mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_state_folder_below_the_mountpoint_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mountpoint = dir.path().canonicalize().expect("real");
        let refused = State::open(&mountpoint.join("state"), "lab", &mountpoint);
        assert!(refused.expect_err("inside").to_string().contains("below the mountpoint"));
    }
}
