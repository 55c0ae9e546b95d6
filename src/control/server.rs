//! The daemon's side. It must withstand hostile peers: messages, waiting and threads are bounded, by
//! user too, who keeps it waiting makes room for others, and nothing that comes in can make it panic. A
//! failure here never touches the mount.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::protocol::{ANSWER_MAX, Answer, REQUEST_MAX, Request, encode};
use super::socket::listen;
use crate::sys::descriptors::{DESCRIPTORS_MAX, receive};
use crate::sys::peer::peer_of;
use crate::types::{Caller, after};

/// Time for a peer to send its request, and then to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests in progress at once, of all users.
const REQUESTS_MAX: usize = 32;
/// Requests in progress at once, of one user other than root.
const REQUESTS_PER_USER_MAX: usize = 4;
/// Moves in progress at once, of all users. They take their time, and leave room for other requests.
const MOVES_MAX: usize = 64;
/// Moves in progress at once, of one user other than root.
const MOVES_PER_USER_MAX: usize = 16;

/// Who answers.
pub trait Service: Send + Sync + 'static {
    /// Answers a request of a peer that the kernel vouches for.
    fn answer(&self, peer: Caller, request: Request) -> Answer;

    /// Answers a [`Request::Move`] on the connection itself, which may take any time.
    fn converse(
        &self,
        peer: Caller,
        request: Request,
        descriptors: Vec<OwnedFd>,
        connection: &Connection,
    ) -> io::Result<()>;
}

/// The connection of a move that has its room.
pub struct Connection {
    stream: Arc<UnixStream>,
    room: Slot,
}

impl Connection {
    /// What is spoken on.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says that only the peer is waited for, until that is dropped: then it may be closed to make room.
    pub fn waits(&self) -> Waiting<'_> {
        self.room.waits_for(&self.stream)
    }
}

/// A listening control socket. Dropping it stops listening and removes the socket.
pub struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to answer for a view.
    pub fn start(view: &str, service: Arc<dyn Service>) -> io::Result<Self> {
        let (listener, path) = listen(view)?;
        Self::on(listener, path, service)
    }

    fn on(listener: UnixListener, path: PathBuf, service: Arc<dyn Service>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let accepting = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_all(&listener, &seen, &service))?;
        Ok(Self { path, stopping, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove the control socket {}: {error}", self.path.display());
        }
        if let Some(accepting) = self.accepting.take().filter(|_| woken)
            && accepting.join().is_err()
        {
            log::error!("the control server had failed");
        }
    }
}

