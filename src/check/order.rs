//! What the daemon tells the helper, and what the helper answers: JSON, one object a line, over a socket
//! that is the helper's standard input. The order comes with one descriptor, what the command gets as its
//! standard input, and a second where the content is to be a file. The daemon's end being closed means
//! that the command is to end.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::sys::descriptors;

/// The subcommand of this program that is the helper. Not for users.
pub const HELPER: &str = "run-gate-check";

/// Bytes of an order, at most: what a socket holds that nobody reads yet (`net.core.wmem_default` of
/// 212,992), with room for what the kernel counts beside them.
const ORDER_MAX: usize = 160 * 1024;
/// Bytes of a value of the environment, at most, far below `MAX_ARG_STRLEN` of include/uapi/linux/binfmts.h.
const VALUE_MAX: usize = 48 * 1024;
/// Bytes of an answer, at most.
const ANSWER_MAX: usize = 64 * 1024;

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Program and arguments. Empty: shut in and do nothing, to see whether that works.
    pub run: Vec<String>,
    /// Whether the second descriptor is to be shown as a file.
    pub shows_file: bool,
    /// Seconds of processor time for each process.
    pub cpu_seconds: u64,
    /// Bytes of memory for each process, and of a file.
    pub memory: u64,
    /// What can be read beside the system's folders.
    pub read: Vec<PathBuf>,
    /// Of what is shown, none may be in any of these, nor hold one: real paths.
    pub kept: Vec<PathBuf>,
    /// The environment, beside what all commands get: base64, for values are bytes.
    pub environment: Vec<(String, String)>,
}

impl Order {
    /// Adds to the environment. `false`: the value is longer than execve(2) takes with its name.
    pub(super) fn set(&mut self, name: &str, value: &OsStr) -> bool {
        let fits = value.len() < VALUE_MAX;
        self.environment.push((name.to_owned(), STANDARD.encode(value.as_bytes())));
        fits
    }

    /// The environment's names and values.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&str, OsString)> {
        self.environment.iter().map(|(name, value)| {
            let value = STANDARD.decode(value).unwrap_or_default();
            (name.as_str(), OsString::from_vec(value))
        })
    }
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// An empty order was carried out; what the kernel lacks that could be done without.
    Ready { lacks: Vec<String> },
    /// Something kept the command from being run.
    NotRun(String),
    /// The command ended by itself.
    Ended { code: Option<i32>, signal: Option<i32>, left: bool },
}

/// Sends an order to who has not been started yet. It fits into the socket's buffer or is refused: this never
/// waits.
pub(super) fn give(socket: &UnixStream, order: &Order, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    if line.len() > ORDER_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too long"));
    }
    socket.set_nonblocking(true)?;
    descriptors::send(socket, &line, with)?;
    socket.set_nonblocking(false)
}

/// Receives an order with its descriptors.
pub(super) fn take(socket: &UnixStream) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut came = Vec::new();
    let mut line = Vec::new();
    let mut buffer = vec![0; 8192];
    while !line.ends_with(b"\n") {
        let count = descriptors::receive(socket, &mut buffer, &mut came)?;
        line.extend(buffer.iter().take(count));
        if count == 0 || line.len() > ORDER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((serde_json::from_slice(&line)?, came))
}

/// Sends an answer.
pub(super) fn answer(mut socket: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// The bytes of an answer as they come.
#[derive(Debug, Default)]
pub(super) struct Answering(Vec<u8>);

impl Answering {
    /// Reads what is there. True at the end.
    pub(super) fn read(&mut self, mut socket: &UnixStream) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer)?;
        self.0.extend(buffer.iter().take(count));
        Ok(count == 0 || self.0.len() > ANSWER_MAX)
    }

    /// The first whole answer: whatever may follow comes from a process that was told to end.
    pub(super) fn first(&self) -> Option<Answer> {
        let line = self.0.split_inclusive(|byte| *byte == b'\n').next()?;
        line.ends_with(b"\n").then(|| serde_json::from_slice(line).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn empty() -> Order {
        let run = vec!["/bin/true".to_owned(), "x".repeat(20_000)];
        let (read, kept, environment) = (vec!["/srv".into()], vec!["/data".into()], Vec::new());
        Order { run, shows_file: false, cpu_seconds: 60, memory: 1 << 29, read, kept, environment }
    }

    #[test]
    fn an_order_never_waits_for_its_reader() {
        // Nobody reads the other end.
        let (one, _other) = UnixStream::pair().unwrap();
        let mut order = empty();
        for name in ["OCTROI_SOURCE", "OCTROI_TARGET"] {
            assert!(order.set(name, OsStr::from_bytes(&[0xff; VALUE_MAX - 1])));
        }
        give(&one, &order, &[]).unwrap();
        assert!(!order.set("TOO_LONG", OsStr::from_bytes(&[b'x'; VALUE_MAX])));
        assert!(give(&one, &order, &[]).is_err());
    }

    #[test]
    fn orders_and_answers_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut order = empty();
        let value = OsString::from_vec(vec![0xff, b'\n']);
        assert!(order.set("A", &value));
        assert_eq!(order.environment().collect::<Vec<_>>(), [("A", value)]);
        give(&one, &order, &[null.as_fd()]).unwrap();
        let (came, with) = take(&other).unwrap();
        assert_eq!((came, with.len()), (order, 1));
        let ended = Answer::Ended { code: Some(1), signal: None, left: false };
        answer(&other, &ended).unwrap();
        answer(&other, &Answer::NotRun("late".to_owned())).unwrap();
        let mut answering = Answering::default();
        assert_eq!(answering.first(), None);
        answering.read(&one).unwrap();
        assert_eq!(answering.first(), Some(ended));
        drop(other);
        assert!(answering.read(&one).unwrap());
    }

    #[test]
    fn half_an_order_is_none() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"{\"run\":[").unwrap();
        drop(one);
        assert!(take(&other).is_err());
    }
}
