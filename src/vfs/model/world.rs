//! A view over real temporary branches, and the model of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::collections::BTreeMap;

use crate::audit_dir::AuditDir;
use crate::branch::{Branch, BranchSpec};
use crate::ledger::Ledger;
use crate::mover::{Journal, Mover};
use crate::policy::{
    BranchFacts, Gate, GateTerms, PathPatterns, Policy, PolicySource, Principal, Verify,
};
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchIndex, BranchIo, BranchMode, Placement, ViewPath};
use crate::view::Pool;

use super::super::tests::{NoState, end};
use super::super::{Parts, RecordLevel, Vfs};
use super::plant::plant;
use super::tree::{Attr, Body, Directory, Domain, Id, Model, ModelGate, Store};

/// A domain to build: where it appears, its mode, where something new goes if it is a pool, and for
/// each store whether it lies on the memory file system or on that of temporary files. Crossings between
/// two of one file system are renames, others are copies.
struct DomainPlan {
    at: &'static str,
    mode: BranchMode,
    place: Option<Placement>,
    stores: &'static [Disk],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Memory,
    Temporary,
}

const fn branch(at: &'static str, mode: BranchMode, stores: &'static [Disk; 1]) -> DomainPlan {
    DomainPlan { at, mode, place: None, stores }
}

const fn pool(
    at: &'static str,
    mode: BranchMode,
    place: Placement,
    stores: &'static [Disk],
) -> DomainPlan {
    DomainPlan { at, mode, place: Some(place), stores }
}

const MEMORY: Disk = Disk::Memory;
const OTHER: Disk = Disk::Temporary;

const LAYOUTS: [[DomainPlan; 4]; 4] = [
    [
        branch("/a", BranchMode::Rw, &[MEMORY]),
        branch("/b", BranchMode::Rw, &[OTHER]),
        branch("/d", BranchMode::GatesOnly, &[MEMORY]),
        branch("/r", BranchMode::Ro, &[MEMORY]),
    ],
    [
        pool("/a", BranchMode::Rw, Placement::First, &[MEMORY, MEMORY, MEMORY]),
        branch("/b", BranchMode::Rw, &[MEMORY]),
        pool("/d", BranchMode::GatesOnly, Placement::MostFree, &[MEMORY, MEMORY]),
        pool("/r", BranchMode::Ro, Placement::First, &[MEMORY, MEMORY]),
    ],
    [
        branch("/", BranchMode::Rw, &[MEMORY]),
        branch("/b", BranchMode::Rw, &[MEMORY]),
        branch("/d/a", BranchMode::GatesOnly, &[OTHER]),
        branch("/r", BranchMode::Ro, &[MEMORY]),
    ],
    [
        pool("/", BranchMode::Rw, Placement::MostFree, &[MEMORY, OTHER, MEMORY]),
        pool("/b", BranchMode::Rw, Placement::SameDirectory, &[MEMORY, MEMORY]),
        branch("/d/a", BranchMode::GatesOnly, &[MEMORY]),
        branch("/r", BranchMode::Ro, &[MEMORY]),
    ],
];

/// How many layouts there are to choose from.
pub(super) const LAYOUT_COUNT: u64 = LAYOUTS.len() as u64;

fn gates() -> Vec<ModelGate> {
    let all = |from, to| ModelGate { from, to, suffix: "", text_only: false, max_size: None };
    let strict =
        |from| ModelGate { suffix: ".c", text_only: true, max_size: Some(2000), ..all(from, 2) };
    vec![all(0, 1), all(1, 0), strict(0), strict(1), all(2, 0)]
}

/// The view, its branches and the model.
pub(super) struct World {
    pub vfs: Arc<Vfs>,
    pub model: Model,
    /// The directories of the stores.
    pub backing: Vec<PathBuf>,
    _folders: Vec<tempfile::TempDir>,
}

