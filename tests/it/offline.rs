//! Branches that go offline and come back while the view is mounted. Each state is waited for by
//! asking `octroi status`, as users would.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use octroi::vfs::TTL;
use rustix::process::Signal;
use serde_json::Value;

use crate::disk::{Disk, SHUTDOWN};
use crate::harness::{LAB, Mount, Scene, octroi, require_root, sh, wait_for};
use crate::strace::Strace;

fn branches(scene: &Scene) -> PathBuf {
    scene.base().join("branches")
}

#[track_caller]
fn status(scene: &Scene, branch: &str) -> Value {
    let text = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let all = status["branches"].as_array().expect("branches");
    all.iter().find(|found| found["name"] == branch).expect("the branch").clone()
}

#[track_caller]
fn wait_offline(scene: &Scene, branch: &str, why: &str) {
    wait_for(&format!("{branch} to be offline: {why}"), || {
        let found = status(scene, branch);
        found["fault"] == "offline"
            && found["why"].as_str().is_some_and(|found| found.contains(why))
            && found["since"].as_str().is_some_and(|since| !since.is_empty())
    });
}

#[track_caller]
fn wait_online(scene: &Scene, branch: &str) {
    wait_for(&format!("{branch} to be online"), || status(scene, branch)["fault"].is_null());
}

/// How often the daemon said so.
fn said(scene: &Scene, what: &str) -> usize {
    let log = fs::read(scene.base().join("daemon.log")).expect("a log");
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(what)).count()
}

/// The usual view, with `other` on a disk of its own that the ledger knows.
fn lab_with_disk() -> (Scene, Disk) {
    with_disk(LAB)
}

fn with_disk(body: &str) -> (Scene, Disk) {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], body);
    let disk = Disk::ext4(&scene, "other", "64M");
    let mount = scene.mount();
    mount.sh("mkdir other/d; echo there >other/d/f; sync").ok();
    mount.unmount();
    (scene, disk)
}

#[track_caller]
fn others_serve(mount: &Mount) {
    mount.sh("echo here >inbox/f && cat inbox/f && mv inbox/f review/f && cat review/f").ok();
    mount.sh("rm review/f").ok();
}

#[track_caller]
fn answers_eio(mount: &Mount, script: &str) {
    let said = mount.sh(script).refused();
    assert!(said.contains("Input/output error"), "{script}: {said}");
}

