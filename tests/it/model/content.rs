//! Open files, whatever became of their names.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};

use crate::branch::FileKind;
use crate::error::{Errno, errno_name};

use super::effects::same_bytes;
use super::operation::{Access, Allocation, Op, Slot};
use super::run::{Place, Run, flags, stat_at};
use super::tree::{Errors, Id, Verdict};

/// An open file.
pub(super) struct Handle {
    pub id: Id,
    pub access: Access,
    pub descriptor: OwnedFd,
}

impl Run {
    pub(super) fn on_file(&mut self, uid: u32, op: &Op) -> Verdict {
        match op {
            Op::Create { at, mode, exclusive, access, slot, .. } => {
                self.create(uid, at, (*mode, *exclusive), *access, *slot)
            }
            Op::Open { at, access, truncate, slot } => {
                self.open(uid, at, *access, *truncate, *slot)
            }
            Op::OpenAgain { open, access, slot } => self.open_again(*open, *access, *slot),
            Op::LinkOpen { slot, to } => self.link_open(*slot, to),
            Op::ChmodOpen { slot, mode } => self.chmod_open(uid, *slot, *mode),
            Op::Truncate { at, size, .. } => self.truncate(uid, at, *size),
            Op::TruncateOpen { slot, size } => self.truncate_open(uid, *slot, *size),
            Op::Read { slot, offset, size } => self.read(*slot, *offset, *size),
            Op::Write { slot, offset, letter, length, .. } => {
                self.write(uid, *slot, *offset, &vec![*letter; *length])
            }
            Op::Seek { slot, offset, hole } => self.seek(*slot, *offset, *hole),
            Op::Sync { slot, data_only } => self.sync(*slot, *data_only),
            Op::Allocate { slot, how, offset, length, .. } => {
                self.allocate(uid, *slot, *how, (*offset, *length))
            }
            Op::Copy { from, offset, to, to_offset, length, .. } => {
                self.copy(uid, (*from, *offset), (*to, *to_offset), *length)
            }
            Op::Close { slot } => {
                self.files[*slot] = None;
                Ok(())
            }
            other => Err(format!("{other:?} is not about open files")),
        }
    }

    pub(super) fn keep(&mut self, id: Id, access: Access, slot: Slot, descriptor: OwnedFd) {
        self.files[slot] = Some(Handle { id, access, descriptor });
    }

    /// Closes what would keep something from crossing: writers, which the crossing would wait for; and
    /// all of a file that the kernel itself reads, for that keeps reading what is now in hold.
    pub(super) fn close_crossing(&mut self, source: Id, parent: Id, new_parent: Id) {
        let moving = self.model.below(source);
        let ends = [parent, new_parent].map(|id| self.model.object(id).domain);
        let passthrough = self.passthrough.is_some() && ends.contains(&self.passthrough);
        for slot in &mut self.files {
            let closes = |file: &mut Handle| {
                moving.contains(&file.id) && (passthrough || file.access.writes())
            };
            slot.take_if(closes);
        }
    }

    /// Why somebody cannot open something, not following links.
    pub(super) fn open_errors(&self, parent: Id, id: Id, uid: u32, access: Access) -> Errors {
        let mut errors = self.search_errors(parent, uid, false);
        let kind = self.model.object(id).kind();
        match kind {
            FileKind::File => errors.extend(self.model.open_errors(id, access.writes())),
            FileKind::Symlink => errors.push(Errno::LOOP),
            _ if access.writes() => errors.push(Errno::ISDIR),
            _ => {}
        }
        let wanted = match access {
            Access::Read => 0o4,
            Access::Write | Access::Append => 0o2,
            Access::Both => 0o6,
        };
        if !self.allows(id, uid, wanted) {
            errors.push(Errno::ACCESS);
        }
        errors
    }

