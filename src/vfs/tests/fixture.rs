//! A view over temporary branches, and what tests do with it.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::audit_dir::{AuditSource, TxState};
use crate::branch::{BranchError, BranchSpec, RenameFlags};
use crate::mover::{Journal, MoverBranch};
use crate::policy::{
    BranchFacts, Conditions, Gate, GateTerms, PathPatterns, PolicySource, Principal, Rule, Verify,
};
use crate::storage::real::RealDir;
use crate::types::{BranchIo, BranchMode, Caller, Operation, TxId};
use crate::vfs::*;

/// This process, as root: what capabilities it has is asked for.
pub(crate) static ROOT: LazyLock<Caller> =
    LazyLock::new(|| Caller { uid: 0, gid: 0, pid: std::process::id() });
pub(crate) const ROOT_NUMBER: u64 = 1;
pub(crate) const WRITE: u32 = libc::O_WRONLY as u32;
pub(crate) const READ: u32 = libc::O_RDONLY as u32;

/// Nothing to show in `.audit` but the ledger.
pub(crate) struct NoState;

impl AuditSource for NoState {
    fn branches(&self) -> Vec<String> {
        Vec::new()
    }
    fn branch(&self, _name: &str) -> Option<serde_json::Value> {
        None
    }
    fn transactions(&self, _state: TxState) -> Vec<TxId> {
        Vec::new()
    }
    fn is_in(&self, _state: TxState, _txid: TxId) -> bool {
        false
    }
    fn transaction(&self, _state: TxState, _txid: TxId) -> Option<serde_json::Value> {
        None
    }
    fn stats(&self) -> String {
        String::new()
    }
}

/// A view of three branches: `/inbox` (rw), `/archive` (gates-only), `/fixed` (ro).
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) vfs: Arc<Vfs>,
}

pub(crate) fn rule(name: &str, operations: &[Operation], path: &str) -> Rule {
    Rule {
        name: name.into(),
        denies: true,
        operations: operations.to_vec(),
        who: vec![Principal::Anyone].into(),
        paths: PathPatterns::new(vec![path.to_owned()]).expect("a glob"),
        conditions: Conditions::default(),
        observe: false,
        reason: Some("not here".into()),
    }
}

pub(crate) fn gate(name: &str, from: u16, to: u16) -> Gate {
    Gate {
        name: name.into(),
        from: Arc::new([BranchIndex(from)]),
        to: Arc::new([BranchIndex(to)]),
        who: vec![Principal::Anyone].into(),
        paths: PathPatterns::new(vec!["**/*.csv".to_owned()]).expect("a glob"),
        terms: Arc::new(GateTerms {
            types: vec!["text/plain".to_owned()],
            max_size: Some(1 << 20),
            verify: Verify::Readback,
            lossy: Default::default(),
            checks: Vec::new(),
        }),
    }
}

