//! Trees on the file systems of this machine: long paths, many files, several threads, mount points.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use super::real::{RealWorld, TMPFS, real_world};
use super::*;
use crate::mover::tree::walk;
use crate::storage::Xattrs;
use crate::storage::real::{RealDir, RealStorage};

/// What a crossing must keep of an entry, by the number of its directory and its name.
type Seen = BTreeMap<(u32, OsString), (Kind, u32, u32, u32, u64, Option<u64>, Time)>;

fn seen(world: &RealWorld, branch: usize) -> Seen {
    let top = RealDir::open(&world.path(branch)).unwrap();
    let mut seen = Seen::new();
    walk(&RealStorage, &top, &mut |found| {
        let metadata = found.metadata;
        let (nlink, length) = match metadata.kind {
            Kind::Directory => (0, None),
            _ => (metadata.nlink, Some(metadata.identity.size)),
        };
        let kind = metadata.kind.clone();
        let (mode, uid, gid) = (metadata.mode, metadata.uid, metadata.gid);
        let line = (kind, mode, uid, gid, nlink, length, metadata.identity.mtime);
        seen.insert((found.dir, found.name.to_owned()), line);
        Ok(())
    })
    .unwrap();
    seen
}

fn cross(world: &RealWorld) -> Result<Crossed, CrossingError> {
    let prepared = world.mover.prepare(world.request(Verify::Readback))?;
    world.mover.commit(prepared)
}

/// Crosses, takes it back, and crosses again; then hold is emptied.
fn there_and_back(target: Option<&Path>, plant: impl Fn(&Path)) {
    let world = real_world(target);
    fs::create_dir(world.path(0)).unwrap();
    plant(&world.path(0));
    fs::create_dir(world.path(1)).unwrap();
    let before = seen(&world, 0);
    let crossed = cross(&world).unwrap();
    assert!(crossed.confirmed && !world.path(0).exists());
    assert_eq!(seen(&world, 1), before);
    assert_eq!(crossed.moved.len(), before.len() + 1);
    let undo = world.mover.prepare_undo(AUTHOR, None, false, crossed.txid, &any()).unwrap();
    world.mover.commit(undo).unwrap();
    assert_eq!(seen(&world, 0), before);
    assert_eq!(fs::read_dir(world.path(1)).unwrap().count(), 0, "the empty one is back");
    cross(&world).unwrap();
    let later = jiff::Timestamp::now() + Duration::from_secs(10);
    assert_eq!(world.mover.purge(later, Duration::ZERO).transactions.len(), 3);
    for branch in [0, 1] {
        let private = world.path(branch).with_file_name(".octroi");
        for area in ["stage", "hold"] {
            assert_eq!(fs::read_dir(private.join(area)).unwrap().count(), 0, "{area}");
        }
    }
}

fn on_each(plant: impl Fn(&Path)) {
    there_and_back(Some(Path::new(TMPFS)), &plant);
    there_and_back(None, &plant);
}

#[test]
fn many_files_cross_by_several_threads() {
    on_each(|top| {
        for folder in 0..20 {
            let folder = top.join(folder.to_string());
            fs::create_dir(&folder).unwrap();
            for file in 0..50_usize {
                let name = OsStr::from_bytes(&[b'x', 0x80 | file as u8]).to_owned();
                fs::write(folder.join(name), vec![b'a'; file * 100]).unwrap();
            }
            symlink("elsewhere", folder.join("link")).unwrap();
            fs::hard_link(folder.join(OsStr::from_bytes(b"x\x87")), top.join("again")).unwrap();
            fs::rename(top.join("again"), folder.join("z")).unwrap();
        }
    });
}

#[test]
fn what_is_closed_crosses_closed() {
    on_each(|top| {
        let closed = |mode| fs::Permissions::from_mode(mode);
        fs::create_dir(top.join("d")).unwrap();
        fs::write(top.join("d/f"), vec![7; 3 << 20]).unwrap();
        fs::set_permissions(top.join("d/f"), closed(0o4000)).unwrap();
        fs::set_permissions(top.join("d"), closed(0o3000)).unwrap();
        fs::set_permissions(top, closed(0o500)).unwrap();
    });
}

/// Folders in folders, as deep as told, each with a long name.
fn dig(top: &Path, depth: usize, name: &str) {
    let mut dir = RealDir::open(top).unwrap();
    for _ in 0..depth {
        RealStorage.create_dir(&dir, OsStr::new(name)).unwrap();
        dir = RealStorage.open_dir(&dir, Path::new(name)).unwrap();
    }
    RealStorage.create_file(&dir, OsStr::new("at the bottom")).unwrap();
}

#[test]
fn a_path_longer_than_one_call_takes_crosses() {
    on_each(|top| dig(top, 60, &"long".repeat(60)));
}

#[test]
fn thousands_of_levels_cross() {
    on_each(|top| dig(top, 2_500, "d"));
}

#[test]
fn attributes_of_directories_cross() {
    let world = real_world(Some(Path::new(TMPFS)));
    fs::create_dir_all(world.path(0).join("d")).unwrap();
    fs::write(world.path(0).join("d/f"), "text").unwrap();
    let name = world.name(0);
    let top = RealStorage.open_dir(&name.parent, Path::new("f")).unwrap();
    RealStorage.set_xattr(&top, OsStr::new("d"), OsStr::new("user.note"), b"kept").unwrap();
    let time = Time { seconds: 1_000_000_000, nanos: 123_456_789 };
    RealStorage.set_times(&top, OsStr::new("d"), time, time).unwrap();
    RealStorage.set_times(&name.parent, &name.name, time, time).unwrap();
    cross(&world).unwrap();
    for path in ["", "d"] {
        let found = fs::metadata(world.path(1).join(path)).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_000, 123_456_789), "{path}");
        assert_eq!((found.atime(), found.atime_nsec()), (1_000_000_000, 123_456_789), "{path}");
    }
    let top = RealStorage.open_dir(&world.name(1).parent, Path::new("f")).unwrap();
    let kept: Xattrs = RealStorage.xattrs(&top, OsStr::new("d")).unwrap();
    assert!(kept.contains(&("user.note".into(), b"kept".to_vec())), "{kept:?}");
}

struct MountGuard(PathBuf);

impl Drop for MountGuard {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// EXDEV would have mv(1) copy what is mounted, and delete it.
#[test]
fn a_mount_point_in_the_tree_does_not_cross() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for target in [Some(Path::new(TMPFS)), None] {
        let world = real_world(target);
        let inside = world.path(0).join("d/mounted");
        fs::create_dir_all(&inside).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &inside, "tmpfs", flags, None).unwrap();
        let _guard = MountGuard(inside.clone());
        fs::write(inside.join("f"), "somebody else's").unwrap();
        let error = cross(&world).unwrap_err();
        assert_eq!(error.errno(), Errno::ACCESS);
        assert_eq!(error.to_string(), "d/mounted is a mount point");
        assert_eq!(fs::read(inside.join("f")).unwrap(), b"somebody else's");
    }
}
