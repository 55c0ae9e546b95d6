//! Gates with commands, crossed by real moves: on one file system, and over two.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::limits::marker;
use crate::disk::Disk;
use crate::harness::{LAB, Mount, OCTROI, Scene, octroi, sh, wait_for};
use crate::strace::Strace;

/// The usual view with checks at its gate; each is a script of bash and more keys. The target is on a disk
/// of its own where that is wanted.
fn scene(checks: &[(&str, &str)], other_disk: bool) -> (Scene, Option<Disk>) {
    let scene = Scene::with(&["inbox", "other", "review"], &with_checks(checks));
    let disk = other_disk.then(|| Disk::tmpfs(&scene, "review", "128M"));
    (scene, disk)
}

fn with_checks(checks: &[(&str, &str)]) -> String {
    let tables = checks.iter().map(|(script, keys)| {
        let run = serde_json::to_string(&["/bin/bash", "-c", script, "bash"]).expect("JSON");
        format!("[[gates.submit.checks]]\nrun = {run}\n{keys}\n")
    });
    format!("{LAB}{}", tables.collect::<String>())
}

/// Runs the same on one file system and over two.
fn on_each(checks: &[(&str, &str)], test: impl Fn(&Scene, &Mount)) {
    for other_disk in [false, true] {
        eprintln!("over two file systems: {other_disk}");
        let (scene, disk) = scene(checks, other_disk);
        let mount = scene.mount();
        test(&scene, &mount);
        mount.unmount();
        drop(disk);
    }
}

fn checks(mount: &Mount) -> Vec<Value> {
    mount.ledger().into_iter().filter(|line| line["kind"] == "check").collect()
}

fn last_step(mount: &Mount) -> Value {
    let steps = mount.ledger().into_iter().rev().find(|line| line["kind"] == "crossing");
    steps.expect("a crossing")
}

const GREP: &str = "! grep -n bad || { echo found it >&2; exit 3; }; echo fine";

#[test]
fn what_passes_crosses_and_the_ledger_has_what_was_said() {
    let path = "grep -c good \"$1\"";
    on_each(&[(GREP, ""), (path, "input = \"path\"")], |_, mount| {
        mount
            .sh("echo good >inbox/f; chmod 600 inbox/f; chown games inbox/f; mv inbox/f review/f")
            .ok();
        assert_eq!(mount.sh("cat review/f; stat -c '%U %a' review/f").ok(), "good\ngames 600\n");
        let said = checks(mount);
        let [first, second] = said.as_slice() else { panic!("two: {said:?}") };
        assert_eq!((&first["result"], &first["line"]), (&"passed".into(), &"fine".into()));
        assert_eq!((&second["result"], &second["line"]), (&"passed".into(), &"1".into()));
        assert_eq!(first["run"][2], GREP);
        assert_eq!((&first["gate"], &first["path"]), (&"submit".into(), &"/inbox/f".into()));
        let done = last_step(mount);
        assert_eq!((&done["step"], &done["txid"]), (&"done".into(), &first["txid"]));
        let seq = |line: &Value| line["seq"].as_u64().expect("a number");
        let lines = mount.ledger();
        let commit = lines.iter().find(|line| line["step"] == "commit").expect("COMMIT");
        assert!(seq(second) < seq(commit));
        // What was recorded can be read again.
        mount.sh("$OCTROI undo && cat inbox/f").ok();
    });
}

