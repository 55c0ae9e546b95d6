//! Requests that the kernel never sends: the adapter must answer each with an error, change nothing,
//! read nothing, and serve on.

use std::path::{Path, PathBuf};

use crate::vfs::tests::fixture::Fixture;

mod kernel;

use kernel::{Body, Kernel, op};

/// What lies beside the branches, in the folder that nothing may lead to.
const SECRET: &str = "not to be read";

/// Everything below a folder with its content; what was changed shows.
fn tree(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("one"))
        {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("it is there");
            let text = std::fs::read_link(&path).map(PathBuf::into_os_string);
            let content = if meta.is_file() { std::fs::read(&path).expect("read") } else { vec![] };
            let facts =
                format!("{:?} {:?} {content:?} {text:?}", meta.permissions(), meta.modified());
            // The ledger is written to, whatever happens.
            if path.file_name().is_some_and(|name| name == "state") {
                continue;
            }
            if meta.is_dir() {
                open.push(path.clone());
                found.push((path, format!("{:?}", meta.permissions())));
            } else {
                found.push((path, facts));
            }
        }
    }
    found.sort();
    found
}

/// A view with something of each kind in `inbox`, and a secret outside.
struct Scene {
    kernel: Kernel,
    fixture: Fixture,
    before: Vec<(PathBuf, String)>,
}

impl Scene {
    fn new() -> Self {
        let fixture = Fixture::new(vec![]);
        fixture.plant("inbox/f", "mine");
        fixture.plant("inbox/d/g", "inner");
        fixture.plant("archive/kept", "kept");
        std::fs::write(fixture.backing("secret"), SECRET).expect("planted");
        for (name, text) in [("up", "../secret"), ("root", "/etc"), ("in", "d")] {
            std::os::unix::fs::symlink(text, fixture.backing("inbox").join(name)).expect("a link");
        }
        let kernel = Kernel::start(std::sync::Arc::clone(&fixture.vfs));
        let before = tree(fixture.dir.path());
        Self { kernel, fixture, before }
    }

    /// Asks for what must be refused, with the name of it for a message.
    #[track_caller]
    fn refused(&mut self, what: &str, operation: u32, number: u64, body: &Body) -> i32 {
        match self.kernel.ask(operation, number, body) {
            Err(errno) => errno,
            Ok(bytes) => panic!("{what}: operation {operation} on {number} answered {bytes:?}"),
        }
    }

    /// Nothing anywhere has changed, and the view serves on.
    #[track_caller]
    fn end(mut self) {
        self.kernel.uid = 0;
        assert_eq!(tree(self.fixture.dir.path()), self.before);
        let inbox = self.kernel.lookup(1, "inbox");
        let number = self.kernel.lookup(inbox, "f");
        let handle = self.kernel.open(op::OPEN, number, libc::O_RDONLY);
        let text = self.kernel.ask(op::READ, number, &reading(handle, 100));
        assert_eq!(text.as_deref(), Ok(b"mine".as_slice()));
    }
}

fn none() -> Body {
    Body::default()
}

/// `fuse_read_in`, which readdir uses too.
fn reading(handle: u64, size: u32) -> Body {
    none().long(&[handle, 0]).short(&[size, 0]).long(&[0]).short(&[0, 0])
}

fn writing(handle: u64, bytes: &[u8]) -> Body {
    none().long(&[handle, 0]).short(&[bytes.len() as u32, 0]).long(&[0]).short(&[0, 0]).bytes(bytes)
}

/// `fuse_setattr_in`: a new mode, and a new length through an open file if one is named.
fn setting(handle: Option<u64>, mode: u32) -> Body {
    const MODE: u32 = 1 << 0;
    const SIZE: u32 = 1 << 3;
    const FH: u32 = 1 << 6;
    let valid = handle.map_or(MODE, |_| SIZE | FH);
    none()
        .short(&[valid, 0])
        .long(&[handle.unwrap_or(0), 0, 0, 0, 0, 0])
        .short(&[0, 0, 0, mode, 0, 0, 0, 0])
}

