//! The operations of a branch on a real directory.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::*;

/// A branch in a temporary folder that only its owner can enter.
struct Fixture {
    outside: tempfile::TempDir,
    branch: Branch,
    root: Arc<OwnedFd>,
}

impl Fixture {
    fn new() -> Self {
        let outside = tempfile::tempdir().expect("a temporary directory");
        let path = outside.path().join("branch");
        std::fs::create_dir(&path).expect("mkdir");
        set_mode(&path, 0o777);
        set_mode(outside.path(), 0o700);
        let spec = BranchSpec {
            index: BranchIndex(0),
            name: "inbox".into(),
            path,
            mode: BranchMode::Rw,
            io: BranchIo::Checked,
            min_free: 0,
            exposed: false,
        };
        let branch = Branch::open(spec, None, false).expect("a branch").branch;
        let root = branch.root().expect("online");
        Self { outside, branch, root }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.branch.spec().path.join(name)
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    #[track_caller]
    fn found(&self, name: &str) -> Found {
        self.branch.lookup(self.root(), OsStr::new(name)).expect("the name is there")
    }

    /// The branch as it is where inodes cannot be opened by handle.
    fn without_handles(self) -> Self {
        let mut online = self.branch.online.swap(None).expect("online");
        Arc::get_mut(&mut online).expect("nobody else has it").by_handle = false;
        self.branch.online.store(Some(online));
        self
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user who runs the tests.
fn ourselves() -> Creator<'static> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Creator { uid, gid, groups: &[], umask: 0o022, overrides: false }
}

/// Somebody without rights; ourselves where we may not act as another.
fn somebody() -> Creator<'static> {
    if is_root() {
        Creator { uid: 65534, gid: 65534, groups: &[4], umask: 0o027, overrides: false }
    } else {
        ourselves()
    }
}

#[test]
fn names_of_any_bytes_and_of_full_length_are_kept() {
    let fixture = Fixture::new();
    let full = OsString::from_vec(vec![0xff; 255]);
    let odd = OsStr::from_bytes(b"new\nline \xc3\x28 \"\\");
    for name in [full.as_os_str(), odd] {
        let made = fixture.branch.create(fixture.root(), name, 0o640, OFlags::RDWR, &ourselves());
        let (made, _) = made.expect("a file");
        let found = fixture.branch.lookup(fixture.root(), name).expect("found again");
        assert_eq!((made.handle, made.stat.inode), (found.handle, found.stat.inode));
    }
    let mut names = Vec::new();
    let take = |entry: DirEntry| {
        names.push(entry.name);
        Ok(())
    };
    fixture.branch.read_dir(fixture.root(), take).expect("a listing");
    names.sort();
    assert_eq!(names, [OsString::from(".octroi"), odd.to_owned(), full]);
    let long = OsString::from_vec(vec![b'a'; 256]);
    assert_eq!(fixture.branch.lookup(fixture.root(), &long).err(), Some(Errno::NAMETOOLONG));
}

#[test]
fn a_name_is_one_component_and_never_a_way_out() {
    let fixture = Fixture::new();
    let secret = fixture.outside.path().join("secret");
    std::fs::create_dir(&secret).expect("mkdir");
    std::fs::create_dir(fixture.path("d")).expect("mkdir");
    let (branch, root, who) = (&fixture.branch, fixture.root(), ourselves());
    let wrong: [&[u8]; 7] =
        [b"", b".", b"..", b"../secret", b"d/../../secret", b"/etc/passwd", b"nul\0byte"];
    for name in wrong.map(OsStr::from_bytes) {
        let results = [
            branch.lookup(root, name).map(drop),
            branch.create(root, name, 0o600, OFlags::RDWR, &who).map(drop),
            branch.mkdir(root, name, 0o700, &who).map(drop),
            branch.mknod(root, name, 0o010_600, 0, &who).map(drop),
            branch.symlink(root, name, OsStr::new("t"), &who).map(drop),
            branch.link(root, root, name).map(drop),
            branch.unlink(root, name),
            branch.rmdir(root, name),
            branch.rename((root, OsStr::new("d")), (root, name), RenameFlags::empty()),
            branch.rename((root, name), (root, OsStr::new("e")), RenameFlags::empty()),
        ];
        for result in results {
            assert!(matches!(result, Err(Errno::INVAL | Errno::NOENT)), "{name:?}: {result:?}");
        }
    }
    assert!(secret.is_dir() && fixture.path("d").is_dir());
}

#[test]
fn links_are_shown_and_never_followed() {
    let fixture = Fixture::new().without_handles();
    let secret = fixture.outside.path().join("secret");
    std::fs::create_dir(&secret).expect("mkdir");
    std::fs::write(secret.join("file"), "secret").expect("write");
    symlink(&secret, fixture.path("way-out")).expect("symlink");
    let link = fixture.found("way-out");
    assert_eq!(link.stat.kind, FileKind::Symlink);
    assert_eq!(fixture.branch.read_link(link.node.as_fd()).expect("a text"), secret.as_os_str());
    let (branch, name) = (&fixture.branch, OsStr::new("file"));
    assert_eq!(branch.lookup(link.node.as_fd(), name).err(), Some(Errno::NOTDIR));
    assert_eq!(branch.open_file(link.node.as_fd(), OFlags::RDONLY).err(), Some(Errno::INVAL));
    assert!(branch.read_dir(link.node.as_fd(), |_| Ok(())).is_err());

    // A directory on the way that has become a link since.
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    std::fs::write(fixture.path("dir/file"), "ours").expect("write");
    let dir = fixture.found("dir");
    let file = branch.lookup(dir.node.as_fd(), name).expect("found");
    let open = || branch.open_node(&file.handle, FileKind::File, || "dir/file".into()).map(drop);
    open().expect("it is where it was");
    std::fs::rename(fixture.path("dir"), fixture.path("moved")).expect("rename");
    symlink(&secret, fixture.path("dir")).expect("symlink");
    assert_eq!(open().err(), Some(Errno::STALE));
}

#[test]
fn an_inode_is_found_again_and_another_is_never_taken_for_it() {
    for fixture in [Fixture::new(), Fixture::new().without_handles()] {
        std::fs::write(fixture.path("a"), "first").expect("write");
        let first = fixture.found("a");
        let path = || PathBuf::from("a");
        {
            let again = fixture
                .branch
                .open_node(&first.handle, first.stat.kind, path)
                .expect("it is there");
            let stat = fixture.branch.stat(again.as_fd()).expect("stat");
            assert_eq!(stat.inode, first.stat.inode);
        }
        let root = fixture.branch.root_handle().expect("online");
        let root =
            fixture.branch.open_node(&root, FileKind::Directory, PathBuf::new).expect("the root");
        assert_eq!(
            fixture.branch.lookup(root.as_fd(), OsStr::new("a")).expect("a").handle,
            first.handle
        );
        let (handle, inode) = (first.handle.clone(), first.stat.inode);
        drop(first);
        std::fs::write(fixture.path("b"), "second").expect("write");
        std::fs::rename(fixture.path("b"), fixture.path("a")).expect("rename");
        // A process that another test is starting has our descriptors, and so the inode, until its execve(2).
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Ok(still) = fixture.branch.open_node(&handle, FileKind::File, path) {
            let stat = fixture.branch.stat(still.as_fd()).expect("stat");
            assert_eq!((stat.inode, stat.nlink), (inode, 0));
            assert!(Instant::now() < deadline, "it is still there");
            drop(still);
            std::thread::sleep(Duration::from_millis(10));
        }
        let gone = fixture.branch.open_node(&handle, FileKind::File, path).err();
        assert_eq!(gone, Some(Errno::STALE));
    }
}

#[test]
fn what_is_created_is_as_if_the_caller_had_created_it() {
    let fixture = Fixture::new();
    let (branch, root, who) = (&fixture.branch, fixture.root(), somebody());
    let (made, file) =
        branch.create(root, OsStr::new("f"), 0o666, OFlags::WRONLY, &who).expect("a file");
    assert_eq!((made.stat.uid, made.stat.gid), (who.uid, who.gid));
    assert_eq!(made.stat.mode, 0o666 & !who.umask);
    assert_eq!(branch.write_at(file.as_fd(), b"text", Some(2)), Ok(4));
    // The node is a name for the inode, not a way to write to it.
    assert_eq!(branch.write_at(made.node.as_fd(), b"x", Some(0)), Err(Errno::BADF));
    let again = branch.create(root, OsStr::new("f"), 0o666, OFlags::RDWR, &who);
    assert_eq!(again.err(), Some(Errno::EXIST));
    // Read-only permissions do not stand in the way of the descriptor that made the file.
    let (_, file) =
        branch.create(root, OsStr::new("r"), 0o400, OFlags::RDWR, &who).expect("a file");
    assert_eq!(branch.write_at(file.as_fd(), b"text", Some(0)), Ok(4));

    let made = branch.mkdir(root, OsStr::new("d"), 0o777, &who).expect("a directory");
    assert_eq!((made.stat.kind, made.stat.uid), (FileKind::Directory, who.uid));
    let made = branch.symlink(root, OsStr::new("s"), OsStr::new("f"), &who).expect("a link");
    assert_eq!((made.stat.kind, made.stat.uid), (FileKind::Symlink, who.uid));
    for (name, mode, kind) in [
        ("fifo", libc::S_IFIFO, FileKind::Fifo),
        ("socket", libc::S_IFSOCK, FileKind::Socket),
        ("file", libc::S_IFREG, FileKind::File),
    ] {
        let made = branch.mknod(root, OsStr::new(name), mode | 0o644, 0, &who).expect(name);
        assert_eq!((made.stat.kind, made.stat.uid), (kind, who.uid));
    }
    assert!(std::fs::symlink_metadata(fixture.path("fifo")).expect("there").file_type().is_fifo());
    let directory = branch.mknod(root, OsStr::new("no"), libc::S_IFDIR, 0, &who);
    assert_eq!(directory.err(), Some(Errno::INVAL));
}

#[test]
fn a_caller_creates_with_no_more_than_the_callers_rights() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("closed")).expect("mkdir");
    set_mode(&fixture.path("closed"), 0o755);
    let (branch, closed, who) = (&fixture.branch, fixture.found("closed"), somebody());
    let (dir, name) = (closed.node.as_fd(), OsStr::new("x"));
    assert_eq!(branch.create(dir, name, 0o644, OFlags::RDWR, &who).err(), Some(Errno::ACCESS));
    assert_eq!(branch.mkdir(dir, name, 0o755, &who).err(), Some(Errno::ACCESS));
    assert_eq!(branch.symlink(dir, name, name, &who).err(), Some(Errno::ACCESS));
    let device = rustix::fs::makedev(1, 3);
    let made = branch.mknod(fixture.root(), name, libc::S_IFCHR | 0o666, device, &who);
    assert_eq!(made.err(), Some(Errno::PERM));
    // A supplementary group counts, and a set-group-id directory hands its group down.
    std::os::unix::fs::chown(fixture.path("closed"), Some(0), Some(4)).expect("chown");
    set_mode(&fixture.path("closed"), 0o2775);
    let made = branch.mkdir(dir, name, 0o755, &who).expect("the group may");
    assert_eq!((made.stat.uid, made.stat.gid, made.stat.mode & 0o2000), (65534, 4, 0o2000));
}

