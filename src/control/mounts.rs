//! Finding mounted views: what `/proc/self/mountinfo` tells (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::Errno;

/// The type of a view's mount.
const TYPE: &[u8] = b"fuse.octroi";
/// What a view's source begins with; its name follows.
const SOURCE: &[u8] = b"octroi:";

/// Any mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, as this process sees it.
    pub mountpoint: PathBuf,
    /// Major and minor number of its device; the minor one names a FUSE mount in
    /// `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// The view, if it is one.
    pub view: Option<ViewMount>,
}

/// A mounted view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewMount {
    /// Its name.
    pub name: String,
    /// Where, as this process sees it.
    pub mountpoint: PathBuf,
    /// What of it is there, from its root: a bind mount may show a folder of it.
    pub root: PathBuf,
    /// Major and minor number of its device, which bind mounts share.
    pub device: (u32, u32),
    /// The user who mounted it.
    pub owner: u32,
}

impl ViewMount {
    /// A path below the mountpoint as one from the view's root; None if it is not below.
    pub fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.mountpoint).ok().map(|below| self.root.join(below))
    }

    /// A path from the view's root as one below the mountpoint; None if it is not shown there.
    pub fn outside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(|below| match below.as_os_str().is_empty() {
            true => self.mountpoint.clone(),
            false => self.mountpoint.join(below),
        })
    }

    /// Whether the daemon of this mount is gone: the kernel answers ENOTCONN then.
    pub fn is_dead(&self) -> bool {
        is_dead(&self.mountpoint)
    }
}

/// Whether a path is a FUSE mount whose daemon is gone. Attributes may still come from the kernel's
/// cache; statfs(2) never does.
pub fn is_dead(path: &Path) -> bool {
    // ECONNABORTED: it went while it was asked (fs/fuse/dev.c, `fuse_abort_conn`).
    let gone = |errno| matches!(errno, Errno::NOTCONN | Errno::CONNABORTED);
    rustix::fs::statfs(path).is_err_and(gone) || rustix::fs::stat(path).is_err_and(gone)
}

/// All mounts of this process's namespace, a later one over an earlier one after it.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounted views, each with its bind mounts; where one is mounted over another, only the upper one.
pub fn views() -> io::Result<Vec<ViewMount>> {
    let mut views: Vec<ViewMount> = Vec::new();
    for mount in mounts()? {
        views.retain(|view| view.mountpoint != mount.mountpoint);
        views.extend(mount.view);
    }
    Ok(views)
}

/// The mount that is on top at exactly this path.
pub fn mount_at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.mountpoint == path))
}

/// Reads the text of mountinfo; lines that make no sense are passed over.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = PathBuf::from(unescape(fields.next()?));
    let mountpoint = PathBuf::from(unescape(fields.next()?));
    fields.find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = unescape(fields.next()?);
    let options = fields.next().unwrap_or_default();
    // A folder that is gone has no path that anybody could ask of.
    let view = (kind == TYPE && !root.as_os_str().as_bytes().ends_with(b"//deleted"))
        .then(|| source.as_bytes().strip_prefix(SOURCE))
        .flatten()
        .and_then(|name| std::str::from_utf8(name).ok())
        .map(|name| ViewMount {
            name: name.to_owned(),
            mountpoint: mountpoint.clone(),
            root,
            device,
            owner: owner(options).unwrap_or(0),
        });
    Some(Mount { mountpoint, device, view })
}

fn owner(options: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(options).ok()?;
    text.split(',').find_map(|option| option.strip_prefix("user_id="))?.parse().ok()
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = if *first == b'\\' { after.get(..3).and_then(octal) } else { None };
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
        90 28 0:51 / /mnt/lab rw,nosuid,nodev shared:99 master:2 - fuse.octroi octroi:lab rw,user_id=1000,group_id=1000\n\
        91 28 0:52 / /mnt/a\\040b\\134c\\011 rw - fuse.octroi octroi:two rw,user_id=0\n\
        nonsense\n\
        92 28 0:53 / /mnt/x rw - fuse.other octroi:fake rw\n\
        93 28 0:51 /in\\040box /jail rw - fuse.octroi octroi:lab rw,user_id=1000\n";

    #[test]
    fn views_are_told_from_other_mounts() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 5);
        assert_eq!(mounts[0].view, None);
        assert_eq!(mounts[1].device, (0, 51));
        let lab = mounts[1].view.as_ref().expect("a view");
        assert_eq!((lab.name.as_str(), lab.owner), ("lab", 1000));
        assert_eq!(mounts[3].view, None, "the source alone does not make a view");
    }

    #[test]
    fn a_bind_mount_of_a_folder_shows_what_is_below_it() {
        let mounts = parse(TEXT);
        let jail = mounts[4].view.as_ref().expect("a view");
        assert_eq!((&*jail.root, jail.device), (Path::new("/in box"), (0, 51)));
        assert_eq!(jail.inside(Path::new("/jail/a")).expect("below"), Path::new("/in box/a"));
        assert_eq!(jail.inside(Path::new("/jailed/a")), None);
        assert_eq!(jail.outside(Path::new("/in box")).expect("shown"), Path::new("/jail"));
        assert_eq!(jail.outside(Path::new("/in box/a")).expect("shown"), Path::new("/jail/a"));
        assert_eq!(jail.outside(Path::new("/archive/a")), None);
    }

    #[test]
    fn octal_escapes_are_bytes_again() {
        let mounts = parse(TEXT);
        assert_eq!(mounts[2].mountpoint, Path::new("/mnt/a b\\c\t"));
        assert_eq!(unescape(b"a\\"), "a\\");
        assert_eq!(unescape(b"\\04"), "\\04");
        assert_eq!(unescape(b"\\777"), "\\777");
    }

    #[test]
    fn the_real_table_is_read() {
        assert!(mount_at(Path::new("/proc")).expect("mountinfo").is_some());
        assert!(mount_at(Path::new("/nonexistent")).expect("mountinfo").is_none());
    }
}
