//! What every branch should hold, kept in plain maps, and what users should see of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Branches that are renamed within: one alone, a pool of three, one alone.
pub(super) const DOMAINS: [&[usize]; 3] = [&[0], &[1, 2, 3], &[4]];
/// Devices of the branches: a crossing from `b0` to `b3`, or from `b1` to `b4`, needs no copy.
pub(super) const DEVICES: [usize; 5] = [1, 2, 3, 1, 2];

/// What a name stands for. Files with one number are hard links of one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory(u32),
    File(u64),
    Symlink(OsString),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Relative paths; the top of a subtree has the empty one.
pub(super) type Tree = BTreeMap<PathBuf, Node>;

/// As [`Node`], comparable between branches and disks: of hard links the first path.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Shown {
    Directory(u32),
    File { content: Vec<u8>, mode: u32, first: PathBuf },
    Symlink(OsString),
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(mode) => write!(f, "/ {mode:o}"),
            Self::File { content, mode, first } => {
                let start = String::from_utf8_lossy(&content[..content.len().min(12)]);
                write!(f, "{start:?} {} bytes {mode:o} {}", content.len(), first.display())
            }
            Self::Symlink(text) => write!(f, "-> {}", text.display()),
        }
    }
}

impl Shown {
    /// Where only what one name stands for counts.
    pub(super) fn forget_links(&mut self) {
        if let Self::File { first, .. } = self {
            *first = PathBuf::new();
        }
    }

    /// Where only what a manifest tells counts.
    pub(super) fn forget_attributes(&mut self) {
        self.forget_links();
        match self {
            Self::File { mode, .. } | Self::Directory(mode) => *mode = 0,
            Self::Symlink(_) => {}
        }
    }
}

pub(super) type Picture = BTreeMap<PathBuf, Shown>;

/// What a crossing took away, and from where.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// Branch, path, and what was there.
    pub(super) retired: Vec<(usize, PathBuf, Tree)>,
    pub(super) displaced: Vec<(usize, PathBuf, Tree)>,
    pub(super) target: (usize, PathBuf),
    /// What came to the target.
    pub(super) arrived: Picture,
    /// Whether the inodes themselves moved.
    pub(super) same_filesystem: bool,
}

/// All branches.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) trees: Vec<Tree>,
    pub(super) files: BTreeMap<u64, FileState>,
    next: u64,
}

pub(super) fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

impl Model {
    pub(super) fn new() -> Self {
        let trees = vec![Tree::new(); DEVICES.len()];
        Self { trees, files: BTreeMap::new(), next: 1 }
    }

    pub(super) fn add_file(&mut self, file: FileState) -> u64 {
        self.next += 1;
        self.files.insert(self.next, file);
        self.next
    }

    pub(super) fn node(&self, branch: usize, path: &Path) -> Option<&Node> {
        self.trees[branch].get(path)
    }

    pub(super) fn is_dir(&self, branch: usize, path: &Path) -> bool {
        path.as_os_str().is_empty() || matches!(self.node(branch, path), Some(Node::Directory(_)))
    }

    pub(super) fn is_empty_dir(&self, branch: usize, path: &Path) -> bool {
        self.is_dir(branch, path) && self.children(branch, path).is_empty()
    }

    pub(super) fn children(&self, branch: usize, path: &Path) -> BTreeSet<&OsStr> {
        let below = self.trees[branch].keys().filter(|found| found.parent() == Some(path));
        below.filter_map(|found| found.file_name()).collect()
    }

    /// What is at and below a path.
    pub(super) fn subtree(&self, branch: usize, path: &Path) -> Tree {
        let below = self.trees[branch].iter();
        below
            .filter_map(|(found, node)| {
                Some((found.strip_prefix(path).ok()?.to_owned(), node.clone()))
            })
            .collect()
    }

    pub(super) fn remove(&mut self, branch: usize, path: &Path) -> Tree {
        let removed = self.subtree(branch, path);
        self.trees[branch].retain(|found, _| !found.starts_with(path));
        removed
    }

    /// Puts a subtree where nothing is.
    #[track_caller]
    pub(super) fn insert(&mut self, branch: usize, path: &Path, tree: Tree) {
        assert!(self.node(branch, path).is_none(), "{} of b{branch} is taken", path.display());
        assert!(self.is_dir(branch, path.parent().unwrap()), "no folder for {}", path.display());
        let placed = tree.into_iter().map(|(rest, node)| (join(path, &rest), node));
        self.trees[branch].extend(placed);
    }

    /// The members of a domain that have the folder of a path in what users see, in order.
    pub(super) fn reaching(&self, domain: &[usize], path: &Path) -> Vec<usize> {
        let mut reaching = domain.to_vec();
        let mut here = PathBuf::new();
        for step in path.parent().into_iter().flat_map(Path::iter) {
            here.push(step);
            let first = reaching.iter().find_map(|branch| self.node(*branch, &here));
            if !matches!(first, Some(Node::Directory(_))) {
                return Vec::new();
            }
            reaching.retain(|branch| self.is_dir(*branch, &here));
        }
        reaching
    }

