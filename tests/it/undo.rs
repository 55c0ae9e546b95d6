//! `octroi undo`: prepared as `octroi mv` prepares, for those who may rename, and done by no other rename
//! than its own. As in [`crate::mv`], what must still be under way is given hours.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, OCTROI, Scene, wait_for};
use crate::mv::{LARGE, Running, STUCK, abort, active, lab, mv, start, state_of, steps, txid_of};

/// A gate by which an undo's rename would cross as any other.
const BACK: &str = "[gates.back]\nfrom = \"review\"\nto = \"inbox\"\nwho = [\"*\"]\n";

fn undo(mount: &Mount, path: &str) -> Running {
    start(mount, OCTROI, &["undo", &format!("@{path}")])
}

/// A view in which files have crossed before anything takes hours.
fn crossed(limits: &str, script: &str) -> (Scene, Disk, Mount) {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh(script).ok();
    mount.unmount();
    scene.configure(&format!("{LAB}{limits}"));
    let mount = scene.mount();
    (scene, disk, mount)
}

#[track_caller]
fn wait_for_step(scene: &Scene, source: &str, step: &str) {
    wait_for("a transaction under way", || {
        active(scene).iter().any(|found| found["source"] == source && found["step"] == step)
    });
}

/// Nothing has come of it, and nobody is in the way of the file any more.
#[track_caller]
fn assert_as_before(scene: &Scene, mount: &Mount, path: &str) {
    assert_eq!(active(scene), Vec::<Value>::new());
    mount
        .sh(&format!(
            "test ! -e inbox/{path}; mv review/{path} review/free && mv review/free review/{path}"
        ))
        .ok();
}

#[test]
fn one_that_was_stopped_before_its_rename_comes_to_nothing() {
    let empty = ": >inbox/e; mv inbox/e review/e";
    for taken in [false, true] {
        let (scene, disk, mount) = crossed(&format!("{BACK}{STUCK}"), empty);
        mount.sh(&format!("{LARGE} >inbox/large")).ok();
        // The kernel lets one rename between folders pass at a time.
        let plain = start(&mount, "mv", &["@inbox/large", "@review/large"]);
        wait_for_step(&scene, "/inbox/large", "stage");
        let undoing = undo(&mount, "review/e");
        wait_for_step(&scene, "/review/e", "prepared");
        wait_for("the rename", || threads(undoing.pid()) > 1);
        abort(&scene, &txid_of(&scene, "/review/e")).ok();
        if taken {
            fs::write(scene.branch("inbox").join("e"), "new").expect("write");
        }
        abort(&scene, &txid_of(&scene, "/inbox/large")).ok();
        plain.end().fails(1);
        let said = undoing.end().fails(1);
        let why = if taken { "exists" } else { "stopped it with octroi tx abort" };
        assert!(said.contains("cannot undo") && said.contains(why), "{said}");
        assert_eq!(scene.branch("inbox").join("e").exists(), taken);
        if taken {
            assert_eq!(mount.sh("cat inbox/e").ok(), "new");
        }
        mount.sh("test -e review/e && mv review/e review/f").ok();
        let last = steps(&mount);
        assert_eq!(last.last().map(String::as_str), Some("abort"), "no crossing: {last:?}");
        mount.unmount();
        drop(disk);
    }
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

#[test]
fn one_whose_rename_has_to_wait_is_done_when_its_turn_comes() {
    let (scene, disk, mount) = crossed(STUCK, ": >inbox/e; mv inbox/e review/e");
    mount.sh(&format!("{LARGE} >inbox/large")).ok();
    let plain = start(&mount, "mv", &["@inbox/large", "@review/large"]);
    wait_for_step(&scene, "/inbox/large", "stage");
    let undoing = undo(&mount, "review/e");
    wait_for_step(&scene, "/review/e", "prepared");
    wait_for("the rename to wait in the kernel", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", undoing.pid())).expect("it runs");
        let pids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        pids.into_iter().any(|pid| state_of(pid) == Some('D'))
    });
    abort(&scene, &txid_of(&scene, "/inbox/large")).ok();
    plain.end().fails(1);
    assert!(undoing.end().ok().contains("is back from"));
    // At once, by the same names, and not into a mark that was left.
    mount.sh("mv inbox/e review/e && $OCTROI undo && mv inbox/e review/e && test -e review/e").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn who_may_not_rename_is_in_nobodys_way() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("chmod 777 inbox review; mkdir -m 777 inbox/from").ok();
    mount.sh_as("nobody", "echo x >inbox/from/f; mv inbox/from/f review/f").ok();
    let before = steps(&mount).len();
    for (close, open) in [
        ("chmod 755 review", "chmod 777 review"),
        ("chmod 755 inbox/from", "chmod 777 inbox/from"),
        ("chmod 1777 review; chown root review/f", "chmod 777 review; chown nobody review/f"),
    ] {
        mount.sh(close).ok();
        let said = mount.sh_as("nobody", "$OCTROI undo").fails(1);
        assert!(said.contains("Permission denied") || said.contains("not permitted"), "{said}");
        assert_eq!(steps(&mount).len(), before, "{close}: nothing was begun");
        mount.sh("mv review/f review/g && mv review/g review/f && mv inbox/from inbox/h && mv inbox/h inbox/from").ok();
        mount.sh(open).ok();
    }
    mount.sh_as("nobody", "$OCTROI undo && cat inbox/from/f").ok();
    mount.unmount();
}

