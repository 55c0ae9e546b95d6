//! What a descriptor has open, by the kernel's magic links (proc(5), `/proc/pid/fd`), and names with every
//! way out shut.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::path::DecInt;

use crate::error::Errno;

/// Nothing leads out: no link is followed, no mount point entered, `..` goes nowhere.
pub const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Bytes of a path that the kernel tells: it writes them into a page (Linux, fs/proc/base.c, do_proc_readlink).
const PATH_PAGE: usize = 4096;

/// The folder of this process's descriptors, opened once: the walk to it took as long as what is asked of it,
/// with each look-up. Not for a child that was forked. `None`: there is no `/proc`, or no descriptor left.
fn open_descriptors() -> Option<BorrowedFd<'static>> {
    static FOLDER: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Some(folder.as_fd());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).ok()?;
    Some(FOLDER.get_or_init(|| folder).as_fd())
}

/// Does something with the kernel's own path of what is open. ENAMETOOLONG for one that it cannot tell.
pub fn with_path_of<T>(
    node: BorrowedFd<'_>,
    act: impl FnOnce(&[u8]) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut page = [MaybeUninit::uninit(); PATH_PAGE];
    let (path, _) = match open_descriptors() {
        Some(all) => rustix::fs::readlinkat_raw(all, DecInt::from_fd(node), &mut page)?,
        None => rustix::fs::readlinkat_raw(rustix::fs::CWD, magic_path(node), &mut page)?,
    };
    // Larger pages hold longer ones.
    if path.len() == PATH_PAGE { Err(Errno::NAMETOOLONG) } else { act(path) }
}

/// The path by which the kernel reaches what a descriptor has open, also if it is `O_PATH`, without
/// walking any name.
pub fn magic_path(node: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", node.as_raw_fd())
}

/// Opens anew what a descriptor, which may be `O_PATH`, has open.
pub fn reopen(node: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| match open_descriptors() {
        Some(all) => rustix::fs::openat(all, DecInt::from_fd(node), flags, Mode::empty()),
        None => rustix::fs::open(magic_path(node), flags, Mode::empty()),
    })
}
