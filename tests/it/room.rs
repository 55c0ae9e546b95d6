//! What can be undone costs space: bounded by `hold.max`, counted as free, and gone first when space
//! runs short.

use std::fs;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, require_root, sh, wait_for};
use crate::strace::{REQUESTS, Strace};

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

/// Fills disks behind the mount's back, with something of a branch in its hold; how much of it is there then: what
/// looks after it may have had to let it go meanwhile.
fn fill_up(scene: &Scene, mount: &Mount, at: &str, disks: &[&str]) -> usize {
    let target = if at == "inbox" { "review" } else { "inbox" };
    for disk in disks {
        sh(&scene.branch(disk), "rm -f fill").ok();
    }
    // On a disk that is still full it would be empty, and hold would have nothing to give.
    mount.sh(&format!("head -c 4M /dev/zero >{at}/a && mv -f {at}/a {target}/a")).ok();
    for disk in disks {
        sh(&scene.branch(disk), "head -c 80M /dev/zero >fill");
    }
    held(scene, disks.first().expect("a disk"))
}

/// Whatever takes room gets it, not writes alone. What a file system takes for a folder or a name is its own
/// matter: that it has no more is said for it.
#[test]
fn whatever_needs_room_on_a_full_disk_gets_that_of_hold() {
    let (scene, disk) = small("inbox", "max = \"100%\"");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    let long = "x".repeat(200);
    for (call, act) in [
        ("mkdirat", "mkdir inbox/d".to_owned()),
        ("symlinkat", format!("ln -s {long} inbox/s")),
        ("mknodat", "mknod inbox/p p".to_owned()),
        ("linkat", "ln inbox/f inbox/g".to_owned()),
        ("setxattr,fsetxattr", "setfattr -n user.a -v b inbox/f".to_owned()),
    ] {
        while fill_up(&scene, &mount, "inbox", &["inbox"]) == 0 {}
        // Else what went for the one before is waited for first.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let inject = format!("{call}:error=ENOSPC:when=1");
        let strace = Strace::attach(&mount, REQUESTS, Some(&inject));
        let said = mount.sh(&act);
        drop(strace);
        let purged = purges(&mount);
        assert_eq!(
            said.code,
            Some(0),
            "{act}: {}: {} held, {purged:?}",
            said.err,
            held(&scene, "inbox")
        );
        assert_eq!(held(&scene, "inbox"), 0, "{act}");
    }
    mount.unmount();
    drop(disk);
}

/// What looks after hold may be first to make room.
#[test]
fn an_attribute_is_set_once_more_where_others_have_made_room() {
    let (scene, disk) = small("inbox", "max = \"100%\"");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; head -c 4M /dev/zero >inbox/a; mv inbox/a review/a").ok();
    let inject = "setxattr,fsetxattr:error=ENOSPC:when=1";
    let strace = Strace::attach(&mount, REQUESTS, Some(inject));
    mount.sh("setfattr -n user.a -v b inbox/f").ok();
    drop(strace);
    assert_eq!(held(&scene, "inbox"), 1, "nobody's undo goes for it");
    mount.unmount();
    drop(disk);
}

/// ext4 says that there is no space where a value does not fit beside the inode.
#[test]
fn an_attribute_that_never_fits_takes_nobodys_undo() {
    require_root();
    let spec = "path = \"branches/inbox\"\n";
    let body = LAB.replace(spec, &format!("{spec}min_free = \"1MiB\"\n"));
    let scene =
        Scene::with(&["inbox", "other", "review"], &format!("{body}[hold]\nmax = \"100%\"\n"));
    let disk = Disk::ext4(&scene, "inbox", "64M");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; head -c 4M /dev/zero >inbox/b; mv inbox/b review/").ok();
    let large = "python3 -c 'import os; os.setxattr(\"inbox/f\", \"user.b\", b\"v\" * 60000)'";
    assert!(mount.sh(large).fails(1).contains("No space left"));
    assert_eq!(held(&scene, "inbox"), 1);
    mount.unmount();
    drop(disk);
}

/// A pool makes room where all its members are full.
#[test]
fn something_new_in_a_full_pool_gets_the_room_of_hold() {
    require_root();
    let body = "[branches.inbox]\npath = \"branches/inbox\"\n\
                [branches.d1]\npath = \"branches/d1\"\nmin_free = \"1MiB\"\n\
                [branches.d2]\npath = \"branches/d2\"\nmin_free = \"1MiB\"\n\
                [pools.all]\nmembers = [\"d1\", \"d2\"]\nplace = \"first\"\n\
                [gates.out]\nfrom = \"all\"\nto = \"inbox\"\nwho = [\"*\"]\n\
                [gates.in]\nfrom = \"inbox\"\nto = \"all\"\nwho = [\"*\"]\n\
                [hold]\nmax = \"100%\"\n";
    let scene = Scene::with(&["inbox", "d1", "d2"], body);
    let disks = ["d1", "d2"].map(|name| Disk::tmpfs(&scene, name, "32M"));
    let mount = scene.mount();
    while fill_up(&scene, &mount, "all", &["d1", "d2"]) == 0 {}
    // It takes a page there.
    mount.sh(&format!("ln -s {} all/s", "x".repeat(200))).ok();
    assert!(scene.branch("d1").join("s").is_symlink());
    assert_eq!(held(&scene, "d1"), 0);
    // So does what crosses, once it is known how much that is.
    mount.sh("rm all/s; head -c 3M /dev/zero >inbox/b").ok();
    while fill_up(&scene, &mount, "all", &["d1", "d2"]) == 0 {}
    mount.sh("mv inbox/b all/b && test $(stat -c %s all/b) = 3145728").ok();
    mount.unmount();
    drop(disks);
}

/// As on the file system itself: what it keeps for root is not for others, whoever writes for them.
#[test]
fn what_ext4_reserves_for_root_is_left_by_others() {
    require_root();
    let scene = Scene::with(&["inbox"], "[branches.inbox]\npath = \"branches/inbox\"\n");
    let image = scene.base().join("branches/inbox.img");
    sh(scene.base(), "truncate -s 64M branches/inbox.img").ok();
    let disk = Disk::on(image, scene.branch("inbox"), "mkfs.ext4 -q -m 25", "0777");
    let free = || {
        let stat = rustix::fs::statvfs(scene.branch("inbox").as_path()).expect("statfs");
        (stat.f_bfree * stat.f_frsize, stat.f_bavail * stat.f_frsize)
    };
    let mount = scene.mount();
    for fill in [
        "head -c 100M /dev/zero >inbox/f",
        "fallocate -l 40M inbox/f; fallocate -o 40M -l 40M inbox/f",
        "head -c 20M /dev/zero >inbox/f; for n in 1 2 3 4; do cp inbox/f inbox/f$n || exit 1; done",
    ] {
        let said = mount.sh_as("nobody", fill).refused();
        assert!(said.contains("No space left on device"), "{fill}: {said}");
        let (all, theirs) = free();
        assert!(theirs < MIB, "{fill}: {theirs} bytes are left for everybody");
        assert!(all > 14 * MIB, "{fill}: of what is root's {all} bytes are left");
        // What is root's alone root may write.
        mount.sh("head -c 10M /dev/zero >inbox/root && rm inbox/root inbox/f*").ok();
        wait_for("the room to be free", || free().1 > 30 * MIB);
    }
    mount.unmount();
    drop(disk);
}