    /// The members that hold something at a path that users see, in order.
    pub(super) fn parts(&self, domain: &[usize], path: &Path) -> Vec<usize> {
        let mut reaching = self.reaching(domain, path);
        reaching.retain(|branch| self.node(*branch, path).is_some());
        reaching
    }

    /// What users see at and below a path of a domain: the first member's, directories merged.
    pub(super) fn merged(&self, domain: &[usize], path: &Path) -> Tree {
        let mut merged = Tree::new();
        self.merge_into(&mut merged, &self.parts(domain, path), path, PathBuf::new());
        merged
    }

    fn merge_into(&self, merged: &mut Tree, parts: &[usize], base: &Path, rest: PathBuf) {
        let here = join(base, &rest);
        let Some(first) = parts.first().and_then(|branch| self.node(*branch, &here)) else {
            return;
        };
        merged.insert(rest.clone(), first.clone());
        if !matches!(first, Node::Directory(_)) {
            return;
        }
        let dirs = parts.iter().copied().filter(|branch| self.is_dir(*branch, &here));
        let dirs: Vec<usize> = dirs.collect();
        let names = dirs.iter().flat_map(|branch| self.children(*branch, &here));
        for name in names.collect::<BTreeSet<_>>() {
            let has = |branch: &usize| self.node(*branch, &here.join(name)).is_some();
            let below: Vec<usize> = dirs.iter().copied().filter(has).collect();
            self.merge_into(merged, &below, base, rest.join(name));
        }
    }

    /// All that users see of a domain, without the root.
    pub(super) fn view(&self, domain: &[usize]) -> Tree {
        let mut view = Tree::new();
        let names: BTreeSet<&OsStr> =
            domain.iter().flat_map(|branch| self.children(*branch, Path::new(""))).collect();
        for name in names {
            let top = Path::new(name);
            let below = self.merged(domain, top);
            view.extend(below.into_iter().map(|(rest, node)| (join(top, &rest), node)));
        }
        view
    }

    /// As [`Model::view`], with contents instead of numbers.
    pub(super) fn shown(&self, tree: &Tree) -> Picture {
        let mut firsts = BTreeMap::new();
        for (path, node) in tree {
            if let Node::File(number) = node {
                firsts.entry(*number).or_insert_with(|| path.clone());
            }
        }
        let shown = |node: &Node| match node {
            Node::Directory(mode) => Shown::Directory(*mode),
            Node::Symlink(text) => Shown::Symlink(text.clone()),
            Node::File(number) => {
                let FileState { content, mode } = self.files[number].clone();
                Shown::File { content, mode, first: firsts[number].clone() }
            }
        };
        tree.iter().map(|(path, node)| (path.clone(), shown(node))).collect()
    }

    /// How many names of a file are in all branches.
    pub(super) fn names_of(&self, number: u64) -> usize {
        let nodes = self.trees.iter().flat_map(BTreeMap::values);
        nodes.filter(|node| **node == Node::File(number)).count()
    }

    /// New inodes for all files of a tree, links kept together.
    fn copied(&mut self, tree: &Tree) -> Tree {
        let mut new = BTreeMap::new();
        let mut copy = tree.clone();
        for node in copy.values_mut() {
            if let Node::File(number) = node {
                let file = self.files[number].clone();
                *number = *new.entry(*number).or_insert_with(|| self.add_file(file));
            }
        }
        copy
    }

    /// A crossing: everything at the source leaves, what users saw of it is at the target, alone.
    pub(super) fn cross(
        &mut self,
        source: (&[usize], &Path),
        target: (&[usize], &Path),
        member: usize,
    ) -> Taken {
        let arriving = self.merged(source.0, source.1);
        let parts = self.parts(source.0, source.1);
        let stands = self.parts(target.0, target.1);
        let mut take = |branches: Vec<usize>, path: &Path| -> Vec<(usize, PathBuf, Tree)> {
            let taken = branches.into_iter();
            taken.map(|branch| (branch, path.to_owned(), self.remove(branch, path))).collect()
        };
        let retired = take(parts, source.1);
        let displaced = take(stands, target.1);
        let arriving = self.copied(&arriving);
        let arrived = self.shown(&arriving);
        self.insert(member, target.1, arriving);
        let target = (member, target.1.to_owned());
        Taken { retired, displaced, target, arrived, same_filesystem: false }
    }

    /// Taking a crossing back: what left is again where it was.
    #[track_caller]
    pub(super) fn uncross(&mut self, taken: &Taken) {
        let arrived = self.remove(taken.target.0, &taken.target.1);
        for (branch, path, tree) in &taken.retired {
            let tree = if taken.same_filesystem { &arrived } else { tree };
            self.insert(*branch, path, tree.clone());
        }
        for (branch, path, tree) in &taken.displaced {
            self.insert(*branch, path, tree.clone());
        }
    }

    /// A rename within a domain: `moves` and `displace` name members.
    pub(super) fn rearrange(
        &mut self,
        source: &Path,
        target: &Path,
        moves: &[usize],
        displace: &[(usize, PathBuf)],
    ) {
        for (branch, path) in displace {
            self.remove(*branch, path);
        }
        for branch in moves {
            let moved = self.remove(*branch, source);
            self.insert(*branch, target, moved);
        }
    }
}
