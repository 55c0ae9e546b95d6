//! Several trees seen as one: as a pool shows what its members hold. The first part that has a name
//! wins; directories of one name are merged; whatever else an earlier part hides leaves with its
//! part and does not arrive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use super::error::CrossingError;
use super::request::{Admit, Entry};
use super::tree::{Dirs, Item, Tree};
use crate::storage::Kind;
use crate::types::{Handle, Time};

/// An entry that will arrive.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    /// The part that it comes from; of a merged directory the first.
    pub(super) part: u16,
    /// Which of that part's tree.
    pub(super) node: u32,
    /// Number of its directory in the plan.
    pub(super) dir: u32,
}

/// What a directory of the plan is made of.
struct Member {
    dir: u32,
    part: u16,
    /// Number of the directory in that part's tree.
    number: u32,
}

/// What arrives, in the order of a walk of it.
pub(super) struct Plan {
    pub(super) entries: Vec<Planned>,
    pub(super) dirs: Dirs,
    /// In order of directories, and of precedence within each.
    members: Vec<Member>,
}

/// The parts' trees by precedence; `None` for a part that is no directory, and is hidden.
pub(super) type Trees<'a> = &'a [Option<&'a Tree>];

fn tree<'a>(trees: Trees<'a>, part: u16) -> Result<&'a Tree, CrossingError> {
    trees.get(usize::from(part)).copied().flatten().ok_or(CrossingError::SourceChanged)
}

impl Plan {
    pub(super) fn of(trees: Trees<'_>) -> Result<Self, CrossingError> {
        let mut plan = Self { entries: Vec::new(), dirs: Dirs::new(), members: Vec::new() };
        for part in 0..trees.len() as u16 {
            if tree(trees, part).is_ok() {
                plan.members.push(Member { dir: 0, part, number: 0 });
            }
        }
        let (mut dir, mut first) = (0, 0_usize);
        while dir < plan.dirs.len() {
            let next = plan.members.partition_point(|member| member.dir <= dir);
            if next == first.saturating_add(1) {
                plan.add_alone(trees, dir, first)?;
            } else {
                plan.add_merged(trees, dir, first..next)?;
            }
            (dir, first) = (dir.saturating_add(1), next);
        }
        plan.entries.shrink_to_fit();
        Ok(plan)
    }

    /// A directory that one part has.
    fn add_alone(
        &mut self,
        trees: Trees<'_>,
        dir: u32,
        member: usize,
    ) -> Result<(), CrossingError> {
        let Some(&Member { part, number, .. }) = self.members.get(member) else { return Ok(()) };
        let tree = tree(trees, part)?;
        for node in tree.children(number) {
            self.entries.push(Planned { part, node, dir });
            if let Some(number) = tree.number_of(node) {
                let dir = self.dirs.push(dir, tree.item(node)?.name)?;
                self.members.push(Member { dir, part, number });
            }
        }
        Ok(())
    }

    fn add_merged(
        &mut self,
        trees: Trees<'_>,
        dir: u32,
        members: std::ops::Range<usize>,
    ) -> Result<(), CrossingError> {
        let mut children: Vec<(&OsStr, u16, u32)> = Vec::new();
        for &Member { part, number, .. } in self.members.get(members).unwrap_or_default() {
            let tree = tree(trees, part)?;
            for node in tree.children(number) {
                children.push((tree.item(node)?.name, part, node));
            }
        }
        children.sort_unstable();
        for same in children.chunk_by(|one, other| one.0 == other.0) {
            let Some(&(name, part, node)) = same.first() else { continue };
            self.entries.push(Planned { part, node, dir });
            if tree(trees, part)?.number_of(node).is_none() {
                continue;
            }
            let dir = self.dirs.push(dir, name)?;
            for &(_, part, node) in same {
                if let Some(number) = tree(trees, part)?.number_of(node) {
                    self.members.push(Member { dir, part, number });
                }
            }
        }
        Ok(())
    }

    /// What each directory is made of, the top included: its number, the part and that part's
    /// number for it.
    pub(super) fn members(&self) -> impl Iterator<Item = (u32, u16, u32)> {
        self.members.iter().map(|member| (member.dir, member.part, member.number))
    }

    /// When a directory below the top was last changed, in any of its parts: what users were shown.
    pub(super) fn changed(
        &self,
        trees: Trees<'_>,
        dir: u32,
    ) -> Result<Option<Time>, CrossingError> {
        let from = self.members.partition_point(|member| member.dir < dir);
        let members = self.members.iter().skip(from).take_while(|member| member.dir == dir);
        let mut newest = None;
        for member in members {
            let tree = tree(trees, member.part)?;
            if let Some(node) = tree.node_of(member.number) {
                newest = newest.max(Some(tree.item(node)?.mtime));
            }
        }
        Ok(newest)
    }

