//! What the daemon needs for files that the kernel knows, and that it does not grow by those it knew.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

use crate::harness::{Mount, Scene, octroi, require_root, wait_for};

/// Files looked at before anything is measured: the daemon's threads then have what they need themselves.
const WARM: usize = 2_000;
/// Files whose memory is measured.
const FILES: usize = 50_000;
/// What each may cost, in bytes. A tenth of it would do for what differs by chance.
const BYTES_MAX: u64 = 400;

/// Memory of the daemon, in bytes.
fn resident(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}

/// Inodes that the daemon knows.
#[track_caller]
fn known(scene: &Scene) -> u64 {
    let told = octroi(["status", "--json", "--view", scene.name()]).ok();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    told["known"]["inodes"].as_u64().expect("a number")
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
fn a_known_file_costs_little_and_is_forgotten_with_the_kernel() {
    require_root();
    let scene = Scene::with(&["work"], "[branches.work]\npath = \"branches/work\"\n");
    fill(&scene.branch("work").join("warm"), WARM);
    fill(&scene.branch("work").join("many"), FILES);
    let mount = scene.mount();
    look_at(&mount, "work/warm", WARM);
    let before = resident(&mount);
    look_at(&mount, "work/many", FILES);
    // What the allocator keeps for a moment, of threads that were busy at once, it gives back within seconds.
    let looked = std::time::Instant::now();
    let mut grown = resident(&mount).saturating_sub(before);
    while grown / FILES as u64 > BYTES_MAX && looked.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        grown = resident(&mount).saturating_sub(before);
    }
    let each = grown / FILES as u64;
    assert!(each <= BYTES_MAX, "{each} bytes each");
    // Less than a file's inode alone: the kernel did not hold on to them, and nothing was measured.
    assert!(each >= 100, "{each} bytes each");

    // Makes the kernel drop what it knows of this mount, and of no other.
    mount_remount(mount.root(), MountFlags::NODEV | MountFlags::NOSUID, "").expect("remount");
    wait_for("the daemon to forget", || known(&scene) < 100);
    // What the allocator keeps depends on where things lay; it serves whoever comes next.
    look_at(&mount, "work/many", FILES);
    let again = resident(&mount).saturating_sub(before);
    assert!(again <= grown + grown / 2, "{grown} bytes the first time, {again} the second");
}
