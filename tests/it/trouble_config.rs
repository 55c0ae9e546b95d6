//! Configurations, folders and machines that are not as they must be: each is refused with a message
//! that names the trouble, a non-zero exit code, and no change.

use std::fs;
use std::path::Path;

use crate::harness::{Scene, is_mounted, octroi, require_root, sh};

/// Mounting with this body is refused, and the message has all of these words.
#[track_caller]
fn check(body: &str, words: &[&str]) -> Scene {
    let scene = Scene::with(&["inbox", "review"], body);
    // The ledger is looked into before the branches; an empty one may be made for it.
    let tree = "find . -print | sort";
    let before = sh(scene.base(), tree).ok();
    let ended = scene.mount_refused(&[]);
    for word in words {
        assert!(ended.err.contains(word), "no {word} in: {}", ended.err);
    }
    assert!(ended.err.lines().count() < 60 && !ended.err.contains("panicked"), "{}", ended.err);
    assert_eq!(sh(scene.base(), tree).ok(), before, "something was made");
    scene
}

/// As [`check`], and `octroi check` finds the same, with the place in the file, and exit code 2.
#[track_caller]
fn mistake(body: &str, words: &[&str]) {
    let scene = check(body, words);
    assert_eq!(scene.mount_refused(&[]).code, Some(2));
    let said = octroi([Path::new("check"), &scene.config()]).fails(2);
    for word in words.iter().chain(&["view.toml:", "^"]) {
        assert!(said.contains(word), "no {word} in: {said}");
    }
}

const INBOX: &str = "[branches.inbox]\npath = \"branches/inbox\"\n";

#[test]
fn mistakes_in_the_configuration_are_shown_in_place() {
    let with = |more: &str| format!("{INBOX}{more}");
    mistake(&with("[branches.x]\npath = branches"), &["TOML"]);
    mistake(&with("[gatess.x]\nfrom = \"inbox\"\n"), &["gatess"]);
    mistake(&with("colour = \"red\"\n"), &["colour", "unknown"]);
    mistake(&with("mode = 7\n"), &["mode"]);
    mistake(&with("mode = \"wr\"\n"), &["wr", "rw"]);
    mistake(&with("[gates.g]\nfrom = \"inbox\"\nto = \"outbox\"\nwho = [\"*\"]\n"), &["outbox"]);
    mistake(
        &with("[rules.r]\ndeny = [\"write\"]\nwho = [\"editors\"]\nreason = \"r\"\n"),
        &["editors"],
    );
    mistake(&with("[rules.r]\ndeny = [\"fly\"]\nwho = [\"*\"]\nreason = \"r\"\n"), &["fly"]);
    mistake(&with("[rules.r]\ndeny = [\"write\"]\nwho = [\"*\"]\n"), &["reason"]);
    mistake(&with("[branches.inbox]\npath = \"branches/review\"\n"), &["inbox", "duplicate"]);
    mistake(&with("[branches.second]\npath = \"branches/review\"\nat = \"/inbox\"\n"), &["/inbox"]);
    mistake(&with("[pools.p]\nmembers = [\"outbox\"]\n"), &["outbox"]);
    mistake(&with("at = \"/a\"\n[pools.p]\nmembers = [\"inbox\"]\n"), &["inbox.at", "pool p"]);
    mistake(&with("[crossings]\nparallel = 0\n"), &["parallel", "from 1 to 64"]);
    mistake(&with("[gates.g]\nhard_links = \"keep\"\n"), &["hard_links", "not implemented yet"]);
    mistake(
        &with("[rules.r]\nallow = [\"add\"]\nwho = [\"*\"]\npaths = [\"/inbix/**\"]\n"),
        &["/inbix/**", "can never match", "did you mean `inbox`"],
    );
    mistake(&with("[audit]\nkeep = \"1y\"\n"), &["audit.keep"]);
}

