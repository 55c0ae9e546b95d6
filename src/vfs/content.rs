//! Reading and writing open files, and making what was written durable.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::thread::CapabilitySet;

use crate::branch::{Branch, FallocateMode, Whence};
use crate::error::Errno;
use crate::ledger::Record;
use crate::sys::identity::WriterGuard;
use crate::sys::process::{Rights, exe_of, is_capable};
use crate::types::{Caller, Operation};
use crate::view::{Invalidation, OpenFile, UNSETTLED, in_epoch};

use super::Vfs;
use super::facts::{About, Asked, Size};
use super::permit::Question;

/// The most that one read gives, in bytes: what the kernel asks for at most.
const READ_MAX: usize = 1 << 20;

/// Marks of decisions under way; no generation is as large.
static DECIDING: AtomicU64 = AtomicU64::new(1 << 63);

/// Bytes that are copied at once; whoever wants more asks again. Until it is done a process cannot be killed: a disk of
/// 100 MB/s takes 0.7 s.
const COPY_MAX: u64 = 64 << 20;

impl Vfs {
    fn file(&self, handle: u64) -> Result<Arc<OpenFile>, Errno> {
        self.view.handles.file(handle).ok_or(Errno::BADF)
    }

    fn branch_of(&self, file: &OpenFile) -> Result<&Arc<Branch>, Errno> {
        self.branch(file.branch())
    }

    /// Takes the set-id bits that a caller may not keep on what it changes.
    pub(super) fn clear_set_id(
        &self,
        caller: Caller,
        branch: &Branch,
        file: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        if branch.stat(file)?.mode & 0o6000 == 0 || is_capable(caller, CapabilitySet::FSETID) {
            return Ok(());
        }
        branch.clear_set_id(file, |gid| self.is_in_group(caller, gid))
    }

    /// Whether a group is the caller's: the process says so, and where it cannot be asked the user database.
    pub(super) fn is_in_group(&self, caller: Caller, gid: u32) -> bool {
        let known = || self.identities.groups(caller.uid).unwrap_or_default().contains(&gid);
        let held = |rights: Rights| rights.groups.contains(&gid);
        caller.gid == gid || Rights::of(caller).map_or_else(|_| known(), held)
    }

    /// Reads up to `size` bytes; fewer only at the end.
    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        if let Some(bytes) = self.read_audit(handle, offset, size) {
            return bytes;
        }
        let file = self.file(handle)?;
        if file.mark.load(Ordering::Acquire) != 0 {
            let mark = file.mark.swap(0, Ordering::AcqRel);
            file.inode.cached.store(mark, Ordering::Release);
        }
        let mut buffer = vec![0; (size as usize).min(READ_MAX)];
        let descriptor = file.descriptor();
        let read = self.branch_of(&file)?.read_at(descriptor.as_fd(), &mut buffer, offset)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Writes all of `bytes` at an offset, `None` for wherever the file ends (O_APPEND). The handle's
    /// decision is asked again when the policy has changed since;
    /// that holds for stores through a shared mapping too, which come late and without their caller.
    /// `kill_set_id` is the kernel's word that the writer may not keep set-id bits.
    pub fn write(
        &self,
        caller: Caller,
        handle: u64,
        offset: Option<u64>,
        bytes: &[u8],
        kill_set_id: bool,
    ) -> Result<u32, Errno> {
        let mapped = caller.pid == 0;
        let length = bytes.len() as u64;
        let written = match offset {
            None => Size::Appended(length),
            Some(offset) => Size::Reaches(offset.saturating_add(length)),
        };
        let file =
            self.writable(caller, handle, Operation::WriteData, written).inspect_err(|_| {
                if mapped && let Ok(file) = self.file(handle) {
                    // The store is in the page cache already and must not be read from there.
                    file.inode.cached.store(0, Ordering::Release);
                    self.view.invalidate(Invalidation::Inode { number: file.inode.number });
                }
            })?;
        let descriptor = file.descriptor();
        let branch = self.branch_of(&file)?;
        let cleared = match kill_set_id {
            true => branch.clear_set_id(descriptor.as_fd(), |gid| self.is_in_group(caller, gid)),
            false => Ok(()),
        };
        let write = |done: usize| {
            let rest = bytes.get(done..).unwrap_or_default();
            let offset = offset.map(|offset| offset.saturating_add(done as u64));
            self.fill(caller, &file, rest.len() as u64, || match offset {
                Some(offset) if mapped => branch.write_mapped_at(descriptor.as_fd(), rest, offset),
                _ => branch.write_at(descriptor.as_fd(), rest, offset),
            })
        };
        let write_all = |()| {
            let first = write(0)?;
            // What a full disk took a part of is continued as if it had taken none.
            Ok(match first < bytes.len() {
                true => first.saturating_add(write(first).unwrap_or(0)),
                false => first,
            })
        };
        let written = cleared.and_then(write_all);
        if mapped && let Err(errno) = written {
            // The page cache has what the branch has not: the next open drops it.
            file.inode.cached.store(0, Ordering::Release);
            if !file.lost.swap(true, Ordering::AcqRel)
                && let Some(path) = file.inode.last_path()
            {
                log::error!("{path}: what was stored through a mapping is lost: {errno}");
            }
        }
        self.wrote(&file, caller, Operation::WriteData, written)
    }

