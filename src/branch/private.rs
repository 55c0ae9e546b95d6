//! The private folder of a branch, `.octroi`: the branch's id, its lock, and the folders of crossings.
//!
//! A known branch whose directory has no id, or another's, is refused: an unmounted disk must not be
//! filled with new data. `lock` keeps two views from sharing a branch.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::error::Errno;
use crate::sys::resolve::{CONFINED, magic_path};
use crate::types::{BranchUuid, after};

use super::adopt::{Adoption, BranchError, DIRECTORY};
use super::case::check_case;
use super::{BranchSpec, Private};

/// How long a lock that another holds is waited for: while this process starts a program, that has a copy of
/// every descriptor until its execve(2), also of a lock that was given up meanwhile.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_POLL: Duration = Duration::from_millis(5);

fn private_path(spec: &BranchSpec) -> PathBuf {
    spec.path.join(".octroi")
}

pub(super) fn private_io(
    spec: &BranchSpec,
    attempted: &'static str,
    name: &str,
) -> impl FnOnce(Errno) -> BranchError {
    let path = private_path(spec).join(name);
    move |errno| BranchError::Io { attempted, path, errno }
}

/// Makes `.octroi`. Only for a branch that may be given an id.
fn make_private(spec: &BranchSpec, root: &OwnedFd) -> Result<(), BranchError> {
    match rustix::fs::mkdirat(root, ".octroi", Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(private_io(spec, "make", "")(errno)),
    }
    // An empty branch shows it only now.
    check_case(spec, root).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(root, ".octroi", AtFlags::REMOVEDIR);
    })?;
    rustix::fs::fsync(root).map_err(private_io(spec, "sync the folder of", ""))
}

/// Opens `.octroi`, `None` where there is none; it must be ours, closed, and on the branch's own file
/// system.
pub(super) fn open_private(
    spec: &BranchSpec,
    root: &OwnedFd,
) -> Result<Option<OwnedFd>, BranchError> {
    let wrong =
        |why| BranchError::Private { name: spec.name.clone(), path: private_path(spec), why };
    let folder = match rustix::fs::openat2(root, ".octroi", DIRECTORY, Mode::empty(), CONFINED) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(wrong("it is a symbolic link")),
        Err(Errno::NOTDIR) => return Err(wrong("it is not a directory")),
        Err(Errno::XDEV) => return Err(wrong("it is a mount point")),
        Err(errno) => return Err(private_io(spec, "open", "")(errno)),
    };
    let stat = rustix::fs::fstat(&folder).map_err(private_io(spec, "stat", ""))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(wrong("it belongs to another user"));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(wrong("others may enter it; it must have mode 0700"));
    }
    Ok(Some(folder))
}

/// Held by a descriptor that cannot write: one that can would keep the file system from being mounted
/// read-only, and could not be had where it is. NFS makes a lock of a range of it, which is exclusive
/// only for who can write: EBADF for others.
fn take_lock(spec: &BranchSpec, folder: &OwnedFd) -> Result<OwnedFd, BranchError> {
    let open = |access| {
        let flags = access | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(folder, "lock", flags, Mode::RUSR | Mode::WUSR, CONFINED)
            .map_err(private_io(spec, "open", "lock"))
    };
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let hold = |lock| hold_lock(spec, lock, exclusive, LOCK_WAIT);
    match hold(open(OFlags::RDONLY)?) {
        Err(BranchError::Io { errno: Errno::BADF, .. }) => hold(open(OFlags::RDWR)?),
        held => held,
    }
}

/// The lock of a branch that is only read: shared, and not made where there is none. Not waited for: who only
/// looks is to learn at once that another has it.
fn take_shared_lock(spec: &BranchSpec, folder: &OwnedFd) -> Result<Option<OwnedFd>, BranchError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(folder, "lock", flags, Mode::empty(), CONFINED) {
        Ok(lock) => {
            let shared = FlockOperation::NonBlockingLockShared;
            hold_lock(spec, lock, shared, Duration::ZERO).map(Some)
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(private_io(spec, "open", "lock")(errno)),
    }
}

fn hold_lock(
    spec: &BranchSpec,
    lock: OwnedFd,
    operation: FlockOperation,
    wait: Duration,
) -> Result<OwnedFd, BranchError> {
    let deadline = after(Instant::now(), wait);
    loop {
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => return Ok(lock),
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(Errno::AGAIN) => {
                return Err(BranchError::InUse {
                    name: spec.name.clone(),
                    path: spec.path.clone(),
                });
            }
            Err(errno) => return Err(private_io(spec, "lock", "lock")(errno)),
        }
    }
}

/// What is known of a branch's directory once its id is the right one.
pub(super) struct Identified {
    pub uuid: Option<BranchUuid>,
    pub adoption: Adoption,
    pub lock: Option<OwnedFd>,
    pub private: Option<Private>,
}

