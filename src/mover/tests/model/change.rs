//! Ordinary changes on one member, as its users or somebody outside makes them. Each is durable at once.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use super::run::Run;
use super::trees::{FileState, Node, Tree};
use super::*;

/// Entries of a branch from which on more is removed than made.
const ENTRIES_MAX: usize = 12;
const DEPTH_MAX: usize = 3;

impl Run {
    /// One of few names, so that members often have the same; one is not UTF-8.
    pub(super) fn any_name(&mut self) -> OsString {
        match self.random.below(3) {
            0 => "a".into(),
            1 => "b".into(),
            _ => OsString::from_vec(b"c\xff".to_vec()),
        }
    }

    pub(super) fn any_of(
        &mut self,
        tree: &Tree,
        wanted: impl Fn(&Path, &Node) -> bool,
    ) -> Option<PathBuf> {
        let found: Vec<&PathBuf> =
            tree.iter().filter(|(path, node)| wanted(path, node)).map(|(path, _)| path).collect();
        self.random.pick(&found).map(|path| (*path).clone())
    }

    /// A name in some directory of a tree that users see, taken or not.
    pub(super) fn any_path(&mut self, tree: &Tree) -> PathBuf {
        let is_folder = |path: &Path, node: &Node| {
            matches!(node, Node::Directory(_)) && path.iter().count() < DEPTH_MAX
        };
        let folder = if self.random.one_in(3) { None } else { self.any_of(tree, is_folder) };
        folder.unwrap_or_default().join(self.any_name())
    }

    fn content(&mut self) -> Vec<u8> {
        self.written += 1;
        let text = format!("content {}", self.written);
        let length = if self.random.one_in(8) { 9000 } else { text.len() };
        text.bytes().cycle().take(length).collect()
    }

    fn mode(&mut self) -> u32 {
        [0o600, 0o755, 0o4751][self.random.below(3)]
    }

    pub(super) fn change(&mut self) {
        let branch = self.random.below(self.model.trees.len());
        let tree = self.model.trees[branch].clone();
        let path = self.any_path(&tree);
        let full = tree.len() >= ENTRIES_MAX;
        match self.model.node(branch, &path).cloned() {
            None if !full => self.make(branch, &path),
            None => {
                if let Some(path) = self.any_of(&tree, |_, _| true) {
                    self.remove(branch, &path);
                }
            }
            Some(Node::File(number)) if self.random.one_in(2) => self.write(branch, &path, number),
            Some(_) if self.random.one_in(3) => self.rename(branch, &path),
            Some(_) => self.remove(branch, &path),
        }
        self.lab().disk.sync_all();
    }

    fn make(&mut self, branch: usize, path: &Path) {
        let tree = self.model.trees[branch].clone();
        let is_file = |_: &Path, node: &Node| matches!(node, Node::File(_));
        let linked = if self.random.one_in(5) { self.any_of(&tree, is_file) } else { None };
        let choice = self.random.below(8);
        let node = match (linked, choice) {
            (Some(other), _) => {
                let node = tree[&other].clone();
                let (from, to) = (self.lab().name(branch, &other), self.lab().name(branch, path));
                let disk = &self.lab().disk;
                disk.link_outside(&from.parent, &from.name, &to.parent, &to.name).unwrap();
                node
            }
            (None, 0..4) => {
                let file = FileState { content: self.content(), mode: self.mode() };
                self.put_file(branch, path, &file);
                Node::File(self.model.add_file(file))
            }
            (None, 4..7) => return self.make_dir(branch, path),
            (None, _) => {
                let text = OsString::from(format!("to {}", self.written));
                let at = self.lab().name(branch, path);
                let kind = Kind::Symlink(text.clone());
                self.lab().disk.create_special(&at.parent, &at.name, &kind).unwrap();
                Node::Symlink(text)
            }
        };
        self.note(format!("make b{branch}:{} {node:?}", path.display()));
        self.model.trees[branch].insert(path.to_owned(), node);
    }

    pub(super) fn make_dir(&mut self, branch: usize, path: &Path) {
        let mode = [0o700, 0o755, 0o2770][self.random.below(3)];
        let at = self.lab().name(branch, path);
        self.lab().disk.create_dir(&at.parent, &at.name).unwrap();
        self.lab().disk.set_mode(&at.parent, &at.name, mode).unwrap();
        self.note(format!("mkdir b{branch}:{}", path.display()));
        self.model.trees[branch].insert(path.to_owned(), Node::Directory(mode));
    }

    fn put_file(&self, branch: usize, path: &Path, file: &FileState) {
        let at = self.lab().name(branch, path);
        let disk = &self.lab().disk;
        let opened = disk.create_file(&at.parent, &at.name).unwrap();
        disk.write_at(&opened, &file.content, 0).unwrap();
        disk.set_mode(&at.parent, &at.name, file.mode).unwrap();
    }

    fn write(&mut self, branch: usize, path: &Path, number: u64) {
        let content = self.content();
        let at = self.lab().name(branch, path);
        let disk = &self.lab().disk;
        let opened = disk.open_write(&at.parent, &at.name).unwrap();
        disk.set_len(&opened, 0).unwrap();
        disk.write_at(&opened, &content, 0).unwrap();
        self.note(format!("write b{branch}:{}", path.display()));
        self.model.files.get_mut(&number).unwrap().content = content;
    }

    fn rename(&mut self, branch: usize, from: &Path) {
        let tree = self.model.trees[branch].clone();
        let to = self.any_path(&tree);
        if to.starts_with(from) || tree.contains_key(&to) {
            return;
        }
        let (source, target) = (self.lab().name(branch, from), self.lab().name(branch, &to));
        let disk = &self.lab().disk;
        disk.rename(&source.parent, &source.name, &target.parent, &target.name).unwrap();
        self.note(format!("rename b{branch}:{} to {}", from.display(), to.display()));
        let moved = self.model.remove(branch, from);
        self.model.insert(branch, &to, moved);
    }

    fn remove(&mut self, branch: usize, path: &Path) {
        let is_dir = self.model.is_dir(branch, path);
        if is_dir && !self.model.is_empty_dir(branch, path) {
            return;
        }
        let at = self.lab().name(branch, path);
        let name: &OsStr = &at.name;
        let disk = &self.lab().disk;
        if is_dir { disk.remove_dir(&at.parent, name) } else { disk.unlink(&at.parent, name) }
            .unwrap();
        self.note(format!("remove b{branch}:{}", path.display()));
        self.model.remove(branch, path);
    }
}