fn accept_all(listener: &UnixListener, stopping: &AtomicBool, service: &Arc<dyn Service>) {
    let room = Room {
        requests: Arc::new(Slots::new(REQUESTS_MAX, REQUESTS_PER_USER_MAX)),
        moves: Arc::new(Slots::new(MOVES_MAX, MOVES_PER_USER_MAX)),
    };
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, _)) => begin(stream, &room, service),
            Err(error) => {
                // Out of descriptors, most likely: others must close some first.
                log::warn!("cannot accept a control connection: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Hands a connection to a thread of its own, if there is room.
fn begin(stream: UnixStream, room: &Room, service: &Arc<dyn Service>) {
    let peer = match peer_of(&stream) {
        Ok(peer) => peer,
        Err(errno) => return log::warn!("cannot tell who asks on the control socket: {errno}"),
    };
    let Some(slot) = Slot::take(&room.requests, peer.uid) else {
        return refuse(&stream);
    };
    let service = Arc::clone(service);
    let moves = Arc::clone(&room.moves);
    let stream = Arc::new(stream);
    let connection = Arc::clone(&stream);
    let started = std::thread::Builder::new().name("control-request".into()).spawn(move || {
        if let Err(error) = serve(&connection, peer, &*service, slot, &moves) {
            log::debug!("a control connection of user {} ended: {error}", peer.uid);
        }
    });
    if let Err(error) = started {
        log::warn!("cannot start a thread for a control request: {error}");
        refuse(&stream);
    }
}

/// Fits into the socket's buffer; a peer that does not read must not hold up the others.
fn refuse(stream: &UnixStream) {
    if stream.set_nonblocking(true).is_ok() {
        let _ = send(stream, &busy());
    }
}

fn busy() -> Answer {
    Answer::Failed { why: "too many requests at once; try again".to_owned() }
}

/// One connection without limits of number.
#[cfg(any(test, fuzzing))]
pub(super) fn serve_alone(stream: UnixStream, peer: Caller, service: &dyn Service) {
    let slots = Arc::new(Slots::new(1, 1));
    let slot = Slot::take(&slots, peer.uid).expect("the first");
    // A client that breaks off is an error here, and nothing more.
    let _ = serve(&Arc::new(stream), peer, service, slot, &Arc::new(Slots::new(1, 1)));
}

fn serve(
    stream: &Arc<UnixStream>,
    peer: Caller,
    service: &dyn Service,
    slot: Slot,
    moves: &Arc<Slots>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut descriptors = Vec::new();
    let waiting = slot.waits_for(stream);
    let Some(line) = read_line(stream, &mut descriptors)? else { return Ok(()) };
    drop(waiting);
    let answer = match serde_json::from_slice(&line) {
        Ok(request @ Request::Move { .. }) => match Slot::take(moves, peer.uid) {
            Some(room) => {
                drop(slot);
                let connection = Connection { stream: Arc::clone(stream), room };
                return service.converse(peer, request, descriptors, &connection);
            }
            None => busy(),
        },
        Ok(request) => service.answer(peer, request),
        Err(error) => Answer::Failed { why: format!("the request is not understood: {error}") },
    };
    let _waiting = slot.waits_for(stream);
    send(stream, &answer)
}

/// A line without its newline; `None` if the peer closed without one. Too long or too slow is an
/// error.
fn read_line(stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> io::Result<Option<Vec<u8>>> {
    let deadline = after(Instant::now(), PATIENCE);
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = match receive(stream, &mut buffer, descriptors) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let new = buffer.get(..count).unwrap_or_default();
        if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(new.get(..end).unwrap_or_default());
        } else {
            line.extend_from_slice(new);
        }
        if line.len() >= REQUEST_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
        }
        if new.contains(&b'\n') {
            return Ok(Some(line));
        }
    }
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = encode(answer)?;
    if line.len() > ANSWER_MAX {
        line = encode(&Answer::Failed { why: "the answer is too long".to_owned() })?;
    }
    stream.write_all(&line)
}

/// Room for each kind of request.
struct Room {
    requests: Arc<Slots>,
    moves: Arc<Slots>,
}

/// Requests in progress.
struct Slots {
    used: Mutex<Used>,
    all_max: usize,
    user_max: usize,
}

#[derive(Default)]
struct Used {
    by_user: HashMap<u32, usize>,
    /// Connections of others than root that wait for their peer, the longest first.
    waiting: VecDeque<Arc<UnixStream>>,
}

impl Slots {
    fn new(all_max: usize, user_max: usize) -> Self {
        Self { used: Mutex::default(), all_max, user_max }
    }
}

/// Room for one request until it is dropped.
struct Slot {
    slots: Arc<Slots>,
    uid: u32,
}

impl Slot {
    /// Where there is no room for anybody, the connection that has waited longest for its peer is closed.
    fn take(slots: &Arc<Slots>, uid: u32) -> Option<Self> {
        let mut used = slots.used.lock();
        let own = used.by_user.get(&uid).copied().unwrap_or(0);
        // Root always gets in: somebody must be able to look.
        if uid != 0 {
            if own >= slots.user_max {
                return None;
            }
            if used.by_user.values().sum::<usize>() >= slots.all_max {
                // It fails only where the peer is gone already.
                let _ = used.waiting.pop_front()?.shutdown(Shutdown::Both);
            }
        }
        used.by_user.insert(uid, own.saturating_add(1));
        Some(Self { slots: Arc::clone(slots), uid })
    }

    /// Says that it waits for its peer, until that is dropped.
    fn waits_for(&self, stream: &Arc<UnixStream>) -> Waiting<'_> {
        if self.uid != 0 {
            self.slots.used.lock().waiting.push_back(Arc::clone(stream));
        }
        Waiting { slots: &self.slots, stream: Arc::clone(stream) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let by_user = &mut self.slots.used.lock().by_user;
        match by_user.get_mut(&self.uid) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                by_user.remove(&self.uid);
            }
        }
    }
}

