//! The maps of user namespaces (user_namespaces(7)).

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::UnshareFlags;

use super::{NOBODY, Step, cannot, pipe, write_proc};
use crate::sys::sandbox::{Forked, fork_alone, unshare_alone};

/// Gives the user namespace of a process its one user and one group: number inside, number outside.
pub(super) fn map(
    proc: &OwnedFd,
    process: &str,
    (uid, real_uid): (u32, u32),
    (gid, real_gid): (u32, u32),
) -> Step<()> {
    let write = |file: &str, text: String| {
        write_proc(proc, &format!("{process}/{file}"), &text)
            .map_err(cannot(format!("write {file} of a user namespace")))
    };
    // Without it a group may not be mapped by those who are not root.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {real_uid} 1"))?;
    write("gid_map", format!("{gid} {real_gid} 1"))
}

/// A user namespace in which a file's owner is `nobody`, for a mount that shows it so.
pub(super) fn namespace(proc: &OwnedFd, uid: u32, gid: u32) -> Step<OwnedFd> {
    let (ready, told) = pipe()?;
    let (wait, end) = pipe()?;
    let process = match fork_alone().map_err(cannot("fork"))? {
        Forked::Child => {
            drop((ready, end));
            let made = unshare_alone(UnshareFlags::NEWUSER).is_ok();
            let _ = rustix::io::write(&told, &[u8::from(made)]);
            // The other end closes when the namespace is held, or its maker is gone.
            let _ = rustix::io::read(&wait, &mut [0; 1]);
            std::process::exit(0)
        }
        Forked::Parent(process) => process,
    };
    drop((told, wait));
    let mut made = [0];
    let _ = rustix::io::read(&ready, &mut made);
    let held = match made {
        [1] => hold(proc, &process.as_raw_nonzero().to_string(), uid, gid),
        _ => Err("cannot make a user namespace".to_owned()),
    };
    drop(end);
    let _ = kill_process(process, Signal::KILL);
    let _ = waitpid(Some(process), WaitOptions::empty());
    held
}

fn hold(proc: &OwnedFd, process: &str, uid: u32, gid: u32) -> Step<OwnedFd> {
    map(proc, process, (uid, NOBODY), (gid, NOBODY))?;
    let path = format!("{process}/ns/user");
    rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(cannot("open a user namespace"))
}
