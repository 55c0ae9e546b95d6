//! The operations of the filesystem: facts, decision, act, record.
//!
//! One method a request, with the caller and owned or borrowed arguments; no transport's type
//! appears here, so that a test can call it as a kernel would. Every method may be called with
//! numbers the kernel was never given and names of any bytes, and answers with an errno.
//!
//! The order inside an operation is always the same: find the objects ([`site`]), ask the policy
//! ([`permit`], which records a denial), take the locks on names, act on the branch, note the change in
//! the view, record ([`record`]).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::audit_dir::AuditDir;
use crate::branch::{Branch, FileKind, Stat};
use crate::error::Errno;
use crate::ledger::Ledger;
use crate::mover::Mover;
use crate::policy::{Policy, Principal};
use crate::stats::Stats;
use crate::storage::real::RealStorage;
use crate::sys::memory;
use crate::types::{BranchIndex, Caller, PoolIndex, Time, ViewPath};
use crate::view::{Domain, Inode, Kept, Layout, Part, Parts as InodeParts, Place, Pool, View};

mod attributes;
mod audit;
mod content;
mod create;
mod crossing;
mod crossing_locks;
mod directory;
mod explain;
mod facts;
mod identity;
mod inside;
mod lane;
mod letters;
mod lookup;
#[cfg(test)]
mod model;
mod moves;
mod open;
mod out_of_reach;
mod permit;
mod place;
mod prepared;
mod queries;
mod rearrange;
mod record;
mod reload;
mod remove;
mod returning;
mod site;
mod switch;
#[cfg(test)]
pub(crate) mod tests;
mod totals;
mod undo;
mod xattr;

pub use attributes::AttributeRequest;
pub use directory::DirectoryEntry;
pub use explain::{Asking, Explained, unnamed};
pub use identity::Identities;
pub use inside::HIDDEN_LOSS;
pub use letters::SettleError;
pub use moves::{MoveError, MoveRequest, NameIn, Readied};
pub use permit::Denial;
pub use prepared::{AbortError, PreparedMove};
pub use record::RecordLevel;
pub use reload::KeptRight;
pub use undo::{UndoError, UndoPlan};

/// How long the kernel may keep names and attributes. Changes that come through the mount are seen at
/// once all the same; this bounds how late changes from outside are.
pub const TTL: Duration = Duration::from_secs(1);
/// The same for the folders that the configuration alone makes, which never change. Each walk of a path
/// asks for the attributes of the root.
const FIXED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Seconds between two times that free memory is given back whatever was forgotten: as long as the allocator would take,
/// if only somebody went on allocating. The listing of a folder of 50,000 leaves 4 MB.
const GIVE_BACK_EACH: usize = 10;

/// Seconds between two times that crossings are gone on with which a failing disk left open.
const GO_ON_EACH: usize = 10;

/// The name of the virtual audit folder in the root of the view.
pub const AUDIT_NAME: &str = ".audit";
/// The private folder in a branch's root, which does not exist for the view.
pub const PRIVATE_NAME: &str = ".octroi";

/// An inode as a reply carries it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Inode number as users see it.
    pub number: u64,
    /// Everything else; `stat.inode` and `stat.device` are the branch's and not for users.
    pub stat: Stat,
    /// How long the kernel may keep this.
    pub ttl: Duration,
}

/// A reply to open or create.
#[derive(Debug)]
pub struct Opened {
    /// The number by which reads, writes and release name it.
    pub handle: u64,
    /// Reads and writes must not go through the page cache.
    pub direct_io: bool,
    /// What the page cache has of the file is still so.
    pub keep_cache: bool,
    /// A mapping may store what the kernel has to write before the file counts as closed.
    pub stores: bool,
    /// Descriptor of the backing file for the kernel to read and write by itself.
    pub passthrough: Option<Arc<OwnedFd>>,
    /// Inode number, by which the transport shares one backing registration.
    pub number: u64,
}

