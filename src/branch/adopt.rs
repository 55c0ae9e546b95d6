//! Opening a branch: is the directory there, closed to others, and the one that it was before?
//!
//! A branch carries its id in `.octroi/id`. A known branch whose directory has none, or another's, is
//! refused: an unmounted disk must not be filled with new data. `.octroi/lock` keeps two views from
//! sharing a branch.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::Errno;
use crate::sys::handle::{kernel_handle, open_by_handle};
use crate::types::{BranchMode, BranchUuid};

use super::node::CONFINED;
use super::{Branch, BranchSpec, Online, Private};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why a branch cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// A system call failed.
    #[error("cannot {attempted} {}: {errno}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        errno: Errno,
    },
    /// Others could reach the directory round the mount.
    #[error(
        "branch {name}: others can reach {} without octroi\n\
         hint: close a folder above it (chmod 0700 {}), or set exposed = true", path.display(), parent.display()
    )]
    Exposed {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The folder to close.
        parent: PathBuf,
    },
    /// `.octroi` is not a folder of ours.
    #[error("branch {name}: {} is not octroi's own folder: {why}", path.display())]
    Private {
        /// The branch.
        name: String,
        /// The path of `.octroi`.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another view uses the branch.
    #[error("branch {name}: {} is in use by another view", path.display())]
    InUse {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// Not the directory that the ledger knows.
    #[error(
        "branch {name}: {} is not the directory that was mounted before ({found}); is its disk mounted?\n\
         hint: if it was replaced on purpose, mount once with --adopt {name}", path.display()
    )]
    Foreign {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The id that was found, in words.
        found: String,
    },
}

impl BranchError {
    /// Whether the directory is not there at all, as that of a disk that is not mounted.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { errno: Errno::NOENT, .. })
    }
}

/// How a branch came to its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It has the id that the ledger knows, or (read-only) needs none.
    Known,
    /// It had an id that this ledger does not know, which is kept.
    Found(BranchUuid),
    /// It has been given an id just now.
    New(BranchUuid),
}

/// A branch that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The branch.
    pub branch: Branch,
    /// Whether the ledger must learn its id.
    pub adoption: Adoption,
}

impl Branch {
    /// Opens a branch. `known` is the id that the ledger has for it; with `adopt` any other is taken.
    pub fn open(
        spec: BranchSpec,
        known: Option<BranchUuid>,
        adopt: bool,
    ) -> Result<Opened, BranchError> {
        let io = |attempted: &'static str| {
            let path = spec.path.clone();
            move |errno| BranchError::Io { attempted, path, errno }
        };
        let root = rustix::fs::open(&spec.path, DIRECTORY, Mode::empty())
            .map_err(io("open the branch's directory"))?;
        if !spec.exposed {
            check_closed(&spec)?;
        }
        let stat = rustix::fs::fstat(&root).map_err(io("stat the branch's directory"))?;
        let root_handle = crate::sys::handle::name_to_handle(root.as_fd(), OsStr::new(""))
            .map_err(io("take the file handle of"))?;
        let by_handle = kernel_handle(root.as_fd(), OsStr::new(""))
            .and_then(|handle| open_by_handle(root.as_fd(), &handle, OFlags::PATH))
            .is_ok();
        let (private, uuid, adoption) = if spec.mode == BranchMode::Ro {
            (None, known, Adoption::Known)
        } else {
            let folder = open_private(&spec, &root)?;
            let lock = take_lock(&spec, &folder)?;
            let (uuid, adoption) = identify(&spec, &folder, known, adopt)?;
            let stage = make_folder(&spec, &folder, "stage")?;
            let hold = make_folder(&spec, &folder, "hold")?;
            (Some(Private { stage, hold, _lock: lock }), Some(uuid), adoption)
        };
        let online = Online { uuid, root, root_handle, device: stat.st_dev, by_handle, private };
        Ok(Opened { branch: Branch { spec, online: Some(online) }, adoption })
    }
}

/// Some folder from the branch's own upwards must be the daemon's and shut to everybody else.
fn check_closed(spec: &BranchSpec) -> Result<(), BranchError> {
    let own = rustix::process::geteuid().as_raw();
    for folder in spec.path.ancestors() {
        let stat = rustix::fs::stat(folder).map_err(|errno| BranchError::Io {
            attempted: "stat",
            path: folder.to_owned(),
            errno,
        })?;
        if stat.st_uid == own && stat.st_mode & 0o077 == 0 {
            return Ok(());
        }
    }
    Err(BranchError::Exposed {
        name: spec.name.clone(),
        path: spec.path.clone(),
        parent: spec.path.parent().unwrap_or(Path::new("/")).to_owned(),
    })
}

fn private_path(spec: &BranchSpec) -> PathBuf {
    spec.path.join(".octroi")
}

fn private_io(
    spec: &BranchSpec,
    attempted: &'static str,
    name: &str,
) -> impl FnOnce(Errno) -> BranchError {
    let path = private_path(spec).join(name);
    move |errno| BranchError::Io { attempted, path, errno }
}

