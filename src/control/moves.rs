//! The daemon's side of `octroi mv` and `octroi undo`: one connection from the request to the client's
//! rename(2).
//!
//! The connection is the client's life line. While the crossing is prepared, on a thread of its own,
//! this one tells how far it is and looks whether the client is still there; afterwards it takes signs
//! of life until the client goes or says that its rename has returned. A client that shuts its side down
//! gives up, and is answered when everything is as before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use rustix::net::{RecvFlags, SendFlags};

use crate::error::{Errno, errno_name};
use crate::mover::{CrossingError, Progress, Stop};
use crate::sys::peer::groups_of_peer;
use crate::sys::schedule::{Slice, set_slice};
use crate::types::Caller;
use crate::vfs::{MoveError, MoveRequest, PreparedMove, Readied};

use super::protocol::{Answer, RETURNED, Request, encode};
use super::server::Connection;
use super::service::ViewService;
use super::transactions::active;

/// Between two answers that tell how far it is.
const TELL: Duration = Duration::from_millis(200);
/// How often a client that waits in its rename is looked at.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// For so long signs of life keep what is ready: its names are locked for everybody.
const COME_MAX: Duration = Duration::from_secs(300);

/// Which file system a descriptor is on, and which inode it is. Asks no daemon, least of all this one.
pub(super) fn identify(descriptor: impl AsFd, path: &Path) -> Result<Identified, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(descriptor, path, flags, StatxFlags::TYPE | StatxFlags::INO)?;
    let is_directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    let device = (found.stx_dev_major, found.stx_dev_minor);
    Ok(Identified { device, number: found.stx_ino, is_directory })
}

/// See [`identify`].
pub(super) struct Identified {
    device: (u32, u32),
    number: u64,
    is_directory: bool,
}

/// The device of the file system that is mounted at a path.
pub fn device_of(mountpoint: &Path) -> Result<(u32, u32), Errno> {
    identify(CWD, mountpoint).map(|found| found.device)
}

/// What both threads of a move know of it.
#[derive(Default)]
struct Watch {
    progress: Mutex<Option<Arc<Progress>>>,
    left: AtomicBool,
}

impl Watch {
    fn begun(&self, progress: &Arc<Progress>) {
        *self.progress.lock() = Some(Arc::clone(progress));
        if self.left.load(Ordering::Acquire) {
            progress.cancel(Stop::ClientLeft);
        }
    }

    fn client_left(&self) {
        self.left.store(true, Ordering::Release);
        if let Some(progress) = &*self.progress.lock() {
            progress.cancel(Stop::ClientLeft);
        }
    }
}

/// Answers a [`Request::Move`].
pub(super) fn converse(
    service: &ViewService,
    peer: Caller,
    request: Request,
    descriptors: Vec<OwnedFd>,
    connection: &Connection,
) -> io::Result<()> {
    let stream = connection.stream();
    let asked = match understand(service, peer, request, descriptors, stream) {
        Ok(asked) => asked,
        Err(error) => return send(stream, &not_moved(&error)),
    };
    let watch = Watch::default();
    match prepare(service, &asked, stream, &watch) {
        Ok(Readied::Within) => {
            let lost = Vec::new();
            send(stream, &Answer::Ready { txid: None, bytes: 0, files: 1, lost })
        }
        Ok(Readied::Crossing(prepared)) if !watch.left.load(Ordering::Acquire) => {
            accompany(connection, prepared)
        }
        Ok(Readied::Crossing(prepared)) => {
            drop(prepared);
            send(stream, &not_moved(&cancelled()))
        }
        Err(error) => send(stream, &not_moved(&error)),
    }
}

/// The folders must be of this very mount: what the numbers of other file systems mean here is nobody's
/// to choose. They are closed at once, for they keep the mount busy.
fn understand(
    service: &ViewService,
    caller: Caller,
    request: Request,
    descriptors: Vec<OwnedFd>,
    stream: &UnixStream,
) -> Result<MoveRequest, MoveError> {
    let Request::Move { source, target, no_replace, undoes } = request else {
        return Err(Errno::INVAL.into());
    };
    let groups = groups_of_peer(stream)?;
    let [source_folder, target_folder] = descriptors.as_slice() else {
        return Err(Errno::BADF.into());
    };
    let number = |folder: &OwnedFd| -> Result<u64, MoveError> {
        let found = identify(folder, Path::new(""))?;
        if !found.is_directory {
            return Err(Errno::NOTDIR.into());
        }
        if Some(found.device) != service.hello.device {
            let why = "the folder is not in this view".to_owned();
            return Err(MoveError { errno: Errno::XDEV, why });
        }
        Ok(found.number)
    };
    let source = (number(source_folder)?, source.into_os_string());
    let target = (number(target_folder)?, target.into_os_string());
    Ok(MoveRequest { caller, groups, source, target, no_replace, undoes })
}

