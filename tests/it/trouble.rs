//! Trouble while mounted and after: kills, damage, full and failing disks. Nothing is lost, what is
//! refused says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::disk::{Disk, SHUTDOWN};
use crate::harness::{LAB, Mount, Scene, is_mounted, octroi, require_root, sh, wait_for};

/// The ledger's newest segment.
fn last_segment(scene: &Scene) -> PathBuf {
    let folder = scene.state().join("ledger");
    let names =
        fs::read_dir(&folder).expect("the ledger").map(|entry| entry.expect("entry").path());
    names
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .max()
        .expect("a segment")
}

fn steps(mount: &Mount) -> Vec<String> {
    let of_crossings = mount.ledger().into_iter().filter(|line| line["kind"] == "crossing");
    of_crossings.map(|line| line["step"].as_str().expect("a step").to_owned()).collect()
}

#[test]
fn a_second_daemon_is_refused() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let elsewhere = scene.base().join("elsewhere");
    fs::create_dir(&elsewhere).expect("mkdir");
    let ended = octroi([Path::new("mount"), &scene.config(), &elsewhere]);
    let said = ended.refused();
    assert!(said.contains("state") || said.contains("already"), "{said}");
    assert!(!is_mounted(&elsewhere));
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("mount"), "{said}");
    mount.sh("echo alive >inbox/f && cat inbox/f").ok();
    mount.unmount();
}

#[test]
fn a_branch_serves_one_view_at_a_time() {
    let (first, second) = (Scene::lab(), Scene::new());
    let shared = first.branch("inbox");
    second.configure(&format!("[branches.mine]\npath = \"{}\"\n", shared.display()));
    let mount = first.mount();
    let said = second.mount_refused(&[]).err;
    assert!(said.contains("inbox") || said.contains("mine"), "{said}");
    mount.sh("echo alive >inbox/f").ok();
    mount.unmount();
}

#[test]
fn after_kill_9_mount_clears_the_dead_mountpoint_and_serves() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo before >inbox/f; mv inbox/f review/f; echo kept >inbox/g; sleep 0.3").ok();
    let root = mount.root().to_owned();
    mount.kill9();
    assert!(is_mounted(&root), "the dead mount is there");
    let mount = scene.mount();
    assert_eq!(mount.sh("cat review/f inbox/g").ok(), "before\nkept\n");
    assert!(mount.ledger().iter().any(|line| line["kind"] == "gap"), "no gap was recorded");
    mount.sh("$OCTROI undo review/f && cat inbox/f").ok();
    mount.unmount();
    let mount = scene.mount();
    let gaps = mount.ledger().iter().filter(|line| line["kind"] == "gap").count();
    assert_eq!(gaps, 1, "a clean stop leaves no gap");
    mount.unmount();
}

#[test]
fn a_daemon_that_ends_while_mount_looks_at_it_is_cleared_away() {
    let scene = Scene::lab();
    let mount = scene.mount();
    // The kernel knows the root's attributes for a second.
    mount.sh("stat .").ok();
    mount.signal(Signal::STOP);
    let threads = format!("cat /proc/{}/task/*/stat | grep -cv ') T '", mount.pid());
    wait_for("the daemon to stop", || sh(Path::new("/"), &threads).out == "0\n");
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        mount.kill9();
    });
    let mount = scene.mount();
    ends.join().expect("it ended");
    mount.sh("echo alive >inbox/f").ok();
    mount.unmount();
}

#[test]
fn kill_9_in_the_middle_of_a_crossing_leaves_the_file_whole_at_one_end() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::tmpfs(&scene, "review", "600M");
    let whole = sh(scene.base(), "head -c 60M /dev/urandom >big; sha256sum <big").ok();
    let mut ends = Vec::new();
    for delay in [5, 30, 80, 150, 300, 500, 800, 1200] {
        let mount = scene.mount();
        mount.sh("rm -f inbox/f review/f; cp ../big inbox/f").ok();
        let mut mover = std::process::Command::new("mv")
            .args([mount.path("inbox/f"), mount.path("review/f")])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("mv starts");
        std::thread::sleep(Duration::from_millis(delay));
        mount.kill9();
        let moved = mover.wait().expect("mv ends").success();
        let mount = scene.mount();
        let found = mount.sh("cat inbox/f review/f 2>/dev/null | sha256sum; ls inbox review").ok();
        assert!(found.starts_with(&whole), "after {delay} ms it is not whole at one end: {found}");
        let at_target = mount.path("review/f").exists();
        assert!(
            at_target || !moved,
            "mv succeeded after {delay} ms, and the file is at its source"
        );
        let last = steps(&mount).pop();
        let expected = if at_target { Some("done") } else { Some("abort") };
        assert!(
            last.as_deref() == expected || last.is_none() || !at_target,
            "{delay} ms: {last:?}"
        );
        ends.push(at_target);
        mount.unmount();
        let stage = scene.branch("review").join(".octroi/stage");
        assert_eq!(fs::read_dir(stage).expect("stage").count(), 0, "stage was not emptied");
    }
    assert!(ends.contains(&false), "every kill came too late to test anything: {ends:?}");
    drop(disk);
}

