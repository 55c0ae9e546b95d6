//! What SOURCE and TARGET mean, as mv(1) has it: names in folders, which are opened through the mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatxFlags};

use crate::control::{Client, ViewMount, mounts};
use crate::error::Errno;

use super::super::failure::{Failure, cannot};
use super::Args;

/// What to move and where to, one after another.
pub(super) fn plan(args: &Args) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    if let Some(folder) = &args.target_directory {
        if !is_directory(folder)? {
            return Err(not_a_directory(folder));
        }
        return Ok(args.paths.iter().map(|source| into(source, folder)).collect());
    }
    let (target, sources) = match args.paths.split_last() {
        Some((target, sources)) if !sources.is_empty() => (target, sources),
        _ => return Err(Failure::usage("cannot move: SOURCE and TARGET are needed")),
    };
    if !args.no_target_directory && is_directory(target)? {
        return Ok(sources.iter().map(|source| into(source, target)).collect());
    }
    match sources {
        [source] => Ok(vec![(source.clone(), target.clone())]),
        _ if args.no_target_directory => {
            Err(Failure::usage("cannot move: -T takes one SOURCE and one TARGET"))
        }
        _ => Err(not_a_directory(target)),
    }
}

fn not_a_directory(path: &Path) -> Failure {
    Failure::new(format!("cannot move into {}: it is not a directory", path.display()))
}

/// Links are followed, as mv(1) does; what does not exist is none.
fn is_directory(path: &Path) -> Result<bool, Failure> {
    match rustix::fs::stat(path) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(cannot(format!("look at {}", path.display()))(errno)),
    }
}

/// A source, and the same name in a folder. A source without a name is refused later.
fn into(source: &Path, folder: &Path) -> (PathBuf, PathBuf) {
    let name = split(source).map(|split| split.name).unwrap_or_default();
    (source.to_owned(), folder.join(name))
}

/// A path's last component apart from the rest, byte by byte: `Path` takes `a/.` for `a`.
struct Split {
    folder: PathBuf,
    name: OsString,
    /// The path says that it is a directory.
    slash: bool,
}

fn split(path: &Path) -> Option<Split> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/')?.saturating_add(1);
    let begin =
        bytes.iter().take(end).rposition(|byte| *byte == b'/').map_or(0, |at| at.saturating_add(1));
    let name = OsStr::from_bytes(bytes.get(begin..end)?);
    if name == "." || name == ".." {
        return None;
    }
    let folder = match bytes.get(..begin)? {
        [] => PathBuf::from("."),
        folder => PathBuf::from(OsStr::from_bytes(folder)),
    };
    Some(Split { folder, name: name.to_owned(), slash: end < bytes.len() })
}

/// A name in an opened folder.
pub(in crate::cli) struct End {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
    /// Device of the folder.
    device: u64,
    /// The mount that it was reached through: rename(2) knows no two.
    mount: u64,
    slash: bool,
}

