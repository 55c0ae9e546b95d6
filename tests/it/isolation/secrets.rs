//! Reading others' files with the help of the daemon, which can read them all.

use super::{BRANCHES, SECRET, VIEW};
use crate::disk::Disk;
use crate::harness::{Mount, Scene, sh};

/// In the folder `n` of an ordinary user: a file that only root can read, and one with a name to hide, in
/// a folder that only root can look into.
fn planted(other_disk: bool, body: &str) -> (Scene, Option<Disk>) {
    let scene = Scene::with(&BRANCHES, body);
    let disk = other_disk.then(|| Disk::tmpfs(&scene, "review", "80M"));
    let plant = format!(
        "mkdir n n/closed m; echo {SECRET} >n/secret; cp n/secret m/secret; chmod 600 n/secret m/secret; \
         echo {SECRET} >n/closed/hidden-name; mkdir n/closed/hidden-folder; chmod 700 n/closed; \
         chown nobody n m; chmod 755 n m"
    );
    sh(&scene.branch("inbox"), &plant).ok();
    (scene, disk)
}

/// What a user is told by all commands, and can read of what was moved.
#[track_caller]
fn nothing_is_told(mount: &Mount, more: &str) -> String {
    let script = format!(
        "{{ {more}; cat inbox/n/secret inbox/m/secret review/x review/n/secret inbox/n/closed/*; \
         ls -lR inbox review; $OCTROI why; $OCTROI why inbox/n; $OCTROI tx list; $OCTROI tx list --json; \
         for t in $($OCTROI tx list --json | jq -r '..|.txid? // empty'); do $OCTROI tx show $t; $OCTROI tx show --json $t; done; \
         $OCTROI where inbox/n; $OCTROI where review/x; $OCTROI where review/n; \
         $OCTROI where inbox/n/closed/hidden-name; \
         cat .audit/log.jsonl .audit/denied.jsonl; ls .audit/tx/done; $OCTROI audit tail; $OCTROI status; }} 2>&1; true"
    );
    let told = mount.sh_as("nobody", &script).ok();
    assert!(!told.contains(SECRET), "the content was told: {told}");
    let own = told.replace("inbox/n/closed/hidden-name", "");
    assert!(!own.contains("hidden-"), "a name was told: {told}");
    let hash =
        sh(std::path::Path::new("/"), &format!("echo {SECRET} | sha256sum | cut -d' ' -f1")).ok();
    assert!(!told.contains(hash.trim()), "the hash, which can be guessed at, was told: {told}");
    told
}

/// What root closed where it arrived stays closed, and hidden names are not told.
fn nothing_is_opened_by_an_undo(mount: &Mount) {
    mount.sh_as("nobody", "echo open >inbox/n/o && mv inbox/n review/n").ok();
    let closed = ["chmod 600 review/n/closed/hidden-name", "chown root review/n/o"];
    let opened = ["chmod 644 review/n/closed/hidden-name", "chown nobody review/n/o"];
    for (close, open) in closed.into_iter().zip(opened) {
        mount.sh(close).ok();
        let told = nothing_is_told(mount, "$OCTROI undo review/n || echo it stays");
        assert!(told.contains("it stays"), "{told}");
        mount.sh(&format!("test -e review/n/o && test ! -e inbox/n && {open}")).ok();
    }
    let told = nothing_is_told(mount, "$OCTROI undo review/n && echo it is back && rm inbox/n/o");
    assert!(told.contains("it is back"), "{told}");
}

