//! File systems of their own for branches.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{Scene, is_mounted, require_root, sh};

/// Ends an ext4 file system as if its disk had been pulled; its folder is the argument.
pub const SHUTDOWN: &str = "python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack(\"I\", 2))'";

/// A file system of its own below the scene's closed folder, unmounted when dropped. It must be
/// declared before the [`Mount`] that uses it, so that it is dropped after it.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A tmpfs at `branches/NAME`.
    #[track_caller]
    pub fn tmpfs(scene: &Scene, name: &str, size: &str) -> Self {
        require_root();
        let path = scene.branch(name);
        let script = format!("mount -t tmpfs -o size={size},mode=0777 octroi-test {name}");
        sh(&scene.base().join("branches"), &script).ok();
        Self { path }
    }

    /// An ext4 image mounted at `branches/NAME`.
    #[track_caller]
    pub fn ext4(scene: &Scene, name: &str, size: &str) -> Self {
        Self::image(scene, name, size, "mkfs.ext4 -q", "loop")
    }

    /// An xfs image mounted at `branches/NAME`, of at least 300 MiB.
    #[track_caller]
    pub fn xfs(scene: &Scene, name: &str, size: &str) -> Self {
        Self::image(scene, name, size, "mkfs.xfs -q", "loop")
    }

    /// A btrfs image mounted at `branches/NAME`.
    #[track_caller]
    pub fn btrfs(scene: &Scene, name: &str, size: &str) -> Self {
        Self::image(scene, name, size, "mkfs.btrfs -q", "loop")
    }

    /// The same, mounted without ACLs.
    #[track_caller]
    pub fn without_acls(scene: &Scene, name: &str, size: &str) -> Self {
        Self::image(scene, name, size, "mkfs.btrfs -q", "loop,noacl")
    }

    #[track_caller]
    fn image(scene: &Scene, name: &str, size: &str, make: &str, options: &str) -> Self {
        require_root();
        let path = scene.branch(name);
        let script = format!(
            "truncate -s {size} {name}.img && {make} {name}.img && mount -o {options} {name}.img {name} \
             && rm -rf {name}/lost+found && chmod 0777 {name}"
        );
        sh(&scene.base().join("branches"), &script).ok();
        Self { path }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for _ in 0..50 {
            if !is_mounted(&self.path) {
                return;
            }
            let ended = Command::new("umount").arg(&self.path).stderr(Stdio::null()).status();
            if ended.is_ok_and(|status| status.success()) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
