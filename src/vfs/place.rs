//! Where something new goes: on its branch, or on the member that the pool's placement chooses. The
//! folders above it are made there as needed.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::Errno;
use crate::mover::{Journal, Transaction, TransactionState};
use crate::types::{BranchIndex, Caller, TxId};
use crate::view::locks::{Lock, LockGuard};
use crate::view::pool::{Candidate, placement};
use crate::view::{Domain, Inode, Part, Parts, Place, Pool};

use super::Vfs;
use super::site::{Node, OpenPart, Purpose, Site, Standing};

/// Bytes that something new may take beside what it holds: XFS allots inodes by 64 of up to 512 bytes
/// (mkfs.xfs(8)), and a directory grows by a block.
pub(super) const NEW_BYTES: u64 = 64 * 1024;

/// A part of a directory that was made on one more member of its pool.
pub(super) struct MadePart {
    inode: Arc<Inode>,
    part: Part,
}

/// The parts that were made for a crossing. Dropped, they are taken away again unless it came, or may yet: to
/// be dropped after its locks.
pub(super) struct MadeGuard {
    vfs: Weak<Vfs>,
    parts: Vec<MadePart>,
    /// None as long as nothing is prepared.
    serves: Option<TxId>,
}

impl MadeGuard {
    pub(super) fn new(vfs: &Vfs) -> Self {
        Self { vfs: Weak::clone(&vfs.this), parts: Vec::new(), serves: None }
    }

    /// To note what is made.
    pub(super) fn parts(&mut self) -> &mut Vec<MadePart> {
        &mut self.parts
    }

    /// A transaction needs them.
    pub(super) fn serves(&mut self, txid: TxId) {
        self.serves = Some(txid);
    }
}

impl Drop for MadeGuard {
    fn drop(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let Some(vfs) = self.vfs.upgrade().filter(|_| !parts.is_empty()) else { return };
        let came_to_nothing = |journal: &Journal, txid| {
            let Some(Transaction { state, record, .. }) = journal.get(txid) else { return false };
            matches!(state, TransactionState::Aborted | TransactionState::Reverted)
                // It may have begun anew.
                && journal.open().all(|(_, open)| open.record.target != record.target)
        };
        let unused = |txid| vfs.with_journal(|journal| came_to_nothing(journal, txid));
        if self.serves.is_none_or(unused) {
            vfs.unmake_parts(parts);
        }
    }
}

/// How long each wait is for what was removed just now.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50)];

/// How often hold gives up something for the same: others may take the room.
const PURGES: usize = 3;

/// What somebody who takes room may still have done for it, in one branch.
pub(super) struct Patience {
    pauses: std::slice::Iter<'static, Duration>,
    pub(super) purges: std::ops::Range<usize>,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { pauses: PAUSES.iter(), purges: 0..PURGES }
    }
}

