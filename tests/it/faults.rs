//! Faults as callers meet them through the mount: the errno of a branch's file system is the caller's and
//! the ledger's, whatever the daemon runs out of is not taken for the end of a branch, and it
//! keeps descriptors for itself. Which system calls the operations make, and what each that fails
//! leaves behind, is the business of `vfs::tests::faults`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use serde_json::Value;

use crate::harness::{Mount, OCTROI, Scene, octroi, require_root, wait_for};
use crate::strace::{REQUESTS, Strace, descriptors};

type Act = fn(&Path) -> std::io::Result<()>;

/// An operation in a folder that has `file`, `dir` and `link`; the call that fails, how; and what the ledger
/// calls the operation. What takes room is tried once more when the disk is full.
const OPERATIONS: [(Act, &str, Option<&str>); 22] = [
    (|at| fs::metadata(at.join("file")).map(drop), "statx:error=EIO", None),
    (|at| File::open(at.join("file")).map(drop), "openat:error=EMFILE", None),
    (|at| File::create(at.join("new")).map(drop), "openat2:error=ENOMEM", None),
    (|at| fs::create_dir(at.join("new")), "mkdirat:error=ENOSPC:when=1+", Some("mkdir")),
    (|at| fifo(&at.join("new")), "mknodat:error=EDQUOT", Some("mknod")),
    (|at| symlink("file", at.join("new")), "symlinkat:error=EDQUOT", Some("symlink")),
    (|at| fs::hard_link(at.join("file"), at.join("new")), "linkat:error=EROFS", Some("link")),
    (|at| fs::remove_file(at.join("file")), "unlinkat:error=EIO", Some("unlink")),
    (|at| fs::remove_dir(at.join("dir")), "unlinkat:error=EROFS", Some("rmdir")),
    (
        |at| fs::rename(at.join("file"), at.join("new")),
        "renameat:error=ENOSPC",
        Some("rename-source"),
    ),
    (|at| fs::read(at.join("file")).map(drop), "pread64:error=EIO:when=1+", None),
    (|at| write(&at.join("file")), "pwrite64:error=ENOSPC:when=1+", Some("write-data")),
    (|at| truncate(&at.join("file")), "ftruncate:error=EIO", Some("truncate")),
    (|at| fs::set_permissions(at.join("file"), mode()), "fchmodat:error=EROFS", Some("chmod")),
    (|at| chown(at.join("file"), Some(1), None), "fchownat:error=EDQUOT", Some("chown")),
    (|at| touch(&at.join("file")), "utimensat:error=EIO", Some("utimes")),
    (|at| set_attribute(&at.join("file")), "setxattr:error=ENOSPC:when=1+", Some("setxattr")),
    (|at| get_attribute(&at.join("file")), "getxattr:error=ENOMEM", None),
    (
        |at| fs::read_dir(at).and_then(|mut all| all.try_for_each(|one| one.map(drop))),
        "getdents64:error=EIO",
        None,
    ),
    (|at| fs::read_link(at.join("link")).map(drop), "readlinkat:error=ENOMEM", None),
    (|at| File::open(at.join("file"))?.sync_all(), "fsync:error=EDQUOT", None),
    (|at| Ok(rustix::fs::statvfs(at).map(drop)?), "fstatfs:error=EIO", None),
];

fn fifo(path: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR, 0)?)
}

fn write(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(b"TEXT")
}

fn truncate(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(2)
}

fn mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o600)
}

fn touch(path: &Path) -> std::io::Result<()> {
    File::open(path)?.set_modified(std::time::UNIX_EPOCH)
}

fn set_attribute(path: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::setxattr(path, "user.new", b"value", flags)?)
}

fn get_attribute(path: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::getxattr(path, "user.known", &mut [0_u8; 64][..]).map(drop)?)
}

/// Everything in a folder of a branch but times.
fn digest(folder: &Path) -> String {
    let script = "find . -printf '%P %y %m %U %n %s %l\\n' | sort; cat file; getfattr -d file";
    crate::harness::sh(folder, script).out
}

