//! What a line of the ledger says. The line's envelope (`seq`, `time`, `crc`) is the writer's; the
//! body is one of these. Encoding does no I/O.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{BranchUuid, Handle, Identity, Operation, TxId, ViewPath};

/// How soon a record must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Whenever the next fsync comes.
    Async,
    /// At most 100 ms later; the caller does not wait.
    Group,
    /// The caller waits for the fsync, which many callers share.
    Sync,
}

/// One record, tagged by `kind` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// Opens a segment.
    Version(VersionRecord),
    /// The daemon began to serve, or stopped cleanly.
    Mount(MountRecord),
    /// A branch was adopted: from now on it must carry this id.
    Branch(BranchRecord),
    /// An operation that was decided, and how it ended.
    Operation(Box<OperationRecord>),
    /// A step of a crossing or of an undo.
    Crossing(Box<CrossingRecord>),
    /// The policy in force changed.
    Policy(PolicyRecord),
    /// The last run did not stop cleanly: up to 100 ms of `group` records may be missing before
    /// this line. Or the ledger's disk was full, and what then could not be recorded is counted.
    Gap(GapRecord),
    /// What waited in hold was removed for good.
    Purge(PurgeRecord),
    /// Lines or keys that a checkpoint vouches for are gone; a person went on without them, by another key.
    Loss(Box<LossRecord>),
    /// A key begins to sign.
    Key(KeyRecord),
    /// A command of a gate was asked about a file.
    Check(Box<CheckRecord>),
    /// Segments leave from the front.
    Prune(Box<PruneRecord>),
}

impl Record {
    /// The ids of branches that it tells, by their names.
    pub fn ids(&self) -> Vec<(&str, BranchUuid)> {
        match self {
            Self::Branch(record) => vec![(record.branch.as_str(), record.id)],
            Self::Prune(record) => {
                record.ids.iter().map(|(name, id)| (name.as_str(), *id)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Opens a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionRecord {
    /// Version of the line format: 1.
    pub format: u32,
    /// The program and its version, such as `octroi 0.1.0`.
    pub program: String,
    /// The view's name.
    pub view: String,
    /// The previous segment could not be synced: what it holds from this record's `seq` on is void,
    /// and follows here again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_failed_sync: bool,
}

/// The daemon began to serve or stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MountRecord {
    /// `mounted` or `unmounted`.
    pub event: MountEvent,
    /// Where.
    pub mountpoint: String,
    /// Who started the daemon.
    pub uid: u32,
    /// The daemon's process id.
    pub pid: u32,
}

/// See [`MountRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountEvent {
    /// Serving begins.
    Mounted,
    /// All requests are done and the ledger is closed.
    Unmounted,
}

/// A branch was adopted, or gets a first copy of the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchRecord {
    /// The name in the configuration.
    pub branch: String,
    /// The id that the branch's directory carries from now on.
    pub id: BranchUuid,
    /// Whether `--adopt` replaced a known id.
    pub replaced: bool,
}

/// Allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The policy let it through; `result` tells what came of it.
    Allowed,
    /// The policy refused; nothing happened.
    Denied,
    /// The policy let it through, and would have refused it without `observe`.
    Observed,
}

/// An operation that was decided. Optional fields are left out of the line when empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationRecord {
    /// Which operation. Both sides of a rename share one record, as `rename-source`.
    pub op: Operation,
    /// What the policy said.
    pub decision: Verdict,
    /// The rule that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The gate that decided, if one did; or, for a denial for want of one, `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Why it was denied, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// User of the caller.
    pub uid: u32,
    /// Group of the caller.
    pub gid: u32,
    /// Thread id of the caller.
    pub pid: u32,
    /// The caller's executable, a hint only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Arc<str>>,
    /// The object, as users see it; of a rename, move or link the source, whichever side was denied.
    pub path: ViewPath,
    /// The target of a rename, move or link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ViewPath>,
    /// Name of the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Arc<str>>,
    /// Name of the errno, or `ok`.
    pub result: Cow<'static, str>,
    /// Bytes written through the handle so far, in records of a handle's totals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Totals that stand for the handle's first write too, which was a moment before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_write: bool,
    /// Bytes by which the file grew while the kernel wrote it by itself, since the last record of the
    /// handle; negative where it shrank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grown: Option<i64>,
    /// How many equal denials this record stands for, when more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Texts were cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip)]
    pub shortened: bool,
    /// Of a write: another number for each file that was opened. It is not in the line.
    #[serde(skip)]
    pub open_file: Option<u64>,
}

