//! Attaching the mount to the tree.
//!
//! As root by mount(2), with the type `fuse.octroi`: fuser 0.18 mounts as plain `fuse` and drops the
//! subtype. Otherwise fuser calls fusermount3, which keeps it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use super::MountOptions;

/// Mounts as root; gives the descriptor by which the kernel is served.
pub fn mount_as_root(view: &str, mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mode = rustix::fs::stat(mountpoint)?.st_mode;
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = std::ffi::CString::new(data)?;
    mount(format!("octroi:{view}"), mountpoint, "fuse.octroi", flags(options), Some(&*data))?;
    Ok(device)
}

fn flags(options: &MountOptions) -> MountFlags {
    let chosen = [
        (!options.devices, MountFlags::NODEV),
        (!options.set_id, MountFlags::NOSUID),
        (options.read_only, MountFlags::RDONLY),
        (options.no_exec, MountFlags::NOEXEC),
        (options.no_atime, MountFlags::NOATIME),
    ];
    chosen
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}
