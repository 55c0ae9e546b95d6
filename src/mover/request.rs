//! What is asked of the mover, and what it answers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CrossingError;
use super::moves::Place;
use crate::policy::GateTerms;
use crate::storage::{Kind, Storage};
use crate::types::{BranchIndex, Caller, Handle, Identity, TxId, ViewPath};

/// One end of a crossing.
pub struct Name<S: Storage> {
    /// The branch.
    pub branch: BranchIndex,
    /// Path relative to the branch's root, the name included.
    pub path: PathBuf,
    /// The same as users see it.
    pub view: ViewPath,
    /// The folder.
    pub parent: S::Dir,
    /// The name in it.
    pub name: OsString,
}

impl<S: Storage> Clone for Name<S> {
    fn clone(&self) -> Self {
        Self {
            branch: self.branch,
            path: self.path.clone(),
            view: self.view.clone(),
            parent: self.parent.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S: Storage> Name<S> {
    /// The branch, and the path in it.
    pub(super) fn way(&self) -> (BranchIndex, &Path) {
        (self.branch, &self.path)
    }

    pub(super) fn place(&self) -> Place<S> {
        Place { dir: self.parent.clone(), name: self.name.clone() }
    }
}

/// What one branch holds of the source.
pub struct SourcePart<S: Storage> {
    /// Where.
    pub name: Name<S>,
    /// Name of the gate that lets this part through.
    pub gate: String,
    /// What that gate demands.
    pub terms: Arc<GateTerms>,
}

impl<S: Storage> Clone for SourcePart<S> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), gate: self.gate.clone(), terms: Arc::clone(&self.terms) }
    }
}

/// Something below the top of a tree that is about to cross.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Position in [`CrossingRequest::sources`] of the part that it belongs to.
    pub part: usize,
    /// Path below the top, never empty. The same at source and target.
    pub path: &'a Path,
    /// What it is.
    pub kind: &'a Kind,
    /// Its inode.
    pub handle: &'a Handle,
    /// An earlier part hides it: it leaves, and does not arrive.
    pub hidden: bool,
}

/// Asked for every entry below the top of a tree, directories before what they hold; an error ends the
/// crossing. May be asked from any thread, and again when a crossing starts anew as a copy.
pub type Admit = Arc<dyn Fn(&Entry<'_>) -> Result<(), CrossingError> + Send + Sync>;

/// What the policy has allowed and the caller holds the name locks for.
pub struct CrossingRequest<S: Storage> {
    /// Who asks.
    pub caller: Caller,
    /// The caller's executable, a hint.
    pub exe: Option<Arc<str>>,
    /// From where, in order of precedence, at least one. Users see the first; directories of the
    /// others are merged into it, everything else of theirs is hidden by it. All leave together.
    pub sources: Vec<SourcePart<S>>,
    /// To where. The folder exists.
    pub target: Name<S>,
    /// The target's name on the other members of its pool; what stands there is displaced too.
    pub target_shadows: Vec<Name<S>>,
    /// Fail rather than replace.
    pub no_replace: bool,
    /// Whether what is below the top may cross.
    pub admit: Admit,
}

impl<S: Storage> Clone for CrossingRequest<S> {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller,
            exe: self.exe.clone(),
            sources: self.sources.clone(),
            target: self.target.clone(),
            target_shadows: self.target_shadows.clone(),
            no_replace: self.no_replace,
            admit: Arc::clone(&self.admit),
        }
    }
}

/// An inode and what stands for it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// What it was.
    pub from: (BranchIndex, Handle),
    /// What it is. The handle is the same where the inode itself was moved.
    pub to: (BranchIndex, Handle),
}

/// A crossing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// The transaction.
    pub txid: TxId,
    /// The inode that is now at the target. Its ctime is that before the last rename.
    pub identity: Identity,
    /// SHA-256 of the content, of a symlink's text, or of a tree's manifest, in hexadecimal; none for
    /// special files.
    pub sha256: Option<String>,
    /// Length in bytes; of a tree the sum of its regular files, those of several names once.
    pub size: u64,
    /// The top first, then every descendant, directories before what they hold; of a directory that
    /// was merged one for each part. What was hidden is not among them: it has no place any more.
    pub moved: Vec<Moved>,
    /// What the target's names stood for before.
    pub displaced: Vec<(BranchIndex, Handle)>,
    /// The inodes themselves were moved: descriptors on them stay good.
    pub same_filesystem: bool,
    /// What is at the target has not all attributes that the source had, or has others than these.
    pub attributes_differ: bool,
    /// All folders were synced and DONE was appended; else the next recovery does it.
    pub confirmed: bool,
}
