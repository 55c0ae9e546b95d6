//! pjdfstest, the POSIX file system test suite of crates.io, through a mount, and beside it on the bare
//! file system: through the mount nothing may fail, and nothing be skipped that is not skipped there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;

use crate::disk::Disk;
use crate::harness::{Scene, require_root, run, sh};

const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pjdfstest.toml");

/// A rule beside the ledger and hold, which are on by themselves.
const RULE: &str = r#"
[rules.nothing-forbidden]
deny = ["read", "write", "add", "remove", "attrs"]
who = ["*"]
paths = ["/**/*.forbidden"]
reason = "this name is forbidden"
"#;

/// What pjdfstest makes of LINK_MAX in every FUSE file system: the C library knows the limits of file systems by
/// their types. [`a_file_with_all_its_links_takes_no_more`] stands in for the test.
const LINKS: (&str, &str) =
    ("link::link_count_max", "Cannot get value for LINK_MAX: filesystem limit is unknown");

/// What pjdfstest says, by tests' names.
#[derive(Debug, Default)]
struct Outcome {
    passed: usize,
    /// With what is said of it.
    failed: BTreeMap<String, String>,
    /// With the reason.
    skipped: BTreeMap<String, String>,
}

/// Where scripts/setup, or somebody else, has put it.
#[track_caller]
fn program() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(cargo.or(home).map(|cargo| cargo.join("bin")));
    let found = folders.into_iter().map(|folder| folder.join("pjdfstest")).find(|at| at.is_file());
    found.expect("there is no pjdfstest: run scripts/setup")
}

/// Runs it in a folder; `tests` are parts of names, none for all.
#[track_caller]
fn pjdfstest(folder: &Path, secondary: &Path, tests: &[&str]) -> Outcome {
    require_root();
    for database in ["passwd", "group"] {
        let known = run(Command::new("getent").args([database, "tests"])).code == Some(0);
        assert!(known, "there is no {database} entry `tests`: run scripts/setup");
    }
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "300"]).arg(program()).args(["-c", SETTINGS, "-p"]).arg(folder);
    let ended = run(command.arg("-s").arg(secondary).args(tests).env("RUST_BACKTRACE", "0"));
    let outcome = read(&ended.out);
    let Outcome { passed, failed, skipped } = &outcome;
    let (failures, skips) = (failed.len(), skipped.len());
    let summary =
        format!("Summary: {failures} failed, {skips} skipped, {passed} passed, 0 expected");
    assert!(ended.out.contains(&summary), "it did not say {summary:?}: {ended:?}");
    outcome
}

fn read(printed: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut said: Option<&mut String> = None;
    for line in printed.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(said) = &mut said {
                said.push_str(more);
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let (name, result) = (words.next().unwrap_or_default().to_owned(), words.next());
        said = None;
        match result {
            Some("ok") => outcome.passed += 1,
            Some("FAILED") => said = Some(outcome.failed.entry(name).or_default()),
            Some("skipped") => said = Some(outcome.skipped.entry(name).or_default()),
            _ => {}
        }
    }
    outcome
}

/// Through the mount everything passes that passes on the bare file system, which passes all it can.
#[track_caller]
fn check(bare: &Outcome, mounted: &Outcome) {
    assert_eq!(bare.failed, BTreeMap::new(), "on the bare file system");
    assert!(bare.passed > 300, "{} tests passed on the bare file system", bare.passed);
    assert_eq!(mounted.failed, BTreeMap::new());
    let mut skipped = bare.skipped.clone();
    skipped.insert(LINKS.0.to_owned(), LINKS.1.to_owned());
    assert_eq!(mounted.skipped, skipped);
}

