//! `cachestat(2)`: how much of a file is in the page cache.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;

/// The number of the call, the same on all architectures that came after the table was unified
/// (include/uapi/asm-generic/unistd.h).
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages of an open file in the page cache. ENOSYS before Linux 6.5.
pub fn cached_pages(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    // A length of 0 is all of the file from the offset.
    let range = Range { offset: 0, length: 0 };
    let mut counts = Counts::default();
    // SAFETY: both structures are laid out as the kernel's and live until the call returns.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0u32)
    };
    if result != 0 {
        return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
    }
    Ok(counts.cache)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_just_written_is_cached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        match cached_pages(file.as_fd()) {
            Err(Errno::NOSYS) => {}
            pages => assert!(pages.unwrap() > 0),
        }
    }
}
