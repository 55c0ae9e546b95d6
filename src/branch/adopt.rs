//! Opening a branch: is the directory there, closed to others, and the one that it was before?
//!
//! The last is the business of [`super::private`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustix::fs::{Mode, OFlags};

use crate::error::Errno;
use crate::sys::handle::{kernel_handle, open_by_handle};
use crate::types::{BranchMode, BranchUuid};

use super::case::check_case;
use super::directory::leaves_links_uncounted;
use super::private::{Identified, identify, identify_unchanged};
use super::{Branch, BranchSpec, Online};

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `f_type` of FUSE (include/uapi/linux/magic.h).
const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;
/// `f_type` of ext2 to ext4, xfs, btrfs and f2fs (include/uapi/linux/magic.h): file systems that this kernel
/// alone changes, and each change with a new ctime (on tmpfs a store through a mapping has none).
const OF_THIS_MACHINE: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

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
         hint: {}, or set exposed = true", path.display(), closing(parent)
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
        "branch {name}: {} is not the directory that was mounted before (it carries {}); is its disk mounted?\n\
         hint: if it was replaced on purpose, mount once with --adopt {name}",
        path.display(), found.map_or("no id".to_owned(), |id| format!("the id {id}"))
    )]
    Foreign {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The id that was found.
        found: Option<BranchUuid>,
    },
    /// Its file system takes names for the same that differ in case alone.
    #[error(
        "branch {name}: in {} the names {} and {} are one: rules about names could be walked round\n\
         hint: a branch must tell upper from lower case (ext4: without chattr +F)",
        path.display(), one.display(), other.display()
    )]
    FoldsCase {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The name of a folder in it.
        one: OsString,
        /// The same in the other case.
        other: OsString,
    },
    /// Another branch of the view has the same id: one is a copy of the other, and the ledger could not tell
    /// where something is.
    #[error(
        "branch {name}: {} carries the id of branch {other} ({id}): it is a copy of it\n\
         hint: move .octroi out of the copy, and mount once with --adopt and the copy's name; what hold and stage keep \
         is in the other one too",
        path.display()
    )]
    Twin {
        /// The branch.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The one before it.
        other: String,
        /// The id of both.
        id: BranchUuid,
    },
    /// The configured path leads to something else than what is open.
    #[error(
        "branch {name}: {} leads to another directory now; was its disk unmounted?", path.display()
    )]
    Elsewhere {
        /// The branch.
        name: String,
        /// Its path.
        path: PathBuf,
    },
}

impl BranchError {
    /// Whether the directory is not there at all, as that of a disk that is not mounted, or is the mount point of
    /// one.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { errno: Errno::NOENT, .. } | Self::Foreign { found: None, .. })
    }

    /// Whether it says nothing about the branch: this process or the machine has run out of something.
    pub fn is_shortage(&self) -> bool {
        let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
        matches!(self, Self::Io { errno, .. } if shortages.contains(errno))
    }
}

/// The ids of the branches of a view, of which no two may be the same.
#[derive(Debug, Default)]
pub struct Ids(HashMap<BranchUuid, String>);

