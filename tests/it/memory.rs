//! What the daemon needs for files that the kernel knows, and that it gives it back.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount_remount};

use crate::harness::{Mount, Scene, require_root};

/// Files looked at before anything is measured: the daemon's threads then have what they need themselves.
const WARM: usize = 2_000;
/// Files whose memory is measured.
const FILES: usize = 40_000;
/// What each may cost, in bytes. A tenth of it would do for what differs by chance.
const BYTES_MAX: u64 = 400;
/// The kernel forgets at once, the daemon looks after its memory each second.
const GIVE_BACK_MAX: Duration = Duration::from_secs(30);

/// Memory of the daemon, in bytes.
fn resident(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}

fn fill(folder: &Path, files: usize) {
    fs::create_dir(folder).expect("a folder");
    for number in 0..files {
        let name = format!("measurement-{number:08}");
        fs::File::create(folder.join(name)).expect("a file");
    }
}

/// Has the kernel know every file of a folder.
#[track_caller]
fn look_at(mount: &Mount, folder: &str, files: usize) {
    let found =
        mount.sh(&format!("set -o pipefail; find {folder} -type f -size -1 -printf . | wc -c"));
    assert_eq!(found.ok().trim(), files.to_string());
}

#[test]
fn a_known_file_costs_little_and_is_given_back_when_it_is_forgotten() {
    require_root();
    let scene = Scene::with(&["work"], "[branches.work]\npath = \"branches/work\"\n");
    fill(&scene.branch("work").join("warm"), WARM);
    fill(&scene.branch("work").join("many"), FILES);
    let mount = scene.mount();
    look_at(&mount, "work/warm", WARM);
    let before = resident(&mount);
    look_at(&mount, "work/many", FILES);
    let grown = resident(&mount).saturating_sub(before);
    let each = grown / FILES as u64;
    assert!(each <= BYTES_MAX, "{each} bytes each");
    // Less than a file's inode alone: the kernel did not hold on to them, and nothing was measured.
    assert!(each >= 100, "{each} bytes each");

    // Makes the kernel drop what it knows of this mount, and of no other.
    mount_remount(mount.root(), MountFlags::NODEV | MountFlags::NOSUID, "").expect("remount");
    let start = Instant::now();
    let mut kept = grown;
    while kept > grown / 2 {
        assert!(start.elapsed() < GIVE_BACK_MAX, "{kept} bytes of {grown} are kept");
        thread::sleep(Duration::from_millis(100));
        kept = resident(&mount).saturating_sub(before);
    }
    look_at(&mount, "work/many", FILES);
}