#[test]
fn names_come_and_go() {
    let fixture = Fixture::new();
    let (branch, root) = (&fixture.branch, fixture.root());
    let name = OsStr::new;
    std::fs::write(fixture.path("a"), "a").expect("write");
    let a = fixture.found("a");
    branch.link(a.node.as_fd(), root, name("b")).expect("link");
    assert_eq!(branch.stat(a.node.as_fd()).expect("stat").nlink, 2);
    symlink("nowhere", fixture.path("s")).expect("symlink");
    let link = fixture.found("s");
    branch.link(link.node.as_fd(), root, name("s2")).expect("a link to a link");
    assert_eq!(fixture.found("s2").stat.inode, link.stat.inode);

    std::fs::write(fixture.path("c"), "c").expect("write");
    let rename =
        |source, target, flags| branch.rename((root, name(source)), (root, name(target)), flags);
    assert_eq!(rename("a", "c", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("a", "c", RenameFlags::EXCHANGE).expect("exchange");
    assert_eq!(std::fs::read(fixture.path("a")).expect("read"), b"c");
    rename("a", "c", RenameFlags::empty()).expect("replace");
    assert_eq!(std::fs::read(fixture.path("c")).expect("read"), b"c");
    assert_eq!(rename("c", "d", RenameFlags::WHITEOUT), Err(Errno::INVAL));
    assert_eq!(branch.rmdir(root, name("c")), Err(Errno::NOTDIR));
    branch.unlink(root, name("c")).expect("unlink");
    assert_eq!(branch.lookup(root, name("c")).err(), Some(Errno::NOENT));
}

#[test]
fn attributes_change_of_every_kind_and_never_through_a_link() {
    let fixture = Fixture::new();
    let target = fixture.outside.path().join("target");
    std::fs::write(&target, "").expect("write");
    symlink(&target, fixture.path("link")).expect("symlink");
    let before = Time { seconds: -2, nanos: 300_000_001 };
    let change = AttributeChange {
        mtime: Some(SetTime::At(before)),
        atime: Some(SetTime::Now),
        ..AttributeChange::default()
    };
    let (branch, link) = (&fixture.branch, fixture.found("link"));
    branch.set_attributes(link.node.as_fd(), &change).expect("utimes");
    assert_eq!(branch.stat(link.node.as_fd()).expect("stat").mtime, before);
    assert_ne!(std::fs::metadata(&target).expect("stat").mtime(), -2);
    let mode = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
    assert_eq!(branch.set_attributes(link.node.as_fd(), &mode), Err(Errno::OPNOTSUPP));

    std::fs::write(fixture.path("file"), "").expect("write");
    let file = fixture.found("file");
    let (uid, gid) = if is_root() { (Some(65534), Some(4)) } else { (None, None) };
    let change = AttributeChange { mode: Some(0o6755), uid, gid, ..AttributeChange::default() };
    branch.set_attributes(file.node.as_fd(), &change).expect("owner, then mode");
    let stat = branch.stat(file.node.as_fd()).expect("stat");
    assert_eq!(stat.mode, 0o6755, "the change of owner must not take the bits of the new mode");
    assert_eq!((uid.unwrap_or(stat.uid), gid.unwrap_or(stat.gid)), (stat.uid, stat.gid));
    for (mode, member, left) in [
        (0o6755, true, 0o755),
        (0o6766, true, 0o2766),
        (0o6766, false, 0o766),
        (0o4600, false, 0o600),
        (0o1644, false, 0o1644),
    ] {
        let change = AttributeChange { mode: Some(mode), ..AttributeChange::default() };
        branch.set_attributes(file.node.as_fd(), &change).expect("chmod");
        branch.clear_set_id(file.node.as_fd(), |_| member).expect("clear");
        assert_eq!(branch.stat(file.node.as_fd()).expect("stat").mode, left, "{mode:o}");
    }
}

#[test]
fn content_is_read_written_cut_and_punched() {
    let fixture = Fixture::new();
    let (branch, root) = (&fixture.branch, fixture.root());
    let create = |name| branch.create(root, OsStr::new(name), 0o4755, OFlags::RDWR, &ourselves());
    let (found, file) = create("f").expect("a file");
    let fd = file.as_fd();
    assert_eq!(branch.write_at(fd, &[7; 10_000], Some(1 << 20)), Ok(10_000));
    let mut buffer = [0; 16];
    assert_eq!(branch.read_at(fd, &mut buffer, (1 << 20) + 9_990), Ok(10));
    assert_eq!(buffer[..10], [7; 10]);
    assert_eq!(branch.seek(fd, 0, Whence::Data), Ok(1 << 20));
    assert_eq!(branch.seek(fd, 0, Whence::Hole), Ok(0));
    assert_eq!(branch.seek(fd, 1 << 30, Whence::Data), Err(Errno::NXIO));
    let punch = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
    branch.fallocate(fd, punch, 1 << 20, 10_000).expect("punch");
    assert_eq!(branch.read_at(fd, &mut buffer, 1 << 20), Ok(16));
    assert_eq!(buffer, [0; 16]);

    let (_, copy) = create("copy").expect("a file");
    branch.write_at(fd, b"abcdef", Some(0)).expect("write");
    assert_eq!(branch.copy_range((fd, 1), (copy.as_fd(), 3), 4), Ok(4));
    assert_eq!(std::fs::read(fixture.path("copy")).expect("read"), b"\0\0\0bcde");
    branch.fsync(fd, false).and_then(|()| branch.fsync(fd, true)).expect("sync");
    branch.fsync_directory(root).expect("sync");

    // O_RDONLY | O_TRUNC cuts too.
    let reader = branch.open_file(found.node.as_fd(), OFlags::RDONLY).expect("open");
    branch.truncate(reader.as_fd(), 3).expect("truncate");
    assert_eq!(branch.stat(fd).expect("stat").size, 3);
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::TRUNC | OFlags::CREATE;
    let writer = branch.open_file(found.node.as_fd(), append).expect("open");
    branch.write_at(writer.as_fd(), b"!", None).expect("append");
    assert_eq!(std::fs::read(fixture.path("f")).expect("read"), b"abc!");
    branch.write_mapped_at(writer.as_fd(), b"A", 0).expect("write");
    assert_eq!(std::fs::read(fixture.path("f")).expect("read"), b"Abc!", "not appended");
}

#[test]
fn attributes_with_names_are_kept_and_the_system_s_are_guarded() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("f"), "").expect("write");
    let (branch, file) = (&fixture.branch, fixture.found("f"));
    let (node, key) = (file.node.as_fd(), OsStr::new("user.octroi"));
    match branch.set_xattr(node, key, b"value", XattrFlags::CREATE) {
        Err(Errno::OPNOTSUPP) => return,
        result => result.expect("set"),
    }
    assert_eq!(branch.set_xattr(node, key, b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(branch.get_xattr(node, key).expect("get"), b"value");
    assert!(branch.list_xattrs(node).expect("list").contains(&key.to_owned()));
    let large = vec![b'x'; 1500];
    branch.set_xattr(node, key, &large, XattrFlags::REPLACE).expect("set");
    assert_eq!(branch.get_xattr(node, key).expect("get"), large);
    branch.remove_xattr(node, key).expect("remove");
    assert_eq!(branch.get_xattr(node, key), Err(Errno::NODATA));
    let system = OsStr::new("system.nfs4_acl");
    assert_eq!(branch.set_xattr(node, system, b"", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    assert_eq!(branch.remove_xattr(node, system), Err(Errno::OPNOTSUPP));

    set_mode(&fixture.path("f"), 0o2755);
    let (acl, gid) = (OsStr::new("system.posix_acl_access"), file.stat.gid);
    branch.after_acl(node, acl, |of| of == gid).expect("a member of the group");
    assert_eq!(branch.stat(node).expect("stat").mode, 0o2755);
    branch.after_acl(node, acl, |_| false).expect("an outsider");
    assert_eq!(branch.stat(node).expect("stat").mode, 0o755);
}

#[test]
fn a_default_acl_decides_over_the_umask() {
    let fixture = Fixture::new();
    // Version 2 (include/uapi/linux/posix_acl_xattr.h); user::rwx, group::rwx, other::---.
    let entry = |tag: u16, permissions: u16| {
        [tag.to_le_bytes(), permissions.to_le_bytes(), [0xff; 2], [0xff; 2]].concat()
    };
    let acl = [2u32.to_le_bytes().to_vec(), entry(1, 7), entry(4, 7), entry(32, 0)].concat();
    let key = OsStr::new("system.posix_acl_default");
    let (branch, root) = (&fixture.branch, fixture.root());
    match branch.set_xattr(root, key, &acl, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => return,
        result => result.expect("set"),
    }
    let who = somebody();
    let (made, _) =
        branch.create(root, OsStr::new("f"), 0o666, OFlags::RDWR, &who).expect("a file");
    assert_eq!(made.stat.mode, 0o660);
}

/// Unmounts, also when a test fails.
struct MountGuard(PathBuf);

impl Drop for MountGuard {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_mount_point_inside_a_branch_is_not_entered() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("d/below")).expect("mkdir");
    let inside = fixture.found("d");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", fixture.path("d"), "tmpfs", flags, None).expect("root may mount");
    let _mounted = MountGuard(fixture.path("d"));
    let (branch, name) = (&fixture.branch, OsStr::new("d"));
    assert_eq!(branch.lookup(fixture.root(), name).err(), Some(Errno::ACCESS));
    assert_eq!(branch.rmdir(fixture.root(), name), Err(Errno::BUSY));
    // The directory below it is the branch's still, for who knows it.
    let again = branch.open_node(&inside.handle, FileKind::Directory, || "d".into());
    let again = again.expect("by its handle");
    assert!(branch.lookup(again.as_fd(), OsStr::new("below")).is_ok());
}

#[test]
fn an_offline_branch_answers_eio() {
    let fixture = Fixture::new();
    let offline = &fixture.branch;
    let (name, path) = (offline.spec().name.clone(), offline.spec().path.clone());
    offline.go_offline(&BranchError::Elsewhere { name, path });
    let (root, name, who) = (fixture.root(), OsStr::new("x"), ourselves());
    assert_eq!(offline.lookup(root, name).err(), Some(Errno::IO));
    assert_eq!(offline.create(root, name, 0o600, OFlags::RDWR, &who).err(), Some(Errno::IO));
    assert_eq!(offline.read_dir(root, |_| Ok(())), Err(Errno::IO));
    assert_eq!(offline.unlink(root, name), Err(Errno::IO));
    assert_eq!(offline.statfs().err(), Some(Errno::IO));
    assert_eq!(offline.stage().err(), Some(Errno::IO));
}

#[test]
fn a_directory_that_was_moved_out_of_the_branch_is_not_found_by_its_handle() {
    for fixture in [Fixture::new(), Fixture::new().without_handles()] {
        let outside = tempfile::tempdir_in(fixture.path("..")).expect("a directory outside");
        // Deeper than the kernel tells the path of.
        let deep = fixture.path("deep");
        std::fs::create_dir(&deep).expect("mkdir");
        let mut here: OwnedFd = std::fs::File::open(&deep).expect("open").into();
        let long = "x".repeat(200);
        for _ in 0..30 {
            rustix::fs::mkdirat(&here, &*long, Mode::RWXU).expect("mkdir");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            here = rustix::fs::openat(&here, &*long, flags, Mode::empty()).expect("open");
        }
        let bottom = crate::sys::handle::name_to_handle(here.as_fd(), OsStr::new(""));
        let top = fixture.found("deep");
        let open = |handle: &Handle, path: &str| {
            fixture.branch.open_node(handle, FileKind::Directory, || path.into()).map(drop)
        };
        let by_handle = fixture.branch.online().expect("online").by_handle;
        let bottom = bottom.expect("a handle");
        assert_eq!(open(&top.handle, "deep"), Ok(()));
        let found = if by_handle { Ok(()) } else { Err(Errno::STALE) };
        assert_eq!(open(&bottom, "deep"), found);
        std::fs::rename(&deep, fixture.path("other")).expect("rename");
        assert_eq!(open(&top.handle, "other"), Ok(()), "it is in the branch");
        std::fs::rename(fixture.path("other"), outside.path().join("d")).expect("rename");
        let gone = |errno| [Errno::STALE, Errno::NOENT].contains(&errno);
        assert!(open(&top.handle, "deep").is_err_and(gone));
        assert!(open(&bottom, "deep").is_err_and(gone));
        std::fs::rename(outside.path().join("d"), fixture.path("other")).expect("rename");
        assert_eq!(open(&top.handle, "other"), Ok(()), "it is back");
        assert_eq!(open(&bottom, "other"), found);
    }
}
