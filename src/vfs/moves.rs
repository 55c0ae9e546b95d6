//! Preparing the crossings of `octroi mv`, and undos: PREPARE to VERIFY while nobody waits in rename(2).
//!
//! The client names folders that it opened through the mount, so that the kernel has checked the way
//! to them, and the daemon asks in the caller's name for what rename(2) will ask for at the end: what
//! a caller could not rename is neither copied nor locked, and nothing is told of it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, Mode};

use crate::branch::Stat;
use crate::error::Errno;
use crate::mover::{CrossingError, Progress};
use crate::sys::identity::CallerGuard;
use crate::types::{Caller, TxId, ViewPath};

use super::Vfs;
use super::crossing::Refused;
use super::prepared::{PreparedMove, What};
use super::remove::Occupied;
use super::site::{Purpose, Site};

/// How often both names are looked at again where something has changed there before they were locked.
const LOOKS: usize = 3;

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
    /// The crossing that the rename takes back.
    pub undoes: Option<TxId>,
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
        if let Some(txid) = request.undoes {
            return Ok(Readied::Crossing(self.prepare_undo(request, txid, watch)?));
        }
        // Unlike in rename(2), nobody keeps others out of both folders before they are locked.
        for _ in 0..LOOKS {
            match self.prepare_looked(request, watch) {
                Err(MoveError { errno: Errno::STALE, .. }) => {}
                readied => return readied,
            }
        }
        self.prepare_looked(request, watch)
    }

    fn prepare_looked(
        self: &Arc<Self>,
        request: &MoveRequest,
        watch: &dyn Fn(&Arc<Progress>),
    ) -> Result<Readied, MoveError> {
        let (source, target) = self.sites(request)?;
        check_folder(request, &source)?;
        check_folder(request, &target)?;
        let folder = source.parent.inode.number;
        let mut source = self.occupied(source).map_err(|errno| self.unreachable(folder, errno))?;
        self.check_ends(request, &source, &target)?;
        if source.site.parent.domain == target.parent.domain {
            return Ok(Readied::Within);
        }
        // The kernel has looked it up for the client, and may have forgotten it since.
        let inode = self.find_child(&source.site.parent.inode, &source.site.name)?.inode;
        self.view.inodes.forget(inode.number, 1);
        source.inode = Some(inode);
        let MoveRequest { caller, no_replace, .. } = *request;
        let key = (caller.uid, source.site.path.clone(), target.path.clone());
        let Some(claim) = self.claim(key) else {
            return Err(self.busy(caller, &source, &target, Errno::BUSY).into());
        };
        let mut prepared = self.prepare_claimed(claim, watch, |begin| {
            let ready = self.prepare_crossing(caller, &source, &target, no_replace, begin)?;
            Ok::<_, MoveError>(What::Crossing(ready))
        })?;
        prepared.lost = self.told_lost(caller, &source, prepared.progress.lost());
        Ok(Readied::Crossing(prepared))
    }

    /// Both names with their folders, as the request has them.
    pub(super) fn sites(&self, request: &MoveRequest) -> Result<(Site<'_>, Site<'_>), MoveError> {
        let site = |(folder, name): &NameIn, purpose| {
            let found = self.site(*folder, name, purpose);
            found.map_err(|errno| self.unreachable(*folder, errno))
        };
        Ok((site(&request.source, Purpose::Remove)?, site(&request.target, Purpose::Replace)?))
    }

    /// Why a folder, or a name in it, cannot be looked at: whose branch is offline, if that is why.
    fn unreachable(&self, folder: u64, errno: Errno) -> MoveError {
        let inode = self.inode(folder).ok().filter(|_| errno == Errno::IO);
        let path = inode.and_then(|inode| inode.last_path());
        match path.and_then(|path| self.offline_at(&path)) {
            Some(branch) => CrossingError::Offline { branch }.into(),
            None => errno.into(),
        }
    }

    /// The sticky bit of both folders, and a directory's own `..`, as the kernel asks for them.
    pub(super) fn check_ends(
        &self,
        request: &MoveRequest,
        source: &Occupied<'_>,
        target: &Site<'_>,
    ) -> Result<(), MoveError> {
        check_sticky(request, &source.site, &source.first.found.stat)?;
        let there = self.standings(&target.parent, &target.name);
        let there = there.map_err(|errno| self.unreachable(target.parent.inode.number, errno))?;
        if let Some(replaced) = there.first() {
            check_sticky(request, target, &replaced.found.stat)?;
        }
        let leaves = source.site.parent.inode.number != target.parent.inode.number;
        if source.is_directory() && leaves {
            let _guard = assume(request)?;
            let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
            let folder = source.part(&source.first)?.as_fd();
            rustix::fs::accessat(folder, &source.site.name, Access::WRITE_OK, flags).map_err(
                |errno| match errno {
                    Errno::ACCESS => {
                        let path = &source.site.path;
                        let why = format!("permission denied: you may not write in {path}");
                        MoveError { errno, why }
                    }
                    errno => errno.into(),
                },
            )?;
        }
        Ok(())
    }
}

fn assume(request: &MoveRequest) -> Result<CallerGuard, Errno> {
    let Caller { uid, gid, .. } = request.caller;
    CallerGuard::assume(uid, gid, &request.groups, 0o077)
}

/// Whether the caller may change names in the folder.
pub(super) fn check_folder(request: &MoveRequest, site: &Site<'_>) -> Result<(), MoveError> {
    let _guard = assume(request)?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let folder = site.parent.first.as_fd();
    rustix::fs::accessat(folder, ".", access, AtFlags::EACCESS).map_err(|errno| match errno {
        Errno::ACCESS => {
            let folder = site.path.parent().unwrap_or_else(ViewPath::root);
            MoveError { errno, why: format!("permission denied: you may not write in {folder}") }
        }
        errno => errno.into(),
    })
}

fn check_sticky(request: &MoveRequest, site: &Site<'_>, stat: &Stat) -> Result<(), MoveError> {
    let uid = request.caller.uid;
    let folder = rustix::fs::fstat(site.parent.first.as_fd()).map_err(MoveError::from)?;
    let sticky = Mode::from_raw_mode(folder.st_mode).contains(Mode::SVTX);
    if !sticky || uid == 0 || uid == stat.uid || uid == folder.st_uid {
        return Ok(());
    }
    let folder = site.path.parent().unwrap_or_else(ViewPath::root);
    let why = format!("{folder} is sticky, and neither it nor {} is yours", site.path);
    Err(MoveError { errno: Errno::PERM, why })
}