#[test]
fn what_fails_stays_and_is_told_why() {
    on_each(&[(GREP, "")], |scene, mount| {
        mount.sh("printf 'good\\nbad\\n' >inbox/f; chmod 666 inbox/f; touch -d @5 inbox/f").ok();
        let before = mount.sh("stat -c '%a %Y %s %U' inbox/f").ok();
        let said = mount.sh("mv inbox/f review/f").refused();
        assert!(said.contains("Permission denied"), "{said}");
        assert_eq!(mount.sh("stat -c '%a %Y %s %U' inbox/f; ls -A review").ok(), before);
        let stage = scene.branch("review").join(".octroi/stage");
        assert_eq!(fs::read_dir(stage).expect("stage").count(), 0);
        let wanted = "exit code 3, saying: found it";
        let why = mount.sh("$OCTROI why inbox/f").ok();
        assert!(why.contains(wanted) && why.contains("gate submit"), "{why}");
        let abort = last_step(mount);
        assert_eq!((&abort["step"], &abort["result"]), (&"abort".into(), &"EACCES".into()));
        assert!(abort["reason"].as_str().is_some_and(|reason| reason.contains(wanted)), "{abort}");
        let said = checks(mount);
        let [check] = said.as_slice() else { panic!("one: {said:?}") };
        assert_eq!((&check["result"], &check["reason"]), (&"failed".into(), &"exit code 3".into()));
        let denied = fs::read_to_string(mount.path(".audit/denied.jsonl")).expect("denials");
        assert!(denied.contains(wanted), "{denied}");
        let moved = mount.sh("$OCTROI mv inbox/f review/f").refused();
        assert!(moved.contains(wanted), "{moved}");
    });
}

#[test]
fn those_who_may_not_read_a_file_are_not_told_what_was_said_of_it() {
    let (scene, _disk) = scene(&[("cat; exit 1", "")], false);
    let mount = scene.mount();
    mount.sh("echo the-secret >inbox/f; chmod 600 inbox/f").ok();
    mount.sh_as("nobody", "mv inbox/f review/f").refused();
    let why = mount.sh_as("nobody", "$OCTROI why").ok();
    assert!(why.contains("exit code 1") && !why.contains("secret"), "{why}");
    let moved = mount.sh_as("nobody", "$OCTROI mv inbox/f review/f").refused();
    assert!(moved.contains("exit code 1") && !moved.contains("secret"), "{moved}");
    mount.sh("mkdir inbox/d; mv inbox/f inbox/d/f; chmod 777 inbox/d").ok();
    let moved = mount.sh_as("nobody", "$OCTROI mv inbox/d review/d").refused();
    assert!(moved.contains("exit code 1") && !moved.contains("secret"), "{moved}");
    mount.sh("chmod 644 inbox/d/f").ok();
    let moved = mount.sh_as("nobody", "$OCTROI mv inbox/d review/d").refused();
    assert!(moved.contains("the-secret"), "{moved}");
    mount.unmount();
}