#[test]
fn ctrl_c_ends_it_at_once_and_leaves_everything_as_it_was() {
    let large = format!("{LARGE} >inbox/large; mv inbox/large review/large");
    let (scene, disk, mount) = crossed(STUCK, &large);
    for (signal, code, word) in [
        (Signal::INT, Some(130), "interrupted"),
        (Signal::TERM, Some(143), "terminated"),
        (Signal::KILL, None, ""),
    ] {
        let undoing = undo(&mount, "review/large");
        wait_for_step(&scene, "/review/large", "check");
        assert!(mount.sh("mv review/large review/other").refused().contains("busy"));
        mount.sh("echo x >inbox/new && rm inbox/new").ok();
        undoing.signal(signal);
        let ended = undoing.end();
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains(word), "{ended:?}");
        if code.is_none() {
            wait_for("the roll-back", || active(&scene).is_empty());
        }
        assert_as_before(&scene, &mount, "large");
    }
    mount.unmount();
    drop(disk);
}

#[test]
fn it_takes_its_turn_and_tells_how_far_it_is() {
    let script = format!(
        "{LARGE} >inbox/large; mv inbox/large review/large; : >inbox/e; mv inbox/e review/e; : >inbox/second"
    );
    let (scene, disk, mount) = crossed(&format!("{STUCK}parallel = 1\n"), &script);
    let first = undo(&mount, "review/large");
    wait_for_step(&scene, "/review/large", "check");
    let second = mv(&mount, &["@inbox/second", "@review"]);
    wait_for_step(&scene, "/inbox/second", "waiting");
    let third = undo(&mount, "review/e");
    wait_for_step(&scene, "/review/e", "waiting");
    abort(&scene, &txid_of(&scene, "/review/large")).ok();
    let said = first.end().fails(1);
    assert!(said.contains("stopped it with octroi tx abort"), "{said}");
    second.end().ok();
    third.end().ok();
    assert_eq!(mount.sh("ls inbox review").ok(), "inbox:\ne\n\nreview:\nlarge\nsecond\n");
    mount.unmount();
    scene.configure(&format!("{LAB}[crossings]\nrate = \"8MiB\"\n"));
    let mount = scene.mount();
    let told = undo(&mount, "review/large").end();
    assert!(told.err.contains("review/large: ") && told.err.contains(" of 24.0 MiB"), "{told:?}");
    assert!(told.ok().contains("is back from"));
    mount.unmount();
    drop(disk);
}

#[test]
fn one_whose_branches_have_other_places_by_now_is_refused() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mv inbox/f review/f").ok();
    let before = steps(&mount);
    mount.unmount();
    let swap = |name: &str, other: &str| {
        let path = format!("path = \"branches/{name}\"\n");
        (path.clone(), format!("{path}at = \"/{other}\"\n"))
    };
    let mut swapped = LAB.to_owned();
    for (from, to) in [swap("inbox", "other"), swap("other", "inbox")] {
        swapped = swapped.replace(&from, &to);
    }
    scene.configure(&swapped);
    let mount = scene.mount();
    let said = mount.sh("$OCTROI undo").refused();
    assert!(said.contains("other places in the view"), "{said}");
    let shown = mount.sh("$OCTROI tx show $($OCTROI tx list --json | jq -r '.[0].txid')").ok();
    assert!(shown.contains("other places in the view"), "{shown}");
    mount.sh("test -e review/f && test ! -e inbox/f && test ! -e other/f").ok();
    assert_eq!(steps(&mount), before, "nothing was begun");
    mount.unmount();
    scene.configure(LAB);
    let mount = scene.mount();
    mount.sh("$OCTROI undo && test -e inbox/f").ok();
    mount.unmount();
}
