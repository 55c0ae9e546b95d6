//! The switch of a crossing: COMMIT to DONE by the mover, while whoever asks for the source waits; then
//! every inode that moved, and every file that is open, is pointed at where it is now.
//!
//! Descendants of a tree are not held during the commit. Until one is pointed anew, reading it gives
//! what it was, from hold, which is the same; and nothing changes it, for the tree's lock keeps
//! operations out. Directories are pointed before what they hold, and a lookup checks that its
//! directory is where it was ([`Vfs::check_place`]): so nothing found in hold outlives the switch.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::branch::FileKind;
use crate::error::Errno;
use crate::mover::{Crossed, Moved, Prepared};
use crate::storage::real::RealStorage;
use crate::types::Caller;
use crate::view::inode::Name;
use crate::view::locks::LockGuard;
use crate::view::{Inode, Invalidation, Part, Parts, Place};

use super::Vfs;
use super::remove::Occupied;
use super::site::{Site, Standing};

impl Vfs {
    /// As [`Vfs::switch`], and lets go of its locks, unless it is left open.
    pub(super) fn switch_locked(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        inode: &Arc<Inode>,
        (prepared, locks): (Prepared<RealStorage>, LockGuard),
    ) -> Result<(), Errno> {
        let txid = prepared.txid;
        let switched = self.switch(caller, source, target, inode, prepared);
        if switched.is_err()
            && let Some(open) = self.mover.left_open().into_iter().find(|open| open.txid == txid)
        {
            self.keep_locked([open.source, open.target], locks);
        }
        switched
    }

    /// Commits, and points the inode and what is open at the target.
    fn switch(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        inode: &Arc<Inode>,
        prepared: Prepared<RealStorage>,
    ) -> Result<(), Errno> {
        let mut place = inode.switch();
        let committed = self.mover.commit(prepared);
        source.site.parent.inode.names_changed();
        target.parent.inode.names_changed();
        let crossed = match committed {
            Ok(crossed) => crossed,
            Err(error) => {
                // Put back, unless it needs a person: then nobody shall find it by its number.
                if !self.stands_at(&source.site, &source.first) {
                    self.view.inodes.moved(inode.number, &place, &Place::Gone);
                    *place = Place::Gone;
                    drop(place);
                    self.lose_descendants(inode);
                    self.forget_names(&source.site, target);
                }
                return Err(self.crossing_failed(caller, source, target, None, &error).errno);
            }
        };
        let mut groups = crossed.moved.chunk_by(is_one_inode);
        let top = groups.next().unwrap_or_default();
        let is_top = self.known_among(top).iter().any(|known| known.number == inode.number);
        let parts = if is_top { arrived(top) } else { Vec::new() };
        let now = self.place_after(inode, parts, &crossed);
        let gone = now == Place::Gone;
        self.view.inodes.moved(inode.number, &place, &now);
        *place = now;
        self.forget_attributes(inode, &crossed);
        self.note_names(source, target, inode, &crossed);
        drop(place);
        self.give_up_directories(&crossed);
        if gone {
            self.forget_names(&source.site, target);
        }
        // Each is looked for when its turn comes: until its directory was pointed, somebody may have
        // found it in its old place.
        for group in groups {
            for descendant in self.known_among(group) {
                self.repoint(&descendant, arrived(group), &crossed);
            }
        }
        Ok(())
    }

    /// The inodes among what moved that the kernel knows.
    fn known_among(&self, moved: &[Moved]) -> Vec<Arc<Inode>> {
        let mut known: Vec<Arc<Inode>> = moved
            .iter()
            .filter_map(|Moved { from: (branch, handle), .. }| {
                self.view.inodes.find(*branch, handle)
            })
            .collect();
        known.dedup_by_key(|inode| inode.number);
        known
    }

    fn repoint(&self, inode: &Arc<Inode>, parts: Vec<Part>, crossed: &Crossed) {
        let mut place = inode.switch();
        let now = self.place_after(inode, parts, crossed);
        let gone = now == Place::Gone;
        self.view.inodes.moved(inode.number, &place, &now);
        *place = now;
        drop(place);
        self.forget_attributes(inode, crossed);
        if gone {
            self.forget_all_names(inode);
        }
    }

    /// The kernel keeps what it knew of the inode, its ACL too.
    fn forget_attributes(&self, inode: &Inode, crossed: &Crossed) {
        if crossed.attributes_differ {
            self.view.invalidate(Invalidation::Inode { number: inode.number });
        }
    }

