//! Acting as a caller: file system user, group, supplementary groups and umask of one thread.
//!
//! glibc's wrappers change all threads of a process; the system calls themselves, used here, change
//! the calling thread alone. With a file system user other than root the kernel takes the thread's
//! file system capabilities away until it is root again (capabilities(7)), so that a thread that acts
//! as a caller can do no more than that caller.

use std::marker::PhantomData;

use rustix::fs::Mode;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, capabilities, set_capabilities};

use crate::error::{Errno, errno_of};

/// How often a thread tries to be root again, and how long it waits between: a minute in all.
const RESTORE_TRIES: u32 = 6000;
const RESTORE_WAIT: std::time::Duration = std::time::Duration::from_millis(10);

thread_local! {
    /// What this thread is when it acts for nobody, learnt at its first [`CallerGuard::assume`].
    static OWN: std::cell::OnceCell<Own> = const { std::cell::OnceCell::new() };
}

/// The daemon's own identity.
#[derive(Debug, Clone)]
struct Own {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Acts as somebody until it is dropped. Not `Send`: it belongs to its thread.
#[derive(Debug)]
#[must_use]
pub struct CallerGuard {
    own: Own,
    umask: Mode,
    /// What was changed beside the umask, and is to be restored.
    groups_changed: bool,
    gid_changed: bool,
    uid_changed: bool,
    _thread: PhantomData<*const ()>,
}

impl CallerGuard {
    /// Makes this thread act as `uid`, `gid` and `groups` with `umask`. A daemon that is not root can
    /// act as itself alone: EPERM for anybody else, and for all if the kernel does not let root change
    /// them. With an error nothing is changed.
    pub fn assume(uid: u32, gid: u32, groups: &[u32], umask: u32) -> Result<Self, Errno> {
        let own = own_identity()?;
        if own.uid != 0 && uid != own.uid {
            return Err(Errno::PERM);
        }
        let changes = own.uid == 0 && (uid, gid) != (own.uid, own.gid);
        let umask = rustix::process::umask(Mode::from_bits_truncate(umask & 0o777));
        let mut guard = Self {
            own,
            umask,
            groups_changed: false,
            gid_changed: false,
            uid_changed: false,
            _thread: PhantomData,
        };
        // From here on a failure leaves by dropping the guard, which restores what was changed.
        if changes {
            set_groups(groups)?;
            guard.groups_changed = true;
            set_fs_id(libc::SYS_setfsgid, gid)?;
            guard.gid_changed = true;
            set_fs_id(libc::SYS_setfsuid, uid)?;
            guard.uid_changed = true;
        }
        Ok(guard)
    }
}

impl CallerGuard {
    /// Takes modes and access lists for no bar, for a caller who holds that right without being root.
    pub fn override_permissions(&self) -> Result<(), Errno> {
        raise(CapabilitySet::DAC_OVERRIDE)
    }
}

/// Puts a capability in force again that to be somebody else took: it is still permitted, and as root all are in
/// force again.
fn raise(capability: CapabilitySet) -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    sets.effective |= capability & sets.permitted;
    set_capabilities(None, sets)
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        rustix::process::umask(self.umask);
        surely(|| self.restore());
    }
}

/// What could be changed can be changed back, but for want of memory, which comes back too.
fn surely(mut restore: impl FnMut() -> Result<(), Errno>) {
    for _ in 0..RESTORE_TRIES {
        if restore().is_ok() {
            return;
        }
        std::thread::sleep(RESTORE_WAIT);
    }
    // This thread would go on with somebody else's rights.
    log::error!("cannot become root again after acting as a caller");
    std::process::abort();
}

/// Writes as a user, until it is dropped, to files that are open already: their file system gives root, whom it
/// knows by the file system user, the blocks that it reserves for root (fs/ext4/balloc.c,
/// `ext4_has_free_clusters`). Not `Send`.
#[derive(Debug)]
#[must_use]
pub struct WriterGuard {
    /// To become again; `None` if nothing was changed.
    own: Option<u32>,
    _thread: PhantomData<*const ()>,
}

impl WriterGuard {
    /// Where a thread cannot be somebody else it stays what it is: what may be written is decided elsewhere.
    pub fn assume(uid: u32) -> Self {
        let own = own_identity().map(|own| own.uid).ok().filter(|own| *own == 0 && uid != 0);
        if own.is_some() {
            // SAFETY: takes no pointers; changes this thread's credentials alone.
            unsafe { libc::syscall(libc::SYS_setfsuid, libc::c_long::from(uid)) };
            // Which set-id bits go is decided by the caller's groups, which this thread has not. Where it cannot be
            // raised, more of them go.
            let _ = raise(CapabilitySet::FSETID);
        }
        Self { own, _thread: PhantomData }
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        if let Some(own) = self.own {
            surely(|| set_fs_id(libc::SYS_setfsuid, own));
        }
    }
}

