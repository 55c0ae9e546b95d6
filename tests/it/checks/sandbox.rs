//! What a command sees and reaches.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use octroi::check::{Outcome, Runner};

use super::{Shut, holds};
use crate::harness::{OCTROI, require_root};

#[test]
fn this_machine_can_shut_commands_in() {
    assert_eq!(Runner::new(OCTROI.into(), Vec::new()).probe(), Ok(Vec::new()));
    let missing = Runner::new("/nonexistent".into(), Vec::new()).probe().expect_err("no helper");
    assert!(missing.contains("cannot start the helper"), "{missing}");
}

#[test]
fn the_content_comes_by_standard_input() {
    assert_eq!(Shut::script("cat; echo; echo $#").says(), "0");
    let large = Shut::script("sha256sum");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(large.file(), &content).expect("write");
    let said = large.says();
    let sum = crate::harness::sh(large.folder.path(), "sha256sum <file").ok();
    assert_eq!(said, sum.trim());
}

#[test]
fn a_command_need_not_read_all_of_it() {
    let shut = Shut::script("head -c 3");
    fs::write(shut.file(), vec![b'x'; 10_000_000]).expect("write");
    assert_eq!(shut.says(), "xxx");
    let deaf = Shut::script("exec <&-; sleep 0.2; echo done");
    fs::write(deaf.file(), vec![b'x'; 10_000_000]).expect("write");
    assert_eq!(deaf.says(), "done");
}

#[test]
fn the_content_comes_as_a_file_that_only_its_owner_could_read() {
    require_root();
    for (mode, owner) in [(0o600, 0), (0o444, 0), (0o400, 12_345), (0o640, 12_345)] {
        let shut = Shut::script("cat $1 && [ $# = 1 ] && [ \"$(cat)\" = '' ]").by_path();
        chown(shut.file(), Some(owner), Some(owner)).expect("chown");
        fs::set_permissions(shut.file(), fs::Permissions::from_mode(mode)).expect("chmod");
        assert_eq!(shut.says(), "content", "{mode:o} {owner}");
    }
    let closed = Shut::script("cat $1").by_path();
    fs::set_permissions(closed.file(), fs::Permissions::from_mode(0o200)).expect("chmod");
    let Outcome::NotRun(why) = closed.run().outcome else { panic!("it ran") };
    assert!(why.contains("input = \"stdin\" would take it"), "{why}");
}

