//! open, create, release of regular files.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use crate::branch::{Branch, FileKind, Stat};
use crate::error::Errno;
use crate::policy::WriteWatch;
use crate::sys::process;
use crate::types::{BranchIndex, BranchIo, Caller, Operation, Time};
use crate::view::handles::UNKNOWN;
use crate::view::locks::Lock;
use crate::view::{Inode, OpenFile, Place};

use super::facts::{About, Asked};
use super::permit::Question;
use super::record::RecordLevel;
use super::site::{OpenPart, Purpose};
use super::{Attributes, Opened, Vfs};

/// The kernel's `__FMODE_EXEC` (include/linux/fs.h), which an open for execve(2) carries.
const FMODE_EXEC: u32 = 0x20;

/// What an open asks for, from its flags.
#[derive(Debug, Clone, Copy)]
struct Access {
    read: bool,
    write: bool,
    exec: bool,
    /// Flags that the branch is told: access, the synchronous ones, and whether all writes append.
    backing: OFlags,
}

impl Access {
    fn of(flags: u32) -> Result<Self, Errno> {
        let all = OFlags::from_bits_retain(flags);
        let mode = all & OFlags::RWMODE;
        let (read, write) = match mode {
            OFlags::RDONLY => (true, false),
            OFlags::WRONLY => (false, true),
            OFlags::RDWR => (true, true),
            _ => return Err(Errno::INVAL),
        };
        let kept = OFlags::SYNC | OFlags::DSYNC | OFlags::APPEND;
        Ok(Self { read, write, exec: flags & FMODE_EXEC != 0, backing: mode | (all & kept) })
    }

    fn operations(self) -> impl Iterator<Item = Operation> {
        let reading = match (self.exec, self.read) {
            (true, _) => Some(Operation::Exec),
            (false, true) => Some(Operation::OpenRead),
            (false, false) => None,
        };
        let writing = self.write.then_some(Operation::OpenWrite);
        reading.into_iter().chain(writing)
    }

    /// What the record of the open is called.
    fn main_operation(self) -> Operation {
        match self {
            Self { write: true, .. } => Operation::OpenWrite,
            Self { exec: true, .. } => Operation::Exec,
            _ => Operation::OpenRead,
        }
    }
}

/// A file that was opened in its branch and is not in the table yet.
struct Opening {
    caller: Caller,
    inode: Arc<Inode>,
    branch: BranchIndex,
    descriptor: OwnedFd,
    access: Access,
    /// Of the policy that allowed it.
    generation: u64,
    /// The daemon reads and writes, whatever the branch says.
    stays: bool,
    watch: WriteWatch,
    /// See [`content_mark`].
    mark: u64,
}

/// Seconds after which one more change of a file surely has another time than the last: the coarsest
/// file system that counts here ([`Branch::shows_changes`]) keeps seconds.
const TELLS_APART: i64 = 2;

