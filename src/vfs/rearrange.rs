//! A rename inside a pool: one rename(2) where one member is concerned, else a transaction, so that
//! all members have the new name or none.

use std::os::fd::AsFd;

use crate::branch::RenameFlags;
use crate::error::Errno;
use crate::mover::RearrangeRequest;
use crate::sys::process::exe_of;
use crate::types::Caller;

use super::Vfs;
use super::crossing::name_of;
use super::remove::Occupied;
use super::site::{Site, Standing};
use super::switch::is_below;

impl Vfs {
    /// Renames within a branch or pool. What has the source's name stays on its members, shadows too;
    /// `there` is what stands at the target.
    pub(super) fn rename_parts(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        there: &[Standing],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let from = source.part(&source.first)?;
        let one_member =
            source.more.is_empty() && there.iter().all(|standing| standing.index == from.index);
        if source.site.parent.incomplete && source.is_directory() {
            // An offline member may have a part of it, which would stay behind.
            return Err(Errno::IO);
        }
        if one_member {
            return self.with_part(&target.parent, from.index, |to| {
                let source = (from.as_fd(), source.site.name.as_os_str());
                from.branch.rename(source, (to.as_fd(), &target.name), flags)
            });
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            return Err(Errno::INVAL);
        }
        if flags.contains(RenameFlags::NOREPLACE) && !there.is_empty() {
            return Err(Errno::EXIST);
        }
        if there.first().is_some_and(|standing| standing.is(&source.first)) {
            // Two hard links of one file: nothing is done.
            return Ok(());
        }
        self.check_replaceable(source, target, there)?;
        self.rearrange(caller, source, target, there)
    }

    /// What rename(2) asks of both ends.
    fn check_replaceable(
        &self,
        source: &Occupied<'_>,
        target: &Site<'_>,
        there: &[Standing],
    ) -> Result<(), Errno> {
        if let Some(inode) = &source.inode
            && (target.parent.inode.number == inode.number
                || is_below(&target.parent.inode, inode.number))
        {
            return Err(Errno::INVAL);
        }
        match (source.is_directory(), there.first().map(Standing::is_directory)) {
            (true, Some(false)) => return Err(Errno::NOTDIR),
            (false, Some(true)) => return Err(Errno::ISDIR),
            (_, None) | (true, Some(true)) | (false, Some(false)) => {}
        }
        for standing in there {
            // What a directory hides nobody has seen, and nobody may lose.
            let hidden = source.is_directory() && !standing.is_directory();
            let branch = self.branch(standing.index)?;
            let node = standing.found.node.as_fd();
            if hidden || (standing.is_directory() && !branch.is_empty(node)?) {
                return Err(Errno::NOTEMPTY);
            }
        }
        Ok(())
    }

    fn rearrange(
        &self,
        caller: Caller,
        source: &Occupied<'_>,
        target: &Site<'_>,
        there: &[Standing],
    ) -> Result<(), Errno> {
        let mut moves = Vec::new();
        for standing in source.standings() {
            let from = name_of(&source.site, source.part(standing)?)?;
            let to =
                self.with_part(&target.parent, standing.index, |part| name_of(target, part))?;
            moves.push((from, to));
        }
        let displace = there
            .iter()
            .filter_map(|standing| target.parent.part_on(standing.index))
            .map(|part| name_of(target, part))
            .collect::<Result<Vec<_>, _>>()?;
        let request = RearrangeRequest {
            caller,
            exe: exe_of(caller.pid),
            source: source.site.path.clone(),
            target: target.path.clone(),
            moves,
            displace,
        };
        self.mover.rearrange(request).map(drop).map_err(|error| {
            log::warn!("rename of {} to {}: {error}", source.site.path, target.path);
            error.errno()
        })
    }
}
