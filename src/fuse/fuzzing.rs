//! Any bytes as requests of the kernel: messages of `/dev/fuse` (include/uapi/linux/fuse.h) over a socket
//! that keeps them apart, through the same session as a mount's.
//!
//! The bytes are a sequence of messages: opcode, node, handle, caller, the length of what follows the
//! header (two bytes), and that. Nodes and handles are chosen from those that replies told of and some
//! that nobody was told of, so that both are met.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};

use super::serve::Adapter;
use crate::vfs::Vfs;

/// Longest wait for a reply: an operation that waits for others gives up before.
const PATIENCE: Duration = Duration::from_secs(50);
/// Messages in one run.
const MESSAGES_MAX: usize = 64;
/// Known nodes and handles each.
const KNOWN_MAX: usize = 64;
/// Room for the largest reply, whose data is 1 MiB at most.
const REPLY_MAX: usize = (1 << 20) + 4096;
/// Sizes and offsets stay below, or are such as no file system takes: the machine is shared.
const SIZE_MAX: u64 = 1 << 20;

/// These two have no reply where they can be read.
const FORGET: u32 = 2;
const BATCH_FORGET: u32 = 42;
const SETATTR: u32 = 4;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const CREATE: u32 = 35;
const DESTROY: u32 = 38;
const IOCTL: u32 = 39;
const FALLOCATE: u32 = 43;
const COPY_FILE_RANGE: u32 = 47;
/// They tell of a node: LOOKUP, SYMLINK, MKNOD, MKDIR, LINK, CREATE.
const TELL_NODE: [u32; 6] = [1, 6, 8, 9, 13, CREATE];
/// They tell of a handle: OPEN, OPENDIR.
const TELL_HANDLE: [u32; 2] = [14, 27];
/// A handle comes first in these, after eight bytes in GETATTR and SETATTR.
const HANDLE_FIRST: [u32; 12] =
    [15, WRITE, 18, 20, 25, 28, 29, 30, FALLOCATE, 44, 46, COPY_FILE_RANGE];
const HANDLE_SECOND: [u32; 2] = [3, SETATTR];
/// A node comes first in these: RENAME, LINK, RENAME2.
const NODE_FIRST: [u32; 3] = [12, 13, 45];
/// Bytes of `fuse_in_header`, `fuse_out_header` and `fuse_entry_out`.
const HEADER: usize = 40;
const REPLY_HEADER: usize = 16;
const ENTRY: usize = 128;

/// Sends the messages to a session that serves `vfs`, each after the reply to the one before. Every
/// request must be answered, with a valid errno, and no thread may fail.
pub fn run(data: &[u8], vfs: &Arc<Vfs>) {
    let (kernel, device) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a pair of sockets");
    for end in [&kernel, &device] {
        // Where this is not permitted, replies of full size would not be sent.
        sockopt::set_socket_send_buffer_size_force(end, 2 * REPLY_MAX).expect("run as root");
    }
    sockopt::set_socket_timeout(&kernel, sockopt::Timeout::Recv, Some(PATIENCE)).expect("set");
    let served = Arc::clone(vfs);
    let server = std::thread::spawn(move || serve(served, device));
    let mut peer = Kernel {
        socket: kernel,
        unique: 1,
        nodes: vec![1, 0, 2, 3, 4, 5, 6, u64::MAX, 1 << 62, (1 << 62) + 2, (1 << 62) + 3],
        handles: vec![0, 1, 2, u64::MAX],
        reply: vec![0; REPLY_MAX],
    };
    peer.send(INIT, 0, [0, 0, 0], &init());
    let mut rest = data;
    for _ in 0..MESSAGES_MAX {
        let Some(message) = Message::take(&mut rest) else { break };
        if !peer.play(&message) {
            break;
        }
    }
    drop(peer);
    server.join().expect("the session's thread did not fail");
}

