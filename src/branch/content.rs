//! Content of regular files: opening, reading, writing, lengths, holes, durability.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

use crate::error::Errno;
use crate::sys::resolve::{magic_path, reopen};

use super::{Branch, FileKind};

pub use rustix::fs::FallocateFlags as FallocateMode;

/// The flags of an open that reach the backing file. Not O_APPEND, which fcntl(2) may take away and give
/// later, and of which each write knows.
pub(super) const OPEN_KEPT: OFlags = OFlags::RWMODE.union(OFlags::SYNC).union(OFlags::DSYNC);

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

impl Branch {
    /// Opens a regular file as the daemon: permissions were the kernel's to check. Access and
    /// the synchronous flags count; nothing is created or truncated.
    pub fn open_file(&self, node: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.check_online()?;
        // A fifo or device would block, or act on hardware, at the mere open.
        if self.stat(node)?.kind != FileKind::File {
            return Err(Errno::INVAL);
        }
        match reopen(node, flags & OPEN_KEPT) {
            // What is append-only (chattr +a) can be opened for nothing else, and no fcntl(2) takes that away.
            Err(Errno::PERM) if flags.contains(OFlags::APPEND) => {
                reopen(node, (flags & OPEN_KEPT) | OFlags::APPEND)
            }
            opened => opened,
        }
    }

    /// Sets the length of an open file; one that is open for reading only (`O_RDONLY | O_TRUNC`) is
    /// opened once more for it.
    pub fn truncate(&self, file: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
        match rustix::fs::ftruncate(file, length) {
            Err(Errno::INVAL | Errno::BADF) => {
                rustix::fs::ftruncate(self.open_file(file, OFlags::WRONLY)?, length)
            }
            result => result,
        }
    }

    /// Takes set-user-id and set-group-id from a file: what a write, truncate or chown by somebody without
    /// CAP_FSETID does. The daemon, being root, would keep them. Set-group-id without the right of the
    /// group to execute, which once meant mandatory locking, stays where `in_group` says that whoever
    /// it is belongs to the file's group (fs/attr.c, `setattr_should_drop_sgid`).
    pub fn clear_set_id(
        &self,
        file: BorrowedFd<'_>,
        in_group: impl FnOnce(u32) -> bool,
    ) -> Result<(), Errno> {
        let stat = self.stat(file)?;
        let mut cleared = stat.mode & !0o4000;
        if cleared & 0o2000 != 0 && (cleared & 0o010 != 0 || !in_group(stat.gid)) {
            cleared &= !0o2000;
        }
        if cleared != stat.mode {
            rustix::fs::chmod(magic_path(file), Mode::from_bits_truncate(cleared))?;
        }
        Ok(())
    }

    /// Reads at an offset until the buffer is full or the file ends; gives the number of bytes. An error
    /// after a part was read is an error: to FUSE a short read is the end of the file, and users
    /// would take what is before a bad block for the whole.
    pub fn read_at(
        &self,
        file: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(file, rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done = done.saturating_add(read),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Writes at an offset, `None` for wherever the file ends. An error after a part was written is kept for
    /// the next write: the part's length comes back, as write(2) would say.
    pub fn write_at(
        &self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        offset: Option<u64>,
    ) -> Result<usize, Errno> {
        match write_until(file, bytes, offset) {
            (0, Err(errno)) => Err(errno),
            (written, _) => Ok(written),
        }
    }

    /// Writes what was stored through a shared mapping, all of it or it is an error: nobody would try the
    /// rest again, and the kernel does not look at the length (fs/fuse/file.c, `fuse_writepage_end`).
    pub fn write_mapped_at(
        &self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        let (written, result) = write_until(file, bytes, Some(offset));
        result.map(|()| written)
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(
        &self,
        file: BorrowedFd<'_>,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        rustix::fs::fallocate(file, mode, offset, length)
    }

    /// The next data or hole at or after an offset. ENXIO beyond the end.
    pub fn seek(&self, file: BorrowedFd<'_>, offset: u64, whence: Whence) -> Result<u64, Errno> {
        // The descriptor's own offset, which this moves, is used by nothing.
        rustix::fs::seek(
            file,
            match whence {
                Whence::Data => SeekFrom::Data(offset),
                Whence::Hole => SeekFrom::Hole(offset),
            },
        )
    }

    /// Copies between two open files of this branch; may copy less than asked.
    pub fn copy_range(
        &self,
        (source, mut source_offset): (BorrowedFd<'_>, u64),
        (target, mut target_offset): (BorrowedFd<'_>, u64),
        length: usize,
    ) -> Result<usize, Errno> {
        rustix::fs::copy_file_range(
            source,
            Some(&mut source_offset),
            target,
            Some(&mut target_offset),
            length,
        )
    }

    /// Makes content and attributes of an open file durable.
    pub fn fsync(&self, file: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
        if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
    }

    /// Makes the names in a directory durable; the descriptor may be `O_PATH`.
    pub fn fsync_directory(&self, node: BorrowedFd<'_>) -> Result<(), Errno> {
        self.check_online()?;
        rustix::fs::fsync(reopen(node, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }
}

/// Writes until all is written or a write fails; gives how much was. EIO where the file system takes
/// nothing and does not say why.
fn write_until(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    offset: Option<u64>,
) -> (usize, Result<(), Errno>) {
    let mut done: usize = 0;
    let write = |rest: &[u8], done: usize| match offset {
        Some(offset) => rustix::io::pwrite(file, rest, offset.saturating_add(done as u64)),
        None => rustix::io::pwritev2(file, &[IoSlice::new(rest)], 0, ReadWriteFlags::APPEND),
    };
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match write(rest, done) {
            Ok(0) => return (done, Err(Errno::IO)),
            Ok(written) => done = done.saturating_add(written),
            Err(Errno::INTR) => {}
            Err(errno) => return (done, Err(errno)),
        }
    }
    (done, Ok(()))
}
