//! One move: the daemon prepares, this process renames, and a signal has everything rolled back.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{RenameFlags, renameat_with};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::protocol::Answer;
use crate::control::{Client, ClientError, MoveClient, Received};
use crate::error::{Errno, errno_name};
use crate::types::TxId;

use super::super::failure::{Failure, cannot};
use super::place::Ends;
use super::show::Show;

/// Between two signs of life while the rename waits in the kernel, for another crossing perhaps.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How long to wait for the daemon to say that it has rolled back.
const ROLL_BACK_WAIT: Duration = Duration::from_secs(10);

const WENT_AWAY: &str = "the daemon went away; what it had begun is rolled back at the next mount";
const WENT_AWAY_AT_THE_END: &str = "the daemon went away; the next mount takes it back, or where it was decided \
                                    completes it: octroi tx list tells";

/// How a move ended.
#[derive(Debug)]
pub(in crate::cli) enum Ended {
    /// It crossed.
    Crossed(Crossed),
    /// Within a branch or pool.
    Renamed,
    /// Everything is as before; the errno's name, where there is one, and why.
    Failed { result: Option<String>, why: String },
    /// A signal; whether the daemon has said that it rolled back.
    Interrupted { rolled_back: bool, txid: Option<TxId> },
}

/// A crossing that is done.
#[derive(Debug)]
pub(in crate::cli) struct Crossed {
    pub(super) txid: TxId,
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// What the copy has lost, in the words of the gate's `lossy`.
    pub(super) lost: Vec<String>,
}

/// SIGINT and SIGTERM, caught.
pub(in crate::cli) struct Signals {
    seen: Arc<AtomicUsize>,
    woken: UnixStream,
}

impl Signals {
    pub(in crate::cli) fn catch() -> Result<Self, Failure> {
        let seen = Arc::new(AtomicUsize::new(0));
        let caught = (|| {
            let (woken, wakes) = UnixStream::pair()?;
            for signal in [SIGINT, SIGTERM] {
                signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)?;
                signal_hook::low_level::pipe::register(signal, wakes.try_clone()?)?;
            }
            std::io::Result::Ok(woken)
        })();
        caught.map(|woken| Self { seen, woken }).map_err(cannot("catch signals"))
    }

    /// The signal that has come.
    pub(in crate::cli) fn seen(&self) -> Option<i32> {
        let signal = self.seen.load(Ordering::Acquire);
        i32::try_from(signal).ok().filter(|signal| *signal != 0)
    }

    /// Waits for one of two things, a signal, or the time to pass. Signals wake it once.
    fn wait(&self, for_what: impl AsFd, at_most: Duration) {
        let given =
            Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        let mut waiting = vec![PollFd::new(&for_what, PollFlags::IN)];
        if self.seen().is_none() {
            waiting.push(PollFd::new(&self.woken, PollFlags::IN));
        }
        // Whatever comes, the caller looks at everything again.
        let _ = poll(&mut waiting, Some(&given));
    }
}

/// How to rename.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct How {
    /// Fail rather than replace.
    pub(in crate::cli) no_replace: bool,
    /// The crossing that the rename takes back.
    pub(in crate::cli) undoes: Option<TxId>,
}

/// Moves. An error is the daemon's, or of the way to it.
pub(in crate::cli) fn cross(
    daemon: &Client,
    ends: &Ends,
    how: How,
    signals: &Signals,
    show: &mut Show,
) -> Result<Ended, ClientError> {
    let source = (ends.source.folder.as_fd(), ends.source.name.as_os_str());
    let target = (ends.target.folder.as_fd(), ends.target.name.as_os_str());
    let mut once_more = true;
    let (renamed, why, crossed) = loop {
        let mut client = daemon.begin_move(source, target, how.no_replace, how.undoes)?;
        let crossed = match until_ready(&mut client, signals, show)? {
            Prepared::Crossing(crossed) => Some(crossed),
            Prepared::Within => None,
            Prepared::Ended(ended) => return Ok(ended),
        };
        let renamed = rename(&mut client, ends, how.no_replace, signals);
        let why = until_freed(client, signals);
        // One file system turned out to be two: now it is known, and prepared as a copy.
        let again = renamed == Err(Errno::AGAIN) && crossed.is_some() && signals.seen().is_none();
        if !again || !std::mem::take(&mut once_more) {
            break (renamed, why, crossed);
        }
    };
    Ok(match (renamed, crossed) {
        (Ok(()), Some(crossed)) => Ended::Crossed(crossed),
        (Ok(()), None) => Ended::Renamed,
        (Err(Errno::CANCELED), crossed) if signals.seen().is_some() => {
            Ended::Interrupted { rolled_back: true, txid: crossed.map(|crossed| crossed.txid) }
        }
        (Err(errno), crossed) => Ended::Failed {
            result: Some(errno_name(errno).to_owned()),
            why: match (errno, why) {
                (Errno::CANCELED, Some(why)) => why,
                (Errno::CONNABORTED, _) if crossed.is_some() => WENT_AWAY_AT_THE_END.to_owned(),
                (errno, _) => std::io::Error::from(errno).to_string(),
            },
        },
    })
}