/// Prepares on a thread of its own, and tells how far it is until it is done.
fn prepare(
    service: &ViewService,
    asked: &MoveRequest,
    stream: &UnixStream,
    watch: &Watch,
) -> Result<Readied, MoveError> {
    std::thread::scope(|scope| {
        let (done, ready) = bounded(1);
        let work = move || {
            set_slice(Slice::Long);
            let _ = done.send(service.vfs.prepare_move(asked, &|progress| watch.begun(progress)));
        };
        let started = std::thread::Builder::new().name("prepare".into()).spawn_scoped(scope, work);
        if let Err(error) = started {
            log::warn!("cannot start a thread to prepare a move: {error}");
            return Err(Errno::AGAIN.into());
        }
        loop {
            match ready.recv_timeout(TELL) {
                Ok(prepared) => return prepared,
                Err(RecvTimeoutError::Disconnected) => return Err(Errno::IO.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if watch.left.load(Ordering::Acquire) {
                continue;
            }
            let heard = hear(stream);
            // Also to one that gives up: it tells its user what was stopped.
            if let Some(progress) = &*watch.progress.lock() {
                tell(stream, &Answer::Moving(active(progress)));
            }
            if heard != Heard::Alive {
                watch.client_left();
            }
        }
    })
}

/// From the answer that it is ready until the client has gone, or has renamed.
fn accompany(connection: &Connection, prepared: PreparedMove) -> io::Result<()> {
    let stream = connection.stream();
    let progress = &prepared.progress;
    let bytes = progress.size.load(Ordering::Relaxed);
    let files = progress.files_all.load(Ordering::Relaxed);
    let lost = prepared.lost.clone();
    send(stream, &Answer::Ready { txid: Some(progress.txid), bytes, files, lost })?;
    let ready = Instant::now();
    let _waiting = connection.waits();
    loop {
        let mut waiting = [PollFd::new(stream, PollFlags::IN)];
        match poll(&mut waiting, Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match hear(stream) {
            Heard::Alive if ready.elapsed() < COME_MAX => prepared.keep(),
            Heard::Alive => {}
            Heard::Returned => {
                let why = prepared.give_up();
                // Whoever renames the same names after the client has ended must meet no mark.
                drop(prepared);
                return send(stream, &given_up(why));
            }
            Heard::Left => break,
        }
    }
    let told = send(stream, &given_up(prepared.give_up()));
    // A rename that is already on its way must meet the mark: that goes when the client is gone for
    // good, and its rename with it.
    let mut closing = [PollFd::new(stream, PollFlags::empty())];
    while poll(&mut closing, None) == Err(Errno::INTR) {}
    told
}

/// What the client has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Signs of life at most.
    Alive,
    /// Its rename has returned.
    Returned,
    /// It will send no more.
    Left,
}

/// Reads what there is, without waiting.
fn hear(stream: &UnixStream) -> Heard {
    let mut buffer = [0; 256];
    match rustix::net::recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Heard::Left,
        Ok((count, _)) if buffer.iter().take(count).any(|byte| *byte == RETURNED) => {
            Heard::Returned
        }
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Heard::Alive,
        Err(_) => Heard::Left,
    }
}

/// Sends an answer that may be lost: a client that does not read (it may be stopped by Ctrl-Z) has no
/// use for old ones. A line this short is sent whole or not at all.
fn tell(stream: &UnixStream, answer: &Answer) {
    if let Ok(line) = encode(answer) {
        let _ = rustix::net::send(stream, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    io::Write::write_all(&mut stream, &encode(answer)?)
}

fn not_moved(error: &MoveError) -> Answer {
    Answer::NotMoved { result: errno_name(error.errno).to_owned(), why: error.why.clone() }
}

fn given_up(why: Stop) -> Answer {
    not_moved(&CrossingError::Cancelled(why).into())
}

fn cancelled() -> MoveError {
    CrossingError::Cancelled(Stop::ClientLeft).into()
}