/// Requests that name an inode by its number alone.
fn on_inodes() -> Vec<(&'static str, u32, Body)> {
    vec![
        ("lookup", op::LOOKUP, none().name("f")),
        ("getattr", op::GETATTR, none().short(&[0, 0]).long(&[0])),
        ("setattr", op::SETATTR, setting(None, 0o777)),
        ("readlink", op::READLINK, none()),
        ("symlink", op::SYMLINK, none().name("new").name("text")),
        ("mknod", op::MKNOD, none().short(&[libc::S_IFREG | 0o644, 0, 0, 0]).name("new")),
        ("mkdir", op::MKDIR, none().short(&[0o755, 0]).name("new")),
        ("unlink", op::UNLINK, none().name("f")),
        ("rmdir", op::RMDIR, none().name("d")),
        ("rename", op::RENAME, none().long(&[1]).name("f").name("new")),
        ("rename2", op::RENAME2, none().long(&[1]).short(&[0, 0]).name("f").name("new")),
        ("open", op::OPEN, none().short(&[libc::O_RDWR as u32, 0])),
        ("opendir", op::OPENDIR, none().short(&[0, 0])),
        ("statfs", op::STATFS, none()),
        ("setxattr", op::SETXATTR, none().short(&[1, 0]).name("user.new").bytes(b"x")),
        ("getxattr", op::GETXATTR, none().short(&[100, 0]).name("user.new")),
        ("listxattr", op::LISTXATTR, none().short(&[100, 0])),
        ("removexattr", op::REMOVEXATTR, none().name("user.new")),
        ("create", op::CREATE, none().short(&[libc::O_RDWR as u32, 0o644, 0, 0]).name("new")),
    ]
}

/// Requests that name an open file or directory.
fn on_handles(handle: u64) -> Vec<(&'static str, u32, Body)> {
    vec![
        ("read", op::READ, reading(handle, 100)),
        ("write", op::WRITE, writing(handle, b"changed")),
        ("fsync", op::FSYNC, none().long(&[handle]).short(&[0, 0])),
        ("readdir", op::READDIR, reading(handle, 4096)),
        ("readdirplus", op::READDIRPLUS, reading(handle, 4096)),
        ("fsyncdir", op::FSYNCDIR, none().long(&[handle]).short(&[0, 0])),
        ("fallocate", op::FALLOCATE, none().long(&[handle, 0, 100]).short(&[0, 0])),
        ("lseek", op::LSEEK, none().long(&[handle, 0]).short(&[libc::SEEK_DATA as u32, 0])),
        ("copy", op::COPY_FILE_RANGE, none().long(&[handle, 0, 1, handle, 0, 4, 0])),
        ("ioctl", op::IOCTL, none().long(&[handle]).short(&[0, 0x6601]).long(&[0]).short(&[0, 0])),
    ]
}

#[test]
fn numbers_that_were_never_looked_up_lead_nowhere() {
    let mut scene = Scene::new();
    // Of an inode that is there, had it been looked up; of `.audit`; of nothing.
    let of_f = scene.fixture.number("inbox/f");
    scene.fixture.vfs.forget(of_f, 1);
    for number in [0, of_f, 424_242, 1 << 62, (1 << 62) + 2, u64::MAX] {
        for (what, operation, body) in on_inodes() {
            let errno = scene.refused(what, operation, number, &body);
            assert_eq!(errno, libc::ESTALE, "{what} of {number}");
        }
        let inbox = scene.kernel.lookup(1, "inbox");
        let link = none().long(&[number]).name("new");
        assert_eq!(scene.refused("link", op::LINK, inbox, &link), libc::ESTALE);
        let into = none().long(&[number]).name("f").name("new");
        assert_eq!(scene.refused("rename into", op::RENAME, inbox, &into), libc::ESTALE);
    }
    scene.end();
}

#[test]
fn handles_that_were_never_opened_lead_nowhere() {
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    let file = scene.kernel.lookup(inbox, "f");
    for handle in [0, 1, 99, u64::MAX] {
        for number in [inbox, file, 424_242] {
            for (what, operation, body) in on_handles(handle) {
                let errno = scene.refused(what, operation, number, &body);
                let expected = if what == "ioctl" { libc::ENOTTY } else { libc::EBADF };
                assert_eq!(errno, expected, "{what}");
            }
            for operation in [op::RELEASE, op::RELEASEDIR] {
                let release = none().long(&[handle]).short(&[0, 0]).long(&[0]);
                assert!(scene.kernel.ask(operation, number, &release).is_ok(), "nothing to close");
            }
        }
    }
    scene.end();
}

