//! The helper: this program again, by a hidden subcommand, which shuts itself in and then runs one
//! command of a gate. It is another process so that all of this happens where there is one thread; the
//! daemon has many.
//!
//! Three processes, and what the command makes of the last:
//!
//! ```text
//! daemon ── supervisor ── init ── command
//!           kills init    pid 1 of a pid namespace: when it ends, the kernel ends all in it
//! ```
//!
//! What keeps the command in, in the order it is set up:
//!
//! - new namespaces: mounts, processes, network, IPC, host name, and users;
//! - a root of its own in memory ([`mounts`]): the system's folders, what `read` names, and the content
//!   as a file, all of them without a way to write; `/tmp` in memory, gone with the command;
//! - an unprivileged user: for a daemon of root's `nobody`, for another one's the same user in a user
//!   namespace; no groups of root's, no capabilities, and none to be had by executing anything;
//! - limits for each process ([`limits`]);
//! - Landlock where the kernel has it, which says the same as the mounts once more;
//! - a list of the system calls that there are ([`filter`]): no sockets but pairs, no namespaces, no
//!   mounts, no tracing.
//!
//! `nobody` because every system has it, nothing belongs to it, and `ps` says what it is. That others use
//! it too does no harm: its processes here are in namespaces of their own, and so is their number.

mod filter;
mod init;
mod limits;
mod mounts;
mod owner;
mod rights;
mod table;

pub use mounts::SYSTEM;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use super::order::{self, Answer, Order};
use crate::error::{Errno, errno_name};
use crate::sys::sandbox::{Forked, fork_alone, unshare_alone};

/// The user and group `nobody`, which is also what a user namespace calls whoever is not in it
/// (include/linux/highuid.h).
const NOBODY: u32 = 65_534;

/// What the command sees the content as.
const INPUT: &str = "/input";
/// The command's current directory.
const EMPTY: &str = "/empty";

/// One of those things that keep a command in, each of which must do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// A root of its own, where nothing else is.
    Mounts,
    /// What it sees there cannot be written.
    ReadOnly,
    /// A network of its own, where nobody is.
    Network,
    /// The list of system calls.
    Calls,
    /// What may be done with files, by path.
    Landlock,
}

impl Layer {
    /// What every command is shut in by.
    pub const ALL: [Self; 5] =
        [Self::Mounts, Self::ReadOnly, Self::Network, Self::Calls, Self::Landlock];
}

/// The outcome of a step, or what is told of it.
type Step<T> = Result<T, String>;

/// For `map_err` on a step: what was attempted.
fn cannot(attempted: impl Into<String>) -> impl FnOnce(Errno) -> String {
    let attempted = attempted.into();
    move |errno| format!("cannot {attempted}: {}", errno_name(errno))
}

/// Does what the daemon at the other end of standard input orders, and exits with the code it returns.
pub fn run() -> i32 {
    run_by(&Layer::ALL)
}

/// As [`run`], shut in by these alone: for tests that a layer holds where the others would not.
pub fn run_by(layers: &[Layer]) -> i32 {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return 1 };
    let socket = UnixStream::from(socket);
    let taken = order::take(&socket).map_err(|error| format!("no order came: {error}"));
    match taken.and_then(|(order, with)| supervise(&order, with, &socket, layers)) {
        Ok(()) => 0,
        Err(why) => {
            // Who does not hear it sees the end of the socket.
            let _ = order::answer(&socket, &Answer::NotRun(why));
            1
        }
    }
}

/// Shuts this process in, starts init in it, and waits for its end, which comes at once when the daemon
/// closes its end of the socket.
fn supervise(order: &Order, with: Vec<OwnedFd>, socket: &UnixStream, layers: &[Layer]) -> Step<()> {
    let mut with = with.into_iter();
    let input = with.next().ok_or("no input came")?;
    let file = with.next();
    if order.shows_file != file.is_some() {
        return Err("the content did not come".to_owned());
    }
    let proc = open_proc()?;
    let is_root = rustix::process::geteuid().is_root();
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    // The first to go when memory runs out; where it cannot be said, it is not.
    let _ = write_proc(&proc, "self/oom_score_adj", "1000");
    let mut shown = None;
    if is_root {
        // While the mount that the file was opened on is one of this namespace's.
        shown = file.as_ref().map(|file| mounts::clone_for_nobody(&proc, file)).transpose()?;
    }
    let own_user = if is_root { UnshareFlags::empty() } else { UnshareFlags::NEWUSER };
    let network = match layers.contains(&Layer::Network) {
        true => UnshareFlags::NEWNET,
        false => UnshareFlags::empty(),
    };
    unshare_alone(
        own_user
            | network
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS,
    )
    .map_err(cannot("make namespaces"))?;
    if !is_root {
        owner::map(&proc, "self", (NOBODY, uid.as_raw()), (NOBODY, gid.as_raw()))?;
        shown = file.as_ref().map(mounts::clone_by_path).transpose()?;
    }
    drop(file);
    let (ask, asked) = pipe()?;
    let (go, gone) = pipe()?;
    let places = mounts::build(order, shown, layers)?;
    match fork_alone().map_err(cannot("fork"))? {
        Forked::Child => {
            drop((ask, gone));
            let begin = init::Begin { order, input, socket, places: &places, is_root, layers };
            let code = match init::run(begin, &asked, &go) {
                Ok(()) => 0,
                Err(why) => {
                    let _ = order::answer(socket, &Answer::NotRun(why));
                    1
                }
            };
            std::process::exit(code)
        }
        Forked::Parent(init) => {
            drop((input, asked, go));
            watch(init, socket, || {
                let mut byte = [0];
                if rustix::io::read(&ask, &mut byte) != Ok(1) {
                    return Ok(());
                }
                if is_root {
                    let who = init.as_raw_nonzero().to_string();
                    owner::map(&proc, &who, (NOBODY, NOBODY), (NOBODY, NOBODY))?;
                }
                rustix::io::write(&gone, &byte).map_err(cannot("start the command"))?;
                Ok(())
            })
        }
    }
}

/// Waits for init's end, and brings it about when the daemon wants it. When this returns, everything that
/// was in the pid namespace is gone.
fn watch(init: Pid, socket: &UnixStream, begin: impl FnOnce() -> Step<()>) -> Step<()> {
    let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty());
    let pidfd = pidfd.map_err(cannot("watch the command"))?;
    let began = begin();
    let mut watched = [
        PollFd::new(&pidfd, PollFlags::IN),
        // The daemon says nothing more: what can be read is the end.
        PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP),
    ];
    let end_it = match (&began, poll(&mut watched, None)) {
        (Ok(()), Ok(_)) => watched.first().is_none_or(|pidfd| pidfd.revents().is_empty()),
        (Err(_), _) | (_, Err(_)) => true,
    };
    if end_it {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    waitpid(Some(init), WaitOptions::empty()).map_err(cannot("wait for the command"))?;
    began
}

/// The system's /proc, which stays at hand when it is not in sight any more.
fn open_proc() -> Step<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).map_err(cannot("open /proc"))
}

fn write_proc(proc: &OwnedFd, path: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, path, flags, Mode::empty())?;
    // The maps of a user namespace are taken in one call or not at all.
    rustix::io::write(file.as_fd(), text.as_bytes()).map(drop)
}

fn pipe() -> Step<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(cannot("make a pipe"))
}
