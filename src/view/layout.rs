//! The folders that the configuration lays out: the root, the place of each branch or pool, and the virtual
//! folders on the way to them.
//!
//! A folder on the way to a branch's place is virtual also where it lies below another branch: it
//! shows only what the configuration puts there, and hides a directory of that name in the branch.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;

use crate::types::ViewPath;

use super::pool::Domain;

/// Position in the layout, counted from 1, which is the root. Each inode has room for one, so it is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutIndex(NonZeroU32);

impl LayoutIndex {
    /// The root of the view.
    pub const ROOT: Self = Self(NonZeroU32::MIN);

    /// Inode number: the root's is 1, as the kernel wants it, the others follow.
    pub fn number(self) -> u64 {
        u64::from(self.0.get())
    }

    /// Of a folder with so many before it; memory ends long before the positions do.
    fn after(folders: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(u32::try_from(folders).unwrap_or(u32::MAX)))
    }

    /// Position among those after the root; `None` for the root.
    fn other(self) -> Option<usize> {
        self.0.get().checked_sub(2).map(|at| at as usize)
    }
}

/// A folder of the layout.
#[derive(Debug)]
pub struct Folder {
    /// Its path.
    pub path: ViewPath,
    /// The branch or pool whose root it shows; none for a virtual folder.
    pub domain: Option<Domain>,
    /// Folders of the layout directly below.
    pub children: BTreeMap<OsString, LayoutIndex>,
}

/// All folders of the layout.
#[derive(Debug)]
pub struct Layout {
    root: Folder,
    /// From position 2 on.
    others: Vec<Folder>,
}

impl Layout {
    /// Lays out branches and pools at their places. The configuration has made sure that places differ.
    pub fn new(places: impl IntoIterator<Item = (ViewPath, Domain)>) -> Self {
        let mut layout = Self {
            root: Folder { path: ViewPath::root(), domain: None, children: BTreeMap::new() },
            others: Vec::new(),
        };
        for (at, domain) in places {
            let index = layout.make(&at);
            layout.folder_mut(index).domain = Some(domain);
        }
        layout
    }

    fn make(&mut self, at: &ViewPath) -> LayoutIndex {
        let mut here = LayoutIndex::ROOT;
        for name in at.components() {
            let next = LayoutIndex::after(self.others.len().saturating_add(1));
            let folder = self.folder_mut(here);
            let path = folder.path.join(name);
            let known = *folder.children.entry(name.to_owned()).or_insert(next);
            if known == next {
                self.others.push(Folder { path, domain: None, children: BTreeMap::new() });
            }
            here = known;
        }
        here
    }

    /// A folder. Positions come from the layout itself; one that it does not have is the root's.
    pub fn folder(&self, index: LayoutIndex) -> &Folder {
        let other = index.other().and_then(|at| self.others.get(at));
        other.unwrap_or(&self.root)
    }

    fn folder_mut(&mut self, index: LayoutIndex) -> &mut Folder {
        let other = index.other().and_then(|at| self.others.get_mut(at));
        other.unwrap_or(&mut self.root)
    }

    /// The folder of that name directly below.
    pub fn child(&self, index: LayoutIndex, name: &OsStr) -> Option<LayoutIndex> {
        self.folder(index).children.get(name).copied()
    }

    /// All folders with their positions, the root first, parents before children.
    pub fn iter(&self) -> impl Iterator<Item = (LayoutIndex, &Folder)> {
        std::iter::once(&self.root)
            .chain(&self.others)
            .enumerate()
            .map(|(at, folder)| (LayoutIndex::after(at), folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BranchIndex;
    use std::path::Path;

    fn branch(index: u16) -> Domain {
        Domain::Branch(BranchIndex(index))
    }

    fn at(path: &str) -> ViewPath {
        ViewPath::parse(Path::new(path)).expect("an absolute path")
    }

    #[test]
    fn parents_are_virtual_and_shared() {
        let layout = Layout::new([(at("/a/b"), branch(0)), (at("/a/c"), branch(1))]);
        let a = layout.child(LayoutIndex::ROOT, OsStr::new("a")).expect("a");
        assert_eq!(layout.folder(a).domain, None);
        let c = layout.child(a, OsStr::new("c")).expect("c");
        assert_eq!(layout.folder(c).domain, Some(branch(1)));
        assert_eq!(layout.folder(c).path, at("/a/c"));
        assert_eq!(layout.iter().count(), 4);
    }

    #[test]
    fn a_branch_may_sit_at_the_root() {
        let layout = Layout::new([(at("/"), branch(0)), (at("/x"), branch(1))]);
        assert_eq!(layout.folder(LayoutIndex::ROOT).domain, Some(branch(0)));
        assert!(layout.child(LayoutIndex::ROOT, OsStr::new("x")).is_some());
        assert_eq!(LayoutIndex::ROOT.number(), 1);
    }
}
