//! The side of the commands.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts::ViewMount;
use super::protocol::{ANSWER_MAX, Answer, Hello, RETURNED, Request, encode};
use super::socket::candidates;
use crate::sys::descriptors;
use crate::sys::peer::peer_of;
use crate::types::TxId;

/// How long an answer may take; a reload, which asks the user database, as long as it needs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket of this view answers.
    #[error("the daemon of view {view} does not answer")]
    Absent {
        /// The view.
        view: String,
    },
    /// The connection failed.
    #[error("cannot talk to the daemon on {}: {error}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It closed the connection without a whole answer.
    #[error(
        "the daemon closed the connection before it answered\n\
         hint: what was asked for may be done all the same; octroi status tells whether it lives"
    )]
    Ended,
    /// The daemon answered something else.
    #[error("the daemon's answer is not understood; is it of another version?")]
    NotUnderstood,
    /// The daemon refused, or failed, and says why.
    #[error("{0}")]
    Refused(String),
}

/// A way to the daemon of one view.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// Which view it is.
    pub hello: Hello,
}

impl Client {
    /// Finds the daemon that serves a mount. A socket of somebody who is neither the mounting user nor
    /// root is passed over. Sockets that do not answer take no longer together than one answer may.
    pub fn find(mount: &ViewMount) -> Result<Self, ClientError> {
        let mut refused = None;
        let begun = Instant::now();
        for socket in candidates(&mount.name, mount.owner) {
            let left = TIMEOUT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let Ok((answer, peer)) = exchange(&socket, &Request::Hello, Some(left)) else {
                continue;
            };
            let trusted = peer == mount.owner || peer == 0;
            let ours = |hello: &Hello| match hello.device {
                // Another namespace or a bind mount may show it elsewhere.
                Some(device) => hello.view == mount.name && device == mount.device,
                None => hello.view == mount.name && hello.mountpoint == mount.mountpoint,
            };
            match answer {
                Answer::Hello(hello) if trusted && ours(&hello) => {
                    return Ok(Self { socket, hello });
                }
                Answer::Failed { why } if trusted => refused = Some(ClientError::Refused(why)),
                _ => {}
            }
        }
        Err(refused.unwrap_or_else(|| ClientError::Absent { view: mount.name.clone() }))
    }

    /// Asks to prepare what this process will rename: `source` in the first folder, to `target` in the
    /// second. `undoes` is the crossing that the rename takes back.
    pub fn begin_move(
        &self,
        (source_folder, source): (BorrowedFd<'_>, &OsStr),
        (target_folder, target): (BorrowedFd<'_>, &OsStr),
        no_replace: bool,
        undoes: Option<TxId>,
    ) -> Result<MoveClient, ClientError> {
        let failed = |error| ClientError::Io { socket: self.socket.clone(), error };
        let (source, target) = (source.into(), target.into());
        let request = Request::Move { source, target, no_replace, undoes };
        let line = encode(&request).map_err(|error| failed(error.into()))?;
        let stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        descriptors::send(&stream, &line, &[source_folder, target_folder]).map_err(failed)?;
        MoveClient::new(stream).map_err(failed)
    }

    /// Asks.
    pub fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let takes_time = matches!(request, Request::Reload);
        let timeout = if takes_time { None } else { Some(TIMEOUT) };
        match exchange(&self.socket, request, timeout)?.0 {
            Answer::Failed { why } => Err(ClientError::Refused(why)),
            answer => Ok(answer),
        }
    }
}

/// The connection of a move, which is prepared for as long as this lives. For polling: when it is
/// readable, [`MoveClient::receive`] has something.
#[derive(Debug)]
pub struct MoveClient {
    stream: UnixStream,
    received: Vec<u8>,
}

/// What has come from the daemon.
#[derive(Debug)]
pub enum Received {
    /// An answer.
    Answer(Answer),
    /// Nothing more yet.
    Nothing,
    /// The daemon has closed the connection.
    Closed,
}

impl AsFd for MoveClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl MoveClient {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// The next answer, without waiting.
    pub fn receive(&mut self) -> Result<Received, ClientError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let answer = serde_json::from_slice(&line);
                return answer.map(Received::Answer).map_err(|_| ClientError::NotUnderstood);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Received::Closed),
                Ok(count) => self.received.extend(buffer.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Received::Closed);
                }
                Err(_) => return Err(ClientError::NotUnderstood),
            }
        }
    }

    /// Tells the daemon that this process is still there. One that is not listening any more is noticed
    /// when its answer is looked for.
    pub fn sign_of_life(&mut self) {
        let _ = self.stream.write(b"\n");
    }

    /// Tells the daemon that the rename has returned, so that it frees the names; then it closes. What was
    /// not renamed is rolled back.
    pub fn returned(&mut self) {
        let _ = self.stream.write(&[RETURNED]);
        // A daemon of another version takes it for a sign of life.
        self.give_up();
    }

    /// Has everything rolled back; an answer tells when it is.
    pub fn give_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// One request, one answer, and the user who runs the daemon.
fn exchange(
    socket: &Path,
    request: &Request,
    timeout: Option<Duration>,
) -> Result<(Answer, u32), ClientError> {
    let failed = |error| ClientError::Io { socket: socket.to_owned(), error };
    let line = encode(request).map_err(|error| failed(error.into()))?;
    let stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(timeout).map_err(failed)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
    let peer = peer_of(&stream).map_err(|errno| failed(errno.into()))?.uid;
    match (&stream).write_all(&line) {
        // It has answered without asking, that it has no room.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(failed)?,
    }
    read_answer(stream).map_err(failed)?.map(|answer| (answer, peer))
}

/// The one answer of a connection.
pub(super) fn read_answer(stream: UnixStream) -> io::Result<Result<Answer, ClientError>> {
    let mut answer = Vec::new();
    let read = BufReader::new(stream.take(ANSWER_MAX as u64)).read_until(b'\n', &mut answer);
    match read {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Ok(Err(ClientError::Ended));
        }
        read => read?,
    };
    if answer.last() != Some(&b'\n') && answer.len() < ANSWER_MAX {
        return Ok(Err(ClientError::Ended));
    }
    Ok(serde_json::from_slice(&answer).map_err(|_| ClientError::NotUnderstood))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these bytes, when the daemon ends after them.
    fn cut(bytes: &[u8]) -> Result<Answer, ClientError> {
        let (mut daemon, client) = UnixStream::pair().expect("a pair");
        daemon.write_all(bytes).expect("it is sent");
        drop(daemon);
        read_answer(client).expect("it is read")
    }

    #[test]
    fn a_daemon_that_ends_while_it_answers_is_not_taken_for_another_version() {
        let answer = encode(&Answer::Aborted).expect("a line");
        assert!(matches!(cut(&answer), Ok(Answer::Aborted)));
        for length in 0..answer.len() {
            assert!(matches!(cut(&answer[..length]), Err(ClientError::Ended)), "{length} bytes");
        }
        assert!(matches!(cut(b"{\"of\":\"tomorrow\"}\n"), Err(ClientError::NotUnderstood)));
    }
}
