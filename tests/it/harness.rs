//! Views in temporary folders, mounted by the real binary, and gone again when dropped, also after
//! a panic.
//!
//! Nothing here waits for ever: shell commands run under `timeout`, and a watchdog kills the daemon
//! of a mount that outlives [`MOUNT_LIFE_MAX`], which ends every call that hangs in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test.
pub const OCTROI: &str = env!("CARGO_BIN_EXE_octroi");

/// After this a mount counts as hung, unless `OCTROI_FAULTS` wants a thousand crossings of one.
const MOUNT_LIFE_MAX: Duration = Duration::from_secs(400);
const MOUNT_LIFE_MAX_FAULTS: Duration = Duration::from_secs(3600);
/// From start to the mount being there, and from unmounting to the daemon's end.
const STEP_MAX: Duration = Duration::from_secs(20);
/// Seconds for one shell command.
const SHELL_SECONDS_MAX: &str = "300";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "out: {}\nerr: {}", self.out, self.err);
        self.out
    }

    /// Standard error of a command that must have failed with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        self.err
    }

    /// Standard error of a command that must have failed with an exit code other than zero.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(
            self.code.is_some_and(|code| code != 0 && code != 124),
            "code {:?}, out: {}\nerr: {}",
            self.code,
            self.out,
            self.err
        );
        self.err
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}; run scripts/test"));
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn shell(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", SHELL_SECONDS_MAX, "bash", "-c"]).arg(script);
    command.current_dir(directory).env("OCTROI", OCTROI).env("LC_ALL", "C");
    command.env("HOME", directory).env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

/// Runs a bash script in a directory.
#[track_caller]
pub fn sh(directory: &Path, script: &str) -> Ended {
    run(&mut shell(directory, script))
}

/// Runs a bash script as another user of the user database, with that user's groups.
#[track_caller]
pub fn sh_as(user: &str, directory: &Path, script: &str) -> Ended {
    require_root();
    let gid = sh(Path::new("/"), &format!("id -g {user}")).ok();
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={}", gid.trim()));
    command.arg("--init-groups").args(["timeout", "-k", "5", SHELL_SECONDS_MAX, "bash", "-c"]);
    command.arg(script).current_dir(directory).env("OCTROI", OCTROI).env("LC_ALL", "C");
    run(&mut command)
}

/// Runs the program.
#[track_caller]
pub fn octroi<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Ended {
    run(Command::new("timeout").args(["-k", "5", "60", OCTROI]).args(arguments))
}

/// Where cargo keeps what it downloads and installs.
pub fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Fails the test when it does not run as root.
#[track_caller]
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test acts as several users and mounts file systems: run it as root"
    );
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < STEP_MAX, "waited {STEP_MAX:?} for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether something is mounted at a path.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo is readable");
    let wanted = path.to_str().expect("test paths are UTF-8");
    table.lines().any(|line| line.split(' ').nth(4) == Some(wanted))
}

/// A folder with the configuration of a view, its branches in a closed folder, its state and a
/// mountpoint. The folder itself can be entered by everybody, so that others can use the mount.
pub struct Scene {
    base: tempfile::TempDir,
    name: String,
}

impl Scene {
    /// An empty scene: no branch, no configuration.
    pub fn new() -> Self {
        let base = tempfile::Builder::new().prefix("octroi-it-").tempdir().expect("a folder");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it-{}-{number}", std::process::id());
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for (folder, mode) in [("branches", 0o700), ("mnt", 0o755), ("plain", 0o777)] {
            let path = base.path().join(folder);
            fs::create_dir(&path).expect("a folder");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        Self { base, name }
    }

    /// Branches of these names, open to every user of the view, and a configuration with `body` after
    /// its `[view]` table. `BASE` in the body stands for the scene's folder.
    pub fn with(branches: &[&str], body: &str) -> Self {
        let scene = Self::new();
        for branch in branches {
            scene.branch(branch);
        }
        scene.configure(body);
        scene
    }

    /// The usual view: `inbox` and `other` are rw, `review` is gates-only, and one gate, `submit`,
    /// leads from inbox to review.
    pub fn lab() -> Self {
        Self::with(&["inbox", "other", "review"], LAB)
    }

    /// The scene's folder.
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the view is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.base().join("mnt")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.base().join("view.toml")
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.base().join("state")
    }

    /// The backing directory of a branch, made when it is missing.
    pub fn branch(&self, name: &str) -> PathBuf {
        let path = self.base().join("branches").join(name);
        fs::create_dir_all(&path).expect("a branch");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        path
    }

