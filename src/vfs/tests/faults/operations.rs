//! The operations of the table: each acts in a folder of its own, which is set up the same each time.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// The folder of one case and what a kernel would know of it.
pub struct Case {
    pub vfs: Arc<Vfs>,
    pub caller: Caller,
    /// Number of the folder.
    pub folder: u64,
    /// References that the kernel holds.
    pub references: Vec<u64>,
    pub file: u64,
    /// A directory; in a pool both members have it.
    pub empty: u64,
    pub text: u64,
    /// Handles of `file` and `other`, open for both, where the operation wants them.
    pub handle: u64,
    pub other_handle: u64,
    pub listing: u64,
}

/// One operation.
pub struct Operation {
    pub name: &'static str,
    /// It wants open files.
    pub opens: bool,
    /// Gives the references that it gained.
    pub act: fn(&Case) -> Result<Vec<u64>, Errno>,
}

pub fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// What each folder has in it.
pub fn furnish(folder: &Path) {
    std::fs::create_dir_all(folder.join("empty")).expect("mkdir");
    std::fs::write(folder.join("file"), "the text of a file").expect("written");
    std::fs::write(folder.join("other"), "another text").expect("written");
    symlink("file", folder.join("text")).expect("linked");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder, open).expect("chmod");
    for file in ["file", "other"] {
        let path = folder.join(file);
        let value = b"value";
        rustix::fs::setxattr(&path, "user.known", value, XattrFlags::empty())
            .expect("an attribute");
    }
}

impl Case {
    pub fn known(vfs: &Arc<Vfs>, caller: Caller, path: &str, opens: bool) -> Self {
        let mut references = Vec::new();
        let mut number = ROOT_NUMBER;
        for part in path.split('/') {
            number = vfs.lookup(*ROOT, number, name(part)).expect(part).number;
            references.push(number);
        }
        let mut child = |child: &str| {
            let found = vfs.lookup(*ROOT, number, name(child)).expect(child).number;
            references.push(found);
            found
        };
        let [file, other, empty, text] = ["file", "other", "empty", "text"].map(&mut child);
        let open = |number| match opens {
            true => vfs.open(*ROOT, number, libc::O_RDWR as u32).expect("opened").handle,
            false => 0,
        };
        let listing = if opens { vfs.opendir(*ROOT, number).expect("opened") } else { 0 };
        let (handle, other_handle) = (open(file), open(other));
        Self {
            vfs: Arc::clone(vfs),
            caller,
            folder: number,
            references,
            file,
            empty,
            text,
            handle,
            other_handle,
            listing,
        }
    }

    /// What the kernel does in the end.
    pub fn release(&self) {
        if self.handle != 0 {
            self.vfs.release(self.handle);
            self.vfs.release(self.other_handle);
            self.vfs.releasedir(self.listing);
        }
        self.references.iter().for_each(|number| drop(self.vfs.forget(*number, 1)));
    }
}

fn set(case: &Case, change: AttributeChange, size: Option<u64>) -> Result<Vec<u64>, Errno> {
    set_of(case, case.file, change, size)
}

fn set_of(
    case: &Case,
    number: u64,
    change: AttributeChange,
    size: Option<u64>,
) -> Result<Vec<u64>, Errno> {
    let request = AttributeRequest { change, size, handle: None };
    case.vfs.setattr(*ROOT, number, &request).map(|_| vec![])
}

fn gained(made: Result<Attributes, Errno>) -> Result<Vec<u64>, Errno> {
    made.map(|made| vec![made.number])
}

fn renamed(case: &Case, from: &str, to: &str, flags: RenameFlags) -> Result<Vec<u64>, Errno> {
    let (from, to) = ((case.folder, name(from)), (case.folder, name(to)));
    case.vfs.rename(*ROOT, from, to, flags).map(|()| vec![])
}

