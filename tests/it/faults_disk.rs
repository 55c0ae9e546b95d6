//! Disks that change under the daemon: read-only by hand or by an error, full of blocks or inodes.
//! Each is reported, fails alone, and heals.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, octroi, require_root, sh, wait_for};

fn branches(scene: &Scene) -> PathBuf {
    scene.base().join("branches")
}

#[track_caller]
fn fault(scene: &Scene, branch: &str) -> Value {
    let text = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let all = status["branches"].as_array().expect("branches");
    all.iter().find(|found| found["name"] == branch).expect("the branch")["fault"].clone()
}

fn said(scene: &Scene, what: &str) -> usize {
    let log = fs::read(scene.base().join("daemon.log")).expect("a log");
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(what)).count()
}

/// Crossings lead to `other` and out of it.
const BOTH_WAYS: &str = r#"
[gates.into]
from = "inbox"
to = "other"
who = ["*"]
[gates.out]
from = "other"
to = "inbox"
who = ["*"]
"#;

fn with_disk() -> (Scene, Disk, Mount) {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{BOTH_WAYS}"));
    let disk = Disk::ext4(&scene, "other", "128M");
    let mount = scene.mount();
    mount.sh("mkdir other/d; echo there >other/d/f; echo here >inbox/f").ok();
    mount.sh("echo crossed >inbox/c && mv inbox/c other/c && sync").ok();
    (scene, disk, mount)
}

#[track_caller]
fn refuses_changes(mount: &Mount) {
    let commits =
        |mount: &Mount| mount.ledger().into_iter().filter(|line| line["step"] == "commit").count();
    let (before, decided) = (mount.sh("find inbox other | sort").ok(), commits(mount));
    let changes = [
        "echo x >other/new",
        "echo x >>other/d/f",
        "rm other/d/f",
        "mkdir other/new",
        "mv other/d other/e",
        "chmod 600 other/d/f",
        "mv inbox/f other/g",
        "mv -T inbox/f other/d/f",
        "mv other/d/f inbox/g",
        "mv other/d inbox/d",
        "$OCTROI undo other/c",
    ];
    for change in changes {
        let said = mount.sh(change).refused();
        let said = said.to_lowercase();
        assert!(said.contains("read-only") || said.contains("erofs"), "{change}: {said}");
    }
    assert_eq!(commits(mount), decided, "a crossing was decided that could not be made");
    assert_eq!(mount.sh("find inbox other | sort; cat other/d/f").ok(), format!("{before}there\n"));
    mount.sh("echo fine >inbox/g; mv inbox/g review/g; rm review/g").ok();
}

#[test]
fn a_branch_mounted_read_only_is_reported_and_heals() {
    let (scene, disk, mount) = with_disk();
    sh(&branches(&scene), "mount -o remount,ro other").ok();
    wait_for("it to be seen", || fault(&scene, "other") == "read-only");
    let shown = octroi(["status", "--view", scene.name()]).ok();
    let line = shown.lines().find(|line| line.starts_with("other")).expect("a line");
    assert!(line.contains("read-only since 2"), "{line}");
    refuses_changes(&mount);
    let why = mount.sh("mv inbox/f other/g || $OCTROI why").ok();
    assert!(why.contains("branch other is read-only"), "{why}");
    sh(&branches(&scene), "mount -o remount,rw other").ok();
    wait_for("it to heal", || fault(&scene, "other").is_null());
    mount.sh("mv inbox/f other/g; $OCTROI undo other/c; echo more >>other/d/f").ok();
    assert_eq!(said(&scene, "branch other is read-only: "), 1);
    assert_eq!(said(&scene, "branch other can be changed again"), 1);
    assert_eq!(said(&scene, "is offline"), 0);
    mount.unmount();
    drop(disk);
}