#[test]
fn the_caller_and_the_ledger_get_the_errno() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    assert!(!mount.ledger().is_empty(), "the daemon has the ledger open from here on");
    for (number, (act, fault, recorded)) in OPERATIONS.into_iter().enumerate() {
        let folder = mount.path(&format!("inbox/{number}"));
        let make =
            "mkdir -p dir; echo text >file; ln -s file link; setfattr -n user.known -v x file";
        mount.sh(&format!("mkdir inbox/{number}; cd inbox/{number}; {make}")).ok();
        let backing = scene.branch("inbox").join(number.to_string());
        // The kernel reads once more what reading ahead could not.
        let once = |fault: &str| format!("{fault}:when=1");
        let inject = if fault.contains("when") { fault.to_owned() } else { once(fault) };
        let (before, open) = (digest(&backing), descriptors(&mount));
        let strace = Strace::attach(&mount, REQUESTS, Some(&inject));
        let result = act(&folder);
        let lines = strace.detach();
        let errors = fault.split("error=").nth(1).expect("an errno");
        let name = errors.split(':').next().expect("an errno");
        let errno = match name {
            "EIO" => Errno::IO,
            "ENOSPC" => Errno::NOSPC,
            "EDQUOT" => Errno::DQUOT,
            "EMFILE" => Errno::MFILE,
            "ENOMEM" => Errno::NOMEM,
            _ => Errno::ROFS,
        };
        let got = result.map_err(|error| error.raw_os_error());
        assert_eq!(got, Err(Some(errno.raw_os_error())), "{fault}: {lines:?}");
        assert_eq!(digest(&backing), before, "{fault}: it left something");
        if let Some(operation) = recorded {
            let ledger = mount.ledger();
            let of_it = |line: &&Value| line["op"] == operation;
            let last = ledger.iter().rfind(of_it).unwrap_or_else(|| panic!("{fault}: no record"));
            assert_eq!(last["result"], name, "{fault}: {last}");
            assert_eq!(last["decision"], "allowed", "{fault}: {last}");
        }
        act(&folder).unwrap_or_else(|error| panic!("{fault}: the second try fails: {error}"));
        wait_for("descriptors to be closed", || descriptors(&mount) <= open);
    }
    mount.unmount();
}

#[test]
fn a_read_that_fails_halfway_is_not_the_end_of_the_file() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    // Written past the mount, so that nothing of it is in the page cache.
    fs::write(scene.branch("inbox").join("f"), vec![b'x'; 5000]).expect("written");
    // The second call is the one that finds the end, as one after a bad block would fail. The kernel tries
    // again page by page, by other threads, some of which may be started only then.
    let strace = Strace::attach(&mount, &[], Some("pread64:error=EIO:when=2+"));
    let read = fs::read(mount.path("inbox/f"));
    drop(strace);
    let failed = read.map(|bytes| bytes.len()).map_err(|error| error.raw_os_error());
    assert_eq!(failed, Err(Some(Errno::IO.raw_os_error())));
    assert_eq!(fs::read(mount.path("inbox/f")).expect("read").len(), 5000);
    mount.unmount();
}

fn status(scene: &Scene, branch: &str) -> Value {
    let text = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let all = status["branches"].as_array().expect("branches");
    all.iter().find(|found| found["name"] == branch).expect("the branch").clone()
}

#[test]
fn a_storm_of_errors_takes_a_branch_offline_and_want_of_descriptors_does_not() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo text >other/f").ok();
    let strace = Strace::attach(&mount, &["branch-other"], Some("openat2:error=EMFILE:when=1+"));
    mount.sh("sleep 3.5; cat other/f").ok();
    let lines = strace.detach();
    assert!(lines.iter().filter(|line| line.contains("INJECTED")).count() >= 3, "{lines:?}");
    assert!(status(&scene, "other")["fault"].is_null());
    let strace = Strace::attach(&mount, &["branch-other"], Some("openat2:error=EIO:when=1+"));
    wait_for("it to be offline", || status(&scene, "other")["fault"] == "offline");
    assert!(mount.sh("cat other/f").refused().contains("Input/output error"));
    mount.sh("echo here >inbox/f; mv inbox/f review/f; cat review/f").ok();
    drop(strace);
    wait_for("it to be back", || status(&scene, "other")["fault"].is_null());
    assert_eq!(mount.sh("cat other/f").ok(), "text\n");
    mount.unmount();
}