#[test]
fn every_file_of_a_tree_is_asked_about_once() {
    let script = "! grep -q bad; echo \"$OCTROI_SOURCE $OCTROI_TARGET\"";
    on_each(&[(&format!("{script} $(wc -l <$1)"), "input = \"path\"")], |_, mount| {
        mount
            .sh("mkdir -p inbox/t/a/b; for i in $(seq 30); do seq $i >inbox/t/$i; seq $i >inbox/t/a/b/$i; done
                 ln inbox/t/7 inbox/t/a/seven; touch inbox/t/empty; mv inbox/t review/t")
            .ok();
        assert_eq!(
            mount.sh("cat review/t/a/seven | tail -1; ls review/t/a/b | wc -l").ok(),
            "7\n30\n"
        );
        let said = checks(mount);
        let mut paths: Vec<&str> = said.iter().filter_map(|line| line["path"].as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!((said.len(), paths.len()), (61, 61));
        let deep = said.iter().find(|line| line["path"] == "/inbox/t/a/b/30").expect("it is there");
        assert_eq!(deep["line"], "/inbox/t/a/b/30 /review/t/a/b/30 30");
    });
}

#[test]
fn one_file_keeps_a_tree_and_is_named() {
    on_each(&[(GREP, "")], |_, mount| {
        mount
            .sh("mkdir -p inbox/t/a; seq 9 | xargs -I% touch inbox/t/%; echo bad >inbox/t/a/f")
            .ok();
        let said = mount.sh("$OCTROI mv inbox/t review/t").refused();
        assert!(said.contains("a/f: ") && said.contains("exit code 3"), "{said}");
        assert_eq!(mount.sh("ls inbox/t | wc -l; ls review").ok(), "10\n");
    });
}

#[test]
fn what_has_no_content_does_not_pass_a_gate_with_checks() {
    on_each(&[("exit 0", "")], |_, mount| {
        mount.sh("ln -s /etc/passwd inbox/l; mkdir -p inbox/t; mkfifo inbox/t/p").ok();
        for name in ["l", "t"] {
            let said = mount.sh(&format!("$OCTROI mv inbox/{name} review/{name}")).refused();
            assert!(said.contains("the gate's checks take regular files alone"), "{said}");
        }
    });
}

#[test]
fn a_command_sees_neither_view_nor_branches() {
    let (scene, _disk) = scene(&[("exit 0", "")], false);
    let base = scene.base().display().to_string();
    let script = format!(
        "for path in {base} {base}/mnt {base}/mnt/.audit {base}/mnt/other/secret {base}/branches/other/secret; do \
         ! [ -e $path ] || {{ echo $path; exit 1; }}; done; \
         echo blind $(/usr/bin/python3 -c 'import os; print([n for n in range(256) if os.path.exists(n)])')"
    );
    scene.configure(&with_checks(&[(&script, "")]));
    let mount = scene.mount();
    mount
        .sh("echo x >other/secret; chmod 666 other/secret; echo x >inbox/f; mv inbox/f review/f")
        .ok();
    assert_eq!(checks(&mount)[0]["line"], "blind [0, 1, 2]");
    mount.unmount();
}

#[test]
fn a_readable_path_that_leads_into_the_view_keeps_the_gate_closed() {
    let (scene, _disk) = scene(&[("exit 0", "")], false);
    let mountpoint = scene.mountpoint().display().to_string();
    scene.configure(&with_checks(&[("exit 0", &format!("read = [\"{mountpoint}\"]"))]));
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    let said = mount.sh("$OCTROI mv inbox/f review/f").refused();
    assert!(said.contains("leads into a mounted view"), "{said}");
    mount.unmount();
}

#[test]
fn the_times_of_a_source_that_is_only_renamed_stay() {
    let (scene, _disk) =
        scene(&[("cat >/dev/null", ""), ("cat $1 >/dev/null", "input = \"path\"")], false);
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; touch -a -d '1 year ago' inbox/f; stat -c %x inbox/f >other/x; mv inbox/f review/f; \
              stat -c %x review/f | cmp - other/x").ok();
    mount.unmount();
}

#[test]
fn who_stops_a_move_stops_its_checks() {
    let mark = marker();
    let (scene, _disk) = scene(&[(&format!("sleep {mark}"), "timeout = \"1h\"")], false);
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; echo x >inbox/g").ok();
    let begun = || sh(Path::new("/"), &format!("pgrep -f '^sleep {mark}'")).code == Some(0);
    let start = |name: &str| {
        let mut command = std::process::Command::new(OCTROI);
        command.arg("mv").arg(mount.path(&format!("inbox/{name}")));
        command.arg(mount.path(&format!("review/{name}"))).stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("it starts");
        wait_for("the check", begun);
        child
    };
    // Ctrl-C.
    let moving = start("f");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&moving),
        rustix::process::Signal::INT,
    )
    .expect("it is our child");
    let ended = moving.wait_with_output().expect("it ends");
    assert!(!ended.status.success());
    wait_for("the end of the check", || !begun());
    // `octroi tx abort`.
    let moving = start("g");
    let status = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["active"][0]["step"], "check");
    let txid = status["active"][0]["txid"].as_str().expect("a txid");
    octroi(["tx", "abort", txid, "--view", scene.name()]).ok();
    let ended = moving.wait_with_output().expect("it ends");
    assert!(!ended.status.success());
    wait_for("the end of the check", || !begun());
    assert_eq!(mount.sh("cat inbox/f inbox/g; ls review").ok(), "x\nx\n");
    assert_eq!(last_step(&mount)["result"], "ECANCELED");
    mount.unmount();
}