#[test]
fn expectations_that_are_not_met_fail_the_check_and_nothing_else() {
    let expect =
        "[[expect]]\nas = \"user:12345\"\ngroups = []\ndo = \"add\"\npath = \"/inbox/a\"\n";
    let with = |result: &str| {
        let scene = Scene::with(&["inbox"], &format!("{INBOX}{expect}result = \"{result}\"\n"));
        let checked = octroi([Path::new("check"), &scene.config()]);
        (scene, checked)
    };
    let (_scene, met) = with("allow");
    assert!(met.ok().contains("is good"));
    let (scene, unmet) = with("deny");
    let said = unmet.fails(2);
    for word in
        ["create of /inbox/a", "must be denied", "is allowed by default", "view.toml:", "^^"]
    {
        assert!(said.contains(word), "no {word} in: {said}");
    }
    let mount = scene.mount();
    fs::write(mount.path("inbox/a"), "").expect("a view that works");
}

#[test]
fn a_missing_or_unreadable_configuration_is_named() {
    let scene = Scene::lab();
    fs::remove_file(scene.config()).expect("rm");
    for command in ["check", "mount"] {
        let mut words = vec![command.to_owned(), scene.config().display().to_string()];
        if command == "mount" {
            words.push(scene.mountpoint().display().to_string());
        }
        let said = octroi(&words).refused();
        assert!(said.contains("view.toml") && said.contains("o such file"), "{said}");
    }
    fs::create_dir(scene.config()).expect("mkdir");
    assert!(scene.mount_refused(&[]).err.contains("view.toml"));
    fs::remove_dir(scene.config()).expect("rmdir");
    fs::write(scene.config(), b"[view]\nname = \"\xff\"\n").expect("write");
    assert!(scene.mount_refused(&[]).err.contains("UTF-8"));
}

#[test]
fn branches_that_are_not_fit_are_refused() {
    require_root();
    check("[branches.x]\npath = \"branches/absent\"\n", &["absent"]);
    let file = "[branches.x]\npath = \"view.toml\"\n";
    check(file, &["view.toml"]);
    check("[branches.x]\npath = \"plain\"\n", &["plain", "exposed"]);
    check(&format!("{INBOX}[branches.y]\npath = \"branches/inbox\"\n"), &["inbox", "y"]);
    let scene = Scene::new();
    fs::create_dir_all(scene.branch("inbox").join("inner")).expect("mkdir");
    scene.configure(&format!("{INBOX}[branches.y]\npath = \"branches/inbox/inner\"\n"));
    assert!(scene.mount_refused(&[]).err.contains("inner"));
    check("[branches.x]\npath = \"mnt\"\nexposed = true\n", &["mnt"]);
    check("[branches.x]\npath = \"BASE\"\nexposed = true\n", &["x"]);
}

#[test]
fn a_link_as_the_last_part_of_a_branchs_path_leads_to_the_same_checks() {
    let scene = Scene::with(&["inbox"], "[branches.x]\npath = \"link\"\n");
    std::os::unix::fs::symlink("plain", scene.base().join("link")).expect("symlink");
    assert!(scene.mount_refused(&[]).err.contains("exposed"));
}

#[test]
fn an_exposed_branch_mounts_when_the_configuration_says_so() {
    let scene = Scene::with(&[], "[branches.x]\npath = \"plain\"\nexposed = true\n");
    let mount = scene.mount();
    mount.sh("echo x >x/f").ok();
    mount.unmount();
}

#[test]
fn mountpoints_that_are_not_fit_are_refused() {
    let scene = Scene::lab();
    let mountpoint = scene.mountpoint();
    fs::remove_dir(&mountpoint).expect("rmdir");
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("mnt") && said.contains("does not exist"), "{said}");
    fs::write(&mountpoint, "a file").expect("write");
    assert!(scene.mount_refused(&[]).err.contains("mnt"));
    fs::remove_file(&mountpoint).expect("rm");
    fs::create_dir(&mountpoint).expect("mkdir");
    fs::write(mountpoint.join("f"), "hidden").expect("write");
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("empty") && said.contains("--nonempty"), "{said}");
    let mount = scene.mount_with(&["--nonempty"]);
    assert!(!mount.path("f").exists());
    mount.unmount();
    assert_eq!(fs::read_to_string(mountpoint.join("f")).expect("read"), "hidden");
}

