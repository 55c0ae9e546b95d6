//! The driver's open files: what is read is what the model holds, whatever became of the name.

use std::ffi::OsString;

use rustix::fs::OFlags;

use crate::branch::{FallocateMode, FileKind, Whence};
use crate::error::Errno;

use super::super::{AttributeRequest, Opened};
use super::effects::same_bytes;
use super::operation::{Access, Allocation, Op, Slot, split};
use super::run::{ROOT, Run, caller};
use super::tree::{Errors, Id, Verdict};

/// An open file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle {
    pub id: Id,
    number: u64,
    access: Access,
}

pub(super) fn flags(access: Access) -> OFlags {
    match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::Both => OFlags::RDWR,
        Access::Append => OFlags::WRONLY | OFlags::APPEND,
    }
}

impl Run {
    pub(super) fn on_file(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Create { at, uid, mode, exclusive, access, slot } => {
                self.create(at, (*uid, *mode), *exclusive, *access, *slot)
            }
            Op::Open { at, access, truncate, slot } => match self.walk(at, false)? {
                Some(id) => {
                    let truncates = *truncate && access.writes();
                    // O_TRUNC is a change of its own, by the kernel.
                    if self.open(id, *access, *slot)? && truncates {
                        return self.truncate(id, 0, 0, None);
                    }
                    Ok(())
                }
                None => Ok(()),
            },
            Op::OpenAgain { open, access, slot } => match self.near_file(*open) {
                Some(file) => self.open(file.id, *access, *slot).map(drop),
                None => Ok(()),
            },
            Op::LinkOpen { slot, to } => match self.near_file(*slot) {
                Some(file) => self.link(file.id, to),
                None => Ok(()),
            },
            Op::ChmodOpen { slot, mode } => match self.near_file(*slot) {
                Some(file) => self.chmod(file.id, *mode),
                None => Ok(()),
            },
            Op::Truncate { at, uid, size } => match self.walk(at, false)? {
                Some(id) => self.truncate(id, *uid, *size, None),
                None => Ok(()),
            },
            Op::TruncateOpen { slot, size } => match self.near_file(*slot) {
                Some(file) if file.access.writes() => {
                    self.truncate(file.id, 0, *size, Some(file.number))
                }
                _ => Ok(()),
            },
            Op::Read { slot, offset, size } => self.read(*slot, *offset, *size),
            Op::Write { slot, uid, mapped, offset, letter, length } => {
                self.write(*slot, (*uid, *mapped), *offset, &vec![*letter; *length])
            }
            Op::Seek { slot, offset, hole } => self.seek(*slot, *offset, *hole),
            Op::Sync { slot, data_only } => self.sync(*slot, *data_only),
            Op::Allocate { slot, uid, how, offset, length } => {
                self.allocate(*slot, *uid, *how, (*offset, *length))
            }
            Op::Copy { uid, from, offset, to, to_offset, length } => {
                self.copy(*uid, (*from, *offset), (*to, *to_offset), *length)
            }
            Op::Close { slot } => {
                self.close(*slot);
                Ok(())
            }
            other => Err(format!("{other:?} is not about open files")),
        }
    }

    /// What is open there, if its branch can be reached. What is open on one that is offline is used again
    /// when that is back.
    pub(super) fn near_file(&self, slot: Slot) -> Option<Handle> {
        self.files[slot].filter(|file| !self.world.model.is_dark(file.id))
    }

    fn create(
        &mut self,
        at: &[OsString],
        (uid, mode): (u32, u32),
        exclusive: bool,
        access: Access,
        slot: Slot,
    ) -> Verdict {
        let (folder, name) = split(at);
        let Some(parent) = self.folder_for(uid, folder, name)? else { return Ok(()) };
        let there = self.world.model.child(parent, name);
        let mut errors = self.world.model.add_errors(parent, name, uid, true);
        if !exclusive && there.is_some_and(|id| !self.world.model.object(id).fixed) {
            // Found by a look-up that came too late: the kernel looks again, and checks who may open it.
            let taken = errors.iter_mut().filter(|errno| **errno == Errno::EXIST);
            taken.for_each(|errno| *errno = Errno::STALE);
        }
        let flags = flags(access) | OFlags::CREATE;
        let flags = if exclusive { flags | OFlags::EXCL } else { flags };
        let number = self.number(parent)?;
        let result = self.world.vfs.create(caller(uid), number, name, mode, 0o022, flags.bits());
        let Some((attributes, opened)) = self.judge("create", &errors, result)? else {
            self.settle(parent);
            return Ok(());
        };
        let id = self.made_file((parent, name), (uid, mode, 0o022), &attributes)?;
        self.keep(id, access, slot, &opened);
        Ok(())
    }

    /// Gives whether it was opened.
    fn open(&mut self, id: Id, access: Access, slot: Slot) -> Verdict<bool> {
        let mut errors = self.world.model.open_errors(id, access.writes());
        if self.world.model.is_gone(id) && !self.files.iter().flatten().any(|file| file.id == id) {
            errors.extend([Errno::STALE, Errno::NOENT]);
        }
        let result = self.world.vfs.open(*ROOT, self.number(id)?, flags(access).bits());
        let opened = self.judge("open", &errors, result)?;
        if let Some(opened) = &opened {
            self.keep(id, access, slot, opened);
        }
        Ok(opened.is_some())
    }

    fn keep(&mut self, id: Id, access: Access, slot: Slot, opened: &Opened) {
        self.close(slot);
        self.files[slot] = Some(Handle { id, number: opened.handle, access });
    }

    pub(super) fn close(&mut self, slot: Slot) {
        if let Some(file) = self.files[slot].take() {
            self.world.vfs.release(file.number);
        }
    }

    /// Closes what could write something that is about to cross.
    pub(super) fn close_writers(&mut self, moving: &[Id]) {
        for slot in 0..self.files.len() {
            let file = self.files[slot];
            if file.is_some_and(|file| moving.contains(&file.id) && file.access.writes()) {
                self.close(slot);
            }
        }
    }

    fn read(&mut self, slot: Slot, offset: u64, size: u32) -> Verdict {
        let Some(file) = self.near_file(slot) else { return Ok(()) };
        let errors: Errors = if file.access.reads() { vec![] } else { vec![Errno::BADF] };
        let result = self.world.vfs.read(file.number, offset, size);
        let Some(found) = self.judge("read", &errors, result)? else { return Ok(()) };
        let bytes = self.world.model.bytes(file.id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        same_bytes(file.id, &bytes[start..end], &found)
    }

    /// The whole content of what is open for reading.
    pub(super) fn check_open_files(&mut self) -> Verdict {
        for slot in 0..self.files.len() {
            let Some(file) = self.near_file(slot) else { continue };
            if file.access.reads() {
                self.read(slot, 0, 1 << 20)?;
            }
            let result = self.world.vfs.getattr(*ROOT, self.number(file.id)?, Some(file.number));
            let attributes = result.map_err(|errno| format!("getattr of an open file: {errno}"))?;
            self.check(file.id, &attributes)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        slot: Slot,
        (uid, mapped): (u32, bool),
        offset: u64,
        text: &[u8],
    ) -> Verdict {
        let Some(file) = self.near_file(slot) else { return Ok(()) };
        let errors: Errors = if file.access.writes() { vec![] } else { vec![Errno::BADF] };
        let vfs = &self.world.vfs;
        // A mapped store has lost the bits before it is written back.
        let uid = if mapped { 0 } else { uid };
        let mut by = caller(uid);
        if mapped {
            by.pid = 0;
        }
        let appends = file.access == Access::Append && !mapped;
        let result = vfs.write(by, file.number, (!appends).then_some(offset), text, uid != 0);
        let Some(written) = self.judge("write", &errors, result)? else { return Ok(()) };
        if written as usize != text.len() {
            return Err(format!("{written} of {} bytes were written", text.len()));
        }
        let end = self.world.model.bytes(file.id).len();
        let at = if appends { end } else { offset as usize };
        self.world.model.write(file.id, at, text, uid);
        Ok(())
    }

    fn seek(&mut self, slot: Slot, offset: u64, hole: bool) -> Verdict {
        let Some(file) = self.near_file(slot) else { return Ok(()) };
        let whence = if hole { Whence::Hole } else { Whence::Data };
        let found = match self.world.vfs.seek(file.number, offset, whence) {
            Ok(found) => Some(found),
            Err(Errno::NXIO) => None,
            Err(errno) => return Err(format!("lseek gave {errno}")),
        };
        self.world.model.check_seek(file.id, offset, hole, found)
    }

    fn sync(&mut self, slot: Slot, data_only: bool) -> Verdict {
        let Some(file) = self.near_file(slot) else { return Ok(()) };
        let result = self.world.vfs.fsync(file.number, data_only);
        self.judge("fsync", &vec![], result).map(drop)
    }

    fn truncate(&mut self, id: Id, uid: u32, size: u64, handle: Option<u64>) -> Verdict {
        let model = &self.world.model;
        if handle.is_none() && model.attr(id).is_some_and(|attr| !attr.allows(uid, 0o2)) {
            // The kernel refuses it.
            return Ok(());
        }
        let mut errors = model.change_errors(id, true);
        match model.object(id).kind() {
            FileKind::File => {}
            FileKind::Directory => errors.extend([Errno::ISDIR, Errno::INVAL]),
            _ => errors.push(Errno::INVAL),
        }
        let request = AttributeRequest { change: Default::default(), size: Some(size), handle };
        let result = self.world.vfs.setattr(caller(uid), self.number(id)?, &request);
        let Some(attributes) = self.judge("truncate", &errors, result)? else { return Ok(()) };
        self.world.model.resize(id, size, uid);
        self.check(id, &attributes)
    }

    fn allocate(
        &mut self,
        slot: Slot,
        uid: u32,
        how: Allocation,
        (offset, length): (u64, u64),
    ) -> Verdict {
        let Some(file) = self.near_file(slot) else { return Ok(()) };
        let errors: Errors = if file.access.writes() { vec![] } else { vec![Errno::BADF] };
        let mode = match how {
            Allocation::Plain => FallocateMode::empty(),
            Allocation::KeepSize => FallocateMode::KEEP_SIZE,
            Allocation::Punch => FallocateMode::KEEP_SIZE | FallocateMode::PUNCH_HOLE,
            Allocation::Zero => FallocateMode::ZERO_RANGE,
        };
        // Of what fails nothing must remain; by root nothing does.
        let uid = if how == Allocation::Zero { 0 } else { uid };
        let result = self.world.vfs.fallocate(caller(uid), file.number, offset, length, mode);
        if how == Allocation::Zero && result == Err(Errno::OPNOTSUPP) {
            return Ok(());
        }
        if self.judge("fallocate", &errors, result)?.is_some() {
            self.world.model.allocate(file.id, how, (offset, length), uid);
        }
        Ok(())
    }

    fn copy(&mut self, uid: u32, from: (Slot, u64), to: (Slot, u64), length: u64) -> Verdict {
        let ((from, offset), (to, to_offset)) = (from, to);
        let (Some(source), Some(target)) = (self.near_file(from), self.near_file(to)) else {
            return Ok(());
        };
        let mut errors = Vec::new();
        // The kernel refuses to copy to what appends (fs/read_write.c, `generic_copy_file_checks`).
        if target.access == Access::Append {
            return Ok(());
        }
        if !source.access.reads() || !target.access.writes() {
            errors.push(Errno::BADF);
        }
        let domain = |id| self.world.model.object(id).domain;
        let apart = domain(source.id) != domain(target.id);
        if apart {
            errors.push(Errno::XDEV);
        }
        // Ranges overlap as far as there is anything to copy.
        let size = self.world.model.object(source.id).size().unwrap_or(0);
        let length = length.min(size.saturating_sub(offset));
        if source.id == target.id && offset.abs_diff(to_offset) < length {
            errors.push(Errno::INVAL);
        }
        let ends = ((source.number, offset), (target.number, to_offset));
        let stores = |id: Id| self.world.model.object(id).on.keys().next().copied();
        let plain = errors.is_empty() && length > 0 && stores(source.id) == stores(target.id);
        // Of what fails nothing must remain; by root nothing does.
        let uid = if plain { uid } else { 0 };
        let result = self.world.vfs.copy_file_range(caller(uid), ends.0, ends.1, length);
        if result == Err(Errno::XDEV) && stores(source.id) != stores(target.id) {
            return Ok(());
        }
        let Some(copied) = self.judge("copy_file_range", &errors, result)? else { return Ok(()) };
        let bytes = self.world.model.bytes(source.id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + length as usize).min(bytes.len());
        let piece = bytes[start..end].to_vec();
        if copied as usize > piece.len() || (copied == 0 && !piece.is_empty()) {
            return Err(format!("{copied} of {} bytes were copied", piece.len()));
        }
        self.world.model.write(target.id, to_offset as usize, &piece[..copied as usize], uid);
        Ok(())
    }
}
