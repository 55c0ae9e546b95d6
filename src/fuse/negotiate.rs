//! What is agreed on with the kernel when the mount begins.

use std::io;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

use crate::vfs::Kernel;

/// Negotiated with the kernel where it offers them; see the page of measured facts in the design.
/// The writeback cache is never asked for: each write is checked. Nor is ATOMIC_O_TRUNC: with it the
/// kernel would let `O_RDONLY | O_TRUNC` empty a program that is running.
const CAPABILITIES: [InitFlags; 10] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ASYNC_DIO,
];

/// Those without which permissions or ACLs would come out wrong: without them there is no mount.
const REQUIRED: [InitFlags; 2] = [InitFlags::FUSE_DONT_MASK, InitFlags::FUSE_POSIX_ACL];

/// The largest write request, in bytes: what the kernel sends at most.
const WRITE_MAX: u32 = 1 << 20;

/// Requests that the kernel has under way without a caller waiting (reading ahead, closing): all it can
/// count. Those of one slow branch would otherwise keep back everybody's; what waits in a lane is
/// bounded there.
const BACKGROUND_MAX: u16 = u16::MAX;

/// Since this version of the protocol (Linux 6.16, include/uapi/linux/fuse.h) close(2) waits for what mappings have stored
/// without the inode's lock, which a rename holds for as long as it takes.
const STORES_AT_CLOSE: (u32, u32) = (7, 44);

/// Agrees on everything; gives what the kernel can do.
pub fn negotiate(config: &mut KernelConfig) -> io::Result<Kernel> {
    for capability in REQUIRED {
        config
            .add_capabilities(capability)
            .map_err(|_| io::Error::other(format!("the kernel's FUSE lacks {capability:?}")))?;
    }
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            log::debug!("the kernel's FUSE lacks {capability:?}");
        }
    }
    let passthrough = rustix::process::geteuid().is_root()
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok();
    // Larger or finer than the kernel takes: it says what it does take, which is as good.
    let _ = config.set_max_write(WRITE_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_time_granularity(Duration::from_nanos(1));
    let version = config.kernel_abi();
    let stores_at_close = (version.0, version.1) >= STORES_AT_CLOSE;
    Ok(Kernel { passthrough, stores_at_close })
}
