//! Making system calls of a running daemon fail, by strace.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Mount;

/// The system calls that the daemon makes on branches.
pub const CALLS: &str = "open,openat,openat2,open_by_handle_at,name_to_handle_at,statx,mkdirat,mknodat,\
    symlinkat,linkat,unlinkat,renameat,renameat2,pread64,pwrite64,ftruncate,fallocate,chmod,fchmod,\
    fchmodat,fchownat,utimensat,setxattr,getxattr,listxattr,removexattr,getdents64,readlinkat,fstatfs,\
    fsync,fdatasync,syncfs,copy_file_range,lseek";

/// The threads that do requests.
pub const REQUESTS: &[&str] = &["fuser-", "lane-", "sync-", "rename-"];

/// strace, attached to threads of a daemon until it is dropped.
pub struct Strace {
    child: Child,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Strace {
    /// Attaches to the threads whose names begin with one of these, to all without names. `inject` is what strace's option takes:
    /// `CALL:error=ERRNO:when=N`, counted by thread.
    #[track_caller]
    pub fn attach(mount: &Mount, threads: &[&str], inject: Option<&str>) -> Self {
        // All threads with those that are still to come, or some of those that are there.
        let (attached, follow) = match threads {
            [] => (vec![mount.pid().to_string()], true),
            names => (threads_of(mount.pid(), names), false),
        };
        assert!(!attached.is_empty(), "the daemon has no such thread");
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("trace");
        let mut strace = Command::new("strace");
        strace.args(attached.iter().flat_map(|thread| ["-p", thread.as_str()]));
        let injected = inject.and_then(|inject| inject.split(':').next()).unwrap_or("open");
        let traced = format!("trace={CALLS},{injected}");
        strace.arg("-o").arg(&log).args(["-e", "signal=none", "-e", &traced]);
        if let Some(inject) = inject {
            strace.args(["-e", &format!("inject={inject}")]);
        }
        if follow {
            strace.arg("-f");
        }
        let strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = strace.spawn().expect("strace is installed (scripts/setup)");
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        for _ in &attached {
            let mut said = String::new();
            errors.read_line(&mut said).expect("a line");
            if !said.contains("attached") {
                // Else it goes on with those that it has.
                let _ = kill_process(Pid::from_child(&child), Signal::TERM);
                let _ = errors.read_to_string(&mut said);
                let _ = child.wait();
                if said.contains("No such process") {
                    // One that had nothing to do has ended meanwhile.
                    return Self::attach(mount, threads, inject);
                }
                panic!("strace cannot attach: {said}");
            }
        }
        child.stderr = Some(errors.into_inner());
        Self { child, log, _folder: folder }
    }

    /// Detaches; gives the system calls that were made, in order, a line each.
    #[track_caller]
    pub fn detach(mut self) -> Vec<String> {
        self.stop();
        let log = fs::read_to_string(&self.log).expect("strace has written");
        let lines = log.lines().filter(|line| line.contains('(') && !line.contains("\"/proc/1"));
        lines.map(without_thread).collect()
    }

    /// As [`Strace::detach`], of all threads, each line with the thread's number first.
    #[track_caller]
    pub fn detach_with_threads(mut self) -> Vec<String> {
        self.stop();
        let log = fs::read_to_string(&self.log).expect("strace has written");
        log.lines().filter(|line| line.contains('(')).map(str::to_owned).collect()
    }

    fn stop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            // One whose process was killed while it made a thread may wait for ever.
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.stop();
    }
}

fn without_thread(line: &str) -> String {
    line.trim_start_matches(|letter: char| letter.is_ascii_digit()).trim_start().to_owned()
}

/// The name of the call of a traced line.
pub fn call_of(line: &str) -> &str {
    line.split_once('(').map_or("", |(name, _)| name)
}

fn threads_of(pid: u32, names: &[&str]) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon lives");
    let threads = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok());
    let wanted = |thread: &String| {
        let comm = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"));
        comm.is_ok_and(|comm| names.iter().any(|name| comm.starts_with(name)))
    };
    threads.filter(wanted).collect()
}

/// How many descriptors the daemon has open.
#[track_caller]
pub fn descriptors(mount: &Mount) -> usize {
    open_links(mount).len()
}

/// What the daemon has open, sorted.
#[track_caller]
pub fn open_links(mount: &Mount) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("the daemon lives");
    let link = |entry: std::io::Result<fs::DirEntry>| {
        // It may have been closed meanwhile.
        Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned())
    };
    let mut links: Vec<_> = open.filter_map(link).collect();
    links.sort();
    links
}
