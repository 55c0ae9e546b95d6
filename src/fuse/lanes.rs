//! Who does a request: the thread that read it, or a thread of the request's lane.
//!
//! A *lane* is what one branch or pool is served by when it cannot be served in passing. Most requests take
//! microseconds and are done by the thread that read them. They are handed to their lane
//!
//! - where the lane is slow: something in it took, or has been taking, longer than [`SLOW`]. A disk
//!   that hangs then holds threads of its own lane and no others;
//! - where all request threads but one are busy: the last one only reads and hands on, so that the first
//!   requests to a branch that begins to hang cannot hold them all;
//! - always, for what is slow by nature, which has threads of its own in each lane: syncing, and renames
//!   that are transactions. The kernel holds locks of the whole mount for a rename, so that it must
//!   not wait behind syncs either.
//!
//! A lane has a bound on what waits in it ([`QUEUE`], [`BYTES_MAX`]); beyond it requests are refused with
//! EAGAIN: waiting would hold the thread that reads for all. What the kernel writes back from its page
//! cache is never refused: nobody would hear of it, and the kernel bounds it by its own dirty limit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pool::Pool;
use crate::error::Errno;
use crate::sys::schedule::Slice;

/// Longer than this, and a lane is slow: what an ordinary operation takes is a thousandth of it.
const SLOW: Duration = Duration::from_millis(20);
/// For how long a lane then counts as slow: as many times as long as that took, within a bound. So the
/// removal of a large file now and then does not send everything through another thread.
const SLOW_TIMES: u64 = 4;
const SLOW_FOR_MAX: Duration = Duration::from_secs(1);
/// Threads of a lane for ordinary requests.
const THREADS: usize = 16;
/// Threads of a lane for syncing. Twice as many sync 1.7 times as much, and make those who work in other
/// branches wait 2.8 times as long as alone, not 1.9 times (two processors).
const SYNC_THREADS: usize = 4;
/// Threads of a lane for renames that are transactions. The kernel lets few through at a time.
const RENAME_THREADS: usize = 4;
/// Bytes of written data that may wait in a lane.
const BYTES_MAX: usize = 256 << 20;

/// What a request is slow by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heavy {
    /// Syncing.
    Sync,
    /// A rename that is a transaction.
    Rename,
}

/// How long what is to be dropped waits for more of it: to wake a thread for each costs more than to drop it.
const SOON: Duration = Duration::from_millis(1);

/// The lanes of a view.
pub struct Lanes {
    start: Instant,
    /// Threads that read requests, and how many of them are doing one.
    readers: usize,
    busy: AtomicUsize,
    lanes: Vec<Lane>,
}

struct Lane {
    pace: Arc<Pace>,
    ordinary: Pool,
    syncs: Pool,
    renames: Pool,
    bytes: Arc<AtomicUsize>,
    /// What is dropped soon.
    dropping: Arc<Mutex<Vec<Box<dyn Send>>>>,
}

impl Lane {
    fn new(number: usize) -> io::Result<Self> {
        Ok(Self {
            pace: Arc::default(),
            ordinary: Pool::new(format!("lane-{number}"), THREADS, Slice::Short)?,
            syncs: Pool::new(format!("sync-{number}"), SYNC_THREADS, Slice::Usual)?,
            renames: Pool::new(format!("rename-{number}"), RENAME_THREADS, Slice::Usual)?,
            bytes: Arc::default(),
            dropping: Arc::default(),
        })
    }

    fn pools(&self) -> [&Pool; 3] {
        [&self.ordinary, &self.syncs, &self.renames]
    }
}

/// How a lane does. Times are nanoseconds since [`Lanes::start`].
#[derive(Debug, Default)]
struct Pace {
    /// Ordinary requests that are being done.
    running: AtomicUsize,
    /// When the last of them began with no other running, or ended.
    moved: AtomicU64,
    /// Until when the lane counts as slow.
    slow_until: AtomicU64,
}

impl Pace {
    fn is_slow(&self, now: u64) -> bool {
        if now < self.slow_until.load(Ordering::Relaxed) {
            return true;
        }
        let running = self.running.load(Ordering::Acquire);
        let moved = self.moved.load(Ordering::Acquire);
        running > 0 && self.note(now.saturating_sub(moved), now)
    }

    /// Takes into account for how long something takes, or took; whether that is slow.
    fn note(&self, took: u64, now: u64) -> bool {
        let slow = took > nanos(SLOW);
        if slow {
            let time = took.saturating_mul(SLOW_TIMES).min(nanos(SLOW_FOR_MAX));
            self.slow_until.fetch_max(now.saturating_add(time), Ordering::Relaxed);
        }
        slow
    }