/// Waits until the daemon has freed the names after the rename. It may tell why that failed.
fn until_freed(mut client: MoveClient, signals: &Signals) -> Option<String> {
    client.returned();
    let since = Instant::now();
    loop {
        match client.receive() {
            Ok(Received::Answer(Answer::NotMoved { why, .. })) => return Some(why),
            Ok(Received::Answer(_)) => {}
            Ok(Received::Closed) | Err(_) => return None,
            Ok(Received::Nothing) => {
                let left = ROLL_BACK_WAIT.saturating_sub(since.elapsed());
                if left.is_zero() {
                    return None;
                }
                signals.wait(&client, left);
            }
        }
    }
}

/// What the daemon's last word was.
enum Prepared {
    Crossing(Crossed),
    Within,
    Ended(Ended),
}

fn until_ready(
    client: &mut MoveClient,
    signals: &Signals,
    show: &mut Show,
) -> Result<Prepared, ClientError> {
    let mut gave_up: Option<Instant> = None;
    let mut txid = None;
    loop {
        let interrupted = |rolled_back| Prepared::Ended(Ended::Interrupted { rolled_back, txid });
        match client.receive()? {
            Received::Answer(Answer::Moving(progress)) => {
                txid = Some(progress.txid);
                show.update(&progress);
                continue;
            }
            Received::Answer(Answer::NotMoved { .. }) if gave_up.is_some() => {
                return Ok(interrupted(true));
            }
            Received::Answer(Answer::NotMoved { result, why }) => {
                return Ok(Prepared::Ended(Ended::Failed { result: Some(result), why }));
            }
            Received::Answer(Answer::Ready { txid: ready, .. }) if gave_up.is_some() => {
                txid = ready;
                continue;
            }
            Received::Answer(Answer::Ready { txid: Some(txid), bytes, files, lost }) => {
                return Ok(Prepared::Crossing(Crossed { txid, bytes, files, lost }));
            }
            Received::Answer(Answer::Ready { txid: None, .. }) => return Ok(Prepared::Within),
            Received::Answer(Answer::Failed { why }) => return Err(ClientError::Refused(why)),
            Received::Answer(_) => return Err(ClientError::NotUnderstood),
            Received::Closed if gave_up.is_some() => return Ok(interrupted(false)),
            Received::Closed => return Err(ClientError::Refused(WENT_AWAY.to_owned())),
            Received::Nothing => {}
        }
        if signals.seen().is_some() && gave_up.is_none() {
            gave_up = Some(Instant::now());
            client.give_up();
        }
        let left = gave_up.map(|since| ROLL_BACK_WAIT.saturating_sub(since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(interrupted(false));
        }
        signals.wait(&*client, left.unwrap_or(SIGN_OF_LIFE));
    }
}

/// rename(2), on a thread of its own: the kernel may hold it up, and the daemon must know that this
/// process lives.
fn rename(
    client: &mut MoveClient,
    ends: &Ends,
    no_replace: bool,
    signals: &Signals,
) -> Result<(), Errno> {
    let flags = if no_replace { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    let (source, target) = (&ends.source, &ends.target);
    let call = || renameat_with(&source.folder, &source.name, &target.folder, &target.name, flags);
    let Ok((mut done, mut tell)) = UnixStream::pair() else { return call() };
    std::thread::scope(|scope| {
        let work = move || {
            let renamed = call();
            let _ = tell.write_all(b"\n");
            renamed
        };
        let Ok(working) = std::thread::Builder::new().spawn_scoped(scope, work) else {
            return Err(Errno::AGAIN);
        };
        let mut gave_up = false;
        while !working.is_finished() {
            signals.wait(&done, SIGN_OF_LIFE);
            if signals.seen().is_some() && !std::mem::replace(&mut gave_up, true) {
                client.give_up();
            }
            client.sign_of_life();
            if done.set_nonblocking(true).is_ok() && done.read(&mut [0; 1]).is_ok() {
                break;
            }
        }
        working.join().unwrap_or(Err(Errno::IO))
    })
}