#[test]
fn a_mountpoint_that_is_a_mount_is_refused() {
    require_root();
    let scene = Scene::lab();
    sh(scene.base(), "mount -t tmpfs octroi-test mnt").ok();
    let ended = scene.mount_refused(&[]);
    sh(scene.base(), "umount mnt").ok();
    assert!(ended.err.contains("mnt"), "{}", ended.err);
}

#[test]
fn the_state_folder_must_be_outside_and_writable() {
    for place in ["branches/inbox/state", "mnt/state"] {
        let scene = Scene::lab();
        let text = fs::read_to_string(scene.config()).expect("read");
        let moved = scene.base().join(place);
        let text = text.replace(&scene.state().display().to_string(), &moved.display().to_string());
        fs::write(scene.config(), text).expect("write");
        let said = scene.mount_refused(&[]).err;
        assert!(said.contains("state"), "{place}: {said}");
        assert!(!moved.exists(), "{place} was made");
    }
    let scene = Scene::lab();
    fs::write(scene.state(), "a file").expect("write");
    assert!(scene.mount_refused(&[]).err.contains("state"));
}

/// Runs a script in a mount namespace of its own, so that the machine stays as it is.
fn elsewhere(scene: &Scene, script: &str) -> String {
    let script = format!("unshare -m --propagation private bash -c '{script}'");
    let ended = sh(scene.base(), &script);
    assert!(!is_mounted(&scene.mountpoint()), "it mounted: {ended:?}");
    ended.refused()
}

#[test]
fn a_machine_without_fuse_is_told_so() {
    require_root();
    let scene = Scene::lab();
    let said = elsewhere(
        &scene,
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && $OCTROI mount view.toml mnt",
    );
    assert!(said.contains("/dev/fuse"), "{said}");
}

/// A scene of a user who is not root, in a folder that they can reach.
fn of_nobody() -> Scene {
    require_root();
    let scene = Scene::lab();
    sh(scene.base(), "chown -R nobody . && cp $OCTROI octroi && chmod 755 octroi").ok();
    scene
}

/// In a mount namespace of its own, with a /dev/fuse that everybody may open: as nobody.
const AS_NOBODY: &str = "mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 && \
    mount --bind /mnt/fuse /dev/fuse && \
    as() { setpriv --reuid=nobody --regid=nogroup --clear-groups env XDG_RUNTIME_DIR=$PWD HOME=$PWD \"$@\"; }";

#[test]
fn a_user_without_fusermount_is_told_so() {
    let scene = of_nobody();
    let script = format!(
        "{AS_NOBODY}; mount --bind view.toml $(readlink -f $(command -v fusermount3)) && \
         as env PATH=/nowhere ./octroi mount view.toml mnt"
    );
    let said = elsewhere(&scene, &script);
    assert!(said.contains("fusermount"), "{said}");
}

#[test]
fn allow_other_that_fuse_conf_refuses_is_explained() {
    let scene = of_nobody();
    let script = format!(
        "{AS_NOBODY}; mount --bind /dev/null /etc/fuse.conf && \
         as ./octroi mount view.toml mnt -o allow_other"
    );
    let said = elsewhere(&scene, &script);
    assert!(said.contains("user_allow_other") || said.contains("fuse.conf"), "{said}");
}

#[test]
fn a_user_mounts_for_themselves() {
    let scene = of_nobody();
    let script = format!(
        "set -e; {AS_NOBODY}; as ./octroi mount view.toml mnt
         trap \"fusermount3 -uz mnt\" EXIT
         as bash -c \"cd mnt; echo mine >inbox/f; mv inbox/f review/f; cat review/f\"
         as bash -c \"cd mnt; ../octroi undo; cat inbox/f\"
         ls mnt 2>/dev/null && exit 9; as ./octroi umount mnt; trap - EXIT
         stat -c %U branches/inbox/f"
    );
    let script = format!("unshare -m --propagation private bash -c '{script}'");
    let seen = sh(scene.base(), &script).ok();
    assert!(seen.starts_with("mine\n") && seen.ends_with("mine\nnobody\n"), "{seen}");
}
