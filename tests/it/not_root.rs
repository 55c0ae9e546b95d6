//! Views of an ordinary user, mounted through fusermount3: what works, what does not, and that it is said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::disk::Disk;
use crate::harness::{Ended, LAB, OCTROI, Scene, require_root, run, sh, wait_for};

/// Who mounts.
const USER: &str = "tests";

/// A view of the user's, in a mount namespace of its own with a `/dev/fuse` that is everybody's, as udev
/// makes it and a container may not. With the last process in it all that is mounted there goes.
struct View {
    scene: Scene,
    /// Keeps the namespace; begun with the first mount, so that it has what is mounted by then.
    namespace: OnceLock<Child>,
}

impl View {
    fn new(branches: &[&str], body: &str) -> Self {
        require_root();
        let view = Self { scene: Scene::with(branches, body), namespace: OnceLock::new() };
        view.give();
        view
    }

    /// Gives all of the scene to the user.
    fn give(&self) {
        sh(self.scene.base(), &format!("chown -R {USER} .")).ok();
    }

    fn branches(&self) -> PathBuf {
        self.scene.base().join("branches")
    }

    fn namespace(&self) -> u32 {
        let begin = || {
            let script = "set -e; mknod -m 666 fuse c 10 229; mount --bind fuse /dev/fuse; touch ready; \
                          exec sleep 1000";
            let child = Command::new("unshare")
                .args(["-m", "--propagation", "private", "bash", "-c", script])
                .current_dir(self.scene.base())
                .spawn()
                .expect("unshare starts");
            wait_for("the namespace", || self.scene.base().join("ready").exists());
            child
        };
        self.namespace.get_or_init(begin).id()
    }

