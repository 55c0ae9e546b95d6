//! Attempts to get out of a branch. Each must fail, read nothing of what lies beside the branches and
//! change neither that nor the branch. In modules by the way that is tried.
//!
//! Links are read by whoever follows them, in their own name: a caller's own rights prove nothing of
//! the daemon. So what lies outside is where callers cannot follow to: beside the branches, in the
//! closed folder (ordinary users), by texts that lead there from the branch and nowhere from the mount
//! (everybody).

mod capabilities;
mod links;
mod mounts;
mod names;
mod private;
mod races;
mod rights;
mod secrets;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Mount, Scene, sh};

/// What nobody may get to see.
const SECRET: &str = "the-content-of-what-lies-outside";

/// A branch, a gates-only one with gates both ways, and a pool of two.
const VIEW: &str = r#"
[branches.inbox]
path = "branches/inbox"
[branches.review]
path = "branches/review"
mode = "gates-only"
[branches.disk1]
path = "branches/disk1"
[branches.disk2]
path = "branches/disk2"
[pools.pool]
members = ["disk1", "disk2"]
place = "first"
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
[gates.recall]
from = "review"
to = "inbox"
who = ["*"]
[gates.pooled]
from = "inbox"
to = "pool"
who = ["*"]
"#;

const BRANCHES: [&str; 4] = ["inbox", "review", "disk1", "disk2"];

/// The folder `vault` and the file `secret` beside the branches.
struct Outside {
    folder: PathBuf,
    before: String,
}

/// Of every entry below a folder all that stat(2) says, without reading any. Directories are read to
/// list them, so their times of last read are left out.
fn facts(folder: &Path, names: &str) -> String {
    let script = format!(
        "find {names} \\( -type d -printf '%p %y %m %u %g %n %T@ %C@\\n' \\) -o \
         -printf '%p %y %m %u %g %n %s %l %A@ %T@ %C@\\n' | sort"
    );
    sh(folder, &script).ok()
}

impl Outside {
    fn new(scene: &Scene) -> Self {
        let folder = scene.base().join("branches");
        let plant = format!(
            "mkdir -m 777 vault vault/inner; echo {SECRET} | tee secret vault/canary >vault/victim; \
             chmod 666 secret vault/*; chmod 777 vault/inner; touch -d '2001-02-03 04:05:06' secret vault/canary"
        );
        sh(&folder, &plant).ok();
        let before = facts(&folder, "secret vault");
        Self { folder, before }
    }

    /// A text that leads from a folder of a branch at this depth (0: its root) to what is outside.
    fn from_depth(depth: usize, name: &str) -> String {
        "../".repeat(depth + 1) + name
    }

    #[track_caller]
    fn untouched(&self) {
        assert_eq!(facts(&self.folder, "secret vault"), self.before, "outside (left: now)");
        let text = fs::read_to_string(self.folder.join("vault/canary")).expect("read");
        assert_eq!(text.trim(), SECRET);
    }
}

/// Content and attributes of all branches as the view may change them.
fn digest(scene: &Scene) -> String {
    // Not into what a test mounts inside a branch (`mounts`): that is outside.
    let kept = "find . \\( -name .octroi -o -name vault -o -name bound -o -name memory -o -name self \
                -o -name file -o -name secret \\) -prune -o";
    let script = format!(
        "{kept} -mindepth 2 -printf '%p %y %m %u %g %n %s %l %T@\\n' 2>/dev/null | sort; \
         {kept} -type f -print0 | sort -z | xargs -0 -r sha256sum; \
         {kept} -print0 | xargs -0 -r getfattr -hd -m '^user' 2>/dev/null; true"
    );
    let script = script.as_str();
    sh(&scene.base().join("branches"), script).ok()
}

/// Who tries.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Root,
    User,
}

const EVERYBODY: [Who; 2] = [Who::Root, Who::User];

/// Runs its argument, and says if that did not fail (127: there is no such command), or showed the secret.
const TRY: &str = r#"
try() {
    said=$(eval "$1" 2>&1 </dev/null)
    code=$?
    case $code in 0|124|127) echo "$1: it ended with $code: $said";; esac
    case $said in *the-content-of-what-lies-outside*) echo "$1: it was read";; esac
}
"#;