#[test]
fn the_content_cannot_be_written() {
    let script = "for attempt in 'echo x >>$1' ': >$1' 'truncate -s 0 $1' 'chmod 777 $1' 'touch $1' 'rm -f $1' \
                  'mv $1 /tmp/x' 'ln $1 /tmp/x' 'setfattr -n user.a -v b $1' 'chown 65534 $1'; do
                    ! eval $attempt || { echo $attempt; exit 1; }; done; cat $1";
    for mode in [0o600, 0o666] {
        let shut = Shut::script(script).by_path();
        let set = || fs::set_permissions(shut.file(), fs::Permissions::from_mode(mode));
        set().expect("chmod");
        let before = fs::metadata(shut.file()).expect("stat");
        assert_eq!(shut.says(), "content");
        let after = fs::metadata(shut.file()).expect("stat");
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
}

#[test]
fn nothing_can_be_written_but_what_is_gone_afterwards() {
    holds(
        "for folder in / /empty /usr /usr/bin /bin /lib /etc /dev; do
           ! touch $folder/x || { echo $folder; exit 1; }; done 2>/dev/null",
    );
    holds("echo x >/tmp/x && [ $(cat /tmp/x) = x ]");
    // What can be written cannot be executed.
    holds("cp /bin/true /tmp/run && chmod 755 /tmp/run && cmp /bin/true /tmp/run && ! /tmp/run");
    holds("[ ! -e /tmp/x ]");
    holds("! dd if=/dev/zero of=/tmp/x bs=1M count=300 status=none");
}

#[test]
fn a_command_is_nobody_and_gets_no_rights() {
    holds("[ \"$(id -u) $(id -g) $(id -G)\" = '65534 65534 65534' ]");
    // Of what is executed no set-id bit is heeded (PR_GET_NO_NEW_PRIVS of linux/prctl.h).
    let no_more = "import ctypes; assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 1";
    holds(&format!("[ -u /usr/bin/su ] && /usr/bin/python3 -c '{no_more}'"));
    // To a plain user these would be denied, or done: here there are none.
    for call in [
        "mount(0, b\"/tmp\", b\"tmpfs\", 0, 0)",
        "chroot(b\"/\")",
        "unshare(0x10000000)",
        "setns(0, 0)",
        "ptrace(0, 0, 0, 0)",
        "socket(1, 1, 0)",
        "memfd_create(b\"x\", 0)",
    ] {
        let python = format!(
            "import ctypes; c = ctypes.CDLL(None, use_errno=True); \
             assert c.{call} == -1 and ctypes.get_errno() == 38, ctypes.get_errno()"
        );
        holds(&format!("/usr/bin/python3 -c '{python}' 2>&1"));
    }
}

#[test]
fn the_environment_is_small_and_always_the_same() {
    let script = "env | grep -v '^\\(_\\|SHLVL\\)=' | sort | tr '\\n' ' '; pwd";
    assert_eq!(
        Shut::script(script).says(),
        "HOME=/empty LANG=C.UTF-8 OCTROI_GATE=submit OCTROI_SOURCE=/inbox/a b OCTROI_TARGET=/review/a \
         PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin PWD=/empty TMPDIR=/tmp /empty"
    );
    // Nothing but the three descriptors: the next to be opened has the first number that is free.
    holds(
        "exec {fd}<>/dev/null; /usr/bin/python3 -c 'import os; assert os.open(\"/dev/null\", 0) == 3'",
    );
}

#[test]
fn nothing_of_the_system_is_seen_but_programs_and_libraries() {
    holds(
        "[ ! -e /etc/shadow ] && [ ! -e /etc/passwd ] && [ ! -e /root ] && [ ! -e /home ] && [ ! -e /proc/self ]",
    );
    holds(
        "[ ! -e /sys/kernel ] && [ ! -e /var/log ] && [ ! -e /run ] && [ ! -e /dev/shm ] && [ ! -e /dev/kmsg ]",
    );
    // Not even the parents of what is shown to it.
    let shut = Shut::script("ls /tmp/octroi-check-* | wc -l");
    assert_eq!(shut.says(), "0");
}

#[test]
fn other_processes_are_out_of_reach() {
    let pid = std::process::id();
    holds(&format!("! kill -0 {pid} && ! kill -9 1 && [ $$ -lt 10 ]"));
}

#[test]
fn what_may_be_read_is_read_and_not_written() {
    require_root();
    let beside = tempfile::Builder::new().prefix("octroi-beside-").tempdir().expect("a folder");
    fs::write(beside.path().join("signatures"), "known").expect("write");
    fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let folder = beside.path().display();
    let script = format!("! touch {folder}/x && cat {folder}/signatures");
    assert_eq!(Shut::script(&script).reading(beside.path()).says(), "known");
    let file = beside.path().join("signatures");
    assert_eq!(Shut::script(&format!("cat {folder}/signatures")).reading(&file).says(), "known");
    let without = Shut::script(&script).run();
    assert_eq!(without.outcome, Outcome::Exit(1));
    // It is not root who reads.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(Shut::script(&script).reading(beside.path()).run().outcome, Outcome::Exit(1));
}

/// Something bound to a second place; taken away when this is dropped.
struct Bound(std::path::PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        crate::harness::sh(Path::new("/"), &format!("umount {}", self.0.display()));
    }
}