#[test]
fn handles_of_another_kind_or_inode_lead_nowhere() {
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    let (file, folder) = (scene.kernel.lookup(inbox, "f"), scene.kernel.lookup(inbox, "d"));
    let inner = scene.kernel.lookup(folder, "g");
    let directory = scene.kernel.open(op::OPENDIR, folder, 0);
    let reader = scene.kernel.open(op::OPEN, file, libc::O_RDONLY);
    for (what, operation, body) in on_handles(directory) {
        if !what.starts_with("readdir") && what != "fsyncdir" {
            scene.refused(what, operation, file, &body);
        }
    }
    for (what, operation, body) in on_handles(reader) {
        if !["read", "fsync", "lseek"].contains(&what) {
            scene.refused(what, operation, file, &body);
        }
    }
    // A file's own handle is what a change of length goes through: not another's.
    let writer = scene.kernel.open(op::OPEN, inner, libc::O_WRONLY);
    let archive = scene.kernel.lookup(1, "archive");
    let kept = scene.kernel.lookup(archive, "kept");
    assert_eq!(
        scene.refused("truncate", op::SETATTR, kept, &setting(Some(writer), 0)),
        libc::EACCES
    );
    let other = scene.kernel.ask(op::SETATTR, file, &setting(Some(writer), 0));
    assert!(other.is_ok(), "it is the inode that is named whose length changes");
    assert_eq!(std::fs::read(scene.fixture.backing("inbox/d/g")).expect("read"), b"inner");
    std::fs::write(scene.fixture.backing("inbox/f"), "mine").expect("written anew");
    scene.before = tree(scene.fixture.dir.path());
    scene.end();
}

#[test]
fn names_that_are_no_names_lead_nowhere() {
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    let folder = scene.kernel.lookup(inbox, "d");
    let inner = scene.kernel.lookup(folder, "g");
    let long = "x".repeat(256);
    let names = ["", ".", "..", "a/b", "d/g", "../secret", "../../etc", "/etc/passwd", "/", &long];
    for name in names.into_iter().chain([".octroi", ".octroi/id"]) {
        let makes = [
            ("lookup", op::LOOKUP, none().name(name)),
            ("mknod", op::MKNOD, none().short(&[libc::S_IFREG | 0o644, 0, 0, 0]).name(name)),
            ("mkdir", op::MKDIR, none().short(&[0o755, 0]).name(name)),
            ("symlink", op::SYMLINK, none().name(name).name("text")),
            ("unlink", op::UNLINK, none().name(name)),
            ("rmdir", op::RMDIR, none().name(name)),
            ("link", op::LINK, none().long(&[inner]).name(name)),
            ("create", op::CREATE, none().short(&[libc::O_RDWR as u32, 0o644, 0, 0]).name(name)),
            ("rename from", op::RENAME, none().long(&[inbox]).name(name).name("new")),
            ("rename to", op::RENAME, none().long(&[inbox]).name("f").name(name)),
            ("exchange", op::RENAME2, none().long(&[inbox]).short(&[2, 0]).name("f").name(name)),
        ];
        for (what, operation, body) in makes {
            scene.refused(&format!("{what} {name}"), operation, inbox, &body);
        }
    }
    scene.end();
}

#[test]
fn what_is_no_directory_or_no_file_is_not_used_as_one() {
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scene.fixture.backing("inbox/p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a fifo");
    scene.before = tree(scene.fixture.dir.path());
    let open = none().short(&[libc::O_RDWR as u32, 0]);
    for name in ["up", "root", "in", "f", "p"] {
        let number = scene.kernel.lookup(inbox, name);
        for (what, operation, body) in on_inodes() {
            let names_a_child = [
                "lookup", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "rename2",
                "create", "opendir",
            ];
            if names_a_child.contains(&what) {
                scene.refused(&format!("{what} in {name}"), operation, number, &body);
            }
        }
        let into = none().long(&[number]).name("f").name("new");
        scene.refused("rename into", op::RENAME, inbox, &into);
        if name != "f" {
            assert_eq!(scene.refused("open", op::OPEN, number, &open), libc::EINVAL, "{name}");
        }
    }
    assert_eq!(scene.refused("open", op::OPEN, inbox, &open), libc::EISDIR);
    let file = scene.kernel.lookup(inbox, "f");
    assert_eq!(scene.refused("readlink", op::READLINK, file, &none()), libc::EINVAL);
    // A directory into itself, which the kernel refuses by itself.
    let folder = scene.kernel.lookup(inbox, "d");
    let into_itself = none().long(&[folder]).name("d").name("x");
    scene.refused("into itself", op::RENAME, inbox, &into_itself);
    scene.end();
}