/// Everything there, and how it was.
struct Trial<'a> {
    scene: &'a Scene,
    mount: &'a Mount,
    outside: &'a Outside,
    before: String,
}

impl<'a> Trial<'a> {
    fn new(scene: &'a Scene, mount: &'a Mount, outside: &'a Outside) -> Self {
        Self { scene, mount, outside, before: digest(scene) }
    }

    /// Runs scripts in the root of the mount. Each must fail, and show nothing.
    #[track_caller]
    fn fails(&self, who: &[Who], attempts: &[String]) {
        for who in who {
            // Many in one shell: they are thousands.
            for attempts in attempts.chunks(400) {
                let quoted = attempts.iter().map(|attempt| attempt.replace('\'', "'\\''"));
                let script: String = quoted.map(|attempt| format!("try '{attempt}'\n")).collect();
                let script = format!("{TRY}{script}echo end");
                let ended = match who {
                    Who::Root => self.mount.sh(&script),
                    Who::User => self.mount.sh_as("nobody", &script),
                };
                assert_eq!((ended.code, ended.out.as_str()), (Some(0), "end\n"), "{}", ended.err);
            }
        }
    }

    /// Nothing has changed, and the daemon serves.
    #[track_caller]
    fn end(self) {
        self.outside.untouched();
        assert_eq!(digest(self.scene), self.before, "the branches (left: now)");
        self.mount.sh("echo alive >inbox/alive && rm inbox/alive").ok();
        let log = fs::read_to_string(self.scene.base().join("daemon.log")).expect("a log");
        assert!(!log.contains("a thread failed"), "{log}");
    }
}

/// Something to work on in a branch or pool, everybody's.
fn furnish(folder: &Path) {
    sh(
        folder,
        "umask 0; mkdir -p d/e sub; echo mine >f; echo inner >d/g; echo deep >d/e/h; chmod 777 . d d/e sub",
    )
    .ok();
}

/// A view of [`VIEW`] with what is outside, furnished.
fn furnished() -> (Scene, Outside) {
    let scene = Scene::with(&BRANCHES, VIEW);
    let outside = Outside::new(&scene);
    for branch in ["inbox", "review", "disk1"] {
        furnish(&scene.branch(branch));
    }
    (scene, outside)
}

fn replaced(attempts: &[&str], pattern: &str, by: &[&str]) -> Vec<String> {
    let each = |by: &&str| {
        let by = (*by).to_owned();
        attempts.iter().map(move |attempt| attempt.replace(pattern, &by))
    };
    by.iter().flat_map(each).collect()
}

/// The suite must be able to fail: what looks whether something was touched sees every touch.
#[test]
fn what_looks_for_a_touch_sees_each() {
    let (scene, outside) = furnished();
    outside.untouched();
    let branches = scene.base().join("branches");
    let seen = |script: &str| {
        let before = facts(&branches, "secret vault");
        sh(&branches, script).ok();
        facts(&branches, "secret vault") != before
    };
    assert!(!seen("ls -l secret vault"), "a look");
    for touch in [
        "cat secret",
        "cat vault/victim",
        "touch vault/new",
        "rm vault/new",
        "chmod 600 secret",
        "ln secret hard",
        "rm hard",
        "setfattr -n user.x -v y secret",
        "echo x >>vault/victim",
        "mv vault/victim vault/other",
        "rmdir vault/inner",
    ] {
        assert!(seen(touch), "{touch}");
    }
    let before = digest(&scene);
    for touch in ["echo x >>inbox/f", "touch disk1/d/new", "chmod 700 inbox/d", "rm review/f"] {
        sh(&branches, touch).ok();
        assert_ne!(digest(&scene), before, "{touch}");
    }
    let closed = fs::metadata(&branches).expect("stat").permissions().mode() & 0o777;
    assert_eq!(closed, 0o700, "ordinary users cannot follow a link to what is outside");
}
