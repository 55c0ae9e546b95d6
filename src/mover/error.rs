//! Why a crossing did not happen, in words for people and as an errno for the caller.

use std::path::PathBuf;

use super::stop::Stop;
use crate::error::{Errno, errno_name};
use crate::types::{BranchUuid, TxId, binary_size};

/// Why a crossing or an undo did not happen. Unless it says otherwise, source and target are as
/// before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum CrossingError {
    /// The branch is not there.
    #[error("branch {branch} is offline")]
    Offline { branch: String },
    /// It was adopted anew, or is in the configuration no more: what a record says of it is past.
    #[error(
        "no branch of the view has the id {uuid} any more{}",
        name.as_ref().map(|name| format!(" (it was {name})")).unwrap_or_default()
    )]
    NoBranch { uuid: BranchUuid, name: Option<String> },
    /// Its file system takes no changes, and so it can neither give nor take.
    #[error("branch {branch} is read-only")]
    ReadOnly { branch: String },
    /// Nothing has the source's name.
    #[error("the source does not exist")]
    SourceGone,
    /// Something has the target's name and must not be replaced.
    #[error("the target exists")]
    TargetExists,
    /// A directory cannot be replaced by a file.
    #[error("the target is a directory")]
    TargetIsDirectory,
    /// Something that is not a directory cannot be replaced by one.
    #[error("the target is not a directory")]
    TargetIsNotDirectory,
    /// A directory is replaced only when it is empty.
    #[error("the target is a directory that is not empty")]
    TargetNotEmpty,
    /// Something is mounted there: what is below belongs to another file system.
    #[error("{} is a mount point", path.display())]
    MountPoint { path: PathBuf },
    /// The policy keeps something below the source from crossing.
    #[error("{}: {why}", path.display())]
    NotAdmitted { path: PathBuf, why: String },
    /// Somebody writes to it, perhaps outside the mount.
    #[error("the source is open for writing or mapped writable")]
    SourceBusy,
    /// Another name would still write the file after it crossed.
    #[error(
        "{} has {links} names, of which {inside} would cross; all or none of them can",
        path.display()
    )]
    HardLinked { path: PathBuf, links: u64, inside: u64 },
    /// The gate does not let this type through.
    #[error("the content is {found}, the gate takes {}", allowed.join(", "))]
    TypeNotAllowed { found: String, allowed: Vec<String> },
    /// The gate does not let this size through.
    #[error("the source has {}, the gate takes at most {}", binary_size(*size), binary_size(*max))]
    TooLarge { size: u64, max: u64 },
    /// All that time nobody could look names up in the folders that rename(2) has locked.
    #[error(
        "the source has more holes than rename(2) may take the time to hash; octroi mv takes it"
    )]
    TooManyHoles,
    /// A command of the gate did not accept the content.
    #[error("check `{command}`: {outcome}{}", said.as_ref().map(|said| format!(", saying: {said}")).unwrap_or_default())]
    CheckFailed { command: String, outcome: String, said: Option<String> },
    /// The gate's commands ask for content, which only regular files have.
    #[error("it is {found}, and the gate's checks take regular files alone")]
    NothingToCheck { found: String },
    /// The target's branch cannot take it and keep its `min_free`.
    #[error("branch {branch} has {} free; needed is {}, min_free included", binary_size(*free), binary_size(*needed))]
    NoSpace { branch: String, data: u64, needed: u64, free: u64 },
    /// The target's branch has no room for so many files.
    #[error("branch {branch} has room for {free} files more; {needed} are needed")]
    NoInodes { branch: String, needed: u64, free: u64 },
    /// Nobody may remove it.
    #[error("{} is immutable or append-only (chattr(1))", path.display())]
    Fixed { path: PathBuf },
    /// It is not what was copied any more.
    #[error("the source changed while it was crossing")]
    SourceChanged,
    /// Somebody wrote to the target before the crossing was put back.
    #[error("what is in stage is not the copy as it was made; it is kept there")]
    CopyChanged,
    /// What was read back is not what was written.
    #[error("the copy read back from {branch} differs from the source")]
    Verification { branch: String },
    /// The target's file system cannot hold part of it.
    #[error(
        "the target's file system cannot keep {what}{}",
        word.as_ref().map(|word| format!("; a gate with lossy = [\"{word}\"] lets it go")).unwrap_or_default()
    )]
    Fidelity { what: String, word: Option<String> },
    /// Somebody asked to stop, or nobody came for what was prepared.
    #[error("{0}")]
    Cancelled(Stop),
    /// No such transaction, or it was not completed.
    #[error("there is no completed crossing {txid} to undo")]
    UndoUnknown { txid: TxId },
    /// Not the author's own.
    #[error("crossing {txid} was made by another user")]
    UndoNotYours { txid: TxId },
    /// It cannot be taken back, or not any more.
    #[error("crossing {txid} cannot be undone: {why}")]
    UndoImpossible { txid: TxId, why: String },
    /// The ledger did not take a record.
    #[error("the ledger did not take the record: {}", errno_name(*errno))]
    Ledger { errno: Errno },
    /// A step failed.
    #[error("cannot {attempted} {what}: {}", errno_name(*errno))]
    Io { attempted: &'static str, what: String, errno: Errno },
    /// Something below the top of a tree is why.
    #[error("{}: {why}", path.display())]
    Below { path: PathBuf, why: Box<CrossingError> },
    /// After COMMIT; put back, and recorded.
    #[error("put back after the decision: {why}")]
    Reverted { why: Box<CrossingError> },
    /// After COMMIT; put back, and recorded. Whoever prepared it prepares anew, and then it is a copy.
    #[error("the file systems of source and target turned out to be two; try again, for a copy")]
    CopyNeeded,
    /// It is not certain whether the decision is durable. Nothing was moved; all is kept, and the
    /// next mount completes or undoes it.
    #[error("it is not known whether the decision on {txid} reached the disk: {}", errno_name(*errno))]
    InDoubt { txid: TxId, errno: Errno },
    /// A disk failed after the decision and on the way back. All is kept, and the next recovery
    /// completes or undoes it: when the branch is back, or the view is mounted again.
    #[error("crossing {txid} waits for its branch: {why}")]
    LeftOpen { txid: TxId, why: String },
    /// Neither completed nor put back; stage and hold are kept.
    #[error("crossing {txid} needs a person: {why}")]
    Dead { txid: TxId, why: String },
}

