//! What the control protocol asks: branches, denials, decisions, places, transactions.
//!
//! Nothing here checks whether the asker may know: that is the transport's, by
//! [`Vfs::is_privileged`].

use std::path::PathBuf;
use std::sync::Arc;

use crate::branch::Branch;
use crate::error::Errno;
use crate::ledger::Signing;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::record::CrossingRecord;
use crate::mover::{Journal, Progress};
use crate::types::{BranchIndex, Caller, ViewPath};
use crate::view::Known;

use super::{Denial, Vfs};

/// Where a path of the view lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Name of the branch; none for a folder that no branch provides.
    pub branch: Option<String>,
    /// The path on the backing file system.
    pub backing: Option<PathBuf>,
}

impl Vfs {
    /// Root and the mounting user may know everything of the view.
    pub fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner
    }

    /// The user who mounted.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// The branches with their places in the view, in order of the configuration.
    pub fn branches(&self) -> Vec<(ViewPath, Arc<Branch>)> {
        let place = |index: usize| {
            let domain = self.view.domain(BranchIndex(index as u16));
            let mut folders = self.view.layout.iter();
            let found = folders.find(|(_, folder)| folder.domain == Some(domain));
            found.map_or_else(ViewPath::root, |(_, folder)| folder.path.clone())
        };
        self.branches.iter().enumerate().map(|(index, b)| (place(index), Arc::clone(b))).collect()
    }

    /// How much the kernel knows and has open, files of `.audit` included.
    pub fn known(&self) -> Known {
        let known = self.view.known();
        Known { files: known.files.saturating_add(self.open_audit_files()), ..known }
    }

    /// Generation of the policy in force.
    pub fn policy_generation(&self) -> u64 {
        self.policy().generation()
    }

    /// Why nothing may be changed just now, if so.
    pub fn ledger_fault(&self) -> Option<Errno> {
        self.ledger.accepts_mutations().err()
    }

    /// Lines of the ledger that are signed, and how it goes with signing.
    pub fn ledger_signing(&self) -> Option<(u64, Signing)> {
        let note = self.ledger.checkpoint();
        let signed =
            note.and_then(|note| Checkpoint::unverified(&note)).map_or(0, |found| found.size);
        Some((signed, self.ledger.signing()?))
    }

    /// The newest denial of a user, or the newest that names a path.
    pub fn last_denial(&self, uid: u32, path: Option<&ViewPath>) -> Option<Denial> {
        self.denials.last(uid, path)
    }

    /// Where a path lies. ENOENT if it does not exist.
    pub fn locate(&self, path: &ViewPath) -> Result<Located, Errno> {
        let inode = self.walk(path)?;
        let Some(index) = inode.place().branch() else {
            return Ok(Located { branch: None, backing: None });
        };
        let branch = self.branch(index)?;
        let below = inode.path_in_branch().unwrap_or_default();
        let root = &branch.spec().path;
        let backing = if below.as_os_str().is_empty() { root.clone() } else { root.join(below) };
        Ok(Located { branch: Some(branch.name().to_owned()), backing: Some(backing) })
    }

    /// The name of a branch that is offline and may hold what is at a path, from memory.
    pub fn offline_at(&self, path: &ViewPath) -> Option<String> {
        let index = self.branch_of_path(path)?;
        let members = self.view.members(self.view.domain(index)).into_iter();
        let mut branches = members.filter_map(|index| self.branch(index).ok());
        let offline = branches.find(|branch| !branch.is_online())?;
        Some(offline.name().to_owned())
    }

    /// Looks at the transactions; no crossing goes on while `look` runs.
    pub fn with_journal<T>(&self, look: impl FnOnce(&Journal) -> T) -> T {
        self.mover.with_journal(look)
    }

    /// The crossings under way.
    pub fn active_crossings(&self) -> Vec<Arc<Progress>> {
        self.mover.active()
    }

    /// The crossings that nobody is at though they have not ended.
    pub fn left_open(&self) -> Vec<CrossingRecord> {
        self.mover.left_open()
    }

    /// The groups of a caller by the user database, for acting in the caller's name.
    pub fn groups_of(&self, caller: Caller) -> Result<Arc<[u32]>, Errno> {
        self.identities.groups(caller.uid)
    }
}