/// What the kernel and the transport can do.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Read and write backing files by itself.
    pub passthrough: bool,
    /// Write what mappings have stored when a file is closed, and wait for nobody else then.
    pub stores_at_close: bool,
}

/// What a [`Vfs`] is made of; the daemon builds it.
pub struct Parts {
    /// Name of the view.
    pub name: String,
    /// In order of [`BranchIndex`], each with its place in the view, a pool's member with the pool's.
    pub branches: Vec<(ViewPath, Arc<Branch>)>,
    /// In order of the configuration.
    pub pools: Vec<Pool>,
    /// The policy in force.
    pub policy: Policy,
    /// The log.
    pub ledger: Arc<Ledger<RealStorage>>,
    /// Crossings.
    pub mover: Arc<Mover<RealStorage>>,
    /// Which operations are recorded.
    pub record: RecordLevel,
    /// Who may read `.audit`, beside root and the mounting user.
    pub readers: Vec<Principal>,
    /// The user who mounted.
    pub owner: u32,
    /// The nodes of `.audit`.
    pub audit: AuditDir,
    /// Counters, shared with the transport and `.audit`.
    pub stats: Arc<Stats>,
    /// Both names of each transaction that recovery left open: nobody may touch them.
    pub locked: Vec<ViewPath>,
}

/// The operations of one view.
pub struct Vfs {
    /// Name of the view.
    pub name: String,
    /// Counters and latencies.
    pub stats: Arc<Stats>,
    view: View,
    branches: Vec<Arc<Branch>>,
    policy: ArcSwap<Policy>,
    ledger: Arc<Ledger<RealStorage>>,
    mover: Arc<Mover<RealStorage>>,
    record: RecordLevel,
    readers: ArcSwap<Vec<Principal>>,
    owner: u32,
    identities: Identities,
    audit: audit::AuditNodes,
    denials: permit::Denials,
    out_of_reach: Mutex<out_of_reach::OutOfReach>,
    prepared: prepared::PreparedTable,
    left_open: returning::LeftOpen,
    writer_waits: crossing_locks::WriterWaits,
    /// For what outlives the call that made it.
    this: Weak<Self>,
    /// Attributes of the roots of branches and pools as they were last told.
    roots: DashMap<u64, Stat>,
    /// The access lists, then, of those that the way to other branches leads through.
    root_acls: DashMap<u64, Result<Vec<u8>, Errno>>,
    started: Time,
    kernel_io: AtomicBool,
    stores_at_close: AtomicBool,
    /// How often the view was tended.
    tended: AtomicUsize,
    /// Files that may be open at once.
    open_max: AtomicUsize,
    /// The log was told that so many are open.
    open_all: AtomicBool,
}

impl Vfs {
    /// Builds the view's state. The receiver must be drained by the transport.
    pub fn new(
        parts: Parts,
    ) -> (Arc<Self>, crossbeam_channel::Receiver<crate::view::Invalidation>) {
        let pooled = |index| parts.pools.iter().any(|pool| pool.members.contains(&index));
        let alone = parts.branches.iter().enumerate().filter_map(|(index, (at, _))| {
            let index = BranchIndex(index as u16);
            (!pooled(index)).then(|| (at.clone(), Domain::Branch(index)))
        });
        let pools = parts.pools.iter().enumerate();
        let pools = pools.map(|(at, pool)| (pool.at.clone(), Domain::Pool(PoolIndex(at as u16))));
        let layout = Layout::new(alone.chain(pools));
        let (view, invalidations) = View::new(layout, parts.pools);
        let policy = Arc::new(parts.policy);
        parts.audit.show_policy(Arc::clone(&policy), None);
        let vfs = Arc::new_cyclic(|this| Self {
            name: parts.name,
            stats: parts.stats,
            view,
            branches: parts.branches.into_iter().map(|(_, branch)| branch).collect(),
            policy: ArcSwap::new(policy),
            ledger: parts.ledger,
            mover: parts.mover,
            record: parts.record,
            readers: ArcSwap::from_pointee(parts.readers),
            owner: parts.owner,
            identities: Identities::new(),
            audit: audit::AuditNodes::new(parts.audit),
            denials: permit::Denials::default(),
            out_of_reach: Mutex::default(),
            prepared: prepared::PreparedTable::default(),
            left_open: returning::LeftOpen::default(),
            writer_waits: crossing_locks::WriterWaits::default(),
            this: Weak::clone(this),
            roots: DashMap::new(),
            root_acls: DashMap::new(),
            started: now(),
            kernel_io: AtomicBool::new(true),
            stores_at_close: AtomicBool::new(false),
            tended: AtomicUsize::new(0),
            open_max: AtomicUsize::new(usize::MAX),
            open_all: AtomicBool::new(false),
        });
        vfs.enter_folders();
        vfs.lock_names(parts.locked);
        (vfs, invalidations)
    }

