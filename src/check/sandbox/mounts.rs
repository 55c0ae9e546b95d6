//! What a command sees: a root in memory with a few mounts, none of which can be written but `/tmp`. There
//! is no /proc, by which processes and descriptors could be got at, and no home.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use super::table::{KeepOut, Table};
use super::{EMPTY, INPUT, Layer, Order, Step, cannot, owner};
use crate::sys::sandbox::set_mount_attributes;

/// Programs and libraries, and what finds them. What a system does not have is left out.
pub const SYSTEM: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
];

/// Devices that keep nothing and lead nowhere.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Files in `/tmp`, and bytes and names of the root, which holds nothing but folders.
const SCRATCH_INODES: u64 = 16_384;
const ROOT_BYTES: u64 = 1 << 20;
const ROOT_INODES: u64 = 4096;

const CLOSED: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// What was made.
pub(super) struct Places {
    /// What can be read and executed.
    pub readable: Vec<PathBuf>,
}

/// A mount of a file alone, for a daemon of root's: where its mode keeps it from others, it is shown as if
/// `nobody` owned it, on file systems that can. Must come before the namespaces are left.
pub(super) fn clone_for_nobody(proc: &OwnedFd, file: &OwnedFd) -> Step<OwnedFd> {
    let mount = clone(file, false)?;
    let closed = CLOSED | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOATIME;
    let stat = rustix::fs::fstat(file).map_err(cannot("look at the content"))?;
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::ROTH) {
        close(&mount, closed, false)?;
        return Ok(mount);
    }
    let shown = owner::namespace(proc, stat.st_uid, stat.st_gid).and_then(|owned| {
        set_mount_attributes(mount.as_fd(), closed, false, Some(owned.as_fd()))
            .map_err(cannot("show a file as nobody's"))
    });
    // Where the file system cannot, it may still be one that `nobody` can read; that is seen later.
    if shown.is_err() {
        close(&mount, closed, false)?;
    }
    Ok(mount)
}

/// As [`clone_for_nobody`] for another daemon, which is who the command will be. Of its mounts it has
/// copies now, on which the file is found by its path.
pub(super) fn clone_by_path(file: &OwnedFd) -> Step<OwnedFd> {
    let (path, wanted) = (real_path(file)?, rustix::fs::fstat(file));
    let again = open_path(&path)?;
    let (found, wanted) = match (rustix::fs::fstat(&again), wanted) {
        (Ok(found), Ok(wanted)) => (found, wanted),
        (Err(errno), _) | (_, Err(errno)) => return Err(cannot("look at the content")(errno)),
    };
    if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino) {
        return Err("cannot find the content by its path".to_owned());
    }
    let mount = clone(&again, false)?;
    close(&mount, CLOSED | libc::MOUNT_ATTR_NOEXEC, false)?;
    Ok(mount)
}

/// Makes the new root and goes there. `file` is the content's mount.
pub(super) fn build(order: &Order, file: Option<OwnedFd>, layers: &[Layer]) -> Step<Places> {
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", alone).map_err(cannot("keep mounts to itself"))?;
    let table = std::fs::read("/proc/self/mountinfo");
    let table = table.map_err(|error| format!("cannot read mountinfo: {error}"))?;
    let keep_out = KeepOut { table: Table::read(&table), kept: &order.kept };
    let read_only = layers.contains(&Layer::ReadOnly);
    let closed = if read_only { CLOSED } else { CLOSED & !libc::MOUNT_ATTR_RDONLY };
    let places = Places { readable: Vec::new() };
    let mut shown = Shown { places, mounts: Vec::new(), closed };
    for path in SYSTEM.map(Path::new) {
        shown.add_system(path, &keep_out)?;
    }
    let mut wanted: Vec<&Path> = order.read.iter().map(PathBuf::as_path).collect();
    wanted.extend(order.run.first().map(Path::new));
    // What holds others first.
    wanted.sort_by_key(|path| path.as_os_str().len());
    for path in wanted {
        shown.add(path, &keep_out)?;
    }
    if !layers.contains(&Layer::Mounts) {
        return Ok(shown.places);
    }
    let devices = DEVICES.map(|name| device(name).map(|mount| (name, mount)));
    let root = tmpfs(ROOT_BYTES, ROOT_INODES, "755", MountAttrFlags::empty())?;
    let noexec = MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let scratch = tmpfs(order.memory, SCRATCH_INODES, "1777", noexec)?;
    // Any folder that is there would do; all mounts that are needed are held.
    attach(&root, CWD.as_fd(), Path::new("/proc"))?;
    make_dir(&root, Path::new("/tmp"))?;
    attach(&scratch, root.as_fd(), Path::new("tmp"))?;
    make_dir(&root, Path::new(EMPTY))?;
    make_dir(&root, Path::new("/dev"))?;
    for device in devices {
        let (name, mount) = device?;
        show(&root, &Path::new("/dev").join(name), &mount, false)?;
    }
    for mount in &shown.mounts {
        mount.put(&root)?;
    }
    if let Some(file) = file {
        show(&root, Path::new(INPUT), &file, false)?;
    }
    close(&root, closed, false)?;
    enter(&root)?;
    Ok(shown.places)
}

