//! What the inodes of a crossing grant to whom. An undo brings back what left, with the permissions and the
//! label that it had: whoever is not privileged must not open by it what was closed since.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::error::CrossingError;
use super::merge::Plan;
use super::moves::Place;
use super::prepare::Part;
use super::stage::{ACCESS_ACL, narrowed};
use super::tree::{Folders, Tree};
use super::{Mover, Progress};
use crate::error::Errno;
use crate::policy::{LABEL, is_acl};
use crate::storage::{Kind, Storage, Xattrs};

/// What a program may do whoever starts it (capabilities(7)).
const CAPABILITY: &str = "security.capability";

/// Owner, permissions and label of an inode.
#[derive(PartialEq, Eq)]
struct Granted {
    uid: u32,
    gid: u32,
    /// 0 for a link, which has none of its own.
    mode: u32,
    /// ACLs, capabilities and the label.
    xattrs: Xattrs,
}

impl Granted {
    fn of<S: Storage>(storage: &S, dir: &S::Dir, name: &OsStr) -> Result<Self, Errno> {
        let found = storage.stat(dir, name)?.ok_or(Errno::NOENT)?;
        let mut xattrs = storage.xattrs(dir, name)?;
        xattrs.retain(|(key, _)| is_acl(key) || key == LABEL || key == CAPABILITY);
        let is_link = matches!(found.kind, Kind::Symlink(_));
        let mode = if is_link { 0 } else { found.mode };
        Ok(Self { uid: found.uid, gid: found.gid, mode, xattrs })
    }

    /// As a file system that can keep less has it; `kept` is what it kept.
    fn without_what_was_lost(mut self, kept: &[OsString], lost: &[String]) -> Self {
        let mut mode = self.mode;
        self.xattrs.retain(|(key, value)| {
            let gone = lost.contains(&super::stage::word_of(key)) && !kept.contains(key);
            if gone && key == ACCESS_ACL {
                mode = narrowed(mode, value);
            }
            !gone
        });
        Self { mode, ..self }
    }
}

impl<S: Storage> Mover<S> {
    /// Whether all that arrived grants what its original, which is held, does. `lost` is what the copy
    /// could not keep. The path of the first, below the top, that does not.
    pub(super) fn find_regranted(
        &self,
        part: &Part<S>,
        (held_at, held): (&[Place<S>], &[Option<Tree>]),
        lost: &[String],
        progress: &Progress,
    ) -> Result<Option<Box<Path>>, CrossingError> {
        let storage = &*self.storage;
        let same = |now: (&S::Dir, &OsStr), then: (&S::Dir, &OsStr)| {
            let now = Granted::of(storage, now.0, now.1);
            let now = now.map_err(CrossingError::io("look at", "what arrived"))?;
            let then = Granted::of(storage, then.0, then.1);
            let then = then.map_err(CrossingError::io("look at", "what is held"))?;
            let kept: Vec<OsString> = now.xattrs.iter().map(|(key, _)| key.clone()).collect();
            Ok::<_, CrossingError>(now == then.without_what_was_lost(&kept, lost))
        };
        let first = held_at.first().ok_or(CrossingError::SourceGone)?;
        if !same((&part.at.1.dir, &part.at.1.name), (&first.dir, &first.name))? {
            return Ok(Some(Path::new("").into()));
        }
        let Some(tree) = &part.tree else { return Ok(None) };
        let open = |place: &Place<S>| {
            let top = self.open_at(place).map_err(CrossingError::io("open", "what is held"))?;
            Ok::<_, CrossingError>(Folders::<S>::new(top))
        };
        let mut arrived = open(&part.at.1)?;
        // A part that is no directory is hidden.
        let of_tree =
            |(place, tree): (_, &Option<Tree>)| tree.as_ref().map(|_| open(place)).transpose();
        let mut folders = held_at.iter().zip(held).map(of_tree).collect::<Result<Vec<_>, _>>()?;
        let trees: Vec<Option<&Tree>> = held.iter().map(Option::as_ref).collect();
        let plan = Plan::of(&trees)?;
        for (item, entry) in tree.items().zip(&plan.entries) {
            progress.check_cancel()?;
            let original = plan.item(&trees, *entry)?;
            let at = usize::from(entry.part);
            let (Some(Some(from)), Some(Some(folders))) = (trees.get(at), folders.get_mut(at))
            else {
                return Err(CrossingError::SourceChanged);
            };
            let now = arrived.open(storage, &tree.dirs, item.dir)?;
            let then = folders.open(storage, &from.dirs, original.dir)?;
            if !same((&now, item.name), (&then, original.name))? {
                return Ok(Some(tree.dirs.path(item.dir).join(item.name).into()));
            }
        }
        Ok(None)
    }
}