/// Steps of a crossing that leave a record. Between them it stages, checks and verifies without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Announced; stage may hold something.
    Prepare,
    /// Rolled back before COMMIT.
    Abort,
    /// The decision. From here recovery completes, or puts back.
    Commit,
    /// All moves done and durable.
    Done,
    /// Put back after COMMIT.
    Reverted,
    /// Neither could be completed nor put back: needs a person.
    Dead,
    /// A person has mended what was in the way of a dead letter: from here recovery completes or puts back
    /// once more. User, group and process are the person's in this and the next two.
    Retry,
    /// A person wants a dead letter taken back: from here recovery puts back what can be. Where a branch that is
    /// missing keeps that from being done, recovery repeats the wish when it is there, with the ids of COMMIT.
    Withdraw,
    /// A person declares what is there right: the end of a dead letter. What it keeps stays.
    Accept,
}

/// Where in a branch a name lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// In the visible tree; the path is relative to the branch's root.
    Tree,
    /// In `.octroi/stage`; the path is one name.
    Stage,
    /// In `.octroi/hold`; the path is one name.
    Hold,
}

/// A name in a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spot {
    /// The branch.
    pub branch: BranchUuid,
    /// Which part of it.
    pub area: Area,
    /// Relative path; not UTF-8 is kept by `_b64`.
    #[serde(with = "crate::types::path_text")]
    #[schemars(with = "ViewPath")]
    pub path: std::path::PathBuf,
}

/// Why a move is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// The source goes to hold.
    Retire,
    /// What stands at the target goes to hold.
    Displace,
    /// The new file gets its name.
    Apply,
    /// (Undo) what had been replaced gets its name back.
    Restore,
    /// (Rearrangement) a file or directory gets another name on its member.
    Rename,
}

/// One rename of a committed transaction: done if the inode is at `to`, not yet if it is at `from`, else doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Move {
    /// Why.
    pub act: Act,
    /// From where.
    pub from: Spot,
    /// To where.
    pub to: Spot,
    /// What is moved. The ctime is that before the move.
    pub identity: Identity,
    /// Of a directory: SHA-256 in hexadecimal over what is below it, `mover::tree::Digest`; so that
    /// whoever finds it in hold can tell whether it is still what was decided upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<String>,
}

/// A step of a crossing. PREPARE and COMMIT carry all that recovery, undo and people need; later
/// steps only what changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrossingRecord {
    /// The transaction.
    pub txid: TxId,
    /// Which step.
    pub step: Step,
    /// The gate that let it through; none for an undo or a rearrangement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// The transaction that this one takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<TxId>,
    /// It is no crossing but a rename within a pool that takes more than one rename of a disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rearrangement: bool,
    /// User of the caller.
    pub uid: u32,
    /// Group of the caller.
    pub gid: u32,
    /// Thread id of the caller.
    pub pid: u32,
    /// The caller's executable, a hint only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Arc<str>>,
    /// View path of the source.
    pub source: ViewPath,
    /// View path of the target.
    pub target: ViewPath,
    /// Branch names of source and target, for people.
    pub branches: [String; 2],
    /// SHA-256 of the content in hexadecimal; for a symlink of its text; for a directory of its
    /// manifest (`mover::tree::Manifest`); none before COMMIT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Length in bytes; of a directory the sum of its files, those of several names once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How the copy was verified: `disk`, `cached`, `stream` (hash of what was written only) or
    /// `same` (no copy was made).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readback: Option<String>,
    /// What the copy has lost, in the words of the gate's `lossy`: `acl`, `times`, `xattr:NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// What is (PREPARE) or will be (COMMIT) moved, in order. PREPARE names only the stage entry; DEAD and ACCEPT
    /// what waits for a branch that left the view; RETRY what has arrived and stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// The target's inode before, when one is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Handle>,
    /// Why it was aborted, reverted or is dead, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of ABORT: who had it stopped by `octroi tx abort`. User, group and process are those of its author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
    /// Name of the errno that the caller got; `ok` for DONE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// Who had a crossing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoppedBy {
    /// The user.
    pub uid: u32,
    /// The process that asked.
    pub pid: u32,
}

