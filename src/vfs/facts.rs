//! What rules ask about an object besides its path: asked of its branch, and only where a rule needs it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::branch::{Branch, FileKind, Stat};
use crate::error::Errno;
use crate::mover::Entry;
use crate::policy::{Facts, LABEL};
use crate::storage::Kind;
use crate::view::{Inode, OpenFile};

use super::Vfs;
use super::site::Standing;

/// Which object.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    /// It is about to be made.
    New,
    /// What has the name.
    Standing(&'a Vfs, &'a Standing),
    /// A known inode.
    Inode(&'a Vfs, &'a Arc<Inode>),
    /// An open file.
    Open(&'a Vfs, &'a OpenFile),
    /// What a crossing takes along, by its path below the root of its branch.
    Entry(&'a Branch, &'a Entry<'a>, &'a Path),
}

impl About<'_> {
    /// What `ask` finds out about the object; `None` if there is none yet.
    fn with<T>(
        self,
        ask: impl FnOnce(&Branch, BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<Option<T>, Errno> {
        match self {
            Self::New => return Ok(None),
            Self::Standing(vfs, standing) => {
                ask(vfs.branch(standing.index)?, standing.found.node.as_fd())
            }
            Self::Inode(vfs, inode) => {
                let node = vfs.node(Arc::clone(inode))?;
                ask(node.first.branch, node.first.as_fd())
            }
            Self::Open(vfs, file) => ask(vfs.branch(file.branch())?, file.descriptor().as_fd()),
            Self::Entry(branch, entry, path) => {
                let kind = match entry.kind {
                    Kind::File => FileKind::File,
                    Kind::Directory => FileKind::Directory,
                    Kind::Symlink(_) => FileKind::Symlink,
                    Kind::Fifo => FileKind::Fifo,
                    Kind::Socket => FileKind::Socket,
                    Kind::CharacterDevice(_) => FileKind::CharacterDevice,
                    Kind::BlockDevice(_) => FileKind::BlockDevice,
                };
                let node = branch.open_node(entry.handle, kind, || path.to_owned())?;
                ask(branch, node.as_fd())
            }
        }
        .map(Some)
    }
}

/// What becomes of the size of a file.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// Nothing.
    Kept,
    /// It gets another name, with all that it has.
    Whole,
    /// It reaches at least so far, in bytes.
    Reaches(u64),
    /// So many bytes are added at its end.
    Appended(u64),
}

/// See [`Facts`].
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub about: About<'a>,
    pub size: Size,
    pub changes_labels: bool,
}

impl<'a> Asked<'a> {
    /// About an object whose size and labels stay as they are.
    pub(super) fn of(about: About<'a>) -> Self {
        Self { about, size: Size::Kept, changes_labels: false }
    }

    fn stat(&self) -> Result<Option<Stat>, Errno> {
        match self.about {
            About::Standing(_, standing) => Ok(Some(standing.found.stat)),
            about => about.with(|branch, node| branch.stat(node)),
        }
    }
}

impl Facts for Asked<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn size_after(&self) -> Option<u64> {
        if matches!(self.size, Size::Kept) {
            return None;
        }
        let stat = match self.stat() {
            Ok(stat) => stat.filter(|stat| stat.kind == FileKind::File)?,
            // What cannot be looked at is taken for larger than anything.
            Err(_) => return Some(u64::MAX),
        };
        match self.size {
            Size::Kept => None,
            Size::Whole => Some(stat.size),
            Size::Reaches(end) => (end > stat.size).then_some(end),
            Size::Appended(bytes) => Some(stat.size.saturating_add(bytes)),
        }
    }

    fn owner(&self) -> Result<Option<u32>, Errno> {
        Ok(self.stat()?.map(|stat| stat.uid))
    }

    fn labels(&self) -> Result<Vec<String>, Errno> {
        match self.about.with(|branch, node| branch.get_xattr(node, OsStr::new(LABEL))) {
            Ok(value) => Ok(labels_in(&value.unwrap_or_default())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    fn changes_labels(&self) -> bool {
        self.changes_labels
    }
}

/// The labels in the value of the attribute, by commas or blanks.
fn labels_in(value: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(value);
    let words =
        text.split(|letter: char| letter == ',' || letter.is_whitespace() || letter == '\0');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_separated_by_commas_or_blanks() {
        assert_eq!(labels_in(b"pii,secret draft\n"), ["pii", "secret", "draft"]);
        assert_eq!(labels_in(b" ,\0"), [""; 0]);
    }
}
