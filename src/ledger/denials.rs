//! Equal denials, and equal ones that were only observed, within a second share a record, so that a loop of them cannot fill the disk: the
//! first is written at once, the others as one record with `count` when the second is over. On a full disk those
//! in other folders are equal too, for what room is left is bounded and folders are not.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{OperationRecord, Verdict};
use crate::types::{Verb, ViewPath, after};

const WINDOW: Duration = Duration::from_secs(1);
/// Windows open at a time; beyond that all are closed early.
const WINDOWS_MAX: usize = 4096;

/// What makes two denials equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    decision: Verdict,
    uid: u32,
    verb: Verb,
    rule: Option<String>,
    gate: Option<String>,
    parent: Option<ViewPath>,
}

#[derive(Default)]
struct Window {
    /// The latest of those that were held back, and how many they are.
    held: Option<(jiff::Timestamp, Box<OperationRecord>)>,
    count: u64,
}

impl Window {
    /// The record of what was held back.
    fn take(&mut self) -> Option<(jiff::Timestamp, Box<OperationRecord>)> {
        let (time, mut operation) = self.held.take()?;
        operation.count = (self.count > 1).then_some(self.count);
        self.count = 0;
        Some((time, operation))
    }
}

/// The open windows.
#[derive(Default)]
pub struct Denials {
    windows: HashMap<Arc<Key>, Window>,
    /// When each is over, in order: every message asks, and there may be thousands.
    ends: VecDeque<(Instant, Arc<Key>)>,
}

impl Denials {
    /// Holds a denial back if an equal one was written less than a second ago, in the same folder unless they
    /// are `wide`; gives back what must be written now. Windows that are over are closed by [`Denials::due`].
    pub fn admit(
        &mut self,
        time: jiff::Timestamp,
        operation: Box<OperationRecord>,
        now: Instant,
        wide: bool,
    ) -> Option<Box<OperationRecord>> {
        if operation.decision == Verdict::Allowed {
            return Some(operation);
        }
        let key = Key {
            decision: operation.decision,
            uid: operation.uid,
            verb: operation.op.verb(),
            rule: operation.rule.clone(),
            gate: operation.gate.clone(),
            parent: operation.path.parent().filter(|_| !wide),
        };
        match self.windows.get_mut(&key) {
            Some(window) => {
                window.count = window.count.saturating_add(operation.count.unwrap_or(1));
                window.held = Some((time, operation));
                None
            }
            None => {
                let key = Arc::new(key);
                self.ends.push_back((after(now, WINDOW), Arc::clone(&key)));
                self.windows.insert(key, Window::default());
                Some(operation)
            }
        }
    }

    /// The records of windows that are over, or of all (which stay open, so that asking often does
    /// not write more).
    pub fn due(&mut self, now: Instant, all: bool) -> Vec<(jiff::Timestamp, Box<OperationRecord>)> {
        let crowded = self.windows.len() > WINDOWS_MAX;
        let mut records = Vec::new();
        if all || crowded {
            records.extend(self.windows.values_mut().filter_map(Window::take));
        }
        while let Some((_, key)) = self.ends.pop_front_if(|(end, _)| crowded || *end <= now) {
            records.extend(self.windows.remove(&key).and_then(|mut window| window.take()));
        }
        records.sort_by_key(|(time, _)| *time);
        records
    }

    /// When the next window is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::tests::operation;
    use super::*;

    fn of(path: &str, allowed: bool) -> Box<OperationRecord> {
        let Record::Operation(operation) = operation(path, allowed) else { unreachable!() };
        operation
    }

    #[test]
    fn a_loop_of_denials_is_two_records_a_second() {
        let mut denials = Denials::default();
        let (start, time) = (Instant::now(), jiff::Timestamp::UNIX_EPOCH);
        let denied = || of("/inbox/a", false);
        assert!(denials.admit(time, denied(), start, false).is_some());
        for _ in 0..1000 {
            assert!(denials.admit(time, denied(), start, false).is_none());
        }
        assert!(denials.admit(time, of("/review/a", false), start, false).is_some());
        assert!(denials.admit(time, of("/inbox/a", true), start, false).is_some());
        let observed = || Box::new(OperationRecord { decision: Verdict::Observed, ..*denied() });
        assert!(denials.admit(time, observed(), start, false).is_some());
        assert!(denials.admit(time, observed(), start, false).is_none());
        assert!(denials.due(start, false).is_empty());
        let due = denials.due(start + WINDOW, false);
        let [(_, one), (_, two)] = due.as_slice() else { panic!("{}", due.len()) };
        let (record, observed) =
            if one.decision == Verdict::Denied { (one, two) } else { (two, one) };
        assert_eq!((record.count, observed.count), (Some(1000), None));
        assert!(denials.admit(time, denied(), start + WINDOW, false).is_some());
        assert!(denials.admit(time, of("/x/a", false), start + WINDOW, true).is_some());
        for folder in 0..1000 {
            let elsewhere = of(&format!("/{folder}/a"), false);
            assert!(denials.admit(time, elsewhere, start + WINDOW, true).is_none());
        }
    }

    #[test]
    fn a_window_ends_after_its_second_and_too_many_end_early() {
        let mut denials = Denials::default();
        let (start, time) = (Instant::now(), jiff::Timestamp::UNIX_EPOCH);
        let mut deny = |folder: usize, at: u32| {
            let (now, denied) = (start + WINDOW / 10 * at, of(&format!("/{folder}/a"), false));
            let due = denials.due(now, false);
            (denials.admit(time, denied, now, false).is_some(), due.len(), denials.next_end())
        };
        assert_eq!(deny(1, 0), (true, 0, Some(start + WINDOW)));
        assert_eq!(deny(2, 3), (true, 0, Some(start + WINDOW)));
        assert_eq!(deny(1, 5), (false, 0, Some(start + WINDOW)));
        assert_eq!(deny(2, 10), (false, 1, Some(start + WINDOW / 10 * 13)));
        assert_eq!(deny(1, 12), (true, 0, Some(start + WINDOW / 10 * 13)));
        assert_eq!(deny(2, 13), (true, 1, Some(start + WINDOW / 10 * 22)));
        for folder in 3..=WINDOWS_MAX {
            assert!(deny(folder, 14).0);
        }
        assert!(!deny(3, 14).0);
        assert!(deny(WINDOWS_MAX + 1, 14).0);
        assert_eq!(deny(3, 14), (true, 1, Some(start + WINDOW / 10 * 24)), "all were closed");
    }
}