    /// A command in the namespace and in the scene's folder, as somebody.
    fn command(&self, who: &str, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.namespace().to_string()]);
        command.args(["setpriv", "--init-groups", "--reuid", who, "--regid"]);
        command.arg(sh(Path::new("/"), &format!("id -g {who}")).ok().trim());
        command.args(["timeout", "-k", "5", "120", "bash", "-c"]);
        command.arg(format!("cd {}; {script}", self.scene.base().display()));
        command.env("OCTROI", OCTROI).env("LC_ALL", "C").env_remove("XDG_RUNTIME_DIR");
        command
    }

    fn run_as(&self, who: &str, script: &str) -> Ended {
        run(&mut self.command(who, script))
    }

    /// Runs a script as the user.
    fn user(&self, script: &str) -> Ended {
        self.run_as(USER, script)
    }

    /// Mounts; what was said on standard error.
    #[track_caller]
    fn mount(&self, options: &str) -> String {
        let ended = self.user(&format!("$OCTROI mount view.toml mnt {options}"));
        let said = ended.err.clone();
        ended.ok();
        said
    }

    /// The line of the mount in the namespace's table.
    fn line(&self) -> Option<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.namespace()));
        let table = table.expect("mountinfo is readable");
        let mountpoint = self.scene.mountpoint().display().to_string();
        table.lines().find(|line| line.split(' ').nth(4) == Some(&mountpoint)).map(str::to_owned)
    }

    fn daemon(&self) -> Pid {
        let text = fs::read_to_string(self.scene.state().join("lock")).expect("the lock");
        Pid::from_raw(text.trim().parse().expect("a number")).expect("a process")
    }

    #[track_caller]
    fn unmount(&self) {
        self.user("$OCTROI umount mnt").ok();
        assert_eq!(self.line(), None);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scene.state().join("octroi.log")).expect("a log")
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let Some(mut child) = self.namespace.take() else { return };
        if thread::panicking() {
            eprintln!("--- log ---\n{}", self.log());
        }
        // The daemon, if it still serves, ends with its mount.
        let mountpoint = self.scene.mountpoint().display().to_string();
        let pid = child.id().to_string();
        let _ =
            Command::new("nsenter").args(["-m", "-t", &pid, "umount", "-l", &mountpoint]).output();
        let _ = child.kill();
        let _ = child.wait();
        let lock = fs::File::open(self.scene.state().join("lock"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let free = lock.as_ref().is_ok_and(|lock| {
                rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared).is_ok()
            });
            if free || lock.is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

const POOLED: &str = r#"
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
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
[gates.shelve]
from = "inbox"
to = "pool"
who = ["*"]
[rules.no-scripts]
deny = ["add"]
who = ["*"]
paths = ["/inbox/**/*.sh"]
reason = "no scripts"
"#;

const ALL: [&str; 4] = ["inbox", "review", "disk1", "disk2"];

#[test]
fn all_that_needs_no_root_works_without() {
    for other_disk in [false, true] {
        let view = View::new(&ALL, POOLED);
        let disks = ["review", "disk2"]
            .map(|name| other_disk.then(|| Disk::tmpfs(&view.scene, name, "80M")));
        view.give();
        view.mount("");
        let work = |script: &str| view.user(&format!("set -e; cd mnt; {script}"));
        work("umask 022; echo one >inbox/f; cat inbox/f; mkdir -p inbox/d/e; cp /bin/true inbox/d/run; inbox/d/run; \
              ln inbox/f inbox/h; ln -s f inbox/l; cat inbox/l; mkfifo inbox/p; chmod 640 inbox/f; \
              touch -d '2001-02-03 04:05:06.123456789' inbox/f; setfattr -n user.a -v b inbox/f; getfattr -n user.a inbox/f; \
              setfacl -m u:nobody:r inbox/f; getfacl inbox/f | grep nobody; truncate -s 100k inbox/big; \
              mv inbox/h inbox/g; rm inbox/g inbox/p inbox/l; ls -l inbox; \
              [ \"$(stat -c '%U %a' inbox/d)\" = 'tests 755' ]")
            .ok();
        // Open and unlinked, mapped, locked.
        work("exec 3<>inbox/open; rm inbox/open; echo kept >&3; cat /proc/self/fd/3 | grep kept; flock inbox/f true; \
              /usr/bin/python3 -c 'import mmap; f = open(\"inbox/big\", \"r+b\"); m = mmap.mmap(f.fileno(), 100); m[0] = 65; m.flush()'; \
              head -c1 inbox/big | grep A")
            .ok();
        // Crossings of a file and a tree, considerate or not, and back.
        work("before=$(stat -c '%U %a %y %s' inbox/f; getfacl inbox/f | tail -n +2; getfattr -d inbox/f | tail -n +2); mv inbox/f review/f; \
              [ \"$(stat -c '%U %a %y %s' review/f; getfacl review/f | tail -n +2; getfattr -d review/f | tail -n +2)\" = \"$before\" ]; \
              mv inbox/d review/d; review/d/run; $OCTROI undo; ls inbox/d/e; $OCTROI mv inbox/d inbox/big pool/; ls pool/d; \
              $OCTROI undo review/f; cat inbox/f; ! echo x >review/x; ! mv inbox/f nowhere/f")
            .ok();
        // The pool.
        work("mkdir -p pool/a/b; for i in 1 2 3 4; do echo $i >pool/a/b/$i; done; mv pool/a pool/c; cat pool/c/b/*; rm -r pool/c; df pool").ok();
        // Denials, commands, `.audit`.
        work("! echo x >inbox/x.sh; $OCTROI why | grep 'no scripts'; $OCTROI where inbox/f | grep branches/inbox/f; \
              $OCTROI status | grep 'not root' && exit 1; $OCTROI status | grep review; $OCTROI tx list | grep done; $OCTROI explain --as nobody open-read inbox/f; \
              jq -e . .audit/log.jsonl >/dev/null; grep no-scripts .audit/denied.jsonl; cat .audit/stats .audit/README; ls .audit/tx/done | grep json; \
              $OCTROI audit tail -n 3")
            .ok();
        view.unmount();
        let ledger = sh(&view.scene.state(), "cat ledger/*.jsonl").ok();
        assert!(ledger.contains("\"unmounted\"") && !ledger.contains("\"gap\""), "a clean stop");
        assert_eq!(fs::metadata(view.branches().join("inbox/f")).expect("there").uid(), user_id());
        // Signals end it as well.
        view.mount("");
        kill_process(view.daemon(), Signal::TERM).expect("it runs");
        wait_for("the view to be gone", || view.line().is_none());
        drop(view);
        drop(disks);
    }
}

fn user_id() -> u32 {
    sh(Path::new("/"), &format!("id -u {USER}")).ok().trim().parse().expect("a number")
}

#[test]
fn the_ledger_and_crossings_recover_after_kill_9_without_root() {
    let view = View::new(&ALL, POOLED);
    let disk = Disk::tmpfs(&view.scene, "review", "200M");
    view.give();
    let whole = view.user("head -c 40M /dev/urandom >plain/big; sha256sum <plain/big").ok();
    for delay in [0, 40, 150, 400] {
        view.mount("");
        view.user("rm -f mnt/inbox/big mnt/review/big; cp plain/big mnt/inbox/big; echo kept >mnt/inbox/kept").ok();
        let mut mover = view.command(USER, "exec mv mnt/inbox/big mnt/review/big");
        let mut mover = mover.stderr(Stdio::null()).spawn().expect("mv starts");
        thread::sleep(Duration::from_millis(delay));
        let daemon = view.daemon();
        kill_process(daemon, Signal::KILL).expect("it runs");
        let moved = mover.wait().expect("it ends").success();
        wait_for("the daemon to be gone", || test_kill_process(daemon).is_err());
        assert!(view.line().is_some(), "the dead mount is there");
        let said = view.mount("");
        assert!(said.contains("dead mount") && said.contains("did not stop cleanly"), "{said}");
        let found = view
            .user("cat mnt/inbox/kept; cat mnt/inbox/big mnt/review/big 2>/dev/null | sha256sum")
            .ok();
        assert_eq!(found, format!("kept\n{whole}"), "after {delay} ms");
        let at_target = view.user("test -e mnt/review/big").code == Some(0);
        assert!(at_target || !moved, "it was said to have moved");
        view.user("jq -se 'any(.kind == \"gap\")' mnt/.audit/log.jsonl").ok();
        view.unmount();
        let stage = fs::read_dir(view.branches().join("review/.octroi/stage")).expect("stage");
        assert_eq!(stage.count(), 0, "the copy was left");
    }
    drop(view);
    drop(disk);
}

#[test]
fn what_is_different_is_said_once() {
    let body = format!("{LAB}[branches.fast]\npath = \"branches/fast\"\nio = \"passthrough\"\n");
    let view = View::new(&["inbox", "other", "review", "fast"], &body);
    let said = view.mount("-o dev,suid");
    let log = view.log();
    for (what, times) in [
        ("nobody else can enter the view, not even root", 1),
        ("what others own", 1),
        ("found by path, not by file handle", 1),
        ("io = \"passthrough\" (fast) is as \"checked\"", 1),
        ("-o dev and -o suid are for root alone", 1),
        ("not root", 5),
    ] {
        assert_eq!(said.matches(what).count(), times, "{what}: {said}");
        assert_eq!(log.matches(what).count(), times, "{what}: {log}");
    }
    // It is as it was said.
    let line = view.line().expect("it is mounted");
    assert!(
        line.contains("nosuid") && line.contains("nodev") && !line.contains("allow_other"),
        "{line}"
    );
    view.user("for i in $(seq 50); do echo x >mnt/fast/$i; cat mnt/fast/$i; done; ! mknod mnt/inbox/null c 1 3").ok();
    assert_eq!(view.log().matches("not root").count(), 5, "said again");
    view.unmount();
    let said = view.mount("");
    assert!(!said.contains("suid"), "{said}");
    view.unmount();
    // Root is told nothing of it.
    sh(view.scene.base(), "chown -R root .").ok();
    let said = view.run_as("root", "$OCTROI mount view.toml mnt 2>&1; $OCTROI umount mnt").ok();
    assert!(!said.contains("not root"), "{said}");
}

#[test]
fn what_others_own_crosses_within_one_file_system_only() {
    let view = View::new(&ALL, POOLED);
    let disk = Disk::tmpfs(&view.scene, "disk1", "80M");
    let other = Disk::tmpfs(&view.scene, "disk2", "80M");
    view.give();
    let plant = "echo theirs >inbox/theirs; mkdir inbox/t; echo theirs >inbox/t/f; echo closed >inbox/closed; chmod 600 inbox/closed; \
                 echo mine >inbox/t/m; chown tests inbox/t inbox/t/m";
    sh(&view.branches(), plant).ok();
    let digest = || {
        sh(
            &view.branches(),
            "find inbox -mindepth 1 -name .octroi -prune -o -printf '%p %y %m %u %s %T@\\n' | sort",
        )
        .ok()
    };
    let before = digest();
    view.mount("");
    for attempt in [
        "mv mnt/inbox/theirs mnt/pool/",
        "mv mnt/inbox/t mnt/pool/",
        "$OCTROI mv mnt/inbox/theirs mnt/pool/",
        "mv mnt/inbox/closed mnt/review/",
        "mv mnt/inbox/closed mnt/pool/",
    ] {
        let said = view.user(attempt).refused();
        assert!(
            said.contains("not supported")
                || said.contains("ermission denied")
                || said.contains("cannot"),
            "{attempt}: {said}"
        );
    }
    assert_eq!(digest(), before, "what failed has changed something (left: now)");
    assert_eq!(view.user("ls -A mnt/pool mnt/review").ok(), "mnt/pool:\n\nmnt/review:\n");
    view.user("mv mnt/inbox/theirs mnt/review/ && mv mnt/inbox/t mnt/review/ && cat mnt/review/theirs mnt/review/t/f").ok();
    assert_eq!(fs::metadata(view.branches().join("review/theirs")).expect("there").uid(), 0);
    view.user("! chown nobody mnt/review/t/m 2>&1; ! mknod mnt/inbox/n c 1 3 2>&1").ok();
    view.unmount();
    drop(view);
    drop((disk, other));
}

#[test]
fn nobody_else_gets_in_without_allow_other() {
    let view = View::new(&["inbox", "other", "review"], LAB);
    view.mount("");
    view.user("echo secret-of-the-user >mnt/inbox/f; chmod 666 mnt/inbox/f; mv mnt/inbox/f mnt/review/f && (cd mnt && $OCTROI undo) && mkdir -m 777 mnt/inbox/d").ok();
    let before = sh(
        &view.branches(),
        "find . -name .octroi -prune -o -type f -printf '%A@ ' -printf '%p %y %m %u %s %T@ %C@\\n' -o -printf '%p %y %m %u %T@ %C@\\n' | sort",
    )
    .ok();
    for attempt in [
        "ls mnt",
        "cat mnt/inbox/f",
        "stat mnt/inbox",
        "echo x >mnt/inbox/f",
        "touch mnt/inbox/new",
        "mkdir mnt/inbox/d/x",
        "rm mnt/inbox/f",
        "mv mnt/inbox/f mnt/review/f",
        "mv plain mnt/inbox/",
        "cat mnt/.audit/log.jsonl",
        "ls mnt/.octroi",
        "cd mnt",
        "ln -s x mnt/inbox/l",
        "chmod 777 mnt",
        "cp mnt/inbox/f /dev/null",
        "cat mnt/inbox/../inbox/f",
        "ln -sfn $PWD/mnt plain/way && cat plain/way/inbox/f",
    ] {
        for (who, ended) in ["root", "nobody"].map(|who| (who, view.run_as(who, attempt))) {
            assert!(
                ended.code.is_some_and(|code| code != 0 && code != 124),
                "{who}: {attempt}: {ended:?}"
            );
            assert!(!format!("{ended:?}").contains("secret-of-the-user"), "{who}: {attempt}");
        }
    }
    // Nor through the socket, which answers whoever asks.
    let ask = |script: &str| {
        view.run_as("nobody", &format!("cd /; {script} --view {} 2>&1", view.scene.name()))
    };
    for attempt in [
        "$OCTROI status",
        "$OCTROI where /inbox/f",
        "$OCTROI explain --as tests open-read /inbox/f",
        "$OCTROI undo",
        "$OCTROI why",
    ] {
        let ended = ask(attempt);
        assert!(ended.code.is_some_and(|code| code != 0 && code != 124), "{attempt}: {ended:?}");
        assert!(!ended.out.contains("branches/"), "{attempt}: {ended:?}");
    }
    let listed = ask("$OCTROI tx list");
    assert!(!listed.out.contains("/inbox/f"), "{listed:?}");
    let now = sh(
        &view.branches(),
        "find . -name .octroi -prune -o -type f -printf '%A@ ' -printf '%p %y %m %u %s %T@ %C@\\n' -o -printf '%p %y %m %u %T@ %C@\\n' | sort",
    )
    .ok();
    assert_eq!(now, before, "something was touched (left: now)");
    view.user("cat mnt/inbox/f").ok();
    view.unmount();
}

/// Without file handles every inode is found by its path: the swap may come at any step.
#[test]
fn a_directory_swapped_for_a_link_leads_nowhere_without_handles() {
    let view = View::new(&["inbox", "other", "review"], LAB);
    let plant = "cd inbox; for n in 0 1 2 3 4 5 6 7; do mkdir -p d$n; echo inside | tee d$n/canary >d$n/victim; ln -s ../vault l$n; done; \
                 cd ..; mkdir vault; echo outside | tee vault/canary >vault/victim";
    sh(&view.branches(), plant).ok();
    view.give();
    let facts = || {
        sh(&view.branches(), "find vault -type f -printf '%p %m %u %n %s %A@ %T@ %C@\\n' | sort; stat -c '%Y %Z' vault; ls vault").ok()
    };
    let before = facts();
    view.mount("");
    let branch = view.branches().join("inbox");
    let work = r#"end=$((SECONDS + 4)); ok=0
        while [ $SECONDS -lt $end ]; do for n in 0 1 2 3 4 5 6 7; do d=mnt/inbox/d$n
            { echo x >$d/new && ok=$((ok + 1)); mkdir $d/made; mv $d/canary $d/moved; mv $d/moved $d/canary; ln $d/new $d/linked
            echo x >>$d/victim; rm -f $d/new $d/linked; rmdir $d/made; } 2>/dev/null
            cat $d/canary 2>/dev/null
        done; done | sort -u; exit 0"#;
    let read = thread::scope(|scope| {
        let working = scope.spawn(|| view.user(work));
        let mut swaps = 0_usize;
        while !working.is_finished() {
            let number = swaps % 8;
            let (one, other) =
                (branch.join(format!("d{number}")), branch.join(format!("l{number}")));
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
                .expect("exchanged");
            swaps += 1;
            if swaps.is_multiple_of(64) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(swaps > 100, "{swaps}");
        working.join().expect("it ended")
    });
    let read = read.ok();
    assert!(read == "inside\n" || read.is_empty(), "{read}");
    assert_eq!(facts(), before, "outside (left: now)");
    // A directory that was moved out is not found any more.
    let (out, target) = (branch.join("real"), view.branches().join("vault/real"));
    fs::create_dir(&out).expect("mkdir");
    view.give();
    let script = "cd mnt/inbox/real; echo ready; for i in $(seq 100); do [ -e ../go ] && break; sleep 0.1; done; \
                  echo x >new; mkdir made; echo $?";
    thread::scope(|scope| {
        let held = scope.spawn(|| view.user(script));
        thread::sleep(Duration::from_secs(1));
        fs::rename(&out, &target).expect("moved out");
        fs::write(branch.join("go"), "").expect("write");
        let ended = held.join().expect("it ended");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.ends_with("1\n"), "{ended:?}");
    });
    assert_eq!(fs::read_dir(&target).expect("there").count(), 0, "something was made outside");
    view.unmount();
}

/// The command sees itself as nobody, and is the user: without any rights over what is the user's.
#[test]
fn commands_of_gates_are_shut_in_without_root_too() {
    for other_disk in [false, true] {
        let check = |script: &str, input: &str| {
            format!(
                "[[gates.submit.checks]]\nrun = ['/bin/bash', '-c', '''{script}''', 'bash']\ninput = '{input}'\n"
            )
        };
        let closed = "! ls BASE/branches && ! cat BASE/view.toml && ! touch /usr/x && ! echo y >>$1 && ! chmod 777 $1 \
                      && ! touch $1 && ! unshare -U true && echo $(id -u) $(cat $1)";
        let checks = check(closed, "path") + &check("! grep bad", "stdin");
        let view = View::new(&["inbox", "other", "review"], &format!("{LAB}{checks}"));
        let disk = other_disk.then(|| Disk::tmpfs(&view.scene, "review", "80M"));
        view.give();
        let said = view.user("$OCTROI check view.toml").ok();
        assert!(said.contains("is good") && !said.contains("lacks"), "{said}");
        view.mount("");
        view.user("cd mnt; echo good >inbox/f; chmod 600 inbox/f; mv inbox/f review/f; echo bad >inbox/g; \
                   ! mv inbox/g review/g; $OCTROI why | grep 'exit code 1, saying: bad'; \
                   mkdir inbox/t; seq 20 | xargs -I% cp review/f inbox/t/%; mv inbox/t review/t; cat review/f inbox/g")
            .ok();
        let said = view.user("grep '\"kind\":\"check\"' mnt/.audit/log.jsonl").ok();
        assert!(said.contains("65534 good") && said.lines().count() == 44, "{said}");
        view.unmount();
        drop(disk);
    }
}
