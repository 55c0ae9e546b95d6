//! Policy through the mount: what is denied fails with the right error and has no effect at all.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::harness::{Mount, Scene, require_root, sh};

/// Everything that tells one tree from another, content included.
pub fn fingerprint(scene: &Scene, branch: &str) -> String {
    let script = "find . -mindepth 1 -path ./.octroi -prune -o -printf '%P %y %m %u %g %s %l %T@\\n' | sort; \
                  find . -path ./.octroi -prune -o -type f -print0 | sort -z | xargs -0 -r sha256sum; \
                  getfattr -Rhd -m '^user' . 2>/dev/null";
    sh(&scene.base().join("branches").join(branch), script).ok()
}

#[track_caller]
fn refused<T>(what: &str, result: rustix::io::Result<T>, errno: Errno) {
    assert_eq!(result.err(), Some(errno), "{what}");
}

fn open(mount: &Mount, path: &str, flags: OFlags) -> rustix::io::Result<std::os::fd::OwnedFd> {
    rustix::fs::open(mount.path(path), flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
}

/// A branch with a bit of everything, and `rw`, from where things could come.
fn furnished(body: &str) -> Scene {
    let scene = Scene::with(&["guarded", "rw"], body);
    let fill = "echo content >f; chmod 644 f; mkdir d; echo inner >d/g; ln -s f l; \
                setfattr -n user.a -v one f; mkdir empty; cp /bin/true run";
    sh(&scene.branch("guarded"), fill).ok();
    sh(&scene.branch("rw"), "echo outside >o").ok();
    scene
}

/// Every change of content or of a name that a gates-only branch refuses.
const CONTENT_CHANGES: [&str; 14] = [
    "echo x >guarded/new",
    "mkfifo guarded/p",
    "ln -s f guarded/s",
    "ln guarded/f guarded/h",
    "echo x >>guarded/f",
    "echo x >guarded/f",
    ": >guarded/f",
    "truncate -s 0 guarded/f",
    "fallocate -l 100 guarded/f",
    "cp rw/o guarded/o",
    "mv rw/o guarded/o",
    "cp --reflink=never rw/o guarded/f",
    "setfattr -n user.b -v x guarded/f",
    "dd if=rw/o of=guarded/f conv=notrunc status=none",
];

/// Changes that a gates-only branch leaves to the rules.
const OTHER_CHANGES: [&str; 8] = [
    "mkdir guarded/newdir",
    "mv guarded/f guarded/renamed",
    "mv guarded/renamed guarded/f",
    "chmod 600 guarded/f",
    "chown daemon guarded/f",
    "touch -d 2001-01-01 guarded/f",
    "rm guarded/f",
    "rmdir guarded/empty",
];

#[test]
fn a_read_only_branch_refuses_every_change() {
    require_root();
    let body = "[branches.guarded]\npath = \"branches/guarded\"\nmode = \"ro\"\n\
                [branches.rw]\npath = \"branches/rw\"\n";
    let scene = furnished(body);
    let before = fingerprint(&scene, "guarded");
    let mount = scene.mount();
    for change in CONTENT_CHANGES.iter().chain(&OTHER_CHANGES) {
        if *change == "mv guarded/renamed guarded/f" {
            continue;
        }
        let said = mount.sh(change).refused();
        // A move in needs a gate, whatever the target is.
        let expected = ["Read-only file system", "Permission denied"];
        let moves_in = change.starts_with("mv rw/");
        assert!(
            said.contains(expected[0]) || moves_in && said.contains(expected[1]),
            "{change}: {said}"
        );
    }
    mount.sh("cat guarded/f guarded/d/g guarded/l && guarded/run && ls guarded/d").ok();
    refused("O_TRUNC", open(&mount, "guarded/f", OFlags::RDONLY | OFlags::TRUNC), Errno::ROFS);
    mount.unmount();
    assert_eq!(fingerprint(&scene, "guarded"), before);
    assert!(!scene.branch("guarded").join(".octroi").exists(), "a ro branch was written to");
}

#[test]
fn a_gates_only_branch_refuses_content_but_not_housekeeping() {
    require_root();
    let body = "[branches.guarded]\npath = \"branches/guarded\"\nmode = \"gates-only\"\n\
                [branches.rw]\npath = \"branches/rw\"\n";
    let scene = furnished(body);
    let before = fingerprint(&scene, "guarded");
    let mount = scene.mount();
    for change in CONTENT_CHANGES {
        let said = mount.sh(change).refused();
        assert!(said.contains("Permission denied"), "{change}: {said}");
    }
    let writable = OFlags::RDWR;
    refused("read-write", open(&mount, "guarded/f", writable), Errno::ACCESS);
    refused("trunc", open(&mount, "guarded/f", OFlags::RDONLY | OFlags::TRUNC), Errno::ACCESS);
    let reader = File::open(mount.path("guarded/f")).expect("reading is allowed");
    let grow = rustix::fs::fallocate(&reader, FallocateFlags::empty(), 0, 10);
    refused("fallocate of a reader", grow, Errno::BADF);
    drop(reader);
    assert_eq!(fingerprint(&scene, "guarded"), before, "something was changed by what was denied");
    for change in OTHER_CHANGES {
        mount.sh(change).ok();
    }
    mount.unmount();
    assert!(!scene.branch("guarded").join("f").exists());
}

const RULES: &str = r#"
[branches.guarded]
path = "branches/guarded"
[branches.rw]
path = "branches/rw"
[roles]
guests = ["user:nobody", "group:games"]
[rules.no-scripts]
deny = ["add"]
who = ["*"]
paths = ["/guarded/**/*.sh"]
reason = "scripts do not belong here"
[rules.guests-only-look]
deny = ["write", "add", "remove", "attrs"]
who = ["guests"]
paths = ["/guarded/**"]
reason = "guests only look"
[rules.private]
deny = ["open-read"]
who = ["user:daemon"]
paths = ["/guarded/d/**"]
reason = "not for daemons"
[rules.no-truncate]
deny = ["truncate"]
who = ["*"]
paths = ["/guarded/f"]
reason = "the log only grows"
"#;

#[test]
fn rules_deny_by_name_of_the_new_entry() {
    let scene = furnished(RULES);
    let mount = scene.mount();
    for attempt in [
        "echo x >guarded/a.sh",
        "mkdir guarded/d.sh",
        "ln -s f guarded/l.sh",
        "ln guarded/f guarded/h.sh",
        "mv guarded/f guarded/f.sh",
        "mkfifo guarded/d/p.sh",
    ] {
        assert!(mount.sh(attempt).refused().contains("Permission denied"), "{attempt}");
    }
    assert_eq!(mount.sh("find guarded -name '*.sh' | wc -l").ok().trim(), "0");
    mount.sh("echo x >guarded/a.txt; echo x >rw/a.sh; cat guarded/f").ok();
    mount.unmount();
}

#[test]
fn rules_deny_by_user_and_by_group() {
    let scene = furnished(RULES);
    let mount = scene.mount();
    mount.sh("chmod -R a+rwX guarded rw").ok();
    let before = fingerprint(&scene, "guarded");
    for user in ["nobody", "games"] {
        for change in [
            "echo x >guarded/new",
            "echo x >>guarded/f",
            "rm guarded/d/g",
            "rmdir guarded/empty",
            "mkdir guarded/n",
            "mv guarded/d guarded/e",
            "touch guarded/f",
        ] {
            let said = mount.sh_as(user, change).refused();
            assert!(said.contains("Permission denied"), "{user}: {change}: {said}");
        }
        mount.sh_as(user, "cat guarded/f guarded/d/g; echo x >rw/of-$(id -un)").ok();
    }
    assert_eq!(fingerprint(&scene, "guarded"), before);
    assert!(mount.sh_as("daemon", "cat guarded/d/g").refused().contains("Permission denied"));
    mount.sh_as("daemon", "ls guarded/d && cat guarded/f && echo x >>guarded/d/g").ok();
    mount.unmount();
}

#[test]
fn a_denied_truncate_truncates_nothing_by_any_way() {
    let scene = furnished(RULES);
    let mount = scene.mount();
    let file = mount.path("guarded/f");
    refused("O_TRUNC", open(&mount, "guarded/f", OFlags::WRONLY | OFlags::TRUNC), Errno::ACCESS);
    let writer = OpenOptions::new().write(true).open(&file).expect("writing is allowed");
    let denied = writer.set_len(0).expect_err("truncation is denied");
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert!(mount.sh("truncate -s 1 guarded/f").refused().contains("Permission denied"));
    assert!(mount.sh("echo y >guarded/f").refused().contains("Permission denied"));
    assert_eq!(fs::read_to_string(&file).expect("read"), "content\n");
    mount.sh("echo more >>guarded/f").ok();
    assert_eq!(fs::read_to_string(&file).expect("read"), "content\nmore\n");
    drop(writer);
    mount.unmount();
}

#[test]
fn deny_wins_over_allow_whatever_the_order() {
    let both = |first: &str, second: &str| {
        let rule = |kind: &str| match kind {
            "allow" => "[rules.yes]\nallow = [\"add\"]\nwho = [\"*\"]\npaths = [\"/rw/x*\"]\n",
            _ => {
                "[rules.no]\ndeny = [\"create\"]\nwho = [\"*\"]\npaths = [\"/rw/*y\"]\nreason = \"no\"\n"
            }
        };
        format!("[branches.rw]\npath = \"branches/rw\"\n{}{}", rule(first), rule(second))
    };
    for body in [both("allow", "deny"), both("deny", "allow")] {
        let scene = Scene::with(&["rw"], &body);
        let mount = scene.mount();
        mount.sh("touch rw/x").ok();
        assert!(mount.sh("touch rw/xy").refused().contains("Permission denied"));
        mount.unmount();
    }
}

#[test]
fn within_deny_allows_only_what_rules_allow() {
    let body = r#"
[branches.rw]
path = "branches/rw"
[policy]
within = "deny"
[rules.readers]
allow = ["read"]
who = ["*"]
[rules.drop-box]
allow = ["add", "write"]
who = ["user:nobody"]
paths = ["/rw/drop/**"]
"#;
    let scene = Scene::with(&["rw"], body);
    sh(&scene.branch("rw"), "mkdir -m 777 drop; echo x >f; chmod 666 f").ok();
    let mount = scene.mount();
    mount.sh("ls rw; cat rw/f").ok();
    for attempt in ["touch rw/new", "rm rw/f", "chmod 600 rw/f", "echo y >>rw/f", "touch rw/drop/x"]
    {
        assert!(mount.sh(attempt).refused().contains("Permission denied"), "{attempt}");
    }
    mount.sh_as("nobody", "echo mine >rw/drop/mine && cat rw/drop/mine").ok();
    assert!(mount.sh_as("nobody", "rm -f rw/drop/mine").refused().contains("Permission denied"));
    mount.unmount();
}

#[test]
fn folders_that_no_branch_provides_are_virtual() {
    let body = "[branches.deep]\npath = \"branches/deep\"\nat = \"/a/b/deep\"\n\
                [branches.top]\npath = \"branches/top\"\nat = \"/top\"\n";
    let scene = Scene::with(&["deep", "top"], body);
    let mount = scene.mount();
    assert_eq!(mount.sh("ls -A . a a/b").ok(), ".:\na\ntop\n\na:\nb\n\na/b:\ndeep\n");
    assert_eq!(
        mount.sh("stat -c '%U %G %a %F' . a a/b").ok(),
        "root root 755 directory\n".repeat(3)
    );
    mount.sh("echo x >a/b/deep/f").ok();
    for attempt in [
        "touch f",
        "mkdir a/x",
        "rmdir a/b",
        "mv a z",
        "rmdir top",
        "ln -s x a/l",
        "chmod 777 a",
        "mv a/b/deep a/b/other",
        "mv top/ a/top",
        "mkfifo p",
        "chown nobody .",
        "rm -rf a/b/deep",
    ] {
        mount.sh(attempt).refused();
    }
    assert_eq!(mount.sh("ls -A . a a/b").ok(), ".:\na\ntop\n\na:\nb\n\na/b:\ndeep\n");
    mount.unmount();
}

#[test]
fn one_branch_may_sit_at_the_root_with_others_below() {
    let body = "[branches.base]\npath = \"branches/base\"\nat = \"/\"\n\
                [branches.deep]\npath = \"branches/deep\"\nat = \"/x/deep\"\n";
    let scene = Scene::with(&["base", "deep"], body);
    sh(&scene.branch("base"), "mkdir -p x y; echo base >f").ok();
    let mount = scene.mount();
    mount.sh("cat f; echo deep >x/deep/g; mkdir y/z; echo x >y/z/w").ok();
    assert!(scene.branch("deep").join("g").exists());
    assert!(scene.branch("base").join("y/z/w").exists());
    assert!(mount.sh("mv f x/deep/f").refused().contains("Permission denied"));
    assert!(mount.sh("rmdir x/deep").refused().contains("rmdir"));
    mount.sh("touch x/deep/.octroi-like").ok();
    mount.unmount();
}

#[test]
fn the_private_folder_does_not_exist_for_the_view() {
    let scene = Scene::lab();
    let mount = scene.mount();
    assert!(scene.branch("inbox").join(".octroi/id").exists(), "the branch was adopted");
    for branch in ["inbox", "review"] {
        assert!(!mount.sh(&format!("ls -A {branch}")).ok().contains(".octroi"));
        assert!(!mount.sh(&format!("find {branch}")).ok().contains(".octroi"));
        for attempt in [
            "ls B/.octroi",
            "cat B/.octroi/id",
            "stat B/.octroi",
            "touch B/.octroi",
            "mkdir B/.octroi",
            "rm -r B/.octroi",
            "ln -s x B/.octroi",
            "mv B/.octroi B/x",
            "mkfifo B/.octroi",
            "ls B/../B/./.octroi/hold",
            "mkdir B/d; mv B/d B/.octroi",
            "ln -s .octroi B/l; cat B/l/id",
            "touch B/f; ln B/f B/.octroi",
            "touch B/g; mv --exchange B/g B/.octroi",
        ] {
            mount.sh(&attempt.replace('B', branch)).refused();
        }
    }
    // The name means something only at a branch's root.
    mount.sh("mkdir -p inbox/deep/.octroi && echo x >inbox/deep/.octroi/f").ok();
    let state = sh(&scene.branch("inbox"), "ls -A .octroi; stat -c %a .octroi").ok();
    assert!(state.contains("id") && state.contains("700"), "{state}");
    mount.unmount();
}

#[test]
fn the_audit_folder_is_read_only_unlisted_and_roots() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    assert!(!mount.sh("ls -A; find . -maxdepth 1").ok().contains(".audit"));
    let listed = mount.sh("ls -A .audit .audit/tx .audit/branches").ok();
    for name in ["README", "log.jsonl", "denied.jsonl", "stats", "version", "active", "inbox.json"]
    {
        assert!(listed.contains(name), "{name} is not in {listed}");
    }
    mount
        .sh("cat .audit/README .audit/version .audit/stats; jq -e . .audit/branches/inbox.json")
        .ok();
    for attempt in [
        "echo x >.audit/new",
        "echo x >>.audit/log.jsonl",
        "rm .audit/log.jsonl",
        "mkdir .audit/d",
        "mv .audit/README inbox/",
        "mv inbox/f .audit/",
        "ln .audit/README .audit/r",
        "rm -r .audit",
        "ln -s x .audit/l",
        "mv .audit inbox/a",
        "truncate -s 0 .audit/log.jsonl",
        "setfattr -n user.x -v y .audit/README",
        "chmod 777 .audit",
        "chown nobody .audit/log.jsonl",
        "touch .audit/stats",
        "mkdir inbox/d; mv inbox/d .audit",
        "rmdir .audit",
        "mkfifo .audit/p",
    ] {
        mount.sh(attempt).refused();
    }
    for attempt in ["ls .audit", "cat .audit/log.jsonl", "cat .audit/README", "ls .audit/tx"] {
        assert!(
            mount.sh_as("nobody", attempt).refused().contains("Permission denied"),
            "{attempt}"
        );
    }
    mount.unmount();
}

