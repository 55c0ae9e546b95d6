//! What is mounted where, to tell what a command would see: folders are shown with all that is mounted below
//! them, and a bind mount shows at one path what lies at another.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::Step;

/// The type of a mounted view, as mountinfo has it.
const VIEW: &[u8] = b"fuse.octroi";

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR`: one file system has one number, wherever it is mounted.
    device: Vec<u8>,
    /// Which folder of the file system this shows.
    root: PathBuf,
    at: PathBuf,
    is_view: bool,
}

/// Where something lies, whatever path leads there.
#[derive(Debug, PartialEq, Eq)]
struct Location<'a> {
    device: &'a [u8],
    path: PathBuf,
}

impl Location<'_> {
    /// Whether one of the two is in the other.
    fn meets(&self, other: &Self) -> bool {
        let in_it = self.path.starts_with(&other.path) || other.path.starts_with(&self.path);
        self.device == other.device && in_it
    }
}

/// All mounts, those that cover others after them.
pub(super) struct Table(Vec<Mount>);

impl Table {
    pub(super) fn read(table: &[u8]) -> Self {
        Self(table.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    fn locate(&self, path: &Path) -> Option<Location<'_>> {
        let over = self.0.iter().filter(|mount| path.starts_with(&mount.at));
        let mount = over.max_by_key(|mount| mount.at.as_os_str().len())?;
        let below = path.strip_prefix(&mount.at).ok()?;
        Some(Location { device: &mount.device, path: mount.root.join(below) })
    }

    /// What a path shows: itself, and what is mounted below.
    fn shown(&self, path: &Path) -> impl Iterator<Item = Location<'_>> {
        let below = self.0.iter().filter(move |mount| mount.at.starts_with(path));
        let below = below.map(|mount| Location { device: &mount.device, path: mount.root.clone() });
        self.locate(path).into_iter().chain(below)
    }
}

/// What no command may see.
pub(super) struct KeepOut<'a> {
    pub(super) table: Table,
    /// Real paths.
    pub(super) kept: &'a [PathBuf],
}

impl KeepOut<'_> {
    /// Whether `path`, which is really `real`, can be shown.
    pub(super) fn check(&self, path: &Path, real: &Path) -> Step<()> {
        let meet = |kept: &Path| real.starts_with(kept) || kept.starts_with(real);
        let mut views = self.table.0.iter().filter(|mount| mount.is_view);
        if views.any(|view| meet(&view.at)) {
            return Err(format!("{} leads into a mounted view, or holds one", path.display()));
        }
        let shown: Vec<Location<'_>> = self.table.shown(real).collect();
        let seen = self.kept.iter().find(|kept| {
            let at = self.table.locate(kept);
            meet(kept) || at.is_some_and(|at| shown.iter().any(|shown| shown.meets(&at)))
        });
        match seen {
            None => Ok(()),
            Some(kept) => Err(format!(
                "{}, which commands see, shows {} of the view",
                path.display(),
                kept.display()
            )),
        }
    }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = fields.next()?.to_vec();
    let (root, at) = (unescape(fields.next()?), unescape(fields.next()?));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { device, root, at, is_view: kind == VIEW })
}

/// `\040` is a blank, and so on.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 21 8:2 / /data rw shared:1 master:2 - xfs /dev/sdb rw\n\
        31 21 8:2 /in/sub /usr/share/a\\040b rw - xfs /dev/sdb rw\n\
        32 21 0:50 / /mnt/lab rw,nosuid - fuse.octroi octroi:lab rw,user_id=0\n\
        33 21 8:3 / /opt rw - ext4 /dev/sdc rw\n\
        34 33 0:51 / /opt rw - tmpfs tmpfs rw\n";

    #[track_caller]
    fn check(shown: &str, kept: &[&str]) -> bool {
        let kept: Vec<PathBuf> = kept.iter().map(PathBuf::from).collect();
        let keep_out = KeepOut { table: Table::read(TABLE), kept: &kept };
        keep_out.check(Path::new(shown), Path::new(shown)).is_ok()
    }

    #[test]
    fn views_are_found_among_mounts() {
        assert!(!check("/mnt", &[]) && !check("/mnt/lab/x", &[]) && check("/usr", &[]));
        assert!(mount(b"").is_none() && mount(b"36 35 98:0 / /mnt/a rw").is_none());
    }

    #[test]
    fn what_lies_in_what_is_shown_is_seen_and_what_holds_it_too() {
        assert!(check("/usr", &["/srv/in", "/usr2", "/data/other"]));
        for kept in ["/usr", "/usr/local/in", "/"] {
            assert!(!check("/usr", &[kept]), "{kept}");
        }
        assert!(!check("/usr/bin", &["/usr/bin/x"]) && check("/usr/bin", &["/usr/local/in"]));
    }

    #[test]
    fn what_is_mounted_a_second_time_below_it_is_seen() {
        for kept in ["/data", "/data/in", "/data/in/sub", "/data/in/sub/x", "/srv", "/data/in2"] {
            let seen = kept.starts_with("/data") && kept != "/data/in2";
            assert_eq!(check("/usr", &[kept]), !seen, "{kept}");
        }
        assert!(check("/usr/lib", &["/data/in"]));
        // What was mounted later lies on top.
        let table = Table::read(TABLE);
        assert_eq!(table.locate(Path::new("/opt/x")).unwrap().device, b"0:51");
    }
}
