use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

struct Disk {
    folder: tempfile::TempDir,
    storage: RealStorage,
    dir: RealDir,
}

fn disk() -> Disk {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    Disk { folder, storage: RealStorage, dir }
}

impl Disk {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.storage.stat(&self.dir, OsStr::new(name)).unwrap().map(|metadata| metadata.kind)
    }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

#[test]
fn nothing_leads_out_of_a_directory() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    std::fs::create_dir(disk.path("inside")).unwrap();
    symlink("inside", disk.path("link")).unwrap();
    symlink("/etc/passwd", disk.path("file-link")).unwrap();
    assert_eq!(storage.open_dir(dir, Path::new("link")).err(), Some(Errno::LOOP));
    assert_eq!(storage.open_dir(dir, Path::new("..")).err(), Some(Errno::XDEV));
    assert_eq!(storage.open_dir(dir, Path::new("/")).err(), Some(Errno::XDEV));
    assert_eq!(storage.open_dir(dir, Path::new("none")).err(), Some(Errno::NOENT));
    assert!(storage.open_dir(dir, Path::new("inside")).is_ok());
    assert_eq!(storage.open_read(dir, name("file-link")).err(), Some(Errno::LOOP));
    for outside in ["", ".", "..", "inside/x", "/etc/passwd"] {
        assert_eq!(storage.create_file(dir, name(outside)).err(), Some(Errno::INVAL), "{outside}");
        assert_eq!(storage.create_dir(dir, name(outside)).err(), Some(Errno::INVAL), "{outside}");
        assert_eq!(storage.unlink(dir, name(outside)).err(), Some(Errno::INVAL), "{outside}");
        let renamed = storage.rename(dir, name("inside"), dir, name(outside));
        assert_eq!(renamed.err(), Some(Errno::INVAL), "{outside}");
    }
}

#[test]
fn a_mount_point_is_not_entered() {
    // /proc is a mount point on every Linux that serves; its own directory is another file system.
    let root = RealDir::open(Path::new("/")).unwrap();
    assert_eq!(RealStorage.open_dir(&root, Path::new("proc")).err(), Some(Errno::XDEV));
    assert_eq!(RealStorage.stat(&root, name("proc")).err(), Some(Errno::XDEV));
}

#[test]
fn replace_replaces_a_file_and_no_directory() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    std::fs::write(disk.path("a"), "a").unwrap();
    std::fs::write(disk.path("b"), "b").unwrap();
    std::fs::create_dir(disk.path("folder")).unwrap();
    assert_eq!(storage.replace(dir, name("a"), name("folder")), Err(Errno::ISDIR));
    assert_eq!(storage.replace(dir, name("a"), name("folder/b")), Err(Errno::INVAL));
    storage.replace(dir, name("a"), name("b")).unwrap();
    assert_eq!(std::fs::read(disk.path("b")).unwrap(), b"a");
    assert_eq!(disk.kind("a"), None);
}

#[test]
fn rename_never_replaces() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    std::fs::write(disk.path("a"), "a").unwrap();
    std::fs::write(disk.path("b"), "b").unwrap();
    assert_eq!(storage.rename(dir, name("a"), dir, name("b")), Err(Errno::EXIST));
    assert_eq!(std::fs::read(disk.path("b")).unwrap(), b"b");
    let before = storage.stat(dir, name("a")).unwrap().unwrap();
    storage.rename(dir, name("a"), dir, name("c")).unwrap();
    let after = storage.stat(dir, name("c")).unwrap().unwrap();
    assert!(before.identity.same_content(&after.identity));
    assert_eq!(disk.kind("a"), None);
}

#[test]
fn special_files_are_made_and_told_apart() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    let kinds = [Kind::Symlink("to nowhere".into()), Kind::Fifo, Kind::Socket];
    for kind in &kinds {
        storage.create_special(dir, name("x"), kind).unwrap();
        assert_eq!(storage.create_special(dir, name("x"), kind), Err(Errno::EXIST));
        assert_eq!(disk.kind("x").as_ref(), Some(kind));
        let opened = storage.open_read(dir, name("x")).err();
        let is_link = matches!(kind, Kind::Symlink(_));
        assert_eq!(opened, Some(if is_link { Errno::LOOP } else { Errno::INVAL }));
        storage.sync_special(dir, name("x")).unwrap();
        storage.unlink(dir, name("x")).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        let device = Kind::CharacterDevice(rustix::fs::makedev(1, 3));
        storage.create_special(dir, name("null"), &device).unwrap();
        assert_eq!(disk.kind("null"), Some(device));
        assert_eq!(storage.open_read(dir, name("null")).err(), Some(Errno::INVAL));
    }
    assert_eq!(storage.create_special(dir, name("y"), &Kind::File), Err(Errno::INVAL));
}

