//! The daemon's side of a command: it starts the helper, feeds and listens, and ends what goes on too
//! long. Nothing here waits without an end: neither for a command nor for one that was killed and will
//! not die, because it hangs in the kernel.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::last_line::LastLine;
use super::order::{self, Answer, Answering, HELPER, Order};
use super::usage;
use super::verdict::{Outcome, Verdict};
use crate::error::Errno;
use crate::types::{Check, CheckInput, ViewPath, after};

/// Bytes of output that a command may write; beyond, it fails.
const OUTPUT_MAX: u64 = 1 << 20;
/// How often limits are looked at, and whether anybody still wants the crossing.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How long a command that was told to end is waited for before it is left to a thread of its own.
const END_WAIT: Duration = Duration::from_secs(5);
/// And its helper after that.
const KILL_WAIT: Duration = Duration::from_secs(2);
const END_POLL: Duration = Duration::from_millis(1);
/// Commands that would not die, at a time: beyond, no more are run.
const STUCK_MAX: usize = 16;
/// Bytes that are fed at a time, as many as a pipe takes.
const PIECE: usize = 64 * 1024;
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const PROBE_MEMORY: u64 = 64 << 20;

/// What a command is told of the file beside its content.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The gate.
    pub gate: &'a str,
    /// The file's path in the view.
    pub source: &'a ViewPath,
    /// The path that it would get.
    pub target: &'a ViewPath,
}

/// Runs commands, so many at a time.
#[derive(Debug)]
pub struct Runner {
    helper: PathBuf,
    kept: Vec<PathBuf>,
    places: Arc<Places>,
}

/// Lock order: a leaf.
#[derive(Debug)]
struct Places {
    running_max: usize,
    taken: Mutex<Taken>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    running: usize,
    stuck: usize,
}

/// A place among those that run at a time.
struct PlaceGuard<'a>(&'a Places);

impl Drop for PlaceGuard<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock();
        taken.running = taken.running.saturating_sub(1);
        self.0.changed.notify_all();
    }
}

impl Places {
    fn take(&self, cancelled: &dyn Fn() -> bool) -> Result<PlaceGuard<'_>, Outcome> {
        let mut taken = self.taken.lock();
        loop {
            if taken.stuck >= STUCK_MAX {
                let why = format!("{STUCK_MAX} commands were killed and do not die");
                return Err(Outcome::NotRun(why));
            }
            if cancelled() {
                return Err(Outcome::Cancelled);
            }
            if taken.running < self.running_max {
                taken.running = taken.running.saturating_add(1);
                return Ok(PlaceGuard(self));
            }
            self.changed.wait_for(&mut taken, Duration::from_millis(50));
        }
    }
}

impl Runner {
    /// `helper` is this program. No command is shown anything of `kept`, real paths: where it would be, none
    /// is run. As many run at a time as there are processors, two at least.
    pub fn new(helper: PathBuf, kept: Vec<PathBuf>) -> Self {
        let running_max =
            std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
        let (taken, changed) = (Mutex::default(), Condvar::new());
        Self { helper, kept, places: Arc::new(Places { running_max, taken, changed }) }
    }

    /// Shuts a helper in and does nothing in it. Gives what the kernel lacks that can be done without;
    /// an error says why no command can be run on this machine.
    pub fn probe(&self) -> Result<Vec<String>, String> {
        let order = Order {
            run: Vec::new(),
            shows_file: false,
            cpu_seconds: PROBE_TIMEOUT.as_secs(),
            memory: PROBE_MEMORY,
            read: Vec::new(),
            kept: self.kept.clone(),
            environment: Vec::new(),
        };
        let limits = Limits { timeout: PROBE_TIMEOUT, memory: PROBE_MEMORY };
        let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
        let mut run = self.start(&order, &[null.as_fd()], None, &limits)?;
        let ended = run.until_answered(&|| false);
        self.end(run);
        match ended {
            Ended::Ready(mut lacks) => {
                if !usage::can_be_told() {
                    lacks.push(
                        "CONFIG_PROC_CHILDREN: `memory` limits each process, not all together"
                            .into(),
                    );
                }
                Ok(lacks)
            }
            Ended::As(Outcome::NotRun(why)) => Err(why),
            Ended::As(outcome) => Err(outcome.to_string()),
        }
    }

