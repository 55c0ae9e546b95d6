//! The layouts that runs choose from: what domains a view has, in which stores they lie, which gates
//! connect them, and what is there before it is mounted.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::types::{BranchMode, Placement};

use super::acl::{ACCESS, DEFAULT};
use super::tree::{Attr, Body, Directory, Domain, Id, Model, ModelGate, Store};

/// A domain to build: where it appears, its mode, where something new goes if it is a pool, and for
/// each store whether it lies on the memory file system or on that of temporary files. Crossings between
/// two of one file system are renames, others are copies.
#[derive(Debug)]
pub(super) struct DomainPlan {
    pub at: &'static str,
    pub mode: BranchMode,
    pub place: Option<Placement>,
    pub stores: &'static [Disk],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
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

pub(super) const LAYOUTS: [[DomainPlan; 4]; 4] = [
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

/// The plan of a layout; any number names one.
pub(super) fn plans(layout: u64) -> &'static [DomainPlan; 4] {
    &LAYOUTS[(layout % LAYOUT_COUNT) as usize]
}

/// A gate's only pattern.
pub(super) fn gate_pattern(gate: &ModelGate) -> &'static str {
    if gate.suffix.is_empty() { "**" } else { "**/*.c" }
}

fn gates() -> Vec<ModelGate> {
    let all = |from, to| ModelGate { from, to, suffix: "", text_only: false, max_size: None };
    let strict =
        |from| ModelGate { suffix: ".c", text_only: true, max_size: Some(2000), ..all(from, 2) };
    vec![all(0, 1), all(1, 0), strict(0), strict(1), all(2, 0)]
}

/// The stores of a layout, made in two folders, and the model of what they hold.
pub(super) fn lay_out(layout: u64, memory: &Path, temporary: &Path) -> (Model, Vec<PathBuf>) {
    let mut model = Model::default();
    model.root = model.add(None, Body::Directory(Directory::default()), BTreeMap::new());
    model.object_mut(model.root).fixed = true;
    model.gates = gates();
    let mut backing = Vec::new();
    for (at_domain, plan) in plans(layout).iter().enumerate() {
        let stores = plan.stores.iter().map(|disk| {
            let folder = if *disk == Disk::Memory { memory } else { temporary };
            let store = backing.len();
            let path = folder.join(format!("store{store}"));
            std::fs::create_dir(&path).expect("mkdir");
            // Open to all users of the view.
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(&path, open).expect("chmod");
            backing.push(path);
            store
        });
        let stores: Vec<Store> = stores.collect();
        let root = model.add_domain(at_domain, plan, &stores);
        for store in stores {
            model.object_mut(root).on.insert(store, attr_of(&backing[store]));
            fill(&mut model, root, store, &backing[store], plan.mode);
        }
    }
    (model, backing)
}

impl Model {
    fn add_domain(&mut self, index: usize, plan: &DomainPlan, stores: &[Store]) -> Id {
        let mut here = self.root;
        for name in plan.at.split('/').filter(|name| !name.is_empty()).map(OsStr::new) {
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

    /// Something that was put into a store: a part of a directory that others have, or something new.
    pub(super) fn plant(
        &mut self,
        (parent, name): (Id, &OsStr),
        store: Store,
        text: Option<&str>,
        attr: Attr,
    ) -> Id {
        let known =
            self.layers(parent, name).into_values().find(|id| self.directory(*id).is_some());
        let id = match (text, known) {
            (None, Some(known)) => {
                self.put(parent, name, store, known);
                // Users see the newest time of all parts.
                self.touch(known);
                known
            }
            (None, None) => {
                let body = Body::Directory(Directory::default());
                self.make((parent, name), body, store, (0, 0, 0))
            }
            (Some(text), _) => {
                let body = Body::File(text.as_bytes().to_vec());
                self.make((parent, name), body, store, (0, 0, 0))
            }
        };
        self.object_mut(id).on.insert(store, attr);
        id
    }
}

/// Puts a file or a directory into a store, and into the model.
pub(super) fn plant(
    model: &mut Model,
    spot: (Id, &OsStr),
    store: Store,
    path: &Path,
    text: Option<&str>,
) -> Id {
    match text {
        Some(text) => std::fs::write(path, text).expect("write"),
        None => std::fs::create_dir(path).expect("mkdir"),
    }
    // Whoever puts it there leaves it without the lists that its folder would give it.
    for list in [ACCESS, DEFAULT] {
        let _ = rustix::fs::removexattr(path, list);
    }
    let attr = attr_of(path);
    model.plant(spot, store, text, attr)
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