#[test]
fn attributes_are_set_without_following_links() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    std::fs::write(disk.path("file"), "").unwrap();
    std::fs::set_permissions(disk.path("file"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink("file", disk.path("link")).unwrap();
    storage.set_mode(dir, name("file"), 0o640).unwrap();
    assert!(storage.set_mode(dir, name("link"), 0o777).is_err());
    let (old, new) = (Time { seconds: -5, nanos: 7 }, Time { seconds: 99, nanos: 999_999_999 });
    storage.set_times(dir, name("link"), old, new).unwrap();
    let link = storage.stat(dir, name("link")).unwrap().unwrap();
    assert_eq!(link.identity.mtime, new);
    let file = storage.stat(dir, name("file")).unwrap().unwrap();
    assert_ne!(file.identity.mtime, new);
    assert_eq!(file.mode, 0o640);
    let key = name("user.octroi");
    match storage.set_xattr(dir, name("file"), key, b"\0value\xff") {
        Err(Errno::OPNOTSUPP) => {}
        set => {
            set.unwrap();
            let xattrs = storage.xattrs(dir, name("file")).unwrap();
            assert!(xattrs.contains(&(key.to_owned(), b"\0value\xff".to_vec())));
            let large = vec![b'x'; 3000];
            storage.set_xattr(dir, name("file"), key, &large).unwrap();
            assert!(storage.xattrs(dir, name("file")).unwrap().contains(&(key.to_owned(), large)));
        }
    }
    assert!(!storage.xattrs(dir, name("link")).unwrap().iter().any(|(found, _)| found == key));
    if rustix::process::geteuid().is_root() {
        storage.set_owner(dir, name("link"), 12, 34).unwrap();
        let link = storage.stat(dir, name("link")).unwrap().unwrap();
        assert_eq!((link.uid, link.gid), (12, 34));
        assert_eq!(std::fs::metadata(disk.path("file")).unwrap().uid(), 0);
        assert_eq!(storage.set_owner(dir, name("file"), u32::MAX, 0), Err(Errno::INVAL));
    }
}

#[test]
fn holes_are_found() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    let file = storage.create_file(dir, name("sparse")).unwrap();
    storage.set_len(&file, 1 << 20).unwrap();
    assert_eq!(storage.next_data(&file, 1 << 20).unwrap(), None);
    storage.write_at(&file, b"data", 512 * 1024).unwrap();
    let data = storage.next_data(&file, 0).unwrap().unwrap();
    assert!(data.start <= 512 * 1024 && data.end >= 512 * 1024 + 4, "{data:?}");
    storage.reserve(&file, 2 << 20).unwrap();
    assert_eq!(storage.stat_file(&file).unwrap().identity.size, 1 << 20);
}

#[test]
fn readback_gives_the_bytes_of_the_file() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    let content: Vec<u8> = (0..10_000u32).map(|at| (at % 251) as u8).collect();
    let file = storage.create_file(dir, name("file")).unwrap();
    storage.write_at(&file, &content, 0).unwrap();
    storage.sync_file(&file).unwrap();
    storage.sync_dir(dir).unwrap();
    let (file, readback) = storage.open_readback(dir, name("file")).unwrap();
    let stat = rustix::fs::fstatfs(dir).unwrap();
    if stat.f_type as u64 == 0xef53 {
        assert_eq!(readback, Readback::Disk, "ext4 can read past the cache");
    }
    let mut read = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let length = storage.read_at(&file, &mut buffer, read.len() as u64).unwrap();
        read.extend_from_slice(&buffer[..length]);
        if length < buffer.len() {
            break;
        }
    }
    assert_eq!(read, content);
}

#[test]
fn memory_is_never_taken_for_a_disk() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let dir = RealDir::open(folder.path()).unwrap();
    if rustix::fs::fstatfs(&dir).unwrap().f_type as u64 != 0x0102_1994 {
        return;
    }
    std::fs::write(folder.path().join("file"), "text").unwrap();
    let (_, readback) = RealStorage.open_readback(&dir, name("file")).unwrap();
    assert_eq!(readback, Readback::Cached);
}

#[test]
fn a_lease_is_refused_to_writers_and_broken_by_them() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    let writer = storage.create_file(dir, name("file")).unwrap();
    let reader = storage.open_read(dir, name("file")).unwrap();
    assert_eq!(storage.lease(&reader).err(), Some(Errno::AGAIN));
    drop(writer);
    let Some(held) = storage.lease(&reader).unwrap() else { return };
    assert!(storage.lease_holds(&held));
    let path = disk.path("file");
    let writer = std::thread::spawn(move || std::fs::OpenOptions::new().write(true).open(path));
    while storage.lease_holds(&held) {
        std::thread::yield_now();
    }
    drop(held);
    assert!(writer.join().unwrap().is_ok());
}

#[test]
fn names_of_any_bytes_are_listed() {
    let disk = disk();
    let odd = OsString::from_vec(vec![0xff, b'\n', b' ']);
    disk.storage.create_file(&disk.dir, &odd).unwrap();
    disk.storage.create_dir(&disk.dir, name("folder")).unwrap();
    for _ in 0..2 {
        let mut names = disk.storage.list(&disk.dir).unwrap();
        names.sort();
        assert_eq!(names, [OsString::from("folder"), odd.clone()]);
    }
    disk.storage.remove_dir(&disk.dir, name("folder")).unwrap();
    disk.storage.unlink(&disk.dir, &odd).unwrap();
    assert!(disk.storage.list(&disk.dir).unwrap().is_empty());
    assert!(disk.storage.free_space(&disk.dir).unwrap() > 0);
}

