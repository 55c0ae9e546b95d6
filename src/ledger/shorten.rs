//! Texts of records that are too long for a line, or for memory. Paths are cut between two names.

use std::sync::Arc;

use super::Record;
use super::decode::is_shortened;
use super::encode::{BODY_MAX, SHORTENED, whole_body};
use super::record::{CrossingRecord, OperationRecord, Step};
use crate::error::Errno;
use crate::types::ViewPath;

/// Bytes of each path of an operation that waits to be encoded: twice what one system call can name. Who
/// goes down folder by folder can make one of megabytes, and thousands of records may wait.
const PATH_MAX: usize = 8192;

/// Cuts the paths of an operation to at most [`PATH_MAX`] bytes.
pub(super) fn bound(operation: &mut OperationRecord) {
    for path in [Some(&mut operation.path), operation.target.as_mut()].into_iter().flatten() {
        if path.as_bytes().len() > PATH_MAX {
            *path = cut_path(path, PATH_MAX);
            operation.shortened = true;
        }
    }
}

/// A record's object with its longest texts cut until it fits. ENAMETOOLONG if it must not be cut.
pub(super) fn shorten(record: &Record) -> Result<Vec<u8>, Errno> {
    let mut keep = 16_384;
    while keep >= 64 {
        let shorter = match record {
            Record::Operation(operation) => Record::Operation(Box::new(cut(operation, keep))),
            Record::Crossing(step) if !matches!(step.step, Step::Prepare | Step::Commit) => {
                Record::Crossing(Box::new(cut_step(step, keep)))
            }
            Record::Crossing(step) if step.exe.is_some() => {
                Record::Crossing(Box::new(CrossingRecord { exe: None, ..(**step).clone() }))
            }
            _ => return Err(Errno::NAMETOOLONG),
        };
        let mut body = whole_body(&shorter)?;
        if !is_shortened(&body) {
            body.pop();
            body.extend_from_slice(SHORTENED);
        }
        if body.len() <= BODY_MAX {
            return Ok(body);
        }
        keep /= 2;
    }
    Err(Errno::NAMETOOLONG)
}

/// The same with texts of at most `keep` bytes.
fn cut(operation: &OperationRecord, keep: usize) -> OperationRecord {
    let mut cut = OperationRecord { shortened: true, ..operation.clone() };
    cut.path = cut_path(&cut.path, keep);
    cut.target = cut.target.map(|target| cut_path(&target, keep));
    let OperationRecord { rule, gate, reason, exe, branch, .. } = &mut cut;
    [rule, gate, reason].into_iter().flatten().for_each(|text| cut_text(text, keep));
    [exe, branch].into_iter().flatten().for_each(|text| cut_shared(text, keep));
    cut
}

fn cut_step(step: &CrossingRecord, keep: usize) -> CrossingRecord {
    let mut cut = step.clone();
    (cut.source, cut.target) = (cut_path(&cut.source, keep), cut_path(&cut.target, keep));
    let CrossingRecord { gate, exe, reason, .. } = &mut cut;
    [gate, reason].into_iter().flatten().for_each(|text| cut_text(text, keep));
    exe.iter_mut().for_each(|text| cut_shared(text, keep));
    cut.lost.clear();
    cut
}

/// The longest path from the root down to this one that has at most `keep` bytes.
fn cut_path(path: &ViewPath, keep: usize) -> ViewPath {
    let mut length = 0_usize;
    ViewPath::of_names(path.components().take_while(|name| {
        length = length.saturating_add(name.len()).saturating_add(1);
        length <= keep
    }))
}

fn cut_text(text: &mut String, keep: usize) {
    text.truncate(text.floor_char_boundary(keep));
}

fn cut_shared(text: &mut Arc<str>, keep: usize) {
    if let Some(cut) =
        text.get(..text.floor_char_boundary(keep)).filter(|cut| cut.len() < text.len())
    {
        *text = cut.into();
    }
}
