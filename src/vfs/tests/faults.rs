//! Faults of the branches' file systems: every system call that an operation makes on them fails once
//! with each errno that it may fail with. The caller gets that errno, the tree is as it was before, a
//! second try succeeds, and nothing is left open, known or in stage.
//!
//! Each operation is traced once, and then every call of the trace is made to fail in turn. `OCTROI_FAULTS=all`
//! tries every errno with every call, without it each call fails with one of them. On a branch alone,
//! where inodes are opened by their handles, they make these calls:
//!
//! ```text
//! finding an inode     open_by_handle_at; in all that follow where no open file is named
//! finding a name       openat2 statx name_to_handle_at
//! lookup               a name
//! getattr              statx
//! open                 statx open
//! create               setgroups openat2 setgroups statx name_to_handle_at open
//! mkdir mknod symlink  setgroups mkdirat|mknodat|symlinkat setgroups, a name
//! link                 linkat, a name
//! unlink rmdir         a name, unlinkat
//! rename               two names, renameat or with flags renameat2
//! setattr              statx, fchmodat|fchownat|utimensat or statx open ftruncate, statx
//! setxattr removexattr getxattr, setxattr|removexattr
//! readdir              open getdents64, name_to_handle_at for each; with attributes each a name
//! one call each        pread64 pwrite64 fallocate getxattr listxattr readlinkat fstatfs fsync lseek
//!                      copy_file_range
//! ```
//!
//! In a pool each member is asked, space by fstatfs before something is made, and a rename over several
//! members is a transaction with renames into hold and fsync of the folders.
//!
//! Where the caller need not get the errno is said in [`by_design`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::branch::{AttributeChange, FallocateMode, SetTime, Whence, XattrFlags};
use crate::types::{BranchMode, Placement};
use crate::vfs::place::passes_on;

mod inject;
mod operations;

use inject::{Fault, Worker, call_of};
use operations::{Case, OPERATIONS, Operation as Act, furnish};

/// What disks fail with, and what the daemon runs out of.
const ERRNOS: [(&str, Errno); 6] = [
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("EDQUOT", Errno::DQUOT),
    ("EMFILE", Errno::MFILE),
    ("ENOMEM", Errno::NOMEM),
    ("EROFS", Errno::ROFS),
];

fn all_cases() -> bool {
    std::env::var_os("OCTROI_FAULTS").is_some_and(|cases| cases == "all")
}

/// Whether an operation may succeed although a call of it failed.
fn by_design(pooled: bool, operation: &str, call: &str, errno: Errno) -> bool {
    match (operation, call) {
        // What becomes root again after acting as a caller tries until it can.
        (_, "setgroups") => true,
        // Said of a number that is being given to another inode, too, and asked again.
        (_, "open_by_handle_at") if errno == Errno::NOMEM => true,
        // The reply tells the attributes after the change: what is changed is changed.
        ("truncate" | "truncate of an open file" | "chmod" | "chown" | "utimes", "statx")
        | ("change of a directory", "statx") => true,
        // An entry that cannot be looked at is listed all the same.
        ("readdir", "name_to_handle_at") => true,
        (
            "readdirplus",
            "name_to_handle_at" | "openat2" | "statx" | "open_by_handle_at" | "readlinkat",
        ) => true,
        // After the decision on a rename over several members a sync that fails takes nothing back.
        ("rename" | "rename over a file" | "rename of a directory", _) if pooled => {
            ["fsync", "name_to_handle_at", "unlinkat"].contains(&call)
        }
        // Where a disk is full and then has room, by whomever it was made, it is tried once more.
        (
            "create"
            | "mkdir"
            | "mknod"
            | "symlink"
            | "link"
            | "setxattr"
            | "setxattr of a directory"
            | "write"
            | "fallocate"
            | "copy_file_range",
            _,
        ) if errno == Errno::NOSPC => true,
        // What one member cannot take goes to the next; one that cannot tell its space is left out.
        ("create" | "mkdir" | "mknod" | "symlink", _) if pooled => {
            call == "fstatfs" || passes_on(errno)
        }
        _ => false,
    }
}

/// The view and where its branches lie.
struct Lab {
    fixture: Fixture,
    worker: Worker,
    pooled: bool,
    caller: Caller,
    cases: usize,
}

impl Lab {
    fn plain() -> Self {
        Self::of(Fixture::build(&[("inbox", BranchMode::Rw)], vec![], vec![], vec![]), false)
    }

    /// A pool of two, both of which have the folder.
    fn pool() -> Self {
        let members = [("one", BranchMode::Rw), ("two", BranchMode::Rw)];
        let pool = Pool {
            name: "inbox".to_owned(),
            at: ViewPath::root().join(OsStr::new("inbox")),
            members: (0..2).map(BranchIndex).collect(),
            place: Placement::First,
        };
        Self::of(Fixture::build(&members, vec![pool], vec![], vec![]), true)
    }