impl CrossingRecord {
    /// Whether it needs no purge when it is done: a rearrangement that displaced nothing.
    pub fn keeps_nothing(&self) -> bool {
        self.rearrangement && self.moves.iter().all(|step| step.to.area != Area::Hold)
    }
}

/// The policy in force changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRecord {
    /// SHA-256 of the configuration file in hexadecimal.
    pub sha256: String,
    /// That of the one whose place it takes; none for the policy that the view is mounted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Generation within this run, from 1.
    pub generation: u64,
    /// Who asked.
    pub uid: u32,
    /// Asked for by SIGHUP, whose sender is not known: the uid is the daemon's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_signal: bool,
}

/// See [`Record::Gap`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GapRecord {
    /// Bytes of a torn last line that were cut off.
    pub torn_bytes: u64,
    /// How many operations could not be recorded while the ledger's disk was full: denials, what was begun
    /// before, and reads. The last run has not ended then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<u64>,
    /// When the first of them was, RFC 3339 with nanoseconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When the last was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Removed from hold for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PurgeRecord {
    /// The transaction whose undo ends with this.
    pub txid: TxId,
    /// Why, in words.
    pub reason: String,
    /// Nothing was removed: it is gone, or nobody can tell what there is. What reappears is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Branches that never come back, as somebody said. What they have of it is kept all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<BranchUuid>,
}

/// See [`Record::Loss`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossRecord {
    /// Why it was accepted, in words.
    pub why: String,
    /// Who accepted it.
    pub uid: u32,
    /// What differed, in words.
    pub found: Vec<String>,
    /// The checkpoints that no longer hold, as signed notes.
    pub checkpoints: Vec<String>,
    /// Position of the first line that was there, unless all were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first: u64,
    /// SHA-256 of each of them, and of what could not be kept: damaged ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<String>,
    /// The public key that is given up, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What was taken out of the ledger and put aside, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptRecord>,
}

/// A key begins to sign. There is one for every key: so that lines whose key is gone, or is another, are
/// found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRecord {
    /// The public key, `NAME+HASH+KEY`.
    pub key: String,
    /// A note that names it, signed by the key before it, where there was one that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a loss has put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptRecord {
    /// The folder, in the state folder.
    pub folder: String,
    /// How many files.
    pub files: u64,
    /// SHA-256 in hexadecimal of `SHA256SUMS` in it, which has that of each.
    pub sha256: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Segments leave from the front: a published checkpoint covers it before the first of them goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneRecord {
    /// Position of the first line that stays.
    pub first: u64,
    /// File names of the segments that leave; none where it takes back a record that nobody has signed.
    pub segments: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// The ids of the branches by name, as they are known: records of them may leave.
    pub ids: BTreeMap<String, BranchUuid>,
    /// The key that signs: its record may leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A command of a gate was asked about a file, between PREPARE and COMMIT or ABORT of its crossing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckRecord {
    /// The crossing.
    pub txid: TxId,
    /// The gate.
    pub gate: String,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// The file: its path at the source, as users see it.
    pub path: ViewPath,
    /// Whether it may cross.
    pub result: CheckResult,
    /// Why not, in words: exit code, signal, limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last line of the command's output that is not blank, at most 256 bytes; no control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// See [`CheckRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// Exit code 0 within all limits.
    Passed,
    /// Anything else.
    Failed,
}
