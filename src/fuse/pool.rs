//! The threads of a lane.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::sys::memory;
use crate::sys::schedule::{Slice, set_slice};

/// Requests that may wait in a lane, of each sort. More than the kernel has under way without a caller
/// ([`super::negotiate`]), so that reading ahead alone cannot fill it.
pub const QUEUE: usize = 1 << 17;

/// A thread that had nothing to do for so long ends, with the memory that it kept for itself.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(2) };

/// One that stays gives back the memory that it keeps for itself after so long.
const QUIET: Duration = Duration::from_secs(1);

/// What is left to do of a request.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads with one queue, started when they are needed, the first at once: so there is one whatever the
/// system then allows. That one ends with the pool, the others also when they are not needed any more.
pub struct Pool {
    name: String,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    slice: Slice,
    staff: Arc<Staff>,
    /// What was admitted and has not begun.
    waiting: Arc<AtomicUsize>,
}

/// How many threads a pool has, and for what.
struct Staff {
    threads: AtomicUsize,
    threads_max: usize,
    /// What waits or is being done.
    unfinished: AtomicUsize,
    /// The last thread that was wanted could not be started.
    short: AtomicBool,
}

impl Staff {
    /// Whether there is to be another thread, which then counts.
    fn hire(&self) -> bool {
        let wanted = self.unfinished.load(Ordering::SeqCst).min(self.threads_max);
        let more = |threads: usize| (threads < wanted).then(|| threads.saturating_add(1));
        self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Whether a thread that had nothing to do is to end. It counts no more before it looks whether it is wanted:
    /// whoever came meanwhile either saw that a thread is missing, or is seen here.
    fn dismiss(&self) -> bool {
        self.threads.fetch_sub(1, Ordering::SeqCst);
        !self.hire()
    }
}

/// A place among those that wait, until it is dropped.
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    /// An error if the first thread cannot be started.
    pub fn new(name: String, threads_max: usize, slice: Slice) -> io::Result<Self> {
        let (jobs, queue) = unbounded();
        let pool = Self {
            name,
            jobs,
            queue,
            slice,
            staff: Arc::new(Staff {
                threads: AtomicUsize::new(1),
                threads_max,
                unfinished: AtomicUsize::new(0),
                short: AtomicBool::new(false),
            }),
            waiting: Arc::default(),
        };
        pool.start(true)?;
        Ok(pool)
    }

    /// Room for one more that waits; `None` if there is none.
    pub fn admit(&self) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(&self.waiting));
        (before < QUEUE).then_some(waiting)
    }

    /// How many jobs wait or are being done.
    pub fn unfinished(&self) -> usize {
        self.staff.unfinished.load(Ordering::SeqCst)
    }

    /// Has a job done.
    pub fn run(&self, job: Job) {
        self.staff.unfinished.fetch_add(1, Ordering::SeqCst);
        // Both ends of the queue are here, so that it takes whatever comes.
        let _ = self.jobs.send(job);
        if !self.staff.hire() {
            return;
        }
        let started = self.start(false);
        let was_short = self.staff.short.swap(started.is_err(), Ordering::Relaxed);
        if let Err(error) = started {
            self.staff.threads.fetch_sub(1, Ordering::SeqCst);
            // The next job asks again: thousands a second may.
            if !was_short {
                log::warn!("cannot start another thread {}: {error}", self.name);
            }
        }
    }

    /// Starts a thread that stays until the pool ends, or ends before when there is nothing to do.
    fn start(&self, stays: bool) -> io::Result<()> {
        let (queue, staff) = (self.queue.clone(), Arc::clone(&self.staff));
        let slice = self.slice;
        let work = move || {
            set_slice(slice);
            loop {
                let job = match stays {
                    true => match queue.recv_timeout(QUIET) {
                        Err(RecvTimeoutError::Timeout) => {
                            memory::give_back_own();
                            queue.recv().ok()
                        }
                        job => job.ok(),
                    },
                    false => match queue.recv_timeout(IDLE) {
                        Err(RecvTimeoutError::Timeout) if !staff.dismiss() => continue,
                        job => job.ok(),
                    },
                };
                let Some(job) = job else { break };
                // A panic, which is a bug and was logged, does not cost the thread.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
                staff.unfinished.fetch_sub(1, Ordering::SeqCst);
            }
        };
        std::thread::Builder::new().name(self.name.clone()).spawn(work).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MANY: usize = 8;
    const LONG: Duration = Duration::from_secs(10);

    /// Jobs that end only when all of them have begun, each with a thread.
    fn do_many(pool: &Pool) {
        let (begins, begun) = unbounded();
        let (all, all_begun) = unbounded::<()>();
        for _ in 0..MANY {
            let (begins, all_begun) = (begins.clone(), all_begun.clone());
            pool.run(Box::new(move || {
                begins.send(()).unwrap();
                let _ = all_begun.recv();
            }));
        }
        for number in 0..MANY {
            assert!(begun.recv_timeout(LONG).is_ok(), "only {number} jobs have begun");
        }
        drop(all);
    }

    fn threads(pool: &Pool) -> usize {
        pool.staff.threads.load(Ordering::SeqCst)
    }

    #[test]
    fn threads_that_are_not_needed_end_and_come_back() {
        let pool = Pool::new("pool-test".to_owned(), MANY, Slice::Usual).unwrap();
        for _ in 0..5 {
            do_many(&pool);
            assert_eq!(threads(&pool), MANY);
            let deadline = Instant::now() + LONG;
            while threads(&pool) > 1 {
                assert!(Instant::now() < deadline, "{} threads have nothing to do", threads(&pool));
                std::thread::sleep(IDLE);
            }
        }
    }

    #[test]
    fn none_is_missing_when_jobs_come_while_threads_end() {
        let pool = Pool::new("pool-test".to_owned(), MANY, Slice::Usual).unwrap();
        // A thread wakes a little after its time is up.
        let step = IDLE / 400;
        for round in 0..100 {
            do_many(&pool);
            std::thread::sleep(IDLE - step * 10 + step * round);
        }
    }
}