    /// Where an entry is taken from.
    pub(super) fn item<'a>(
        &self,
        trees: Trees<'a>,
        entry: Planned,
    ) -> Result<Item<'a>, CrossingError> {
        tree(trees, entry.part)?.item(entry.node)
    }

    /// Which nodes of each part arrive.
    fn arriving(&self, trees: Trees<'_>) -> Vec<Vec<bool>> {
        let mut arriving: Vec<Vec<bool>> = trees
            .iter()
            .map(|tree| vec![false; tree.map_or(0, |tree| tree.len() as usize)])
            .collect();
        let mut mark = |part: u16, node: u32| {
            let part = arriving.get_mut(usize::from(part));
            if let Some(arrives) = part.and_then(|part| part.get_mut(node as usize)) {
                *arrives = true;
            }
        };
        self.entries.iter().for_each(|entry| mark(entry.part, entry.node));
        for member in &self.members {
            let node = tree(trees, member.part).ok().and_then(|tree| tree.node_of(member.number));
            if let Some(node) = node {
                mark(member.part, node);
            }
        }
        arriving
    }

    /// Asks for every entry of every part.
    pub(super) fn ask(&self, trees: Trees<'_>, admit: &Admit) -> Result<(), CrossingError> {
        for (part, arrives) in self.arriving(trees).iter().enumerate() {
            if let Some(tree) = trees.get(part).copied().flatten() {
                let arrives = |node: u32| arrives.get(node as usize).is_some_and(|is| *is);
                ask(part, tree, &arrives, admit)?;
            }
        }
        Ok(())
    }

    /// The entries that are further names of one that comes before them: both positions. Every name
    /// of an inode must be inside.
    pub(super) fn links(&self, trees: Trees<'_>) -> Result<Vec<(u32, u32)>, CrossingError> {
        let mut groups: HashMap<(u16, u32), u32> = HashMap::new();
        for (part, tree) in trees.iter().enumerate() {
            if let Some(tree) = tree {
                same_inodes(part as u16, tree, &mut groups)?;
            }
        }
        let mut first: HashMap<(u16, u32), u32> = HashMap::new();
        let mut links = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let Some(group) = groups.get(&(entry.part, entry.node)) else { continue };
            let leader = *first.entry((entry.part, *group)).or_insert(at as u32);
            if leader != at as u32 {
                links.push((at as u32, leader));
            }
        }
        Ok(links)
    }
}

/// Asks for every entry of a part.
pub(super) fn ask(
    part: usize,
    tree: &Tree,
    arrives: &dyn Fn(u32) -> bool,
    admit: &Admit,
) -> Result<(), CrossingError> {
    let mut folder = (u32::MAX, PathBuf::new());
    for (node, item) in (0..).zip(tree.items()) {
        if folder.0 != item.dir {
            folder = (item.dir, tree.dirs.path(item.dir));
        }
        let path = folder.1.join(item.name);
        admit(&Entry {
            part,
            path: &path,
            kind: &kind(&item),
            handle: &item.handle(),
            hidden: !arrives(node),
        })
        .map_err(|why| why.at(|| path))?;
    }
    Ok(())
}

/// Groups the names of inodes that have several, by one of the nodes of each.
pub(super) fn same_inodes(
    part: u16,
    tree: &Tree,
    groups: &mut HashMap<(u16, u32), u32>,
) -> Result<(), CrossingError> {
    let mut seen: HashMap<Handle, (u32, u64, u64)> = HashMap::new();
    for &(node, links) in &tree.linked {
        let found = seen.entry(tree.item(node)?.handle()).or_insert((node, links, 0));
        found.2 = found.2.saturating_add(1);
        groups.insert((part, node), found.0);
    }
    match seen.values().find(|(_, links, inside)| links != inside) {
        None => Ok(()),
        Some(&(node, links, inside)) => {
            Err(CrossingError::HardLinked { path: tree.path(node), links, inside })
        }
    }
}

/// What an entry is, without the text of a link.
pub(super) fn kind(item: &Item<'_>) -> Kind {
    match item.letter {
        b'd' => Kind::Directory,
        b'l' => Kind::Symlink(Default::default()),
        b'p' => Kind::Fifo,
        b's' => Kind::Socket,
        b'c' => Kind::CharacterDevice(item.measure),
        b'b' => Kind::BlockDevice(item.measure),
        _ => Kind::File,
    }
}