    fn open(
        &mut self,
        uid: u32,
        at: &[OsString],
        access: Access,
        truncate: bool,
        slot: Slot,
    ) -> Verdict {
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        let is_file = self.model.object(id).kind() == FileKind::File;
        if self.is_special(id) || (!is_file && !access.writes()) {
            return Ok(());
        }
        let truncate = truncate && access.writes();
        let errors = self.open_errors(parent, id, uid, access);
        let Place { base, path } = self.place(parent, name);
        let mut flags = flags(access) | OFlags::NOFOLLOW;
        flags.set(OFlags::TRUNC, truncate);
        let result = self.by(uid, || rustix::fs::openat(base, &path, flags, Mode::empty()));
        if let Some(descriptor) = self.judge("open", &errors, result)? {
            if truncate {
                self.model.resize(id, 0, uid);
            }
            self.keep(id, access, slot, descriptor);
        }
        Ok(())
    }

    /// Opens what is open once more, whatever became of its name.
    fn open_again(&mut self, open: Slot, access: Access, slot: Slot) -> Verdict {
        use std::os::fd::AsRawFd;
        let Some(file) = &self.files[open] else { return Ok(()) };
        let id = file.id;
        let path = format!("/proc/self/fd/{}", file.descriptor.as_raw_fd());
        let errors = self.model.open_errors(id, access.writes());
        let result = rustix::fs::open(path, flags(access), Mode::empty());
        if let Some(descriptor) = self.judge("opening again", &errors, result)? {
            self.keep(id, access, slot, descriptor);
        }
        Ok(())
    }

    fn read(&mut self, slot: Slot, offset: u64, size: u32) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let errors: Errors = if file.access.reads() { vec![] } else { vec![Errno::BADF] };
        let mut buffer = vec![0u8; size as usize];
        let result = rustix::io::pread(&file.descriptor, &mut buffer[..], offset);
        let Some(found) = self.judge("read", &errors, result)? else { return Ok(()) };
        let bytes = self.model.bytes(file.id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        same_bytes(file.id, &bytes[start..end], &buffer[..found])
    }

    /// The whole content and the attributes of what is open.
    pub(super) fn check_open_files(&mut self) -> Verdict {
        for slot in 0..self.files.len() {
            let Some(file) = &self.files[slot] else { continue };
            let (id, reads) = (file.id, file.access.reads());
            // The kernel counts no link that waits in hold.
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
            let stat = stat_at(file.descriptor.as_fd(), Path::new(""), flags);
            let stat = stat.map_err(|errno| format!("fstat: {}", errno_name(errno)))?;
            self.model.check_stat(id, &stat).map_err(|why| format!("open file: {why}"))?;
            if reads {
                self.read(slot, 0, 1 << 20)?;
            }
        }
        Ok(())
    }

    /// Who writes through a handle that was handed on. Where the kernel writes by itself it does so with
    /// the daemon's rights, which keep set-id bits.
    fn writer(&self, id: Id, uid: u32) -> u32 {
        let domain = self.model.object(id).domain;
        let kernels = self.passthrough.is_some() && domain == self.passthrough;
        if kernels && self.attr(id).mode & 0o6000 != 0 { 0 } else { uid }
    }

