//! Checkpoints that were carried away, in a file that may be longer than memory is large: read beside the
//! lines, in the order in which they were signed.

use super::Check;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::VerifierKey;
use crate::ledger::pruned;
use crate::ledger::start::CheckpointCopy;
use crate::ledger::tree::{Hash, empty_root};
use crate::storage::Storage;

/// Begins to read them, the oldest first.
pub type Witness<'a> = &'a dyn Fn() -> Box<dyn Iterator<Item = CheckpointCopy> + 'a>;

/// Those that the key has signed.
pub struct Stream<'a> {
    all: Box<dyn Iterator<Item = CheckpointCopy> + 'a>,
    key: &'a VerifierKey,
    next: Option<(String, Checkpoint)>,
}

impl<'a> Stream<'a> {
    /// The first is at hand.
    pub fn new(witness: Witness<'a>, key: &'a VerifierKey) -> Self {
        let mut stream = Self { all: witness(), key, next: None };
        stream.advance();
        stream
    }

    fn advance(&mut self) {
        let key = self.key;
        let open = |copy: CheckpointCopy| {
            let checkpoint = Checkpoint::open(&copy.note, key).ok()?;
            Some((copy.place, checkpoint))
        };
        self.next = self.all.find_map(open);
    }

    /// The next one, if it vouches for no more lines than there are.
    pub fn up_to(&mut self, size: u64) -> Option<(String, Checkpoint)> {
        let due = self.next.as_ref().is_some_and(|(_, checkpoint)| checkpoint.size <= size);
        due.then(|| {
            let next = self.next.take();
            self.advance();
            next
        })?
    }
}

impl<S: Storage> Check<'_, S> {
    /// Holds the lines so far against what was carried away when there were so many.
    pub(super) fn follow(&mut self, size: u64) {
        while let Some((place, found)) = self.stream.as_mut().and_then(|all| all.up_to(size)) {
            self.compare_carried(place, &found);
        }
    }

    fn compare_carried(&mut self, place: String, found: &Checkpoint) {
        let (size, lines) = (found.size, self.builder.size());
        let root = match size == lines {
            true => Some(self.builder.root()),
            // It is older than one before it, or than the first line.
            false => self.root_before(size),
        };
        let what = match root {
            Some(root) if root == found.root => {
                self.report.witnessed = self.report.witnessed.saturating_add(1);
                return;
            }
            _ if size > lines => format!("it vouches for {size} lines, and there are {lines}"),
            Some(_) => format!("it vouches for other lines than the first {size}"),
            None => "the tiles do not lead from it to the lines that are there".to_owned(),
        };
        self.report.problem(place, what);
    }

    /// The root of fewer lines than were read.
    fn root_before(&self, size: u64) -> Option<Hash> {
        match size {
            0 => Some(empty_root()),
            size if size > self.builder.size() => None,
            size => pruned::root_before(self.against.tiles?, size, &self.builder),
        }
    }

    /// What was carried away and is left: of more lines than there are, or of other keys.
    pub(super) fn finish_witness(&mut self) {
        let lines = self.builder.size();
        self.follow(u64::MAX);
        let Some(witness) = self.against.witness else { return };
        let mut before = 0_u64;
        for copy in witness() {
            if Checkpoint::open(&copy.note, self.against.key).is_ok() {
                continue;
            }
            let is_kept = |found: &Checkpoint| {
                found.size <= lines && self.root_before(found.size) == Some(found.root)
            };
            if self.accounted.covers(&copy.note, is_kept) {
                before = before.saturating_add(1);
            } else {
                self.report.problem(copy.place, "it is of another ledger or key, or damaged");
            }
        }
        if before > 0 {
            let note = format!(
                "{before} checkpoints that were carried away are from before an accepted loss"
            );
            self.report.notes.push(note);
        }
    }
}