#[test]
fn a_torn_last_line_is_cut_off_and_said() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; sleep 0.3").ok();
    mount.kill9();
    let segment = last_segment(&scene);
    let mut bytes = fs::read(&segment).expect("the segment");
    let whole = bytes.len();
    bytes.extend_from_slice(b"{\"seq\":99999,\"time\":\"2026-");
    fs::write(&segment, &bytes).expect("write");
    let mount = scene.mount();
    let ledger = mount.ledger();
    let gap = ledger.iter().find(|line| line["kind"] == "gap").expect("a gap is recorded");
    assert_eq!(gap["torn_bytes"], bytes.len() - whole);
    mount.sh("cat inbox/f").ok();
    mount.unmount();
}

#[test]
fn damage_within_the_ledger_is_refused_with_what_to_do() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("for i in $(seq 20); do echo x >inbox/$i; done; sleep 0.3").ok();
    mount.unmount();
    let segment = last_segment(&scene);
    let sound = fs::read(&segment).expect("the segment");
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let lines: Vec<_> = sound.split_inclusive(|byte| *byte == b'\n').collect();
    let without_one = [&lines[..5], &lines[6..]].concat().concat();
    let swapped = [&lines[..5], &[lines[6], lines[5]], &lines[7..]].concat().concat();
    for (damage, bytes) in [("a bit", flipped), ("a line gone", without_one), ("order", swapped)] {
        fs::write(&segment, &bytes).expect("write");
        let said = scene.mount_refused(&[]).err;
        assert!(said.contains("ledger"), "{damage}: {said}");
        assert!(
            said.contains("hint") || said.lines().count() > 1 || said.contains("restore"),
            "{damage}: {said}"
        );
        assert_eq!(fs::read(&segment).expect("the segment"), bytes, "{damage}: it was changed");
    }
    fs::write(&segment, &sound).expect("write");
    scene.mount().unmount();
}

#[test]
fn sigterm_and_sigint_unmount_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::lab();
        let mount = scene.mount();
        mount.sh("echo x >inbox/f").ok();
        let root = mount.root().to_owned();
        mount.signal(signal);
        let status = mount.wait();
        assert!(status.success(), "{status}");
        assert!(!is_mounted(&root));
        let text = fs::read_to_string(last_segment(&scene)).expect("the ledger");
        assert!(text.lines().last().is_some_and(|line| line.contains("unmounted")), "{text}");
    }
}

#[test]
fn a_full_branch_says_so_and_loses_nothing() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let small = Disk::tmpfs(&scene, "review", "80M");
    let tiny = Disk::tmpfs(&scene, "other", "80M");
    let mount = scene.mount();
    let said = mount.sh("dd if=/dev/zero of=other/f bs=1M count=100 status=none").refused();
    assert!(said.contains("No space left"), "{said}");
    mount.sh("rm other/f && echo again >other/f").ok();
    let before =
        mount.sh("head -c 100M /dev/urandom >inbox/f; sha256sum inbox/f; stat -c %y inbox/f").ok();
    let said = mount.sh("mv inbox/f review/f").refused();
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(mount.sh("sha256sum inbox/f; stat -c %y inbox/f").ok(), before);
    assert_eq!(mount.sh("ls review").ok(), "");
    mount.unmount();
    let stage = scene.branch("review").join(".octroi/stage");
    assert_eq!(fs::read_dir(stage).expect("stage").count(), 0, "the failed copy was left");
    drop((small, tiny));
}

#[test]
fn a_branch_whose_disk_fails_leaves_the_rest_alone() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "other", "64M");
    let mount = scene.mount();
    mount.sh("echo there >other/f; sync; echo here >inbox/f").ok();
    sh(&scene.base().join("branches"), &format!("{SHUTDOWN} other")).ok();
    let said = mount.sh("echo more >other/g").refused();
    assert!(said.contains("Input/output error"), "{said}");
    mount.sh("ls other/nothing").refused();
    mount.sh("cat inbox/f; echo fine >inbox/g; mv inbox/g review/g; cat review/g").ok();
    assert!(mount.sh("$OCTROI status").ok().contains("other"));
    mount.unmount();
    drop(disk);
}