    /// Puts the folders of the layout into the inode table.
    fn enter_folders(&self) {
        for (index, folder) in self.view.layout.iter() {
            let place = match folder.domain {
                Some(domain) => self.root_place(domain),
                None => Place::Virtual,
            };
            let parent = folder.path.parent().and_then(|path| self.folder_inode(&path));
            let name = parent.as_ref().zip(folder.path.name());
            self.view.inodes.add_folder(index, place, name);
        }
    }

    /// The roots of a domain's branches that are online.
    fn root_place(&self, domain: Domain) -> Place {
        let members = self.view.members(domain);
        let parts = members.into_iter().filter_map(|branch| self.root_part(branch));
        InodeParts::merged(parts).map_or(Place::Gone, Place::Branch)
    }

    fn root_part(&self, branch: BranchIndex) -> Option<Part> {
        let handle = self.branch(branch).ok()?.root_handle().ok()?;
        Some(Part { branch, handle })
    }

    /// Has the folders of the layout show the branches that are online now.
    fn renew_folders(&self) {
        for (index, folder) in self.view.layout.iter() {
            let (Some(domain), Some(inode)) = (folder.domain, self.view.inodes.get(index.number()))
            else {
                continue;
            };
            let now = self.root_place(domain);
            if now == Place::Gone || *inode.place() == now {
                continue;
            }
            let mut place = inode.switch();
            self.view.inodes.moved(inode.number, &place, &now);
            *place = now;
        }
    }

    fn folder_inode(&self, path: &ViewPath) -> Option<Arc<Inode>> {
        let mut index = crate::view::LayoutIndex::ROOT;
        for name in path.components() {
            index = self.view.layout.child(index, name)?;
        }
        self.view.inodes.get(index.number())
    }

    fn branch(&self, index: BranchIndex) -> Result<&Arc<Branch>, Errno> {
        self.branches.get(usize::from(index.0)).ok_or(Errno::IO)
    }

    fn policy(&self) -> arc_swap::Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// The kernel no longer needs an inode for `count` of the times it was told of it. Asks no disk; what comes
    /// back is to be dropped where that may take long.
    pub fn forget(&self, number: u64, count: u64) -> Option<Kept> {
        let kept = self.view.inodes.forget(number, count);
        self.forget_audit(number);
        let branches = kept.iter().flat_map(Kept::branches);
        branches
            .filter_map(|index| self.branch(index).ok())
            .for_each(|branch| branch.note_removed());
        kept
    }