/// At once, before a probe has seen it.
#[test]
fn what_crosses_when_a_branch_becomes_read_only_stays_where_it_is() {
    let (scene, disk, mount) = with_disk();
    sh(&branches(&scene), "mount -o remount,ro other").ok();
    refuses_changes(&mount);
    sh(&branches(&scene), "mount -o remount,rw other").ok();
    mount.sh("mv inbox/f other/g; cat other/g").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_branch_whose_disk_is_mounted_read_only_is_served_for_reading() {
    let (scene, disk, mount) = with_disk();
    mount.unmount();
    sh(&branches(&scene), "mount -o remount,ro other").ok();
    let mount = scene.mount();
    wait_for("it to be seen", || fault(&scene, "other") == "read-only");
    refuses_changes(&mount);
    sh(&branches(&scene), "mount -o remount,rw other").ok();
    wait_for("it to heal", || fault(&scene, "other").is_null());
    mount.sh("mv inbox/f other/g; $OCTROI undo other/c").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_disk_that_met_an_error_is_reported_and_heals() {
    let (scene, disk, mount) = with_disk();
    let device = "lsblk -no KNAME $(findmnt -no SOURCE other)";
    let fail = format!(
        "mount -o remount,errors=remount-ro other; echo 1 >/sys/fs/ext4/$({device})/trigger_fs_error"
    );
    sh(&branches(&scene), &fail).ok();
    let said_to_user = mount.sh("echo x >other/new").refused();
    assert!(said_to_user.contains("Read-only file system"), "{said_to_user}");
    wait_for("it to be seen", || fault(&scene, "other") == "read-only");
    assert_eq!(mount.sh("cat other/d/f").ok(), "there\n");
    refuses_changes(&mount);
    // While the daemon has anything of it open, the same disk would be the same file system, with its error.
    sh(&branches(&scene), "umount -l other").ok();
    wait_for("it to be let go", || fault(&scene, "other") == "offline");
    sh(&branches(&scene), "e2fsck -fp other.img; mount -o loop other.img other").ok();
    wait_for("it to heal", || fault(&scene, "other").is_null());
    mount.sh("echo x >other/new; mv inbox/f other/g; cat other/d/f").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_pool_with_a_member_that_is_read_only_takes_new_files_to_the_others() {
    require_root();
    let body = "[branches.one]\npath = \"branches/one\"\nmin_free = \"1MiB\"\n[branches.two]\npath = \"branches/two\"\n\
                min_free = \"1MiB\"\n[pools.all]\nmembers = [\"one\", \"two\"]\nplace = \"first\"\n";
    let scene = Scene::with(&["one", "two"], body);
    let disk = Disk::ext4(&scene, "one", "80M");
    let mount = scene.mount();
    mount.sh("mkdir all/d; echo old >all/d/old; sync").ok();
    sh(&branches(&scene), "mount -o remount,ro one").ok();
    mount.sh("echo new >all/d/new; mkdir all/e; ln -s x all/l; cat all/d/old").ok();
    assert!(scene.branch("two").join("d/new").exists());
    assert!(mount.sh("rm all/d/old").refused().contains("Read-only"));
    wait_for("it to be seen", || fault(&scene, "one") == "read-only");
    mount.sh("echo newer >all/d/newer; ls all/d").ok();
    sh(&branches(&scene), "mount -o remount,rw one").ok();
    mount.sh("rm all/d/old").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_store_that_a_full_disk_takes_half_of_is_not_said_to_be_kept() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::tmpfs(&scene, "other", "1M");
    let mount = scene.mount();
    mount.sh("head -c 700k /dev/zero >other/fill; truncate -s 512k other/f").ok();
    let store = "python3 -c 'import mmap, sys
with open(\"other/f\", \"r+b\") as file:
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = b\"x\" * len(mapped)
        try:
            mapped.flush()
        except OSError as error:
            sys.exit(\"msync: \" + error.strerror)'";
    let said = mount.sh(store).refused();
    assert!(said.contains("No space left") || said.contains("Input/output error"), "{said}");
    // Who asks for nothing to be written is told when the file is closed.
    let store = "python3 -c 'import mmap, os
file = os.open(\"other/g\", os.O_RDWR | os.O_CREAT)
os.truncate(file, 512 << 10)
mapped = mmap.mmap(file, 0)
mapped[:] = b\"x\" * len(mapped)
os.close(file)'";
    let said = mount.sh(store).refused();
    assert!(said.contains("line 6") && said.contains("No space left"), "{said}");
    assert!(mount.log().contains("/other/g: what was stored through a mapping is lost"));
    mount.sh("rm other/fill other/f other/g; echo again >other/f").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn what_is_removed_from_a_full_disk_makes_room_for_what_is_written_next() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::tmpfs(&scene, "other", "1M");
    let mount = scene.mount();
    let rounds = "python3 -c 'import os
for round in range(1000):
    name = f\"other/{round % 2}\"
    with open(name, \"xb\", buffering=0) as file:
        assert file.write(bytes(600 << 10)) == 600 << 10, round
    if round % 3 == 0:
        os.unlink(name)
    elif round % 3 == 1:
        open(\"other/new\", \"xb\").close()
        os.rename(\"other/new\", name)
        os.unlink(name)
    else:
        with open(name, \"rb\") as file:
            os.unlink(name)'";
    mount.sh(rounds).ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_branch_without_inodes_says_so_and_heals() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{BOTH_WAYS}"));
    let disk = Disk::tmpfs(&scene, "other", "80M,nr_inodes=24");
    let mount = scene.mount();
    let said = mount.sh("for i in $(seq 40); do echo x >other/$i || exit 1; done").refused();
    assert!(said.contains("No space left"), "{said}");
    let count = mount.sh("ls other | wc -l").ok();
    for change in [
        "mkdir other/d",
        "ln -s x other/l",
        "echo x >inbox/f; mv inbox/f other/f",
        "mkfifo other/p",
    ] {
        assert!(mount.sh(change).refused().contains("No space left"), "{change}");
    }
    assert_eq!(mount.sh("ls other | wc -l; cat inbox/f").ok(), format!("{count}x\n"));
    mount.sh("rm other/1 other/2; mv inbox/f other/f; mkdir other/d").ok();
    mount.unmount();
    drop(disk);
}