impl Vfs {
    /// Makes something at a site, where a pool's member cannot take it on the next; where all are full, what
    /// can be undone goes. EEXIST if any member has the name; ENOSPC if all are full, EROFS if they are
    /// read-only.
    pub(super) fn place_new<T>(
        &self,
        caller: Caller,
        site: &Site<'_>,
        act: impl Fn(&OpenPart<'_>) -> Result<T, Errno>,
    ) -> Result<(BranchIndex, T), Errno> {
        let parent = &site.parent;
        let Domain::Pool(_) = parent.domain else {
            let branch = parent.first.index;
            return Ok((branch, self.with_room(caller, branch, NEW_BYTES, || act(&parent.first))?));
        };
        if !self.standings(parent, &site.name)?.is_empty() {
            return Err(Errno::EXIST);
        }
        let attempt = |branch| match self.with_part(parent, branch, &act) {
            Err(errno) if passes_on(errno) => ControlFlow::Continue(errno),
            done => ControlFlow::Break(done.map(|made| (branch, made))),
        };
        let finds_room = |branch, refused: Option<&Errno>, patience: &mut Patience| {
            let why = refused.copied().unwrap_or(Errno::NOSPC);
            self.member_finds_room(caller, (parent, branch), why, NEW_BYTES, patience)
        };
        match self.on_some_member(parent, attempt, finds_room)? {
            ControlFlow::Break(done) => done,
            ControlFlow::Continue(refused) => Err(refused.last().copied().unwrap_or(Errno::NOSPC)),
        }
    }

    /// Attempts something on the members that placement chooses, in turn; where all refuse, again on each that can be
    /// written, as often as it finds room for it: none may purge before all have waited. `finds_room` is told
    /// why that one refused, if it was asked. The first `Break`, or all refusals in order.
    pub(super) fn on_some_member<T, R>(
        &self,
        parent: &Node<'_>,
        mut attempt: impl FnMut(BranchIndex) -> ControlFlow<T, R>,
        mut finds_room: impl FnMut(BranchIndex, Option<&R>, &mut Patience) -> bool,
    ) -> Result<ControlFlow<T, Vec<R>>, Errno> {
        let mut refusals = Vec::new();
        for branch in self.candidates(parent)? {
            match attempt(branch) {
                ControlFlow::Break(done) => return Ok(ControlFlow::Break(done)),
                ControlFlow::Continue(refused) => refusals.push((branch, refused)),
            }
        }
        let members = self.writable_members(parent).into_iter();
        let mut turns: VecDeque<_> = members.map(|branch| (branch, Patience::new())).collect();
        for purges in [0, PURGES] {
            turns.iter_mut().for_each(|(_, patience)| patience.purges = 0..purges);
            let mut waited = VecDeque::new();
            while let Some((branch, mut patience)) = turns.pop_front() {
                let why = refusals.iter().rev().find(|(refusing, _)| *refusing == branch);
                if !finds_room(branch, why.map(|(_, refused)| refused), &mut patience) {
                    waited.push_back((branch, patience));
                    continue;
                }
                match attempt(branch) {
                    ControlFlow::Break(done) => return Ok(ControlFlow::Break(done)),
                    ControlFlow::Continue(refused) => refusals.push((branch, refused)),
                }
                turns.push_back((branch, patience));
            }
            turns = waited;
        }
        Ok(ControlFlow::Continue(refusals.into_iter().map(|(_, refused)| refused).collect()))
    }

    /// Does something that takes room, and again where the branch was full: what was removed just now may be freed
    /// late, and hold may make room for `bytes`; what can be undone costs space, and goes first.
    pub(super) fn with_room<T>(
        &self,
        caller: Caller,
        branch: BranchIndex,
        bytes: u64,
        act: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut patience = Patience::new();
        loop {
            match act() {
                Err(Errno::NOSPC) if self.finds_room(caller, branch, bytes, &mut patience) => {}
                Err(Errno::DQUOT) if self.waits_for_removed(branch, &mut patience) => {}
                done => return done,
            }
        }
    }

    /// Whether a full branch may take so many bytes now.
    fn finds_room(
        &self,
        caller: Caller,
        branch: BranchIndex,
        bytes: u64,
        patience: &mut Patience,
    ) -> bool {
        self.waits_for_removed(branch, patience) || self.purges(caller, branch, bytes, patience)
    }

    /// Whether a member that refused so many bytes may take them now, and keep its `min_free`.
    pub(super) fn member_finds_room(
        &self,
        caller: Caller,
        (parent, branch): (&Node<'_>, BranchIndex),
        why: Errno,
        bytes: u64,
        patience: &mut Patience,
    ) -> bool {
        if !matches!(why, Errno::NOSPC | Errno::DQUOT) {
            return false;
        }
        while self.waits_for_removed(branch, patience) {
            if self.candidate(parent, branch).is_ok_and(|member| member.has_min_free()) {
                return true;
            }
        }
        why == Errno::NOSPC && self.purges(caller, branch, bytes, patience)
    }

    pub(super) fn waits_for_removed(&self, branch: BranchIndex, patience: &mut Patience) -> bool {
        let (Ok(branch), Some(pause)) = (self.branch(branch), patience.pauses.as_slice().first())
        else {
            return false;
        };
        let waited = branch.wait_for_removed(*pause);
        if waited {
            patience.pauses.next();
        }
        waited
    }

    fn purges(
        &self,
        caller: Caller,
        branch: BranchIndex,
        bytes: u64,
        patience: &mut Patience,
    ) -> bool {
        if patience.purges.next().is_none() {
            return false;
        }
        let Some(purged) = self.mover.make_room(branch, bytes, caller.uid) else { return false };
        if !purged.transactions.is_empty()
            && let Ok(branch) = self.branch(branch)
        {
            branch.note_removed();
        }
        true
    }

    /// The members that something new in a directory of a pool may go to, in the order to try. One that
    /// cannot tell its space, or is read-only, is left out; an error where that leaves none.
    fn candidates(&self, parent: &Node<'_>) -> Result<Vec<BranchIndex>, Errno> {
        let Some((_, Pool { members, place, .. })) = self.view.pool_of(parent.first.index) else {
            return Ok(vec![parent.first.index]);
        };
        let (mut candidates, mut why) = (Vec::new(), None);
        for index in members {
            match self.candidate(parent, *index) {
                Ok(candidate) => candidates.push(candidate),
                Err(errno) => why = Some(errno),
            }
        }
        match why {
            Some(errno) if candidates.is_empty() => Err(errno),
            _ => Ok(placement(*place, &candidates)),
        }
    }

    /// All members that can be written, in order: where none has its `min_free`, hold may make room on one.
    fn writable_members(&self, parent: &Node<'_>) -> Vec<BranchIndex> {
        match self.view.pool_of(parent.first.index) {
            None => vec![parent.first.index],
            Some((_, Pool { members, .. })) => {
                let able = |index: &&BranchIndex| self.candidate(parent, **index).is_ok();
                members.iter().filter(able).copied().collect()
            }
        }
    }

    fn candidate(&self, parent: &Node<'_>, index: BranchIndex) -> Result<Candidate, Errno> {
        let branch = self.branch(index)?;
        let space = branch.space_for_changes()?;
        Ok(Candidate {
            branch: index,
            free: space.blocks_available.saturating_mul(space.block_size.into()),
            min_free: branch.spec().min_free,
            has_folder: parent.part_on(index).is_some(),
        })
    }

    /// Acts in the part of a directory on a branch, which is made if it is not there yet.
    pub(super) fn with_part<T>(
        &self,
        parent: &Node<'_>,
        branch: BranchIndex,
        act: impl FnOnce(&OpenPart<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match parent.part_on(branch) {
            Some(part) => act(part),
            None => act(&self.make_part(&parent.inode, branch, &mut Vec::new())?),
        }
    }

    /// Makes a directory of a pool, and those above it, on one more member; `made` gets each that was not
    /// there. The caller holds [`Vfs::lock_new`], so that none of them is renamed or removed meanwhile.
    pub(super) fn make_part(
        &self,
        inode: &Arc<Inode>,
        branch: BranchIndex,
        made: &mut Vec<MadePart>,
    ) -> Result<OpenPart<'_>, Errno> {
        let at = self.branch(branch)?;
        let above = inode.ancestors();
        let mut way: Vec<_> = std::iter::once(inode)
            .chain(&above)
            .take_while(|inode| inode.layout.is_none())
            .collect();
        let root = at.root_node()?;
        let mut here = OpenPart::new(branch, at, root);
        while let Some(inode) = way.pop() {
            let name = inode.names().pop().ok_or(Errno::NOENT)?.name;
            let model = self.node(Arc::clone(inode))?;
            let found = match model.part_on(branch) {
                Some(_) => at.lookup(here.as_fd(), &name)?,
                None => {
                    let like = (&**model.first.branch, model.first.as_fd());
                    at.copy_folder(here.as_fd(), &name, like)?
                }
            };
            let new = model.part_on(branch).is_none();
            here = OpenPart::new(branch, at, found);
            self.add_part(inode, &here);
            if new {
                let part = Part { branch, handle: here.handle.clone() };
                made.push(MadePart { inode: Arc::clone(inode), part });
            }
        }
        Ok(here)
    }

    /// Takes away what [`Vfs::make_part`] made for something that did not come, where nobody has put
    /// anything in or is at it. The caller holds no locks.
    pub(super) fn unmake_parts(&self, made: Vec<MadePart>) {
        for MadePart { inode, part } in made.into_iter().rev() {
            if let Err(errno) = self.unmake_part(&inode, &part) {
                log::debug!("inode {}: a part that was made stays: {errno}", inode.number);
                return;
            }
        }
    }

    fn unmake_part(&self, inode: &Arc<Inode>, part: &Part) -> Result<(), Errno> {
        let name = inode.names().pop().ok_or(Errno::NOENT)?;
        let site = self.site_in(name.parent, &name.name, Purpose::Remove)?;
        let alone = vec![site.lock(), Lock::Folder(inode.number)];
        let _locks = self.view.locks.operation(&[&site.parent.inode, inode], alone, vec![])?;
        self.check_place(&site.parent)?;
        let above = site.parent.part_on(part.branch).ok_or(Errno::NOENT)?;
        let standings = self.standings(&site.parent, &site.name)?;
        let stands = |part: &Part| {
            let is =
                |found: &&Standing| found.index == part.branch && found.found.handle == part.handle;
            standings.iter().find(is).is_some_and(Standing::is_directory)
        };
        // It may have been removed and made anew meanwhile: only that very folder, and never the last.
        let known = inode.place().parts().cloned().ok_or(Errno::STALE)?;
        let others = known.iter().filter(|other| other.branch != part.branch);
        if !stands(part) || !others.into_iter().any(stands) {
            return Err(Errno::STALE);
        }
        above.branch.rmdir(above.as_fd(), &site.name)?;
        self.renew_parts(inode)
    }

    fn add_part(&self, inode: &Arc<Inode>, part: &OpenPart<'_>) {
        let mut place = inode.switch();
        let Some(parts) = place.parts() else { return };
        if parts.iter().any(|known| known.branch == part.index && known.handle == part.handle) {
            return;
        }
        let members = self.view.members(self.view.domain(part.index));
        let new = Part { branch: part.index, handle: part.handle.clone() };
        let others = parts.iter().filter(|known| known.branch != part.index).cloned();
        let mut all: Vec<_> = others.chain([new]).collect();
        all.sort_by_key(|known| members.iter().position(|member| *member == known.branch));
        let Some(now) = Parts::merged(all).map(Place::Branch) else { return };
        self.view.inodes.moved(inode.number, &place, &now);
        *place = now;
    }

    /// The locks for making a name: it, and in a pool the folders above, which may have to be made on
    /// another member.
    pub(super) fn lock_new(&self, site: &Site<'_>) -> Result<LockGuard, Errno> {
        let parent = &site.parent;
        let pins = self.pins(parent);
        let locks = self.view.locks.operation(&[&parent.inode], vec![site.lock()], pins)?;
        self.check_place(parent)?;
        Ok(locks)
    }

    /// Keeps a directory of a pool and all above it where they are.
    pub(super) fn pins(&self, node: &Node<'_>) -> Vec<Lock> {
        match node.domain {
            Domain::Branch(_) => Vec::new(),
            Domain::Pool(_) => {
                let above = node.inode.ancestors();
                let above = above.iter().take_while(|inode| inode.layout.is_none());
                let all = std::iter::once(&node.inode).chain(above);
                all.map(|inode| Lock::Folder(inode.number)).collect()
            }
        }
    }

    /// The lock for changing content or attributes.
    pub(super) fn lock_content(&self, inode: &Inode) -> Result<LockGuard, Errno> {
        self.view.locks.operation(&[inode], vec![], vec![Lock::Content(inode.number)])
    }
}

/// Whether the next member is to be tried: this one is full or has become read-only, cannot hold the
/// folder's attributes, or has something else where the folder should be made, hidden behind the
/// directory of an earlier member.
pub(super) fn passes_on(errno: Errno) -> bool {
    takes_nothing(errno) || matches!(errno, Errno::OPNOTSUPP | Errno::NOTDIR)
}

/// Whether a member is full or has become read-only.
pub(super) fn takes_nothing(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
}
