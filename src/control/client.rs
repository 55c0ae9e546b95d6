//! The side of the commands.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mounts::ViewMount;
use super::protocol::{ANSWER_MAX, Answer, Hello, Request, encode};
use super::socket::candidates;
use crate::sys::peer::peer_of;

/// How long an answer may take; an undo, which may copy a file, as long as it needs.
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
    /// root is passed over.
    pub fn find(mount: &ViewMount) -> Result<Self, ClientError> {
        for socket in candidates(&mount.name, mount.owner) {
            let Ok((Answer::Hello(hello), peer)) = exchange(&socket, &Request::Hello) else {
                continue;
            };
            let trusted = peer == mount.owner || peer == 0;
            if trusted && hello.view == mount.name && hello.mountpoint == mount.mountpoint {
                return Ok(Self { socket, hello });
            }
        }
        Err(ClientError::Absent { view: mount.name.clone() })
    }

    /// Asks.
    pub fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        match exchange(&self.socket, request)?.0 {
            Answer::Failed { why } => Err(ClientError::Refused(why)),
            answer => Ok(answer),
        }
    }
}

/// One request, one answer, and the user who runs the daemon.
fn exchange(socket: &Path, request: &Request) -> Result<(Answer, u32), ClientError> {
    let failed = |error| ClientError::Io { socket: socket.to_owned(), error };
    let line = encode(request).map_err(|error| failed(error.into()))?;
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    let timeout = if matches!(request, Request::Undo { .. }) { None } else { Some(TIMEOUT) };
    stream.set_read_timeout(timeout).map_err(failed)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
    let peer = peer_of(&stream).map_err(|errno| failed(errno.into()))?.uid;
    stream.write_all(&line).map_err(failed)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX as u64))
        .read_until(b'\n', &mut answer)
        .map_err(failed)?;
    let answer = serde_json::from_slice(&answer).map_err(|_| ClientError::NotUnderstood)?;
    Ok((answer, peer))
}
