//! What is written to the ledger of operations that were allowed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Errno, errno_name};
use crate::ledger::record::{OperationRecord, Verdict};
use crate::ledger::{Durability, Record};
use crate::sys::process::exe_of;
use crate::types::{BranchIndex, Operation, Verb, ViewPath};

use super::Vfs;
use super::permit::Question;

/// Which allowed operations are recorded; crossings and denials always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordLevel {
    /// None.
    Crossings,
    /// Those that change something.
    Mutations,
    /// Reads too.
    Everything,
}

impl Vfs {
    /// ENOSPC or EIO while the ledger cannot take records: then nothing may change. Asked before the
    /// act.
    pub(super) fn ready_to_record(&self) -> Result<(), Errno> {
        self.ledger.accepts_mutations()
    }

    /// Records how an allowed operation ended.
    pub(super) fn record(
        &self,
        operation: Operation,
        question: &Question<'_>,
        result: Result<(), Errno>,
    ) {
        if let Some(durability) = self.is_recorded(operation, question, result) {
            let exe = exe_of(question.caller.pid);
            let record = self.operation_record(operation, question, result, exe);
            self.append(Record::Operation(Box::new(record)), durability);
        }
    }

    /// Whether an allowed operation that ended is recorded, and how. To be asked once.
    pub(super) fn is_recorded(
        &self,
        operation: Operation,
        question: &Question<'_>,
        result: Result<(), Errno>,
    ) -> Option<Durability> {
        let (needed, durability) = match operation.verb() {
            Verb::Read => (RecordLevel::Everything, Durability::Async),
            Verb::Write | Verb::Add | Verb::Remove | Verb::Attrs => {
                (RecordLevel::Mutations, Durability::Group)
            }
        };
        if result == Err(Errno::ROFS)
            && let Some(branch) = question.branch
        {
            self.was_refused(branch);
        }
        (self.record >= needed).then_some(durability)
    }

    /// The source of a rename or move comes first, whichever side was asked about.
    pub(super) fn operation_record(
        &self,
        operation: Operation,
        question: &Question<'_>,
        result: Result<(), Errno>,
        exe: Option<Arc<str>>,
    ) -> OperationRecord {
        let (path, target) = operation.sides(question.path, question.target);
        let index = match question.branch {
            Some(asked) if path != question.path => self.branch_beside(path, asked),
            asked => asked,
        };
        let branch = index.and_then(|index| self.branch(index).ok());
        OperationRecord {
            op: operation,
            decision: Verdict::Allowed,
            rule: None,
            gate: None,
            reason: None,
            uid: question.caller.uid,
            gid: question.caller.gid,
            pid: question.caller.pid,
            exe,
            path: path.clone(),
            target: target.cloned(),
            branch: branch.map(|branch| branch.shared_name()),
            result: result.map_or_else(errno_name, |()| "ok").into(),
            written: None,
            first_write: false,
            grown: None,
            count: None,
            shortened: false,
            open_file: None,
        }
    }

    /// The branch of the other path of an operation: the same where it can be.
    fn branch_beside(&self, path: &ViewPath, asked: BranchIndex) -> Option<BranchIndex> {
        let there = self.branch_of_path(path)?;
        let same = self.view.domain(there) == self.view.domain(asked);
        Some(if same { asked } else { there })
    }

    /// An allowed change met EROFS: the branch, or a member of its pool, may have become read-only.
    pub(super) fn was_refused(&self, index: BranchIndex) {
        let members = self.view.members(self.view.domain(index)).into_iter();
        members.filter_map(|index| self.branch(index).ok()).for_each(|branch| branch.was_refused());
    }

    /// Hands a record to the ledger. What was done is done: a ledger that fails now says so once, counts
    /// what it does not take, and refuses the next mutation by itself.
    pub(super) fn append(&self, record: Record, durability: Durability) {
        let _ = self.ledger.append(record, durability);
    }
}
