//! How many crossings are prepared at a time (`crossings.parallel`) and how fast they may read all
//! together (`crossings.rate`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::CrossingError;
use super::progress::Progress;
use crate::types::TxId;

/// How long a crossing may keep one waiting that has nothing to do with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How late one who waits notices that it was asked to stop.
const NOTICE: Duration = Duration::from_millis(50);

/// Hands out turns in the order in which they were asked for, in each [`Lane`]. One that has lasted for
/// [`PATIENCE`] does not count against `parallel` any more once somebody of another lane waits: a disk that hangs and a
/// user with files without end hold up their own crossings alone.
#[derive(Debug)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Whose crossings, between which branches. At most `parallel` of a lane run, counted or not.
type Lane = (u32, [String; 2]);

#[derive(Debug)]
struct Queue {
    parallel: usize,
    running: Vec<Running>,
    waiting: VecDeque<(TxId, Lane)>,
}

#[derive(Debug)]
struct Running {
    txid: TxId,
    lane: Lane,
    since: Instant,
    counted: bool,
}

impl Queue {
    /// Begins the turn of one that waits, if it is its turn now.
    fn begin(&mut self, txid: TxId, now: Instant) -> bool {
        let of = |lane: &Lane| self.running.iter().filter(|one| one.lane == *lane).count();
        let next = self.waiting.iter().position(|(_, lane)| of(lane) < self.parallel);
        let Some(place) =
            next.filter(|place| self.waiting.get(*place).is_some_and(|(first, _)| *first == txid))
        else {
            return false;
        };
        let counted = self.running.iter().filter(|one| one.counted).count();
        if counted >= self.parallel {
            let lane = self.waiting.get(place).map(|(_, lane)| lane);
            let long = |one: &&mut Running| {
                let lasted = now.saturating_duration_since(one.since);
                one.counted && Some(&one.lane) != lane && lasted >= PATIENCE
            };
            let Some(longest) = self.running.iter_mut().find(long) else { return false };
            longest.counted = false;
        }
        let Some((txid, lane)) = self.waiting.remove(place) else { return false };
        self.running.push(Running { txid, lane, since: now, counted: true });
        true
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct TurnGuard<'a> {
    turns: &'a Turns,
    txid: TxId,
}

impl Turns {
    /// At most `parallel` at a time.
    pub(super) fn new(parallel: usize) -> Self {
        let queue = Queue { parallel, running: Vec::new(), waiting: VecDeque::new() };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    pub(super) fn set(&self, parallel: usize) {
        self.queue.lock().parallel = parallel;
        self.changed.notify_all();
    }

    /// Waits for a turn, or until the transaction is cancelled.
    pub(super) fn take(&self, progress: &Progress) -> Result<TurnGuard<'_>, CrossingError> {
        let txid = progress.txid;
        let mut queue = self.queue.lock();
        queue.waiting.push_back((txid, (progress.uid, progress.branches.clone())));
        loop {
            if let Err(error) = progress.check_cancel() {
                queue.waiting.retain(|(other, _)| *other != txid);
                self.changed.notify_all();
                return Err(error);
            }
            if queue.begin(txid, Instant::now()) {
                self.changed.notify_all();
                return Ok(TurnGuard { turns: self, txid });
            }
            self.changed.wait_for(&mut queue, NOTICE);
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.turns.queue.lock().running.retain(|one| one.txid != self.txid);
        self.turns.changed.notify_all();
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

    /// Crossings that wait, by number and lane: who of them begins at each moment.
    #[test]
    fn who_has_nothing_to_do_with_a_long_one_waits_for_a_while_only() {
        let mut queue = Queue { parallel: 2, running: Vec::new(), waiting: VecDeque::new() };
        let lane = |uid, to: &str| (uid, ["inbox".to_owned(), to.to_owned()]);
        let ids: Vec<TxId> = (1..=8).map(|n: u128| TxId(ulid::Ulid(n))).collect();
        let hung = lane(1000, "hung");
        let lanes = [&hung, &hung, &hung, &lane(1000, "good"), &lane(1001, "hung"), &hung];
        for (txid, lane) in ids.iter().zip(lanes) {
            queue.waiting.push_back((*txid, lane.clone()));
        }
        let start = Instant::now();
        let begun = |queue: &mut Queue, seconds| -> Vec<usize> {
            let now = start + Duration::from_secs(seconds);
            (0..ids.len()).filter(|at| queue.begin(ids[*at], now)).collect()
        };
        assert_eq!(begun(&mut queue, 0), [0, 1]);
        assert!(begun(&mut queue, 9).is_empty());
        assert_eq!(begun(&mut queue, 10), [3, 4], "the third has the lane of those that hang");
        assert!(begun(&mut queue, 99).is_empty(), "two of a lane are enough");
        queue.running.retain(|one| one.txid != ids[3]);
        assert!(begun(&mut queue, 99).is_empty());
        queue.running.retain(|one| one.txid != ids[0]);
        assert_eq!(begun(&mut queue, 99), [2]);
    }

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