/// A thing that the command sees at the path where the system has it.
enum Seen {
    Mount { path: PathBuf, mount: OwnedFd, is_dir: bool },
    Link { path: PathBuf, to: PathBuf },
}

struct Shown {
    places: Places,
    mounts: Vec<Seen>,
    /// Attributes of these.
    closed: u64,
}

impl Shown {
    fn add_system(&mut self, path: &Path, keep_out: &KeepOut<'_>) -> Step<()> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() && path.parent() == Some(Path::new("/")) => {
                let to = std::fs::read_link(path).map_err(|error| error.to_string())?;
                self.mounts.push(Seen::Link { path: path.to_owned(), to });
                self.places.readable.push(path.to_owned());
                Ok(())
            }
            Ok(_) => self.add(path, keep_out),
            Err(_) => Ok(()),
        }
    }

    /// Unless it is in what is shown already.
    fn add(&mut self, path: &Path, keep_out: &KeepOut<'_>) -> Step<()> {
        if self.places.readable.iter().any(|shown| path.starts_with(shown)) {
            return Ok(());
        }
        if !is_plain(path) {
            return Err(format!("{} is no plain path", path.display()));
        }
        let opened = open_path(path)?;
        let real = real_path(&opened)?;
        let stat =
            rustix::fs::fstat(&opened).map_err(cannot(format!("look at {}", path.display())))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        keep_out.check(path, &real)?;
        let mount = clone(&opened, is_dir)?;
        close(&mount, self.closed, is_dir)?;
        self.mounts.push(Seen::Mount { path: path.to_owned(), mount, is_dir });
        self.places.readable.push(path.to_owned());
        Ok(())
    }
}

impl Seen {
    fn put(&self, root: &OwnedFd) -> Step<()> {
        match self {
            Self::Mount { path, mount, is_dir } => show(root, path, mount, *is_dir),
            Self::Link { path, to } => rustix::fs::symlinkat(to, root, inside(path))
                .map_err(cannot(format!("make {}", path.display()))),
        }
    }
}

fn open_path(path: &Path) -> Step<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(cannot(format!("open {}", path.display())))
}

/// Where a descriptor is, links followed.
fn real_path(fd: &OwnedFd) -> Step<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|error| format!("cannot tell where a file is: {error}"))
}

/// A mount of its own of what a descriptor names; of a folder with what is mounted below.
fn clone(fd: &OwnedFd, recursive: bool) -> Step<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags).map_err(cannot("show a file"))
}

fn close(mount: &OwnedFd, attributes: u64, recursive: bool) -> Step<()> {
    set_mount_attributes(mount.as_fd(), attributes, recursive, None)
        .map_err(cannot("make a mount read-only"))
}

fn device(name: &str) -> Step<OwnedFd> {
    let mount = clone(&open_path(&Path::new("/dev").join(name))?, false)?;
    close(
        &mount,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        false,
    )?;
    Ok(mount)
}

/// A file system in memory.
fn tmpfs(bytes: u64, inodes: u64, mode: &str, attributes: MountAttrFlags) -> Step<OwnedFd> {
    let made = || {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "size", bytes.to_string())?;
        fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
        fsconfig_set_string(&fs, "mode", mode)?;
        fsconfig_create(&fs)?;
        let closed = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, closed | attributes)
    };
    made().map_err(cannot("make a file system in memory"))
}

fn attach(mount: &OwnedFd, dir: impl AsFd, path: &Path) -> Step<()> {
    move_mount(mount, "", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(cannot(format!("mount {}", path.display())))
}

/// A path below the new root.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Whether a path leads from the root down, and nowhere else.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && inside(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Makes a folder and those above it.
fn make_dir(root: &OwnedFd, path: &Path) -> Step<()> {
    let mut here = PathBuf::new();
    for name in inside(path) {
        here.push(name);
        match rustix::fs::mkdirat(root, &here, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(cannot(format!("make {}", path.display()))(errno)),
        }
    }
    Ok(())
}

/// Mounts at a path that is made for it.
fn show(root: &OwnedFd, path: &Path, mount: &OwnedFd, is_dir: bool) -> Step<()> {
    if is_dir {
        make_dir(root, path)?;
    } else {
        make_dir(root, path.parent().unwrap_or(path))?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(root, inside(path), flags, Mode::from_raw_mode(0o444))
            .map_err(cannot(format!("make {}", path.display())))?;
    }
    attach(mount, root, inside(path))
}

/// Makes the new root the root, and lets the old one go.
fn enter(root: &OwnedFd) -> Step<()> {
    let here = OsStr::from_bytes(b".");
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::pivot_root(here, here))
        // The old one lies on top now.
        .and_then(|()| unmount(here, UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"))
        .and_then(|()| rustix::fs::statat(CWD, "/usr", AtFlags::SYMLINK_NOFOLLOW).map(drop))
        .map_err(cannot("enter the new root"))
}