    /// How many descriptors are kept of what has no name any more.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.view.inodes.kept.all()
    }

    /// What the kernel can do.
    pub fn set_kernel(&self, kernel: Kernel) {
        self.set_kernel_io(kernel.passthrough);
        self.stores_at_close.store(kernel.stores_at_close, Ordering::Release);
    }

    /// Whether the transport can have the kernel read and write backing files by itself; if not, all
    /// branches are as `io = "checked"`.
    pub fn set_kernel_io(&self, able: bool) {
        self.kernel_io.store(able, Ordering::Release);
    }

    /// At most so many files are open at once, each of which keeps a descriptor. Without this call there is
    /// no limit.
    pub fn set_open_max(&self, files: usize) {
        self.open_max.store(files, Ordering::Release);
    }

    /// ENFILE if as many files are open as may be: for a caller who is not privileged three quarters of them, and
    /// half of them for one alone, so that no user keeps the others out; who has few open may open more, up to
    /// the last sixteenth. That is root's: somebody must be able to look.
    fn room_to_open(&self, caller: Caller) -> Result<(), Errno> {
        let all = self.open_max.load(Ordering::Acquire);
        let open = self.view.handles.open_files().saturating_add(self.view.inodes.kept.all());
        let theirs = || self.view.handles.open_files_of(caller.uid);
        let max = match caller.uid {
            0 => all,
            _ if self.is_privileged(caller.uid) || theirs() < all / 256 => {
                all.saturating_sub(all / 16)
            }
            _ if theirs() >= all / 2 => {
                log::debug!("user {} has half of the files open that may be", caller.uid);
                return Err(Errno::NFILE);
            }
            _ => all.saturating_sub(all / 4),
        };
        if open < max {
            return Ok(());
        }
        if !self.open_all.swap(true, Ordering::AcqRel) {
            log::warn!("{open} files are open, as many as may be; more are refused with ENFILE");
        }
        Err(Errno::NFILE)
    }

    /// Whether there is a descriptor for what a user owns and has no name any more: a sixteenth of them all is
    /// for that, half of it at most for one user other than root, and its last sixteenth for root alone.
    fn room_to_keep(&self, owner: u32) -> bool {
        let open_max = self.open_max.load(Ordering::Acquire);
        let counts = &self.view.inodes.kept;
        let open = self.view.handles.open_files().saturating_add(counts.all());
        let all = open_max / 16;
        let max = if owner == 0 { all } else { all.saturating_sub(all / 16) };
        let has_share = owner == 0 || counts.of(owner) < all / 2;
        has_share && counts.all() < max && open < open_max.saturating_sub(all)
    }

    /// The log is told again when half have been closed.
    fn note_room(&self) {
        if self.view.handles.open_files() < self.open_max.load(Ordering::Acquire) / 2 {
            self.open_all.store(false, Ordering::Release);
        }
    }

    /// Begins to end what waits for its rename, or is prepared for one, and can wait no longer. Called before
    /// the ledger is closed; [`Vfs::active_crossings`] tells when they have ended.
    pub fn shut_down(&self) {
        self.prepared.close();
    }

    /// To be called about once a second: drops what was prepared and nobody came for, and gives back the memory
    /// of what the kernel has forgotten. Waits for no disk.
    pub fn tend(self: &Arc<Self>) {
        let times = self.tended.fetch_add(1, Ordering::Relaxed);
        let shrunk = self.view.inodes.shrink();
        if shrunk {
            self.audit.shrink();
        }
        let packed = self.mover.pack_journal_when_quiet();
        if shrunk || packed || times % GIVE_BACK_EACH == GIVE_BACK_EACH - 1 {
            memory::give_back();
        }
        self.renew_folders();
        self.note_offline();
        self.expire_prepared_as_usual();
        self.tend_left_open();
        self.go_on_with_left_open(times % GO_ON_EACH == GO_ON_EACH - 1);
        self.note_room();
    }
}

fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time { seconds: now.as_second(), nanos: u32::try_from(now.subsec_nanosecond()).unwrap_or(0) }
}

/// The attributes of a folder that no branch provides.
fn virtual_stat(started: Time) -> Stat {
    Stat {
        device: 0,
        inode: 0,
        kind: FileKind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        block_size: 4096,
        atime: started,
        mtime: started,
        ctime: started,
        btime: started,
    }
}

/// A name that cannot be: the kernel never sends it, a hostile caller of the transport might.
fn check_name(name: &OsStr) -> Result<(), Errno> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name);
    if bytes.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    if bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.contains(&b'/')
        || bytes.contains(&0)
    {
        return Err(Errno::INVAL);
    }
    Ok(())
}