/// Opens files of the view until one is refused.
fn open_all(mount: &Mount, max: usize) -> (Vec<File>, Option<i32>) {
    let mut open = Vec::new();
    for number in 0..max {
        match OpenOptions::new()
            .create(true)
            .append(true)
            .open(mount.path(&format!("inbox/{number}")))
        {
            Ok(file) => open.push(file),
            Err(error) => return (open, error.raw_os_error()),
        }
    }
    (open, None)
}

#[test]
fn users_who_open_all_they_can_leave_descriptors_for_the_daemon() {
    require_root();
    let scene = Scene::lab();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=400:400", OCTROI]);
    let mount = scene.mount_by(command, &[]);
    let before = descriptors(&mount);
    mount.sh("echo kept >other/f; mkdir inbox/dir; echo cross >inbox/c").ok();
    let (open, errno) = open_all(&mount, 1000);
    assert_eq!(errno, Some(Errno::NFILE.raw_os_error()), "after {}", open.len());
    assert!((150..=200).contains(&open.len()), "{} could be opened", open.len());
    assert!(!mount.path(&format!("inbox/{}", open.len())).exists(), "it was made all the same");
    // Everything but opening files goes on, for longer than it takes to take a branch offline.
    mount
        .sh("sleep 2.5; ls -l inbox other; mkdir inbox/more; mv inbox/dir inbox/moved; rm inbox/0")
        .ok();
    mount.sh("mv inbox/c review/c; $OCTROI undo review/c; ls inbox/c").ok();
    open[1].write_at(b"written", 0).expect("what is open can be written");
    for branch in ["inbox", "other", "review"] {
        assert!(status(&scene, branch)["fault"].is_null(), "{branch}");
    }
    let said = mount.sh("cat other/f").refused();
    assert!(said.contains("Too many open files in system"), "{said}");
    drop(open);
    wait_for("the files to be closed", || descriptors(&mount) <= before);
    assert_eq!(mount.sh("cat other/f inbox/1").ok(), "kept\nwritten");
    mount.unmount();
}

#[test]
fn what_has_no_name_any_more_does_not_take_all_descriptors() {
    require_root();
    let scene = Scene::lab();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=400:400", OCTROI]);
    let mount = scene.mount_by(command, &[]);
    mount.sh("mkdir inbox/d; rmdir inbox/d").ok();
    let before = descriptors(&mount);
    let held: Vec<_> = (0..40)
        .map(|number| {
            let path = mount.path(&format!("inbox/{number}"));
            fs::create_dir(&path).expect("made");
            let held = File::open(&path).expect("open");
            fs::remove_dir(&path).expect("removed");
            held
        })
        .collect();
    // Until the kernel asks again for what it knows.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let links = |file: &File| rustix::fs::fstat(file).map(|found| found.st_nlink);
    let (kept, others): (Vec<_>, Vec<_>) = held.iter().map(links).partition(Result::is_ok);
    assert_eq!((kept.len(), kept[0]), (12, Ok(0)), "a sixteenth of the 200 for users");
    assert!(others.iter().all(|lost| *lost == Err(Errno::STALE)), "{others:?}");
    let (open, errno) = open_all(&mount, 1000);
    assert_eq!((open.len(), errno), (188, Some(Errno::NFILE.raw_os_error())));
    drop((held, open));
    wait_for("all to be closed", || descriptors(&mount) <= before);
    mount.unmount();
}