/// As [`super::Mounted`] does, with one worker.
fn serve(vfs: Arc<Vfs>, device: OwnedFd) {
    let adapter = Adapter::new(vfs, 1).expect("threads");
    let mut config = Config::default();
    config.n_threads = Some(1);
    let session = Session::from_fd(adapter, device, SessionACL::All, config).expect("agreed");
    // Its end is an invalid request: the other end is closed.
    match session.run() {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
        Ok(()) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Version 7.45, and everything that a kernel can offer.
fn init() -> Vec<u8> {
    let words = [7, 45, 1 << 20, u32::MAX, u32::MAX].into_iter().chain([0; 11]);
    words.flat_map(u32::to_le_bytes).collect()
}

struct Message {
    opcode: u32,
    node: u8,
    handle: u8,
    caller: u8,
    body: Vec<u8>,
}

impl Message {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (head, after) = rest.split_first_chunk::<6>()?;
        let [opcode, node, handle, caller, low, high] = *head;
        let length = usize::from(u16::from_le_bytes([low, high])).min(after.len());
        let (body, after) = after.split_at(length);
        *rest = after;
        // Beyond those that exist, some that do not.
        let opcode = match opcode {
            255 => u32::MAX,
            254 => 4096,
            known => u32::from(known % 56),
        };
        Some(Self { opcode, node, handle, caller, body: body.to_vec() })
    }
}

struct Kernel {
    socket: OwnedFd,
    unique: u64,
    nodes: Vec<u64>,
    handles: Vec<u64>,
    reply: Vec<u8>,
}

impl Kernel {
    /// Whether the session goes on.
    fn play(&mut self, message: &Message) -> bool {
        let mut body = message.body.clone();
        let node = self.nodes[usize::from(message.node) % self.nodes.len()];
        let other = self.nodes[usize::from(message.handle) % self.nodes.len()];
        let handle = self.handles[usize::from(message.handle) % self.handles.len()];
        let opcode = message.opcode;
        if HANDLE_FIRST.contains(&opcode) {
            put(&mut body, 0, handle);
        } else if HANDLE_SECOND.contains(&opcode) {
            put(&mut body, 8, handle);
        } else if NODE_FIRST.contains(&opcode) {
            put(&mut body, 0, other);
        }
        match opcode {
            SETATTR => tame(&mut body, &[16]),
            WRITE => tame(&mut body, &[8]),
            FALLOCATE => tame(&mut body, &[8, 16]),
            COPY_FILE_RANGE => {
                put(&mut body, 16, other);
                put(&mut body, 24, handle);
                tame(&mut body, &[8, 32, 40]);
            }
            _ => {}
        }
        fit(opcode, &mut body);
        let uid = [0, 0, 1001, 65_534][usize::from(message.caller & 3)];
        let gid = [0, 0, 1001, 2001][usize::from(message.caller >> 2 & 3)];
        let pid = [std::process::id(), 0, 1, u32::MAX][usize::from(message.caller >> 4 & 3)];
        self.send(opcode, node, [uid, gid, pid], &body);
        opcode != DESTROY
    }

    /// Sends a request, and takes its reply if it has one.
    fn send(&mut self, opcode: u32, node: u64, caller: [u32; 3], body: &[u8]) {
        self.unique += 1;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(((HEADER + body.len()) as u32).to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        caller.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        bytes.extend([0; 4]);
        bytes.extend(body);
        let sent = retry_on_intr(|| send(self.socket.as_fd(), &bytes, SendFlags::NOSIGNAL));
        sent.expect("the session listens");
        let count = body.get(..4).map_or(0, |count| u32_at(count, 0));
        let silent = match opcode {
            FORGET => body.len() >= 8,
            BATCH_FORGET => body.len() >= 8 && (body.len() - 8) / 16 >= count as usize,
            _ => false,
        };
        if !silent {
            self.take_reply(opcode, node, body);
        }
    }

    fn take_reply(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let flags = RecvFlags::empty();
        let received = retry_on_intr(|| recv(self.socket.as_fd(), &mut *self.reply, flags));
        let length = match received {
            Ok((_, length)) => length,
            Err(errno) => panic!("no reply to opcode {opcode} on node {node}, {body:?}: {errno}"),
        };
        let reply = &self.reply[..length];
        assert!(length >= REPLY_HEADER, "the session ended at opcode {opcode}, {body:?}");
        assert_eq!(u32_at(reply, 0) as usize, length);
        assert_eq!(u64_at(reply, 8), self.unique, "a reply to another request");
        let error = u32_at(reply, 4).cast_signed();
        assert!((-4095..=0).contains(&error), "errno {error} for opcode {opcode}");
        if error != 0 {
            return;
        }
        let mut handle_at = REPLY_HEADER;
        if TELL_NODE.contains(&opcode) {
            keep(&mut self.nodes, u64_at(reply, REPLY_HEADER));
            handle_at += ENTRY;
        }
        if opcode == CREATE || TELL_HANDLE.contains(&opcode) {
            keep(&mut self.handles, u64_at(reply, handle_at));
        }
    }
}

fn keep(known: &mut Vec<u64>, number: u64) {
    if known.len() < KNOWN_MAX && !known.contains(&number) {
        known.push(number);
    }
}

fn put(body: &mut [u8], at: usize, number: u64) {
    if let Some(place) = body.get_mut(at..at + 8) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

/// Makes true what fuser takes for true of a kernel: that a request gives the length of its data, and
/// that times are such as the kernel cuts them to (`timestamp_truncate`).
fn fit(opcode: u32, body: &mut [u8]) {
    let (place, data) = match opcode {
        WRITE => (16, 40),
        IOCTL => (24, 32),
        SETXATTR => {
            let name = body.get(8..).and_then(|rest| rest.iter().position(|byte| *byte == 0));
            (0, name.map_or(usize::MAX, |length| 8 + length + 1))
        }
        SETATTR => {
            for (seconds, nanos) in [(32, 56), (40, 60), (48, 64)] {
                let Some(place) = body.get(nanos..nanos + 4) else { continue };
                let mut fraction = u32_at(place, 0) % 1_000_000_000;
                if matches!(u64_at(body, seconds).cast_signed(), i64::MIN | i64::MAX) {
                    fraction = 0;
                }
                body[nanos..nanos + 4].copy_from_slice(&fraction.to_le_bytes());
            }
            return;
        }
        _ => return,
    };
    if let Some(length) = body.len().checked_sub(data) {
        body[place..place + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }
}

fn tame(body: &mut [u8], places: &[usize]) {
    for at in places.iter().copied() {
        let number = body.get(at..at + 8).map(|place| u64_at(place, 0));
        if let Some(number) = number.filter(|number| i64::try_from(*number).is_ok()) {
            put(body, at, number % SIZE_MAX);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