impl Fixture {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let modes = [
            ("inbox", BranchMode::Rw),
            ("archive", BranchMode::GatesOnly),
            ("fixed", BranchMode::Ro),
        ];
        let gates = vec![gate("submit", 0, 1), gate("recall", 1, 0)];
        Self::build(&modes, vec![], rules, gates)
    }

    /// A branch goes offline.
    pub(crate) fn go_offline(&self, at: usize) {
        let branch = Arc::clone(&self.vfs.branches[at]);
        let (name, path) = (branch.name().to_owned(), branch.spec().path.clone());
        branch.go_offline(&BranchError::Elsewhere { name, path });
        self.vfs.mover.branch_left(branch.spec().index);
        self.vfs.tend();
    }

    /// Branches in order, of which those of a pool appear at its place.
    pub(crate) fn build(
        modes: &[(&str, BranchMode)],
        pools: Vec<Pool>,
        rules: Vec<Rule>,
        gates: Vec<Gate>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), closed).expect("chmod");
        let mut branches = Vec::new();
        let mut facts = Vec::new();
        let mut ends = Vec::new();
        for (index, (name, mode)) in modes.iter().copied().enumerate() {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("mkdir");
            let index = BranchIndex(index as u16);
            let spec = BranchSpec {
                index,
                name: name.to_owned(),
                path,
                mode,
                io: BranchIo::Checked,
                min_free: 0,
                exposed: false,
            };
            let branch = Branch::open(spec, None, false).expect("a branch").branch;
            let pool = pools.iter().find(|pool| pool.members.contains(&index));
            let alone = || ViewPath::root().join(OsStr::new(name));
            let at = pool.map_or_else(alone, |pool| pool.at.clone());
            let pool = pool.map(|pool| pool.name.as_str().into());
            facts.push(BranchFacts { name: name.into(), pool, at: at.clone(), mode });
            ends.push(end(&branch));
            branches.push((at, Arc::new(branch)));
        }
        let policy = Policy::new(
            PolicySource { within_allowed: true, observe: false, rules, gates, branches: facts },
            1,
        )
        .expect("patterns that compile");
        let state = dir.path().join("state");
        std::fs::create_dir(&state).expect("mkdir");
        let storage = Arc::new(RealStorage);
        let ledger_dir = RealDir::open(&state).expect("the ledger's folder");
        let (ledger, _) = Ledger::open(Arc::clone(&storage), ledger_dir, "test", &mut |_| {})
            .expect("a new ledger");
        let mover = Mover::new(storage, Arc::clone(&ledger), ends, Journal::default());
        let parts = Parts {
            name: "test".into(),
            branches,
            pools,
            policy,
            ledger,
            mover,
            record: RecordLevel::Everything,
            readers: Vec::new(),
            owner: 0,
            audit: AuditDir::new(state, String::new(), Box::new(NoState)),
            stats: Arc::default(),
            locked: Vec::new(),
        };
        Self { dir, vfs: Vfs::new(parts).0 }
    }

    pub(crate) fn backing(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn number(&self, path: &str) -> u64 {
        path.split('/').fold(ROOT_NUMBER, |parent, name| {
            self.vfs.lookup(*ROOT, parent, OsStr::new(name)).expect(path).number
        })
    }

    pub(crate) fn put(&self, folder: &str, name: &str, text: &str) -> u64 {
        let parent = self.number(folder);
        let (made, opened) =
            self.vfs.create(*ROOT, parent, OsStr::new(name), 0o644, 0o022, WRITE).expect("created");
        self.vfs.write(*ROOT, opened.handle, Some(0), text.as_bytes(), false).expect("written");
        self.vfs.release(opened.handle);
        made.number
    }

    pub(crate) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), Errno> {
        let from = (self.number(from.0), OsStr::new(from.1));
        let to = (self.number(to.0), OsStr::new(to.1));
        // As the kernel does, which asks for no name that it has not looked up.
        let _ = self.vfs.lookup(*ROOT, from.0, from.1);
        self.vfs.rename(*ROOT, from, to, RenameFlags::empty())
    }

    /// Prepares to take back the last crossing of root, as the client of `octroi undo` does.
    pub(crate) fn prepare_undo(&self) -> Result<PreparedMove, MoveError> {
        let plan = self.vfs.plan_undo(*ROOT, None, None)?;
        self.prepare_undo_as(*ROOT, &plan)
    }

    pub(crate) fn prepare_undo_as(
        &self,
        caller: Caller,
        plan: &UndoPlan,
    ) -> Result<PreparedMove, MoveError> {
        let end = |path: &ViewPath| {
            let folder = path.parent().expect("below the root");
            let folder = folder.as_path().strip_prefix("/").expect("absolute");
            let name = path.name().expect("a name").to_owned();
            (self.number(folder.to_str().expect("text")), name)
        };
        let request = MoveRequest {
            caller,
            groups: Vec::new(),
            source: end(&plan.source),
            target: end(&plan.target),
            no_replace: true,
            undoes: Some(plan.txid),
        };
        match self.vfs.prepare_move(&request, &|_| ())? {
            Readied::Crossing(prepared) => Ok(prepared),
            Readied::Within => panic!("it is a crossing"),
        }
    }

    /// What nobody came for in this time is rolled back.
    pub(crate) fn expire(&self, keep: Duration) {
        let _ = self.vfs.expire_prepared(keep).recv();
    }

    /// Waits until no transaction is under way.
    pub(crate) fn wait_for_ends(&self) {
        while !self.vfs.active_crossings().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn read(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let opened = self.vfs.open(*ROOT, number, READ)?;
        let bytes = self.vfs.read(opened.handle, 0, 4096);
        self.vfs.release(opened.handle);
        bytes
    }
}

impl Fixture {
    pub(crate) fn plant(&self, path: &str, text: &str) {
        let path = self.backing(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        std::fs::write(path, text).expect("planted");
    }

    pub(crate) fn folder(&self, path: &str) {
        std::fs::create_dir_all(self.backing(path)).expect("mkdir");
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.backing(path).symlink_metadata().is_ok()
    }

    /// The names in a directory of the view, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let handle = self.vfs.opendir(*ROOT, self.number(path)).expect("opened");
        let mut names = Vec::new();
        let listed = self.vfs.readdir(handle, 0, &mut |entry| {
            names.push(entry.name.to_string_lossy().into_owned());
            false
        });
        self.vfs.releasedir(handle);
        listed.expect("listed");
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(self.number(path)).expect("read")).expect("UTF-8")
    }

    pub(crate) fn unlink(&self, folder: &str, name: &str) -> Result<(), Errno> {
        self.vfs.unlink(*ROOT, self.number(folder), OsStr::new(name))
    }

    pub(crate) fn rmdir(&self, folder: &str, name: &str) -> Result<(), Errno> {
        self.vfs.rmdir(*ROOT, self.number(folder), OsStr::new(name))
    }

    pub(crate) fn mkdir(&self, folder: &str, name: &str) -> Result<u64, Errno> {
        let parent = self.number(folder);
        Ok(self.vfs.mkdir(*ROOT, parent, OsStr::new(name), 0o755, 0)?.number)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.vfs.shut_down();
        self.vfs.ledger.close().expect("the ledger closes");
    }
}

pub(crate) fn end(branch: &Branch) -> Option<MoverBranch<RealStorage>> {
    Some(MoverBranch {
        index: branch.spec().index,
        uuid: branch.uuid()?,
        name: branch.name().to_owned(),
        root: RealDir::from_fd(branch.root().ok()?.as_fd()).ok()?,
        stage: RealDir::from_fd(branch.stage().ok()?.as_fd()).ok()?,
        hold: RealDir::from_fd(branch.hold().ok()?.as_fd()).ok()?,
        min_free: 0,
    })
}