/// Tells content of files apart, so that the kernel need not read again what it has: another inode, size or
/// time is another mark. 0 while one more change could still leave the times as they are, and where the file
/// has a name that may be outside the branch.
fn content_mark(stat: &Stat, now: Time) -> u64 {
    if stat.nlink > 1 || now.seconds.saturating_sub(stat.ctime.seconds) < TELLS_APART {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    let inode = (stat.device, stat.inode, stat.btime);
    (inode, stat.size, stat.mtime, stat.ctime).hash(&mut hasher);
    hasher.finish()
}

impl Vfs {
    /// Opens a regular file; `flags` are open(2)'s. Never creates or truncates: for O_TRUNC the kernel
    /// sends a setattr, having made sure that the file is not being executed (ETXTBSY).
    pub fn open(&self, caller: Caller, number: u64, flags: u32) -> Result<Opened, Errno> {
        let inode = self.inode(number)?;
        if matches!(*inode.place(), Place::Audit) {
            return self.open_audit(caller, &inode, flags);
        }
        if inode.kind != FileKind::File {
            return Err(if inode.kind == FileKind::Directory {
                Errno::ISDIR
            } else {
                Errno::INVAL
            });
        }
        let access = Access::of(flags)?;
        self.room_to_open(caller)?;
        // Before the decision: else a crossing could take the file, between the two, to where it must
        // not be written. Reading keeps nobody out, and looks at the place again in the end.
        let content = vec![Lock::Content(number)];
        let lock = || self.view.locks.operation(&[&inode], vec![], content);
        let _lock = access.write.then(lock).transpose()?;
        let place = inode.place().clone();
        let facts = Asked::of(About::Inode(self, &inode));
        let generation = self.by_one_policy(|| {
            access.operations().try_fold(0, |_, operation| {
                Ok(self.permit_inode(caller, operation, &inode, &facts)?.generation)
            })
        })?;
        let watch =
            if access.write { self.write_watch(caller, &inode) } else { WriteWatch::default() };
        if access.write {
            self.ready_to_record()?;
        }
        let node = self.node(Arc::clone(&inode))?;
        let part = &node.first;
        let result = part.branch.open_file(part.as_fd(), access.backing);
        // Opening changes nothing, and the first write has a record of its own; but writes that the kernel
        // makes by itself are never seen here.
        let unseen = access.write && self.kernel_io_in(part.branch);
        if (unseen || self.record == RecordLevel::Everything)
            && let Some(path) = &inode.last_path()
        {
            let branch = Some(part.index);
            let question = Question { caller, path, branch, is_directory: false, target: None };
            let ended = result.as_ref().map(drop).map_err(|errno| *errno);
            self.record(access.main_operation(), &question, ended);
        }
        let stays = self.stays_with_daemon(caller, part, access)?;
        let descriptor = result?;
        let mark = if part.branch.shows_changes() && part.branch.io() == BranchIo::Checked {
            content_mark(&part.branch.stat(descriptor.as_fd())?, super::now())
        } else {
            0
        };
        let opening = Opening {
            caller,
            branch: part.index,
            descriptor,
            inode: Arc::clone(&inode),
            access,
            generation,
            stays,
            watch,
            mark,
        };
        // A crossing points what is in the table at the target; what comes too late for that must not
        // read on from hold. On ESTALE the kernel tries once more.
        let now = inode.place();
        if *now != place {
            return Err(Errno::STALE);
        }
        if access.exec {
            process::forget(caller.pid);
        }
        Ok(self.opened(opening))
    }

    /// Writable opens of set-id files by others than root stay with the daemon, which clears the
    /// bits: the kernel would write with the daemon's rights and leave them.
    fn stays_with_daemon(
        &self,
        caller: Caller,
        part: &OpenPart<'_>,
        access: Access,
    ) -> Result<bool, Errno> {
        if !self.kernel_io_in(part.branch) {
            return Ok(true);
        }
        let stat = part.branch.stat(part.as_fd())?;
        Ok(access.write && caller.uid != 0 && stat.mode & 0o6000 != 0)
    }

    fn kernel_io_in(&self, branch: &Branch) -> bool {
        branch.io() == BranchIo::Passthrough && self.kernel_io.load(Ordering::Acquire)
    }

    /// Puts an open file into the table. An inode is open either through the kernel or through the
    /// daemon, never both: the kernel answers EIO to a mixture.
    fn opened(&self, opening: Opening) -> Opened {
        let Opening { caller, inode, branch, descriptor, access, generation, stays, watch, mark } =
            opening;
        let known = Arc::clone(&inode);
        let _agreed = known.opening.lock();
        let others = inode.open_files();
        let through_daemon = others.iter().any(|open| !open.is_passthrough());
        let through_kernel = others.iter().any(|open| open.is_passthrough());
        // Once the kernel has the backing file of an inode, every open must name it: this one then
        // reads and writes past the page cache, by the daemon.
        let passthrough = if stays { through_kernel } else { !through_daemon };
        let number = inode.number;
        let mut file = OpenFile::new(
            inode,
            branch,
            descriptor,
            (access.read, access.write),
            passthrough,
            caller,
            generation,
        );
        if passthrough && access.write {
            file.length = self.length_of(&file).unwrap_or(UNKNOWN).into();
        }
        let (handle, file) = self.view.handles.add_file(file);
        // A reload names what the policy before allowed to be passed through. What came too late to be
        // named stays with the daemon, and is asked about again.
        let late = passthrough && self.policy().generation() != generation;
        if late && !through_kernel {
            file.passthrough.store(false, Ordering::Release);
        }
        let passthrough = passthrough && (!late || through_kernel);
        // A limit of size is asked about before the bytes are in a cache.
        let direct_io = ((stays || late) && through_kernel) || (access.write && watch.size);
        let keep_cache =
            !direct_io && !passthrough && mark != 0 && known.cached.load(Ordering::Acquire) == mark;
        if !keep_cache {
            // The kernel drops what it has once it has the reply: until it reads, others may not keep it.
            known.cached.store(0, Ordering::Release);
            file.mark.store(mark, Ordering::Release);
        }
        Opened {
            handle,
            direct_io,
            keep_cache,
            stores: access.read
                && access.write
                && !direct_io
                && self.stores_at_close.load(Ordering::Acquire),
            passthrough: passthrough.then(|| file.descriptor()),
            number,
        }
    }

    /// The kernel would not take the backing file of an open that was to be passed through: it reads and
    /// writes by the daemon, and so do those that come while it is open.
    pub fn not_passed_through(&self, handle: u64) {
        if let Some(file) = self.view.handles.file(handle) {
            file.passthrough.store(false, Ordering::Release);
        }
    }

    /// Makes a regular file and opens it in one step. EEXIST with O_EXCL, else ESTALE, for a name that is
    /// taken: on that the kernel looks it up, and opens what it finds.
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> Result<(Attributes, Opened), Errno> {
        let site = self.site(parent, name, Purpose::Add)?;
        let access = Access::of(flags)?;
        self.room_to_open(caller)?;
        let question = site.question(caller, false);
        let facts = Asked::of(About::New);
        let generation = self.by_one_policy(|| {
            let mut operations = std::iter::once(Operation::Create).chain(access.operations());
            operations.try_fold(0, |_, operation| {
                Ok(self.permit(operation, &question, &facts)?.generation)
            })
        })?;
        self.ready_to_record()?;
        let _lock = self.lock_new(&site)?;
        let result = self.place_new(caller, &site, |part| {
            self.as_caller(caller, (mode, umask), part, |creator| {
                part.branch.create(part.as_fd(), &site.name, mode, access.backing, creator)
            })
        });
        let exclusive = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        let (branch, (found, descriptor)) = match result {
            // It has come to be since the kernel looked, which takes what this answers for new and asks
            // nobody whether the caller may open it: it shall look again.
            Err(Errno::EXIST) if !exclusive => return Err(Errno::STALE),
            result => {
                self.record_new(Operation::Create, &question, &result);
                result?
            }
        };
        let attributes = self.enter(&site, branch, &found);
        let inode = self.inode(attributes.number)?;
        let set_id = mode & 0o6000 != 0 && caller.uid != 0;
        let stays = set_id || !self.kernel_io_in(self.branch(branch)?);
        let watch = self.write_watch(caller, &inode);
        let opening = Opening {
            caller,
            inode,
            branch,
            descriptor,
            access,
            generation,
            stays,
            watch,
            mark: 0,
        };
        let opened = self.opened(opening);
        Ok((attributes, opened))
    }

    /// Closes an open file and records what was written through it.
    #[cfg(any(test, fuzzing))]
    pub fn release(&self, handle: u64) {
        let closed = self.close(handle);
        self.closed(closed);
    }

    /// Closes an open file: nobody reads or writes it any more. Asks no disk; what comes back is for
    /// [`Vfs::closed`], which may.
    pub fn close(&self, handle: u64) -> Option<Arc<OpenFile>> {
        if self.release_audit(handle) {
            return None;
        }
        let file = self.view.handles.remove_file(handle)?;
        if !file.inode.has_name()
            && let Ok(branch) = self.branch(file.branch())
        {
            branch.note_removed();
        }
        Some(file)
    }

    /// Records what was written through a file that was closed, and lets go of it.
    pub fn closed(&self, file: Option<Arc<OpenFile>>) {
        if let Some(file) = file {
            self.record_totals(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_come_of_a_change_is_another_mark() {
        let at = |seconds, nanos| Time { seconds, nanos };
        let stat = Stat { nlink: 1, ..crate::vfs::virtual_stat(at(1_000, 5)) };
        let now = at(1_002, 0);
        let mark = content_mark(&stat, now);
        assert_ne!(mark, 0);
        assert_eq!(content_mark(&stat, at(5_000, 0)), mark);
        let others = [
            Stat { device: 7, ..stat },
            Stat { inode: 7, ..stat },
            Stat { btime: at(1, 0), ..stat },
            Stat { size: 7, ..stat },
            Stat { mtime: at(1_000, 4), ..stat },
            Stat { ctime: at(1_000, 4), ..stat },
        ];
        for other in others {
            assert_ne!(content_mark(&other, now), mark, "{other:?}");
        }
        // By its other name it may be changed from elsewhere.
        assert_eq!(content_mark(&Stat { nlink: 2, ..stat }, now), 0);
        // One more change could have the same times; and the clock may have been set back.
        for too_early in [at(1_001, 999_999_999), at(1_000, 5), at(-5, 0), at(i64::MIN, 0)] {
            assert_eq!(content_mark(&stat, too_early), 0);
        }
    }
}
