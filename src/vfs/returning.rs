//! Branches that come back while the view is mounted, and the names of transactions that wait for
//! one.

use std::os::fd::AsFd;

use crate::types::{BranchIndex, ViewPath};
use crate::view::Place;
use crate::view::locks::{Holder, Lock};

use super::Vfs;

impl Vfs {
    /// To be called when a branch has come online again, its transactions recovered.
    pub fn branch_returned(&self, index: BranchIndex) {
        self.renew_folders();
        // Else what was noted of it would count again, should it leave before the next look.
        self.note_offline();
        self.lock_left_open();
        self.give_up_old_files(index);
    }

    /// What is still open from before the branch left may be on a file system that is gone for good, and
    /// is not what the same name leads to now. Who opens it anew must not share with who has it
    /// open; on ESTALE the kernel looks the name up again, and gets another number.
    fn give_up_old_files(&self, index: BranchIndex) {
        let Some(branch) = self.branch(index).ok() else { return };
        let Ok(device) = branch.device() else { return };
        for file in self.view.handles.files() {
            if file.inode.place().branch() != Some(index) {
                continue;
            }
            let stat = branch.stat(file.descriptor().as_fd());
            if stat.is_ok_and(|stat| stat.device == device) {
                continue;
            }
            let mut place = file.inode.switch();
            if place.branch() == Some(index) {
                self.view.inodes.moved(file.inode.number, &place, &Place::Gone);
                *place = Place::Gone;
            }
        }
    }

    /// Locks the names of transactions that are open though nobody is at them, and releases those of
    /// transactions that have ended.
    pub(super) fn lock_left_open(&self) {
        let open = self.mover.left_open();
        let mut names: Vec<ViewPath> =
            open.into_iter().flat_map(|record| [record.source, record.target]).collect();
        let mut held = self.left_open.lock();
        held.retain(|(path, _)| names.contains(path));
        names.retain(|path| !held.iter().any(|(known, _)| known == path));
        drop(held);
        self.lock_names(names);
    }

    /// Names in an offline branch cannot be locked, and need it only when it is back.
    pub(super) fn lock_names(&self, paths: Vec<ViewPath>) {
        for path in paths {
            let (Some(folder), Some(name)) = (path.parent(), path.name()) else { continue };
            let Ok(folder) = self.walk(&folder) else { continue };
            let above = folder.ancestors().into_iter().map(|above| above.number);
            let above = std::iter::once(folder.number).chain(above).map(Lock::Folder).collect();
            let name = vec![Lock::Name(folder.number, name.to_owned())];
            match self.view.locks.take(Holder::Crossing, &[&folder], name, above) {
                Ok(guard) => self.left_open.lock().push((path, guard)),
                // Two open transactions share a name: it is locked already.
                Err(errno) => log::debug!("{path}: {errno}"),
            }
        }
    }
}
