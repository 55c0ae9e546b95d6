//! Reading what is on the disk rather than in the page cache.
//!
//! O_DIRECT where the file system says by `STATX_DIOALIGN` that it does it (tmpfs accepts the flag
//! and answers from memory all the same). Else the pages are dropped, which is only advice, and
//! `cachestat(2)` must show that none is left. That proof holds where the inode's pages are its
//! own: a stacked or network file system has an empty cache here and a full one elsewhere.

use std::os::fd::{AsFd, BorrowedFd};

use parking_lot::Mutex;
use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags};

use super::resolve::reopen;
use super::{Readback, RealFile};
use crate::error::Errno;
use crate::sys::cachestat;

/// What callers align offsets and lengths to, in bytes.
const ALIGNMENT: usize = 4096;

/// `f_type` of ext2 to ext4, xfs, btrfs and f2fs (include/uapi/linux/magic.h): their pages are what
/// `cachestat` counts.
const OWN_CACHE: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Opens the inode behind an `O_PATH` descriptor of a regular file.
pub fn open(node: BorrowedFd<'_>) -> Result<(RealFile, Readback), Errno> {
    if reads_directly(node)? {
        match reopen(node, OFlags::RDONLY | OFlags::DIRECT) {
            Ok(fd) => {
                let file = RealFile { direct: Some(Mutex::new(Vec::new())), ..RealFile::new(fd) };
                return Ok((file, Readback::Disk));
            }
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let file = RealFile::new(reopen(node, OFlags::RDONLY)?);
    let readback = if evicted(&file) { Readback::Disk } else { Readback::Cached };
    Ok((file, readback))
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

/// Reads through aligned memory. The offset and the buffer's length are multiples of 4096, else
/// EINVAL.
pub fn read_aligned(
    file: BorrowedFd<'_>,
    memory: &mut Vec<u8>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, Errno> {
    if !buffer.len().is_multiple_of(ALIGNMENT) || !offset.is_multiple_of(ALIGNMENT as u64) {
        return Err(Errno::INVAL);
    }
    let needed = buffer.len() + ALIGNMENT;
    if memory.len() < needed {
        memory.resize(needed, 0);
    }
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let aligned = memory.get_mut(skip..skip + buffer.len()).ok_or(Errno::NOMEM)?;
    let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *aligned, offset))?;
    let (target, source) = (buffer.get_mut(..read), aligned.get(..read));
    let (Some(target), Some(source)) = (target, source) else { return Err(Errno::IO) };
    target.copy_from_slice(source);
    Ok(read)
}
