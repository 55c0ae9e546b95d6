//! Equal denials, and equal ones that were only observed, within a second share a record, so that a loop of them cannot fill the disk: the
//! first is written at once, the others as one record with `count` when the second is over. On a full disk those
//! in other folders are equal too, for what room is left is bounded and folders are not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::record::{OperationRecord, Verdict};
use crate::types::{Verb, ViewPath, after};

const WINDOW: Duration = Duration::from_secs(1);
/// Windows open at a time; beyond that all are closed early.
const WINDOWS_MAX: usize = 4096;

/// What makes two denials equal.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    decision: Verdict,
    uid: u32,
    verb: Verb,
    rule: Option<String>,
    gate: Option<String>,
    parent: Option<ViewPath>,
}

struct Window {
    end: Instant,
    /// The latest of those that were held back, and how many they are.
    held: Option<(jiff::Timestamp, Box<OperationRecord>)>,
    count: u64,
}

/// The open windows.
#[derive(Default)]
pub struct Denials {
    windows: HashMap<Key, Window>,
}

impl Denials {
    /// Holds a denial back if an equal one was written less than a second ago, in the same folder unless they
    /// are `wide`; gives back what must be written now.
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
            Some(window) if now < window.end => {
                window.count = window.count.saturating_add(operation.count.unwrap_or(1));
                window.held = Some((time, operation));
                None
            }
            // A window that is over and still holds something is closed by `due` first.
            _ => {
                let end = after(now, WINDOW);
                self.windows.insert(key, Window { end, held: None, count: 0 });
                Some(operation)
            }
        }
    }

    /// The records of windows that are over, or of all (which stay open, so that asking often does
    /// not write more).
    pub fn due(&mut self, now: Instant, all: bool) -> Vec<(jiff::Timestamp, Box<OperationRecord>)> {
        let all = all || self.windows.len() > WINDOWS_MAX;
        let mut records = Vec::new();
        for window in self.windows.values_mut().filter(|window| all || window.end <= now) {
            if let Some((time, mut operation)) = window.held.take() {
                operation.count = (window.count > 1).then_some(window.count);
                window.count = 0;
                records.push((time, operation));
            }
        }
        self.windows.retain(|_, window| now < window.end);
        if self.windows.len() > WINDOWS_MAX {
            self.windows.clear();
        }
        records.sort_by_key(|(time, _)| *time);
        records
    }

    /// When the next window that holds something is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.windows.values().filter(|window| window.held.is_some()).map(|window| window.end).min()
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
}
