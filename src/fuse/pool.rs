//! The threads of a lane.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;

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

/// What waits, by who asked: each user's turn comes after those of all others, so that nobody waits for more than
/// one thing of each.
#[derive(Default)]
struct Turns {
    jobs: HashMap<u32, VecDeque<Job>>,
    /// Users of whom something waits.
    users: VecDeque<u32>,
}

impl Turns {
    fn push(&mut self, uid: u32, job: Job) {
        let own = self.jobs.entry(uid).or_default();
        if own.is_empty() {
            self.users.push_back(uid);
        }
        own.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let uid = self.users.pop_front()?;
        let own = self.jobs.get_mut(&uid)?;
        let job = own.pop_front();
        if own.is_empty() {
            self.jobs.remove(&uid);
        } else {
            self.users.push_back(uid);
        }
        job
    }
}

/// Threads with one queue, started when they are needed, the first at once: so there is one whatever the
/// system then allows. That one ends with the pool, the others also when they are not needed any more.
pub struct Pool {
    name: String,
    turns: Arc<Mutex<Turns>>,
    /// One for each that waits.
    calls: Sender<()>,
    called: Receiver<()>,
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
        let (calls, called) = unbounded();
        let pool = Self {
            name,
            turns: Arc::default(),
            calls,
            called,
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

    /// Has a job of a user done.
    pub fn run(&self, uid: u32, job: Job) {
        self.staff.unfinished.fetch_add(1, Ordering::SeqCst);
        self.turns.lock().push(uid, job);
        // Both ends of the queue are here, so that it takes whatever comes.
        let _ = self.calls.send(());
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
        let (called, staff) = (self.called.clone(), Arc::clone(&self.staff));
        let turns = Arc::clone(&self.turns);
        let slice = self.slice;
        let work = move || {
            set_slice(slice);
            loop {
                let call = match stays {
                    true => match called.recv_timeout(QUIET) {
                        Err(RecvTimeoutError::Timeout) => {
                            memory::give_back_own();
                            called.recv().ok()
                        }
                        call => call.ok(),
                    },
                    false => match called.recv_timeout(IDLE) {
                        Err(RecvTimeoutError::Timeout) if !staff.dismiss() => continue,
                        call => call.ok(),
                    },
                };
                if call.is_none() {
                    break;
                }
                let job = turns.lock().pop();
                let Some(job) = job else { continue };
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
            pool.run(
                0,
                Box::new(move || {
                    begins.send(()).unwrap();
                    let _ = all_begun.recv();
                }),
            );
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
    fn nobody_waits_for_all_of_another() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut turns = Turns::default();
        let mut put = |uid, name| {
            let done = Arc::clone(&done);
            turns.push(uid, Box::new(move || done.lock().push(name)));
        };
        for name in ["a1", "a2", "a3", "a4"] {
            put(1, name);
        }
        put(2, "b1");
        put(2, "b2");
        put(3, "c1");
        while let Some(job) = turns.pop() {
            job();
        }
        assert_eq!(*done.lock(), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
        assert!(turns.jobs.is_empty() && turns.users.is_empty());
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
