//! Process 1 of the pid namespace, and the command.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, Mode};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, set_dumpable_behavior,
    set_parent_process_death_signal, wait,
};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

use super::mounts::Places;
use super::order::{self, Answer, Order};
use super::{EMPTY, INPUT, Layer, NOBODY, Step, cannot, filter, limits, rights};
use crate::sys::sandbox::{Forked, close_on_exec_from, fork_alone, unshare_alone};

/// How long what a command has begun may outlive it: helpers that notice by the end of a pipe.
const AFTERWARDS: Duration = Duration::from_secs(2);
const AFTERWARDS_POLL: Duration = Duration::from_millis(2);

/// What every command gets.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"),
    ("LANG", "C.UTF-8"),
    ("HOME", EMPTY),
    ("TMPDIR", "/tmp"),
];

/// What init begins with.
pub(super) struct Begin<'a> {
    pub order: &'a Order,
    /// The command's standard input.
    pub input: OwnedFd,
    pub socket: &'a UnixStream,
    pub places: &'a Places,
    pub is_root: bool,
    pub layers: &'a [Layer],
}

/// Gives up every privilege, starts the command, and answers how it ended. What is left of it ends with
/// this process.
pub(super) fn run(begin: Begin<'_>, asked: &OwnedFd, go: &OwnedFd) -> Step<()> {
    let handshake = || {
        let mut byte = [0];
        rustix::io::write(asked, &[1])
            .and_then(|_| rustix::io::read(go, &mut byte))
            .map_err(cannot("begin"))
            .and_then(|count| if count == 1 { Ok(()) } else { Err("nobody waits".to_owned()) })
    };
    if begin.is_root {
        rustix::thread::set_thread_groups(&[]).map_err(cannot("leave all groups"))?;
        unshare_alone(UnshareFlags::NEWUSER).map_err(cannot("make a user namespace"))?;
        handshake()?;
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
            .map_err(cannot("become nobody"))?;
    } else {
        handshake()?;
    }
    let nothing = CapabilitySet::empty();
    let none = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
    rustix::thread::set_capabilities(None, none)
        .and_then(|()| rustix::thread::clear_ambient_capability_set())
        .and_then(|()| rustix::thread::set_no_new_privs(true))
        .map_err(cannot("give up capabilities"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(cannot("be closed to others"))?;
    // After the last change of identity, which forgets it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(cannot("end with the helper"))?;
    // The helper holds the other end for as long as it lives: if it ended before that signal was asked
    // for, nobody waits.
    let mut alive = [PollFd::new(go, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut alive, Some(&now)).map_err(cannot("see whether anybody waits"))?;
    if alive.iter().any(|end| end.revents().contains(PollFlags::HUP)) {
        return Err("nobody waits".to_owned());
    }
    match fork_alone().map_err(cannot("fork"))? {
        Forked::Child => {
            let why = match command(&begin) {
                Ok(lacks) => Answer::Ready { lacks },
                Err(why) => Answer::NotRun(why),
            };
            let _ = order::answer(begin.socket, &why);
            std::process::exit(127)
        }
        Forked::Parent(pid) => {
            let status = reap(pid)?;
            let left = is_anything_left();
            let (code, signal) = (status.exit_status(), status.terminating_signal());
            order::answer(begin.socket, &Answer::Ended { code, signal, left })
                .map_err(|error| format!("cannot answer: {error}"))
        }
    }
}

/// Waits for the command, and for whatever else ends meanwhile.
fn reap(command: Pid) -> Step<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => return Ok(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(cannot("wait for the command")(errno)),
        }
    }
}

/// Whether a process that the command began is still there a moment after it.
fn is_anything_left() -> bool {
    let begun = Instant::now();
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::CHILD) => return false,
            Ok(None) if begun.elapsed() > AFTERWARDS => return true,
            Ok(None) => std::thread::sleep(AFTERWARDS_POLL),
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Becomes the command. Returns what the kernel lacks where there is none to become.
fn command(begin: &Begin<'_>) -> Step<Vec<String>> {
    let order = begin.order;
    rustix::process::setsid().map_err(cannot("begin a session"))?;
    rustix::stdio::dup2_stdin(begin.input.as_fd()).map_err(cannot("give the input"))?;
    close_on_exec_from(3).map_err(cannot("close descriptors"))?;
    let empty = if begin.layers.contains(&Layer::Mounts) { EMPTY } else { "/" };
    rustix::process::chdir(empty).map_err(cannot("enter an empty folder"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if order.shows_file {
        rustix::fs::access(INPUT, Access::READ_OK).map_err(|errno| {
            let why = "the file's mode or its file system keep it from being shown by path; \
                       input = \"stdin\" would take it";
            format!("{}: {why}", cannot("read the content")(errno))
        })?;
    }
    limits::set(order)?;
    let mut lacks = Vec::new();
    if begin.layers.contains(&Layer::Landlock) && !rights::restrict(begin.places)? {
        lacks.push("Landlock".to_owned());
    }
    if begin.layers.contains(&Layer::Calls) {
        filter::apply()?;
    }
    let Some((program, arguments)) = order.run.split_first() else { return Ok(lacks) };
    let mut command = Command::new(program);
    command.args(arguments).args(order.shows_file.then_some(INPUT));
    command.env_clear().envs(ENVIRONMENT);
    command.envs(order.environment());
    let error = command.exec();
    Err(format!("cannot execute {program}: {}", super::errno_name(crate::error::errno_of(&error))))
}
