//! The daemon's log: standard error, without what is only noise, and no more of it than a disk bears. Users cause lines
//! with names of theirs in them, as fast as they can ask. What is only for who looks for a mistake is not counted.

use std::time::Instant;

use log::{Level, Log as _, Record};
use parking_lot::Mutex;

use crate::fuse;

/// Lines of one level that may come at once. After them, one a second.
const BURST: u32 = 500;
/// Bytes of a message. More is cut.
const MESSAGE_MAX: usize = 4096;

/// Begins to log; where there is a log already, that one serves.
pub fn start() {
    let env = env_logger::Env::default().default_filter_or("info");
    let log = env_logger::Builder::from_env(env).target(env_logger::Target::Stderr).build();
    log::set_max_level(log.filter());
    let _ = log::set_boxed_logger(Box::new(Limited { log, buckets: Mutex::default() }));
}

struct Limited {
    log: env_logger::Logger,
    /// For each level, so that warnings leave room for errors.
    buckets: Mutex<[Option<Bucket>; 6]>,
}

/// How many lines may still come, as of a moment, and how many were left out.
struct Bucket {
    room: u32,
    since: Instant,
    left_out: u64,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { room: BURST, since: now, left_out: 0 }
    }

    /// Whether a line may come now; if so, how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_secs();
        let passed = u32::try_from(passed).unwrap_or(BURST);
        if passed > 0 {
            self.room = self.room.saturating_add(passed).min(BURST);
            self.since = now;
        }
        let Some(room) = self.room.checked_sub(1) else {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        };
        self.room = room;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Limited {
    fn write(&self, record: &Record<'_>, message: &str) {
        let mut line = Record::builder();
        line.metadata(record.metadata().clone());
        self.log.log(&line.args(format_args!("{message}")).build());
    }
}

impl log::Log for Limited {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.log.matches(record) || fuse::is_noise(record) {
            return;
        }
        if record.level() > Level::Info {
            return self.log.log(record);
        }
        let admitted = {
            let (mut buckets, now) = (self.buckets.lock(), Instant::now());
            let Some(bucket) = buckets.get_mut(record.level() as usize) else { return };
            bucket.get_or_insert_with(|| Bucket::new(now)).admit(now)
        };
        let Some(left_out) = admitted else { return };
        if left_out > 0 {
            self.write(record, &format!("{left_out} lines like these were left out"));
        }
        self.write(record, &cut(record.args().to_string()));
    }

    fn flush(&self) {
        self.log.flush();
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        message.push_str(" [cut]");
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_lines_is_told_by_their_number() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut bucket = Bucket::new(begun);
        for _ in 0..BURST {
            assert_eq!(bucket.admit(begun), Some(0));
        }
        assert_eq!((bucket.admit(begun), bucket.admit(begun)), (None, None));
        assert_eq!(bucket.admit(begun + second), Some(2));
        assert_eq!(bucket.admit(begun + second), None);
        assert_eq!(bucket.admit(begun + second * 10_000), Some(1));
        assert_eq!(bucket.room, BURST - 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut(format!("x{}", "ä".repeat(MESSAGE_MAX)));
        assert!(long.len() < MESSAGE_MAX + 10 && long.ends_with("ä [cut]"), "{}", long.len());
    }
}
