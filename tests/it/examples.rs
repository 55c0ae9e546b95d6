//! The worked policies of `config/examples`, mounted: what their expectations say by paths alone has to hold
//! for people who walk there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Ended, Mount, OCTROI, Scene, require_root, run};

/// A scene of a worked policy with its branches.
fn scene(example: &str) -> Scene {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(example);
    let text = fs::read_to_string(file).expect("an example");
    let scene = Scene::new();
    let own = text.split_once("[view]").and_then(|(_, rest)| rest.split_once("\n\n"));
    let (_, body) = own.expect("a [view] table with a name");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("path = \"branches/") {
            scene.branch(rest.split('"').next().expect("a name"));
        }
    }
    scene.configure(body);
    scene
}

/// Runs a script as a user and groups that need not be in the user database.
#[track_caller]
fn sh_as(mount: &Mount, uid: u32, script: &str) -> Ended {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    command.args(["timeout", "60", "bash", "-c", script]).current_dir(mount.root());
    run(command.env("OCTROI", OCTROI).env("LC_ALL", "C"))
}

#[test]
fn every_worked_policy_can_be_mounted_and_walked_by_root() {
    require_root();
    for example in ["agent", "contractor", "inbox-review-archive", "office-hours"] {
        let scene = scene(&format!("{example}.toml"));
        let mount = scene.mount();
        let listed = mount.sh("find . -mindepth 1 -maxdepth 1 -type d -exec ls -d {}/. \\;").ok();
        assert!(!listed.is_empty(), "{example}");
        mount.sh("for each in */; do ls \"$each\" >/dev/null || exit 1; done").ok();
        mount.unmount();
    }
}

#[test]
fn a_contractor_reads_one_project_and_delivers_into_one_folder() {
    require_root();
    let scene = scene("contractor.toml");
    let mount = scene.mount();
    let fill = "mkdir -p projects/acme/plan projects/other delivery/acme && chmod 777 delivery/acme && \
                echo plan >projects/acme/plan/drawing && echo names >projects/acme/plan/addresses && \
                setfattr -n user.octroi.label -v personal projects/acme/plan/addresses && \
                echo secret >projects/other/drawing";
    mount.sh(fill).ok();
    let walk =
        "ls && ls projects projects/acme projects/acme/plan && cat projects/acme/plan/drawing";
    assert!(sh_as(&mount, 3001, walk).ok().ends_with("plan\n"));
    for refused in [
        "cat projects/acme/plan/addresses",
        "cat projects/other/drawing",
        "ls projects/other",
        "echo x >>projects/acme/plan/drawing",
    ] {
        let said = sh_as(&mount, 3001, refused).refused();
        assert!(said.contains("Permission denied"), "{refused}: {said}");
    }
    sh_as(&mount, 3001, "echo part >delivery/acme/part && cat delivery/acme/part").ok();
    let theirs = sh_as(&mount, 3002, "rm -f delivery/acme/part").refused();
    assert!(theirs.contains("Permission denied"), "{theirs}");
    sh_as(&mount, 3001, "rm delivery/acme/part").ok();
    mount.unmount();
}