    /// Writes the configuration.
    pub fn configure(&self, body: &str) {
        let base = self.base().to_str().expect("test paths are UTF-8");
        let body = body.replace("BASE", base);
        let text = format!("[view]\nname = \"{}\"\nstate = \"{base}/state\"\n{body}", self.name);
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// Mounts, which must succeed.
    #[track_caller]
    pub fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    /// Mounts with more arguments.
    #[track_caller]
    pub fn mount_with(&self, arguments: &[&str]) -> Mount {
        self.mount_by(Command::new(OCTROI), arguments)
    }

    /// Mounts by a command that becomes the program, such as prlimit.
    #[track_caller]
    pub fn mount_by(&self, mut command: Command, arguments: &[&str]) -> Mount {
        let log = self.base().join("daemon.log");
        let stderr = fs::File::options().create(true).append(true).open(&log).expect("a log");
        let stdout = stderr.try_clone().expect("a log");
        let child = command
            .args(["mount", "--foreground"])
            .args(arguments)
            .arg(self.config())
            .arg(self.mountpoint())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        Mount::await_live(self.mountpoint(), child, log)
    }

    /// Tries to mount what must be refused: exit code and message. Should it mount after all, it is
    /// unmounted and the test fails.
    #[track_caller]
    pub fn mount_refused(&self, arguments: &[&str]) -> Ended {
        let was_mounted = is_mounted(&self.mountpoint());
        let ended = run(Command::new("timeout")
            .args(["-k", "5", "30", OCTROI, "mount"])
            .args(arguments)
            .arg(self.config())
            .arg(self.mountpoint()));
        if !was_mounted && is_mounted(&self.mountpoint()) {
            unmount_lazily(&self.mountpoint());
            panic!("it mounted: {ended:?}");
        }
        assert_ne!(ended.code, Some(0), "it reported success: {ended:?}");
        ended
    }
}

/// See [`Scene::lab`].
pub const LAB: &str = r#"
[branches.inbox]
path = "branches/inbox"
[branches.other]
path = "branches/other"
[branches.review]
path = "branches/review"
mode = "gates-only"
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
"#;

fn unmount_lazily(mountpoint: &Path) {
    let _ = Command::new("fusermount3").arg("-uz").arg(mountpoint).stderr(Stdio::null()).status();
}

/// A live mount. Dropping it unmounts and waits for the daemon.
pub struct Mount {
    mountpoint: PathBuf,
    child: Option<Child>,
    log: PathBuf,
    _watchdog: mpsc::Sender<()>,
}

impl Mount {
    #[track_caller]
    fn await_live(mountpoint: PathBuf, mut child: Child, log: PathBuf) -> Self {
        let start = Instant::now();
        while !is_live(&mountpoint) {
            if let Some(status) = child.try_wait().expect("the daemon is our child") {
                panic!("mount ended with {status}: {}", read_lossy(&log));
            }
            if start.elapsed() > STEP_MAX {
                let _ = child.kill();
                let _ = child.wait();
                unmount_lazily(&mountpoint);
                panic!("not mounted after {STEP_MAX:?}: {}", read_lossy(&log));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let watchdog = watch(&child);
        Self { mountpoint, child: Some(child), log, _watchdog: watchdog }
    }

    /// The mountpoint.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// A path below the mountpoint.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.mountpoint.join(relative)
    }

    /// Runs a bash script in the root of the mount.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Ended {
        sh(&self.mountpoint, script)
    }

    /// Runs a bash script in the root of the mount as another user.
    #[track_caller]
    pub fn sh_as(&self, user: &str, script: &str) -> Ended {
        sh_as(user, &self.mountpoint, script)
    }

    /// The whole ledger as `.audit` shows it.
    #[track_caller]
    pub fn ledger(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path(".audit/log.jsonl")).expect("the log is readable");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("alive").id()
    }

    /// Sends the daemon a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        send(self.child.as_ref().expect("alive"), signal);
    }

    /// Kills the daemon without warning; the dead mountpoint stays.
    #[track_caller]
    pub fn kill9(mut self) {
        let mut child = self.child.take().expect("alive");
        send(&child, Signal::KILL);
        child.wait().expect("it ends");
    }

    /// Waits for the daemon to end by itself.
    #[track_caller]
    pub fn wait(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("alive");
        let ended = wait_child(&mut child);
        if ended.is_none() {
            self.child = Some(child);
            panic!("the daemon did not end: {}", read_lossy(&self.log));
        }
        ended.expect("checked above")
    }

    /// Unmounts as users do and waits for the daemon, which must end well.
    #[track_caller]
    pub fn unmount(self) {
        // Another test's child, between fork and exec, holds a copy of what this process had open in the
        // mount a moment ago: that is busy for as long as the exec takes, and no longer.
        let unmount = format!("fusermount3 -u {}", self.mountpoint.display());
        let mut ended = sh(Path::new("/"), &unmount);
        for _ in 0..50 {
            if !ended.err.contains("busy") {
                break;
            }
            thread::sleep(Duration::from_millis(20));
            ended = sh(Path::new("/"), &unmount);
        }
        ended.ok();
        let said = self.log.clone();
        let status = self.wait();
        assert!(status.success(), "daemon: {status}: {}", read_lossy(&said));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if thread::panicking() {
            eprintln!("--- daemon of the failed test ---\n{}", read_lossy(&self.log));
        }
        let gently = Command::new("fusermount3").arg("-u").arg(&self.mountpoint).output();
        if !gently.is_ok_and(|output| output.status.success()) {
            unmount_lazily(&self.mountpoint);
        }
        if wait_child(&mut child).is_none() {
            let _ = child.kill();
            let _ = child.wait();
            unmount_lazily(&self.mountpoint);
            if !thread::panicking() {
                panic!("the daemon did not end after unmounting: {}", read_lossy(&self.log));
            }
        }
    }
}

/// `f_type` of FUSE (include/uapi/linux/magic.h).
const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;

/// Whether a daemon answers. One call tells: a dead mount refuses it, and the bare folder that is there
/// between clearing a dead mount and mounting anew is of another type.
fn is_live(mountpoint: &Path) -> bool {
    rustix::fs::statfs(mountpoint).is_ok_and(|stat| stat.f_type == FUSE_SUPER_MAGIC)
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("the daemon is our child");
}

fn wait_child(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < STEP_MAX {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The pid cannot be another process's: the child is reaped only after the sender was dropped or by
/// its owner, which then lives no longer than a step.
fn watch(child: &Child) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    let pid = Pid::from_child(child);
    thread::spawn(move || {
        let all_faults = std::env::var_os("OCTROI_FAULTS").is_some();
        let most = if all_faults { MOUNT_LIFE_MAX_FAULTS } else { MOUNT_LIFE_MAX };
        if receiver.recv_timeout(most) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a mount hung for {most:?}: killing its daemon");
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    sender
}

fn read_lossy(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