impl Ids {
    /// Refuses an id that another branch has.
    pub fn add(&mut self, spec: &BranchSpec, id: Option<BranchUuid>) -> Result<(), BranchError> {
        // One that is only shown may be an older state of another: nothing is looked for in it.
        let Some(id) = id.filter(|_| spec.mode != BranchMode::Ro) else { return Ok(()) };
        let (name, path) = (spec.name.clone(), spec.path.clone());
        let before = self.0.insert(id, name.clone());
        before.map_or(Ok(()), |other| Err(BranchError::Twin { name, path, other, id }))
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
    /// Whether a branch is fit to be mounted, and the id that it carries. Changes nothing: it is opened
    /// as if it were read-only.
    pub fn look(spec: &BranchSpec) -> Result<Option<BranchUuid>, BranchError> {
        let looked = BranchSpec { mode: BranchMode::Ro, ..spec.clone() };
        Ok(Self::open(looked, None, false)?.branch.uuid())
    }

    /// Opens a branch. `known` is the id that the ledger has for it; with `adopt` any other is taken.
    pub fn open(
        spec: BranchSpec,
        known: Option<BranchUuid>,
        adopt: bool,
    ) -> Result<Opened, BranchError> {
        let (online, adoption) = open_online(&spec, known, adopt)?;
        Ok(Opened { branch: Self::online_from_start(spec, online), adoption })
    }
}

/// Opens the directory of a branch, and refuses what must not serve as it.
pub(super) fn open_online(
    spec: &BranchSpec,
    known: Option<BranchUuid>,
    adopt: bool,
) -> Result<(Online, Adoption), BranchError> {
    let io = |attempted: &'static str| {
        let path = spec.path.clone();
        move |errno| BranchError::Io { attempted, path, errno }
    };
    let root = rustix::fs::open(&spec.path, DIRECTORY, Mode::empty())
        .map_err(io("open the branch's directory"))?;
    if !spec.exposed {
        check_closed(spec, &root)?;
    }
    let stat = rustix::fs::fstat(&root).map_err(io("stat the branch's directory"))?;
    let space = rustix::fs::fstatvfs(&root).map_err(io("ask for the space of"))?;
    let root_handle = crate::sys::handle::name_to_handle(root.as_fd(), OsStr::new(""))
        .map_err(io("take the file handle of"))?;
    let by_handle = opens_by_handle(&root);
    let links_uncounted = leaves_links_uncounted(root.as_fd());
    let shows_changes = !spec.exposed && is_of_this_machine(&root);
    check_case(spec, &root)?;
    let identified = if spec.mode == BranchMode::Ro {
        identify_unchanged(spec, &root, known, adopt)?
    } else {
        identify(spec, &root, known, adopt)?
    };
    let Identified { uuid, adoption, lock, private } = identified;
    let online = Online {
        uuid,
        root: Arc::new(root),
        root_handle,
        root_path: ArcSwapOption::empty(),
        device: stat.st_dev,
        file_system: space.f_fsid,
        by_handle,
        links_uncounted,
        shows_changes,
        _lock: lock,
        private,
    };
    Ok((online, adoption))
}

/// Whether inodes can be opened by their handles: the file system has some, and we may. Those of FUSE
/// are good for only as long as its server remembers the inode.
fn opens_by_handle(root: &OwnedFd) -> bool {
    let fuse = rustix::fs::fstatfs(root).is_ok_and(|stat| stat.f_type == FUSE_SUPER_MAGIC);
    !fuse
        && kernel_handle(root.as_fd(), OsStr::new(""))
            .and_then(|handle| open_by_handle(root.as_fd(), &handle, OFlags::PATH))
            .is_ok()
}

/// Whether a file system is one of [`OF_THIS_MACHINE`].
fn is_of_this_machine(root: &OwnedFd) -> bool {
    rustix::fs::fstatfs(root).is_ok_and(|stat| OF_THIS_MACHINE.contains(&(stat.f_type as u64)))
}

/// What to do about an exposed branch. A folder at the top of the system is for all: closing it would
/// be the end of more than the branch.
fn closing(parent: &Path) -> String {
    if parent.components().count() <= 2 {
        return "move it below a folder of mode 0700".to_owned();
    }
    format!("close a folder above it (chmod 0700 {})", parent.display())
}

