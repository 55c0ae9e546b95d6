//! Preparing the crossings of `octroi mv`: PREPARE to VERIFY while nobody waits in rename(2).
//!
//! The client names folders that it opened through the mount, so that the kernel has checked the way
//! to them, and the daemon asks in the caller's name for what rename(2) will ask for at the end: what
//! a caller could not rename is neither copied nor locked, and nothing is told of it.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, Mode};

use crate::branch::Stat;
use crate::error::Errno;
use crate::mover::{CrossingError, Progress};
use crate::sys::identity::CallerGuard;
use crate::types::Caller;

use super::Vfs;
use super::crossing::Refused;
use super::prepared::{PreparedMove, What};
use super::remove::Occupied;
use super::site::{Purpose, Site};

/// A name in a folder, by the folder's inode number.
pub type NameIn = (u64, OsString);

/// What a client is about to rename.
#[derive(Debug, Clone)]
pub struct MoveRequest {
    /// Who.
    pub caller: Caller,
    /// The caller's supplementary groups.
    pub groups: Vec<u32>,
    /// What.
    pub source: NameIn,
    /// To where.
    pub target: NameIn,
    /// Fail rather than replace.
    pub no_replace: bool,
}

/// What the client has to do.
pub enum Readied {
    /// Both names are in one branch or pool: rename(2) is all there is to it.
    Within,
    /// Rename while this lives.
    Crossing(PreparedMove),
}

/// Why a move was not prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveError {
    /// What rename(2) would have answered.
    pub errno: Errno,
    /// In words.
    pub why: String,
}

impl From<Refused> for MoveError {
    fn from(refused: Refused) -> Self {
        let Refused { errno, why } = refused;
        Self { errno, why: why.unwrap_or_else(|| std::io::Error::from(errno).to_string()) }
    }
}

impl From<CrossingError> for MoveError {
    fn from(error: CrossingError) -> Self {
        Self { errno: error.errno(), why: error.to_string() }
    }
}

impl From<Errno> for MoveError {
    fn from(errno: Errno) -> Self {
        Refused::from(errno).into()
    }
}

impl Vfs {
    /// Prepares what the caller is about to rename. `watch` learns of the transaction as soon as there
    /// is one; cancelling it makes this return soon.
    pub fn prepare_move(
        self: &Arc<Self>,
        request: &MoveRequest,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<Readied, MoveError> {
        let source = self.site(request.source.0, &request.source.1, Purpose::Remove)?;
        let target = self.site(request.target.0, &request.target.1, Purpose::Remove)?;
        check_folder(request, &source)?;
        check_folder(request, &target)?;
        let mut source = self.occupied(source)?;
        self.check_ends(request, &source, &target)?;
        if source.site.parent.domain == target.parent.domain {
            return Ok(Readied::Within);
        }
        // The kernel has looked it up for the client, and may have forgotten it since.
        let inode = self.find_child(&source.site.parent.inode, &source.site.name)?.inode;
        self.view.inodes.forget(inode.number, 1);
        source.inode = Some(inode);
        let begun: RefCell<Option<Arc<Progress>>> = RefCell::default();
        let begin = |progress: &Arc<Progress>| {
            if let Some(given_up) = begun.replace(Some(Arc::clone(progress))) {
                self.prepared.end(given_up.txid);
            }
            self.prepared.begin(progress);
            watch(progress);
        };
        let MoveRequest { caller, no_replace, .. } = *request;
        let ready = self.prepare_crossing(caller, &source, &target, no_replace, &begin);
        let Some(progress) = begun.take() else {
            return Err(ready.err().map_or(Errno::IO.into(), MoveError::from));
        };
        let key = (caller.uid, source.site.path.clone(), target.path.clone());
        let txid = progress.txid;
        let ready = ready.map(|ready| {
            self.prepared.insert(key.clone(), txid, What::Crossing(ready), true);
            PreparedMove { vfs: Arc::clone(self), key, progress: Arc::clone(&progress) }
        });
        self.prepared.end(txid);
        // Whoever cancels later finds it among those that wait.
        match ready {
            Ok(_) if progress.is_cancelled() => Err(CrossingError::Cancelled.into()),
            ready => Ok(Readied::Crossing(ready?)),
        }
    }

    /// The sticky bit of both folders, and a directory's own `..`, as the kernel asks for them.
    fn check_ends(
        &self,
        request: &MoveRequest,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<(), Errno> {
        check_sticky(request, &source.site, &source.first.found.stat)?;
        if let Some(replaced) = self.standings(&target.parent, &target.name)?.first() {
            check_sticky(request, target, &replaced.found.stat)?;
        }
        let leaves = source.site.parent.inode.number != target.parent.inode.number;
        if source.is_directory() && leaves {
            let _guard = assume(request)?;
            let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
            let folder = source.part(&source.first)?.as_fd();
            rustix::fs::accessat(folder, &source.site.name, Access::WRITE_OK, flags)?;
        }
        Ok(())
    }
}

fn assume(request: &MoveRequest) -> Result<CallerGuard, Errno> {
    let Caller { uid, gid, .. } = request.caller;
    CallerGuard::assume(uid, gid, &request.groups, 0o077)
}

/// Whether the caller may change names in the folder.
fn check_folder(request: &MoveRequest, site: &Site<'_>) -> Result<(), Errno> {
    let _guard = assume(request)?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(site.parent.first.as_fd(), ".", access, AtFlags::EACCESS)
}

fn check_sticky(request: &MoveRequest, site: &Site<'_>, stat: &Stat) -> Result<(), Errno> {
    let uid = request.caller.uid;
    let folder = rustix::fs::fstat(site.parent.first.as_fd())?;
    let sticky = Mode::from_raw_mode(folder.st_mode).contains(Mode::SVTX);
    if !sticky || uid == 0 || uid == stat.uid || uid == folder.st_uid {
        return Ok(());
    }
    Err(Errno::PERM)
}