    /// Runs a command on a content, of which the beginning is wherever `file` was opened.
    pub fn run(
        &self,
        check: &Check,
        file: BorrowedFd<'_>,
        about: &About<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Verdict {
        let begun = Instant::now();
        let (outcome, last_line) = match self.places.take(cancelled) {
            Err(outcome) => (outcome, None),
            Ok(_place) => self.run_now(check, file, about, cancelled),
        };
        Verdict { outcome, last_line, took: begun.elapsed() }
    }

    fn run_now(
        &self,
        check: &Check,
        file: BorrowedFd<'_>,
        about: &About<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> (Outcome, Option<String>) {
        let shows_file = check.input == CheckInput::Path;
        let mut order = Order {
            run: check.run.clone(),
            shows_file,
            cpu_seconds: check.timeout.as_secs().max(1),
            memory: check.memory,
            read: check.read.clone(),
            kept: self.kept.clone(),
            environment: Vec::new(),
        };
        let told = [
            ("OCTROI_GATE", OsStr::new(about.gate)),
            ("OCTROI_SOURCE", about.source.as_path().as_os_str()),
            ("OCTROI_TARGET", about.target.as_path().as_os_str()),
        ];
        if let Some((name, _)) = told.into_iter().find(|(name, value)| !order.set(name, value)) {
            return (Outcome::NotRun(format!("{name} would be too long for a command")), None);
        }
        let limits = Limits { timeout: check.timeout, memory: check.memory };
        let started = match Input::new(shows_file, file) {
            Ok(Input { input, feed }) => {
                let mut with = vec![input.as_fd()];
                with.extend(shows_file.then_some(file));
                self.start(&order, &with, feed, &limits)
            }
            Err(why) => Err(why),
        };
        let mut run = match started {
            Ok(run) => run,
            Err(why) => return (Outcome::NotRun(why), None),
        };
        let ended = run.until_answered(cancelled);
        let last = self.end(run);
        let outcome = match ended {
            Ended::As(Outcome::Passed) if last.total > OUTPUT_MAX => Outcome::Flooded(OUTPUT_MAX),
            Ended::As(outcome) => outcome,
            Ended::Ready(_) => Outcome::NotRun("there is no command".to_owned()),
        };
        (outcome, last.finish())
    }

    /// Starts a helper and gives it its order.
    fn start<'f>(
        &self,
        order: &Order,
        with: &[BorrowedFd<'_>],
        feed: Option<Feed<'f>>,
        limits: &Limits,
    ) -> Result<Running<'f>, String> {
        let failed = |what: &str, error: std::io::Error| format!("cannot {what}: {error}");
        let (socket, theirs) =
            UnixStream::pair().map_err(|error| failed("make a socket", error))?;
        let (output, written) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| failed("make a pipe", errno.into()))?;
        let both = written.try_clone().map_err(|error| failed("make a pipe", error))?;
        unblock(&output).map_err(|errno| failed("make a pipe", errno.into()))?;
        order::give(&socket, order, with).map_err(|error| failed("give an order", error))?;
        let mut command = Command::new(&self.helper);
        command.arg0("octroi").arg(HELPER).env_clear().current_dir("/");
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::from(written)).stderr(Stdio::from(both));
        let child = command.spawn().map_err(|error| failed("start the helper", error))?;
        Ok(Running {
            child,
            socket: Some(socket),
            output: Some(output),
            feed,
            answering: Answering::default(),
            last: LastLine::default(),
            timeout: limits.timeout,
            deadline: after(Instant::now(), limits.timeout),
            memory: limits.memory,
        })
    }

    /// Ends what still runs, and waits a little for it to be gone; a thread waits for what is not. Gives
    /// what was said.
    fn end(&self, mut run: Running<'_>) -> LastLine {
        drop((run.socket.take(), run.feed.take()));
        let mut child = run.child;
        if !ends(&mut child, END_WAIT) {
            // With it goes what it has shut in, as soon as that can.
            let _ = child.kill();
            if !ends(&mut child, KILL_WAIT) {
                log::warn!(
                    "a command of a gate, process {}, was killed and does not die",
                    child.id()
                );
                self.leave(child);
                return run.last;
            }
        }
        if let Some(output) = &run.output {
            let mut last = run.last;
            while last.total <= OUTPUT_MAX && matches!(hear(output, &mut last), Ok(true)) {}
            return last;
        }
        run.last
    }

    fn leave(&self, mut child: Child) {
        {
            let mut taken = self.places.taken.lock();
            taken.stuck = taken.stuck.saturating_add(1);
        }
        let places = Arc::clone(&self.places);
        let wait = move || {
            let _ = child.wait();
            let mut taken = places.taken.lock();
            taken.stuck = taken.stuck.saturating_sub(1);
            places.changed.notify_all();
        };
        let builder = std::thread::Builder::new().name("octroi-reap".to_owned());
        if let Err(error) = builder.spawn(wait) {
            // Of the places for those that do not die it takes none then: they are for what is waited for.
            let mut taken = self.places.taken.lock();
            taken.stuck = taken.stuck.saturating_sub(1);
            log::warn!("nobody waits for it: {error}");
        }
    }
}