/// Some folder from the branch's own upwards must be the daemon's and shut to everybody else. The way
/// up is walked from the open directory, so that a link in the configured path proves nothing.
fn check_closed(spec: &BranchSpec, root: &OwnedFd) -> Result<(), BranchError> {
    let io = |errno| BranchError::Io {
        attempted: "examine the folders above",
        path: spec.path.clone(),
        errno,
    };
    let up = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::process::geteuid().as_raw();
    let mut folder = rustix::fs::openat(root, ".", up, Mode::empty()).map_err(io)?;
    let mut stat = rustix::fs::fstat(&folder).map_err(io)?;
    loop {
        if stat.st_uid == own && stat.st_mode & 0o077 == 0 {
            return Ok(());
        }
        let parent = rustix::fs::openat(&folder, "..", up, Mode::empty()).map_err(io)?;
        let above = rustix::fs::fstat(&parent).map_err(io)?;
        if (above.st_dev, above.st_ino) == (stat.st_dev, stat.st_ino) {
            break;
        }
        (folder, stat) = (parent, above);
    }
    Err(BranchError::Exposed {
        name: spec.name.clone(),
        path: spec.path.clone(),
        parent: spec.path.parent().unwrap_or(Path::new("/")).to_owned(),
    })
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
        assert!(!spec.path.join(".octroi").exists(), "a refused branch is left as it was");
        let adopted = Branch::open(spec, known, true).expect("adopted");
        assert!(matches!(adopted.adoption, Adoption::New(_)));
    }

    #[test]
    fn two_views_never_share_a_branch() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        let first = Branch::open(spec.clone(), None, false).expect("free");
        assert!(matches!(Branch::open(spec.clone(), None, false), Err(BranchError::InUse { .. })));
        // A program that is being started may keep a lock that was given up for a moment more.
        let kept = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(first);
        });
        assert!(Branch::open(spec, None, false).is_ok());
        kept.join().expect("given up");
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

    #[test]
    fn a_link_through_a_closed_folder_does_not_close_what_it_points_to() {
        let dir = closed_folder();
        let outside = tempfile::tempdir().expect("a temporary directory");
        for path in [outside.path().to_owned(), outside.path().join("inbox")] {
            std::fs::create_dir_all(&path).expect("mkdir");
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, open).expect("chmod");
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(outside.path(), &link).expect("symlink");
        let refused = Branch::open(spec(&link.join("inbox")), None, false);
        assert!(matches!(refused, Err(BranchError::Exposed { .. })), "{refused:?}");
    }

    #[test]
    fn a_read_only_branch_is_not_written_to_and_still_recognised() {
        let dir = closed_folder();
        let writable = spec(&dir.path().join("inbox"));
        let read_only = BranchSpec { mode: BranchMode::Ro, ..writable.clone() };
        let opened = Branch::open(read_only.clone(), None, false).expect("it needs no id");
        assert_eq!((opened.adoption, opened.branch.uuid()), (Adoption::Known, None));
        assert_eq!(opened.branch.stage().err(), Some(Errno::ROFS));
        assert!(!writable.path.join(".octroi").exists());
        let other = Some(BranchUuid(ulid::Ulid::generate()));
        let refused = Branch::open(read_only.clone(), other, false);
        assert!(matches!(refused, Err(BranchError::Foreign { .. })));

        let adopted = Branch::open(writable.clone(), None, false).expect("adopted");
        let shared = Branch::open(read_only.clone(), None, false);
        assert!(matches!(shared, Err(BranchError::InUse { .. })), "{shared:?}");
        let id = adopted.branch.uuid();
        drop(adopted);
        let readers = [(); 2].map(|()| Branch::open(read_only.clone(), id, false).expect("shared"));
        assert!(readers.iter().all(|reader| reader.adoption == Adoption::Known));
        let written = Branch::open(writable, id, false);
        assert!(matches!(written, Err(BranchError::InUse { .. })), "{written:?}");
    }

    #[test]
    fn another_branchs_id_is_refused_until_adopted() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        let id = Branch::open(spec.clone(), None, false).expect("adopted").branch.uuid();
        let known = Some(BranchUuid(ulid::Ulid::generate()));
        let refused = Branch::open(spec.clone(), known, false).expect_err("it is another");
        assert!(refused.to_string().contains("--adopt inbox"), "{refused}");
        let taken = Branch::open(spec, known, true).expect("adopted");
        assert_eq!(taken.adoption, Adoption::Found(id.expect("an id")));
    }

    #[test]
    fn a_damaged_id_is_not_taken_for_none() {
        let dir = closed_folder();
        let spec = spec(&dir.path().join("inbox"));
        drop(Branch::open(spec.clone(), None, false).expect("adopted"));
        std::fs::write(spec.path.join(".octroi/id"), b"\xff").expect("write");
        let refused = Branch::open(spec, None, true);
        assert!(matches!(refused, Err(BranchError::Private { .. })), "{refused:?}");
    }
}