/// Opens `.octroi`, made if need be; it must be ours, closed, and on the branch's own file system.
fn open_private(spec: &BranchSpec, root: &OwnedFd) -> Result<OwnedFd, BranchError> {
    match rustix::fs::mkdirat(root, ".octroi", Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(root).map_err(private_io(spec, "sync the folder of", ""))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(private_io(spec, "make", "")(errno)),
    }
    let wrong =
        |why| BranchError::Private { name: spec.name.clone(), path: private_path(spec), why };
    let folder = match rustix::fs::openat2(root, ".octroi", DIRECTORY, Mode::empty(), CONFINED) {
        Ok(folder) => folder,
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
    Ok(folder)
}

fn take_lock(spec: &BranchSpec, folder: &OwnedFd) -> Result<OwnedFd, BranchError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat2(folder, "lock", flags, Mode::RUSR | Mode::WUSR, CONFINED)
        .map_err(private_io(spec, "open", "lock"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::AGAIN) => {
            Err(BranchError::InUse { name: spec.name.clone(), path: spec.path.clone() })
        }
        Err(errno) => Err(private_io(spec, "lock", "lock")(errno)),
    }
}

/// Compares the branch's id with the known one; a branch that has none and never had gets one.
fn identify(
    spec: &BranchSpec,
    folder: &OwnedFd,
    known: Option<BranchUuid>,
    adopt: bool,
) -> Result<(BranchUuid, Adoption), BranchError> {
    let found = read_id(spec, folder)?;
    let foreign = |found: String| BranchError::Foreign {
        name: spec.name.clone(),
        path: spec.path.clone(),
        found,
    };
    match (found, known) {
        (Some(found), Some(known)) if found == known => Ok((found, Adoption::Known)),
        (Some(found), None) => Ok((found, Adoption::Found(found))),
        (Some(found), Some(_)) if adopt => Ok((found, Adoption::Found(found))),
        (Some(found), Some(_)) => Err(foreign(format!("it carries the id {found}"))),
        (None, Some(_)) if !adopt => Err(foreign("it carries no id".to_owned())),
        (None, _) => {
            let new = BranchUuid(ulid::Ulid::generate());
            write_id(spec, folder, new)?;
            Ok((new, Adoption::New(new)))
        }
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
    rustix::fs::openat2(folder, name, DIRECTORY, Mode::empty(), CONFINED)
        .map_err(private_io(spec, "open", name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BranchIndex, BranchIo};
    use std::os::unix::fs::PermissionsExt;

    fn spec(path: &Path) -> BranchSpec {
        BranchSpec {
            index: BranchIndex(0),
            name: "inbox".into(),
            path: path.to_owned(),
            mode: BranchMode::Rw,
            io: BranchIo::Checked,
            min_free: 0,
            exposed: false,
        }
    }

    fn closed_folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), closed).expect("chmod");
        std::fs::create_dir(dir.path().join("inbox")).expect("mkdir");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path().join("inbox"), open).expect("chmod");
        dir
    }

    #[test]
    fn a_new_branch_is_adopted_and_known_again() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        let opened = Branch::open(spec.clone(), None, false).expect("adopted");
        let Adoption::New(id) = opened.adoption else { panic!("{:?}", opened.adoption) };
        drop(opened);
        let again = Branch::open(spec, Some(id), false).expect("known");
        assert_eq!(again.adoption, Adoption::Known);
    }

    #[test]
    fn a_known_branch_without_its_id_is_refused_until_adopted() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        let known = Some(BranchUuid(ulid::Ulid::generate()));
        let refused = Branch::open(spec.clone(), known, false);
        assert!(matches!(refused, Err(BranchError::Foreign { .. })));
        assert!(!spec.path.join(".octroi/id").exists(), "a refused branch is left as it was");
        let adopted = Branch::open(spec, known, true).expect("adopted");
        assert!(matches!(adopted.adoption, Adoption::New(_)));
    }

    #[test]
    fn two_views_never_share_a_branch() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        let first = Branch::open(spec.clone(), None, false).expect("free");
        assert!(matches!(Branch::open(spec.clone(), None, false), Err(BranchError::InUse { .. })));
        drop(first);
        assert!(Branch::open(spec, None, false).is_ok());
    }

    #[test]
    fn an_exposed_branch_is_refused_unless_said() {
        let dir = closed_folder();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("chmod");
        let mut spec = spec(&dir.path().join("inbox"));
        assert!(matches!(
            Branch::open(spec.clone(), None, false),
            Err(BranchError::Exposed { .. })
        ));
        spec.exposed = true;
        assert!(Branch::open(spec, None, false).is_ok());
    }

    #[test]
    fn a_link_in_place_of_the_private_folder_is_refused() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        std::os::unix::fs::symlink("/tmp", spec.path.join(".octroi")).expect("symlink");
        let refused = Branch::open(spec, None, false);
        assert!(matches!(refused, Err(BranchError::Private { .. })));
    }

    #[test]
    fn a_missing_directory_is_told_apart() {
        let missing = Branch::open(spec(Path::new("/nonexistent/octroi")), None, false);
        assert!(missing.is_err_and(|error| error.is_missing()));
    }
}
