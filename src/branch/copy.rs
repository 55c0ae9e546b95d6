//! The copy of the ledger's newest checkpoint in a branch's private folder: what shows, when the state
//! folder is rolled back, that there was more.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::Errno;
use crate::sys::resolve::CONFINED;

use super::adopt::{BranchError, DIRECTORY};
use super::private::{open_private, private_io};
use super::{Branch, BranchSpec, Online, Returning};

const NAME: &str = "checkpoint";
const NEW_NAME: &str = "checkpoint.new";
/// Bytes of a copy that are read. A checkpoint has a few hundred.
const COPY_MAX: usize = 1 << 16;

impl Branch {
    /// The copy in the directory of a branch that is not open yet; none where there is none, or no
    /// private folder.
    pub fn find_checkpoint(spec: &BranchSpec) -> Result<Option<Vec<u8>>, BranchError> {
        let io = |errno| private_io(spec, "read", NAME)(errno);
        let root = rustix::fs::open(&spec.path, DIRECTORY, Mode::empty()).map_err(io)?;
        match open_private(spec, &root)? {
            Some(folder) => read(&folder).map_err(io),
            None => Ok(None),
        }
    }

    /// The copy in this branch. EIO while it is offline.
    pub fn kept_checkpoint(&self) -> Result<Option<Vec<u8>>, Errno> {
        self.online()?.kept_checkpoint()
    }

    /// Removes the copy in this branch; does nothing in one that is only read. EIO while it is offline.
    pub fn remove_checkpoint(&self) -> Result<(), Errno> {
        let online = self.online()?;
        let Some(private) = &online.private else { return Ok(()) };
        match rustix::fs::unlinkat(&private.folder, NAME, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.and_then(|()| rustix::fs::fsync(&private.folder)),
        }
    }

    /// Keeps a copy, whole and durable, in the place of the last one; does nothing in a branch that is
    /// only read. EIO while it is offline.
    pub fn keep_checkpoint(&self, note: &[u8]) -> Result<(), Errno> {
        let online = self.online()?;
        let Some(private) = &online.private else { return Ok(()) };
        let folder = private.folder.as_fd();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(folder, NEW_NAME, flags, Mode::RUSR | Mode::WUSR, CONFINED)?;
        if rustix::io::retry_on_intr(|| rustix::io::write(&file, note))? != note.len() {
            return Err(Errno::NOSPC);
        }
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(folder, NEW_NAME, folder, NAME)?;
        rustix::fs::fsync(folder)
    }
}

impl Returning {
    /// The copy in it; none in a branch that is only read.
    pub fn kept_checkpoint(&self) -> Result<Option<Vec<u8>>, Errno> {
        self.0.kept_checkpoint()
    }
}

impl Online {
    fn kept_checkpoint(&self) -> Result<Option<Vec<u8>>, Errno> {
        self.private.as_ref().map_or(Ok(None), |private| read(&private.folder))
    }
}

fn read(folder: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(folder, NAME, flags, Mode::empty(), CONFINED) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut bytes = vec![0; COPY_MAX];
    let length = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut *bytes, 0))?;
    bytes.truncate(length);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BranchIndex, BranchIo, BranchMode};

    #[test]
    fn a_checkpoint_is_kept_and_found_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let spec = BranchSpec {
            index: BranchIndex(0),
            name: "inbox".into(),
            path: dir.path().to_owned(),
            mode: BranchMode::Rw,
            io: BranchIo::Checked,
            min_free: 0,
            exposed: true,
        };
        assert_eq!(Branch::find_checkpoint(&spec).expect("read"), None);
        let branch = Branch::open(spec.clone(), None, false).expect("adopted").branch;
        assert_eq!(branch.kept_checkpoint(), Ok(None));
        for note in ["one, which is longer", "two"] {
            branch.keep_checkpoint(note.as_bytes()).expect("kept");
            assert_eq!(branch.kept_checkpoint(), Ok(Some(note.into())));
        }
        for _ in 0..2 {
            assert_eq!(branch.remove_checkpoint(), Ok(()));
            assert_eq!(branch.kept_checkpoint(), Ok(None));
        }
        branch.keep_checkpoint(b"two").expect("kept");
        drop(branch);
        assert_eq!(Branch::find_checkpoint(&spec).expect("read"), Some(b"two".to_vec()));
        let read_only = BranchSpec { mode: BranchMode::Ro, ..spec };
        let branch = Branch::open(read_only, None, false).expect("for reading").branch;
        assert_eq!(branch.keep_checkpoint(b"three"), Ok(()));
        assert_eq!(branch.remove_checkpoint(), Ok(()));
        assert_eq!(std::fs::read(dir.path().join(".octroi/checkpoint")).expect("read"), b"two");
    }
}
