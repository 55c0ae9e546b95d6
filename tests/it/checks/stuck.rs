//! A command that cannot be killed, because it hangs in the kernel.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use octroi::check::{About, Outcome, Runner};
use octroi::types::ViewPath;

use super::Shut;
use crate::disk::Disk;
use crate::harness::{Scene, require_root, sh, wait_for};

/// A file system that takes no writes until this is dropped: who tries sleeps, and cannot be killed.
struct Frozen(String);

impl Frozen {
    fn new(path: &Path) -> Self {
        let path = path.display().to_string();
        sh(Path::new("/"), &format!("fsfreeze -f {path}")).ok();
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        sh(Path::new("/"), &format!("fsfreeze -u {}", self.0));
    }
}

#[test]
fn nobody_waits_for_what_does_not_die() {
    require_root();
    let scene = Scene::with(&["slow"], "");
    let _disk = Disk::ext4(&scene, "slow", "32M");
    let folder = scene.branch("slow");
    let shut = Shut::script("");
    let helper = shut.folder.path().join("helper");
    let script = format!("#!/bin/sh\nexec touch {}/never\n", folder.display());
    fs::write(&helper, script).expect("write");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut check = shut.check.clone();
    check.timeout = Duration::from_secs(1);
    let file = File::open(shut.file()).expect("the file");
    let path = ViewPath::root();
    let about = About { gate: "submit", source: &path, target: &path };
    let runner = Runner::new(helper, Vec::new());
    let frozen = Frozen::new(&folder);
    let verdict = runner.run(&check, file.as_fd(), &about, &|| false);
    assert_eq!(verdict.outcome, Outcome::TimedOut(Duration::from_secs(1)));
    let find = format!("pgrep -f '^touch {}/never'", folder.display());
    let pid = sh(Path::new("/"), &find).ok().trim().to_owned();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    assert!(status.contains("State:\tD"), "it does not hang: {status}");
    drop(frozen);
    // Then it ends, and somebody has waited for it.
    wait_for("its end", || !Path::new(&format!("/proc/{pid}")).exists());
}