    /// Where an inode lies after its crossing. What is open is pointed there; where that cannot be, the
    /// old inode is given up and the kernel looks the name up again. The caller holds its switch.
    fn place_after(&self, inode: &Inode, mut parts: Vec<Part>, crossed: &Crossed) -> Place {
        if let Some(first) = parts.first() {
            let members = self.view.members(self.view.domain(first.branch));
            parts.sort_by_key(|part| members.iter().position(|member| *member == part.branch));
        }
        let Some(parts) = Parts::merged(parts) else { return Place::Gone };
        // A pool may have more parts of a directory than moved as what is known.
        inode.epoch.store(0, Ordering::Release);
        if crossed.same_filesystem {
            inode.open_files().iter().for_each(|file| file.moved_to(parts.first.branch));
            return Place::Branch(parts);
        }
        match self.repoint_open(inode, &parts.first) {
            Ok(()) => Place::Branch(parts),
            Err(errno) => {
                log::debug!("inode {}: open files stay with the old one: {errno}", inode.number);
                Place::Gone
            }
        }
    }

    /// Opens the target for everyone who has the source open. Nobody can write: the crossing waited
    /// for writers, and its lease kept others out.
    fn repoint_open(&self, inode: &Inode, part: &Part) -> Result<(), Errno> {
        let open = inode.open_files();
        if open.is_empty() {
            return Ok(());
        }
        if open.iter().any(|file| file.is_passthrough()) {
            return Err(Errno::BUSY);
        }
        let branch = self.branch(part.branch)?;
        let path = || inode.path_in_branch().unwrap_or_default();
        let node = branch.open_node(&part.handle, inode.kind, path)?;
        for file in open {
            file.repoint(branch.open_file(node.as_fd(), rustix::fs::OFlags::RDONLY)?, part.branch);
        }
        Ok(())
    }

    fn stands_at(&self, site: &Site<'_>, standing: &Standing) -> bool {
        let found = self.standings(&site.parent, &site.name);
        found.is_ok_and(|found| found.first().is_some_and(|first| first.is(standing)))
    }

    /// Nobody knows where what lies below a directory is: new opens get ESTALE.
    pub(super) fn lose_descendants(&self, top: &Inode) {
        if top.kind != FileKind::Directory {
            return;
        }
        for inode in self.view.inodes.collect(|inode| is_below(inode, top.number)) {
            let mut place = inode.switch();
            self.view.inodes.moved(inode.number, &place, &Place::Gone);
            *place = Place::Gone;
        }
    }

    fn note_names(
        &self,
        source: &Occupied<'_>,
        target: &Site<'_>,
        inode: &Arc<Inode>,
        crossed: &Crossed,
    ) {
        for (branch, handle) in &crossed.displaced {
            if let Some(displaced) = self.view.inodes.find(*branch, handle) {
                displaced.remove_name(&target.parent.inode, &target.name);
            }
        }
        let from = (&*source.site.parent.inode, &*source.site.name);
        inode.change_name(from, (&target.parent.inode, &*target.name));
    }

    /// To the kernel a directory that was replaced is dead while anybody has it, and nothing can be made in
    /// it. Should an undo bring it back, it is found by another number.
    fn give_up_directories(&self, crossed: &Crossed) {
        for (branch, handle) in &crossed.displaced {
            let Some(displaced) = self.view.inodes.find(*branch, handle) else { continue };
            if displaced.kind == FileKind::Directory {
                let mut place = displaced.switch();
                self.view.inodes.moved(displaced.number, &place, &Place::Gone);
                *place = Place::Gone;
            }
        }
    }

    /// Has the kernel look both names up again.
    fn forget_names(&self, source: &Site<'_>, target: &Site<'_>) {
        for site in [source, target] {
            self.view.invalidate(Invalidation::Entry {
                parent: site.parent.inode.number,
                name: site.name.clone(),
            });
        }
    }

    fn forget_all_names(&self, inode: &Inode) {
        for Name { parent, name, .. } in inode.names() {
            let name = name.into();
            self.view.invalidate(Invalidation::Entry { parent: parent.number, name });
        }
    }
}

/// A directory that was merged has moved from several places, one that is merged now to several.
fn is_one_inode(one: &Moved, next: &Moved) -> bool {
    one.from == next.from || one.to == next.to
}

fn arrived(moved: &[Moved]) -> Vec<Part> {
    let mut parts: Vec<Part> = moved
        .iter()
        .map(|Moved { to: (branch, handle), .. }| Part { branch: *branch, handle: handle.clone() })
        .collect();
    parts.dedup();
    parts
}

/// Whether an inode lies below a directory, by the name it was last found by.
pub(super) fn is_below(inode: &Inode, top: u64) -> bool {
    inode.ancestors().iter().any(|above| above.number == top)
}
