//! Crossings on the simulated disk. `World` is a machine with three branches and a ledger.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::error::Errno;
use crate::policy::{GateTerms, Verify};
use crate::storage::Kind;
use crate::storage::simulated::{DeviceOptions, Fault, Names, SimulatedDir, sum_of};
use crate::types::{Caller, Time, ViewPath};

mod commands;
mod crash;
mod crash_trees;
mod dead_undo;
mod doubt;
mod given_up;
mod journal;
mod lab;
mod length;
mod letters;
mod lossy;
mod lost;
mod model;
mod parts;
mod pass;
mod past;
mod plain;
mod proof;
mod put_back;
mod quirks;
mod real;
mod real_trees;
mod rearranging;
mod rearranging_past;
mod rests;
mod returning;
mod room;
pub(super) mod sabotage;
mod settling;
mod trees;
mod undoing;
mod unrecorded;
mod unsynced;

use sabotage::storage::Disk;

const AUTHOR: Caller = Caller { uid: 1000, gid: 1000, pid: 7 };
const UUIDS: [BranchUuid; 3] =
    [BranchUuid(ulid::Ulid(1)), BranchUuid(ulid::Ulid(2)), BranchUuid(ulid::Ulid(3))];
/// The third shares a pool with the first, or with the second, where a test says so.
const ROOTS: [&str; 3] = ["a", "b", "c"];

/// A machine that runs.
struct World {
    disk: Arc<Disk>,
    mover: Arc<Mover<Disk>>,
    roots: [SimulatedDir; 3],
}

impl Drop for World {
    fn drop(&mut self) {
        // The writer must end; that the power may be off is part of the tests.
        let _ = self.mover.ledger.close();
    }
}

/// Disks with empty branches: on a device each, or all on one.
fn new_disk(names: Names, same: bool) -> Disk {
    let disk = Disk::new(names);
    let state = disk.add_device(DeviceOptions::default());
    disk.create_dir(&state, OsStr::new("ledger")).unwrap();
    for _ in ROOTS {
        disk.add_device(DeviceOptions::default());
    }
    for (at, name) in ROOTS.iter().enumerate() {
        let root = disk.root(device(at, same)).unwrap();
        make_dirs(&disk, &root, &[name, &format!("{name}/.octroi"), &format!("{name}/sub")]);
        make_dirs(
            &disk,
            &root,
            &[&format!("{name}/.octroi/stage"), &format!("{name}/.octroi/hold")],
        );
    }
    disk.sync_all();
    disk
}

fn device(branch: usize, same: bool) -> usize {
    if same { 1 } else { 1 + branch }
}

fn make_dirs(disk: &Disk, root: &SimulatedDir, paths: &[&str]) {
    for path in paths {
        let path = Path::new(path);
        let parent = disk.open_dir(root, path.parent().unwrap()).unwrap();
        disk.create_dir(&parent, path.file_name().unwrap()).unwrap();
    }
}

/// Starts a daemon on the disks, without recovery; fails where the power does.
fn start(disk: Arc<Disk>, same: bool) -> Option<World> {
    let mut journal = Journal::default();
    // The daemon's first line is durable before anything crosses.
    journal.begin_long_ago();
    let state = disk.root(0)?;
    let ledger_dir = disk.open_dir(&state, Path::new("ledger")).ok()?;
    let replayed = Ledger::open(Arc::clone(&disk), ledger_dir, "lab", &mut |entry| {
        journal.apply(entry);
    });
    let (ledger, _) = replayed.ok()?;
    let mut branches = Vec::new();
    let mut roots = Vec::new();
    for (at, name) in ROOTS.iter().enumerate() {
        let open =
            |path: String| disk.open_dir(&disk.root(device(at, same))?, Path::new(&path)).ok();
        let opened = (|| {
            Some((
                open((*name).to_owned())?,
                open(format!("{name}/.octroi/stage"))?,
                open(format!("{name}/.octroi/hold"))?,
            ))
        })();
        let Some((root, stage, hold)) = opened else {
            let _ = ledger.close();
            return None;
        };
        roots.push(root.clone());
        branches.push(Some(MoverBranch {
            index: BranchIndex(at as u16),
            uuid: UUIDS[at],
            name: (*name).to_owned(),
            root,
            stage,
            hold,
            min_free: 0,
        }));
    }
    let roots = roots.try_into().ok()?;
    Some(World { mover: Mover::new(Arc::clone(&disk), ledger, branches, journal), disk, roots })
}