#[test]
fn a_daemon_that_is_killed_takes_its_checks_with_it() {
    let mark = marker();
    let (scene, _disk) = scene(&[(&format!("sleep {mark}"), "timeout = \"1h\"")], false);
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    let begun = || sh(Path::new("/"), &format!("pgrep -f '^sleep {mark}'")).code == Some(0);
    let mut moving = std::process::Command::new("mv");
    moving.arg(mount.path("inbox/f")).arg(mount.path("review/f"));
    let mut moving = moving.stderr(std::process::Stdio::null()).spawn().expect("mv starts");
    wait_for("the check", begun);
    mount.kill9();
    wait_for("the end of the check", || !begun());
    let _ = moving.wait();
    let mount = scene.mount();
    assert_eq!(mount.sh("cat inbox/f; ls review").ok(), "x\n");
    mount.unmount();
}

#[test]
fn explain_and_check_speak_of_the_commands() {
    let (scene, _disk) = scene(&[("exit 0", "")], false);
    let mount = scene.mount();
    let said = mount.sh("echo x >inbox/f; $OCTROI explain move inbox/f review/f").ok();
    assert!(said.contains("each file must then pass `/bin/bash -c 'exit 0' bash`"), "{said}");
    mount.unmount();
    let checked = octroi(["check".as_ref(), scene.config().as_os_str()]);
    assert!(checked.ok().contains("is good"));
}

#[test]
fn a_reload_brings_other_checks() {
    let (scene, _disk) = scene(&[("exit 1", "")], false);
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; ! mv inbox/f review/f").ok();
    scene.configure(&with_checks(&[("exit 0", "")]));
    let said = octroi(["reload", "--view", scene.name()]).ok();
    assert!(said.contains("submit"), "{said}");
    mount.sh("mv inbox/f review/f").ok();
    scene.configure(&with_checks(&[("exit 0", "read = [\"/nonexistent\"]")]));
    let refused = octroi(["reload", "--view", scene.name()]).fails(2);
    assert!(refused.contains("cannot find /nonexistent"), "{refused}");
    mount.unmount();
}

#[test]
fn a_machine_that_cannot_shut_commands_in_is_told_at_load() {
    let (scene, _disk) = scene(&[("exit 0", "")], false);
    let config = scene.config().display().to_string();
    // Without a namespace of users, no more can be made.
    let limited = |command: &str| {
        let script = format!("echo 0 >/proc/sys/user/max_user_namespaces; {command}");
        sh(Path::new("/"), &format!("unshare -Ur bash -c '{script}'"))
    };
    let said = limited(&format!("$OCTROI check {config}")).refused();
    assert!(said.contains("cannot run the checks of gate submit"), "{said}");
    let mountpoint = scene.mountpoint().display().to_string();
    let said = limited(&format!("$OCTROI mount {config} {mountpoint}")).refused();
    assert!(said.contains("cannot run the checks of gate submit"), "{said}");
    let permissions = fs::metadata(scene.config()).expect("stat").permissions();
    assert_eq!(permissions.mode() & 0o077, 0o044);
}

#[test]
fn names_of_any_bytes_are_told_and_recorded() {
    let script =
        "printf %s \"$OCTROI_SOURCE\" | od -An -tx1 | tr -d ' \\n'; wc -c <\"$1\" >/dev/null";
    let (scene, _disk) = scene(&[(script, "input = \"path\"")], false);
    let mount = scene.mount();
    mount
        .sh("n=$(printf 'a\\377\\n\\033-'); echo x >inbox/\"$n\"; mv inbox/\"$n\" review/\"$n\"")
        .ok();
    let said = checks(&mount);
    assert_eq!(said[0]["line"], "2f696e626f782f61ff0a1b2d");
    assert!(said[0]["path_b64"].is_string());
    mount.unmount();
}

