//! The driver's branches that go offline and come back, and what is asked of them meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::branch::{BranchError, FileKind};
use crate::error::Errno;
use crate::mover::MoverBranch;
use crate::storage::real::RealDir;

use super::run::Run;
use super::tree::{Errors, Id, Store, Verdict};

impl Run {
    /// One more branch goes offline.
    pub(super) fn leave(&mut self, nth: usize) -> Verdict {
        let store = nth % self.world.backing.len();
        if self.world.model.away.len() > 1 || self.world.model.away.contains(&store) {
            return Ok(());
        }
        self.end_lists_on(store)?;
        let branch = Arc::clone(&self.world.vfs.branches[store]);
        let (name, path) = (branch.name().to_owned(), branch.spec().path.clone());
        branch.go_offline(&BranchError::Elsewhere { name, path });
        self.world.vfs.mover.branch_left(branch.spec().index);
        self.world.vfs.tend();
        self.world.model.away.insert(store);
        Ok(())
    }

    /// All that are offline come back.
    pub(super) fn come_back(&mut self) -> Verdict {
        let away = std::mem::take(&mut self.world.model.away);
        for store in away {
            self.end_lists_on(store)?;
            if self.is_pool_store(store) {
                // What was made meanwhile may be hidden by what comes back: the kernel looks anew.
                (0..self.files.len()).for_each(|slot| self.close(slot));
                self.refresh()?;
            }
            self.return_branch(store)?;
            let model = &mut self.world.model;
            let directories: Vec<Id> = model.objects.keys().copied().collect();
            // The newest time of all parts is seen, and they have changed apart.
            directories
                .into_iter()
                .filter(|id| model.is_pooled(*id) && model.directory(*id).is_some())
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|id| model.touch(id));
        }
        Ok(())
    }

    fn return_branch(&mut self, store: Store) -> Verdict {
        let vfs = &self.world.vfs;
        let branch = &vfs.branches[store];
        let returning = branch.look_again().map_err(|error| format!("store {store}: {error}"))?;
        if let (Some([root, stage, hold]), Some(uuid)) = (returning.folders(), branch.uuid()) {
            let open = |folder: std::os::fd::BorrowedFd<'_>| {
                RealDir::from_fd(folder.as_fd()).map_err(|error| format!("{error:?}"))
            };
            let _recovery = vfs.mover.branch_returned(MoverBranch {
                index: branch.spec().index,
                uuid,
                name: branch.name().to_owned(),
                root: open(root)?,
                stage: open(stage)?,
                hold: open(hold)?,
                min_free: 0,
            });
        }
        branch.come_online(returning);
        vfs.branch_returned(branch.spec().index);
        Ok(())
    }

    fn is_pool_store(&self, store: Store) -> bool {
        let domains = &self.world.model.domains;
        domains.iter().any(|domain| domain.stores.contains(&store) && domain.place.is_some())
    }

    fn end_lists_on(&mut self, store: Store) -> Verdict {
        let model = &self.world.model;
        let domain = model.domains.iter().position(|domain| domain.stores.contains(&store));
        let there = |id: Id| model.object(id).domain == domain;
        let slots = 0..self.lists.len();
        let ending: Vec<usize> = slots
            .filter(|at| self.lists[*at].as_ref().is_some_and(|list| there(list.id)))
            .collect();
        ending.into_iter().try_for_each(|slot| self.list_end(slot))
    }

    /// What a look-up may give, where branches are offline; `otherwise` where that plays no part.
    pub(super) fn lookup_errors(
        &self,
        parent: Id,
        name: &OsStr,
        child: Option<Id>,
        otherwise: Errors,
    ) -> Errors {
        let model = &self.world.model;
        match child {
            Some(id) if model.object(id).fixed => {
                let closed = model.is_dark(id) && !model.leads_on(id);
                return if closed { vec![Errno::IO] } else { otherwise };
            }
            _ if model.is_dark(parent) => return vec![Errno::IO, Errno::NOENT, Errno::NAMETOOLONG],
            _ => {}
        }
        if !model.is_ghost(parent, name) {
            return otherwise;
        }
        // What the kernel knew when its member left is not taken for absent. A file with several names
        // may be known by another.
        let mut there = model.layers(parent, name).into_values();
        let known = there.all(|id| model.object(id).is_known() && model.names(id) == 1);
        if known { vec![Errno::IO] } else { vec![Errno::IO, Errno::NOENT] }
    }

    pub(super) fn readlink(&mut self, at: &[OsString]) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let model = &self.world.model;
        let mut errors = Vec::new();
        if model.object(id).kind() != FileKind::Symlink {
            errors.push(Errno::INVAL);
        }
        errors.extend(model.is_dark(id).then_some(Errno::IO));
        let result = self.world.vfs.readlink(self.number(id)?);
        match (self.judge("readlink", &errors, result)?, &self.world.model.object(id).body) {
            (Some(found), super::tree::Body::Symlink(text)) if found != *text => {
                Err(format!("{id} says {found:?}; the model expects {text:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Space: that of the file systems of a branch or pool, each once.
    pub(super) fn space(&mut self, at: &[OsString]) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        let model = &self.world.model;
        let Some(domain) = model.object(id).domain else { return Ok(()) };
        let near = model.domains[domain].stores.iter().filter(|at| !model.away.contains(at));
        let mut disks: Vec<_> = near.map(|store| (self.world.disk(*store), *store)).collect();
        disks.dedup_by_key(|(disk, _)| *disk);
        let dark = model.is_dark(id);
        let result = self.world.vfs.statfs(self.number(id)?);
        let errors = if dark && !model.is_pooled(id) { vec![Errno::IO] } else { vec![] };
        let Some(found) = self.judge("statfs", &errors, result)? else { return Ok(()) };
        if let [(_, store)] = disks[..] {
            let path = &self.world.backing[store];
            let wanted = rustix::fs::statvfs(path).map_err(|errno| format!("statvfs: {errno}"))?;
            let total = found.blocks * u64::from(found.block_size);
            if total != wanted.f_blocks * wanted.f_frsize || found.name_max != 255 {
                return Err(format!(
                    "{id} has {found:?}; it should have {} blocks",
                    wanted.f_blocks
                ));
            }
        }
        Ok(())
    }
}