#[test]
fn a_path_longer_than_one_call_takes_is_opened() {
    let disk = disk();
    let long = "d".repeat(255);
    let mut here = disk.dir.clone();
    let mut path = std::path::PathBuf::new();
    for _ in 0..20 {
        disk.storage.create_dir(&here, name(&long)).unwrap();
        here = disk.storage.open_dir(&here, Path::new(&long)).unwrap();
        path.push(&long);
    }
    let opened = disk.storage.open_dir(&disk.dir, &path).unwrap();
    assert_eq!(disk.storage.dir_handle(&opened), disk.storage.dir_handle(&here));
    path.push("..");
    assert!(disk.storage.open_dir(&disk.dir, &path).is_err(), "nothing leads up");
}

#[test]
fn directories_are_moved_and_dressed_by_name() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    storage.create_dir(dir, name("folder")).unwrap();
    storage.create_dir(dir, name("other")).unwrap();
    let other = storage.open_dir(dir, Path::new("other")).unwrap();
    std::fs::write(disk.path("folder/file"), "text").unwrap();
    storage.set_mode(dir, name("folder"), 0o2751).unwrap();
    let time = Time { seconds: 77, nanos: 5 };
    match storage.set_xattr(dir, name("folder"), name("user.octroi"), b"value") {
        Err(Errno::OPNOTSUPP) => {}
        set => {
            set.unwrap();
            let found = storage.xattrs(dir, name("folder")).unwrap();
            assert!(found.contains(&("user.octroi".into(), b"value".to_vec())));
        }
    }
    if rustix::process::geteuid().is_root() {
        storage.set_owner(dir, name("folder"), 12, 34).unwrap();
        storage.set_mode(dir, name("folder"), 0o2751).unwrap();
    }
    storage.set_times(dir, name("folder"), time, time).unwrap();
    let before = storage.stat(dir, name("folder")).unwrap().unwrap();
    assert_eq!((before.mode, before.identity.mtime), (0o2751, time));
    assert_eq!(storage.unlink(dir, name("folder")), Err(Errno::ISDIR));
    assert_eq!(storage.remove_dir(dir, name("folder")), Err(Errno::NOTEMPTY));
    assert_eq!(storage.rename(dir, name("other"), &other, name("x")), Err(Errno::INVAL));
    assert_eq!(storage.rename(dir, name("folder"), dir, name("other")), Err(Errno::EXIST));
    storage.rename(dir, name("folder"), &other, name("moved")).unwrap();
    let after = storage.stat(&other, name("moved")).unwrap().unwrap();
    assert_eq!(after.identity.handle, before.identity.handle);
    assert_eq!((after.mode, after.uid, after.gid), (before.mode, before.uid, before.gid));
    storage.sync_special(&other, name("moved")).unwrap();
    assert_eq!(std::fs::read(disk.path("other/moved/file")).unwrap(), b"text");
}

#[test]
fn a_link_is_another_name_of_one_inode() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    std::fs::write(disk.path("a"), "text").unwrap();
    symlink("a", disk.path("link")).unwrap();
    storage.create_dir(dir, name("folder")).unwrap();
    let folder = storage.open_dir(dir, Path::new("folder")).unwrap();
    storage.link(dir, name("a"), &folder, name("b")).unwrap();
    storage.link(dir, name("link"), &folder, name("link")).unwrap();
    let stat = |at: &RealDir, text: &str| storage.stat(at, name(text)).unwrap().unwrap();
    assert_eq!(stat(dir, "a").identity, stat(&folder, "b").identity);
    assert_eq!((stat(dir, "a").nlink, stat(&folder, "link").nlink), (2, 2));
    assert_eq!(stat(&folder, "link").kind, Kind::Symlink("a".into()));
    assert_eq!(storage.link(dir, name("a"), &folder, name("b")), Err(Errno::EXIST));
    assert_eq!(storage.link(dir, name("folder"), dir, name("c")), Err(Errno::PERM));
    assert_eq!(storage.link(dir, name("a"), dir, name("../c")), Err(Errno::INVAL));
}

#[test]
fn a_whole_file_system_is_synced_where_that_reaches_the_disk() {
    let disk = disk();
    let Disk { storage, dir, .. } = &disk;
    storage.sync_file_system(dir).unwrap();
    let kind = rustix::fs::fstatfs(dir).unwrap().f_type as u64;
    assert!(storage.syncs_whole(dir).unwrap() || !SYNCED_WHOLE.contains(&kind));
    // /proc knows no inode table and nothing to sync.
    let proc = RealDir::open(Path::new("/proc")).unwrap();
    assert!(!storage.syncs_whole(&proc).unwrap());
    assert_eq!(storage.free_inodes(&proc), Ok(u64::MAX));
    assert!(storage.free_inodes(dir).unwrap() > 0);
}
