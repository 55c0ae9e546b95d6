//! Trouble of the ledger's own disk, and floods of denials: what is promised is recorded, what cannot be
//! recorded does not happen, and people read on.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, octroi, require_root, sh, wait_for};
use crate::strace::Strace;

const DENY: &str = "[rules.no]\ndeny = [\"mkdir\"]\nwho = [\"*\"]\npaths = [\"/other/denied/*\"]\n\
                    reason = \"not here\"\n";

/// The thread that writes the ledger.
const WRITER: &[&str] = &["ledger"];

fn steps(ledger: &[Value]) -> Vec<&str> {
    let crossings = ledger.iter().filter(|line| line["kind"] == "crossing");
    crossings.filter_map(|line| line["step"].as_str()).collect()
}

fn denials(ledger: &[Value]) -> Vec<&Value> {
    ledger.iter().filter(|line| line["decision"] == "denied").collect()
}

#[track_caller]
fn check_whole(ledger: &[Value]) {
    let seqs = ledger.iter().map(|line| line["seq"].as_u64().expect("a seq"));
    assert!(seqs.eq(0..ledger.len() as u64), "a line is missing or there twice");
}

#[track_caller]
fn verified(scene: &Scene) {
    octroi(["audit", "verify", "--view", scene.config().to_str().expect("UTF-8")]).ok();
}

#[test]
fn on_a_full_disk_crossings_are_finished_denials_recorded_and_nothing_changes() {
    require_root();
    let scene = Scene::with(
        &["inbox", "other", "review"],
        &format!("{LAB}{DENY}[crossings]\nrate = \"4MiB/s\"\n"),
    );
    let disk = Disk::tmpfs(&scene, "ledger-disk", "24M");
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    let state = format!("state = \"{}\"", scene.state().display());
    let moved = format!("state = \"{}/branches/ledger-disk/state\"", scene.base().display());
    fs::write(scene.config(), text.replace(&state, &moved)).expect("write");
    let mount = scene.mount();
    mount.sh("mkdir other/denied; echo x >other/readable; head -c 24M /dev/urandom >inbox/large; sleep 0.3").ok();
    let mut crossing = Command::new("mv")
        .args([mount.path("inbox/large"), mount.path("review/large")])
        .stderr(Stdio::null())
        .spawn()
        .expect("mv starts");
    wait_for("the crossing to begin", || steps(&mount.ledger()).contains(&"prepare"));
    sh(&scene.branch("ledger-disk"), "dd if=/dev/zero of=fill bs=4k 2>/dev/null; true").ok();
    let said = mount.sh("for i in $(seq 3000); do mkdir other/d$i || exit 1; done").refused();
    assert!(said.contains("No space left"), "{said}");
    assert!(crossing.try_wait().expect("our child").is_none(), "the crossing was too fast to test");
    assert!(mount.sh("$OCTROI status").ok().contains("nothing may be changed"));
    mount.sh("mkdir other/denied/x").refused();
    wait_for("the denial to be recorded", || !denials(&mount.ledger()).is_empty());
    mount.sh("ls other >/dev/null; cat other/readable").ok();
    assert!(crossing.wait().expect("mv ends").success(), "the crossing was not finished");
    mount.sh("test -e review/large && ! test -e inbox/large").ok();
    for change in ["touch other/new", "$OCTROI undo review/large"] {
        let said = mount.sh(change).refused();
        assert!(said.contains("No space left"), "{change}: {said}");
    }
    let steps = steps(&mount.ledger()).join(" ");
    assert_eq!(steps, "prepare commit done", "the reserve is not for what begins");
    sh(&scene.branch("ledger-disk"), "rm fill").ok();
    wait_for("the ledger to heal", || mount.sh("touch other/healed").code == Some(0));
    check_whole(&mount.ledger());
    mount.unmount();
    verified(&scene);
    drop(disk);
}

/// How it ended finds no room either: its names are free when there is space, without another mount.
#[test]
fn a_crossing_that_a_full_disk_left_undecided_is_ended_when_there_is_space() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; sleep 0.3").ok();
    let strace = Strace::attach(&mount, WRITER, Some("pwrite64:error=ENOSPC"));
    let said = mount.sh("mv inbox/f review/f").refused();
    assert!(said.contains("Input/output error"), "{said}");
    drop(strace);
    wait_for("its names to be free", || mount.sh("mv inbox/f review/f").code == Some(0));
    let ledger = mount.ledger();
    check_whole(&ledger);
    assert_eq!(steps(&ledger), ["prepare", "abort", "prepare", "commit", "done"]);
    mount.unmount();
    verified(&scene);
}

