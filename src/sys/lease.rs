//! Read leases: `fcntl(2)` F_SETLEASE and F_GETLEASE.
//!
//! When a lease is broken the kernel sends its owner SIGIO, which would end the process. The signal
//! of the descriptor is therefore set, before the lease is taken, to SIGURG, whose default is to do
//! nothing; whether a break is pending is learnt by asking.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;

/// `F_SETSIG` of include/uapi/asm-generic/fcntl.h; no architecture of Linux that we build for
/// differs.
const F_SETSIG: libc::c_int = 10;

/// Takes a read lease on a file opened for reading only. EAGAIN while anyone has it open for
/// writing or mapped writable; EACCES for a file of another user without CAP_LEASE; EINVAL where
/// the file system has no leases.
pub fn take_read_lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    fcntl(file, libc::F_SETLEASE, libc::c_int::from(libc::F_RDLCK as libc::c_short)).map(drop)
}

/// Whether the lease is still held and nobody waits for it to be given back. A break is pending
/// from the moment another process opens the file for writing or truncates it.
pub fn holds_read_lease(file: BorrowedFd<'_>) -> bool {
    fcntl(file, libc::F_GETLEASE, 0) == Ok(libc::c_int::from(libc::F_RDLCK as libc::c_short))
}

/// Gives a lease back; does nothing if there is none.
pub fn release_lease(file: BorrowedFd<'_>) {
    let unlock = libc::c_int::from(libc::F_UNLCK as libc::c_short);
    // Fails only when there is no lease left to give back.
    let _ = fcntl(file, libc::F_SETLEASE, unlock);
}

fn fcntl(
    file: BorrowedFd<'_>,
    command: libc::c_int,
    value: libc::c_int,
) -> Result<libc::c_int, Errno> {
    // SAFETY: the descriptor is open while borrowed, and the commands of this module take an integer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
    if result < 0 {
        return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_writer_refuses_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(take_read_lease(reader.as_fd()), Err(Errno::AGAIN));
        drop(writer);
        assert_eq!(take_read_lease(reader.as_fd()), Ok(()));
        assert!(holds_read_lease(reader.as_fd()));
    }

    #[test]
    fn a_break_is_seen_and_does_not_end_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        drop(File::create(&path).unwrap());
        let reader = File::open(&path).unwrap();
        take_read_lease(reader.as_fd()).unwrap();
        let write = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let refused = write().unwrap_err();
        assert_eq!(crate::error::errno_of(&refused), Errno::AGAIN);
        assert!(!holds_read_lease(reader.as_fd()));
        release_lease(reader.as_fd());
        assert!(write().is_ok());
    }
}