#[test]
fn a_branch_missing_at_mount_heals_when_its_disk_is_mounted() {
    let (scene, disk) = lab_with_disk();
    sh(&branches(&scene), "umount other && rmdir other").ok();
    let mount = scene.mount();
    wait_offline(&scene, "other", "No such file or directory");
    answers_eio(&mount, "ls other");
    answers_eio(&mount, "cat other/d/f");
    mount.sh("echo x >inbox/x").ok();
    for names in ["inbox/x other/", "inbox/x other/d/x", "other/d/f inbox/"] {
        let said = mount.sh(&format!("$OCTROI mv {names}")).fails(1);
        assert!(said.contains("branch other is offline"), "{names}: {said}");
    }
    mount.sh("rm inbox/x").ok();
    others_serve(&mount);
    let shown = octroi(["status", "--view", scene.name()]).ok();
    let line = shown.lines().find(|line| line.starts_with("other")).expect("a line");
    assert!(line.contains("offline since 2") && line.contains("No such file"), "{line}");
    // The folder alone is not the branch.
    sh(&branches(&scene), "mkdir other").ok();
    wait_offline(&scene, "other", "is its disk mounted?");
    sh(&branches(&scene), "mount -o loop other.img other").ok();
    wait_online(&scene, "other");
    assert_eq!(mount.sh("cat other/d/f; echo more >other/g; cat other/g").ok(), "there\nmore\n");
    let audited = fs::read_to_string(mount.path(".audit/branches/other.json")).expect("there");
    let audited: Value = serde_json::from_str(&audited).expect("JSON");
    assert_eq!((&audited["online"], &audited["fault"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(said(&scene, "branch other is online again"), 1);
    assert_eq!(said(&scene, "branch other is offline"), 1);
    mount.unmount();
    drop(disk);
}

#[test]
fn a_branch_that_shows_that_the_ledger_is_an_earlier_one_stays_offline() {
    let (scene, disk) = lab_with_disk();
    let keep = "cp -a state kept; for b in inbox review; do cp branches/$b/.octroi/checkpoint kept.$b; done";
    sh(scene.base(), keep).ok();
    let mount = scene.mount();
    // More than there will be again.
    mount.sh("for name in $(seq 200); do echo more >inbox/$name; done").ok();
    mount.unmount();
    // The copy of a crossing that the lines which are rolled back would know.
    let now = jiff::Timestamp::now().as_millisecond() as u64;
    let staged = format!("other/.octroi/stage/{}", ulid::Ulid::from_parts(now, 7));
    let staged = branches(&scene).join(staged);
    fs::write(&staged, "the last").expect("written");
    sh(&branches(&scene), "umount other && rmdir other").ok();
    let back = "rm -r state; cp -a kept state; for b in inbox review; do cp kept.$b branches/$b/.octroi/checkpoint; done";
    sh(scene.base(), back).ok();
    let mount = scene.mount();
    sh(&branches(&scene), "mkdir other && mount -o loop other.img other").ok();
    wait_offline(&scene, "other", "the ledger does not extend the checkpoint in it");
    answers_eio(&mount, "ls other");
    // It is asked each second, and the ledger grows.
    for _ in 0..3 {
        others_serve(&mount);
        std::thread::sleep(TTL);
    }
    assert_eq!(said(&scene, "branch other stays offline: the ledger does not extend"), 1);
    mount.unmount();
    assert_eq!(fs::read_to_string(&staged).expect("kept"), "the last");
    let refused = scene.mount_refused(&[]).err;
    assert!(refused.contains("the copy in branch other vouches for"), "{refused}");
    drop(disk);
}

#[test]
fn a_disk_that_fails_goes_offline_and_heals_when_it_is_mounted_again() {
    fails_and_heals(LAB);
}

#[test]
fn so_does_one_whose_files_the_kernel_reads_and_writes() {
    let path = "path = \"branches/other\"\n";
    fails_and_heals(&LAB.replace(path, &format!("{path}io = \"passthrough\"\n")));
}

fn fails_and_heals(body: &str) {
    let (scene, disk) = with_disk(body);
    let mount = scene.mount();
    let mut held = fs::File::open(mount.path("other/d/f")).expect("open");
    sh(&branches(&scene), &format!("{SHUTDOWN} other")).ok();
    wait_offline(&scene, "other", "Input/output error");
    answers_eio(&mount, "ls other");
    answers_eio(&mount, "echo more >other/g");
    answers_eio(&mount, "mv other/d/f review/f");
    let why = mount.sh("$OCTROI mv other/d/f review/f").fails(1);
    assert!(why.contains("branch other is offline"), "{why}");
    others_serve(&mount);
    assert_eq!(said(&scene, "branch other is offline"), 1);
    // The disk comes back under another device name; whoever has the old one open keeps that.
    let back = "umount -l other && cp other.img back.img && mount -o loop back.img other";
    sh(&branches(&scene), back).ok();
    wait_online(&scene, "other");
    assert_eq!(mount.sh("cat other/d/f; echo new >other/d/f; cat other/d/f").ok(), "there\nnew\n");
    let mut text = String::new();
    assert!(held.read_to_string(&mut text).is_err() || text == "there\n", "it read {text:?}");
    drop(held);
    others_serve(&mount);
    assert_eq!(said(&scene, "branch other is online again"), 1);
    mount.unmount();
    assert_eq!(sh(&branches(&scene), "cat other/d/f").ok(), "new\n");
    drop(disk);
}

#[test]
fn a_lazily_unmounted_branch_goes_offline_and_nothing_is_written_beside_it() {
    let (scene, disk) = lab_with_disk();
    let mount = scene.mount();
    let held = fs::File::options().append(true).open(mount.path("other/d/f")).expect("open");
    sh(&branches(&scene), "umount -l other").ok();
    wait_offline(&scene, "other", "");
    answers_eio(&mount, "echo lost >other/lost");
    others_serve(&mount);
    // A user's descriptor is still on the disk.
    held.write_at(b"more\n", 0).expect("it is written");
    drop(held);
    assert_eq!(sh(&branches(&scene), "ls -A other").ok(), "", "it was written beside the disk");
    wait_offline(&scene, "other", "is its disk mounted?");
    sh(&branches(&scene), "mount -o loop other.img other").ok();
    wait_online(&scene, "other");
    assert_eq!(mount.sh("cat other/d/f; ls other").ok(), "there\nmore\nd\n");
    mount.unmount();
    drop(disk);
}

#[test]
fn another_disk_at_the_path_is_not_taken() {
    let (scene, disk) = lab_with_disk();
    let mount = scene.mount();
    let wrong = "umount -l other && cp inbox/.octroi/id id && truncate -s 64M wrong.img && \
        mkfs.ext4 -q wrong.img && mount -o loop wrong.img other && \
        mkdir -m 0700 other/.octroi && mv id other/.octroi/id && echo wrong >other/f";
    sh(&branches(&scene), wrong).ok();
    wait_offline(&scene, "other", "it carries the id");
    answers_eio(&mount, "cat other/f");
    assert_eq!(sh(&branches(&scene), "ls -A other/.octroi").ok(), "id\n", "it was written to");
    sh(&branches(&scene), "umount other && mount -o loop other.img other").ok();
    wait_online(&scene, "other");
    assert_eq!(mount.sh("cat other/d/f; ls other").ok(), "there\nd\n");
    mount.unmount();
    drop(disk);
}

/// A crossing is cut off once it is recorded, while it copies. Its target is missing at the next mount.
#[test]
fn an_undecided_crossing_ends_without_its_branch_and_the_copy_goes_when_that_returns() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "review", "800M");
    let mount = scene.mount();
    mount.sh("head -c 300M /dev/urandom >inbox/f; echo g >inbox/g; sync").ok();
    let whole = mount.sh("sha256sum <inbox/f").ok();
    let mut mv = std::process::Command::new("mv")
        .args([mount.path("inbox/f"), mount.path("review/f")])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("mv starts");
    let stage = scene.branch("review").join(".octroi/stage");
    let ledger = scene.state().join("ledger/00000001.jsonl");
    wait_for("the copy", || {
        let recorded = fs::read_to_string(&ledger).is_ok_and(|text| text.contains("\"prepare\""));
        recorded && fs::read_dir(&stage).expect("stage").count() == 1
    });
    mount.kill9();
    assert!(!mv.wait().expect("mv ends").success());
    sh(&branches(&scene), "umount review && rmdir review").ok();

    let mount = scene.mount();
    wait_offline(&scene, "review", "No such file or directory");
    let state = |mount: &Mount| {
        let text = mount.sh("$OCTROI tx list --json").ok();
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let list = all.as_array().or(all["transactions"].as_array()).expect("a list").clone();
        list[0]["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!(state(&mount), "aborted");
    mount.sh("mv inbox/f inbox/l && mv inbox/l inbox/f && mv inbox/g inbox/h && cat inbox/h").ok();
    sh(&branches(&scene), "mkdir review; mount -o loop review.img review").ok();
    wait_online(&scene, "review");
    assert_eq!(fs::read_dir(&stage).expect("stage").count(), 0, "the copy was left");
    assert_eq!(mount.sh("sha256sum <inbox/f").ok(), whole);
    mount.sh("mv inbox/h review/h; mv inbox/f inbox/k; rm inbox/k; ls review").ok();
    mount.unmount();
    drop(disk);
}

/// The copy is what will arrive: what is changed at the source meanwhile would be lost.
#[test]
fn what_is_decided_cannot_be_changed_while_its_target_is_away() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "review", "96M");
    let mount = scene.mount();
    mount
        .sh("echo warm >inbox/w; mv inbox/w review/w; mkdir inbox/d; echo deep >inbox/d/g; sync")
        .ok();
    let strace = Strace::attach(&mount, &["rename-"], Some("renameat2:signal=KILL:when=1"));
    mount.sh("mv inbox/d review/d").refused();
    drop(strace);
    mount.kill9();
    sh(&branches(&scene), "umount review && rmdir review").ok();

    let mount = scene.mount();
    wait_offline(&scene, "review", "No such file or directory");
    for change in [
        "chmod 600 inbox/d/g",
        "chown 1 inbox/d",
        "echo more >>inbox/d/g",
        "setfattr -n user.note -v mine inbox/d/g",
        "ln inbox/d/g inbox/l",
        "touch inbox/d/new",
        "rm inbox/d/g",
        "mv inbox/d inbox/k",
    ] {
        let said = mount.sh(change).refused();
        assert!(said.contains("Device or resource busy"), "{change}: {said}");
    }
    assert_eq!(mount.sh("cat inbox/d/g").ok(), "deep\n");
    sh(&branches(&scene), "mkdir review; mount -o loop review.img review").ok();
    wait_online(&scene, "review");
    assert_eq!(mount.sh("cat review/d/g; ls inbox").ok(), "deep\n");
    mount.sh("chmod 600 review/d/g && mkdir inbox/d && echo new >inbox/d/g").ok();
    mount.unmount();
    drop(disk);
}

/// A branch on a FUSE file system, for which a view of our own serves.
struct Stacked {
    below: Scene,
    above: Scene,
}

impl Stacked {
    fn new() -> Self {
        require_root();
        let below = Scene::with(&["data"], "[branches.data]\npath = \"branches/data\"\n");
        fs::create_dir(below.branch("data").join("far")).expect("mkdir");
        let path = below.mountpoint().join("data/far");
        let above = Scene::with(
            &["inbox"],
            &format!(
                "[branches.inbox]\npath = \"branches/inbox\"\n\
                 [branches.far]\npath = \"{}\"\nexposed = true\n",
                path.display()
            ),
        );
        Self { below, above }
    }
}

#[test]
fn a_branch_whose_server_dies_goes_offline_and_heals_with_it() {
    let Stacked { below, above } = Stacked::new();
    let server = below.mount();
    let mount = above.mount();
    mount.sh("echo there >far/f").ok();
    server.kill9();
    wait_offline(&above, "far", "not connected");
    answers_eio(&mount, "cat far/f");
    mount.sh("echo here >inbox/f; cat inbox/f").ok();
    let server = below.mount();
    wait_online(&above, "far");
    assert_eq!(mount.sh("cat far/f; echo more >>far/f; cat far/f").ok(), "there\nthere\nmore\n");
    mount.unmount();
    server.unmount();
}

#[test]
fn a_branch_that_does_not_answer_is_shown_and_not_offline() {
    let Stacked { below, above } = Stacked::new();
    let server = below.mount();
    let mount = above.mount();
    mount.sh("echo there >far/f").ok();
    server.signal(Signal::STOP);
    wait_for("it to be seen", || status(&above, "far")["fault"] == "not answering");
    assert!(status(&above, "far")["since"].is_string());
    mount.sh("echo here >inbox/f; cat inbox/f").ok();
    server.signal(Signal::CONT);
    wait_online(&above, "far");
    assert_eq!(mount.sh("cat far/f").ok(), "there\n");
    assert_eq!(said(&above, "is offline"), 0);
    mount.unmount();
    server.unmount();
}

/// More than there are threads that read requests.
const STUCK: usize = 60;

/// Stops a daemon; a thread that is doing something stops a moment after the signal was sent.
#[track_caller]
fn stop(server: &Mount) {
    server.signal(Signal::STOP);
    let threads = PathBuf::from(format!("/proc/{}/task", server.pid()));
    let stopped = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    wait_for("all threads to stop", || {
        fs::read_dir(&threads).expect("it lives").flatten().all(stopped)
    });
}

#[test]
fn a_branch_that_hangs_holds_up_nobody_else() {
    let Stacked { below, above } = Stacked::new();
    let server = below.mount();
    let mount = above.mount();
    let names: Vec<String> = (0..STUCK).map(|number| format!("f{number}")).collect();
    for name in &names {
        fs::write(mount.path("far").join(name), name).expect("write");
    }
    // What the kernel knows of them is old by then.
    std::thread::sleep(TTL + TTL / 2);
    stop(&server);
    let waiting: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let path = mount.path("far").join(name);
            let act = move || match number % 4 {
                0 => fs::read(path).map(drop),
                1 => fs::write(path.with_extension("new"), "new"),
                2 => fs::symlink_metadata(path).map(drop),
                _ => fs::File::open(path).and_then(|file| file.sync_all()),
            };
            std::thread::spawn(act)
        })
        .collect();
    // Each of these begins after some of those have reached their branch; were the threads that read
    // requests held, none of them would end before the server goes on.
    for number in 0..100 {
        let script = format!(
            "echo {number} >inbox/f{number} && sync -d inbox/f{number} && ls . >/dev/null && ls -l inbox >/dev/null && \
             mv inbox/f{number} inbox/g && grep -qx {number} inbox/g && rm inbox/g"
        );
        mount.sh(&format!("timeout 20 bash -c '{script}'")).ok();
    }
    let answered = waiting.iter().filter(|thread| thread.is_finished()).count();
    server.signal(Signal::CONT);
    assert_eq!(answered, 0, "the branch did not hang");
    for thread in waiting {
        thread.join().expect("no panic").expect("it was only late");
    }
    let new = names.iter().skip(1).step_by(4);
    for name in new {
        let written = fs::read_to_string(mount.path("far").join(name).with_extension("new"));
        assert_eq!(written.expect("written"), "new");
    }
    wait_online(&above, "far");
    mount.unmount();
    server.unmount();
}

