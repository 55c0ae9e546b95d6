//! The commands on their good path: what they print and how they end.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{LAB, Scene, is_mounted, octroi, sh};

const WITH_A_RULE: &str = r#"
[rules.no-scripts]
deny = ["add"]
who = ["*"]
paths = ["/inbox/**/*.sh"]
reason = "scripts do not belong in the inbox"
"#;

#[test]
fn nothing_ends_worse_where_what_is_said_goes_nowhere() {
    let scene = Scene::new();
    sh(scene.base(), "$OCTROI init lab").ok();
    for nowhere in ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full"] {
        sh(scene.base(), &format!("$OCTROI check missing.toml {nowhere}")).fails(2);
        sh(scene.base(), &format!("$OCTROI init lab {nowhere}")).fails(1);
    }
}

fn ruled() -> Scene {
    Scene::with(&["inbox", "other", "review"], &format!("{LAB}{WITH_A_RULE}"))
}

#[test]
fn init_makes_an_example_that_checks_and_mounts() {
    let scene = Scene::new();
    let seen = sh(scene.base(), "$OCTROI init lab && $OCTROI check lab/octroi.toml").ok();
    assert!(seen.contains("octroi mount") && seen.contains("is good"), "{seen}");
    let name = format!("sed -i 's/^name = .*/name = \"{}\"/' lab/octroi.toml", scene.name());
    sh(scene.base(), &name).ok();
    // Not the harness: this is the daemon in the background.
    sh(scene.base(), "$OCTROI mount lab/octroi.toml mnt && echo x >mnt/inbox/f.txt").ok();
    let used = sh(scene.base(), "mv mnt/inbox/f.txt mnt/review/ && cat mnt/review/f.txt");
    let unmounted = sh(scene.base(), "$OCTROI umount mnt");
    assert_eq!(used.ok(), "x\n");
    unmounted.ok();
    assert!(!is_mounted(&scene.mountpoint()));
    let last = sh(scene.base(), "tail -n 1 lab/state/ledger/*.jsonl").ok();
    assert!(last.contains("unmounted"), "umount did not wait for the ledger: {last}");
    sh(scene.base(), "$OCTROI init lab").fails(1);
}

#[test]
fn help_version_and_wrong_usage() {
    let help = octroi(["--help"]).ok();
    for command in [
        "init", "check", "mount", "umount", "status", "undo", "why", "where", "explain", "tx",
        "audit", "demo",
    ] {
        assert!(help.contains(command), "{command} is not in the help");
        assert!(octroi([command, "--help"]).ok().contains("Usage"), "{command}");
    }
    assert!(octroi(["--version"]).ok().starts_with("octroi 0."));
    octroi(["frobnicate"]).fails(2);
    octroi(["mount"]).fails(2);
    octroi(["explain", "fly", "/x"]).fails(2);
}

#[test]
fn the_schema_is_printed_and_is_the_one_beside_the_example() {
    let printed = octroi(["check", "--schema"]).ok();
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/config/octroi.schema.json");
    assert_eq!(printed, fs::read_to_string(committed).expect("the schema"));
    octroi(["check"]).fails(2);
    octroi(["check", "--schema", "octroi.toml"]).fails(2);
}

#[test]
fn commands_about_a_view_say_when_there_is_none() {
    let scene = Scene::lab();
    for words in [["status", "--view"], ["undo", "--view"], ["why", "--view"]] {
        let said = octroi(words.iter().copied().chain([scene.name()])).refused();
        assert!(said.contains(scene.name()) && said.contains("not mounted"), "{said}");
    }
}

#[test]
fn status_tells_of_branches_and_answers_in_json() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let text = octroi(["status", "--view", scene.name()]).ok();
    for word in ["inbox", "review", "gates-only", scene.name()] {
        assert!(text.contains(word), "{text}");
    }
    let json = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(status["pid"], mount.pid());
    assert_eq!(status["branches"].as_array().map(Vec::len), Some(3));
    for view in [scene.config(), scene.mountpoint()] {
        let view = view.to_str().expect("UTF-8");
        assert_eq!(octroi(["status", "--view", view]).ok().lines().count(), text.lines().count());
    }
    let refused =
        mount.sh_as("nobody", &format!("$OCTROI status --view {}", scene.name())).refused();
    assert!(refused.contains("root"), "{refused}");
    let count = "exec 3<inbox/f 4<inbox/d 5<.audit/log.jsonl; \
                 $OCTROI status --json | jq -c '.known | [.inodes > 5, .files, .directories]'";
    assert_eq!(mount.sh(&format!("echo x >inbox/f; mkdir inbox/d; {count}")).ok(), "[true,2,1]\n");
    mount.unmount();
}

