//! Who does a request: the thread that read it, or a thread of the request's lane.
//!
//! A *lane* is what one branch or pool is served by when it cannot be served in passing. Most requests take
//! microseconds and are done by the thread that read them. They are handed to their lane
//!
//! - where the lane is slow: something in it took, or has been taking, longer than [`SLOW`]. A disk
//!   that hangs then holds threads of its own lane and no others;
//! - where all request threads but one are busy: the last one only reads and hands on, so that the first
//!   requests to a branch that begins to hang cannot hold them all;
//! - always, for what is slow by nature: syncing, and renames that are transactions.
//!
//! A lane has a bound on what waits in it ([`QUEUE`], [`BYTES_MAX`]); beyond it requests are refused with
//! EAGAIN: waiting would hold the thread that reads for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Errno;

/// Longer than this, and a lane is slow: what an ordinary operation takes is a thousandth of it.
const SLOW: Duration = Duration::from_millis(20);
/// For how long a lane then counts as slow.
const SLOW_FOR: Duration = Duration::from_secs(1);
/// Threads of a lane for ordinary requests.
const THREADS: usize = 16;
/// Threads of a lane for what is slow by nature.
const HEAVY_THREADS: usize = 8;
/// Requests that may wait in a lane, of either sort.
const QUEUE: usize = 4096;
/// Bytes of written data that may wait in a lane.
const BYTES_MAX: usize = 256 << 20;

/// What is left to do of a request.
type Job = Box<dyn FnOnce() + Send>;

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
    heavy: Pool,
    bytes: Arc<AtomicUsize>,
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
        let moved = self.moved.load(Ordering::Relaxed);
        let stuck =
            self.running.load(Ordering::Relaxed) > 0 && now.saturating_sub(moved) > nanos(SLOW);
        if stuck {
            self.note_slow(now);
        }
        stuck
    }

    fn note_slow(&self, now: u64) {
        self.slow_until.fetch_max(now.saturating_add(nanos(SLOW_FOR)), Ordering::Relaxed);
    }

    fn begin(&self, now: u64) {
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.moved.store(now, Ordering::Relaxed);
        }
    }

    fn end(&self, begun: u64, now: u64) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.moved.store(now, Ordering::Relaxed);
        if now.saturating_sub(begun) > nanos(SLOW) {
            self.note_slow(now);
        }
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
    /// `count` lanes, and one more (the first) for what belongs to no branch; `readers` threads
    /// read requests.
    pub fn new(count: usize, readers: usize) -> Self {
        let lane = |number| Lane {
            pace: Arc::default(),
            ordinary: Pool::new(format!("lane-{number}"), THREADS),
            heavy: Pool::new(format!("heavy-{number}"), HEAVY_THREADS),
            bytes: Arc::default(),
        };
        Self {
            start: Instant::now(),
            readers,
            busy: AtomicUsize::new(0),
            lanes: (0..=count).map(lane).collect(),
        }
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// The lane of that number; the first for any that there is not.
    fn lane(&self, number: usize) -> Option<&Lane> {
        self.lanes.get(number).or_else(|| self.lanes.first())
    }

    /// Whether the thread that read a request may do it itself. `None`: it is to be handed on.
    pub fn pass(&self, number: usize) -> Option<Passing<'_>> {
        let lane = self.lane(number)?;
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
    pub fn hand_on(&self, number: usize, job: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        let Some(lane) = self.lane(number) else { return job(Err(Errno::IO)) };
        match lane.ordinary.admit() {
            None => job(Err(Errno::AGAIN)),
            Some(waiting) => self.hand_on_surely(number, move || {
                drop(waiting);
                job(Ok(()));
            }),
        }
    }

    /// Hands on what is to be done also where the lane is full: there is not more of it than is open or
    /// known.
    pub fn hand_on_surely(&self, number: usize, job: impl FnOnce() + Send + 'static) {
        let Some(lane) = self.lane(number) else { return job() };
        let (pace, start) = (Arc::clone(&lane.pace), self.start);
        lane.ordinary.run(Box::new(move || {
            let begun = nanos(start.elapsed());
            pace.begin(begun);
            job();
            pace.end(begun, nanos(start.elapsed()));
        }));
    }

    /// As [`Lanes::hand_on`], for what is slow by nature.
    pub fn hand_on_heavy(
        &self,
        number: usize,
        job: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let Some(lane) = self.lane(number) else { return job(Err(Errno::IO)) };
        match lane.heavy.admit() {
            None => job(Err(Errno::AGAIN)),
            Some(waiting) => lane.heavy.run(Box::new(move || {
                drop(waiting);
                job(Ok(()));
            })),
        }
    }

    /// A copy of data to be written that waits in a lane. EAGAIN if too much of it does.
    pub fn keep(&self, number: usize, bytes: &[u8]) -> Result<Kept, Errno> {
        let waiting = &self.lane(number).ok_or(Errno::IO)?.bytes;
        let before = waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut kept = Kept { bytes: Vec::new(), size: bytes.len(), waiting: Arc::clone(waiting) };
        if before.saturating_add(bytes.len()) > BYTES_MAX {
            return Err(Errno::AGAIN);
        }
        kept.bytes = bytes.to_vec();
        Ok(kept)
    }
}