    /// Does something to the content of an open file that takes room, as the caller (who opened it, for what
    /// comes without one): what its file system reserves for root is not theirs.
    fn fill<T>(
        &self,
        caller: Caller,
        file: &OpenFile,
        bytes: u64,
        act: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let who = if caller.pid == 0 { file.opener } else { caller };
        self.with_room(who, file.branch(), bytes, || {
            let _writer = WriterGuard::assume(who.uid);
            act()
        })
    }

    /// Counts what was written through a handle, and records its first write, also one that failed.
    fn wrote(
        &self,
        file: &OpenFile,
        caller: Caller,
        operation: Operation,
        written: Result<usize, Errno>,
    ) -> Result<u32, Errno> {
        file.written.fetch_add(written.unwrap_or(0) as u64, Ordering::Relaxed);
        if !file.wrote.swap(true, Ordering::AcqRel) {
            self.record_on(file, caller, operation, written.map(drop));
        }
        u32::try_from(written?).map_err(|_| Errno::INVAL)
    }

    /// The open file of a handle that may still be written.
    fn writable(
        &self,
        caller: Caller,
        handle: u64,
        operation: Operation,
        size: Size,
    ) -> Result<Arc<OpenFile>, Errno> {
        let file = self.file(handle)?;
        if !file.writable {
            return Err(Errno::BADF);
        }
        let (epoch, generation) = in_epoch(|| self.policy().generation());
        // Another policy, another name, or another one of a folder above.
        let changed = file.generation.load(Ordering::Acquire) != generation
            || file.epoch.load(Ordering::Acquire) != epoch
            || epoch == UNSETTLED;
        // Whoever gives the file another name meanwhile, or decides too, takes this mark away.
        let deciding = changed.then(|| DECIDING.fetch_add(1, Ordering::Relaxed));
        if let Some(deciding) = deciding {
            file.generation.store(deciding, Ordering::Release);
        }
        if changed || operation != Operation::WriteData || file.watched.load(Ordering::Acquire) {
            let who = if caller.pid == 0 { file.opener } else { caller };
            let facts = Asked { size, ..Asked::of(About::Open(self, &file)) };
            self.permit_inode(who, operation, &file.inode, &facts)?;
        }
        if let Some(deciding) = deciding {
            let watch = self.write_watch(file.opener, &file.inode);
            file.watched.store(watch.conditions, Ordering::Release);
            file.epoch.store(epoch, Ordering::Release);
            let (mark, done) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = file.generation.compare_exchange(deciding, generation, mark, done);
        }
        self.ready_to_record()?;
        Ok(file)
    }

