//! Who is at the other end of a Unix socket.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use crate::error::Errno;
use crate::types::Caller;

/// The peer's credentials when it connected (`SO_PEERCRED`). The pid is 0 for a process that this
/// pid namespace does not see, which rustix's type for it cannot hold.
pub fn peer_of(socket: impl AsFd) -> Result<Caller, Errno> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `found`, which is a plain structure of
    // that size, and the new length to `length`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
    }
    if found.uid == u32::MAX {
        return Err(Errno::NOTCONN);
    }
    Ok(Caller { uid: found.uid, gid: found.gid, pid: u32::try_from(found.pid).unwrap_or(0) })
}

const GROUP_BYTES: usize = size_of::<u32>();

/// The peer's supplementary groups when it connected (`SO_PEERGROUPS`).
pub fn groups_of_peer(socket: impl AsFd) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that many, and the
        // length that it has or needs to `length`; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / GROUP_BYTES;
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match crate::error::errno_of(&std::io::Error::last_os_error()) {
            Errno::RANGE if count > groups.len() => groups.resize(count, 0),
            errno => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_end_is_us() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let peer = peer_of(&one).expect("credentials");
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        let own = rustix::process::getgroups().expect("groups");
        let own: Vec<u32> = own.into_iter().map(|group| group.as_raw()).collect();
        assert_eq!(groups_of_peer(&one).expect("groups"), own);
    }
}