impl CallerGuard {
    /// Restores what still is to be restored.
    fn restore(&mut self) -> Result<(), Errno> {
        if self.uid_changed {
            set_fs_id(libc::SYS_setfsuid, self.own.uid)?;
            self.uid_changed = false;
        }
        if self.gid_changed {
            set_fs_id(libc::SYS_setfsgid, self.own.gid)?;
            self.gid_changed = false;
        }
        if self.groups_changed {
            set_groups(&self.own.groups)?;
            self.groups_changed = false;
        }
        Ok(())
    }
}

/// What this thread is. The first call gives it a umask apart from the other threads'.
fn own_identity() -> Result<Own, Errno> {
    if let Some(own) = OWN.with(|own| own.get().cloned()) {
        return Ok(own);
    }
    let uid = rustix::process::geteuid().as_raw();
    // With this bit the kernel would leave a caller the daemon's capabilities.
    let keeps = CapabilitiesSecureBits::NO_SETUID_FIXUP;
    if uid == 0 && rustix::thread::capabilities_secure_bits()?.contains(keeps) {
        return Err(Errno::PERM);
    }
    // SAFETY: takes no pointers; afterwards this thread has its own working directory, root and
    // umask, which nothing else relies on being shared.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(errno_of(&std::io::Error::last_os_error()));
    }
    let gid = rustix::process::getegid().as_raw();
    let groups = rustix::process::getgroups()?.into_iter().map(|group| group.as_raw()).collect();
    let own = Own { uid, gid, groups };
    Ok(OWN.with(|known| known.get_or_init(|| own).clone()))
}

fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` ids from the slice, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(errno_of(&std::io::Error::last_os_error())) }
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
        drop(CallerGuard::assume(0, 0, &[], 0).expect("the thread has a umask of its own"));
        rustix::process::umask(Mode::from_bits_truncate(0o022));
        let guard = CallerGuard::assume(65534, 65534, &[4], 0o027).expect("root may");
        std::fs::create_dir(dir.path().join("theirs")).expect("the caller may");
        let closed = std::fs::write("/root/no", "x");
        drop(guard);
        assert!(closed.is_err(), "a caller has the caller's rights");
        let made = std::fs::metadata(dir.path().join("theirs")).expect("it is there");
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (65534, 65534, 0o750));
        assert_eq!(CallerGuard::assume(0, 0, &[], 0o077).expect("root may").umask.bits(), 0o022);
        let groups = rustix::process::getgroups().expect("groups");
        drop(CallerGuard::assume(65534, 65534, &[4, 5], 0).expect("root may"));
        assert_eq!(rustix::process::getgroups().expect("groups"), groups);
        std::fs::create_dir(dir.path().join("ours")).expect("root may");
        assert_eq!(std::fs::metadata(dir.path().join("ours")).expect("there").uid(), 0);
    }

    /// As in a container that keeps root from changing its groups, or its user.
    #[test]
    fn without_the_right_to_change_it_is_refused_at_once_and_nothing_is_changed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for missing in [CapabilitySet::SETGID, CapabilitySet::SETUID] {
            // Capabilities and identity are this thread's alone.
            let thread = std::thread::spawn(move || {
                let identity =
                    || std::fs::read_to_string("/proc/thread-self/status").expect("proc");
                let lines = |text: &str| -> Vec<String> {
                    let who = |line: &&str| {
                        ["Uid", "Gid", "Groups"].iter().any(|of| line.starts_with(of))
                    };
                    text.lines().filter(who).map(str::to_owned).collect()
                };
                let mut sets = rustix::thread::capabilities(None).expect("capabilities");
                sets.effective -= missing;
                rustix::thread::set_capabilities(None, sets).expect("giving up may everybody");
                let before = lines(&identity());
                let refused = CallerGuard::assume(65534, 65534, &[4, 5], 0);
                assert_eq!(refused.err(), Some(Errno::PERM), "without {missing:?}");
                assert_eq!(lines(&identity()), before, "without {missing:?}");
                drop(CallerGuard::assume(0, 0, &[], 0).expect("root as itself"));
            });
            thread.join().expect("the thread ends");
        }
    }
}