#[test]
fn a_user_makes_no_device_and_gets_no_one_elses_file() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(scene.fixture.backing("inbox/f"), closed).expect("chmod");
    scene.before = tree(scene.fixture.dir.path());
    scene.kernel.uid = 65534;
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let device = none().short(&[kind | 0o666, 0x103, 0, 0]).name("null");
        let errno = scene.refused("mknod", op::MKNOD, inbox, &device);
        assert!([libc::EPERM, libc::EACCES].contains(&errno), "{errno}");
    }
    // Somebody else was faster: the kernel has checked the folder, and cannot have checked the file.
    for flags in [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY | libc::O_TRUNC] {
        let create = none().short(&[flags as u32, 0o644, 0, 0]).name("f");
        assert_eq!(scene.refused("create", op::CREATE, inbox, &create), libc::ESTALE);
    }
    scene.end();
}

#[test]
fn forgetting_too_much_forgets_no_more_than_there_is() {
    let mut scene = Scene::new();
    let inbox = scene.kernel.lookup(1, "inbox");
    for number in [0, 1, inbox, 424_242, u64::MAX] {
        scene.kernel.tell(op::FORGET, number, &none().long(&[u64::MAX]));
    }
    let many = none().short(&[3, 0]).long(&[1, u64::MAX, inbox, u64::MAX, 424_242, 1]);
    scene.kernel.tell(op::BATCH_FORGET, 0, &many);
    scene.end();
}

/// A generator of test data (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn messages_without_sense_are_answered_and_change_nothing() {
    let mut scene = Scene::new();
    scene.kernel.uid = 65534;
    let mut state = 1;
    // fuser takes the kernel's word for the lengths in some, and panics where that is wrong; a change of
    // attributes makes sense by chance, and whether the caller may is for the kernel to say.
    let others = [
        op::INIT,
        op::DESTROY,
        op::FORGET,
        op::BATCH_FORGET,
        op::WRITE,
        op::SETXATTR,
        op::IOCTL,
        op::SETATTR,
    ];
    for round in 0..4000_u64 {
        let operation = (round % u64::from(op::LAST + 2)) as u32;
        if others.contains(&operation) {
            continue;
        }
        let length = next(&mut state) % 120;
        let number = [1, 2, 3, 424_242, next(&mut state)][(round % 5) as usize];
        let bytes: Vec<u8> = (0..length).map(|_| (next(&mut state) >> 7) as u8).collect();
        let unique = scene.kernel.tell(operation, number, &none().bytes(&bytes));
        assert!(scene.kernel.answer_to(unique).is_some(), "{operation} {number} {bytes:?}");
    }
    scene.end();
}

#[test]
fn what_was_removed_is_freed_by_nobody_who_reads_requests() {
    /// More than a lane has threads.
    const MANY: usize = 64;
    let fixture = Fixture::new(vec![]);
    fixture.folder("inbox/d");
    let mut kernel = Kernel::start(std::sync::Arc::clone(&fixture.vfs));
    let inbox = kernel.lookup(1, "inbox");
    let folder = kernel.lookup(inbox, "d");
    kernel.ask(op::RMDIR, inbox, &none().name("d")).expect("removed");
    assert_eq!(fixture.vfs.kept(), 1);
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    for _ in 0..MANY {
        let wait = wait.clone();
        let hang = move || {
            let _ = wait.recv();
        };
        kernel.lanes.hand_on_surely((fixture.vfs.lane(inbox), 0), hang);
    }
    kernel.tell(op::FORGET, folder, &none().long(&[1]));
    kernel.ask(op::GETATTR, 1, &none().short(&[0, 0]).long(&[0])).expect("answered after that");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(fixture.vfs.kept(), 1, "it is freed by its branch's threads, which hang");
    drop(go);
    let late = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fixture.vfs.kept() > 0 && std::time::Instant::now() < late {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(fixture.vfs.kept(), 0);
}
