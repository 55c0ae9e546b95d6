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
    image: PathBuf,
}

impl Disk {
    /// A tmpfs at `branches/NAME`.
    #[track_caller]
    pub fn tmpfs(scene: &Scene, name: &str, size: &str) -> Self {
        require_root();
        let path = scene.branch(name);
        let script = format!("mount -t tmpfs -o size={size},mode=0777 octroi-test {name}");
        sh(&scene.base().join("branches"), &script).ok();
        Self { path, image: PathBuf::new() }
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
        let image = format!("{name}.img");
        let path = scene.branch(name);
        sh(&scene.base().join("branches"), &format!("truncate -s {size} {image}")).ok();
        Self::on_with(path.with_file_name(image), path, make, ("0777", options))
    }

    /// A file system made by `make` on an image that there is, mounted at a folder that there is.
    #[track_caller]
    pub fn on(image: PathBuf, path: PathBuf, make: &str, mode: &str) -> Self {
        Self::on_with(image, path, make, (mode, "loop"))
    }

    #[track_caller]
    fn on_with(image: PathBuf, path: PathBuf, make: &str, (mode, options): (&str, &str)) -> Self {
        require_root();
        let (at, name) = (path.display(), image.display());
        let script = format!(
            "{make} {name} && mount -o {options} {name} {at} && rm -rf {at}/lost+found \
             && chmod {mode} {at}"
        );
        sh(std::path::Path::new("/"), &script).ok();
        Self { path, image }
    }

    /// A file system that is on an image already.
    #[track_caller]
    pub fn again(image: PathBuf, path: PathBuf) -> Self {
        let disk = Self { path, image };
        disk.mount();
        disk
    }

    /// Unmounts it. Nobody may have it open for long.
    #[track_caller]
    pub fn unmount(&self) {
        let script = "for try in $(seq 100); do umount $AT && exit; sleep 0.1; done; exit 1";
        let script = format!("AT={}; {script}", self.path.display());
        sh(std::path::Path::new("/"), &script).ok();
    }

    /// Mounts it again.
    #[track_caller]
    pub fn mount(&self) {
        // Others set up loop devices at the same time; and where another's mount namespace still has the same
        // file system, xfs does not mount it again.
        let mount = format!("mount -o loop {} {}", self.image.display(), self.path.display());
        let script = format!("for try in $(seq 60); do {mount} && exit; sleep 0.2; done; exit 1");
        sh(std::path::Path::new("/"), &script).ok();
    }

    /// Nothing reaches it any more (ext4, xfs).
    #[track_caller]
    pub fn shut_down(&self) {
        let root = std::path::Path::new("/");
        sh(root, &format!("{SHUTDOWN} {}", self.path.display())).ok();
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
