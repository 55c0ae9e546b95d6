//! What is mounted inside a branch belongs to another file system: it is shown as a name and denied.

use std::path::PathBuf;
use std::process::Command;

use super::{EVERYBODY, Outside, Trial, VIEW, furnish};
use crate::disk::Disk;
use crate::harness::{Scene, require_root, sh};

/// Mounts inside branches, taken away when dropped.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    /// `vault` and a tmpfs on folders of a branch, `secret` on a file, another folder of the branch on
    /// one of its folders, and one below a tree.
    fn inside(branch: &std::path::Path) -> Self {
        require_root();
        let targets = ["bound", "memory", "file", "self", "t/deep/bound"];
        let script = "umask 0; mkdir -p bound memory self t/deep/bound; echo under >file; echo under >bound/under; \
                      mount --bind ../vault bound && mount -t tmpfs -o mode=777 octroi-test memory && \
                      mount --bind ../secret file && mount --bind d self && \
                      mount --bind ../vault t/deep/bound";
        let mounted = Self(targets.iter().map(|target| branch.join(target)).collect());
        sh(branch, script).ok();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for target in self.0.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(target).status();
        }
    }
}

/// `M` is a mount point.
const ATTEMPTS: [&str; 31] = [
    "ls M",
    "ls M/",
    "cat M/canary",
    "cat M",
    "cd M && ls",
    "stat M",
    "stat M/canary",
    "touch M",
    "touch M/new",
    "echo x >M/new",
    "echo x >>M",
    "mkdir M/new",
    "mkdir M",
    "mkfifo M/new",
    "ln -sT x M",
    "ln P/f M/new",
    "ln M/canary P/got",
    "ln M P/got",
    "mv P/f M/new",
    "mv -T P/f M",
    "mv -T P/d M",
    "mv -T M P/got",
    "mv M/canary P/got",
    "rm M/canary",
    "rm M",
    "rm -r M",
    "rmdir M",
    "chmod 700 M",
    "setfattr -n user.x -v y M",
    "$OCTROI mv P/f M/new",
    "$OCTROI mv -T M P/got",
];

#[track_caller]
fn is_not_entered(other_disk: bool, before_the_view: bool) {
    let scene = Scene::with(&super::BRANCHES, VIEW);
    let outside = Outside::new(&scene);
    let disk = other_disk.then(|| Disk::tmpfs(&scene, "review", "80M"));
    furnish(&scene.branch("inbox"));
    furnish(&scene.branch("disk1"));
    let (mounted, mount);
    if before_the_view {
        mounted = ["inbox", "disk1"].map(|branch| Mounted::inside(&scene.branch(branch)));
        mount = scene.mount();
    } else {
        mount = scene.mount();
        // The kernel may know the names already.
        mount.sh("ls -lR inbox pool >/dev/null; stat inbox/d/g").ok();
        mounted = ["inbox", "disk1"].map(|branch| Mounted::inside(&scene.branch(branch)));
    }
    let trial = Trial::new(&scene, &mount, &outside);
    for point in ["bound", "memory", "file", "self", "t/deep/bound"] {
        for place in ["inbox", "pool"] {
            let point = format!("{place}/{point}");
            let attempts: Vec<String> = ATTEMPTS
                .iter()
                .map(|attempt| attempt.replace('P', place).replace('M', &point))
                .collect();
            trial.fails(&EVERYBODY, &attempts);
        }
    }
    // A tree that has one below it crosses as little, by either way.
    let tree = [
        "mv inbox/t review/t",
        "mv inbox/t pool/t2",
        "$OCTROI mv inbox/t review/t",
        "mv inbox/t inbox/self/t",
    ];
    for attempt in tree {
        let ended = mount.sh(attempt);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(ended.code.is_some_and(|code| code != 0 && code != 124), "{attempt}: {said}");
        assert!(
            said.contains("Permission denied") || said.contains("mount point"),
            "{attempt}: mv must not copy and delete: {said}"
        );
    }
    trial.end();
    // The names are there, the rest of the branch is as usable as ever.
    let listed =
        mount.sh("ls -1 inbox; cat inbox/d/g; echo x >inbox/t/deep/n; rm inbox/t/deep/n").ok();
    for name in ["bound", "memory", "file", "self", "inner"] {
        assert!(listed.contains(name), "{listed}");
    }
    mount.unmount();
    drop(mounted);
    let under = sh(&scene.branch("inbox"), "cat file bound/under; ls memory").ok();
    assert_eq!(under, "under\nunder\n", "what lies below them is as it was");
    drop(disk);
}

#[test]
fn what_was_mounted_inside_a_branch_before_is_not_entered() {
    is_not_entered(false, true);
}

#[test]
fn what_is_mounted_inside_a_branch_meanwhile_is_not_entered() {
    is_not_entered(true, false);
}

/// A folder bound to the other case of its name is what a case-insensitive file system makes of it.
#[test]
fn a_branch_that_takes_another_case_for_the_same_name_is_refused() {
    require_root();
    let body =
        ["inbox", "empty"].map(|name| format!("[branches.{name}]\npath = \"branches/{name}\"\n"));
    let body = body.concat();
    let scene = Scene::with(&["inbox", "empty"], &body);
    scene.mount().unmount();
    let bind = |branch: &str, one: &str, other: &str| {
        let branch = scene.branch(branch);
        sh(&branch, &format!("mkdir -p {one} {other} && mount --bind {one} {other}")).ok();
        Mounted(vec![branch.join(other)])
    };
    for (branch, one, other) in [("inbox", ".octroi", ".OCTROI"), ("empty", "dAtA.1", "DaTa.1")] {
        let bound = bind(branch, one, other);
        let refused = scene.mount_refused(&[]).err;
        assert!(refused.contains(&format!("branch {branch}: ")), "{refused}");
        assert!(refused.contains(&format!("{one} and {other} are one")), "{refused}");
        drop(bound);
        scene.mount().unmount();
    }
    // Nothing is left in one that was never mounted.
    let fresh = Scene::with(&["inbox", "empty"], &body);
    let branch = fresh.branch("empty");
    sh(&branch, "mkdir one ONE && mount --bind one ONE").ok();
    let _bound = Mounted(vec![branch.join("ONE")]);
    assert!(fresh.mount_refused(&[]).err.contains("one and ONE are one"));
    assert!(!branch.join(".octroi").exists());
}