    fn begin(&self, now: u64) {
        // In this order: a lane that was idle for long would else look stuck for a moment.
        if self.running.load(Ordering::Acquire) == 0 {
            self.moved.store(now, Ordering::Release);
        }
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self, begun: u64, now: u64) {
        self.moved.store(now, Ordering::Release);
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.note(now.saturating_sub(begun), now);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A request that its reader does itself; ends when dropped.
#[must_use]
pub struct Passing<'a> {
    lanes: &'a Lanes,
    pace: &'a Pace,
    begun: u64,
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.pace.end(self.begun, self.lanes.now());
        self.lanes.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    /// `count` lanes; `readers` threads read requests. An error if their first threads cannot be started.
    pub fn new(count: usize, readers: usize) -> io::Result<Self> {
        Ok(Self {
            start: Instant::now(),
            readers,
            busy: AtomicUsize::new(0),
            lanes: (0..count).map(Lane::new).collect::<io::Result<_>>()?,
        })
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Whether nothing is left to do in any lane.
    pub fn are_idle(&self) -> bool {
        let pools = self.lanes.iter().flat_map(Lane::pools);
        pools.map(Pool::unfinished).sum::<usize>() == 0
    }

    /// Whether the thread that read a request may do it itself. `None`: it is to be handed on.
    pub fn pass(&self, number: usize) -> Option<Passing<'_>> {
        let lane = self.lanes.get(number)?;
        let now = self.now();
        if lane.pace.is_slow(now) {
            return None;
        }
        if self.busy.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= self.readers {
            self.busy.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        lane.pace.begin(now);
        Some(Passing { lanes: self, pace: &lane.pace, begun: now })
    }

    /// Hands a request to its lane, which may be full: then `job` is called with EAGAIN.
    pub fn hand_on(
        &self,
        (number, uid): (usize, u32),
        job: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let Some(lane) = self.lanes.get(number) else { return job(Err(Errno::IO)) };
        match lane.ordinary.admit() {
            None => job(Err(Errno::AGAIN)),
            Some(waiting) => self.hand_on_surely((number, uid), move || {
                drop(waiting);
                job(Ok(()));
            }),
        }
    }

    /// Hands on what is to be done also where the lane is full: something else bounds it.
    pub fn hand_on_surely(&self, (number, uid): (usize, u32), job: impl FnOnce() + Send + 'static) {
        let Some(lane) = self.lanes.get(number) else { return job() };
        let (pace, start) = (Arc::clone(&lane.pace), self.start);
        lane.ordinary.run(
            uid,
            Box::new(move || {
                let begun = nanos(start.elapsed());
                pace.begin(begun);
                job();
                pace.end(begun, nanos(start.elapsed()));
            }),
        );
    }

    /// Drops what may take long to drop, and what nobody waits for: soon, much at once, by a thread of the lane.
    pub fn drop_soon(&self, number: usize, what: impl Send + 'static) {
        let Some(lane) = self.lanes.get(number) else { return };
        let mut dropping = lane.dropping.lock();
        dropping.push(Box::new(what));
        if dropping.len() > 1 {
            return;
        }
        let dropping = Arc::clone(&lane.dropping);
        lane.ordinary.run(
            0,
            Box::new(move || {
                std::thread::sleep(SOON);
                let all = std::mem::take(&mut *dropping.lock());
                drop(all);
            }),
        );
    }

    /// As [`Lanes::hand_on`], for what is slow by nature.
    pub fn hand_on_heavy(
        &self,
        (number, uid): (usize, u32),
        heavy: Heavy,
        job: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let Some(lane) = self.lanes.get(number) else { return job(Err(Errno::IO)) };
        let pool = match heavy {
            Heavy::Sync => &lane.syncs,
            Heavy::Rename => &lane.renames,
        };
        match pool.admit() {
            None => job(Err(Errno::AGAIN)),
            Some(waiting) => pool.run(
                uid,
                Box::new(move || {
                    drop(waiting);
                    job(Ok(()));
                }),
            ),
        }
    }

    /// A copy of data to be written that waits in a lane. EAGAIN if too much of it does.
    pub fn keep(&self, number: usize, bytes: &[u8]) -> Result<KeptBytes, Errno> {
        let waiting = &self.lanes.get(number).ok_or(Errno::IO)?.bytes;
        let before = waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut kept =
            KeptBytes { bytes: Vec::new(), size: bytes.len(), waiting: Arc::clone(waiting) };
        if before.saturating_add(bytes.len()) > BYTES_MAX {
            return Err(Errno::AGAIN);
        }
        kept.bytes = bytes.to_vec();
        Ok(kept)
    }
}

/// Data that waits in a lane.
#[derive(Debug)]
pub struct KeptBytes {
    pub bytes: Vec<u8>,
    size: usize,
    waiting: Arc<AtomicUsize>,
}

impl Drop for KeptBytes {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.size, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::QUEUE;
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    fn lanes(count: usize, readers: usize) -> Lanes {
        Lanes::new(count + 1, readers).expect("threads")
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_lane_that_is_stuck_is_not_passed_and_others_are() {
        let lanes = lanes(2, 8);
        let stuck = lanes.pass(1).expect("nothing is slow yet");
        std::thread::sleep(SLOW + SLOW / 2);
        assert!(lanes.pass(1).is_none(), "one request has been in it for too long");
        assert!(lanes.pass(2).is_some() && lanes.pass(0).is_some());
        drop(stuck);
        std::thread::sleep(SLOW_FOR_MAX + SLOW);
        assert!(lanes.pass(1).is_some(), "it may try again");
    }

    #[test]
    fn what_takes_long_to_drop_is_waited_for_by_nobody() {
        struct Slow(crossbeam_channel::Receiver<()>, crossbeam_channel::Sender<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                let _ = self.0.recv();
                let _ = self.1.send(());
            }
        }
        let lanes = lanes(2, 8);
        let ((go, wait), (dropped, seen)) = (unbounded(), unbounded());
        for _ in 0..3 {
            lanes.drop_soon(1, Slow(wait.clone(), dropped.clone()));
        }
        assert!(lanes.pass(1).is_some(), "it does not make the lane slow");
        assert!(seen.is_empty() && !lanes.are_idle());
        (0..3).for_each(|_| go.send(()).expect("it waits"));
        (0..3).for_each(|_| seen.recv_timeout(LONG).expect("dropped"));
    }

    #[test]
    fn a_lane_is_slow_for_a_while_in_proportion() {
        let pace = Pace::default();
        let one = nanos(SLOW) + 1;
        let mut now = nanos(LONG);
        for (took, slow_for) in [(one, one * SLOW_TIMES), (nanos(LONG), nanos(SLOW_FOR_MAX))] {
            pace.begin(now);
            assert!(!pace.is_slow(now + nanos(SLOW)));
            assert!(pace.is_slow(now + one));
            pace.end(now, now + took);
            now += took;
            assert!(pace.is_slow(now + slow_for - 1));
            assert!(!pace.is_slow(now + slow_for));
            now += slow_for;
        }
        pace.begin(now);
        pace.end(now, now + nanos(SLOW));
        assert!(!pace.is_slow(now + nanos(SLOW)), "it took no longer than it may");
    }

    #[test]
    fn one_thread_always_reads() {
        let lanes = lanes(1, 3);
        let first = lanes.pass(1).expect("two are free");
        let second = lanes.pass(0).expect("one is free");
        assert!(lanes.pass(1).is_none());
        drop((first, second));
        assert!(lanes.pass(1).is_some());
    }

    #[test]
    fn jobs_run_beside_each_other_and_a_full_lane_refuses() {
        let lanes = lanes(1, 2);
        let (begun, beginning) = unbounded();
        let (release, released) = bounded::<()>(0);
        let (ended, ending) = unbounded();
        let hand_on = || {
            let (begun, released, ended) = (begun.clone(), released.clone(), ended.clone());
            lanes.hand_on((1, 0), move |admitted| {
                if admitted.is_ok() {
                    let _ = begun.send(());
                    let _ = released.recv();
                }
                let _ = ended.send(admitted);
            });
        };
        (0..THREADS).for_each(|_| hand_on());
        for _ in 0..THREADS {
            beginning.recv_timeout(LONG).expect("each thread takes one");
        }
        (0..=QUEUE).for_each(|_| hand_on());
        assert_eq!(ending.recv_timeout(LONG), Ok(Err(Errno::AGAIN)));
        let (free, freed) = bounded(1);
        lanes.hand_on_heavy((1, 0), Heavy::Sync, move |admitted| {
            let _ = free.send(admitted);
        });
        assert_eq!(freed.recv_timeout(LONG), Ok(Ok(())), "syncing has threads of its own");
        drop(release);
        for _ in 0..THREADS + QUEUE {
            assert_eq!(ending.recv_timeout(LONG), Ok(Ok(())), "what was admitted is done");
        }
    }

    #[test]
    fn what_is_done_surely_takes_no_room_from_others() {
        let lanes = lanes(1, 2);
        let (release, released) = bounded::<()>(0);
        for _ in 0..THREADS + QUEUE * 2 {
            let released = released.clone();
            lanes.hand_on_surely((1, 0), move || {
                let _ = released.recv();
            });
        }
        let (ended, ending) = bounded(1);
        lanes.hand_on((1, 0), move |admitted| {
            let _ = ended.send(admitted);
        });
        drop(release);
        assert_eq!(ending.recv_timeout(LONG), Ok(Ok(())));
    }

    #[test]
    fn each_job_has_a_thread_of_its_own_while_there_may_be_more() {
        let lanes = lanes(1, 2);
        for _ in 0..200 {
            let (release, released) = bounded::<()>(0);
            let (begun, beginning) = bounded(THREADS);
            for _ in 0..THREADS {
                let (begun, released) = (begun.clone(), released.clone());
                lanes.hand_on_surely((1, 0), move || {
                    let _ = begun.send(());
                    let _ = released.recv();
                });
            }
            for _ in 0..THREADS {
                beginning.recv_timeout(LONG).expect("none waits for another");
            }
            drop(release);
            while !lanes.are_idle() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn data_that_waits_is_bounded() {
        let lanes = lanes(1, 2);
        let block = vec![0; BYTES_MAX / 2];
        let kept = [lanes.keep(1, &block), lanes.keep(1, &block)].map(|kept| kept.expect("room"));
        assert_eq!(lanes.keep(1, b"x").err(), Some(Errno::AGAIN));
        assert!(lanes.keep(0, b"x").is_ok());
        drop(kept);
        assert_eq!(lanes.keep(1, b"x").expect("room again").bytes, b"x");
    }
}