/// Compares the branch's id with the known one, locks the branch, and gives it an id if it has none and
/// may have one. A directory that is refused is left as it was.
pub(super) fn identify(
    spec: &BranchSpec,
    root: &OwnedFd,
    known: Option<BranchUuid>,
    adopt: bool,
) -> Result<Identified, BranchError> {
    let existing = open_private(spec, root)?;
    let found = existing.as_ref().map_or(Ok(None), |folder| read_id(spec, folder))?;
    compare(spec, found, known, adopt)?;
    if existing.is_none() {
        make_private(spec, root)?;
    }
    let folder = existing.map_or_else(|| open_private(spec, root), |folder| Ok(Some(folder)))?;
    let folder = folder.ok_or_else(|| private_io(spec, "open", "")(Errno::NOENT))?;
    let lock = take_lock(spec, &folder)?;
    // Read again: until the lock was ours another daemon may have given it one.
    let (uuid, adoption) = match compare(spec, read_id(spec, &folder)?, known, adopt)? {
        Some(identified) => identified,
        None => {
            let new = BranchUuid(ulid::Ulid::generate());
            write_id(spec, &folder, new)?;
            (new, Adoption::New(new))
        }
    };
    let stage = Arc::new(make_folder(spec, &folder, "stage")?);
    let hold = Arc::new(make_folder(spec, &folder, "hold")?);
    let private = Some(Private { folder: Arc::new(folder), stage, hold });
    Ok(Identified { uuid: Some(uuid), adoption, lock: Some(lock), private })
}

/// As [`identify`], for a branch that is only read: nothing is written to it, so it need not have an
/// id, unless one is known.
pub(super) fn identify_unchanged(
    spec: &BranchSpec,
    root: &OwnedFd,
    known: Option<BranchUuid>,
    adopt: bool,
) -> Result<Identified, BranchError> {
    let folder = open_private(spec, root)?;
    let lock = match &folder {
        Some(folder) => take_shared_lock(spec, folder)?,
        None => None,
    };
    let found = folder.as_ref().map_or(Ok(None), |folder| read_id(spec, folder))?;
    let (uuid, adoption) = match compare(spec, found, known, adopt)? {
        Some((uuid, adoption)) => (Some(uuid), adoption),
        None => (None, Adoption::Known),
    };
    Ok(Identified { uuid, adoption, lock, private: None })
}

/// What the id that was found means; `None` for a branch that has none and may be given one.
fn compare(
    spec: &BranchSpec,
    found: Option<BranchUuid>,
    known: Option<BranchUuid>,
    adopt: bool,
) -> Result<Option<(BranchUuid, Adoption)>, BranchError> {
    let foreign =
        || BranchError::Foreign { name: spec.name.clone(), path: spec.path.clone(), found };
    match (found, known) {
        (Some(found), Some(known)) if found == known => Ok(Some((found, Adoption::Known))),
        (_, Some(_)) if !adopt => Err(foreign()),
        (Some(found), _) => Ok(Some((found, Adoption::Found(found)))),
        (None, _) => Ok(None),
    }
}

fn read_id(spec: &BranchSpec, folder: &OwnedFd) -> Result<Option<BranchUuid>, BranchError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(folder, "id", flags, Mode::empty(), CONFINED) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(private_io(spec, "open", "id")(errno)),
    };
    let mut text = [0; 64];
    let length = rustix::io::pread(&file, &mut text, 0).map_err(private_io(spec, "read", "id"))?;
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    match text.and_then(|text| text.trim().parse().ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(BranchError::Private {
            name: spec.name.clone(),
            path: private_path(spec).join("id"),
            why: "it holds no branch id",
        }),
    }
}

/// Whole or not at all: written beside, synced, renamed, and the folder synced.
fn write_id(spec: &BranchSpec, folder: &OwnedFd, id: BranchUuid) -> Result<(), BranchError> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> Result<(), Errno> {
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat2(folder, "id.new", flags, mode, CONFINED)?;
        let text = format!("{id}\n");
        if rustix::io::write(&file, text.as_bytes())? != text.len() {
            return Err(Errno::NOSPC);
        }
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(folder, "id.new", folder, "id")?;
        rustix::fs::fsync(folder)
    };
    write().map_err(private_io(spec, "write", "id"))
}

fn make_folder(
    spec: &BranchSpec,
    folder: &OwnedFd,
    name: &'static str,
) -> Result<OwnedFd, BranchError> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) => {
            rustix::fs::fsync(folder).map_err(private_io(spec, "sync the folder of", name))?
        }
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(private_io(spec, "make", name)(errno)),
    }
    let opened = rustix::fs::openat2(folder, name, DIRECTORY, Mode::empty(), CONFINED)
        .map_err(private_io(spec, "open", name))?;
    drop_acls(&opened).map_err(private_io(spec, "remove the ACL of", name))?;
    Ok(opened)
}

/// What is made there is a copy of something else: it must get nothing from a default ACL of the branch.
fn drop_acls(folder: &OwnedFd) -> Result<(), Errno> {
    for key in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::removexattr(magic_path(folder.as_fd()), key) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