/// What the daemon itself watches over.
struct Limits {
    timeout: Duration,
    memory: u64,
}

/// What a command gets on its standard input.
struct Input<'f> {
    input: OwnedFd,
    feed: Option<Feed<'f>>,
}

impl<'f> Input<'f> {
    /// Nothing, where the content is shown as a file; else a pipe.
    fn new(shows_file: bool, file: BorrowedFd<'f>) -> Result<Self, String> {
        if shows_file {
            let null = std::fs::File::open("/dev/null");
            let null = null.map_err(|error| format!("cannot open /dev/null: {error}"))?;
            return Ok(Self { input: null.into(), feed: None });
        }
        let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .and_then(|(input, pipe)| unblock(&pipe).map(|()| (input, pipe)));
        let (input, pipe) = made.map_err(|errno| format!("cannot make a pipe: {errno}"))?;
        let feed = Feed { file, pipe, at: 0, piece: vec![0; PIECE], from: 0, to: 0 };
        Ok(Self { input, feed: Some(feed) })
    }
}

/// A content on its way into a pipe.
struct Feed<'f> {
    file: BorrowedFd<'f>,
    pipe: OwnedFd,
    at: u64,
    /// What was read; `from..to` is still to be written.
    piece: Vec<u8>,
    from: usize,
    to: usize,
}

impl Feed<'_> {
    /// Reads and writes one piece at most, so that limits are looked at in between. False when there is
    /// nothing more to write, or nobody to read it.
    fn go_on(&mut self) -> Result<bool, Errno> {
        if self.from == self.to {
            let count = match rustix::io::pread(self.file, &mut self.piece, self.at) {
                Err(Errno::INTR) => return Ok(true),
                count => count?,
            };
            if count == 0 {
                return Ok(false);
            }
            self.at = self.at.saturating_add(count as u64);
            (self.from, self.to) = (0, count);
        }
        let rest = self.piece.get(self.from..self.to).unwrap_or_default();
        match rustix::io::write(&self.pipe, rest) {
            Ok(count) => self.from = self.from.saturating_add(count),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A command may know enough before the end.
            Err(Errno::PIPE) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }
}

/// A helper at work.
struct Running<'f> {
    child: Child,
    socket: Option<UnixStream>,
    /// None once all who could write have closed it.
    output: Option<OwnedFd>,
    feed: Option<Feed<'f>>,
    answering: Answering,
    last: LastLine,
    timeout: Duration,
    deadline: Instant,
    memory: u64,
}

/// Why there is nothing more to wait for.
enum Ended {
    Ready(Vec<String>),
    As(Outcome),
}

