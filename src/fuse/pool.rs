//! The threads of a lane.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::sys::schedule::{Slice, set_slice};

/// Requests that may wait in a lane, of each sort. More than the kernel has under way without a caller
/// ([`super::negotiate`]), so that reading ahead alone cannot fill it.
pub const QUEUE: usize = 1 << 17;

/// What is left to do of a request.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads with one queue, started when they are needed, the first at once: so there is one whatever the
/// system then allows. They end with the pool.
pub struct Pool {
    name: String,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    threads_max: usize,
    slice: Slice,
    threads: AtomicUsize,
    /// What waits or is being done.
    pub unfinished: Arc<AtomicUsize>,
    /// What was admitted and has not begun.
    waiting: Arc<AtomicUsize>,
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
            threads_max,
            slice,
            threads: AtomicUsize::new(1),
            unfinished: Arc::default(),
            waiting: Arc::default(),
        };
        pool.start()?;
        Ok(pool)
    }

    /// Room for one more that waits; `None` if there is none.
    pub fn admit(&self) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(&self.waiting));
        (before < QUEUE).then_some(waiting)
    }

    /// Has a job done.
    pub fn run(&self, job: Job) {
        let unfinished = self.unfinished.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        // Both ends of the queue are here, so that it takes whatever comes.
        let _ = self.jobs.send(job);
        let wanted = unfinished.min(self.threads_max);
        let more = |threads: usize| (threads < wanted).then(|| threads.saturating_add(1));
        if self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
            && let Err(error) = self.start()
        {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            log::warn!("cannot start another thread {}: {error}", self.name);
        }
    }

    fn start(&self) -> io::Result<()> {
        let (queue, unfinished) = (self.queue.clone(), Arc::clone(&self.unfinished));
        let slice = self.slice;
        let work = move || {
            set_slice(slice);
            for job in queue {
                // A panic, which is a bug and was logged, does not cost the thread.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
                unfinished.fetch_sub(1, Ordering::AcqRel);
            }
        };
        std::thread::Builder::new().name(self.name.clone()).spawn(work).map(drop)
    }
}
