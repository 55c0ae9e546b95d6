//! Acting as a caller: file system user, group, supplementary groups and umask of one thread.
//!
//! glibc's wrappers change all threads of a process; the system calls themselves, used here, change
//! the calling thread alone. With a file system user other than root the kernel takes the thread's
//! file system capabilities away until it is root again (capabilities(7)), so that a thread that acts
//! as a caller can do no more than that caller.

use std::cell::Cell;

use crate::error::Errno;

thread_local! {
    static OWN_UMASK: Cell<bool> = const { Cell::new(false) };
}

/// Acts as somebody until it is dropped. Not `Send`: it belongs to its thread.
#[derive(Debug)]
#[must_use]
pub struct CallerGuard {
    changed: bool,
    _thread: std::marker::PhantomData<*const ()>,
}

impl CallerGuard {
    /// Makes this thread act as `uid`, `gid` and `groups` with `umask`. A daemon that is not root can
    /// act as itself alone: EPERM for anybody else.
    pub fn assume(uid: u32, gid: u32, groups: &[u32], umask: u32) -> Result<Self, Errno> {
        set_umask(umask)?;
        let own = rustix::process::geteuid().as_raw();
        if own != 0 {
            return if uid == own { Ok(Self::new(false)) } else { Err(Errno::PERM) };
        }
        if uid == 0 && gid == 0 {
            return Ok(Self::new(false));
        }
        // From here on a failure leaves by dropping the guard, which restores all of it.
        let guard = Self::new(true);
        set_groups(groups)?;
        set_fs_id(libc::SYS_setfsgid, gid)?;
        set_fs_id(libc::SYS_setfsuid, uid)?;
        Ok(guard)
    }

    fn new(changed: bool) -> Self {
        Self { changed, _thread: std::marker::PhantomData }
    }
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        if !self.changed {
            return;
        }
        let restored = set_fs_id(libc::SYS_setfsuid, 0)
            .and_then(|()| set_fs_id(libc::SYS_setfsgid, 0))
            .and_then(|()| set_groups(&[]));
        if restored.is_err() {
            // This thread would go on with somebody else's rights.
            log::error!("cannot become root again after acting as a caller");
            std::process::abort();
        }
    }
}

/// Sets the umask of this thread, apart from the others' from the first call on.
fn set_umask(umask: u32) -> Result<(), Errno> {
    if !OWN_UMASK.get() {
        // SAFETY: takes no pointers; afterwards this thread has its own working directory, root
        // and umask, which nothing else relies on being shared.
        if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
            return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
        }
        OWN_UMASK.set(true);
    }
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(umask & 0o777));
    Ok(())
}

fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` ids from the slice, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(crate::error::errno_of(&std::io::Error::last_os_error())) }
}

/// setfsuid(2) and setfsgid(2) tell of no failure: they answer the id before, so a second call, which
/// changes nothing, tells whether the first took.
fn set_fs_id(call: libc::c_long, id: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointers; changes this thread's credentials alone.
    unsafe { libc::syscall(call, libc::c_long::from(id)) };
    // SAFETY: as above; −1 is no valid id and is refused, which leaves the id as it is.
    let now = unsafe { libc::syscall(call, -1 as libc::c_long) };
    if now == libc::c_long::from(id) { Ok(()) } else { Err(Errno::PERM) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn what_is_made_is_the_callers_and_afterwards_root_is_back() {
        if !rustix::process::geteuid().is_root() {
            return assert_eq!(
                CallerGuard::assume(0, 0, &[], 0).err().map(|errno| errno.raw_os_error()),
                Some(libc::EPERM)
            );
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).expect("chmod");
        let guard = CallerGuard::assume(65534, 65534, &[4], 0o027).expect("root may");
        std::fs::create_dir(dir.path().join("theirs")).expect("the caller may");
        let closed = std::fs::write("/root/no", "x");
        drop(guard);
        assert!(closed.is_err(), "a caller has the caller's rights");
        let made = std::fs::metadata(dir.path().join("theirs")).expect("it is there");
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (65534, 65534, 0o750));
        std::fs::create_dir(dir.path().join("ours")).expect("root may");
        assert_eq!(std::fs::metadata(dir.path().join("ours")).expect("there").uid(), 0);
    }
}