#[test]
fn an_empty_mountpoint_instead_of_the_branchs_disk_is_not_used() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "other", "64M");
    let mount = scene.mount();
    mount.sh("echo there >other/f; echo here >inbox/f").ok();
    mount.unmount();
    let branches = scene.base().join("branches");
    sh(&branches, "umount other").ok();
    let mount = scene.mount();
    let told = mount.sh("$OCTROI status").ok();
    assert!(told.contains("it carries no id"), "{told}");
    mount.sh("cat inbox/f; echo fine >inbox/g; mv inbox/g review/g").ok();
    for refused in ["ls other", "echo x >other/g", "mv review/g other/g"] {
        mount.sh(refused).refused();
    }
    assert_eq!(sh(&branches, "ls -A other").ok(), "", "it was written to");
    sh(&branches, "mount -o loop other.img other").ok();
    wait_for("it to come back", || mount.sh("cat other/f").out == "there\n");
    mount.unmount();
    drop(disk);
    let mount = scene.mount_with(&["--adopt", "other"]);
    mount.sh("echo x >other/f").ok();
    mount.unmount();
    scene.mount().unmount();
}

#[test]
fn another_branchs_id_is_refused() {
    let scene = Scene::lab();
    scene.mount().unmount();
    sh(&scene.base().join("branches"), "cp inbox/.octroi/id other/.octroi/id").ok();
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("other"), "{said}");
    sh(&scene.base().join("branches"), "mv inbox swap; mv other inbox; mv swap other").ok();
    assert!(!scene.mount_refused(&[]).err.is_empty());
}

#[test]
fn a_copy_of_a_branch_beside_it_is_refused() {
    let scene = Scene::lab();
    scene.mount().unmount();
    sh(&scene.base().join("branches"), "cp -a inbox copy").ok();
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    let copy = format!("[branches.copy]\npath = \"{}\"\n", scene.branch("copy").display());
    fs::write(scene.config(), text + &copy).expect("write");
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("carries the id of branch inbox"), "{said}");
    let said = octroi([Path::new("check"), &scene.config()]).refused();
    assert!(said.contains("carries the id of branch inbox"), "{said}");
    // What is only shown may be an older state of it.
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    fs::write(scene.config(), text.clone() + "mode = \"ro\"\n").expect("write");
    scene.mount().unmount();
    fs::write(scene.config(), text).expect("write");
    fs::remove_dir_all(scene.branch("copy").join(".octroi")).expect("no id any more");
    scene.mount_with(&["--adopt", "copy"]).unmount();
    scene.mount().unmount();
}

#[test]
fn a_full_ledger_disk_stops_changes_not_reading() {
    require_root();
    let scene = Scene::lab();
    let disk = Disk::tmpfs(&scene, "ledger-disk", "24M");
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    let state = format!("state = \"{}\"", scene.state().display());
    let moved = format!("state = \"{}/branches/ledger-disk/state\"", scene.base().display());
    fs::write(scene.config(), text.replace(&state, &moved)).expect("write");
    let mount = scene.mount();
    mount.sh("echo data >inbox/f").ok();
    sh(&scene.branch("ledger-disk"), "dd if=/dev/zero of=fill bs=4k 2>/dev/null; true").ok();
    let said = mount.sh("for i in $(seq 3000); do mkdir inbox/d$i || exit 1; done").refused();
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(mount.sh("cat inbox/f; ls -d inbox/f").ok(), "data\ninbox/f\n");
    sh(&scene.branch("ledger-disk"), "rm fill").ok();
    wait_for("the ledger to heal", || mount.sh("mkdir inbox/healed").code == Some(0));
    mount.unmount();
    drop(disk);
}

