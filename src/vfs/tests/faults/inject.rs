//! Making one system call of one thread fail: strace, attached to the thread that operations are called
//! on, as it would be to a daemon's.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

/// The system calls that an operation makes on its branches. Those that the kernel documents to never
/// fail, and hints (what /proc says of the caller), are not among them.
const CALLS: &str = "open,openat,openat2,open_by_handle_at,name_to_handle_at,statx,mkdirat,mknodat,\
    symlinkat,linkat,unlinkat,renameat,renameat2,pread64,pwrite64,ftruncate,fallocate,chmod,fchmod,\
    fchmodat,fchownat,utimensat,setxattr,getxattr,listxattr,removexattr,getdents64,readlinkat,fstatfs,\
    fsync,fdatasync,syncfs,copy_file_range,lseek,setgroups";

/// The `nth` call of that name fails.
#[derive(Debug, Clone, Copy)]
pub struct Fault<'a> {
    pub call: &'a str,
    pub nth: usize,
    pub errno: &'a str,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread on which operations are called, one at a time.
pub struct Worker {
    thread: Pid,
    jobs: Option<Sender<Job>>,
    joined: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Worker {
    pub fn new(folder: &Path) -> Self {
        let (jobs, queue) = channel::<Job>();
        let (tell, told) = channel();
        let run = move || {
            tell.send(rustix::thread::gettid()).expect("somebody waits");
            queue.into_iter().for_each(|job| job());
        };
        let joined = Some(std::thread::spawn(run));
        let thread = told.recv().expect("the thread starts");
        Self { thread, jobs: Some(jobs), joined, log: folder.join("trace") }
    }

    /// Runs a job on the thread.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.begin(job).recv().expect("the job does not panic")
    }

    fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (done, result) = channel();
        let job = move || done.send(job()).expect("somebody waits");
        self.jobs.as_ref().expect("alive").send(Box::new(job)).expect("the thread lives");
        result
    }

    /// Runs a job under strace; gives its result and the lines of the system calls that it made.
    pub fn traced<T: Send + 'static>(
        &self,
        fault: Option<Fault<'_>>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Vec<String>) {
        let strace = attach(self.thread, fault, &self.log);
        let result = self.run(job);
        detach(strace);
        let log = std::fs::read_to_string(&self.log).expect("strace has written");
        let hint = |line: &&str| !line.contains("\"/proc/1/") && line.contains('(');
        (result, log.lines().filter(hint).map(str::to_owned).collect())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.joined.take().is_some_and(|thread| thread.join().is_err()) {
            assert!(std::thread::panicking(), "an operation panicked");
        }
    }
}

fn attach(thread: Pid, fault: Option<Fault<'_>>, log: &Path) -> Child {
    let mut strace = Command::new("strace");
    strace.arg("-p").arg(thread.as_raw_nonzero().to_string()).arg("-o").arg(log);
    strace.args(["-e", "signal=none", "-e", &format!("trace={CALLS}")]);
    if let Some(Fault { call, nth, errno }) = fault {
        strace.args(["-e", &format!("inject={call}:error={errno}:when={nth}")]);
    }
    let mut child = strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed (scripts/setup)");
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    errors.read_line(&mut said).expect("a line");
    if !said.contains("attached") {
        let _ = errors.read_to_string(&mut said);
        let _ = child.wait();
        panic!("strace cannot attach: {said}");
    }
    // Nobody reads on: it must not block on a full pipe, and does not, for it says only that it leaves.
    child.stderr = Some(errors.into_inner());
    child
}

fn detach(mut strace: Child) {
    kill_process(Pid::from_child(&strace), Signal::TERM).expect("strace is our child");
    strace.wait().expect("strace ends");
}

/// The name of the call of a traced line.
pub fn call_of(line: &str) -> &str {
    line.split_once('(').map_or("", |(name, _)| name)
}
