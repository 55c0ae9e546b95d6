//! Whether a branch is still there: asked once a second, so it must be cheap, and it must reach the
//! disk.
//!
//! - *Is it still what the path leads to?* After a lazy unmount our descriptors live on, and files
//!   would go where nobody finds them again.
//! - *Does its device answer?* A file system whose device has gone goes on answering from its caches;
//!   ext4 even lists directories. What fails is opening a regular file and reading it past the page
//!   cache, and so `.octroi/id` is read, and compared. A branch without one has its root synced, which
//!   is nothing to do on a directory that has not changed.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::error::Errno;
use crate::sys::resolve::CONFINED;
use crate::types::BranchUuid;

use super::adopt::BranchError;
use super::space::space_of;
use super::{BranchSpec, Online, SpaceStat};

/// Past the page cache reads are of whole blocks, into memory that begins at one; no device has larger
/// ones.
#[repr(align(4096))]
struct Block([u8; 4096]);

impl Online {
    /// One probe; gives the space of the file system, for it was asked all the same.
    pub(super) fn probe(&self, spec: &BranchSpec) -> Result<SpaceStat, BranchError> {
        let io = |attempted: &'static str, path: &Path| {
            let path = path.to_owned();
            move |errno| BranchError::Io { attempted, path, errno }
        };
        let root = identity(&self.root, "").map_err(io("stat", &spec.path))?;
        if identity(CWD, &spec.path).map_err(io("stat", &spec.path))? != root {
            return Err(BranchError::Elsewhere {
                name: spec.name.clone(),
                path: spec.path.clone(),
            });
        }
        match self.uuid {
            Some(uuid) => self.probe_id(spec, uuid)?,
            None => match rustix::fs::fdatasync(&self.root) {
                // Directories of this file system cannot be synced.
                Ok(()) | Err(Errno::INVAL | Errno::ROFS | Errno::NOSYS) => {}
                Err(errno) => return Err(io("sync", &spec.path)(errno)),
            },
        }
        space_of(&self.root).map_err(io("ask for the space of", &spec.path))
    }

    fn probe_id(&self, spec: &BranchSpec, uuid: BranchUuid) -> Result<(), BranchError> {
        let path = spec.path.join(".octroi/id");
        let text = self.read_id().map_err(|errno| BranchError::Io {
            attempted: "read",
            path: path.clone(),
            errno,
        })?;
        let found = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        if found == Some(uuid) {
            return Ok(());
        }
        Err(BranchError::Private {
            name: spec.name.clone(),
            path,
            why: "it does not hold the branch's id any more",
        })
    }

    /// Reads `.octroi/id` past the page cache, where the file system lets one.
    fn read_id(&self) -> Result<Vec<u8>, Errno> {
        match self.read_id_with(OFlags::DIRECT) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => self.read_id_with(OFlags::empty()),
            read => read,
        }
    }

    fn read_id_with(&self, direct: OFlags) -> Result<Vec<u8>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | direct;
        let file = rustix::fs::openat2(&self.root, ".octroi/id", flags, Mode::empty(), CONFINED)?;
        let mut block = Box::new(Block([0; 4096]));
        let length = rustix::io::pread(&file, &mut block.0, 0)?;
        Ok(block.0.iter().take(length).copied().collect())
    }
}

/// What tells a directory from any other, asked of the server where there is one.
fn identity(at: impl AsFd, path: impl rustix::path::Arg) -> Result<(u32, u32, u64), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let stat = rustix::fs::statx(at, path, flags, StatxFlags::INO | StatxFlags::TYPE)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}
