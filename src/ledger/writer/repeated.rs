//! What a batch of messages tells twice.

use std::collections::{HashMap, HashSet};

use super::super::record::{OperationRecord, Verdict};
use super::{Content, Message};
use crate::types::Operation;

/// Positions of first writes whose totals follow in the same batch and say all that they do: most files are
/// written with one call and closed. Who waits for a record gets it.
pub(super) fn first_writes(batch: &[Message]) -> HashSet<usize> {
    let mut open = HashMap::new();
    let mut told = HashSet::new();
    for (at, message) in batch.iter().enumerate() {
        let Message::Append { content: Content::Operation(record), reply: None, .. } = message
        else {
            continue;
        };
        if record.op != Operation::WriteData || record.decision != Verdict::Allowed {
            continue;
        }
        let key = (record.pid, record.path.as_bytes());
        match record.written {
            None if record.grown.is_none() && record.result == "ok" => {
                open.insert(key, (at, record));
            }
            None => {}
            Some(_) => {
                let first = open.remove(&key).filter(|(_, first)| says(record, first));
                told.extend(first.map(|(at, _)| at));
            }
        }
    }
    told
}

/// Whether totals, of the same thread and path, say what a first write does.
fn says(totals: &OperationRecord, first: &OperationRecord) -> bool {
    let who = |record: &OperationRecord| (record.uid, record.gid);
    who(totals) == who(first)
        && (&totals.rule, &totals.gate, &totals.reason) == (&first.rule, &first.gate, &first.reason)
        && (&totals.exe, &totals.branch) == (&first.exe, &first.branch)
}