impl CrossingError {
    /// What the caller of `rename(2)` gets. A hard link is EPERM, as `link(2)` and `rename(2)` say
    /// "operation not permitted" for what a file's nature forbids: EBUSY would invite waiting.
    pub fn errno(&self) -> Errno {
        match self {
            Self::SourceGone | Self::NoBranch { .. } | Self::UndoUnknown { .. } => Errno::NOENT,
            Self::TargetExists => Errno::EXIST,
            Self::TargetIsDirectory => Errno::ISDIR,
            Self::TargetIsNotDirectory => Errno::NOTDIR,
            Self::TargetNotEmpty => Errno::NOTEMPTY,
            Self::Fidelity { .. } => Errno::OPNOTSUPP,
            Self::SourceBusy | Self::SourceChanged | Self::CopyChanged => Errno::BUSY,
            Self::HardLinked { .. } | Self::Fixed { .. } | Self::UndoNotYours { .. } => Errno::PERM,
            // What the gate refuses is a denial like any other.
            Self::TypeNotAllowed { .. }
            | Self::TooLarge { .. }
            | Self::CheckFailed { .. }
            | Self::NothingToCheck { .. }
            | Self::NotAdmitted { .. }
            | Self::MountPoint { .. } => Errno::ACCESS,
            Self::NoSpace { .. } | Self::NoInodes { .. } => Errno::NOSPC,
            Self::Offline { .. }
            | Self::Verification { .. }
            | Self::InDoubt { .. }
            | Self::LeftOpen { .. }
            | Self::Dead { .. } => Errno::IO,
            Self::ReadOnly { .. } => Errno::ROFS,
            Self::TooManyHoles => Errno::FBIG,
            Self::Cancelled(_) => Errno::CANCELED,
            Self::CopyNeeded => Errno::AGAIN,
            Self::UndoImpossible { .. } => Errno::INVAL,
            Self::Ledger { errno } | Self::Io { errno, .. } => *errno,
            Self::Below { why, .. } | Self::Reverted { why } => why.errno(),
        }
    }

    /// Whether the ledger refused a record before anything of it was written.
    pub(super) fn left_no_record(&self) -> bool {
        matches!(self, Self::Ledger { errno: Errno::NAMETOOLONG | Errno::INVAL })
    }

    /// Whether the gate or the policy refused, as opposed to a step that failed.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::TypeNotAllowed { .. }
            | Self::TooLarge { .. }
            | Self::CheckFailed { .. }
            | Self::NothingToCheck { .. }
            | Self::NotAdmitted { .. } => true,
            Self::Below { why, .. } => why.is_denial(),
            _ => false,
        }
    }

    /// The same without what a command said, which may be a part of what it read.
    pub fn silenced(self) -> Self {
        match self {
            Self::CheckFailed { command, outcome, said: _ } => {
                Self::CheckFailed { command, outcome, said: None }
            }
            Self::Below { path, why } => Self::Below { path, why: Box::new(why.silenced()) },
            other => other,
        }
    }

    /// The same of an entry below the top, unless it says so or concerns the whole.
    pub(super) fn at(self, path: impl FnOnce() -> PathBuf) -> Self {
        match self {
            Self::Cancelled(_)
            | Self::NotAdmitted { .. }
            | Self::MountPoint { .. }
            | Self::HardLinked { .. }
            | Self::Below { .. } => self,
            why => Self::Below { path: path(), why: Box::new(why) },
        }
    }

    /// For `map_err` on a step that names what it works on.
    pub(super) fn io(
        attempted: &'static str,
        what: impl std::fmt::Display,
    ) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { attempted, what: what.to_string(), errno }
    }
}
