//! What the daemon tells the helper, and what the helper answers: JSON, one object a line, over a socket
//! that is the helper's standard input. The order comes with one descriptor, what the command gets as its
//! standard input, and a second where the content is to be a file. The daemon's end being closed means
//! that the command is to end.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sys::descriptors;

/// The subcommand of this program that is the helper. Not for users.
pub const HELPER: &str = "run-gate-check";

/// Bytes of an order, at most.
const ORDER_MAX: usize = 256 * 1024;
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
    /// The environment, beside what all commands get.
    pub environment: Vec<(String, OsString)>,
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

/// Sends an order. It fits into the socket's buffer, so that this never waits.
pub(super) fn give(socket: &UnixStream, order: &Order, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    descriptors::send(socket, &line, with)
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
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn orders_and_answers_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let order = Order {
            run: vec!["/bin/true".to_owned(), "x".repeat(20_000)],
            shows_file: false,
            cpu_seconds: 60,
            memory: 1 << 29,
            read: vec!["/srv".into()],
            environment: vec![("A".to_owned(), OsString::from_vec(vec![0xff, b'\n']))],
        };
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
