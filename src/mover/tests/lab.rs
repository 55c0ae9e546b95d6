//! A machine with any number of branches, each on a device of its choice, and pictures of their trees.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Directory,
    File(Vec<u8>),
    Symlink(OsString),
}

impl std::fmt::Debug for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => f.write_str("/"),
            Self::File(bytes) if bytes.len() <= 40 => {
                write!(f, "{:?}", String::from_utf8_lossy(bytes))
            }
            Self::File(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Symlink(text) => write!(f, "-> {}", text.display()),
        }
    }
}

/// Relative paths and what they stand for.
pub(super) type Picture = BTreeMap<PathBuf, Thing>;

/// A machine that runs, with branches `b0`, `b1`… on devices that the test chose.
pub(super) struct Lab {
    pub(super) disk: Arc<Disk>,
    pub(super) mover: Arc<Mover<Disk>>,
    pub(super) roots: Vec<SimulatedDir>,
    pub(super) devices: Vec<usize>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.mover.ledger.close();
    }
}

fn branch_name(at: usize) -> String {
    format!("b{at}")
}

impl Lab {
    /// One branch for each entry of `devices`, empty and durable; device 0 keeps the ledger.
    pub(super) fn new(names: Names, devices: &[usize]) -> Self {
        let disk = Disk::new(names);
        let count = devices.iter().max().map_or(0, |last| last + 1);
        for _ in 0..count.max(1) {
            disk.add_device(DeviceOptions::default());
        }
        make_dirs(&disk, &disk.root(0).unwrap(), &["ledger"]);
        for (at, device) in devices.iter().enumerate() {
            let name = branch_name(at);
            let below = |rest: &str| format!("{name}/{rest}");
            let private = [".octroi", ".octroi/stage", ".octroi/hold"].map(below);
            let root = disk.root(*device).unwrap();
            make_dirs(&disk, &root, &[&name, &private[0], &private[1], &private[2]]);
        }
        disk.sync_all();
        Self::start(disk.shared(), devices).unwrap()
    }

    /// Starts a daemon on the disks, without recovery; fails where the power does.
    pub(super) fn start(disk: Arc<Disk>, devices: &[usize]) -> Option<Self> {
        let open =
            |device: usize, path: String| disk.open_dir(&disk.root(device)?, Path::new(&path)).ok();
        let mut branches = Vec::new();
        let mut roots = Vec::new();
        for (at, device) in devices.iter().enumerate() {
            let name = branch_name(at);
            let root = open(*device, name.clone())?;
            roots.push(root.clone());
            branches.push(Some(MoverBranch {
                index: BranchIndex(at as u16),
                uuid: BranchUuid(ulid::Ulid(1 + at as u128)),
                root,
                stage: open(*device, format!("{name}/.octroi/stage"))?,
                hold: open(*device, format!("{name}/.octroi/hold"))?,
                name,
                min_free: 0,
            }));
        }
        let mut journal = Journal::default();
        journal.begin_long_ago();
        let ledger_dir = open(0, "ledger".to_owned())?;
        let (ledger, _) = Ledger::open(Arc::clone(&disk), ledger_dir, "lab", &mut |entry| {
            journal.apply(entry);
        })
        .ok()?;
        let mover = Mover::new(Arc::clone(&disk), ledger, branches, journal);
        Some(Self { disk, mover, roots, devices: devices.to_vec() })
    }

    /// Stops the daemon cleanly and starts another.
    pub(super) fn restart(self) -> Self {
        let (disk, devices) = (Arc::clone(&self.disk), self.devices.clone());
        drop(self);
        Self::start(disk, &devices).unwrap()
    }

    /// The machine after the power went and came back; nothing is recovered yet.
    pub(super) fn after_crash(&self, seed: u64) -> Self {
        Self::start(self.disk.crash(seed).shared(), &self.devices).expect("starts")
    }

    pub(super) fn folder(&self, branch: usize, path: &Path) -> SimulatedDir {
        let parent = path.parent().unwrap();
        self.disk.open_dir(&self.roots[branch], parent).unwrap()
    }

    /// A name that a request speaks of.
    pub(super) fn name(&self, branch: usize, path: impl AsRef<Path>) -> Name<Disk> {
        let path = path.as_ref();
        Name {
            branch: BranchIndex(branch as u16),
            path: PathBuf::from(path),
            view: view(path),
            parent: self.folder(branch, path),
            name: path.file_name().unwrap().to_owned(),
        }
    }

    /// Makes directories (paths that end in `/`) and files that hold what is given. Durable.
    pub(super) fn put(&self, branch: usize, things: &[(&str, &str)]) {
        for (path, content) in things {
            let dir = self.folder(branch, Path::new(path.trim_end_matches('/')));
            let name = Path::new(path).file_name().unwrap();
            if path.ends_with('/') {
                self.disk.create_dir(&dir, name).unwrap();
                continue;
            }
            let file = self.disk.create_file(&dir, name).unwrap();
            self.disk.write_at(&file, content.as_bytes(), 0).unwrap();
        }
        self.disk.sync_all();
    }

    /// All that users of a branch see.
    pub(super) fn tree(&self, branch: usize) -> Picture {
        let mut picture = self.look(&self.roots[branch]);
        picture.retain(|path, _| !path.starts_with(".octroi"));
        picture
    }

    /// All that is in stage or hold.
    pub(super) fn private(&self, branch: usize, area: &str) -> Picture {
        let path = Path::new(".octroi").join(area);
        self.look(&self.disk.open_dir(&self.roots[branch], &path).unwrap())
    }

    fn look(&self, dir: &SimulatedDir) -> Picture {
        let mut picture = Picture::new();
        for name in self.disk.list(dir).unwrap() {
            let path = PathBuf::from(&name);
            let thing = match self.disk.stat(dir, &name).unwrap().unwrap().kind {
                Kind::Directory => {
                    let below = self.look(&self.disk.open_dir(dir, &path).unwrap());
                    let below = below.into_iter().map(|(rest, thing)| (path.join(rest), thing));
                    picture.extend(below);
                    Thing::Directory
                }
                Kind::Symlink(text) => Thing::Symlink(text),
                _ => Thing::File(content(&self.disk, dir, &name).unwrap()),
            };
            picture.insert(path, thing);
        }
        picture
    }

    /// Every branch's tree, stage and hold.
    pub(super) fn everything(&self) -> Vec<Picture> {
        let areas = |branch| {
            [self.tree(branch), self.private(branch, "stage"), self.private(branch, "hold")]
        };
        (0..self.roots.len()).flat_map(areas).collect()
    }
}

/// A path of the view at which all branches are merged.
pub(super) fn view(path: impl AsRef<Path>) -> ViewPath {
    ViewPath::parse(&Path::new("/pool").join(path)).unwrap()
}