impl World {
    pub(super) fn new(layout: u64) -> Self {
        let plans = &LAYOUTS[(layout % LAYOUT_COUNT) as usize];
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let memory = memory.expect("a folder in memory");
        let mut model = Model::default();
        model.root = model.add(None, Body::Directory(Directory::default()), BTreeMap::new());
        model.object_mut(model.root).fixed = true;
        model.gates = gates();
        let mut backing = Vec::new();
        let (mut branches, mut pools) = (Vec::new(), Vec::new());
        let (mut facts, mut ends) = (Vec::new(), Vec::new());
        for (at_domain, plan) in plans.iter().enumerate() {
            let at = ViewPath::parse(Path::new(plan.at)).expect("a path");
            let stores = plan.stores.iter().map(|disk| {
                let folder = if *disk == Disk::Memory { &memory } else { &temporary };
                let store = backing.len();
                let path = folder.path().join(format!("store{store}"));
                std::fs::create_dir(&path).expect("mkdir");
                backing.push(path);
                store
            });
            let stores: Vec<Store> = stores.collect();
            let root = model.add_domain(at_domain, &at, plan, &stores);
            let pool: Option<Arc<str>> = plan.place.map(|_| format!("pool{at_domain}").into());
            if let (Some(name), Some(place)) = (&pool, plan.place) {
                let members = stores.iter().map(|store| BranchIndex(*store as u16)).collect();
                pools.push(Pool { name: name.to_string(), at: at.clone(), members, place });
            }
            for store in stores {
                let path = &backing[store];
                model.object_mut(root).on.insert(store, attr_of(path));
                fill(&mut model, root, store, path, plan.mode);
                let name = format!("store{store}");
                let spec = BranchSpec {
                    index: BranchIndex(store as u16),
                    name: name.clone(),
                    path: path.clone(),
                    mode: plan.mode,
                    io: BranchIo::Checked,
                    min_free: 0,
                    exposed: true,
                };
                let branch = Branch::open(spec, None, false).expect("a branch").branch;
                facts.push(BranchFacts {
                    name: name.into(),
                    pool: pool.clone(),
                    at: at.clone(),
                    mode: plan.mode,
                });
                ends.push(end(&branch));
                branches.push((at.clone(), Arc::new(branch)));
            }
        }
        let state = memory.path().join("state");
        std::fs::create_dir(&state).expect("mkdir");
        let storage = Arc::new(RealStorage);
        let ledger_dir = RealDir::open(&state).expect("the ledger's folder");
        let (ledger, _) = Ledger::open(Arc::clone(&storage), ledger_dir, "model", &mut |_| {})
            .expect("a new ledger");
        let mover = Mover::new(storage, Arc::clone(&ledger), ends, Journal::default());
        let gates = model.gates.iter().map(|gate| policy_gate(&model, gate)).collect();
        let source =
            PolicySource { within_allowed: true, rules: Vec::new(), gates, branches: facts };
        let parts = Parts {
            name: "model".into(),
            branches,
            pools,
            policy: Policy::new(source, 1),
            ledger,
            mover,
            record: RecordLevel::Mutations,
            readers: Vec::new(),
            owner: 0,
            audit: AuditDir::new(state, String::new(), Box::new(NoState)),
            stats: Arc::default(),
            locked: Vec::new(),
        };
        let vfs = Vfs::new(parts).0;
        Self { vfs, model, backing, _folders: vec![temporary, memory] }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.vfs.shut_down();
        let closed = self.vfs.ledger.close();
        if !std::thread::panicking() {
            closed.expect("the ledger closes");
        }
    }
}

impl Model {
    fn add_domain(
        &mut self,
        index: usize,
        at: &ViewPath,
        plan: &DomainPlan,
        stores: &[Store],
    ) -> Id {
        let mut here = self.root;
        for name in at.components() {
            here = match self.directory_mut(here).mounts.get(name).copied() {
                Some(known) => known,
                None => self.add_folder(here, name),
            };
        }
        self.object_mut(here).domain = Some(index);
        let (mode, place) = (plan.mode, plan.place);
        self.domains.push(Domain { mode, stores: stores.to_vec(), place, root: here });
        here
    }

    fn add_folder(&mut self, parent: Id, name: &OsStr) -> Id {
        let parent_link = Some((parent, name.to_owned()));
        let body = Body::Directory(Directory { parent: parent_link, ..Directory::default() });
        let id = self.add(None, body, BTreeMap::new());
        self.object_mut(id).fixed = true;
        self.directory_mut(parent).mounts.insert(name.to_owned(), id);
        id
    }
}

/// What lies in a branch before the view is mounted: something under names that folders of the layout
/// hide, and content that nobody can put into a branch that is read-only.
fn fill(model: &mut Model, root: Id, store: Store, path: &Path, mode: BranchMode) {
    let hidden: Vec<OsString> = model.directory_mut(root).mounts.keys().cloned().collect();
    for name in hidden {
        plant(model, (root, &name), store, &path.join(&name), None);
    }
    if mode == BranchMode::Ro {
        let (folder, file) = (OsStr::new("a"), OsStr::new("c.c"));
        let text = format!("fixed on {store}");
        let id = plant(model, (root, folder), store, &path.join("a"), None);
        plant(model, (id, file), store, &path.join("a/c.c"), Some(&text));
        plant(model, (root, file), store, &path.join("c.c"), Some(&text));
        let own = OsString::from(format!("own{store}"));
        plant(model, (id, &own), store, &path.join("a").join(&own), Some(&text));
    }
}

/// What a file system says of something that was made outside the view.
pub(super) fn attr_of(path: &Path) -> Attr {
    let found = std::fs::symlink_metadata(path).expect("metadata");
    let mode = found.permissions().mode() & 0o7777;
    Attr { mode, uid: found.uid(), gid: found.gid(), ..Attr::default() }
}

fn policy_gate(model: &Model, gate: &ModelGate) -> Gate {
    let branches = |domain: usize| {
        let stores = model.domains[domain].stores.iter();
        stores.map(|store| BranchIndex(*store as u16)).collect()
    };
    let pattern = if gate.suffix.is_empty() { "**" } else { "**/*.c" };
    Gate {
        name: format!("gate{}{}", gate.from, gate.to).into(),
        from: branches(gate.from),
        to: branches(gate.to),
        who: vec![Principal::Anyone],
        paths: PathPatterns::new(vec![pattern.to_owned()]).expect("a glob"),
        terms: Arc::new(GateTerms {
            types: if gate.text_only { vec!["text/plain".to_owned()] } else { vec![] },
            max_size: gate.max_size,
            verify: Verify::Readback,
        }),
    }
}
