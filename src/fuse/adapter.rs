//! Requests of the kernel become calls of [`Vfs`]. Nothing is decided here; where each is done is said
//! in [`super::lanes`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::branch::{AttributeChange, FallocateMode, XattrFlags};
use crate::error::Errno;
use crate::stats::Request as Kind;
use crate::vfs::{AttributeRequest, Vfs};

use super::convert::{attributes, caller, decode_device, joined, kind, set_time, whence_of};
use super::lanes::Heavy;
use super::negotiate::negotiate;
use super::reply::{GENERATION, answer, at, data, entry, open_flags, shown, sized, space, wrote};
use super::serve::{Adapter, Job};

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.vfs.set_kernel(negotiate(config)?);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Lookup));
        let name = name.to_owned();
        self.serve(at, reply, entry, move |vfs| vfs.lookup(caller, parent.0, &name));
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.give_back(number, count);
    }

    fn getattr(
        &self,
        request: &Request,
        number: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let (caller, handle) = (caller(request), handle.map(|handle| handle.0));
        let act = move |vfs: &Vfs| vfs.getattr(caller, number.0, handle);
        self.serve(self.at(request, number, Kind::Getattr), reply, shown, act);
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(request);
        let change = AttributeChange {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let wanted = AttributeRequest { change, size, handle: handle.map(|handle| handle.0) };
        let act = move |vfs: &Vfs| vfs.setattr(caller, number.0, &wanted);
        self.serve(self.at(request, number, Kind::Setattr), reply, shown, act);
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        let act = move |vfs: &Vfs| vfs.readlink(number.0).map(OsString::into_vec);
        self.serve(self.at(request, number, Kind::Readlink), reply, data, act);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (caller, device) = (caller(request), decode_device(device));
        let (at, name) = (self.named(request, parent, name, Kind::Mknod), name.to_owned());
        let act = move |vfs: &Vfs| vfs.mknod(caller, parent.0, &name, mode, umask, device);
        self.serve(at, reply, entry, act);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Mkdir));
        let name = name.to_owned();
        self.serve(at, reply, entry, move |vfs| vfs.mkdir(caller, parent.0, &name, mode, umask));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Unlink));
        let name = name.to_owned();
        self.serve(at, reply, answer, move |vfs| vfs.unlink(caller, parent.0, &name));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Rmdir));
        let name = name.to_owned();
        self.serve(at, reply, answer, move |vfs| vfs.rmdir(caller, parent.0, &name));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        text: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Symlink));
        let (name, text) = (name.to_owned(), text.as_os_str().to_owned());
        self.serve(at, reply, entry, move |vfs| vfs.symlink(caller, parent.0, &name, &text));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let flags = crate::branch::RenameFlags::from_bits_retain(flags.bits());
        let at = self.at(request, parent, Kind::Rename);
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let act = move |vfs: &Vfs| {
            vfs.rename(caller, (parent.0, &name), (new_parent.0, &new_name), flags)
        };
        if self.vfs.is_transaction(at.lane, self.vfs.lane(new_parent.0)) {
            self.serve_heavy(at, Heavy::Rename, reply, act);
        } else {
            self.serve(at, reply, answer, act);
        }
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (caller, at) = (caller(request), self.named(request, parent, name, Kind::Link));
        let name = name.to_owned();
        self.serve(at, reply, entry, move |vfs| vfs.link(caller, number.0, parent.0, &name));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, backings) = (caller(request), Arc::clone(&self.backings));
        let vfs = Arc::clone(&self.vfs);
        let answer = move |reply: ReplyOpen, opened| match opened {
            Ok(opened) => backings.reply_open(&vfs, &opened, open_flags(&opened), reply),
            Err(errno) => reply.error(errno),
        };
        let act = move |vfs: &Vfs| vfs.open(caller, number.0, flags.0 as u32);
        self.serve(self.at(request, number, Kind::Open), reply, answer, act);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, backings) = (caller(request), Arc::clone(&self.backings));
        let (at, name) = (self.named(request, parent, name, Kind::Create), name.to_owned());
        let vfs = Arc::clone(&self.vfs);
        let answer = move |reply: ReplyCreate, made| match made {
            Ok((found, opened)) => {
                let flags = open_flags(&opened);
                backings.reply_create(&vfs, &found, &opened, flags, reply);
            }
            Err(errno) => reply.error(errno),
        };
        let act = move |vfs: &Vfs| vfs.create(caller, parent.0, &name, mode, umask, flags as u32);
        self.serve(at, reply, answer, act);
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let act = move |vfs: &Vfs| vfs.read(handle.0, offset, size);
        self.serve(self.open_at(request, handle, number, Kind::Read), reply, data, act);
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut caller = caller(request);
        if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            // A store through a mapping: who made it is no longer known.
            caller.pid = 0;
        }
        // By the flags of now: fcntl(2) may have changed what it was opened with.
        let offset = (flags.0 & libc::O_APPEND == 0 || caller.pid == 0).then_some(offset);
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let at = self.open_at(request, handle, number, Kind::Write);
        let act = move |vfs: &Vfs, bytes: &[u8]| vfs.write(caller, handle.0, offset, bytes, kill);
        self.serve_write(at, (bytes, caller.pid == 0), reply, act);
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS); // It has written by now, and asks no more.
    }

    fn release(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let at = self.open_at(request, handle, number, Kind::Release);
        let job = Job::new(&self.vfs, at.kind);
        // Before the file counts as closed: a crossing may then give its inode another backing file.
        self.backings.release(handle.0);
        // At once, for crossings wait for it; what may take long is left to the lane.
        let closed = self.vfs.close(handle.0);
        self.run_surely(at.place(), move || {
            let released = job.done(Ok(()), |vfs| {
                vfs.closed(closed);
                Ok(())
            });
            answer(reply, released);
        });
    }

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let at = self.open_at(request, handle, number, Kind::Fsync);
        self.serve_heavy(at, Heavy::Sync, reply, move |vfs| vfs.fsync(handle.0, data_only));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        let answer = |reply: ReplyOpen, opened| match opened {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        };
        let act = move |vfs: &Vfs| vfs.opendir(caller, number.0);
        self.serve(self.at(request, number, Kind::Opendir), reply, answer, act);
    }

    fn readdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (at, job) = self.job(request, number, Kind::Readdir);
        self.run(at, move |admitted| {
            let listed = job.done(admitted, |vfs| {
                vfs.readdir(handle.0, offset, &mut |entry| {
                    reply.add(INodeNo(entry.number), entry.next, kind(entry.kind), entry.name)
                })
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (caller, (at, job)) = (caller(request), self.job(request, number, Kind::Readdirplus));
        self.run(at, move |admitted| {
            let listed = job.done(admitted, |vfs| {
                vfs.readdirplus(caller, handle.0, offset, &mut |entry, found| {
                    let (number, attributes) = (INodeNo(entry.number), attributes(&found));
                    reply.add(number, entry.next, entry.name, &found.ttl, &attributes, GENERATION)
                })
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.vfs.releasedir(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let at = self.at(request, number, Kind::Fsyncdir);
        self.serve_heavy(at, Heavy::Sync, reply, move |vfs| vfs.fsyncdir(handle.0));
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let at = self.at(request, number, Kind::Statfs);
        self.serve(at, reply, space, move |vfs| vfs.statfs(number.0));
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, at) = (caller(request), self.at(request, number, Kind::Setxattr));
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let (name, value) = (name.to_owned(), value.to_owned());
        let act = move |vfs: &Vfs| vfs.setxattr(caller, number.0, &name, &value, flags);
        self.serve(at, reply, answer, act);
    }

    fn getxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (at, name) = (self.at(request, number, Kind::Getxattr), name.to_owned());
        let answer = move |reply, result| sized(reply, size, result);
        self.serve(at, reply, answer, move |vfs| vfs.getxattr(number.0, &name));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let (caller, at) = (caller(request), self.at(request, number, Kind::Listxattr));
        let answer = move |reply, result| sized(reply, size, result);
        let act = move |vfs: &Vfs| vfs.listxattr(caller, number.0).map(|keys| joined(&keys));
        self.serve(at, reply, answer, act);
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, at) = (caller(request), self.at(request, number, Kind::Removexattr));
        let name = name.to_owned();
        self.serve(at, reply, answer, move |vfs| vfs.removexattr(caller, number.0, &name));
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let mode = FallocateMode::from_bits_retain(mode as u32);
        let act = move |vfs: &Vfs| vfs.fallocate(caller, handle.0, offset, length, mode);
        self.serve(self.open_at(request, handle, number, Kind::Fallocate), reply, answer, act);
    }

    /// There are none. Answered here because fuser warns of each one that is not.
    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn lseek(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let act = move |vfs: &Vfs| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            vfs.seek(handle.0, offset, whence_of(whence)?)
        };
        self.serve(self.open_at(request, handle, number, Kind::Lseek), reply, at, act);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _source: INodeNo,
        source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (caller, source) = (caller(request), (source_handle.0, source_offset));
        let at = self.open_at(request, target_handle, target, Kind::CopyFileRange);
        let written = (target_handle.0, target_offset);
        let act = move |vfs: &Vfs| vfs.copy_file_range(caller, source, written, length);
        self.serve(at, reply, wrote, act);
    }
}
