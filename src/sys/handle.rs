//! Kernel file handles: `name_to_handle_at(2)` and `open_by_handle_at(2)`.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, StatxFlags};

use crate::error::Errno;
use crate::types::Handle;

/// `MAX_HANDLE_SZ` of include/linux/exportfs.h, in bytes.
const BYTES_MAX: usize = 128;

/// How long a file system takes at most to create an inode: the sum of the pauses.
const CREATING: Duration = Duration::from_millis(40);

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; BYTES_MAX],
}

/// The handle of a name in a directory, not followed; of the descriptor itself for the empty name. Where the
/// file system has no handles, a synthetic one of device, inode number and birth time.
pub fn name_to_handle(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Handle, Errno> {
    match kernel_handle(dir, name) {
        Err(Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::NOSYS) => synthetic_handle(dir, name),
        result => result,
    }
}

/// As [`name_to_handle`], without the fallback: EOPNOTSUPP where the file system has no handles.
pub fn kernel_handle(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Handle, Errno> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut raw = RawHandle { bytes: BYTES_MAX as libc::c_uint, kind: 0, handle: [0; BYTES_MAX] };
    let mut mount = 0;
    // SAFETY: `name` is a C string and `raw` a `struct file_handle` with as much room behind its
    // header as `bytes` says; both outlive the call.
    let result = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    let length = (raw.bytes as usize).min(BYTES_MAX);
    Ok(Handle { kind: raw.kind, bytes: raw.handle.iter().take(length).copied().collect() })
}

/// A handle that only this program understands, for file systems without.
fn synthetic_handle(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Handle, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::INO | StatxFlags::BTIME)?;
    let mut bytes = Vec::with_capacity(28);
    bytes.extend_from_slice(&stat.stx_dev_major.to_le_bytes());
    bytes.extend_from_slice(&stat.stx_dev_minor.to_le_bytes());
    bytes.extend_from_slice(&stat.stx_ino.to_le_bytes());
    bytes.extend_from_slice(&stat.stx_btime.tv_sec.to_le_bytes());
    bytes.extend_from_slice(&stat.stx_btime.tv_nsec.to_le_bytes());
    Ok(Handle { kind: Handle::SYNTHETIC, bytes: bytes.into() })
}

/// Opens what a handle names, on the file system of `mount`. ESTALE once it is gone; EPERM without
/// CAP_DAC_READ_SEARCH; EOPNOTSUPP for a synthetic handle.
///
/// While the number of an inode that is gone is given to a new one, the kernel says ENOMEM
/// (`iget_locked` of fs/inode.c finds it I_CREATING): asked again for up to [`CREATING`].
pub fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &Handle,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut pause = Duration::from_micros(20);
    loop {
        match open_once(mount, handle, flags) {
            Err(Errno::NOMEM) if pause < CREATING => std::thread::sleep(pause),
            result => return result,
        }
        pause = pause.saturating_mul(2);
    }
}

fn open_once(mount: BorrowedFd<'_>, handle: &Handle, flags: OFlags) -> Result<OwnedFd, Errno> {
    if handle.kind == Handle::SYNTHETIC || handle.bytes.len() > BYTES_MAX {
        return Err(Errno::OPNOTSUPP);
    }
    let mut raw = RawHandle {
        bytes: handle.bytes.len() as libc::c_uint,
        kind: handle.kind,
        handle: [0; BYTES_MAX],
    };
    for (to, from) in raw.handle.iter_mut().zip(handle.bytes.iter()) {
        *to = *from;
    }
    let flags = (flags | OFlags::CLOEXEC).bits() as libc::c_int;
    // SAFETY: `raw` is a `struct file_handle` that holds as many bytes as it says and outlives the
    // call; the kernel checks what it holds.
    let descriptor =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
    if descriptor < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn last_errno() -> Errno {
    crate::error::errno_of(&std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_handle_finds_its_file_after_a_rename() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("a"), "text").expect("write");
        let root = std::fs::File::open(dir.path()).expect("open");
        let handle = name_to_handle(root.as_fd(), OsStr::new("a")).expect("a handle");
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).expect("rename");
        assert_eq!(name_to_handle(root.as_fd(), OsStr::new("b")).expect("a handle"), handle);
        if handle.kind != Handle::SYNTHETIC && rustix::process::geteuid().is_root() {
            let found = open_by_handle(root.as_fd(), &handle, OFlags::RDONLY).expect("open");
            let mut text = [0; 4];
            rustix::io::pread(&found, &mut text, 0).expect("read");
            assert_eq!(&text, b"text");
        }
    }

    #[test]
    fn a_number_that_is_given_away_again_is_stale() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("gone"), "").expect("write");
        let root = std::fs::File::open(dir.path()).expect("open");
        let handle = name_to_handle(root.as_fd(), OsStr::new("gone")).expect("a handle");
        std::fs::remove_file(dir.path().join("gone")).expect("remove");
        if handle.kind == Handle::SYNTHETIC || !rustix::process::geteuid().is_root() {
            return;
        }
        let enough = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for name in ["one", "two", "three", "four"].map(|name| dir.path().join(name)) {
                let enough = &enough;
                scope.spawn(move || {
                    while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                        std::fs::write(&name, "").expect("write");
                        std::fs::remove_file(&name).expect("remove");
                    }
                });
            }
            let open = || open_by_handle(root.as_fd(), &handle, OFlags::PATH).map(drop);
            // A process that another test is starting may hold the inode until its execve(2).
            let wrong = (0..300_000).find_map(|_| open().err().filter(|it| *it != Errno::STALE));
            enough.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }

    #[test]
    fn a_removed_file_is_stale_and_a_missing_name_absent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = std::fs::File::open(dir.path()).expect("open");
        let missing = name_to_handle(root.as_fd(), OsStr::new("no"));
        assert_eq!(missing.err(), Some(Errno::NOENT));
        let forged = Handle { kind: 1, bytes: vec![0xff; 8].into() };
        assert!(open_by_handle(root.as_fd(), &forged, OFlags::PATH).is_err());
        let synthetic = synthetic_handle(root.as_fd(), OsStr::new("")).expect("a handle");
        assert_eq!(
            open_by_handle(root.as_fd(), &synthetic, OFlags::PATH).err(),
            Some(Errno::OPNOTSUPP)
        );
    }
}