#[test]
fn a_crossing_shows_its_author_nothing_of_what_only_others_can_read() {
    for other_disk in [false, true] {
        let (scene, disk) = planted(other_disk, VIEW);
        let mount = scene.mount();
        let told = nothing_is_told(&mount, "mv inbox/n/secret review/x && echo it crossed");
        assert!(told.contains("it crossed") && told.contains("/review/x"), "{told}");
        assert_eq!(
            mount.sh("stat -c '%U %a' review/x; cat review/x").ok(),
            format!("root 600\n{SECRET}\n")
        );
        let told = nothing_is_told(&mount, "$OCTROI undo review/x && echo it is back");
        assert!(told.contains("it is back"), "{told}");
        let told = nothing_is_told(
            &mount,
            "$OCTROI mv inbox/n/secret review/x && $OCTROI undo && echo it is back",
        );
        assert!(told.contains("it is back"), "{told}");
        let told = nothing_is_told(
            &mount,
            "mv inbox/n review/n && $OCTROI undo review/n && echo it is back",
        );
        assert!(told.contains("it is back"), "{told}");
        assert_eq!(
            mount.sh("stat -c '%U %a' inbox/n/secret inbox/n/closed").ok(),
            "root 600\nroot 700\n"
        );
        if other_disk {
            nothing_is_opened_by_an_undo(&mount);
        }
        // Root is told all of it.
        let all = mount.sh("$OCTROI tx list --json; cat .audit/log.jsonl").ok();
        let hash = mount.sh("sha256sum <inbox/n/secret | cut -d' ' -f1").ok();
        assert!(all.contains(hash.trim()));
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn why_a_tree_does_not_cross_is_told_without_names_that_its_owner_cannot_see() {
    let gate =
        "[gates.submit]\npaths = [\"**/n\", \"**/x\", \"**/*.csv\", \"secret\", \"**/secret\"]\n";
    for other_disk in [false, true] {
        let (scene, disk) = planted(other_disk, &VIEW.replace("[gates.submit]\n", gate));
        let mount = scene.mount();
        for attempt in ["mv inbox/n review/n", "$OCTROI mv inbox/n review/n"] {
            let told = nothing_is_told(&mount, &format!("{attempt} || echo it did not cross"));
            assert!(told.contains("it did not cross"), "{told}");
            assert!(told.contains("where you may not look"), "{told}");
        }
        // Who may look is told what it is.
        assert!(mount.sh("mv inbox/n review/n; $OCTROI why").ok().contains("hidden-name"));
        assert!(mount.sh("cat .audit/denied.jsonl").ok().contains("hidden-name"));
        mount.sh("chown -R nobody inbox/n").ok();
        let told = mount.sh_as("nobody", "mv inbox/n review/n 2>&1; $OCTROI why").ok();
        assert!(told.contains("hidden-name"), "{told}");
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn what_a_file_is_that_the_gate_does_not_take_is_told_who_may_read_it() {
    let gate = "[gates.submit]\ntypes = [\"image/png\"]\n";
    let (scene, _) = planted(false, &VIEW.replace("[gates.submit]\n", gate));
    let mount = scene.mount();
    for attempt in ["mv inbox/n/secret review/x", "$OCTROI mv inbox/n/secret review/x"] {
        let told = nothing_is_told(&mount, &format!("{attempt} || echo it did not cross"));
        assert!(told.contains("it did not cross") && told.contains("image/png"), "{told}");
        assert!(!told.contains("text/plain"), "the type was told: {told}");
    }
    assert!(mount.sh("mv inbox/n/secret review/x; $OCTROI why").ok().contains("text/plain"));
    mount.sh("chmod 644 inbox/n/secret").ok();
    let told = mount.sh_as("nobody", "mv inbox/n/secret review/x 2>&1; $OCTROI why").ok();
    assert!(told.contains("text/plain"), "{told}");
    mount.unmount();
}

#[test]
fn questions_about_what_one_cannot_see_are_answered_alike() {
    // Of a directory the gate asks for no name of its own.
    let gate = "[gates.submit]\npaths = [\"**/*.csv\"]\n";
    let (scene, _) = planted(false, &VIEW.replace("[gates.submit]\n", gate));
    let mount = scene.mount();
    let ask = |script: &str, name: &str| {
        let ended = mount.sh_as("nobody", &format!("{} 2>&1; true", script.replace('N', name)));
        ended.ok().replace(name, "N")
    };
    for script in [
        "$OCTROI where inbox/n/closed/N",
        "$OCTROI explain move inbox/n/closed/N review/x",
        "$OCTROI explain open-read inbox/n/closed/N",
        "$OCTROI explain mkdir inbox/n/closed/N",
        "$OCTROI why inbox/n/closed/N",
        "$OCTROI undo inbox/n/closed/N",
        "$OCTROI mv inbox/n/closed/N review/x",
        "stat inbox/n/closed/N",
    ] {
        let answers = ["hidden-folder", "hidden-name", "missing"].map(|name| ask(script, name));
        assert_eq!(answers[0], answers[1], "{script}");
        assert_eq!(answers[1], answers[2], "{script}");
    }
    // As somebody else, or of somebody else, only the privileged may ask.
    for script in ["$OCTROI explain --as root open-read inbox/n/secret", "$OCTROI status"] {
        mount.sh_as("nobody", script).refused();
    }
    mount.unmount();
}

#[test]
fn an_undo_asks_for_the_way_as_rename_does() {
    let (scene, _) = planted(false, VIEW);
    sh(&scene.branch("review"), "mkdir -m 777 shelf").ok();
    let mount = scene.mount();
    mount.sh_as("nobody", "echo mine >inbox/n/f && mv inbox/n/f review/shelf/f").ok();
    mount.sh("chmod 700 review/shelf").ok();
    let there = mount.sh_as("nobody", "$OCTROI undo 2>&1; true").ok();
    mount.sh("mv review/shelf/f review/shelf/g").ok();
    let gone = mount.sh_as("nobody", "$OCTROI undo 2>&1; true").ok();
    assert!(there.contains("Permission denied"), "{there}");
    assert_eq!(there, gone, "whether it is still there is not to be learnt");
    mount.sh("mv review/shelf/g review/shelf/f; chmod 777 review/shelf").ok();
    mount.sh_as("nobody", "$OCTROI undo && cat inbox/n/f").ok();
    mount.unmount();
}
