//! What a batch of messages tells twice.

use std::collections::{HashMap, HashSet};

use super::super::record::{OperationRecord, Verdict};
use super::{Content, Message};
use crate::types::Operation;

/// Nanoseconds between a first write and the totals that stand for it, at most: a batch is as long as the disk
/// needs.
const MOMENT: i128 = 100_000_000;

/// Positions of first writes whose totals follow in the same moment and say all that they do: most files are
/// written with one call and closed. The totals say that they stand for both. Who waits for a record gets it, and
/// nothing comes to stand before it.
pub(super) fn merge(batch: &mut [Message]) -> HashSet<usize> {
    let pairs = pairs(batch);
    for (_, at) in &pairs {
        if let Some(Message::Append { content: Content::Operation(totals), .. }) =
            batch.get_mut(*at)
        {
            totals.first_write = true;
        }
    }
    pairs.into_iter().map(|(at, _)| at).collect()
}

/// Positions of first writes and of their totals.
fn pairs(batch: &[Message]) -> Vec<(usize, usize)> {
    let mut open = HashMap::new();
    let mut pairs = Vec::new();
    for (at, message) in batch.iter().enumerate() {
        let (time, record) = match message {
            Message::Append { time, content: Content::Operation(record), reply: None, .. } => {
                (time.as_nanosecond(), record)
            }
            Message::Append { .. } => {
                open.clear();
                continue;
            }
            _ => continue,
        };
        if record.op != Operation::WriteData || record.decision != Verdict::Allowed {
            continue;
        }
        let Some(key) = record.open_file else { continue };
        match record.written {
            None if record.grown.is_none() && record.result == "ok" => {
                open.insert(key, (at, time, record));
            }
            None => {}
            Some(_) => {
                let first = open.remove(&key).filter(|(_, then, first)| {
                    time.saturating_sub(*then) <= MOMENT && says(record, first)
                });
                pairs.extend(first.map(|(first, ..)| (first, at)));
            }
        }
    }
    pairs
}

/// Whether totals, of the same open file, say what a first write does.
fn says(totals: &OperationRecord, first: &OperationRecord) -> bool {
    let who = |record: &OperationRecord| (record.uid, record.gid, record.pid);
    who(totals) == who(first)
        && totals.path == first.path
        && (&totals.rule, &totals.gate, &totals.reason) == (&first.rule, &first.gate, &first.reason)
        && (&totals.exe, &totals.branch) == (&first.exe, &first.branch)
}
