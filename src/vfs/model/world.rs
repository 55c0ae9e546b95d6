//! A view over real temporary branches, and the model of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit_dir::AuditDir;
use crate::branch::{Branch, BranchSpec};
use crate::ledger::Ledger;
use crate::mover::{Journal, Mover};
use crate::policy::{
    BranchFacts, Gate, GateTerms, PathPatterns, Policy, PolicySource, Principal, Verify,
};
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchIndex, BranchIo, ViewPath};
use crate::view::Pool;

use super::super::tests::{NoState, end};
use super::super::{Parts, RecordLevel, Vfs};
use super::layout::{Disk, gate_pattern, lay_out, plans};
use super::stores::Stores;
use super::tree::{Model, ModelGate, Store};

/// The view, its branches and the model.
pub(super) struct World {
    pub vfs: Arc<Vfs>,
    pub model: Model,
    /// The directories of the stores.
    pub backing: Vec<PathBuf>,
    layout: u64,
    _folders: Vec<tempfile::TempDir>,
}

impl World {
    pub(super) fn new(layout: u64) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let memory = memory.expect("a folder in memory");
        let (model, backing) = lay_out(layout, memory.path(), temporary.path());
        let (mut branches, mut pools) = (Vec::new(), Vec::new());
        let (mut facts, mut ends) = (Vec::new(), Vec::new());
        for (at_domain, plan) in plans(layout).iter().enumerate() {
            let at = ViewPath::parse(Path::new(plan.at)).expect("a path");
            let stores = model.domains[at_domain].stores.clone();
            let pool: Option<Arc<str>> = plan.place.map(|_| format!("pool{at_domain}").into());
            if let (Some(name), Some(place)) = (&pool, plan.place) {
                let members = stores.iter().map(|store| BranchIndex(*store as u16)).collect();
                pools.push(Pool { name: name.to_string(), at: at.clone(), members, place });
            }
            for store in stores {
                let name = format!("store{store}");
                let spec = BranchSpec {
                    index: BranchIndex(store as u16),
                    name: name.clone(),
                    path: backing[store].clone(),
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
        let source = PolicySource {
            within_allowed: true,
            observe: false,
            rules: Vec::new(),
            gates,
            branches: facts,
        };
        let parts = Parts {
            name: "model".into(),
            branches,
            pools,
            policy: Policy::new(source, 1).expect("patterns that compile"),
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
        Self { vfs, model, backing, layout, _folders: vec![temporary, memory] }
    }
}

impl World {
    /// On which file system a store lies.
    pub(super) fn disk(&self, store: Store) -> Disk {
        let mut disks = plans(self.layout).iter().flat_map(|plan| plan.stores);
        *disks.nth(store).expect("a store of the layout")
    }

    pub(super) fn stores(&self) -> Stores<'_> {
        Stores { model: &self.model, backing: &self.backing }
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

fn policy_gate(model: &Model, gate: &ModelGate) -> Gate {
    let branches = |domain: usize| {
        let stores = model.domains[domain].stores.iter();
        stores.map(|store| BranchIndex(*store as u16)).collect()
    };
    Gate {
        name: format!("gate{}{}", gate.from, gate.to).into(),
        from: branches(gate.from),
        to: branches(gate.to),
        who: vec![Principal::Anyone].into(),
        paths: PathPatterns::new(vec![gate_pattern(gate).to_owned()]).expect("a glob"),
        terms: Arc::new(GateTerms {
            types: if gate.text_only { vec!["text/plain".to_owned()] } else { vec![] },
            max_size: gate.max_size,
            verify: Verify::Readback,
            lossy: Default::default(),
            checks: Vec::new(),
        }),
    }
}