#[test]
fn a_daemon_without_descriptors_refuses_and_heals() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo text >inbox/f; echo text >other/f").ok();
    let mut held = File::open(mount.path("inbox/f")).expect("open");
    let limit = |number: usize| {
        let limit = format!("--nofile={number}:20000");
        crate::harness::run(Command::new("prlimit").args([
            "--pid",
            &mount.pid().to_string(),
            &limit,
        ]))
        .ok();
    };
    // A descriptor is a number below the limit: with one of 1 there is none to be had.
    limit(1);
    for script in [
        "cat other/f",
        "echo x >inbox/new",
        "mkdir inbox/d",
        "mv inbox/f inbox/g",
        "mv inbox/f review/f",
    ] {
        let said = mount.sh(script).refused();
        assert!(said.contains("Too many open files"), "{script}: {said}");
    }
    mount.sh("sleep 3").ok();
    let mut text = String::new();
    held.read_to_string(&mut text).expect("what is open can be read");
    assert_eq!(text, "text\n");
    limit(20000);
    for branch in ["inbox", "other", "review"] {
        assert!(status(&scene, branch)["fault"].is_null(), "{branch}");
    }
    assert_eq!(mount.sh("ls inbox review; cat other/f").ok(), "inbox:\nf\n\nreview:\ntext\n");
    drop(held);
    mount.sh("mkdir inbox/d; mv inbox/f review/f; cat review/f").ok();
    mount.unmount();
}

#[test]
fn a_file_that_the_kernel_cannot_take_for_now_goes_through_the_daemon() {
    require_root();
    let body = "[branches.inbox]\npath = \"branches/inbox\"\nio = \"passthrough\"\n";
    let scene = Scene::with(&["inbox"], body);
    let mount = scene.mount();
    mount.sh("echo text >inbox/f; echo text >inbox/g").ok();
    let strace = Strace::attach(&mount, &[], Some("ioctl:error=ENOMEM:when=1"));
    let open = |name: &str| {
        let path = mount.path(&format!("inbox/{name}"));
        OpenOptions::new().read(true).append(true).open(path).expect("open")
    };
    let mut first = open("f");
    drop(strace);
    first.write_all(b"more\n").expect("written");
    let mut second = open("f");
    second.write_all(b"most\n").expect("written");
    assert_eq!(mount.sh("cat inbox/f").ok(), "text\nmore\nmost\n");
    drop((first, second));
    mount.sh("sleep 0.1; echo last >>inbox/f; cat inbox/f inbox/g").ok();
    let log = fs::read_to_string(scene.base().join("daemon.log")).expect("a log");
    assert!(log.contains("does not take a backing file now"), "nothing was refused: {log}");
    assert!(!log.contains("go through octroi"), "one refusal ended it for all: {log}");
    mount.unmount();
}

#[test]
fn a_thread_that_cannot_be_started_is_one_request_refused() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir inbox/d; for i in $(seq 200); do echo $i >inbox/d/$i; done").ok();
    let ask = || octroi(["status", "--view", scene.name()]);
    let strace = Strace::attach(&mount, &["control"], Some("clone3:error=EAGAIN:when=1+"));
    let said = ask().refused();
    assert!(said.contains("too many requests at once"), "{said}");
    drop(strace);
    ask().ok();
    mount.sh("echo first >inbox/first; mv inbox/first review/first").ok();
    let strace = Strace::attach(&mount, &["rename-"], Some("clone3:error=EAGAIN:when=1+"));
    mount.sh("mv inbox/d review/d; cat review/d/* | wc -l").ok();
    drop(strace);
    mount.unmount();
}

/// As flock(2) answers on NFS, where it is a lock of a range.
#[test]
fn a_lock_that_is_only_had_for_writing_is_taken_so() {
    require_root();
    let scene = Scene::lab();
    let trace = scene.base().join("trace");
    let mut command = Command::new("strace");
    // As a grandchild, so that the daemon is the child. The first lock is that of the view's state.
    command.args(["-D", "-f", "-e", "signal=none", "-e", "trace=flock,openat2", "-e"]);
    command.args(["inject=flock:error=EBADF:when=2", "-o"]).arg(&trace).arg(OCTROI);
    let mount = scene.mount_by(command, &[]);
    mount.sh("echo text >inbox/f; mv inbox/f review/f; cat review/f").ok();
    mount.unmount();
    let lines = std::fs::read_to_string(&trace).expect("strace has written");
    assert!(lines.contains("INJECTED"), "{lines}");
    let opened = lines.lines().filter(|line| line.contains("\"lock\", {flags=O_RDWR|O_CREAT"));
    assert_eq!(opened.count(), 1, "{lines}");
}