    fn of(fixture: Fixture, pooled: bool) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let id = if own == 0 { 4242 } else { own };
        let caller = Caller { uid: id, gid: rustix::process::getegid().as_raw().max(id), pid: 1 };
        let worker = Worker::new(fixture.dir.path());
        Self { fixture, worker, pooled, caller, cases: 0 }
    }

    /// A folder as every case begins with; gives its name.
    fn folder(&mut self) -> String {
        self.cases += 1;
        let name = format!("case{}", self.cases);
        if self.pooled {
            furnish(&self.fixture.backing("one").join(&name));
            let second = self.fixture.backing("two").join(&name);
            std::fs::create_dir_all(second.join("empty")).expect("mkdir");
            std::fs::write(second.join("file"), "a shadow").expect("written");
            std::fs::write(second.join("more"), "of the second").expect("written");
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(&second, open).expect("chmod");
        } else {
            furnish(&self.fixture.backing("inbox").join(&name));
        }
        name
    }

    fn case(&self, folder: &str, opens: bool) -> Case {
        Case::known(&self.fixture.vfs, self.caller, &format!("inbox/{folder}"), opens)
    }

    /// Everything that users see below a folder but times and numbers.
    fn digest(&self, folder: &str) -> String {
        let mut text = String::new();
        self.describe(&format!("inbox/{folder}"), &mut text);
        text
    }

    /// A directory's part on the second member, which users do not see.
    fn hidden(&self, folder: &str) -> String {
        let path = self.fixture.backing("two").join(folder).join("empty");
        let Ok(found) = path.symlink_metadata() else { return String::new() };
        let mut keys = [0_u8; 1024];
        let length = rustix::fs::listxattr(&path, &mut keys[..]).expect("attributes");
        let keys = String::from_utf8_lossy(&keys[..length]);
        let time = (found.mtime(), found.mtime_nsec());
        format!("{:o} {} {} {time:?} {keys}", found.mode(), found.uid(), found.gid())
    }

    fn describe(&self, path: &str, text: &mut String) {
        let vfs = &self.fixture.vfs;
        for child in self.names(path) {
            let below = format!("{path}/{child}");
            let (number, references) = self.walk(&below);
            let stat = vfs.getattr(*ROOT, number, None).expect("attributes").stat;
            write!(text, "{below} {:?} {:o} {} ", stat.kind, stat.mode, stat.nlink).expect("text");
            write!(text, "{} {} ", stat.uid, stat.gid).expect("text");
            let mut keys = vfs.listxattr(*ROOT, number).unwrap_or_default();
            keys.sort();
            write!(text, "{keys:?} ").expect("text");
            match stat.kind {
                FileKind::File => {
                    let content = self.fixture.read(number).expect("read");
                    writeln!(text, "{:?}", String::from_utf8_lossy(&content)).expect("text");
                }
                FileKind::Directory => {
                    writeln!(text).expect("text");
                    self.describe(&below, text);
                }
                _ => writeln!(text).expect("text"),
            }
            references.iter().for_each(|number| drop(vfs.forget(*number, 1)));
        }
    }

    fn names(&self, path: &str) -> Vec<String> {
        let (number, references) = self.walk(path);
        let vfs = &self.fixture.vfs;
        let handle = vfs.opendir(*ROOT, number).expect("opened");
        let mut names = Vec::new();
        let listed = vfs.readdir(handle, 2, &mut |entry| {
            names.push(entry.name.to_string_lossy().into_owned());
            false
        });
        listed.expect("listed");
        vfs.releasedir(handle);
        references.iter().for_each(|number| drop(vfs.forget(*number, 1)));
        names.sort();
        names
    }

    fn walk(&self, path: &str) -> (u64, Vec<u64>) {
        let mut references = Vec::new();
        let mut number = ROOT_NUMBER;
        for part in path.split('/') {
            let found = self.fixture.vfs.lookup(*ROOT, number, OsStr::new(part));
            number = found.expect(path).number;
            references.push(number);
        }
        (number, references)
    }

    /// Open files and directories, known inodes, descriptors in the branches, what lies in stage.
    fn held(&self) -> Held {
        let view = &self.fixture.vfs.view;
        let root = self.fixture.dir.path();
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors");
        let ours = descriptors.filter_map(|entry| {
            let leads = std::fs::read_link(entry.ok()?.path()).ok()?;
            leads.starts_with(root).then_some(())
        });
        let staged = ["inbox", "one", "two"].into_iter().flat_map(|branch| {
            std::fs::read_dir(self.fixture.backing(branch).join(".octroi/stage")).ok()
        });
        Held {
            files: view.handles.files().len(),
            inodes: view.inodes.collect(|_| true).len(),
            descriptors: ours.count(),
            staged: staged.flatten().count(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    inodes: usize,
    descriptors: usize,
    staged: usize,
}

/// The calls that an operation makes, each with how often, and the tree that it leaves.
fn observe(lab: &mut Lab, operation: &Act) -> (BTreeMap<String, usize>, String) {
    // The thread's first act as a caller is more than the others.
    lab.worker.run(|| drop(crate::sys::identity::CallerGuard::assume(0, 0, &[], 0)));
    let folder = lab.folder();
    let case = lab.case(&folder, operation.opens);
    let (act, case) = (operation.act, Arc::new(case));
    let acting = Arc::clone(&case);
    let (result, lines) = lab.worker.traced(None, move || act(&acting));
    let gained = result.unwrap_or_else(|errno| panic!("{}: {errno}", operation.name));
    gained.iter().for_each(|number| drop(lab.fixture.vfs.forget(*number, 1)));
    let after = lab.digest(&folder).replace(&folder, "");
    case.release();
    let mut calls = BTreeMap::new();
    lines.iter().for_each(|line| *calls.entry(call_of(line).to_owned()).or_default() += 1);
    (calls, after)
}

/// Everything wrong with one case.
fn try_one(
    lab: &mut Lab,
    operation: &Act,
    fault: Fault<'_>,
    errno: Errno,
    after: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let folder = lab.folder();
    let (before, hidden) = (lab.digest(&folder), lab.hidden(&folder));
    let held = lab.held();
    let case = Arc::new(lab.case(&folder, operation.opens));
    let (act, acting) = (operation.act, Arc::clone(&case));
    // A full disk is not asked again.
    lab.fixture.vfs.branches.iter().for_each(|branch| branch.forget_removed());
    let (result, lines) = lab.worker.traced(Some(fault), move || act(&acting));
    if !lines.iter().any(|line| line.contains("INJECTED")) {
        wrong.push(format!("the call was not made: {lines:?}"));
    }
    let now = lab.digest(&folder);
    let finished = match result {
        Ok(gained) => {
            gained.iter().for_each(|number| drop(lab.fixture.vfs.forget(*number, 1)));
            if !by_design(lab.pooled, operation.name, fault.call, errno) {
                wrong.push("it succeeded".to_owned());
            }
            true
        }
        Err(other) => {
            if other != errno {
                wrong.push(format!("the caller got {other:?}"));
            }
            // What a directory is on a later member is not seen until the first is gone.
            if operation.name != "rmdir" && lab.hidden(&folder) != hidden {
                wrong.push(format!("the hidden part was {hidden}, is {}", lab.hidden(&folder)));
            }
            if now != before {
                wrong.push(format!("the tree was\n{before}and is\n{now}"));
            }
            let again = (operation.act)(&case);
            match &again {
                Ok(gained) => gained.iter().for_each(|one| drop(lab.fixture.vfs.forget(*one, 1))),
                Err(errno) => wrong.push(format!("the second try fails with {errno:?}")),
            }
            again.is_ok()
        }
    };
    let last = lab.digest(&folder).replace(&folder, "");
    if finished && last != after {
        wrong.push(format!("the tree should be\n{after}and is\n{last}"));
    }
    case.release();
    drop(case);
    let left = lab.held();
    if left != held {
        wrong.push(format!("held {held:?} before and {left:?} after"));
    }
    wrong
}

fn try_all(mut lab: Lab) {
    let mut failures = Vec::new();
    let mut tried = 0;
    for operation in OPERATIONS {
        // A name with a shadow cannot be exchanged.
        if lab.pooled && operation.name == "exchange" {
            continue;
        }
        let (calls, after) = observe(&mut lab, operation);
        for (call, count) in &calls {
            for nth in 1..=*count {
                for (at, (text, errno)) in ERRNOS.into_iter().enumerate() {
                    if !all_cases() && (tried + at) % ERRNOS.len() != 0 {
                        continue;
                    }
                    let fault = Fault { call, nth, errno: text };
                    let wrong = try_one(&mut lab, operation, fault, errno, &after);
                    if !wrong.is_empty() {
                        let wrong = wrong.join("\n  ");
                        failures.push(format!("{}, {call} {nth} {text}: {wrong}", operation.name));
                    }
                }
                tried += 1;
            }
        }
        eprintln!("{}: {calls:?}", operation.name);
    }
    assert!(failures.is_empty(), "{} of {tried}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_call_that_fails_leaves_all_as_it_was() {
    try_all(Lab::plain());
}

#[test]
fn a_call_that_fails_on_a_member_of_a_pool_leaves_all_as_it_was() {
    try_all(Lab::pool());
}
