//! What comes of a verification once all lines are read.

use std::collections::BTreeMap;

use super::{Check, Report};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::tree::Hash;
use crate::storage::Storage;
use crate::types::counted;

impl<S: Storage> Check<'_, S> {
    /// A line that counts for nothing.
    pub(super) fn void(&mut self, segment: &str, from: u64) {
        match self.void.last_mut() {
            Some((last, _, lines)) if last == segment => *lines = lines.saturating_add(1),
            _ => self.void.push((segment.to_owned(), from, 1)),
        }
    }

    /// A mount cuts them off, so that none is left where something was done since and a mount came after.
    fn finish_void(&mut self) {
        for (segment, from, lines) in std::mem::take(&mut self.void) {
            let what = format!(
                "{} from seq {from} on, which the next segment has in their place",
                counted(lines, "line that counts for nothing", "lines that count for nothing")
            );
            if self.mounted.is_some_and(|mounted| mounted >= from) {
                let what = format!(
                    "it ends with {what}: the mount after would have cut off a failed sync's"
                );
                self.report.problem(segment, what);
            } else {
                self.report.void = self.report.void.saturating_add(lines);
                self.report.notes.push(format!(
                    "{segment} ends with {what}: a failed sync leaves such, anybody can write them, and the next \
                     mount cuts them off"
                ));
            }
        }
    }

    /// Whether lines have left by a record that is newer than the checkpoint which the lines were held against,
    /// and covered by one that is there now.
    pub(super) fn has_more_left(&self) -> bool {
        let first = self.front.as_ref().map_or(0, |(first, ..)| *first);
        let Some(seq) = self.leaving.unsigned_before(first) else { return false };
        let note = self.against.tiles.and_then(|tiles| tiles.checkpoint().ok()?);
        let newest = note.and_then(|note| Checkpoint::open(&note, self.against.key).ok());
        newest.is_some_and(|newest| newest.size > seq && newest.size > self.signed())
    }

    /// The report, once all lines are read.
    pub(super) fn finish(mut self) -> Report {
        if let Some((first @ 1.., _, place)) = self.front.take() {
            if first <= self.leaving.first {
                self.report.notes.push(format!(
                    "the first {first} lines have left, by a record that says so; their hashes are there"
                ));
            } else {
                let how = match self.leaving.unsigned_before(first) {
                    Some(seq) => {
                        format!(
                            "nobody has signed the record at seq {seq}, which says that they have left"
                        )
                    }
                    None => "did not leave by age or size".to_owned(),
                };
                let what = format!("its seq is {first}: the lines before are missing, and {how}");
                self.report.problem(place, what);
            }
        }
        self.finish_void();
        if let Some(first) = self.torn.first() {
            self.report.notes.push(format!(
                "{} and what follows was torn by a crash and never signed: the next mount cuts it off",
                first.place
            ));
        }
        let key = self.against.key.to_string();
        if let Some(named) = self.named.take_if(|named| *named != key) {
            let what = format!("the lines say that {named} signs, and {key} was to have");
            self.report.problem("key", what);
        }
        let lines = self.builder.size();
        let differs = self.differs;
        let judge = |roots: &BTreeMap<u64, Option<Hash>>, found: &Checkpoint| match roots
            .get(&found.size)
        {
            Some(Some(root)) if *root == found.root => None,
            Some(Some(_)) => Some(match differs.filter(|seq| *seq < found.size) {
                Some(seq) => format!("it vouches for another line at seq {seq}"),
                None => format!("it vouches for other lines than the first {}", found.size),
            }),
            _ => Some(format!("it vouches for {} lines, and there are {lines}", found.size)),
        };
        if let Some(checkpoint) = self.checkpoint.take() {
            match judge(&self.roots, &checkpoint) {
                Some(what) => self.report.problem("checkpoint", what),
                None => {
                    self.report.signed = Some(checkpoint.size);
                    self.note_unsigned(checkpoint.size);
                    self.report.root = Some(checkpoint.root_text());
                }
            }
        }
        for (place, copy) in std::mem::take(&mut self.copies) {
            match judge(&self.roots, &copy) {
                Some(what) => self.report.problem(place, what),
                None => self.report.copies.push(place),
            }
        }
        for copy in self.against.copies {
            if Checkpoint::open(&copy.note, self.against.key).is_ok() {
                continue;
            }
            let is_kept = |found: &Checkpoint| {
                self.other_roots.get(&found.size).is_some_and(|root| *root == Some(found.root))
            };
            if self.accounted.covers(&copy.note, is_kept) {
                let place = &copy.place;
                let note = format!("{place} is from before an accepted loss");
                self.report.notes.push(note);
            } else {
                self.report.problem(&copy.place, "it is of another ledger or key, or damaged");
            }
        }
        self.finish_witness();
        for (ending, count) in self.story.counts() {
            self.report.crossings.insert(ending.to_owned(), count);
        }
        self.report
    }

    fn note_unsigned(&mut self, signed: u64) {
        let unsigned = self.report.unsigned;
        if unsigned == 0 {
            return;
        }
        let lines = counted(unsigned, "line from", "lines from");
        self.report.notes.push(format!(
            "nobody has signed the {lines} seq {signed} on: nothing shows who wrote them. A daemon signs what it \
             wrote within a second; after a crash the next mount does"
        ));
    }
}