#[test]
fn after_a_failed_fsync_everything_is_in_a_new_segment() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mkdir other/before; sleep 0.3").ok();
    let strace = Strace::attach(&mount, WRITER, Some("fsync:error=EIO:when=1"));
    mount.sh("mkdir other/after; mv inbox/f review/f; cat review/f").ok();
    let calls = strace.detach();
    assert!(calls.iter().any(|call| call.contains("INJECTED")), "{calls:?}");
    let ledger = mount.ledger();
    check_whole(&ledger);
    assert_eq!(steps(&ledger), ["prepare", "commit", "done"]);
    let again = ledger.iter().find(|line| line["after_failed_sync"] == true);
    assert!(again.is_some_and(|line| line["kind"] == "version"), "{ledger:?}");
    assert!(scene.state().join("ledger/00000002.jsonl").exists());
    let made = |path: &str| ledger.iter().filter(|line| line["path"] == path).count();
    assert_eq!((made("/other/before"), made("/other/after")), (1, 1));
    mount.unmount();
    verified(&scene);
    let mount = scene.mount();
    check_whole(&mount.ledger());
    mount.sh("$OCTROI undo review/f && cat inbox/f").ok();
    mount.unmount();
}

#[test]
fn a_second_failed_fsync_stops_changes_until_a_remount() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; echo y >inbox/g; sleep 0.3").ok();
    let strace = Strace::attach(&mount, WRITER, Some("fsync:error=EIO:when=1+"));
    let said = mount.sh("mv inbox/f review/f").refused();
    assert!(said.contains("Input/output error"), "{said}");
    drop(strace);
    // The disk is well again, and what was written to it is still not to be trusted.
    for change in ["mkdir other/d", "mv inbox/g review/g", "chmod 600 inbox/g", "echo z >inbox/g"] {
        let said = mount.sh(change).refused();
        assert!(said.contains("Input/output error"), "{change}: {said}");
    }
    assert_eq!(mount.sh("cat inbox/f inbox/g; ls review").ok(), "x\ny\n");
    let status = mount.sh("$OCTROI status").ok();
    assert!(status.contains("nothing may be changed: EIO"), "{status}");
    mount.signal(rustix::process::Signal::TERM);
    let ended = mount.wait();
    assert!(!ended.success(), "the ledger could not be closed");
    let mount = scene.mount();
    check_whole(&mount.ledger());
    mount.sh("mkdir other/d; mv inbox/f review/f; cat review/f").ok();
    mount.unmount();
    verified(&scene);
}

/// Nothing of what would be written then could ever be read.
#[test]
fn a_state_folder_that_is_removed_stops_changes() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    fs::remove_dir_all(scene.state().join("ledger")).expect("it is removed");
    wait_for("it to be noticed", || mount.sh("mkdir inbox/d && rmdir inbox/d").code != Some(0));
    let said = mount.sh("$OCTROI status").ok();
    assert!(said.contains("nothing may be changed"), "{said}");
    mount.sh("mv inbox/f other/f").refused();
    assert_eq!(mount.sh("cat inbox/f").ok(), "x\n");
    mount.signal(rustix::process::Signal::TERM);
    assert!(!mount.wait().success(), "the ledger could not be closed");
}

fn sum(ledger: &[Value]) -> u64 {
    denials(ledger).iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum()
}

#[test]
fn a_flood_of_denials_is_a_few_records_that_count_them() {
    const TIMES: u64 = 3000;
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{DENY}"));
    let mount: Mount = scene.mount();
    mount.sh("mkdir other/denied").ok();
    let begun = Instant::now();
    for at in 0..TIMES {
        let denied = fs::create_dir(mount.path(&format!("other/denied/{at}")));
        assert_eq!(denied.expect_err("denied").raw_os_error(), Some(13));
    }
    let seconds = begun.elapsed().as_secs();
    let mut ledger = Vec::new();
    wait_for("all to be recorded", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        ledger = mount.ledger();
        sum(&ledger) == TIMES
    });
    // In each window one at once and the others together; looking at the ledger closes windows too.
    let records = denials(&ledger).len() as u64;
    assert!(records <= 2 * (seconds + 2) + 40, "{records} records in {seconds} s");
    let last = denials(&ledger).pop().expect("a denial").clone();
    assert_eq!((&last["rule"], &last["op"]), (&Value::from("no"), &Value::from("mkdir")));
    mount.unmount();
    verified(&scene);
}
