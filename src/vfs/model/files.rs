//! The driver's open files: what is read is what the model holds, whatever became of the name.

use std::ffi::OsString;

use rustix::fs::OFlags;

use crate::branch::{FallocateMode, FileKind};
use crate::error::Errno;

use super::super::{AttributeRequest, Opened};
use super::operation::{Access, Allocation, Op, Slot, split};
use super::run::{ROOT, Run, Verdict};
use super::tree::{Body, Errors, Id};

/// An open file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle {
    pub id: Id,
    number: u64,
    access: Access,
}

fn flags(access: Access) -> u32 {
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::Both => OFlags::RDWR,
        Access::Append => OFlags::WRONLY | OFlags::APPEND,
    };
    flags.bits()
}

impl Run {
    pub(super) fn on_file(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Create { at, uid, mode, exclusive, access, slot } => {
                self.create(at, (*uid, *mode), *exclusive, *access, *slot)
            }
            Op::Open { at, access, slot } => match self.walk(at, false)? {
                Some(id) => self.open(id, *access, *slot),
                None => Ok(()),
            },
            Op::OpenAgain { open, access, slot } => match self.files[*open] {
                Some(file) => self.open(file.id, *access, *slot),
                None => Ok(()),
            },
            Op::LinkOpen { slot, to } => match self.files[*slot] {
                Some(file) => self.link(file.id, to),
                None => Ok(()),
            },
            Op::Truncate { at, size } => match self.walk(at, false)? {
                Some(id) => self.truncate(id, *size, None),
                None => Ok(()),
            },
            Op::TruncateOpen { slot, size } => match self.files[*slot] {
                Some(file) if file.access.writes() => {
                    self.truncate(file.id, *size, Some(file.number))
                }
                _ => Ok(()),
            },
            Op::Read { slot, offset, size } => self.read(*slot, *offset, *size),
            Op::Write { slot, offset, letter, length } => {
                self.write(*slot, *offset, &vec![*letter; *length])
            }
            Op::Allocate { slot, how, offset, length } => {
                self.allocate(*slot, *how, *offset, *length)
            }
            Op::Copy { from, offset, to, to_offset, length } => {
                self.copy((*from, *offset), (*to, *to_offset), *length)
            }
            Op::Close { slot } => {
                self.close(*slot);
                Ok(())
            }
            other => Err(format!("{other:?} is not about open files")),
        }
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
        let Some(parent) = self.folder_for(uid, folder)? else { return Ok(()) };
        let there = self.world.model.child(parent, name);
        let mut errors = self.world.model.add_errors(parent, name, uid, true);
        if !exclusive && there.is_some_and(|id| !self.world.model.object(id).fixed) {
            // Found by a look-up that came too late, and opened. The kernel checks who may.
            if uid != 0 {
                return Ok(());
            }
            errors.retain(|errno| *errno != Errno::EXIST);
            let opening = there.map(|id| self.world.model.open_errors(id, access.writes()));
            errors.extend(opening.unwrap_or_default());
        }
        let flags = flags(access) | OFlags::CREATE.bits();
        let flags = if exclusive { flags | OFlags::EXCL.bits() } else { flags };
        let number = self.number(parent)?;
        let caller =
            crate::types::Caller { uid, gid: uid, pid: if uid == 0 { 1 } else { u32::MAX } };
        let result = self.world.vfs.create(caller, number, name, mode, 0o022, flags);
        let Some((attributes, opened)) = self.judge("create", &errors, result)? else {
            self.settle(parent);
            return Ok(());
        };
        let id = match there {
            Some(id) => {
                self.note(id, &attributes)?;
                id
            }
            None => self.made_file((parent, name), (uid, mode & !0o022), &attributes)?,
        };
        self.keep(id, access, slot, &opened);
        Ok(())
    }

    fn open(&mut self, id: Id, access: Access, slot: Slot) -> Verdict {
        let mut errors = self.world.model.open_errors(id, access.writes());
        if self.world.model.is_gone(id) && !self.files.iter().flatten().any(|file| file.id == id) {
            errors.extend([Errno::STALE, Errno::NOENT]);
        }
        let result = self.world.vfs.open(ROOT, self.number(id)?, flags(access));
        if let Some(opened) = self.judge("open", &errors, result)? {
            self.keep(id, access, slot, &opened);
        }
        Ok(())
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

    fn bytes(&mut self, id: Id) -> &mut Vec<u8> {
        match &mut self.world.model.object_mut(id).body {
            Body::File(bytes) => bytes,
            other => panic!("only files are opened: {other:?}"),
        }
    }

    fn read(&mut self, slot: Slot, offset: u64, size: u32) -> Verdict {
        let Some(file) = self.files[slot] else { return Ok(()) };
        let errors: Errors = if file.access.reads() { vec![] } else { vec![Errno::BADF] };
        let result = self.world.vfs.read(file.number, offset, size);
        let Some(found) = self.judge("read", &errors, result)? else { return Ok(()) };
        let bytes = self.bytes(file.id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        same_bytes(file.id, &bytes[start..end], &found)
    }

    /// The whole content of what is open for reading.
    pub(super) fn check_open_files(&mut self) -> Verdict {
        for slot in 0..self.files.len() {
            let Some(file) = self.files[slot] else { continue };
            if file.access.reads() {
                self.read(slot, 0, 1 << 20)?;
            }
            let result = self.world.vfs.getattr(ROOT, self.number(file.id)?, Some(file.number));
            let attributes = result.map_err(|errno| format!("getattr of an open file: {errno}"))?;
            self.check(file.id, &attributes)?;
        }
        Ok(())
    }

    fn write(&mut self, slot: Slot, offset: u64, text: &[u8]) -> Verdict {
        let Some(file) = self.files[slot] else { return Ok(()) };
        let errors: Errors = if file.access.writes() { vec![] } else { vec![Errno::BADF] };
        let result = self.world.vfs.write(ROOT, file.number, offset, text, false);
        let Some(written) = self.judge("write", &errors, result)? else { return Ok(()) };
        if written as usize != text.len() {
            return Err(format!("{written} of {} bytes were written", text.len()));
        }
        let bytes = self.bytes(file.id);
        let at = if file.access == Access::Append { bytes.len() } else { offset as usize };
        put(bytes, at, text);
        self.world.model.touch(file.id);
        Ok(())
    }

    fn truncate(&mut self, id: Id, size: u64, handle: Option<u64>) -> Verdict {
        let mut errors = self.world.model.change_errors(id, true);
        match self.world.model.object(id).kind() {
            FileKind::File => {}
            FileKind::Directory => errors.extend([Errno::ISDIR, Errno::INVAL]),
            _ => errors.push(Errno::INVAL),
        }
        let request = AttributeRequest { change: Default::default(), size: Some(size), handle };
        let result = self.world.vfs.setattr(ROOT, self.number(id)?, &request);
        let Some(attributes) = self.judge("truncate", &errors, result)? else { return Ok(()) };
        self.bytes(id).resize(size as usize, 0);
        self.world.model.touch(id);
        self.check(id, &attributes)
    }

    fn allocate(&mut self, slot: Slot, how: Allocation, offset: u64, length: u64) -> Verdict {
        let Some(file) = self.files[slot] else { return Ok(()) };
        let errors: Errors = if file.access.writes() { vec![] } else { vec![Errno::BADF] };
        let mode = match how {
            Allocation::Plain => FallocateMode::empty(),
            Allocation::KeepSize => FallocateMode::KEEP_SIZE,
            Allocation::Punch => FallocateMode::KEEP_SIZE | FallocateMode::PUNCH_HOLE,
        };
        let result = self.world.vfs.fallocate(ROOT, file.number, offset, length, mode);
        if self.judge("fallocate", &errors, result)?.is_none() {
            return Ok(());
        }
        let bytes = self.bytes(file.id);
        let (start, end) = (offset as usize, (offset + length) as usize);
        match how {
            Allocation::Plain => bytes.resize(bytes.len().max(end), 0),
            Allocation::KeepSize => {}
            Allocation::Punch => {
                let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
                bytes[start..end].fill(0);
            }
        }
        self.world.model.touch(file.id);
        Ok(())
    }

    fn copy(&mut self, from: (Slot, u64), to: (Slot, u64), length: u64) -> Verdict {
        let ((from, offset), (to, to_offset)) = (from, to);
        let (Some(source), Some(target)) = (self.files[from], self.files[to]) else {
            return Ok(());
        };
        let mut errors = Vec::new();
        if !source.access.reads() || !target.access.writes() || target.access == Access::Append {
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
        let result = self.world.vfs.copy_file_range(ROOT, ends.0, ends.1, length);
        let stores = |id: Id| self.world.model.object(id).on.keys().next().copied();
        if result == Err(Errno::XDEV) && stores(source.id) != stores(target.id) {
            return Ok(());
        }
        let Some(copied) = self.judge("copy_file_range", &errors, result)? else { return Ok(()) };
        let bytes = self.bytes(source.id);
        let start = (offset as usize).min(bytes.len());
        let end = (start + length as usize).min(bytes.len());
        let piece = bytes[start..end].to_vec();
        if copied as usize > piece.len() || (copied == 0 && !piece.is_empty()) {
            return Err(format!("{copied} of {} bytes were copied", piece.len()));
        }
        put(self.bytes(target.id), to_offset as usize, &piece[..copied as usize]);
        self.world.model.touch(target.id);
        Ok(())
    }
}

/// Writes into a content, which may have to grow.
fn put(bytes: &mut Vec<u8>, at: usize, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let end = at + text.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at..end].copy_from_slice(text);
}

pub(super) fn same_bytes(id: Id, wanted: &[u8], found: &[u8]) -> Verdict {
    if wanted == found {
        return Ok(());
    }
    let at = wanted.iter().zip(found).take_while(|(wanted, found)| wanted == found).count();
    let lengths = (found.len(), wanted.len());
    Err(format!(
        "the content of {id} differs from byte {at} on; lengths found, expected: {lengths:?}"
    ))
}