fn new_world(names: Names, same: bool) -> World {
    start(new_disk(names, same).shared(), same).unwrap()
}

impl World {
    fn dir(&self, branch: usize, path: &str) -> SimulatedDir {
        let parent = Path::new(path).parent().unwrap();
        self.disk.open_dir(&self.roots[branch], parent).unwrap()
    }

    /// Writes a file with awkward attributes, durable.
    fn put(&self, branch: usize, path: &str, content: &[u8]) {
        let dir = self.dir(branch, path);
        let name = Path::new(path).file_name().unwrap();
        let disk = &*self.disk;
        let file = disk.create_file(&dir, name).unwrap();
        // The first block stays a hole where the content is long enough.
        let data = if content.len() > 8192 { 4096 } else { 0 };
        disk.set_len(&file, content.len() as u64).unwrap();
        disk.write_at(&file, &content[data..], data as u64).unwrap();
        disk.set_owner(&dir, name, 1000, 1001).unwrap();
        disk.set_mode(&dir, name, 0o4751).unwrap();
        disk.set_xattr(&dir, name, OsStr::new("user.note"), b"kept").unwrap();
        disk.set_xattr(&dir, name, OsStr::new("security.capability"), b"cap").unwrap();
        let time = Time { seconds: -5, nanos: 123_456_789 };
        disk.set_times(&dir, name, time, Time { seconds: 1_234, nanos: 987_654_321 }).unwrap();
        self.disk.sync_all();
    }

    /// Makes a directory with awkward attributes; what goes into it comes before.
    fn dress_dir(&self, branch: usize, path: &str) {
        let dir = self.dir(branch, path);
        let name = Path::new(path).file_name().unwrap();
        let disk = &*self.disk;
        disk.set_owner(&dir, name, 1002, 1003).unwrap();
        disk.set_mode(&dir, name, 0o2551).unwrap();
        disk.set_xattr(&dir, name, OsStr::new("user.note"), b"folder").unwrap();
        let time = Time { seconds: 77, nanos: 1 };
        disk.set_times(&dir, name, time, Time { seconds: 99, nanos: 2 }).unwrap();
        disk.sync_all();
    }

    fn make_dirs(&self, branch: usize, paths: &[&str]) {
        make_dirs(&self.disk, &self.roots[branch], paths);
        self.disk.sync_all();
    }

    /// A second name for a file.
    fn link(&self, branch: usize, path: &str, new: &str) {
        let name = |path: &str| Path::new(path).file_name().unwrap().to_owned();
        let (from, to) = (self.dir(branch, path), self.dir(branch, new));
        self.disk.link(&from, &name(path), &to, &name(new)).unwrap();
        self.disk.sync_all();
    }

    fn special(&self, branch: usize, path: &str, kind: &Kind) {
        let name = Path::new(path).file_name().unwrap();
        self.disk.create_special(&self.dir(branch, path), name, kind).unwrap();
        self.disk.sync_all();
    }

    fn get(&self, branch: usize, path: &str) -> Option<Vec<u8>> {
        let dir = self.dir(branch, path);
        content(&self.disk, &dir, Path::new(path).file_name().unwrap())
    }

    fn name(&self, branch: usize, path: &str) -> Name<Disk> {
        Name {
            branch: BranchIndex(branch as u16),
            path: PathBuf::from(path),
            view: ViewPath::parse(&Path::new("/").join(ROOTS[branch]).join(path)).unwrap(),
            parent: self.dir(branch, path),
            name: Path::new(path).file_name().unwrap().to_owned(),
        }
    }

    fn request(&self, source: &str, target: &str) -> CrossingRequest<Disk> {
        CrossingRequest {
            caller: AUTHOR,
            exe: None,
            sources: vec![part(self.name(0, source), Verify::Readback)],
            target: self.name(1, target),
            target_shadows: Vec::new(),
            no_replace: false,
            admit: any(),
        }
    }

    fn cross(&self, source: &str, target: &str) -> Result<Crossed, CrossingError> {
        self.cross_as(self.request(source, target))
    }