#[test]
fn what_is_kept_from_commands_is_not_shown_by_any_way() {
    require_root();
    let folder = tempfile::Builder::new().prefix("octroi-kept-").tempdir().expect("a folder");
    let [kept, read] = ["kept", "read"].map(|name| folder.path().join(name));
    fs::create_dir_all(kept.join("in")).expect("mkdir");
    fs::create_dir_all(read.join("sub")).expect("mkdir");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let shut = Shut::script("true").reading(&read);
    let run = |kept: &Path| shut.run_with(&Runner::new(OCTROI.into(), vec![kept.to_owned()]));
    let refused = |kept: &Path, by: &str| {
        let Outcome::NotRun(why) = run(kept).outcome else { panic!("{} is shown", kept.display()) };
        let wanted = format!("{by}, which commands see, shows {}", kept.display());
        assert!(why.contains(&wanted), "{why}");
    };
    assert_eq!(run(&kept).outcome, Outcome::Passed);
    refused(&read.join("sub"), &read.display().to_string());
    refused(folder.path(), &read.display().to_string());
    refused(Path::new("/usr/share"), "/usr");
    let whole = Runner::new(OCTROI.into(), vec!["/usr/share".into()]).probe();
    assert!(whole.expect_err("it is shown").contains("/usr, which commands see"));
    // By a mount of a part of it, of which the path says nothing.
    let at = read.join("sub");
    let bind = format!("mount --bind {} {}", kept.join("in").display(), at.display());
    crate::harness::sh(Path::new("/"), &bind).ok();
    let bound = Bound(at);
    refused(&kept, &read.display().to_string());
    drop(bound);
    assert_eq!(run(&kept).outcome, Outcome::Passed);
}

#[test]
fn a_program_outside_the_system_s_folders_is_shown_alone() {
    let beside = tempfile::Builder::new().prefix("octroi-tool-").tempdir().expect("a folder");
    fs::write(beside.path().join("secret"), "x").expect("write");
    let tool = beside.path().join("lint");
    fs::write(&tool, "#!/bin/sh\n[ ! -e ${0%/*}/secret ] && echo fine\n").expect("write");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut shut = Shut::script("");
    shut.check.run = vec![tool.to_str().expect("UTF-8").to_owned()];
    assert_eq!(shut.says(), "fine");
}

#[test]
fn nobody_is_reached_over_a_network_or_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let name = format!("octroi-check-{port}");
    let hidden = SocketAddr::from_abstract_name(&name).expect("a name");
    let _hidden = UnixListener::bind_addr(&hidden).expect("a socket");
    let folder = tempfile::Builder::new().prefix("octroi-socket-").tempdir().expect("a folder");
    let path = folder.path().join("s");
    let _shown = UnixListener::bind(&path).expect("a socket");
    for open in [folder.path(), &path] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    // That each can be reached at all, from outside.
    let reach = |family: &str, address: &str| {
        format!("import socket; socket.socket(socket.AF_{family}).connect({address})")
    };
    for (family, address) in [
        ("INET", format!("(\"127.0.0.1\", {port})")),
        ("UNIX", format!("\"\\0{name}\"")),
        ("UNIX", format!("\"{}\"", path.display())),
    ] {
        let python = reach(family, &address);
        let outside =
            crate::harness::sh(Path::new("/"), &format!("/usr/bin/python3 -c '{python}'"));
        assert_eq!(outside.code, Some(0), "{python}: {}", outside.err);
        let script = format!("! /usr/bin/python3 -c '{python}'");
        assert_eq!(Shut::script(&script).reading(folder.path()).run().outcome, Outcome::Passed);
    }
}

#[test]
fn there_is_no_network_device_but_one_that_is_down() {
    // Without the filter of system calls nothing could be reached either: see the namespace from outside.
    let mark = super::limits::marker();
    let shut = Shut::script(&format!("sleep {mark}"));
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let run = scope
            .spawn(|| shut.run_until(&|| cancelled.load(std::sync::atomic::Ordering::Relaxed)));
        let mut seen = String::new();
        crate::harness::wait_for("the command", || {
            let find = format!("p=$(pgrep -f '^sleep {mark}') && cat /proc/$p/net/dev");
            let script = format!("{find} | tail -n +3 | awk '{{print $1, $2}}'");
            seen = crate::harness::sh(Path::new("/"), &script).out;
            seen.contains("lo:")
        });
        cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(run.join().expect("no panic").outcome, Outcome::Cancelled);
        seen
    });
    assert_eq!(seen.trim(), "lo: 0");
}