/// Data that waits in a lane.
#[derive(Debug)]
pub struct Kept {
    pub bytes: Vec<u8>,
    size: usize,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// Threads with one queue, started when they are needed. They end with the pool.
struct Pool {
    name: String,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    threads_max: usize,
    threads: AtomicUsize,
    idle: Arc<AtomicUsize>,
    /// What was admitted and has not begun.
    waiting: Arc<AtomicUsize>,
}

/// A place among those that wait, until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    fn new(name: String, threads_max: usize) -> Self {
        let (jobs, queue) = unbounded();
        Self {
            name,
            jobs,
            queue,
            threads_max,
            threads: AtomicUsize::new(0),
            idle: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// Room for one more that waits; `None` if there is none.
    fn admit(&self) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(&self.waiting));
        (before < QUEUE).then_some(waiting)
    }

    fn run(&self, job: Job) {
        // Both ends of the queue are here, so that it takes whatever comes.
        if let Err(refused) = self.jobs.send(job) {
            return (refused.0)();
        }
        self.staff();
    }

    /// Starts another thread if what waits is more than what idle ones can take.
    fn staff(&self) {
        if self.queue.len() <= self.idle.load(Ordering::Acquire) {
            return;
        }
        if self.threads.fetch_add(1, Ordering::AcqRel) >= self.threads_max {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let (queue, idle) = (self.queue.clone(), Arc::clone(&self.idle));
        let work = move || {
            loop {
                idle.fetch_add(1, Ordering::AcqRel);
                let job = queue.recv();
                idle.fetch_sub(1, Ordering::AcqRel);
                let Ok(job) = job else { return };
                job();
            }
        };
        let Err(error) = std::thread::Builder::new().name(self.name.clone()).spawn(work) else {
            return;
        };
        log::warn!("cannot start thread {}: {error}", self.name);
        if self.threads.fetch_sub(1, Ordering::AcqRel) == 1
            && let Ok(job) = self.queue.try_recv()
        {
            // There is nobody else to do it.
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_lane_that_is_stuck_is_not_passed_and_others_are() {
        let lanes = Lanes::new(2, 8);
        let stuck = lanes.pass(1).expect("nothing is slow yet");
        std::thread::sleep(SLOW + SLOW / 2);
        assert!(lanes.pass(1).is_none(), "one request has been in it for too long");
        assert!(lanes.pass(2).is_some() && lanes.pass(0).is_some());
        drop(stuck);
        assert!(lanes.pass(1).is_none(), "it was slow a moment ago");
        std::thread::sleep(SLOW_FOR + SLOW);
        assert!(lanes.pass(1).is_some(), "it may try again");
    }

    #[test]
    fn one_thread_always_reads() {
        let lanes = Lanes::new(1, 3);
        let first = lanes.pass(1).expect("two are free");
        let second = lanes.pass(0).expect("one is free");
        assert!(lanes.pass(1).is_none());
        drop((first, second));
        assert!(lanes.pass(1).is_some());
    }

    #[test]
    fn jobs_run_beside_each_other_and_a_full_lane_refuses() {
        let lanes = Lanes::new(1, 2);
        let (begun, beginning) = unbounded();
        let (release, released) = bounded::<()>(0);
        let (ended, ending) = unbounded();
        let hand_on = || {
            let (begun, released, ended) = (begun.clone(), released.clone(), ended.clone());
            lanes.hand_on(1, move |admitted| {
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
        lanes.hand_on_heavy(1, move |admitted| {
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
        let lanes = Lanes::new(1, 2);
        let (release, released) = bounded::<()>(0);
        for _ in 0..THREADS + QUEUE * 2 {
            let released = released.clone();
            lanes.hand_on_surely(1, move || {
                let _ = released.recv();
            });
        }
        let (ended, ending) = bounded(1);
        lanes.hand_on(1, move |admitted| {
            let _ = ended.send(admitted);
        });
        drop(release);
        assert_eq!(ending.recv_timeout(LONG), Ok(Ok(())));
    }

    #[test]
    fn data_that_waits_is_bounded() {
        let lanes = Lanes::new(1, 2);
        let block = vec![0; BYTES_MAX / 2];
        let kept = [lanes.keep(1, &block), lanes.keep(1, &block)].map(|kept| kept.expect("room"));
        assert_eq!(lanes.keep(1, b"x").err(), Some(Errno::AGAIN));
        assert!(lanes.keep(0, b"x").is_ok());
        drop(kept);
        assert_eq!(lanes.keep(1, b"x").expect("room again").bytes, b"x");
    }
}