#[test]
fn why_explains_ones_own_last_denial() {
    let scene = ruled();
    let mount = scene.mount();
    assert!(mount.sh("$OCTROI why").fails(1).contains("nothing"));
    mount.sh_as("nobody", "echo x >inbox/bad.sh").refused();
    let why = mount.sh_as("nobody", "$OCTROI why").ok();
    for word in ["no-scripts", "scripts do not belong in the inbox", "/inbox/bad.sh", "create"] {
        assert!(why.contains(word), "no {word} in: {why}");
    }
    mount.sh("echo x >inbox/f; mv inbox/f other/f").refused();
    let why = mount.sh("$OCTROI why").ok();
    assert!(why.contains("submit") && why.contains("/other/f"), "{why}");
    assert!(!why.contains("bad.sh"), "another's denial: {why}");
    let about = mount.sh_as("nobody", "$OCTROI why inbox/bad.sh").ok();
    assert!(about.contains("no-scripts"), "{about}");
    let json: Value = serde_json::from_str(&mount.sh("$OCTROI why --json").ok()).expect("JSON");
    assert_eq!(json["path"], "/inbox/f");
    mount.unmount();
}

#[test]
fn where_shows_the_branch_and_the_history() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mv inbox/f review/g; chmod 644 review/g").ok();
    let found = mount.sh("$OCTROI where review/g").ok();
    let backing = scene.branch("review").join("g").display().to_string();
    for word in ["review", "submit", "/inbox/f", &backing] {
        assert!(found.contains(word), "no {word} in: {found}");
    }
    let by_nobody = mount.sh_as("nobody", "$OCTROI where review/g").ok();
    assert!(!by_nobody.contains(&backing), "a user learnt the backing path: {by_nobody}");
    mount.sh("$OCTROI where review/none").refused();
    mount.unmount();
}

#[test]
fn explain_says_what_the_mount_does() {
    let scene = ruled();
    let mount = scene.mount();
    let cases = [
        ("nobody", "mkdir inbox/x.sh", "mkdir inbox/x.sh"),
        ("nobody", "mkdir inbox/x", "mkdir inbox/x"),
        ("daemon", "create inbox/deep/y.sh", "touch inbox/deep/y.sh"),
        ("daemon", "create other/y.sh", "touch other/y.sh"),
        ("nobody", "create review/new", "touch review/new"),
        ("nobody", "mkdir review/dir", "mkdir review/dir"),
        ("nobody", "open-write review/there", "echo x >>review/there"),
        ("nobody", "open-read review/there", "cat review/there"),
        ("nobody", "move inbox/m other/m", "mv inbox/m other/m"),
        ("nobody", "move inbox/m review/m", "mv inbox/m review/m"),
    ];
    mount
        .sh("mkdir -m 777 inbox/deep; touch inbox/there inbox/m; mv inbox/there review/there")
        .ok();
    mount.sh("chmod 666 review/there inbox/m").ok();
    for (user, question, attempt) in cases {
        let said = mount.sh(&format!("$OCTROI explain --as {user} {question}")).ok();
        let done = mount.sh_as(user, attempt).code == Some(0);
        let allowed = said.starts_with("allowed");
        assert_eq!(allowed, done, "{user} {question}: the mount and explain differ: {said}");
    }
    mount.unmount();
}

#[test]
fn tx_and_audit_tail_show_crossings() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mv inbox/f review/f; $OCTROI undo").ok();
    let list = mount.sh("$OCTROI tx list").ok();
    assert!(list.contains("/inbox/f") && list.contains("undone"), "{list}");
    let json: Value = serde_json::from_str(&mount.sh("$OCTROI tx list --json").ok()).expect("JSON");
    let transactions = json.as_array().or(json["transactions"].as_array()).expect("a list");
    assert_eq!(transactions.len(), 2);
    let txid = transactions[1]["txid"].as_str().expect("a txid");
    let shown = mount.sh(&format!("$OCTROI tx show {txid}")).ok();
    assert!(shown.contains(txid) && shown.contains("submit"), "{shown}");
    mount.sh("$OCTROI tx show 01ARZ3NDEKTSV4RRFFQ69G5FAV").refused();
    let tail = mount.sh("$OCTROI audit tail -n 3").ok();
    assert_eq!(tail.lines().count(), 3);
    assert!(tail.contains("crossing"), "{tail}");
    mount.unmount();
    let config = scene.config().display().to_string();
    let tail = octroi(["audit", "tail", "-n", "2", "--view", &config]).ok();
    assert!(tail.contains("unmounted"), "the ledger is read with nothing mounted: {tail}");
}

