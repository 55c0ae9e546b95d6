//! A branch comes and goes while the view is mounted: disks fail, are unmounted, and return.
//!
//! While it is offline nothing of it is held open, so that its disk can be unmounted. It comes back by
//! the same checks as at mount, and as nothing but what it was: the directory with its id or, for a
//! read-only branch that has none, the same root directory of the same file system.
//!
//! One thread at a time probes a branch and changes its state; everybody else asks.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::error::Errno;
use crate::types::{BranchMode, BranchUuid, Handle};

use super::adopt::{BranchError, open_online};
use super::{Branch, BranchSpec, Online, SpaceStat};

/// A probe that takes longer is reported.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How a branch does, from memory: asking never waits for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Well,
    /// It has not answered a probe yet that was begun then.
    NotAnswering {
        /// When.
        since: Timestamp,
    },
    /// Its file system takes no changes any more: somebody mounted it anew, or it met an error.
    ReadOnly {
        /// Since when.
        since: Timestamp,
    },
    /// It is not there.
    Offline {
        /// Why, in one line.
        why: String,
        /// Since when.
        since: Timestamp,
    },
}

impl Health {
    /// What is wrong, why, and since when; nothing of a branch that serves.
    pub fn fault(self) -> (Option<&'static str>, Option<String>, Option<Timestamp>) {
        match self {
            Self::Well => (None, None, None),
            Self::NotAnswering { since } => (Some("not answering"), None, Some(since)),
            Self::ReadOnly { since } => (Some("read-only"), None, Some(since)),
            Self::Offline { why, since } => (Some("offline"), Some(why), Some(since)),
        }
    }
}

/// What is known of a branch beside what is open.
#[derive(Debug)]
pub(super) struct Condition {
    mark: Mark,
    /// Why it is offline, and since when.
    absence: Option<(String, Timestamp)>,
    /// When the running probe was begun.
    probing: Option<(Instant, Timestamp)>,
    /// Space as of the last probe.
    space: Option<SpaceStat>,
    /// Since when its file system takes no changes, though the branch may be changed.
    read_only: Option<Timestamp>,
}

impl Condition {
    fn of(mark: Mark) -> Self {
        Self { mark, absence: None, probing: None, space: None, read_only: None }
    }

    fn note(&mut self, space: SpaceStat, read_only: bool) {
        self.space = Some(space);
        self.read_only = read_only.then(|| self.read_only.unwrap_or_else(Timestamp::now));
    }
}

/// By what a branch is known again.
#[derive(Debug, Clone)]
enum Mark {
    /// Its id.
    Id(BranchUuid),
    /// Its root, on its file system.
    Root { handle: Handle, file_system: u64 },
}

/// A branch that can come online again, opened and found to be the right one.
#[derive(Debug)]
pub struct Returning(pub(super) Online);

impl Returning {
    /// Its root, stage and hold; none for a read-only branch.
    pub fn folders(&self) -> Option<[BorrowedFd<'_>; 3]> {
        let private = self.0.private.as_ref()?;
        Some([self.0.root.as_fd(), private.stage.as_fd(), private.hold.as_fd()])
    }
}

impl Branch {
    pub(super) fn online_from_start(spec: BranchSpec, online: Online) -> Self {
        let mark = match online.uuid {
            Some(uuid) => Mark::Id(uuid),
            None => {
                Mark::Root { handle: online.root_handle.clone(), file_system: online.file_system }
            }
        };
        let mut condition = Condition::of(mark);
        if let Ok(space) = super::space::space_of(&online.root) {
            condition.note(space, space.read_only && spec.mode != BranchMode::Ro);
        }
        Self::new(spec, Some(Arc::new(online)), condition)
    }

    /// A branch that is known by its id and is not there.
    pub fn offline(spec: BranchSpec, known: BranchUuid, why: &BranchError) -> Self {
        let absence = Some((one_line(why), Timestamp::now()));
        let condition = Condition { absence, ..Condition::of(Mark::Id(known)) };
        Self::new(spec, None, condition)
    }

