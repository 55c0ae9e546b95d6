//! Crossings on the file systems of this machine: what the simulated disk cannot promise.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use super::*;
use crate::storage::real::{RealDir, RealStorage};

/// Two branches, the second in `target`, and a ledger.
pub(super) struct RealWorld {
    folders: Arc<[tempfile::TempDir; 3]>,
    pub(super) mover: Arc<Mover<RealStorage>>,
}

impl Drop for RealWorld {
    fn drop(&mut self) {
        let _ = self.mover.ledger.close();
    }
}

pub(super) fn real_world(target: Option<&Path>) -> RealWorld {
    let target = match target {
        Some(target) => tempfile::tempdir_in(target).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let folders = [tempfile::tempdir().unwrap(), target, tempfile::tempdir().unwrap()];
    for folder in &folders[..2] {
        fs::create_dir_all(folder.path().join(".octroi/stage")).unwrap();
        fs::create_dir_all(folder.path().join(".octroi/hold")).unwrap();
    }
    start_real(Arc::new(folders))
}

fn start_real(folders: Arc<[tempfile::TempDir; 3]>) -> RealWorld {
    let branches = [0, 1].map(|at: usize| {
        let path = folders[at].path();
        let open = |below: &str| RealDir::open(&path.join(below)).unwrap();
        Some(MoverBranch {
            index: BranchIndex(at as u16),
            uuid: UUIDS[at],
            name: ROOTS[at].to_owned(),
            root: open(""),
            stage: open(".octroi/stage"),
            hold: open(".octroi/hold"),
            min_free: 0,
        })
    });
    let storage = Arc::new(RealStorage);
    let ledger_dir = RealDir::open(folders[2].path()).unwrap();
    let mut journal = Journal::default();
    journal.begin_long_ago();
    let (ledger, _) = Ledger::open(Arc::clone(&storage), ledger_dir, "lab", &mut |entry| {
        journal.apply(entry);
    })
    .unwrap();
    let mover = Mover::new(storage, ledger, branches.into(), journal);
    RealWorld { folders, mover }
}

impl RealWorld {
    /// Stops the daemon cleanly and starts another.
    pub(super) fn restart(self) -> Self {
        let folders = Arc::clone(&self.folders);
        drop(self);
        start_real(folders)
    }

    pub(super) fn path(&self, branch: usize) -> PathBuf {
        self.path_of(branch, "f")
    }

    pub(super) fn path_of(&self, branch: usize, name: &str) -> PathBuf {
        self.folders[branch].path().join(name)
    }

    pub(super) fn name(&self, branch: usize) -> Name<RealStorage> {
        self.name_of(branch, "f")
    }

    fn name_of(&self, branch: usize, name: &str) -> Name<RealStorage> {
        Name {
            branch: BranchIndex(branch as u16),
            path: PathBuf::from(name),
            view: ViewPath::parse(&Path::new("/").join(ROOTS[branch]).join(name)).unwrap(),
            parent: RealDir::open(self.folders[branch].path()).unwrap(),
            name: name.into(),
        }
    }

    pub(super) fn request(&self, verify: Verify) -> CrossingRequest<RealStorage> {
        self.request_of("f", verify)
    }

    pub(super) fn request_of(&self, name: &str, verify: Verify) -> CrossingRequest<RealStorage> {
        CrossingRequest {
            caller: AUTHOR,
            exe: None,
            sources: vec![part(self.name_of(0, name), verify)],
            target: self.name_of(1, name),
            target_shadows: Vec::new(),
            no_replace: false,
            admit: Arc::new(|_| Ok(())),
        }
    }

    fn xattrs(&self, branch: usize) -> crate::storage::Xattrs {
        let name = self.name(branch);
        RealStorage.xattrs(&name.parent, &name.name).unwrap()
    }
}

/// An access ACL that gives user 4321 reading (linux/posix_acl_xattr.h: version 2, then tag,
/// permissions and id of each entry).
fn acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, NOBODY), (2, 4, 4321), (4, 5, NOBODY), (0x10, 5, NOBODY), (0x20, 1, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const HOLE: u64 = 1 << 20;

/// A file with a hole of 1 MiB, another owner where we may, set-user-id, an ACL and odd times.
fn make_source(world: &RealWorld) {
    let path = world.path(0);
    let file = File::create(&path).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(&[0xA5; 300_001], HOLE).unwrap();
    file.set_len(HOLE + 5_000_000).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let name = world.name(0);
    let set = |key: &str, value: &[u8]| {
        RealStorage.set_xattr(&name.parent, &name.name, OsStr::new(key), value).unwrap();
    };
    set("user.note", &[0, 1, 2, 255]);
    set("system.posix_acl_access", &acl());
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::new(5, 123_456_789);
    let later = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 987_654_321);
    file.set_times(FileTimes::new().set_accessed(before_1970).set_modified(later)).unwrap();
}

fn check_fidelity(target: Option<&Path>, verify: Verify) {
    let world = real_world(target);
    make_source(&world);
    fs::write(world.path(1), "old").unwrap();
    // Reading the source for comparison would change its time of last read.
    let before = fs::metadata(world.path(0)).unwrap();
    let xattrs = world.xattrs(0);
    let prepared = world.mover.prepare(world.request(verify)).unwrap();
    let crossed = world.mover.commit(prepared).unwrap();
    assert!(crossed.confirmed);
    assert!(!world.path(0).exists());

    let after = fs::metadata(world.path(1)).unwrap();
    assert_eq!(
        (after.uid(), after.gid(), after.mode()),
        (before.uid(), before.gid(), before.mode())
    );
    assert_eq!((after.mtime(), after.mtime_nsec()), (1_700_000_000, 987_654_321));
    assert_eq!((after.atime(), after.atime_nsec()), (before.atime(), before.atime_nsec()));
    assert_eq!(world.xattrs(1), xattrs);
    assert!(after.blocks() * 512 < 1 << 20, "the holes are filled: {} blocks", after.blocks());
    let mut wanted = vec![0; HOLE as usize + 5_000_000];
    wanted[..4].copy_from_slice(b"head");
    wanted[HOLE as usize..][..300_001].fill(0xA5);
    assert!(fs::read(world.path(1)).unwrap() == wanted, "the content differs");

    let undo = world.mover.prepare_undo(AUTHOR, None, false, crossed.txid, &any()).unwrap();
    world.mover.commit(undo).unwrap();
    assert_eq!(fs::read(world.path(1)).unwrap(), b"old");
    assert!(fs::read(world.path(0)).unwrap() == wanted, "the content differs after the undo");
    assert_eq!(world.xattrs(0), xattrs);
}

/// tmpfs is another file system than that of temporary folders on most machines; where it is not
/// this repeats the test on one.
pub(super) const TMPFS: &str = "/dev/shm";

#[test]
fn nothing_is_lost_between_two_file_systems() {
    check_fidelity(Some(Path::new(TMPFS)), Verify::Readback);
    check_fidelity(Some(Path::new(TMPFS)), Verify::Stream);
}

#[test]
fn nothing_is_lost_on_one_file_system() {
    check_fidelity(None, Verify::Readback);
}

#[test]
fn a_file_that_is_open_for_writing_does_not_cross() {
    let world = real_world(Some(Path::new(TMPFS)));
    make_source(&world);
    let writer = File::options().write(true).open(world.path(0)).unwrap();
    let error = world.mover.prepare(world.request(Verify::Stream)).err().unwrap();
    assert_eq!(error, CrossingError::SourceBusy);
    drop(writer);
    let prepared = world.mover.prepare(world.request(Verify::Stream)).unwrap();
    world.mover.commit(prepared).unwrap();
}
