//! How a request is done: on the thread that read it or on one of its lane, counted, and answered.

use std::ffi::OsStr;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use fuser::{FileHandle, INodeNo, ReplyEmpty, ReplyWrite};

use crate::error::Errno;
use crate::stats::Request as Kind;
use crate::vfs::Vfs;

use super::backing::Backings;
use super::convert::errno;
use super::lanes::{Heavy, Lanes};
use super::reply::{answer, wrote};

/// The transport.
pub struct Adapter {
    pub vfs: Arc<Vfs>,
    pub lanes: Arc<Lanes>,
    pub backings: Arc<Backings>,
}

impl Adapter {
    /// The adapter of a view whose requests are read by `readers` threads.
    pub fn new(vfs: Arc<Vfs>, readers: usize) -> io::Result<Self> {
        let lanes = Arc::new(Lanes::new(vfs.lanes(), readers)?);
        Ok(Self { vfs, lanes, backings: Arc::default() })
    }

    /// Does a request on this thread or on one of its lane.
    pub fn run(&self, lane: usize, job: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        match self.lanes.pass(lane) {
            Some(_passing) => job(Ok(())),
            None => self.lanes.hand_on(lane, job),
        }
    }

    /// Does an operation and replies, on this thread or on one of the lane.
    pub fn serve<R: Send + 'static, T>(
        &self,
        (lane, kind): (usize, Kind),
        reply: R,
        answer: impl FnOnce(R, Result<T, fuser::Errno>) + Send + 'static,
        act: impl FnOnce(&Vfs) -> Result<T, Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, kind);
        self.run(lane, move |admitted| answer(reply, job.done(admitted, act)));
    }

    /// As [`Adapter::serve`], never on this thread: for what is slow by nature.
    pub fn serve_heavy(
        &self,
        (lane, kind): (usize, Kind),
        heavy: Heavy,
        reply: ReplyEmpty,
        act: impl FnOnce(&Vfs) -> Result<(), Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, kind);
        let job = move |admitted| answer(reply, job.done(admitted, act));
        self.lanes.hand_on_heavy(lane, heavy, job);
    }

    /// Does what nobody may refuse on this thread or on one of its lane.
    pub fn run_surely(&self, lane: usize, job: impl FnOnce() + Send + 'static) {
        match self.lanes.pass(lane) {
            Some(_passing) => job(),
            None => self.lanes.hand_on_surely(lane, job),
        }
    }

    /// Gives references of the kernel back, on this thread unless it would have to wait: it asks no disk, and
    /// there may be a million of them. What was removed meanwhile is freed by then, which may take long.
    pub fn give_back(&self, number: INodeNo, count: u64) {
        let (vfs, lanes) = (Arc::clone(&self.vfs), Arc::clone(&self.lanes));
        let forget = move || {
            if let Some(kept) = vfs.forget(number.0, count) {
                lanes.drop_soon(vfs.lane_of_kept(&kept), kept);
            }
        };
        if self.vfs.is_switching(number.0) {
            self.run_surely(self.vfs.lane(number.0), forget);
        } else {
            forget();
        }
    }

    /// Writes. Only what has to wait is copied. What is `written_back` from the page cache is never
    /// refused for want of room: nobody would hear of it.
    pub fn serve_write(
        &self,
        lane: usize,
        (bytes, written_back): (&[u8], bool),
        reply: ReplyWrite,
        act: impl FnOnce(&Vfs, &[u8]) -> Result<u32, Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, Kind::Write);
        if let Some(_passing) = self.lanes.pass(lane) {
            return wrote(reply, job.done(Ok(()), |vfs| act(vfs, bytes)));
        }
        if written_back {
            let bytes = bytes.to_vec();
            return self.lanes.hand_on_surely(lane, move || {
                wrote(reply, job.done(Ok(()), |vfs| act(vfs, &bytes)));
            });
        }
        match self.lanes.keep(lane, bytes) {
            Ok(kept) => self.lanes.hand_on(lane, move |admitted| {
                wrote(reply, job.done(admitted, |vfs| act(vfs, &kept.bytes)));
            }),
            Err(errno) => wrote(reply, job.done(Err(errno), |_| Ok(0))),
        }
    }

    /// A kind of request, and the lane of the inode that it is about.
    pub fn at(&self, number: INodeNo, kind: Kind) -> (usize, Kind) {
        (self.vfs.lane(number.0), kind)
    }

    /// A kind of request, and the lane of the open file that it is about.
    pub fn open_at(&self, handle: FileHandle, number: INodeNo, kind: Kind) -> (usize, Kind) {
        (self.vfs.lane_of_handle(handle.0, number.0), kind)
    }

    /// A kind of request, and the lane of the name that it is about.
    pub fn named(&self, parent: INodeNo, name: &OsStr, kind: Kind) -> (usize, Kind) {
        (self.vfs.lane_at(parent.0, name), kind)
    }
}

/// A request that is being done.
pub struct Job {
    vfs: Arc<Vfs>,
    kind: Kind,
    /// When it was read.
    read: Instant,
}

impl Job {
    /// One that was read just now.
    pub fn new(vfs: &Arc<Vfs>, kind: Kind) -> Self {
        Self { vfs: Arc::clone(vfs), kind, read: Instant::now() }
    }

    /// Calls the operation, if it was admitted, and counts it. A panic in it, which is a bug, fails this
    /// request and no other.
    pub fn done<T>(
        &self,
        admitted: Result<(), Errno>,
        act: impl FnOnce(&Vfs) -> Result<T, Errno>,
    ) -> Result<T, fuser::Errno> {
        let caught = |()| {
            let acting = AssertUnwindSafe(|| act(&self.vfs));
            std::panic::catch_unwind(acting).unwrap_or(Err(Errno::IO))
        };
        let result = admitted.and_then(caught);
        self.vfs.stats.record(self.kind, self.read.elapsed(), result.is_ok());
        result.map_err(errno)
    }
}