    fn new(spec: BranchSpec, online: Option<Arc<Online>>, condition: Condition) -> Self {
        Self {
            name: spec.name.as_str().into(),
            spec,
            online: ArcSwapOption::new(online),
            epoch: AtomicU64::new(0),
            condition: Mutex::new(condition),
            mount_warned: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            removed: Mutex::new(None),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The branch's id, also while it is offline; none for a read-only branch that was never adopted.
    pub fn uuid(&self) -> Option<BranchUuid> {
        match self.condition.lock().mark {
            Mark::Id(uuid) => Some(uuid),
            Mark::Root { .. } => None,
        }
    }

    /// Counts the changes between online and offline. Whoever sees a new count sees the new state.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// How it does.
    pub fn health(&self) -> Health {
        let condition = self.condition.lock();
        if let Some((why, since)) = &condition.absence {
            return Health::Offline { why: why.clone(), since: *since };
        }
        match (condition.probing, condition.read_only) {
            (Some((begun, since)), _) if begun.elapsed() > ANSWER_MAX => {
                Health::NotAnswering { since }
            }
            (_, Some(since)) => Health::ReadOnly { since },
            _ => Health::Well,
        }
    }

    /// Whether its file system took no changes at the last probe, though the branch may be changed.
    pub fn is_read_only(&self) -> bool {
        self.condition.lock().read_only.is_some()
    }

    /// Has the next probe find out why a change was refused with EROFS.
    pub fn was_refused(&self) {
        self.refused.store(true, Ordering::Release);
    }

    /// A file system that was mounted read-only says so. ext4 that has met an error (errors=remount-ro)
    /// need not: it only refuses, and of what can be asked without changing anything fsync(2) alone.
    fn takes_no_changes(&self, online: &Online, space: &SpaceStat) -> bool {
        let doubtful = self.refused.swap(false, Ordering::AcqRel) || self.is_read_only();
        if self.spec.mode == BranchMode::Ro || space.read_only {
            return space.read_only && self.spec.mode != BranchMode::Ro;
        }
        doubtful && rustix::fs::fsync(&online.root) == Err(Errno::ROFS)
    }

    /// Space of its file system as of the last probe; none while it is offline.
    pub fn last_space(&self) -> Option<SpaceStat> {
        self.condition.lock().space
    }

    /// Whether the branch is still there and answers. Tells nothing of one that is offline. May hang as
    /// long as the file system does.
    pub fn probe(&self) -> Result<(), BranchError> {
        let Some(online) = self.online.load_full() else { return Ok(()) };
        self.condition.lock().probing = Some((Instant::now(), Timestamp::now()));
        let probed = online.probe(&self.spec);
        let probed = probed.map(|space| (space, self.takes_no_changes(&online, &space)));
        let mut condition = self.condition.lock();
        condition.probing = None;
        probed.map(|(space, read_only)| condition.note(space, read_only))
    }

    /// Takes the branch offline: from now on it answers EIO.
    pub fn go_offline(&self, why: &BranchError) {
        let mut condition = self.condition.lock();
        condition.absence = Some((one_line(why), Timestamp::now()));
        (condition.space, condition.read_only) = (None, None);
        self.online.store(None);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Looks whether an offline branch is back. It is not online before [`Branch::come_online`]. The
    /// reason why it cannot be is the one shown from now on.
    pub fn look_again(&self) -> Result<Returning, BranchError> {
        let mark = self.condition.lock().mark.clone();
        let opened = self.open_marked(&mark);
        if let (Err(error), Some((why, _))) = (&opened, &mut self.condition.lock().absence) {
            *why = one_line(error);
        }
        opened
    }

    /// The branch is there, and stays offline; shows why.
    pub fn stay_offline(&self, reason: &str) {
        if let Some((why, _)) = &mut self.condition.lock().absence {
            reason.clone_into(why);
        }
    }

    fn open_marked(&self, mark: &Mark) -> Result<Returning, BranchError> {
        let known = match mark {
            Mark::Id(uuid) => Some(*uuid),
            Mark::Root { .. } => None,
        };
        let (online, _) = open_online(&self.spec, known, false)?;
        match mark {
            Mark::Root { handle, file_system }
                if (handle, file_system) != (&online.root_handle, &online.file_system) =>
            {
                Err(BranchError::Elsewhere {
                    name: self.spec.name.clone(),
                    path: self.spec.path.clone(),
                })
            }
            _ => Ok(Returning(online)),
        }
    }

    /// Brings the branch online again.
    pub fn come_online(&self, returning: Returning) {
        let mut condition = self.condition.lock();
        condition.absence = None;
        if let Ok(space) = super::space::space_of(&returning.0.root) {
            condition.note(space, space.read_only && self.spec.mode != BranchMode::Ro);
        }
        self.online.store(Some(Arc::new(returning.0)));
        self.epoch.fetch_add(1, Ordering::Release);
    }
}

/// The reason without its hint.
fn one_line(error: &BranchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::Adoption;
    use crate::types::{BranchIndex, BranchIo, BranchMode};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A branch in a temporary folder that only its owner can enter.
    struct Fixture {
        outside: tempfile::TempDir,
        root: PathBuf,
        branch: Branch,
    }

    impl Fixture {
        fn new() -> Self {
            let outside = tempfile::tempdir().expect("a temporary directory");
            let closed = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(outside.path(), closed).expect("chmod");
            let root = outside.path().join("branch");
            std::fs::create_dir(&root).expect("mkdir");
            let spec = BranchSpec {
                index: BranchIndex(0),
                name: "inbox".into(),
                path: root.clone(),
                mode: BranchMode::Rw,
                io: BranchIo::Checked,
                min_free: 0,
                exposed: false,
            };
            let opened = Branch::open(spec, None, false).expect("a branch");
            assert!(matches!(opened.adoption, Adoption::New(_)));
            Self { outside, root, branch: opened.branch }
        }
    }

    fn elsewhere(fixture: &Fixture) -> BranchError {
        let spec = fixture.branch.spec();
        BranchError::Elsewhere { name: spec.name.clone(), path: spec.path.clone() }
    }

    /// What a probe says, in short.
    #[track_caller]
    fn refused_by_probe(fixture: &Fixture) -> BranchError {
        let first = fixture.branch.probe().expect_err("it is not what was opened");
        let again = fixture.branch.look_again().expect_err("nor can it come back");
        assert!(fixture.branch.is_online(), "probing alone changes nothing: {again}");
        first
    }

    #[test]
    fn a_branch_that_is_there_passes_its_probe() {
        let fixture = Fixture::new();
        fixture.branch.probe().expect("it is there");
        assert_eq!(fixture.branch.health(), Health::Well);
        assert!(fixture.branch.last_space().is_some_and(|space| space.blocks > 0));
    }

    #[test]
    fn a_branch_comes_back_as_what_it_was() {
        let fixture = Fixture::new();
        let (branch, id) = (&fixture.branch, fixture.branch.uuid());
        let moved = fixture.outside.path().join("moved");
        std::fs::rename(&fixture.root, &moved).expect("rename");
        assert!(refused_by_probe(&fixture).is_missing());
        branch.go_offline(&elsewhere(&fixture));
        assert_eq!((branch.is_online(), branch.epoch(), branch.uuid()), (false, 1, id));
        assert!(branch.look_again().is_err_and(|error| error.is_missing()));
        let Health::Offline { why, .. } = branch.health() else { panic!("{:?}", branch.health()) };
        assert!(why.contains("No such file"), "{why}");

        std::fs::create_dir(&fixture.root).expect("mkdir");
        let empty = branch.look_again().expect_err("an empty directory is not the branch");
        assert!(matches!(empty, BranchError::Foreign { .. }), "{empty}");
        assert!(!fixture.root.join(".octroi").exists(), "it was written to");
        std::fs::remove_dir(&fixture.root).expect("rmdir");

        std::fs::rename(&moved, &fixture.root).expect("rename");
        let returning = branch.look_again().expect("it is back");
        assert!(!branch.is_online(), "looking alone changes nothing");
        branch.come_online(returning);
        assert_eq!((branch.is_online(), branch.epoch(), branch.uuid()), (true, 2, id));
        branch.probe().expect("it is there");
        let root = branch.root().expect("online");
        assert!(branch.read_dir(root.as_fd(), |_| Ok(())).is_ok());
    }

    #[test]
    fn a_path_that_leads_elsewhere_fails_the_probe() {
        let fixture = Fixture::new();
        std::fs::rename(&fixture.root, fixture.outside.path().join("moved")).expect("rename");
        std::fs::create_dir(&fixture.root).expect("mkdir");
        let error = refused_by_probe(&fixture);
        assert!(matches!(error, BranchError::Elsewhere { .. }), "{error}");
        std::fs::remove_dir(&fixture.root).expect("rmdir");
        symlink(fixture.outside.path().join("moved"), &fixture.root).expect("symlink");
        let error = refused_by_probe(&fixture);
        assert!(matches!(error, BranchError::Elsewhere { .. }), "{error}");
    }

    #[test]
    fn a_branch_without_its_id_fails_the_probe() {
        let fixture = Fixture::new();
        std::fs::write(fixture.root.join(".octroi/id"), ulid::Ulid::generate().to_string())
            .expect("write");
        let error = fixture.branch.probe().expect_err("it is another's");
        assert!(matches!(error, BranchError::Private { .. }), "{error}");
        std::fs::remove_file(fixture.root.join(".octroi/id")).expect("unlink");
        assert!(fixture.branch.probe().is_err_and(|error| error.is_missing()));
        fixture.branch.go_offline(&elsewhere(&fixture));
        let error = fixture.branch.look_again().expect_err("it was known by its id");
        assert!(matches!(error, BranchError::Foreign { .. }), "{error}");
    }

    #[test]
    fn a_read_only_branch_without_an_id_comes_back_by_its_root() {
        let fixture = Fixture::new();
        let path = fixture.root.join("plain");
        std::fs::create_dir(&path).expect("mkdir");
        let spec = BranchSpec { path, mode: BranchMode::Ro, ..fixture.branch.spec().clone() };
        let branch = Branch::open(spec.clone(), None, false).expect("it needs no id").branch;
        branch.probe().expect("it is there");
        branch.go_offline(&elsewhere(&fixture));
        std::fs::rename(&spec.path, fixture.root.join("kept")).expect("rename");
        std::fs::create_dir(&spec.path).expect("mkdir");
        let error = branch.look_again().expect_err("another directory");
        assert!(matches!(error, BranchError::Elsewhere { .. }), "{error}");
        std::fs::remove_dir(&spec.path).expect("rmdir");
        std::fs::rename(fixture.root.join("kept"), &spec.path).expect("rename");
        branch.come_online(branch.look_again().expect("the same root"));
        assert!(branch.is_online());
    }
}
