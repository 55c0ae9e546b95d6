//! Reading what is on the disk rather than in the page cache.
//!
//! O_DIRECT where the file system says by `STATX_DIOALIGN` that it does it (tmpfs accepts the flag
//! and answers from memory all the same). Else the pages are dropped, which is only advice, and
//! `cachestat(2)` must show that none is left. That proof holds where the inode's pages are its
//! own: a stacked or network file system has an empty cache here and a full one elsewhere.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags};

use super::resolve::reopen_quietly;
use super::{Readback, RealFile};
use crate::error::Errno;
use crate::storage::buffer::{ALIGNMENT, Buffer};
use crate::sys::cachestat;

/// `f_type` of ext2 to ext4, xfs, btrfs and f2fs (include/uapi/linux/magic.h): their pages are what
/// `cachestat` counts.
const OWN_CACHE: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Opens the inode behind an `O_PATH` descriptor of a regular file.
pub fn open(node: BorrowedFd<'_>) -> Result<(RealFile, Readback), Errno> {
    if let Some(file) = open_direct(node, OFlags::RDONLY)? {
        return Ok((file, Readback::Disk));
    }
    let file = RealFile::new(reopen_quietly(node, OFlags::RDONLY)?);
    let readback = if evicted(&file) { Readback::Disk } else { Readback::Cached };
    Ok((file, readback))
}

/// Opens the inode behind a descriptor past the page cache; `None` where that cannot be.
pub fn open_direct(node: BorrowedFd<'_>, access: OFlags) -> Result<Option<RealFile>, Errno> {
    if !reads_directly(node)? {
        return Ok(None);
    }
    match reopen_quietly(node, access | OFlags::DIRECT) {
        Ok(fd) => Ok(Some(RealFile { direct: true, ..RealFile::new(fd) })),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn reads_directly(node: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::statx(node, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let fits = |alignment: u32| {
        let alignment = alignment as usize;
        alignment != 0 && alignment <= ALIGNMENT && ALIGNMENT.is_multiple_of(alignment)
    };
    let known = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    Ok(known && fits(stat.stx_dio_mem_align) && fits(stat.stx_dio_offset_align))
}

fn evicted(file: &RealFile) -> bool {
    let Ok(stat) = rustix::fs::fstatfs(file) else { return false };
    OWN_CACHE.contains(&(stat.f_type as u64))
        && rustix::fs::fadvise(file, 0, None, Advice::DontNeed).is_ok()
        && cachestat::cached_pages(file.as_fd()) == Ok(0)
}

/// Reads through aligned memory where the buffer is not. The offset and the buffer's length are
/// multiples of [`ALIGNMENT`], else EINVAL.
pub fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    check_aligned(buffer.len(), offset)?;
    let read =
        |into: &mut [u8]| rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *into, offset));
    if buffer.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return read(buffer);
    }
    let mut aligned = Buffer::new(buffer.len());
    let length = read(&mut aligned)?;
    let (target, source) = (buffer.get_mut(..length), aligned.get(..length));
    let (Some(target), Some(source)) = (target, source) else { return Err(Errno::IO) };
    target.copy_from_slice(source);
    Ok(length)
}

/// Memory for a write: the bytes themselves if they lie right. As for [`read_at`].
pub fn to_write(bytes: &[u8], offset: u64) -> Result<Option<Buffer>, Errno> {
    check_aligned(bytes.len(), offset)?;
    if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return Ok(None);
    }
    let mut aligned = Buffer::new(bytes.len());
    aligned.copy_from_slice(bytes);
    Ok(Some(aligned))
}

fn check_aligned(length: usize, offset: u64) -> Result<(), Errno> {
    let aligned = length.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64);
    if aligned { Ok(()) } else { Err(Errno::INVAL) }
}
