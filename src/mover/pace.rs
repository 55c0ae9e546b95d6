//! How many crossings are prepared at a time (`crossings.parallel`) and how fast they may read all
//! together (`crossings.rate`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::CrossingError;
use super::progress::Progress;
use crate::types::TxId;

/// How late one who waits notices that it was asked to stop.
const NOTICE: Duration = Duration::from_millis(50);

/// Hands out turns in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    parallel: usize,
    running: usize,
    waiting: VecDeque<TxId>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct TurnGuard<'a>(&'a Turns);

impl Turns {
    /// At most `parallel` at a time.
    pub(super) fn new(parallel: usize) -> Self {
        let queue = Queue { parallel, running: 0, waiting: VecDeque::new() };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    pub(super) fn set(&self, parallel: usize) {
        self.queue.lock().parallel = parallel;
        self.changed.notify_all();
    }

    /// Waits for a turn, or until the transaction is cancelled.
    pub(super) fn take(&self, progress: &Progress) -> Result<TurnGuard<'_>, CrossingError> {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(progress.txid);
        loop {
            let first = queue.waiting.front() == Some(&progress.txid);
            if let Err(error) = progress.check_cancel() {
                queue.waiting.retain(|txid| *txid != progress.txid);
                self.changed.notify_all();
                return Err(error);
            }
            if first && queue.running < queue.parallel {
                queue.waiting.pop_front();
                queue.running = queue.running.saturating_add(1);
                self.changed.notify_all();
                return Ok(TurnGuard(self));
            }
            self.changed.wait_for(&mut queue, NOTICE);
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.running = queue.running.saturating_sub(1);
        drop(queue);
        self.0.changed.notify_all();
    }
}

/// Lets so many bytes a second pass, for all who ask together.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<Bucket>);

#[derive(Debug, Default)]
struct Bucket {
    /// Bytes a second; none: no limit.
    rate: Option<u64>,
    /// When what was let through so far is used up.
    free_at: Option<Instant>,
}

impl Limiter {
    pub(super) fn set(&self, rate: Option<u64>) {
        *self.0.lock() = Bucket { rate, free_at: None };
    }

    /// Waits until what passed before is used up, then lets `bytes` pass; nobody saves up. Returns at
    /// once when `stop` says so.
    pub(super) fn take(&self, bytes: u64, stop: impl Fn() -> bool) {
        while !stop() {
            let Some(wait) = self.0.lock().wait_or_take(bytes, Instant::now()) else { return };
            std::thread::sleep(wait.min(NOTICE));
        }
    }
}

impl Bucket {
    /// How long to wait before asking again; none if the bytes may pass.
    fn wait_or_take(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let rate = self.rate?;
        let free_at = self.free_at.unwrap_or(now).max(now);
        if free_at > now {
            return Some(free_at.saturating_duration_since(now));
        }
        let cost = Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.free_at = now.checked_add(cost.unwrap_or(Duration::MAX));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_for_all_together() {
        let mut bucket = Bucket { rate: Some(1000), free_at: None };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(bucket.wait_or_take(500, at(0)), None, "the first passes at once");
        assert_eq!(bucket.wait_or_take(1, at(0)), Some(Duration::from_millis(500)));
        assert_eq!(bucket.wait_or_take(1, at(499)), Some(Duration::from_millis(1)));
        assert_eq!(bucket.wait_or_take(1000, at(500)), None);
        assert_eq!(bucket.wait_or_take(1, at(1499)), Some(Duration::from_millis(1)));
        assert_eq!(bucket.wait_or_take(1, at(9000)), None, "idle time is not saved up");
        assert_eq!(bucket.wait_or_take(1, at(9000)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.wait_or_take(u64::MAX, Instant::now()), None);
        assert_eq!(bucket.wait_or_take(u64::MAX, Instant::now()), None);
    }

    #[test]
    fn one_who_is_told_to_stop_does_not_wait() {
        let limiter = Limiter::default();
        limiter.set(Some(1));
        limiter.take(u64::from(u32::MAX), || false);
        limiter.take(1, || true);
    }
}