/// A bare file system of the kind that the branches have, and a folder on another one.
fn bare(scene: &Scene) -> Outcome {
    let _disk = Disk::ext4(scene, "bare", "1G");
    // The folder of the branches is closed to the users that pjdfstest acts as.
    let open = "mkdir -p opened && mount --bind branches/bare opened";
    sh(scene.base(), open).ok();
    let outcome = std::panic::catch_unwind(|| {
        pjdfstest(&scene.base().join("opened"), &scene.base().join("plain"), &[])
    });
    sh(scene.base(), "umount opened || umount -l opened").ok();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn a_branch_on_ext4_is_as_ext4() {
    let scene = Scene::new();
    let _disk = Disk::ext4(&scene, "data", "1G");
    let _other = Disk::ext4(&scene, "other", "64M");
    let branches =
        "[branches.data]\npath = \"branches/data\"\n[branches.other]\npath = \"branches/other\"\n";
    scene.configure(&format!("{branches}{RULE}"));
    let bare = bare(&scene);
    let mount = scene.mount_with(&["-o", "dev,suid"]);
    check(&bare, &pjdfstest(&mount.path("data"), &scene.base().join("plain"), &[]));
    // Another branch is another file system to link(2). To rename(2) it is not: that is a crossing.
    let linked = pjdfstest(&mount.path("data"), &mount.path("other"), &["link::exdev_target"]);
    assert_eq!((linked.passed, linked.failed), (1, BTreeMap::new()));
    mount.unmount();
}

#[test]
fn a_pool_of_two_is_as_ext4() {
    let scene = Scene::new();
    let _disks = ["one", "two"].map(|name| Disk::ext4(&scene, name, "1G"));
    let pool = "[branches.one]\npath = \"branches/one\"\n[branches.two]\npath = \"branches/two\"\n\
                [pools.data]\nmembers = [\"one\", \"two\"]\n";
    scene.configure(&format!("{pool}{RULE}"));
    let bare = bare(&scene);
    let mount = scene.mount_with(&["-o", "dev,suid"]);
    check(&bare, &pjdfstest(&mount.path("data"), &scene.base().join("plain"), &[]));
    mount.unmount();
}

/// The links of a file on ext4 (EXT4_LINK_MAX in the kernel's fs/ext4/ext4.h).
const LINKS_MAX: u64 = 65_000;

#[test]
fn a_file_with_all_its_links_takes_no_more() {
    let scene = Scene::with(&[], "[branches.data]\npath = \"branches/data\"\n");
    let _disk = Disk::ext4(&scene, "data", "256M");
    let backing = scene.branch("data");
    fs::write(backing.join("file"), "one of many names").expect("written");
    for at in 0..LINKS_MAX - 2 {
        fs::hard_link(backing.join("file"), backing.join(at.to_string())).expect("linked");
    }
    let mount = scene.mount();
    let link = |name| fs::hard_link(mount.path("data/file"), mount.path(name));
    link("data/last").expect("there is room for one more");
    let errno = link("data/one too many").expect_err("there is none").raw_os_error();
    assert_eq!(errno, Some(Errno::MLINK.raw_os_error()));
    let links = fs::metadata(mount.path("data/last")).expect("there").nlink();
    assert_eq!(links, LINKS_MAX);
    mount.unmount();
}

#[test]
fn subdirectories_on_btrfs_are_counted_while_they_are_few() {
    let scene = Scene::with(&[], "[branches.data]\npath = \"branches/data\"\n");
    let _disk = Disk::btrfs(&scene, "data", "256M");
    let mount = scene.mount();
    let links = |path: &str| fs::metadata(mount.path(path)).expect("there").nlink();
    mount.sh("mkdir -p data/d/a/b data/d/c; echo text > data/d/file").ok();
    assert_eq!(
        [links("data"), links("data/d"), links("data/d/a"), links("data/d/c")],
        [3, 4, 3, 2]
    );
    mount.sh("mv data/d/a/b data/d/c/b; rmdir data/d/a").ok();
    assert_eq!([links("data/d"), links("data/d/c")], [3, 3]);
    mount.sh("mkdir data/many; cd data/many; seq -f name-%06g 1000 | xargs mkdir").ok();
    assert_eq!(links("data/many"), 1, "as ext4 says of a directory with too many");
    mount.unmount();
}