/// All operations of the view but crossings, which the daemon makes on threads of their own.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "lookup",
        opens: false,
        act: |c| gained(c.vfs.lookup(*ROOT, c.folder, name("file"))),
    },
    Operation {
        name: "getattr",
        opens: false,
        act: |c| c.vfs.getattr(*ROOT, c.file, None).map(|_| vec![]),
    },
    Operation {
        name: "getattr of an open file",
        opens: true,
        act: |c| c.vfs.getattr(*ROOT, c.file, Some(c.handle)).map(|_| vec![]),
    },
    Operation {
        name: "open",
        opens: false,
        act: |c| {
            let opened = c.vfs.open(*ROOT, c.file, libc::O_RDWR as u32)?;
            c.vfs.release(opened.handle);
            Ok(vec![])
        },
    },
    Operation {
        name: "create",
        opens: false,
        act: |c| {
            let (made, opened) =
                c.vfs.create(c.caller, c.folder, name("new"), 0o644, 0o022, WRITE)?;
            c.vfs.release(opened.handle);
            Ok(vec![made.number])
        },
    },
    Operation {
        name: "mkdir",
        opens: false,
        act: |c| gained(c.vfs.mkdir(c.caller, c.folder, name("new"), 0o755, 0o022)),
    },
    Operation {
        name: "mknod",
        opens: false,
        act: |c| gained(c.vfs.mknod(c.caller, c.folder, name("new"), libc::S_IFIFO | 0o644, 0, 0)),
    },
    Operation {
        name: "symlink",
        opens: false,
        act: |c| gained(c.vfs.symlink(c.caller, c.folder, name("new"), name("to"))),
    },
    Operation {
        name: "link",
        opens: false,
        act: |c| gained(c.vfs.link(*ROOT, c.file, c.folder, name("new"))),
    },
    Operation {
        name: "unlink",
        opens: false,
        act: |c| c.vfs.unlink(*ROOT, c.folder, name("file")).map(|()| vec![]),
    },
    Operation {
        name: "rmdir",
        opens: false,
        act: |c| c.vfs.rmdir(*ROOT, c.folder, name("empty")).map(|()| vec![]),
    },
    Operation {
        name: "rename",
        opens: false,
        act: |c| renamed(c, "file", "new", RenameFlags::empty()),
    },
    Operation {
        name: "rename over a file",
        opens: false,
        act: |c| renamed(c, "file", "other", RenameFlags::empty()),
    },
    Operation {
        name: "rename of a directory",
        opens: false,
        act: |c| renamed(c, "empty", "new", RenameFlags::NOREPLACE),
    },
    Operation {
        name: "exchange",
        opens: false,
        act: |c| renamed(c, "file", "other", RenameFlags::EXCHANGE),
    },
    Operation {
        name: "read",
        opens: true,
        act: |c| match c.vfs.read(c.handle, 4, 100)?.as_slice() {
            b"text of a file" => Ok(vec![]),
            // What is short is the end of the file to the kernel.
            _ => Err(Errno::NODATA),
        },
    },
    Operation {
        name: "write",
        opens: true,
        act: |c| c.vfs.write(*ROOT, c.handle, Some(4), b"TEXT", false).map(|_| vec![]),
    },
    Operation {
        name: "truncate",
        opens: false,
        act: |c| set(c, AttributeChange::default(), Some(5)),
    },
    Operation {
        name: "truncate of an open file",
        opens: true,
        act: |c| {
            let change = AttributeChange::default();
            let request = AttributeRequest { change, size: Some(5), handle: Some(c.handle) };
            c.vfs.setattr(*ROOT, c.file, &request).map(|_| vec![])
        },
    },
    Operation {
        name: "fallocate",
        opens: true,
        act: |c| {
            let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
            c.vfs.fallocate(*ROOT, c.handle, 2, 4, mode).map(|()| vec![])
        },
    },
    Operation {
        name: "chmod",
        opens: false,
        act: |c| set(c, AttributeChange { mode: Some(0o600), ..Default::default() }, None),
    },
    Operation {
        name: "chown",
        opens: false,
        act: |c| set(c, AttributeChange { gid: Some(c.caller.gid), ..Default::default() }, None),
    },
    Operation {
        name: "utimes",
        opens: false,
        act: |c| {
            let time = SetTime::At(Time { seconds: 1000, nanos: 5 });
            let change =
                AttributeChange { atime: Some(time), mtime: Some(time), ..Default::default() };
            set(c, change, None)
        },
    },
    Operation {
        name: "setxattr",
        opens: false,
        act: |c| {
            let flags = XattrFlags::empty();
            c.vfs.setxattr(*ROOT, c.file, name("user.new"), b"text", flags).map(|()| vec![])
        },
    },
    Operation {
        name: "getxattr",
        opens: false,
        act: |c| c.vfs.getxattr(c.file, name("user.known")).map(|_| vec![]),
    },
    Operation {
        name: "listxattr",
        opens: false,
        act: |c| c.vfs.listxattr(*ROOT, c.file).map(|_| vec![]),
    },
    Operation {
        name: "removexattr",
        opens: false,
        act: |c| c.vfs.removexattr(*ROOT, c.file, name("user.known")).map(|()| vec![]),
    },
    Operation {
        name: "readdir",
        opens: true,
        act: |c| c.vfs.readdir(c.listing, 0, &mut |_| false).map(|()| vec![]),
    },
    Operation {
        name: "readdirplus",
        opens: true,
        act: |c| {
            let mut gained = Vec::new();
            let listed = c.vfs.readdirplus(*ROOT, c.listing, 0, &mut |entry, found| {
                if entry.name != "." && entry.name != ".." {
                    gained.push(found.number);
                }
                false
            });
            listed.map(|()| gained)
        },
    },
    Operation {
        name: "change of a directory",
        opens: false,
        act: |c| {
            let time = Some(SetTime::At(Time { seconds: 1000, nanos: 5 }));
            let change = AttributeChange {
                mode: Some(0o700),
                uid: Some(c.caller.uid),
                gid: Some(c.caller.gid),
                atime: time,
                mtime: time,
            };
            set_of(c, c.empty, change, None)
        },
    },
    Operation {
        name: "setxattr of a directory",
        opens: false,
        act: |c| {
            let flags = XattrFlags::empty();
            c.vfs.setxattr(*ROOT, c.empty, name("user.new"), b"text", flags).map(|()| vec![])
        },
    },
    Operation { name: "readlink", opens: false, act: |c| c.vfs.readlink(c.text).map(|_| vec![]) },
    Operation { name: "statfs", opens: false, act: |c| c.vfs.statfs(c.folder).map(|_| vec![]) },
    Operation {
        name: "fsync",
        opens: true,
        act: |c| c.vfs.fsync(c.handle, false).map(|()| vec![]),
    },
    Operation {
        name: "fsyncdir",
        opens: true,
        act: |c| c.vfs.fsyncdir(c.listing).map(|()| vec![]),
    },
    Operation {
        name: "lseek",
        opens: true,
        act: |c| c.vfs.seek(c.handle, 0, Whence::Data).map(|_| vec![]),
    },
    Operation {
        name: "copy_file_range",
        opens: true,
        act: |c| {
            c.vfs.copy_file_range(*ROOT, (c.handle, 0), (c.other_handle, 3), 8).map(|_| vec![])
        },
    },
];