#[test]
fn what_can_be_taken_back_is_shown_with_its_end() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mv inbox/f review/f; echo y >inbox/f; mv inbox/f review/f").ok();
    let txid = mount.sh("$OCTROI tx list --json | jq -r '.[0].txid'").ok();
    let show = || mount.sh(&format!("$OCTROI tx show {}", txid.trim())).ok();
    assert!(show().contains("\nundo         possible until 2"), "{}", show());
    let list =
        mount.sh("mkdir inbox/d; echo d >inbox/d/e; mv inbox/d review/; $OCTROI tx list").ok();
    let said = mount.sh("$OCTROI undo review/d/e").fails(1);
    assert!(said.contains("/review/d above it crossed as a whole"), "{said}: {list}");
    for (make, unmake, why) in [
        ("echo z >inbox/f", "rm inbox/f", "the name it came from, /inbox/f, is taken"),
        ("mv review/f review/g", "mv review/g review/f", "nothing is at /review/f any more"),
    ] {
        mount.sh(make).ok();
        let said = format!("\nundo         not possible: {why}\n");
        assert!(show().contains(&said), "{}", show());
        mount.sh(unmake).ok();
        assert!(show().contains("\nundo         possible until 2"), "{}", show());
    }
    let hold = scene.branch("review").join(".octroi/hold");
    mount.sh(&format!("rm -r {}/*", hold.display())).ok();
    let shown = show();
    let said = "\nundo         not possible: what it moved to hold is gone\n";
    assert!(shown.contains(said), "{shown}");
    mount.unmount();
}

#[test]
fn umount_of_what_is_no_view_is_refused() {
    let scene = Scene::lab();
    let said = octroi([Path::new("umount"), &scene.mountpoint()]).refused();
    assert!(said.contains("mnt"), "{said}");
}

#[test]
fn commands_know_a_view_that_is_bound_to_other_places() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir inbox/d && echo x >inbox/d/f").ok();
    // In a namespace of its own: what fails leaves nothing mounted.
    let script = format!(
        "cd {base} && mkdir all part && mount --bind mnt all && mount --bind mnt/inbox part && \
         $OCTROI where all/inbox/d/f && $OCTROI where --view {name} part/d/f && cd part && $OCTROI where d/f && \
         $OCTROI explain create d/new && $OCTROI mv d/f d/g && \
         {{ ! $OCTROI mv d/g ../all/review/; }} && mv ../all/inbox/d/g ../all/review/ && $OCTROI undo && cat d/g && cd .. && \
         $OCTROI status --view part && $OCTROI status --view {name} && \
         $OCTROI umount mnt && $OCTROI status --view {name} && $OCTROI umount part && \
         {{ timeout 4 $OCTROI umount all; test $? = 124; }}",
        base = scene.base().display(),
        name = scene.name(),
    );
    let private = format!("unshare --mount --propagation private sh -c '{script}'");
    let ran = sh(Path::new("/"), &private);
    let said = ran.err.clone();
    let told = ran.ok();
    assert_eq!(told.matches("branch   inbox\n").count(), 3, "{told}");
    assert!(told.contains("\nx\n"), "{told}");
    let stays =
        format!("view {} stays mounted at {}", scene.name(), scene.base().join("all").display());
    assert_eq!(said.matches(&stays).count(), 2, "{said}");
    assert!(said.contains("two mounts of the view"), "{said}");
    assert_eq!(said.matches("serves another mount namespace").count(), 1, "{said}");
    mount.unmount();
}

#[test]
fn the_mount_is_shown_as_design_says() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let shown = sh(
        Path::new("/"),
        &format!("findmnt -no SOURCE,FSTYPE,OPTIONS {}", mount.root().display()),
    )
    .ok();
    let source = format!("octroi:{}", scene.name());
    for word in
        [source.as_str(), "fuse.octroi", "nosuid", "nodev", "default_permissions", "allow_other"]
    {
        assert!(shown.contains(word), "no {word} in: {shown}");
    }
    mount.unmount();
}

#[test]
fn the_demo_runs_and_leaves_nothing() {
    let scene = Scene::new();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let folder = scene.base().join("tmp");
    fs::create_dir(&folder).expect("mkdir");
    let seen = sh(scene.base(), "TMPDIR=$PWD/tmp $OCTROI demo").ok();
    assert!(seen.contains("undo") && seen.contains("mv "), "{seen}");
    assert_eq!(fs::read_dir(&folder).expect("tmp").count(), 0, "something was left");
    let base = folder.display().to_string();
    assert!(!mounts().contains(&base), "a mount was left");
}