#[test]
fn what_was_denied_and_what_was_done_is_in_the_ledger() {
    let scene = furnished(RULES);
    let mount = scene.mount();
    mount.sh_as("nobody", "echo x >guarded/new").refused();
    mount.sh("mkdir rw/made; echo data >rw/made/f; chmod 600 rw/made/f; rm rw/made/f").ok();
    mount.sh("sleep 1.2").ok();
    let denied = mount.sh("jq -s . .audit/denied.jsonl").ok();
    let denied: Vec<serde_json::Value> = serde_json::from_str(&denied).expect("JSON");
    let record = denied
        .iter()
        .find(|line| line["path"] == "/guarded/new")
        .unwrap_or_else(|| panic!("not in {denied:?}"));
    assert_eq!(record["decision"], "denied");
    assert_eq!(record["rule"], "guests-only-look");
    assert_eq!(record["result"], "EACCES");
    assert_eq!(record["uid"], 65534);
    let reason = record["reason"].as_str().expect("a reason");
    assert!(reason.contains("guests only look"), "{reason}");
    let ledger = mount.ledger();
    let done = |op: &str, path: &str| {
        ledger.iter().any(|line| line["op"] == op && line["path"] == path && line["result"] == "ok")
    };
    for (op, path) in [
        ("mkdir", "/rw/made"),
        ("create", "/rw/made/f"),
        ("chmod", "/rw/made/f"),
        ("unlink", "/rw/made/f"),
    ] {
        assert!(done(op, path), "no record of {op} {path}");
    }
    let sequence: Vec<_> = ledger.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(sequence.len(), ledger.len(), "a line without seq");
    assert!(sequence.windows(2).all(|pair| pair[1] == pair[0] + 1), "seq has a gap");
    mount.unmount();
}

#[test]
fn who_may_have_written_by_passthrough_is_in_the_ledger() {
    require_root();
    let scene =
        Scene::with(&["fast"], "[branches.fast]\npath = \"branches/fast\"\nio = \"passthrough\"\n");
    sh(&scene.branch("fast"), "echo one >f").ok();
    let mount = scene.mount();
    mount.sh("echo two >>fast/f; cat fast/f").ok();
    let opens = |line: &serde_json::Value| line["op"] == "open-write" && line["path"] == "/fast/f";
    assert_eq!(mount.ledger().iter().filter(|line| opens(line)).count(), 1);
    mount.unmount();
}
