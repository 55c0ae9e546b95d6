//! Disks whose every write and flush is recorded, and that can be had again as they were at any moment:
//! files that a FUSE server in this process holds in memory, to be mounted by way of loop devices.
//!
//! The kernel sends what a loop device writes as WRITE at once (nothing is cached for writing back), and
//! its flushes as FSYNC, so the order of both is that in which the disk got them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, WriteFlags,
};

const BLOCK: u64 = 4096;
/// Nothing here is forgotten by others' doing.
const TTL: Duration = Duration::from_secs(3600);

/// What a disk holds; a block that is absent is zero.
pub type Blocks = BTreeMap<u64, Arc<[u8; BLOCK as usize]>>;

/// Something that happened, in order.
#[derive(Clone)]
pub enum Event {
    /// A disk got these bytes.
    Write { disk: usize, offset: u64, bytes: Arc<[u8]> },
    /// All that a disk got before is durable.
    Flush { disk: usize },
    /// What a test says.
    Mark(String),
}

#[derive(Default)]
struct State {
    /// By inode number, less 2.
    disks: Vec<(String, Blocks)>,
    log: Vec<Event>,
    recording: bool,
}

/// A server, mounted until it is dropped.
pub struct Recorder {
    state: Arc<Mutex<State>>,
    size: u64,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

struct Server {
    state: Arc<Mutex<State>>,
    size: u64,
}

pub fn write(blocks: &mut Blocks, offset: u64, bytes: &[u8]) {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let within = (at % BLOCK) as usize;
        let step = (BLOCK as usize - within).min(rest.len());
        let block = blocks.entry(at / BLOCK).or_insert_with(|| Arc::new([0; BLOCK as usize]));
        Arc::make_mut(block)[within..within + step].copy_from_slice(&rest[..step]);
        rest = &rest[step..];
        at += step as u64;
    }
}

impl Recorder {
    /// Disks of so many bytes each.
    pub fn new(size: u64) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let folder = tempfile::Builder::new().prefix("octroi-disks-").tempdir().expect("a folder");
        let server = Server { state: Arc::clone(&state), size };
        let mut config = Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("octroi-test-disks".to_owned())];
        let session = fuser::spawn_mount(server, folder.path(), &config).expect("it mounts");
        Self { state, size, folder, session: Some(session) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test has panicked here")
    }

    /// A disk that holds this; the path of its file. A name is used once: the kernel remembers content.
    pub fn add(&self, name: &str, blocks: Blocks) -> PathBuf {
        self.state().disks.push((name.to_owned(), blocks));
        self.folder.path().join(name)
    }

    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a disk holds now; nothing of it stays here.
    pub fn take(&self, name: &str) -> Blocks {
        let mut state = self.state();
        let found = state.disks.iter_mut().find(|(known, _)| known == name);
        std::mem::take(&mut found.expect("a disk").1)
    }

    /// A copy of what the n-th disk holds.
    pub fn copy(&self, disk: usize) -> Blocks {
        self.state().disks[disk].1.clone()
    }

    /// From now on everything is recorded.
    pub fn record(&self) {
        self.state().recording = true;
    }

    pub fn mark(&self, text: String) {
        self.state().log.push(Event::Mark(text));
    }

    /// Ends the recording and gives it.
    pub fn recorded(&self) -> Vec<Event> {
        let mut state = self.state();
        state.recording = false;
        std::mem::take(&mut state.log)
    }

    /// Bytes of a disk.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

impl Server {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_root = ino == INodeNo::ROOT;
        FileAttr {
            ino,
            size: if is_root { 0 } else { self.size },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: BLOCK as u32,
        }
    }
}

fn disk_of(ino: INodeNo) -> usize {
    (u64::from(ino) as usize).wrapping_sub(2)
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state.lock().expect("no panic");
        match state.disks.iter().position(|(known, _)| OsStr::new(known) == name) {
            Some(disk) => {
                reply.entry(&TTL, &self.attributes(INodeNo(disk as u64 + 2)), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state.lock().expect("no panic");
        let Some((_, blocks)) = state.disks.get(disk_of(ino)) else {
            return reply.error(Errno::EIO);
        };
        let length = u64::from(size).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; length as usize];
        let first = offset / BLOCK;
        for (number, block) in blocks.range(first..(offset + length).div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let from = start.max(offset);
            let to = (start + BLOCK).min(offset + length);
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state.lock().expect("no panic");
        let disk = disk_of(ino);
        match state.disks.get_mut(disk) {
            Some((_, blocks)) => write(blocks, offset, data),
            None => return reply.error(Errno::EIO),
        }
        if state.recording {
            state.log.push(Event::Write { disk, offset, bytes: data.into() });
        }
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state.lock().expect("no panic");
        if state.recording {
            state.log.push(Event::Flush { disk: disk_of(ino) });
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
