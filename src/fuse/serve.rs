//! How a request is done: on the thread that read it or on one of its lane, counted, and answered.

use std::ffi::OsStr;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use fuser::{FileHandle, INodeNo, ReplyEmpty, ReplyWrite, Request};

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
    pub fn run(&self, at: At, job: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        match self.lanes.pass(at.lane) {
            Some(_passing) => job(Ok(())),
            None => self.lanes.hand_on(at.place(), job),
        }
    }

    /// Does an operation and replies, on this thread or on one of the lane.
    pub fn serve<R: Send + 'static, T>(
        &self,
        at: At,
        reply: R,
        answer: impl FnOnce(R, Result<T, fuser::Errno>) + Send + 'static,
        act: impl FnOnce(&Vfs) -> Result<T, Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, at.kind);
        self.run(at, move |admitted| answer(reply, job.done(admitted, act)));
    }

    /// As [`Adapter::serve`], never on this thread: for what is slow by nature.
    pub fn serve_heavy(
        &self,
        at: At,
        heavy: Heavy,
        reply: ReplyEmpty,
        act: impl FnOnce(&Vfs) -> Result<(), Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, at.kind);
        let job = move |admitted| answer(reply, job.done(admitted, act));
        self.lanes.hand_on_heavy(at.place(), heavy, job);
    }

    /// Does what nobody may refuse on this thread or on one of its lane.
    pub fn run_surely(&self, place: (usize, u32), job: impl FnOnce() + Send + 'static) {
        match self.lanes.pass(place.0) {
            Some(_passing) => job(),
            None => self.lanes.hand_on_surely(place, job),
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
            self.run_surely((self.vfs.lane(number.0), 0), forget);
        } else {
            forget();
        }
    }

    /// Writes. Only what has to wait is copied. What is `written_back` from the page cache is never
    /// refused for want of room: nobody would hear of it.
    pub fn serve_write(
        &self,
        at: At,
        (bytes, written_back): (&[u8], bool),
        reply: ReplyWrite,
        act: impl FnOnce(&Vfs, &[u8]) -> Result<u32, Errno> + Send + 'static,
    ) {
        let job = Job::new(&self.vfs, at.kind);
        if let Some(_passing) = self.lanes.pass(at.lane) {
            return wrote(reply, job.done(Ok(()), |vfs| act(vfs, bytes)));
        }
        if written_back {
            let bytes = bytes.to_vec();
            return self.lanes.hand_on_surely(at.place(), move || {
                wrote(reply, job.done(Ok(()), |vfs| act(vfs, &bytes)));
            });
        }
        match self.lanes.keep(at.lane, bytes) {
            Ok(kept) => self.lanes.hand_on(at.place(), move |admitted| {
                wrote(reply, job.done(admitted, |vfs| act(vfs, &kept.bytes)));
            }),
            Err(errno) => wrote(reply, job.done(Err(errno), |_| Ok(0))),
        }
    }

    /// What is about an inode.
    pub fn at(&self, request: &Request, number: INodeNo, kind: Kind) -> At {
        At { lane: self.vfs.lane(number.0), uid: request.uid(), kind }
    }

    /// What is about an open file.
    pub fn open_at(
        &self,
        request: &Request,
        handle: FileHandle,
        number: INodeNo,
        kind: Kind,
    ) -> At {
        At { lane: self.vfs.lane_of_handle(handle.0, number.0), uid: request.uid(), kind }
    }

    /// What is about a name.
    pub fn named(&self, request: &Request, parent: INodeNo, name: &OsStr, kind: Kind) -> At {
        At { lane: self.vfs.lane_at(parent.0, name), uid: request.uid(), kind }
    }

    /// As [`Adapter::at`], with what counts it.
    pub fn job(&self, request: &Request, number: INodeNo, kind: Kind) -> (At, Job) {
        (self.at(request, number, kind), Job::new(&self.vfs, kind))
    }
}

/// Where a request belongs.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Number of its lane.
    pub lane: usize,
    /// Who asks.
    pub uid: u32,
    /// What it is counted as.
    pub kind: Kind,
}

impl At {
    /// Its lane, and its user's place among those that wait there.
    pub fn place(&self) -> (usize, u32) {
        (self.lane, self.uid)
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
