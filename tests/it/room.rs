//! What can be undone costs space: bounded by `hold.max`, counted as free, and gone first when space
//! runs short.

use std::fs;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, require_root, sh, wait_for};

const MIB: u64 = 1 << 20;

/// The usual view with a small disk for one branch.
fn small(branch: &str, hold: &str) -> (Scene, Disk) {
    require_root();
    let spec = format!("path = \"branches/{branch}\"\n");
    let body = LAB.replace("mode = \"gates-only\"\n", "");
    let body = body.replace(&spec, &format!("{spec}min_free = \"1MiB\"\n"));
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{body}[hold]\n{hold}\n"));
    let disk = Disk::tmpfs(&scene, branch, "40M");
    (scene, disk)
}

fn available(mount: &Mount, branch: &str) -> u64 {
    let stat = rustix::fs::statvfs(mount.path(branch)).expect("statfs");
    stat.f_bavail * stat.f_frsize
}

fn held(scene: &Scene, branch: &str) -> usize {
    fs::read_dir(scene.branch(branch).join(".octroi/hold")).expect("hold").count()
}

/// The reasons of all purges.
fn purges(mount: &Mount) -> Vec<String> {
    let lines = mount.ledger().into_iter().filter(|line| line["kind"] == "purge");
    lines.map(|line| line["reason"].as_str().expect("a reason").to_owned()).collect()
}

#[test]
fn a_write_that_meets_a_full_disk_gets_the_room_of_hold() {
    let (scene, disk) = small("inbox", "max = \"100%\"");
    let mount = scene.mount();
    mount.sh("head -c 10M /dev/zero >inbox/a; mv inbox/a review/a").ok();
    mount.sh("head -c 10M /dev/zero >inbox/b; mv inbox/b review/b").ok();
    assert_eq!(held(&scene, "inbox"), 2);
    wait_for("what hold would give back", || available(&mount, "inbox") >= 39 * MIB);
    let real = sh(&scene.branch("inbox"), "stat -f -c '%a %S' .").ok();
    let real: Vec<u64> = real.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert!(real[0] * real[1] < 21 * MIB, "it is free already: {real:?}");

    // What cannot be had takes nobody's undo.
    mount.sh("fallocate -n -l 10G inbox/impossible").refused();
    assert_eq!((held(&scene, "inbox"), purges(&mount).len()), (2, 0));

    // More than is free at once, in less time than between two looks.
    mount.sh("head -c 25M /dev/zero >inbox/c && test $(stat -c %s inbox/c) = 26214400").ok();
    assert!(held(&scene, "inbox") < 2, "nothing made room");
    let reasons = purges(&mount);
    assert!(!reasons.is_empty(), "no purge is recorded");
    assert!(
        reasons.iter().all(|one| one.starts_with("branch inbox runs short of space")),
        "{reasons:?}"
    );
    let said = mount.sh("$OCTROI undo review/a").fails(1);
    assert!(said.contains("there is no crossing to undo") || said.contains("purged"), "{said}");
    // What hold cannot give is not there.
    let said = mount.sh("head -c 30M /dev/zero >inbox/d").refused();
    assert!(said.contains("No space left"), "{said}");
    mount.unmount();
    drop(disk);
}

#[test]
fn a_crossing_to_a_full_branch_gets_the_room_of_hold() {
    let (scene, disk) = small("review", "max = \"100%\"");
    let mount = scene.mount();
    mount.sh("head -c 20M /dev/zero >review/x; echo new >inbox/x; mv inbox/x review/x").ok();
    assert_eq!(held(&scene, "review"), 1);
    mount
        .sh("head -c 30M /dev/urandom >inbox/y; sum=$(sha256sum <inbox/y); mv inbox/y review/y; \
              test \"$sum\" = \"$(sha256sum <review/y)\"")
        .ok();
    assert_eq!(held(&scene, "review"), 0);
    let reasons = purges(&mount);
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].starts_with("branch review runs short of space"), "{reasons:?}");
    let said = mount.sh("head -c 30M /dev/urandom >inbox/z; mv inbox/z review/z").refused();
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(mount.sh("stat -c %s inbox/z").ok(), "31457280\n");
    mount.unmount();
    drop(disk);
}

#[test]
fn hold_takes_no_more_than_it_may() {
    let (scene, disk) = small("inbox", "max = \"3MiB\"");
    let mount = scene.mount();
    for name in ["a", "b", "c"] {
        mount
            .sh(&format!("head -c 1M /dev/zero >inbox/{name}; mv inbox/{name} review/{name}"))
            .ok();
    }
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!((held(&scene, "inbox"), purges(&mount).len()), (3, 0), "it may be so much");
    mount.sh("head -c 2M /dev/zero >inbox/d; mv inbox/d review/d").ok();
    wait_for("the oldest to go", || held(&scene, "inbox") == 2);
    assert_eq!(purges(&mount), ["hold.max of branch inbox"; 2]);
    mount.sh("$OCTROI undo review/c && test $(stat -c %s inbox/c) = 1048576").ok();
    mount.sh("$OCTROI undo review/a").fails(1);
    mount.unmount();
    drop(disk);
}
