//! Counters and latencies of requests, one row a kind of request. Lock-free: each record is a few
//! relaxed additions, and a reader may see a request in one counter a moment before another.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! requests {
    ($($name:ident $text:literal)*) => {
        /// A kind of request, named after the FUSE request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is named after the request")]
        pub enum Request { $($name,)* }

        impl Request {
            /// All kinds, in the order of the rows.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in `.audit/stats`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

requests! {
    Lookup "lookup"
    Forget "forget"
    Getattr "getattr"
    Setattr "setattr"
    Readlink "readlink"
    Mknod "mknod"
    Mkdir "mkdir"
    Symlink "symlink"
    Unlink "unlink"
    Rmdir "rmdir"
    Rename "rename"
    Link "link"
    Open "open"
    Create "create"
    Read "read"
    Write "write"
    Flush "flush"
    Release "release"
    Fsync "fsync"
    Opendir "opendir"
    Readdir "readdir"
    Readdirplus "readdirplus"
    Releasedir "releasedir"
    Fsyncdir "fsyncdir"
    Statfs "statfs"
    Setxattr "setxattr"
    Getxattr "getxattr"
    Listxattr "listxattr"
    Removexattr "removexattr"
    Access "access"
    Fallocate "fallocate"
    Lseek "lseek"
    CopyFileRange "copy_file_range"
    Ioctl "ioctl"
}

/// Latencies are counted in powers of two of nanoseconds; bucket 39 holds all above 2^39 ns
/// (nine minutes).
const BUCKETS: usize = 40;

struct Row {
    count: AtomicU64,
    errors: AtomicU64,
    total_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Row {
    fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Upper bound in nanoseconds of the bucket in which the given share of requests is reached.
    fn quantile_ns(&self, per_mille: u64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let total = counts.iter().copied().fold(0, u64::saturating_add);
        let wanted = (total.saturating_mul(per_mille)).div_ceil(1000);
        let mut seen = 0_u64;
        for (exponent, count) in counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted && *count > 0 {
                return 1 << exponent;
            }
        }
        0
    }
}

/// The counters of one mount.
pub struct Stats {
    rows: Vec<Row>,
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl Stats {
    /// All counters at zero.
    pub fn new() -> Self {
        Self { rows: Request::ALL.iter().map(|_| Row::new()).collect() }
    }

    /// Counts one request that took `elapsed` and ended well or not.
    pub fn record(&self, request: Request, elapsed: Duration, ok: bool) {
        let Some(row) = self.rows.get(request as usize) else { return };
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        row.count.fetch_add(1, Ordering::Relaxed);
        row.errors.fetch_add(u64::from(!ok), Ordering::Relaxed);
        row.total_ns.fetch_add(ns, Ordering::Relaxed);
        let exponent = (64_usize.saturating_sub(ns.saturating_sub(1).leading_zeros() as usize))
            .min(BUCKETS - 1);
        if let Some(bucket) = row.buckets.get(exponent) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Starts a clock; the request is recorded when the guard is dropped, as an error unless
    /// [`TimerGuard::succeed`] was called.
    pub fn time(&self, request: Request) -> TimerGuard<'_> {
        TimerGuard { stats: self, request, start: Instant::now(), ok: false }
    }

    /// Requests of a kind so far, and how many of them failed.
    pub fn counts(&self, request: Request) -> (u64, u64) {
        self.rows.get(request as usize).map_or((0, 0), |row| {
            (row.count.load(Ordering::Relaxed), row.errors.load(Ordering::Relaxed))
        })
    }
}

/// One line a kind of request that came at least once: name, count, errors, mean, p50 and p99 in
/// microseconds. The quantiles are upper bounds, exact to a factor of two.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (request, count, errors) = ("request", "count", "errors");
        let (mean, p50, p99) = ("mean_us", "p50_us", "p99_us");
        writeln!(f, "{request:<16}{count:>12}{errors:>10}{mean:>12}{p50:>12}{p99:>12}")?;
        for (request, row) in Request::ALL.iter().zip(&self.rows) {
            let count = row.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let us = |ns: u64| ns as f64 / 1000.0;
            writeln!(
                f,
                "{:<16}{count:>12}{:>10}{:>12.1}{:>12.1}{:>12.1}",
                request.name(),
                row.errors.load(Ordering::Relaxed),
                us(row.total_ns.load(Ordering::Relaxed)) / count as f64,
                us(row.quantile_ns(500)),
                us(row.quantile_ns(990)),
            )?;
        }
        Ok(())
    }
}

/// A running clock; see [`Stats::time`].
#[must_use = "the request is recorded when this is dropped"]
pub struct TimerGuard<'a> {
    stats: &'a Stats,
    request: Request,
    start: Instant,
    ok: bool,
}

impl TimerGuard<'_> {
    /// The request ends well.
    pub fn succeed(mut self) {
        self.ok = true;
    }
}

impl Drop for TimerGuard<'_> {
    fn drop(&mut self) {
        self.stats.record(self.request, self.start.elapsed(), self.ok);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_bound_the_latency_from_above() {
        let stats = Stats::new();
        for _ in 0..98 {
            stats.record(Request::Lookup, Duration::from_nanos(1000), true);
        }
        stats.record(Request::Lookup, Duration::from_nanos(1_000_000), false);
        stats.record(Request::Lookup, Duration::from_nanos(1_000_000), false);
        assert_eq!(stats.counts(Request::Lookup), (100, 2));
        let row = &stats.rows[Request::Lookup as usize];
        assert_eq!(row.quantile_ns(500), 1024);
        assert_eq!(row.quantile_ns(990), 1 << 20);
    }

    #[test]
    fn extreme_latencies_have_a_bucket() {
        let stats = Stats::new();
        stats.record(Request::Read, Duration::ZERO, true);
        stats.record(Request::Read, Duration::MAX, true);
        assert_eq!(stats.counts(Request::Read), (2, 0));
        assert_eq!(stats.rows[Request::Read as usize].quantile_ns(990), 1 << 39);
    }

    #[test]
    fn a_dropped_timer_counts_an_error_and_only_seen_requests_are_shown() {
        let stats = Stats::new();
        drop(stats.time(Request::Open));
        stats.time(Request::Open).succeed();
        assert_eq!(stats.counts(Request::Open), (2, 1));
        let text = stats.to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("open ")), "{text}");
    }
}
