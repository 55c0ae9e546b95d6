//! Requests and answers. Additions are optional fields or new variants; the daemon and the command
//! may be of different versions for the time of an upgrade.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::policy::{Counted, Supposed};
use crate::types::{BranchIo, BranchMode, BranchUuid, Operation, TxId, ViewPath};
use crate::view::Known;

pub use super::answers::{DenialReport, Explanation, Limit};
pub use super::transactions::{ActiveCrossing, Backing, Location, RunningCheck, TransactionReport};

use super::letters::Wish;

/// Longest request, newline included.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Longest answer, newline included.
pub const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Says that the client's rename has returned: see [`Request::Move`].
pub const RETURNED: u8 = b'.';
/// Most open files in the answer to a reload.
pub const KEPT_MAX: usize = 1000;
/// Most transactions in one answer.
pub const TRANSACTIONS_MAX: usize = 1000;

/// What a command asks. Who asks is the socket's peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Which view is this? For anyone.
    Hello,
    /// Branches, health, space, active crossings. For root and the mounting user.
    Status,
    /// The caller's last denial, or the last that names a path. For anyone.
    Why {
        /// The path.
        path: Option<ViewPath>,
    },
    /// Which branch holds a file and how it came there. For anyone who could stat it.
    Where {
        /// The path.
        path: ViewPath,
    },
    /// What would the policy say. For others than oneself: root and the mounting user.
    Explain {
        /// User id, by default the caller's.
        uid: Option<u32>,
        /// The operation.
        operation: Operation,
        /// On what.
        path: ViewPath,
        /// The second path of a rename, move or link.
        target: Option<ViewPath>,
        /// What is not looked at.
        #[serde(default)]
        supposed: Supposed,
    },
    /// Transactions, newest first; those of others for root and the mounting user.
    Transactions {
        /// At most so many, and at most [`TRANSACTIONS_MAX`].
        limit: usize,
        /// Only those that need a person.
        #[serde(default)]
        dead: bool,
        /// Only those that a person has accepted, and that still keep what stage and hold had of them.
        #[serde(default)]
        accepted: bool,
    },
    /// One transaction; another's for root and the mounting user.
    Transaction {
        /// Which.
        txid: TxId,
    },
    /// Which crossing would be taken back, and by which rename. Its author, root and the mounting user may;
    /// then they ask by [`Request::Move`] for it to be prepared.
    PlanUndo {
        /// Which; else the caller's last.
        txid: Option<TxId>,
        /// The last to this path.
        path: Option<ViewPath>,
    },
    /// Prepare what the caller is about to rename. Two descriptors come with it (`SCM_RIGHTS`): the
    /// folders of source and target, opened through the mount. Answered by [`Answer::Moving`], about
    /// five times a second, and then by [`Answer::Ready`] or [`Answer::NotMoved`]. The transaction is
    /// rolled back when the client shuts down its side of the connection, which is answered by
    /// [`Answer::NotMoved`], or closes it; any bytes that it sends are signs of life, and [`RETURNED`]
    /// among them says that its rename has returned. That is answered when the names are free again, by
    /// [`Answer::NotMoved`] with the reason if the rename failed, and by closing the connection.
    Move {
        /// The name in the source's folder.
        #[serde(with = "crate::types::path_text")]
        source: PathBuf,
        /// The name in the target's folder.
        #[serde(with = "crate::types::path_text")]
        target: PathBuf,
        /// Fail rather than replace.
        no_replace: bool,
        /// The crossing that the rename takes back, as [`Answer::UndoPlan`] has it.
        #[serde(default)]
        undoes: Option<TxId>,
    },
    /// Read the configuration again and put its policy in force. For root and the mounting user.
    Reload,
    /// How often each rule and gate decided. For root and the mounting user.
    Hits,
    /// Stop a transaction that is not decided yet; another's for root and the mounting user.
    Abort {
        /// Which.
        txid: TxId,
    },
    /// Have something done with a transaction that needs a person. For root and the mounting user.
    Settle {
        /// Which.
        txid: TxId,
        /// What.
        wish: Wish,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Why`].
    Why {
        /// None if nothing was denied to the caller since the view was mounted.
        denial: Option<Box<DenialReport>>,
    },
    /// To [`Request::Where`].
    Where(Location),
    /// To [`Request::Explain`].
    Explain(Explanation),
    /// To [`Request::Transactions`].
    Transactions {
        /// Newest first.
        transactions: Vec<TransactionReport>,
    },
    /// To [`Request::Transaction`].
    Transaction(Box<TransactionReport>),
    /// To [`Request::PlanUndo`].
    UndoPlan(UndoReport),
    /// To [`Request::Move`]: how far it is.
    Moving(ActiveCrossing),
    /// To [`Request::Move`]: rename now.
    Ready {
        /// The transaction; none where both names are in one branch or pool.
        txid: Option<TxId>,
        /// Bytes that cross.
        bytes: u64,
        /// Files and other entries that cross.
        files: u64,
        /// What the copy has lost, in the words of the gate's `lossy`.
        #[serde(default)]
        lost: Vec<String>,
    },
    /// To [`Request::Move`]: everything is as before.
    NotMoved {
        /// Name of the errno that rename(2) would have given.
        result: String,
        /// In words.
        why: String,
    },
    /// To [`Request::Reload`]: the policy of the file is in force.
    Reloaded(Box<ReloadReport>),
    /// To [`Request::Reload`]: the file is wrong, and nothing has changed.
    NotReloaded {
        /// Diagnostics, ready to be shown.
        why: String,
    },
    /// To [`Request::Hits`].
    Hits(HitsReport),
    /// To [`Request::Abort`]: it is rolled back.
    Aborted,
    /// To [`Request::Settle`].
    Settled {
        /// Whether it came to what was asked for.
        done: bool,
        /// How it is now, in words.
        now: String,
    },
    /// The request was refused or failed.
    Failed {
        /// Why, in words.
        why: String,
    },
}

/// Which view a socket belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the view.
    pub view: String,
    /// Where it is mounted.
    #[serde(with = "crate::types::path_text")]
    pub mountpoint: PathBuf,
    /// Major and minor number of the mount's device, where it could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// The configuration that it was mounted from.
    #[serde(with = "crate::types::path_text")]
    pub config: PathBuf,
    /// Process id of the daemon.
    pub pid: u32,
    /// The user who mounted.
    pub uid: u32,
    /// Version of the daemon.
    pub version: String,
}

/// State of a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which view.
    #[serde(flatten)]
    pub hello: Hello,
    /// Its state folder.
    #[serde(with = "crate::types::path_text")]
    pub state: PathBuf,
    /// Since when it is mounted, RFC 3339.
    pub started: String,
    /// Generation of the policy in force.
    pub generation: u64,
    /// Why nothing may be changed just now, if so.
    pub ledger: Option<String>,
    /// Bytes of the ledger's segments.
    #[serde(default)]
    pub ledger_bytes: u64,
    /// Bytes that they may have.
    #[serde(default)]
    pub ledger_max: Option<u64>,
    /// Why they have more, if they do.
    #[serde(default)]
    pub ledger_kept: Option<String>,
    /// How far the ledger is signed.
    #[serde(default)]
    pub ledger_signed: Option<Signed>,
    /// Inodes that the kernel knows, files and directories that are open.
    #[serde(default)]
    pub known: Known,
    /// Threads that failed since the mount; more than none is a bug, and a reason to remount.
    pub panics: u64,
    /// In order of the configuration.
    pub branches: Vec<BranchStatus>,
    /// Crossings under way.
    pub active: Vec<ActiveCrossing>,
    /// Transactions that need a person.
    pub dead: Vec<TxId>,
    /// How many were accepted and keep what stage and hold had of them.
    #[serde(default)]
    pub accepted: usize,
}

/// How far the ledger is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Lines that the newest checkpoint covers.
    pub lines: u64,
    /// Seconds since it was signed.
    pub age_s: Option<u64>,
    /// Seconds that the oldest line has waited which none covers; one or less, where all is well.
    pub waiting_s: Option<u64>,
    /// Why the last attempt to sign failed.
    pub fault: Option<String>,
}

/// State of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchStatus {
    /// Name in the configuration.
    pub name: String,
    /// Place in the view.
    pub at: ViewPath,
    /// Backing directory.
    #[serde(with = "crate::types::path_text")]
    pub path: PathBuf,
    /// What may be done.
    pub mode: BranchMode,
    /// How open files are read and written.
    pub io: BranchIo,
    /// Its id, where it is known.
    pub id: Option<BranchUuid>,
    /// `offline` or `not answering`, if so.
    pub fault: Option<String>,
    /// Why it is offline.
    #[serde(default)]
    pub why: Option<String>,
    /// Since when it does not serve, RFC 3339.
    #[serde(default)]
    pub since: Option<String>,
    /// Size of its file system in bytes, as of a moment ago; 0 while it is offline.
    pub size: u64,
    /// Bytes free to users of its file system, as of a moment ago.
    pub available: u64,
    /// Bytes that stay free.
    pub min_free: u64,
}

/// What the client of an undo must rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoReport {
    /// The transaction that is taken back.
    pub txid: TxId,
    /// Where the file is.
    pub source: ViewPath,
    /// Where it was.
    pub target: ViewPath,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The file that was read.
    #[serde(with = "crate::types::path_text")]
    pub config: PathBuf,
    /// Whether there was anything new in it; if not, nothing was done.
    pub changed: bool,
    /// Generation of the policy in force.
    pub generation: u64,
    /// SHA-256 of the configuration before, in hexadecimal.
    pub previous: String,
    /// SHA-256 of the configuration now.
    pub sha256: String,
    /// Other keys whose values are new.
    pub settings: Vec<String>,
    /// By name.
    pub rules: Difference,
    /// By name.
    pub gates: Difference,
    /// Open files that the kernel goes on to read and write although they would be denied now.
    pub kept: Vec<KeptHandle>,
    /// How many there are beside those.
    pub kept_more: usize,
    /// What the file says that is hardly meant: diagnostics, ready to be shown.
    pub warnings: Vec<String>,
}

/// What is not as it was, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that say something else.
    pub changed: Vec<String>,
}

/// An open file of a passthrough branch that would be denied now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHandle {
    /// Its path.
    pub path: ViewPath,
    /// User of the opener.
    pub uid: u32,
    /// Thread id of the opener.
    pub pid: u32,
    /// What would be denied.
    pub operation: Operation,
    /// By what.
    pub by: String,
}

/// How often each rule and gate decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitsReport {
    /// Generation of the policy in force.
    pub generation: u64,
    /// Since when is counted, RFC 3339: the mount or the last reload.
    pub since: String,
    /// Rules and then gates, in order of declaration.
    pub counted: Vec<Counted>,
}

/// One line, newline included.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[track_caller]
    fn check<T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug>(value: T) {
        let line = encode(&value).expect("encodes");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        assert_eq!(serde_json::from_slice::<T>(&line).expect("decodes"), value);
    }

    #[test]
    fn messages_survive_the_way() {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"/inbox/\xff\n");
        let odd = ViewPath::parse(Path::new(odd)).expect("a path");
        check(Request::Hello);
        check(Request::Where { path: odd.clone() });
        check(Request::Why { path: None });
        check(Request::Explain {
            uid: Some(1000),
            operation: Operation::MoveSource,
            path: odd.clone(),
            target: Some(odd.clone()),
            supposed: Supposed { size: Some(7), at: Some(-1), ..Supposed::default() },
        });
        check(Request::PlanUndo { txid: Some(TxId(ulid::Ulid::generate())), path: None });
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(b"\xff\n"));
        let undoes = Some(TxId(ulid::Ulid::generate()));
        check(Request::Move { source: name.clone(), target: name, no_replace: true, undoes });
        check(Answer::Failed { why: "two\nlines".into() });
        check(Answer::Where(Location {
            branch: Some("inbox".into()),
            backing: Some(Backing(odd.as_path().to_owned())),
            history: Vec::new(),
        }));
        check(Answer::Why { denial: None });
    }
}