    /// Records an operation on an open file under the newest of its names.
    fn record_on(
        &self,
        file: &OpenFile,
        caller: Caller,
        operation: Operation,
        result: Result<(), Errno>,
    ) {
        let Some(path) = file.inode.last_path() else { return };
        let caller = if caller.pid == 0 { file.opener } else { caller };
        let branch = Some(file.branch());
        let question = Question { caller, path: &path, branch, is_directory: false, target: None };
        let Some(durability) = self.is_recorded(operation, &question, result) else { return };
        let exe = exe_of(caller.pid);
        if caller.pid == file.opener.pid {
            let _ = file.exe.set(exe.clone());
        }
        let mut record = self.operation_record(operation, &question, result, exe);
        record.open_file = Some(file.number);
        self.append(Record::Operation(Box::new(record)), durability);
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(
        &self,
        caller: Caller,
        handle: u64,
        offset: u64,
        length: u64,
        mode: FallocateMode,
    ) -> Result<(), Errno> {
        let reached = Size::Reaches(offset.saturating_add(length));
        let file = self.writable(caller, handle, Operation::Fallocate, reached)?;
        let descriptor = file.descriptor();
        let branch = self.branch_of(&file)?;
        let result = self.clear_set_id(caller, branch, descriptor.as_fd()).and_then(|()| {
            self.fill(caller, &file, length, || {
                branch.fallocate(descriptor.as_fd(), mode, offset, length)
            })
        });
        self.record_on(&file, caller, Operation::Fallocate, result);
        result
    }

    /// The next data or hole at or after an offset. ENXIO beyond the end. All is data while somebody may have
    /// the file mapped for writing.
    pub fn seek(&self, handle: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let file = self.file(handle)?;
        let descriptor = file.descriptor();
        let branch = self.branch_of(&file)?;
        if !file.inode.may_be_mapped() {
            return branch.seek(descriptor.as_fd(), offset, whence);
        }
        let size = branch.stat(descriptor.as_fd())?.size;
        match whence {
            _ if offset >= size => Err(Errno::NXIO),
            Whence::Data => Ok(offset),
            Whence::Hole => Ok(size),
        }
    }

    /// Copies within a branch or pool, sharing blocks where the file system can. EXDEV across branches, so
    /// that the tool falls back to reads and writes that are checked.
    pub fn copy_file_range(
        &self,
        caller: Caller,
        (source, source_offset): (u64, u64),
        (target, target_offset): (u64, u64),
        length: u64,
    ) -> Result<u32, Errno> {
        let from = self.file(source)?;
        if !from.readable {
            return Err(Errno::BADF);
        }
        let reached = Size::Reaches(target_offset.saturating_add(length));
        let to = self.writable(caller, target, Operation::CopyFileRange, reached)?;
        if self.view.domain(from.branch()) != self.view.domain(to.branch()) {
            return Err(Errno::XDEV);
        }
        let branch = self.branch_of(&to)?;
        let descriptor = to.descriptor();
        let cleared = self.clear_set_id(caller, branch, descriptor.as_fd());
        let length = length.min(COPY_MAX);
        let copy = || {
            branch.copy_range(
                (from.descriptor().as_fd(), source_offset),
                (descriptor.as_fd(), target_offset),
                length as usize,
            )
        };
        let copied = cleared.and_then(|()| self.fill(caller, &to, length, copy));
        self.wrote(&to, caller, Operation::CopyFileRange, copied)
    }

    /// Makes an open file durable.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        if self.is_audit_handle(handle) {
            return Ok(());
        }
        let file = self.file(handle)?;
        let descriptor = file.descriptor();
        self.branch_of(&file)?.fsync(descriptor.as_fd(), data_only)
    }
}