impl End {
    fn open(path: &Path) -> Result<Self, String> {
        let Some(Split { folder, name, slash }) = split(path) else {
            return Err(format!("{} is not a name", path.display()));
        };
        let failed = |errno| format!("{}: {}", folder.display(), std::io::Error::from(errno));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&folder, flags, Mode::empty()).map_err(failed)?;
        let device = rustix::fs::fstat(&opened).map_err(failed)?.st_dev;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&opened, "", flags, StatxFlags::MNT_ID).map_err(failed)?;
        Ok(Self { folder: opened, name, device, mount: found.stx_mnt_id, slash })
    }

    fn look(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(self.folder.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Both ends of a move.
pub(in crate::cli) struct Ends {
    pub(super) source: End,
    pub(super) target: End,
}

impl Ends {
    /// Opens both folders, and looks at nothing in them.
    fn of(source: &Path, target: &Path) -> Result<Self, String> {
        Ok(Self { source: End::open(source)?, target: End::open(target)? })
    }

    /// As [`Ends::of`], of names that a daemon told, or that were links since: those outside its view are refused.
    pub(in crate::cli) fn in_view(
        view: &ViewMount,
        source: &Path,
        target: &Path,
    ) -> Result<Self, String> {
        let ends = Self::of(source, target)?;
        for (end, path) in [(&ends.source, source), (&ends.target, target)] {
            if device_of(end.device) != view.device {
                return Err(format!("{} is not in view {}", path.display(), view.name));
            }
        }
        Ok(ends)
    }

    /// Opens both folders, and finds what mv(1) would refuse before it renames.
    pub(super) fn open(source: &Path, target: &Path) -> Result<Self, String> {
        let ends = Self::of(source, target)?;
        let words = |errno: Errno| std::io::Error::from(errno).to_string();
        let moved = match ends.source.look() {
            Ok(moved) => moved,
            // The daemon knows whether a branch is offline, and which.
            Err(Errno::IO) => return Ok(ends),
            Err(errno) => return Err(words(errno)),
        };
        let is_directory = FileType::from_raw_mode(moved.st_mode) == FileType::Directory;
        if (ends.source.slash || ends.target.slash) && !is_directory {
            return Err(words(Errno::NOTDIR));
        }
        match ends.target.look() {
            Ok(found) if (found.st_dev, found.st_ino) == (moved.st_dev, moved.st_ino) => {
                Err("they are the same file".to_owned())
            }
            Ok(_) | Err(Errno::NOENT | Errno::IO) => Ok(ends),
            Err(errno) => Err(words(errno)),
        }
    }

    /// The daemon of the view that both are in. A failure says what to do instead.
    pub(super) fn daemon(&self, source: &Path, target: &Path) -> Result<Client, Failure> {
        let attempt = || format!("cannot move {} to {}", source.display(), target.display());
        let of_source = daemon_of(self.source.device)?;
        let of_target = daemon_of(self.target.device)?;
        let why = match (of_source, of_target) {
            (Some(_), Some(_)) if self.source.device != self.target.device => {
                "they are in two views".to_owned()
            }
            // Before Linux 5.8 mounts have no ids, and rename(2) tells.
            (Some(_), Some(_)) if self.source.mount != self.target.mount => {
                "they are below two mounts of the view: name both below one".to_owned()
            }
            (Some(daemon), Some(_)) => return Ok(daemon),
            (Some(daemon), None) => format!("the target is not in view {}", daemon.hello.view),
            (None, Some(daemon)) => format!("the source is not in view {}", daemon.hello.view),
            (None, None) => "they are not in a mounted view".to_owned(),
        };
        Err(Failure::new(format!("{}: {why}", attempt())).hint("mv(1) moves it"))
    }
}

/// As the table of mounts has it.
fn device_of(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// The daemon that serves a device, if it is a view's.
fn daemon_of(device: u64) -> Result<Option<Client>, Failure> {
    let device = device_of(device);
    let all = mounts::mounts().map_err(cannot("read the table of mounts"))?;
    let of_device = all.into_iter().filter(|mount| mount.device == device);
    let mut refused = None;
    for mount in of_device.filter_map(|mount| mount.view) {
        match Client::find(&mount) {
            Ok(client) => return Ok(Some(client)),
            Err(error) => refused = Some(cannot(format!("ask view {}", mount.name))(error)),
        }
    }
    refused.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(&str, &str, bool)>) {
        let found = split(Path::new(path));
        let found = found.as_ref().map(|split| {
            (split.folder.to_str().unwrap(), split.name.to_str().unwrap(), split.slash)
        });
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn the_last_component_is_the_name() {
        check("a", Some((".", "a", false)));
        check("a/b", Some(("a/", "b", false)));
        check("/a", Some(("/", "a", false)));
        check("a//b//", Some(("a//", "b", true)));
        check("a/.", None);
        check("..", None);
        check("a/../", None);
        check("/", None);
        check("", None);
        check(".a", Some((".", ".a", false)));
    }

    #[test]
    fn names_outside_the_view_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let device = device_of(rustix::fs::stat(dir.path()).unwrap().st_dev);
        let check = |device| {
            let view = ViewMount {
                name: "lab".into(),
                mountpoint: dir.path().into(),
                root: "/".into(),
                device,
                owner: 0,
            };
            Ends::in_view(&view, &dir.path().join("a"), &dir.path().join("b")).err()
        };
        assert_eq!(check(device), None);
        assert!(check((device.0, device.1 + 1)).unwrap().contains("a is not in view lab"));
    }
}
