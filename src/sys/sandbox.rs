//! What a process needs to shut itself in: namespaces, mounts of its own, and children made by fork.
//! For a process with one thread, which the re-executed helper is.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::error::Errno;

/// What `fork(2)` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// To the new process.
    Child,
    /// To the one that asked.
    Parent(Pid),
}

/// Forks. EBUSY where the process has other threads: their locks would be held in the child for ever.
pub fn fork_alone() -> Result<Forked, Errno> {
    if threads()? != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: this is the only thread, so that the child finds no lock held and no state half changed.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or(Errno::SRCH),
    }
}

/// How many threads this process has. Where /proc is not in sight the process has been shut in, which a
/// process with threads cannot be ([`unshare_alone`]).
fn threads() -> Result<u64, Errno> {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(1),
        Err(error) => return Err(crate::error::errno_of(&error)),
    };
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.and_then(|count| count.trim().parse().ok()).ok_or(Errno::INVAL)
}

/// Leaves namespaces for new ones. EBUSY where the process has other threads.
pub fn unshare_alone(flags: UnshareFlags) -> Result<(), Errno> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(Errno::INVAL);
    }
    if threads()? != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: descriptors stay shared with whom they were, for `FILES` is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Sets attributes (`MOUNT_ATTR_*`) of a mount and, where told, of all below it; with a user namespace
/// also `MOUNT_ATTR_IDMAP` of that.
pub fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let idmap = if user_namespace.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    // One of several, which must be cleared for another to be set (mount_setattr(2)).
    let times =
        if attributes & libc::MOUNT_ATTR_NOATIME == 0 { 0 } else { libc::MOUNT_ATTR__ATIME };
    let wanted = libc::mount_attr {
        attr_set: attributes | idmap,
        attr_clr: times,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and `wanted` a `struct mount_attr` of the size that is given; both
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Has every descriptor from `first` on closed when a program is executed.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers and touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    crate::error::errno_of(&std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked_and_not_shut_in() {
        // The test's own thread is one more than the first.
        assert_eq!(fork_alone(), Err(Errno::BUSY));
        assert_eq!(unshare_alone(UnshareFlags::NEWNS), Err(Errno::BUSY));
        assert_eq!(unshare_alone(UnshareFlags::FILES), Err(Errno::INVAL));
    }
}