    fn cross_as(&self, request: CrossingRequest<Disk>) -> Result<Crossed, CrossingError> {
        let prepared = self.mover.prepare(request)?;
        self.mover.commit(prepared)
    }

    fn undo(&self, txid: TxId) -> Result<Crossed, CrossingError> {
        let prepared = self.mover.prepare_undo(AUTHOR, None, false, txid, &any())?;
        self.mover.commit(prepared)
    }

    fn private(&self, branch: usize, area: &str) -> Vec<Vec<u8>> {
        let dir =
            self.disk.open_dir(&self.roots[branch], &Path::new(".octroi").join(area)).unwrap();
        let names = self.disk.list(&dir).unwrap();
        names.iter().map(|name| content(&self.disk, &dir, name).unwrap()).collect()
    }

    fn state(&self, txid: TxId) -> Option<TransactionState> {
        self.mover.with_journal(|journal| journal.get(txid).map(|found| found.state))
    }

    /// Stops the daemon cleanly and starts another.
    fn restart(self, same: bool) -> World {
        let disk = Arc::clone(&self.disk);
        drop(self);
        start(disk, same).unwrap()
    }
}

impl<S: Storage> Mover<S> {
    /// What those who look after the branches do about what is older than `keep`.
    fn purge(&self, now: jiff::Timestamp, keep: std::time::Duration) -> Purged {
        let mut purged = Purged::default();
        // An undo goes after what it gave back, wherever that is.
        for branch in self.online().chain(self.online()) {
            purged.add(self.purge_old(&branch, now, (keep, std::time::Duration::MAX)));
        }
        self.online().for_each(|branch| self.remove_going(&branch));
        purged
    }
}

/// A part behind a gate that lets everything through.
fn part<S: Storage>(name: Name<S>, verify: Verify) -> SourcePart<S> {
    let terms = GateTerms {
        types: Vec::new(),
        max_size: None,
        verify,
        lossy: Default::default(),
        checks: vec![],
    };
    SourcePart { name, gate: "submit".to_owned(), terms: Arc::new(terms) }
}

/// The content of a file, the text of a link, or what a directory and all below it look like.
fn content(disk: &Disk, dir: &SimulatedDir, name: &OsStr) -> Option<Vec<u8>> {
    let found = disk.stat(dir, name).unwrap()?;
    match found.kind {
        Kind::Symlink(text) => return Some(text.into_encoded_bytes()),
        Kind::File => {}
        _ => {
            let mut lines = Vec::new();
            describe(disk, dir, name, Path::new("."), &mut lines);
            return Some(lines.join("\n").into_bytes());
        }
    }
    let file = disk.open_read(dir, name).unwrap();
    let mut bytes = vec![0; found.identity.size as usize];
    assert_eq!(disk.read_at(&file, &mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

/// A line for a name and each below it: everything that a crossing must keep.
fn describe(disk: &Disk, dir: &SimulatedDir, name: &OsStr, path: &Path, lines: &mut Vec<String>) {
    let found = disk.stat(dir, name).unwrap().unwrap();
    let xattrs = disk.xattrs(dir, name).unwrap();
    let directory = found.kind == Kind::Directory;
    let bytes = (!directory).then(|| match found.kind {
        Kind::File => sum_of(&content(disk, dir, name).unwrap()).to_string(),
        _ => String::new(),
    });
    lines.push(format!(
        "{} {:?} {:o} {}:{} {} {} {:?} {xattrs:?} {bytes:?}",
        path.display(),
        found.kind,
        found.mode,
        found.uid,
        found.gid,
        found.atime,
        found.identity.mtime,
        (!directory).then_some(found.nlink),
    ));
    if directory {
        let inside = disk.open_dir(dir, Path::new(name)).unwrap();
        for name in disk.list(&inside).unwrap() {
            describe(disk, &inside, &name, &path.join(&name), lines);
        }
    }
}

/// A hole of one block, then data of a block and a bit.
fn new_content() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes.extend((0..1250_u32).flat_map(|number| number.to_be_bytes()));
    bytes
}

/// The policy lets everything below a directory pass.
fn any() -> Admit {
    Arc::new(|_| Ok(()))
}