/// One file system may turn out to be two at the last step, and by then the kernel holds both folders: what
/// takes long is done before the second rename, not in it.
#[test]
fn one_file_system_that_turns_out_to_be_two_is_prepared_anew() {
    let (scene, _) = scene(&[("cat >/dev/null", "")], false);
    let mount = scene.mount();
    // One thread that renames, which is there to be watched.
    mount.sh("echo warm >inbox/w; $OCTROI mv -q inbox/w review/w").ok();
    let known = mount.ledger().len();
    let strace = Strace::attach(&mount, &["rename-"], Some("renameat2:error=EXDEV:when=1"));
    mount.sh("echo good >inbox/f; $OCTROI mv -q inbox/f review/f").ok();
    drop(strace);
    let steps = mount.ledger().into_iter().skip(known).filter_map(|line| {
        let kind = line["kind"].as_str().expect("a kind");
        let word = if kind == "check" { Some(kind) } else { line["step"].as_str() };
        word.map(str::to_owned)
    });
    let steps: Vec<_> = steps.collect();
    let (first, then) = steps.split_at(4.min(steps.len()));
    assert_eq!(first, ["prepare", "check", "commit", "reverted"]);
    assert_eq!(then, ["prepare", "check", "commit", "done"]);
    assert_eq!(mount.sh("cat review/f; ls inbox").ok(), "good\n");
    mount.unmount();
}

/// To rename(2) a folder with a project of its own is another file system. mv(1) takes that for leave to copy.
#[test]
fn a_folder_that_takes_nothing_by_rename_is_not_reached_round_the_gate() {
    let paths = LAB.replace("branches/inbox", "branches/all/inbox");
    let paths = paths.replace("branches/review\"\nmode = \"gates-only\"", "branches/all/review\"");
    let run = "[[gates.submit.checks]]\nrun = [\"/bin/false\"]\n";
    for checks in ["", run] {
        let scene = Scene::with(&["all", "other"], &format!("{paths}{checks}"));
        let disk = Disk::xfs(&scene, "all", "300M");
        let project =
            "mkdir inbox review review/p; xfs_io -x -c 'chproj 7' -c 'chattr +P' review/p";
        sh(&scene.branch("all"), project).ok();
        let mount = scene.mount();
        mount.sh("echo bad >inbox/f").ok();
        for mv in ["mv", "$OCTROI mv -q"] {
            let said = mount.sh(&format!("{mv} inbox/f review/p/f")).fails(1);
            let why = if checks.is_empty() { "not supported" } else { "Permission denied" };
            assert!(said.contains(why) || said.contains("false"), "{mv}: {said}");
            assert_eq!(mount.sh("cat inbox/f; ls review/p").ok(), "bad\n", "{mv}");
        }
        mount.unmount();
        drop(disk);
    }
}

/// Paths far beyond PATH_MAX are there, for whoever goes to a folder step by step.
#[test]
fn a_path_of_30_kib_crosses_with_its_checks() {
    let says = "echo ${#OCTROI_SOURCE} ${#OCTROI_TARGET}; cat >/dev/null";
    on_each(&[(says, "")], |_, mount| {
        let (name, target) = ("n".repeat(249), mount.path("review/deep"));
        let go = format!("for i in $(seq 120); do mkdir {name} && cd -P {name} || exit 1; done");
        let target = target.display();
        mount.sh(&format!("cd inbox; {go}; echo deep >f; mv f {target}; ls; cat {target}")).ok();
        let said = checks(mount).pop().expect("a check");
        let length = "/inbox/".len() + 120 * 250 + "f".len();
        assert_eq!(said["line"], format!("{length} {}", "/review/deep".len()));
        assert_eq!(said["path"].as_str().map(str::len), Some(length));
        assert_eq!(mount.sh("cat review/deep").ok(), "deep\n");
    });
}