/// A connection that waits for its peer.
pub struct Waiting<'a> {
    slots: &'a Slots,
    stream: Arc<UnixStream>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut used = self.slots.used.lock();
        used.waiting.retain(|other| !Arc::ptr_eq(other, &self.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};

    struct Echo;

    impl Service for Echo {
        fn answer(&self, peer: Caller, request: Request) -> Answer {
            Answer::Failed { why: format!("{} {request:?}", peer.uid) }
        }

        fn converse(
            &self,
            peer: Caller,
            request: Request,
            descriptors: Vec<OwnedFd>,
            connection: &Connection,
        ) -> io::Result<()> {
            let why = format!("{} {request:?} {}", peer.uid, descriptors.len());
            send(connection.stream(), &Answer::Failed { why })
        }
    }

    fn server() -> (tempfile::TempDir, Server) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("lab.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        (dir, Server::on(listener, path, Arc::new(Echo)).expect("a thread"))
    }

    fn ask(server: &Server, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&server.path).expect("connect");
        // The server may hang up before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        answer
    }

    #[test]
    fn a_request_is_answered_in_the_name_of_the_peer() {
        let (_dir, server) = server();
        let uid = rustix::process::geteuid().as_raw();
        let answer = ask(&server, b"{\"ask\":\"hello\"}\n");
        assert!(answer.contains(&format!("{uid} Hello")), "{answer}");
    }

    #[test]
    fn garbage_is_answered_and_an_endless_line_cut_off() {
        let (_dir, server) = server();
        assert!(ask(&server, b"\xff\xfe{{{\n").contains("not understood"));
        assert!(
            ask(&server, b"{\"ask\":\"where\",\"path\":\"../x\"}\n").contains("not understood")
        );
        assert_eq!(ask(&server, &vec![b'a'; REQUEST_MAX + 4096]), "");
        let deep = format!("{}\n", "[".repeat(REQUEST_MAX / 2));
        assert!(ask(&server, deep.as_bytes()).contains("not understood"));
        assert!(ask(&server, b"{\"ask\":\"hello\"}\n").contains("Hello"), "it still serves");
    }

    #[test]
    fn a_slow_peer_holds_up_nobody() {
        let (_dir, server) = server();
        let mut slow = UnixStream::connect(&server.path).expect("connect");
        slow.write_all(b"{\"ask\":").expect("half a request");
        let begun = Instant::now();
        assert!(ask(&server, b"{\"ask\":\"hello\"}\n").contains("Hello"));
        assert!(begun.elapsed() < PATIENCE, "it did not wait for the slow one");
        let mut rest = String::new();
        slow.read_to_string(&mut rest).expect("the server hangs up");
        assert_eq!(rest, "");
        assert!(begun.elapsed() < PATIENCE * 3);
    }

    #[test]
    fn one_user_cannot_take_all_the_room() {
        let slots = Arc::new(Slots::new(REQUESTS_MAX, REQUESTS_PER_USER_MAX));
        let mut taken: Vec<_> =
            (0..REQUESTS_PER_USER_MAX).map(|_| Slot::take(&slots, 1000).expect("room")).collect();
        assert!(Slot::take(&slots, 1000).is_none());
        assert!(Slot::take(&slots, 1001).is_some());
        taken.pop();
        assert!(Slot::take(&slots, 1000).is_some());
    }

    #[test]
    fn who_keeps_it_waiting_makes_room() {
        let slots = Arc::new(Slots::new(2, 1));
        let (ours, theirs): (Vec<_>, Vec<_>) =
            [(); 3].map(|()| UnixStream::pair().expect("a pair")).into_iter().unzip();
        let ours: Vec<_> = ours.into_iter().map(Arc::new).collect();
        let [one, two] = [1000, 1001].map(|uid| Slot::take(&slots, uid).expect("room"));
        assert!(Slot::take(&slots, 1002).is_none(), "nobody waits");
        let waiting = [one.waits_for(&ours[0]), two.waits_for(&ours[1])];
        assert!(Slot::take(&slots, 1001).is_none(), "one's own does not make room");
        let three = Slot::take(&slots, 1002).expect("in place of the first");
        assert_eq!((&theirs[0]).read(&mut [0]).expect("closed"), 0);
        drop(waiting);
        assert!(Slot::take(&slots, 1003).is_none(), "nobody waits any more");
        let waiting = three.waits_for(&ours[2]);
        assert!(Slot::take(&slots, 1003).is_some());
        assert_eq!((&theirs[2]).read(&mut [0]).expect("closed"), 0);
        theirs[1].set_nonblocking(true).expect("a flag");
        assert!((&theirs[1]).read(&mut [0]).is_err(), "open");
        drop(waiting);
        drop((one, two, three));
        assert!(slots.used.lock().by_user.is_empty());
    }

    #[test]
    fn a_dropped_server_takes_its_socket_away() {
        let (dir, server) = server();
        drop(server);
        assert!(!dir.path().join("lab.sock").exists());
    }
}