/// It may be the last copy that the other view has of a file whose disk it lost.
#[test]
fn what_stage_has_from_another_view_stays_when_its_branch_is_adopted() {
    let other = Scene::lab();
    other.mount().unmount();
    let body = LAB.replace("[gates.", "[branches.more]\npath = \"branches/more\"\n[gates.");
    let scene = Scene::with(&["inbox", "other", "review", "more"], &body);
    scene.mount().unmount();
    let entry = |later: u64| {
        let now = jiff::Timestamp::now().as_millisecond() as u64;
        format!(".octroi/stage/{}", ulid::Ulid::from_parts(now + later, 7))
    };
    let [there, here] = [other.branch("review"), scene.branch("more")];
    let kept = |path: &Path| assert_eq!(fs::read_to_string(path).expect("kept"), "the last");
    let copy = entry(0);
    fs::write(there.join(&copy), "the last").expect("written");
    fs::remove_dir_all(&here).expect("removed");
    fs::rename(&there, &here).expect("moved");
    scene.mount_with(&["--adopt", "more"]).unmount();
    let log = fs::read_to_string(scene.base().join("daemon.log")).expect("a log");
    let told = format!("branch more has {copy}, which no transaction knows; it is kept");
    assert_eq!(log.matches(&told).count(), 1, "{log}");
    // Of what came since, this view knows all.
    let since = entry(10);
    fs::write(here.join(&since), "a rest").expect("written");
    scene.mount().unmount();
    kept(&here.join(&copy));
    assert!(!here.join(&since).exists());

    // Back in the view that it came from, whose clock must not be behind.
    fs::rename(&here, &there).expect("moved");
    let [copy, ahead] = [entry(0), entry(3_600_000)];
    fs::write(there.join(&copy), "the last").expect("written");
    fs::write(there.join(&ahead), "of tomorrow").expect("written");
    assert!(other.mount_refused(&[]).err.contains("--adopt"));
    let said = other.mount_refused(&["--adopt", "review"]).err;
    assert!(said.contains(&ahead) && said.contains("set the clock"), "{said}");
    fs::rename(there.join(&ahead), other.base().join("aside")).expect("moved");
    for arguments in [&["--adopt", "review"][..], &[]] {
        other.mount_with(arguments).unmount();
        kept(&there.join(&copy));
    }
}

/// Without the copy of the checkpoint in a branch nothing shows that the ledger is not an earlier one, which does not
/// know what a later one left in stage.
#[test]
fn what_stage_has_stays_where_the_checkpoint_was_not_compared() {
    let scene = Scene::lab();
    scene.mount().unmount();
    let stage = |branch: &str| {
        let now = jiff::Timestamp::now().as_millisecond() as u64;
        let txid = ulid::Ulid::from_parts(now, 7);
        (txid.to_string(), scene.branch(branch).join(format!(".octroi/stage/{txid}")))
    };
    let branches = ["inbox", "review"].map(|branch| {
        let (txid, path) = stage(branch);
        fs::write(&path, "the last").expect("written");
        (branch, txid, path)
    });
    let copy = |branch: &str| scene.branch(branch).join(".octroi/checkpoint");
    // One that cannot be read, and none.
    fs::remove_file(copy("inbox")).expect("removed");
    std::os::unix::fs::symlink("elsewhere", copy("inbox")).expect("a link");
    fs::remove_file(copy("review")).expect("removed");
    let config = scene.config();
    let fsck = |more: &[&str]| {
        let arguments = ["fsck", "--view", config.to_str().expect("UTF-8")];
        octroi([&arguments[..], more].concat())
    };
    let kept = |said: &str, round: &str| {
        for (branch, txid, path) in &branches {
            let told =
                format!("branch {branch} has .octroi/stage/{txid}, which no transaction knows");
            assert_eq!(said.matches(&told).count(), 1, "{round}: {said}");
            assert_eq!(fs::read_to_string(path).expect(round), "the last");
        }
    };
    kept(&fsck(&[]).out, "a look");
    kept(&fsck(&["--repair"]).out, "a repair");
    let told = || {
        let ledger = sh(&scene.state(), "cat ledger/*.jsonl").ok();
        ["inbox", "review"].map(|branch| {
            ledger.matches(&format!(r#""kind":"branch","branch":"{branch}""#)).count()
        })
    };
    assert_eq!(told(), [1, 1]);
    // The first mount makes the copy that is missing.
    for round in ["the first mount", "the second"] {
        let mount = scene.mount();
        wait_for("a copy", || copy("review").is_file());
        mount.unmount();
        assert_eq!(told(), [1, 2], "{round}");
        let log = scene.base().join("daemon.log");
        kept(&fs::read_to_string(&log).expect("a log"), round);
        fs::remove_file(log).expect("removed");
    }
    let (_, since) = stage("review");
    fs::write(&since, "a rest").expect("written");
    scene.mount().unmount();
    assert!(!since.exists(), "of what came since, this view knows all");
}