    fn write(&mut self, uid: u32, slot: Slot, offset: u64, text: &[u8]) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let (id, access) = (file.id, file.access);
        let uid = self.writer(id, uid);
        let errors: Errors = if access.writes() { vec![] } else { vec![Errno::BADF] };
        let result = self.by(uid, || rustix::io::pwrite(&file.descriptor, text, offset));
        let Some(written) = self.judge("write", &errors, result)? else { return Ok(()) };
        if written != text.len() {
            return Err(format!("{written} of {} bytes were written", text.len()));
        }
        let appends = access == Access::Append;
        let at = if appends { self.model.bytes(id).len() } else { offset as usize };
        self.model.write(id, at, text, uid);
        Ok(())
    }

    fn seek(&mut self, slot: Slot, offset: u64, hole: bool) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let to = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        let found = match rustix::fs::seek(&file.descriptor, to) {
            Ok(found) => Some(found),
            Err(Errno::NXIO) => None,
            Err(errno) => return Err(format!("lseek gave {}", errno_name(errno))),
        };
        self.model.check_seek(file.id, offset, hole, found)
    }

    fn sync(&mut self, slot: Slot, data_only: bool) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let result = match data_only {
            true => rustix::fs::fdatasync(&file.descriptor),
            false => rustix::fs::fsync(&file.descriptor),
        };
        self.judge("fsync", &vec![], result).map(drop)
    }

    fn truncate(&mut self, uid: u32, at: &[OsString], size: u64) -> Verdict {
        let Some((parent, name, id)) = self.found(at) else { return Ok(()) };
        if self.is_special(id) {
            return Ok(());
        }
        let errors = self.open_errors(parent, id, uid, Access::Write);
        let Place { base, path } = self.place(parent, name);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let result = self.by(uid, || {
            let file = rustix::fs::openat(base, &path, flags, Mode::empty())?;
            rustix::fs::ftruncate(&file, size)
        });
        if self.judge("truncate", &errors, result)?.is_some() {
            self.model.resize(id, size, uid);
            return self.check(parent, name, id);
        }
        Ok(())
    }

    fn truncate_open(&mut self, uid: u32, slot: Slot, size: u64) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let (id, access) = (file.id, file.access);
        let errors = if access.writes() { vec![] } else { vec![Errno::INVAL, Errno::BADF] };
        let result = self.by(uid, || rustix::fs::ftruncate(&file.descriptor, size));
        if self.judge("ftruncate", &errors, result)?.is_some() {
            self.model.resize(id, size, uid);
        }
        Ok(())
    }

    fn allocate(
        &mut self,
        uid: u32,
        slot: Slot,
        how: Allocation,
        (offset, length): (u64, u64),
    ) -> Verdict {
        let Some(file) = &self.files[slot] else { return Ok(()) };
        let (id, access) = (file.id, file.access);
        let errors: Errors = if access.writes() { vec![] } else { vec![Errno::BADF] };
        let mode = match how {
            Allocation::Plain => FallocateFlags::empty(),
            Allocation::KeepSize => FallocateFlags::KEEP_SIZE,
            Allocation::Punch => FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
            Allocation::Zero => FallocateFlags::ZERO_RANGE,
        };
        // Of what fails nothing must remain; by root nothing does.
        let uid = if how == Allocation::Zero { 0 } else { uid };
        let result = self.by(uid, || rustix::fs::fallocate(&file.descriptor, mode, offset, length));
        if how == Allocation::Zero && result == Err(Errno::OPNOTSUPP) {
            return Ok(());
        }
        if self.judge("fallocate", &errors, result)?.is_some() {
            self.model.allocate(id, how, (offset, length), uid);
        }
        Ok(())
    }

    fn copy(&mut self, uid: u32, from: (Slot, u64), to: (Slot, u64), length: u64) -> Verdict {
        let ((from, mut offset), (to, mut to_offset)) = (from, to);
        let (Some(source), Some(target)) = (&self.files[from], &self.files[to]) else {
            return Ok(());
        };
        let (source_id, target_id) = (source.id, target.id);
        let mut errors = Vec::new();
        if !source.access.reads() || !target.access.writes() || target.access == Access::Append {
            errors.push(Errno::BADF);
        }
        // Ranges overlap as far as there is anything to copy.
        let bytes = self.model.bytes(source_id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + length as usize).min(bytes.len());
        let piece = bytes[start..end].to_vec();
        if source_id == target_id && offset.abs_diff(to_offset) < piece.len() as u64 {
            errors.push(Errno::INVAL);
        }
        let plain = errors.is_empty() && !piece.is_empty();
        let uid = if plain { self.writer(target_id, uid) } else { 0 };
        let at = to_offset as usize;
        let (source, target) = (&source.descriptor, &target.descriptor);
        let result = self.by(uid, || {
            let ends = (Some(&mut offset), Some(&mut to_offset));
            rustix::fs::copy_file_range(source, ends.0, target, ends.1, length as usize)
        });
        let Some(copied) = self.judge("copy_file_range", &errors, result)? else { return Ok(()) };
        if copied > piece.len() || (copied == 0 && !piece.is_empty()) {
            return Err(format!("{copied} of {} bytes were copied", piece.len()));
        }
        self.model.write(target_id, at, &piece[..copied], uid);
        Ok(())
    }
}