#[test]
fn a_branch_at_the_root_that_is_away_keeps_nobody_from_the_others() {
    require_root();
    let body = "[branches.top]\npath = \"branches/top\"\nat = \"/\"\n\
                [branches.other]\npath = \"branches/other\"\nat = \"/deep/other\"\n";
    let scene = Scene::with(&["top", "other"], body);
    let mount = scene.mount();
    mount.sh("chmod 755 . && mkdir top && echo here >deep/other/f && chmod 777 deep/other").ok();
    // Who was let in before is not let in by what was told then.
    mount.sh("setfacl -m u:daemon:r-x . && stat . && setfacl -m u:daemon:--- .").ok();
    let away = scene.base().join("branches/away");
    fs::rename(scene.branch("top"), &away).expect("taken away");
    wait_offline(&scene, "top", "No such file");
    // Until the kernel asks again for what it knows.
    std::thread::sleep(TTL * 2);
    for user in ["root", "nobody"] {
        let said = mount.sh_as(user, "cat deep/other/f; echo made >deep/other/$(id -u)").ok();
        assert_eq!(said, "here\n", "{user}");
        assert!(mount.sh_as(user, "ls top").refused().contains("Input/output error"), "{user}");
    }
    assert!(mount.sh_as("daemon", "cat deep/other/f").refused().contains("Permission denied"));
    answers_eio(&mount, "cat .audit/README && touch new");
    fs::rename(&away, scene.branch("top")).expect("brought back");
    wait_online(&scene, "top");
    assert_eq!(mount.sh("touch new && ls && ls deep/other").ok(), "deep\nnew\ntop\n0\n65534\nf\n");
    mount.unmount();
}
