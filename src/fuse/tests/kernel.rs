//! A stand-in for the kernel: hand-made messages of the FUSE protocol (include/uapi/linux/fuse.h) to
//! the adapter, over a socket that keeps messages apart as /dev/fuse does.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use rustix::io::{read, write};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::fuse::lanes::Lanes;
use crate::fuse::serve::Adapter;
use crate::vfs::Vfs;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(20);
/// DONT_MASK and POSIX_ACL, without which there is no mount, and RENAME2 needs no flag.
const OFFERED: u32 = 1 << 6 | 1 << 20;
/// Of the header of a request, and of an answer.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// Numbers of operations.
#[allow(missing_docs)]
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    /// The highest that there is (FUSE_STATX).
    pub const LAST: u32 = 52;
}

/// What follows the header of a request.
#[derive(Default, Clone)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Numbers of four bytes.
    pub fn short(mut self, numbers: &[u32]) -> Self {
        numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
        self
    }

    /// Numbers of eight bytes.
    pub fn long(mut self, numbers: &[u64]) -> Self {
        numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
        self
    }

    /// A name with its NUL.
    pub fn name(mut self, name: &str) -> Self {
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// The kernel's end. The session ends with it.
pub struct Kernel {
    socket: Option<OwnedFd>,
    session: Option<JoinHandle<std::io::Result<()>>>,
    unique: u64,
    /// Those of the view.
    pub lanes: Arc<Lanes>,
    /// Who asks.
    pub uid: u32,
}

impl Kernel {
    /// Begins a session of a view.
    pub fn start(vfs: Arc<Vfs>) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair of sockets");
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE)).expect("a time-out");
        let adapter = Adapter::new(vfs, 2).expect("threads");
        let lanes = Arc::clone(&adapter.lanes);
        let session = std::thread::spawn(move || {
            let mut config = Config::default();
            config.n_threads = Some(1);
            Session::from_fd(adapter, theirs, SessionACL::All, config)?.run()
        });
        let mut kernel =
            Self { socket: Some(ours), session: Some(session), unique: 0, lanes, uid: 0 };
        let init = Body::default().short(&[7, 40, 0, OFFERED]).bytes(&[0; 48]);
        kernel.ask(op::INIT, 0, &init).expect("the session begins");
        kernel
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("open until it is dropped")
    }

    /// Sends a request that is not answered.
    pub fn tell(&mut self, operation: u32, number: u64, body: &Body) -> u64 {
        self.unique += 2;
        let length = (IN_HEADER + body.0.len()) as u32;
        let message = Body::default()
            .short(&[length, operation])
            .long(&[self.unique, number])
            .short(&[self.uid, self.uid, 1, 0])
            .bytes(&body.0);
        let sent = write(self.socket(), &message.0).expect("the session listens");
        assert_eq!(sent, message.0.len());
        self.unique
    }

    /// Sends a request and waits for its answer: what follows the header, or the error's number.
    #[track_caller]
    pub fn ask(&mut self, operation: u32, number: u64, body: &Body) -> Result<Vec<u8>, i32> {
        let unique = self.tell(operation, number, body);
        self.answer_to(unique).unwrap_or_else(|| panic!("operation {operation} was not answered"))
    }

    /// The answer to a request, of which there is one alone; `None` if none came.
    pub fn answer_to(&mut self, unique: u64) -> Option<Result<Vec<u8>, i32>> {
        let mut buffer = vec![0; 1 << 17];
        let count = read(self.socket(), &mut buffer).ok().filter(|count| *count >= OUT_HEADER)?;
        buffer.truncate(count);
        assert_eq!(number_at(&buffer, 0, 4), count as u64, "the length that an answer says");
        assert_eq!(number_at(&buffer, 8, 8), unique, "the request that it answers");
        let error = number_at(&buffer, 4, 4) as u32 as i32;
        Some(if error == 0 { Ok(buffer.split_off(OUT_HEADER)) } else { Err(-error) })
    }

    /// The number of a name in a directory.
    #[track_caller]
    pub fn lookup(&mut self, parent: u64, name: &str) -> u64 {
        let found = self.ask(op::LOOKUP, parent, &Body::default().name(name)).expect(name);
        number_at(&found, 0, 8)
    }

    /// The handle of an inode opened with these flags.
    #[track_caller]
    pub fn open(&mut self, operation: u32, number: u64, flags: i32) -> u64 {
        let body = Body::default().short(&[flags as u32, 0]);
        number_at(&self.ask(operation, number, &body).expect("opened"), 0, 8)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.socket = None;
        let ended = self.session.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the session panicked");
        }
    }
}

/// A number of 4 or 8 bytes in an answer.
pub fn number_at(bytes: &[u8], at: usize, length: usize) -> u64 {
    let digits = bytes[at..at + length].iter().rev();
    digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
}
