//! Threads for slow requests, so that no request worker waits for a disk to sync or a file to cross.

use crossbeam_channel::{Sender, bounded};

type Job = Box<dyn FnOnce() + Send>;

/// Requests that may wait for a thread; more make the request worker wait.
const QUEUE: usize = 1024;

/// A fixed number of threads with one queue. The threads end with the last sender.
pub struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts `threads` threads named `name`.
    pub fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE);
        for _ in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || queue.iter().for_each(|job| job()))?;
        }
        Ok(Self { jobs })
    }

    /// Runs a job on one of the threads.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as this sender; should they be gone, the request is done here.
        if let Err(refused) = self.jobs.send(Box::new(job)) {
            (refused.0)();
        }
    }
}
