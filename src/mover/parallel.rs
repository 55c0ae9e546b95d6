//! Many small pieces of work on a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::error::CrossingError;

/// What the pieces are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Microseconds each.
    Small,
    /// A process each, at least: every one may go to another thread.
    Large,
    /// A few syncs each: what waits for the disk at the same time shares its journal's commits.
    Syncs,
}

/// Threads that work on one tree.
const THREADS_MAX: usize = 4;
/// Threads that wait for the disk.
const SYNCING: usize = 32;
/// Small pieces from which on more than one thread is worth starting.
const PARALLEL_MIN: usize = 128;
/// Small pieces that a thread takes at once: names of one directory, mostly.
const RUN: usize = 16;

/// Calls `work` for every number below `count`, on a few threads when there are many, until one
/// fails. Each thread has a context of its own.
pub(super) fn in_parallel<C>(
    count: usize,
    pieces: Pieces,
    context: impl Fn() -> C + Sync,
    work: impl Fn(&mut C, usize) -> Result<(), CrossingError> + Sync,
) -> Result<(), CrossingError> {
    let (run, parallel_min) = match pieces {
        Pieces::Small => (RUN, PARALLEL_MIN),
        Pieces::Large => (1, 2),
        Pieces::Syncs => (1, PARALLEL_MIN / 2),
    };
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<CrossingError>> = Mutex::new(None);
    let work_on = || {
        let mut context = context();
        loop {
            let start = next.fetch_add(run, Ordering::Relaxed);
            if start >= count {
                return;
            }
            for at in start..count.min(start.saturating_add(run)) {
                if failed.lock().is_some() {
                    return;
                }
                if let Err(error) = work(&mut context, at) {
                    failed.lock().get_or_insert(error);
                    return;
                }
            }
        }
    };
    // Asking for the processors reads a few files: not for what one thread does.
    let threads = if count < parallel_min {
        1
    } else if pieces == Pieces::Syncs {
        SYNCING
    } else {
        std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX))
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // This thread does what others cannot.
            let builder = std::thread::Builder::new().name("octroi-tree".to_owned());
            if builder.spawn_scoped(scope, work_on).is_err() {
                break;
            }
        }
        work_on();
    });
    failed.into_inner().map_or(Ok(()), Err)
}