impl Running<'_> {
    /// Feeds and listens until the helper has answered or a limit is reached.
    fn until_answered(&mut self, cancelled: &dyn Fn() -> bool) -> Ended {
        loop {
            if let Some(answer) = self.answering.first() {
                return ended_by(answer);
            }
            if cancelled() {
                return Ended::As(Outcome::Cancelled);
            }
            if Instant::now() >= self.deadline {
                return Ended::As(Outcome::TimedOut(self.timeout));
            }
            if usage::below(self.child.id()) > self.memory {
                return Ended::As(Outcome::Memory(self.memory));
            }
            if let Err(outcome) = self.until_tick() {
                return Ended::As(outcome);
            }
        }
    }

    /// Does what there is to do for one tick at most.
    fn until_tick(&mut self) -> Result<(), Outcome> {
        let tick = after(Instant::now(), Duration::from_millis(50));
        while Instant::now() < tick && self.answering.first().is_none() {
            let Some(socket) = &self.socket else { return Err(silent()) };
            let (heard, answered, hungry) = wait(socket, self.output.as_ref(), self.feed.as_ref())
                .map_err(|errno| Outcome::NotRun(format!("cannot wait: {errno}")))?;
            if let (true, Some(output)) = (heard, &self.output)
                && !matches!(hear(output, &mut self.last), Ok(true) | Err(Errno::AGAIN))
            {
                self.output = None;
            }
            if self.last.total > OUTPUT_MAX {
                return Err(Outcome::Flooded(OUTPUT_MAX));
            }
            if let (true, Some(feed)) = (hungry, &mut self.feed) {
                match feed.go_on() {
                    Ok(true) => {}
                    Ok(false) => self.feed = None,
                    Err(errno) => {
                        return Err(Outcome::NotRun(format!("cannot read the content: {errno}")));
                    }
                }
            }
            let at_end = answered && self.answering.read(socket).unwrap_or(true);
            if at_end && self.answering.first().is_none() {
                return Err(silent());
            }
        }
        Ok(())
    }
}

fn silent() -> Outcome {
    Outcome::NotRun("the helper ended without an answer".to_owned())
}

fn ended_by(answer: Answer) -> Ended {
    Ended::As(match answer {
        Answer::Ready { lacks } => return Ended::Ready(lacks),
        Answer::NotRun(why) => Outcome::NotRun(why),
        Answer::Ended { signal: Some(signal), .. } => Outcome::Signal(signal),
        Answer::Ended { code: Some(0), left: true, .. } => Outcome::LeftProcesses,
        Answer::Ended { code: Some(0), .. } => Outcome::Passed,
        Answer::Ended { code: Some(code), .. } => Outcome::Exit(code),
        Answer::Ended { code: None, .. } => return Ended::As(silent()),
    })
}

/// Waits for a tick or until there is something to do: whether output can be read, an answer can be read,
/// the feed can be written.
fn wait(
    socket: &UnixStream,
    output: Option<&OwnedFd>,
    feed: Option<&Feed<'_>>,
) -> Result<(bool, bool, bool), Errno> {
    let mut watched = vec![PollFd::new(socket, PollFlags::IN)];
    watched.extend(output.map(|output| PollFd::new(output, PollFlags::IN)));
    watched.extend(feed.map(|feed| PollFd::new(&feed.pipe, PollFlags::OUT)));
    match poll(&mut watched, Some(&TICK)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    let mut said = watched.iter().map(|watched| !watched.revents().is_empty());
    let answered = said.next().unwrap_or(false);
    let heard = output.is_some() && said.next().unwrap_or(false);
    let hungry = feed.is_some() && said.next().unwrap_or(false);
    Ok((heard, answered, hungry))
}

/// Reads output once. False at its end.
fn hear(output: &OwnedFd, last: &mut LastLine) -> Result<bool, Errno> {
    let mut buffer = [0; 16 * 1024];
    let count = rustix::io::read(output, &mut buffer)?;
    last.push(buffer.get(..count).unwrap_or_default());
    Ok(count > 0)
}

/// Whether a process ends in time.
fn ends(child: &mut Child, within: Duration) -> bool {
    let deadline = after(Instant::now(), within);
    loop {
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return true,
            Ok(None) if Instant::now() >= deadline => return false,
            Ok(None) => std::thread::sleep(END_POLL),
        }
    }
}

fn unblock(fd: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
