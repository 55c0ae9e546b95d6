//! Taking a mount away: by umount2(2) as root, else by fusermount3.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

use crate::control::mounts;
use crate::error::Errno;

/// Why a mount could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody uses it.
    #[error("it is in use")]
    Busy,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Unmounts; `lazy` detaches it at once and leaves the rest to the last user.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), UnmountError> {
    if !rustix::process::geteuid().is_root() {
        return by_fusermount(path, lazy);
    }
    let detach = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | detach).map_err(|errno| match errno {
        Errno::BUSY => UnmountError::Busy,
        other => UnmountError::Other(other.to_string()),
    })
}

fn by_fusermount(path: &Path, lazy: bool) -> Result<(), UnmountError> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| UnmountError::Other(format!("fusermount3 cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(UnmountError::Busy);
    }
    Err(UnmountError::Other(said.trim().to_owned()))
}

/// Detaches a view and ends its connection: everybody who still uses it gets errors, and its daemon
/// ends.
pub fn cut_off(path: &Path) -> Result<(), UnmountError> {
    if rustix::process::geteuid().is_root() {
        let flags = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH;
        return rustix::mount::unmount(path, flags)
            .map_err(|errno| UnmountError::Other(errno.to_string()));
    }
    let minor = mounts::mount_at(path).ok().flatten().map(|mount| mount.device.1);
    by_fusermount(path, true)?;
    let Some(minor) = minor else { return Ok(()) };
    // The kernel gives this file to the user who mounted, where fusectl is mounted.
    std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").map_err(|error| {
        UnmountError::Other(format!("the connection to the kernel cannot be ended: {error}"))
    })
}
