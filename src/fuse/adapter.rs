//! Requests of the kernel become calls of [`Vfs`]. Nothing is decided here.

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

use super::backing::Backings;
use super::convert::{attributes, caller, decode_device, joined, kind, set_time, whence_of};
use super::negotiate::negotiate;
use super::offload::Pool;
use super::reply::{
    GENERATION, answer, at, data, entry, open_flags, shown, sized, space, timed, wrote,
};

/// The transport.
pub struct Adapter {
    vfs: Arc<Vfs>,
    syncs: Pool,
    crossings: Pool,
    backings: Arc<Backings>,
}

impl Adapter {
    pub fn new(vfs: Arc<Vfs>, syncs: Pool, crossings: Pool) -> Self {
        Self { vfs, syncs, crossings, backings: Arc::default() }
    }

    /// Calls an operation and counts it.
    fn call<T>(
        &self,
        kind: Kind,
        act: impl FnOnce(&Vfs) -> Result<T, Errno>,
    ) -> Result<T, fuser::Errno> {
        timed(&self.vfs, kind, act)
    }

    /// Calls an operation on a thread of its own and replies from there.
    fn call_slow(
        &self,
        pool: &Pool,
        kind: Kind,
        reply: ReplyEmpty,
        act: impl FnOnce(&Vfs) -> Result<(), Errno> + Send + 'static,
    ) {
        let vfs = Arc::clone(&self.vfs);
        pool.run(move || answer(reply, timed(&vfs, kind, act)));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.vfs.set_kernel_io(negotiate(config)?);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.call(Kind::Lookup, |vfs| vfs.lookup(caller(request), parent.0, name)));
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.vfs.forget(number.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        number: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let (caller, handle) = (caller(request), handle.map(|handle| handle.0));
        shown(reply, self.call(Kind::Getattr, |vfs| vfs.getattr(caller, number.0, handle)));
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
        shown(reply, self.call(Kind::Setattr, |vfs| vfs.setattr(caller, number.0, &wanted)));
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let text = self.call(Kind::Readlink, |vfs| vfs.readlink(number.0));
        data(reply, text.map(OsString::into_vec));
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
        let made =
            self.call(Kind::Mknod, |vfs| vfs.mknod(caller, parent.0, name, mode, umask, device));
        entry(reply, made);
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
        let caller = caller(request);
        entry(reply, self.call(Kind::Mkdir, |vfs| vfs.mkdir(caller, parent.0, name, mode, umask)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.call(Kind::Unlink, |vfs| vfs.unlink(caller(request), parent.0, name)));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.call(Kind::Rmdir, |vfs| vfs.rmdir(caller(request), parent.0, name)));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        text: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, text) = (caller(request), text.as_os_str());
        entry(reply, self.call(Kind::Symlink, |vfs| vfs.symlink(caller, parent.0, name, text)));
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
        if !self.vfs.is_transaction(parent.0, new_parent.0) {
            let renamed = self.call(Kind::Rename, |vfs| {
                vfs.rename(caller, (parent.0, name), (new_parent.0, new_name), flags)
            });
            return answer(reply, renamed);
        }
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.call_slow(&self.crossings, Kind::Rename, reply, move |vfs| {
            vfs.rename(caller, (parent.0, &name), (new_parent.0, &new_name), flags)
        });
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let caller = caller(request);
        entry(reply, self.call(Kind::Link, |vfs| vfs.link(caller, number.0, parent.0, name)));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        match self.call(Kind::Open, |vfs| vfs.open(caller, number.0, flags.0 as u32)) {
            Ok(opened) => self.backings.reply_open(&self.vfs, &opened, open_flags(&opened), reply),
            Err(errno) => reply.error(errno),
        }
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
        let caller = caller(request);
        let made = self.call(Kind::Create, |vfs| {
            vfs.create(caller, parent.0, name, mode, umask, flags as u32)
        });
        match made {
            Ok((found, opened)) => {
                let flags = open_flags(&opened);
                self.backings.reply_create(&self.vfs, &found, &opened, flags, reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        data(reply, self.call(Kind::Read, |vfs| vfs.read(handle.0, offset, size)));
    }

    fn write(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut caller = caller(request);
        if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            // A store through a mapping: who made it is no longer known.
            caller.pid = 0;
        }
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written =
            self.call(Kind::Write, |vfs| vfs.write(caller, handle.0, offset, bytes, kill));
        wrote(reply, written);
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = self.call(Kind::Release, |vfs| {
            vfs.release(handle.0);
            Ok(())
        });
        self.backings.release(handle.0);
        answer(reply, released);
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.call_slow(&self.syncs, Kind::Fsync, reply, move |vfs| vfs.fsync(handle.0, data_only));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        match self.call(Kind::Opendir, |vfs| vfs.opendir(caller, number.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.call(Kind::Readdir, |vfs| {
            vfs.readdir(handle.0, offset, &mut |entry| {
                reply.add(INodeNo(entry.number), entry.next, kind(entry.kind), entry.name)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let caller = caller(request);
        let listed = self.call(Kind::Readdirplus, |vfs| {
            vfs.readdirplus(caller, handle.0, offset, &mut |entry, found| {
                let (number, attributes) = (INodeNo(entry.number), attributes(&found));
                reply.add(number, entry.next, entry.name, &found.ttl, &attributes, GENERATION)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
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
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.call_slow(&self.syncs, Kind::Fsyncdir, reply, move |vfs| vfs.fsyncdir(handle.0));
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        space(reply, self.call(Kind::Statfs, |vfs| vfs.statfs(number.0)));
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
        let caller = caller(request);
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let set = |vfs: &Vfs| vfs.setxattr(caller, number.0, name, value, flags);
        answer(reply, self.call(Kind::Setxattr, set));
    }

    fn getxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        sized(reply, size, self.call(Kind::Getxattr, |vfs| vfs.getxattr(number.0, name)));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = caller(request);
        let listed = self
            .call(Kind::Listxattr, |vfs| vfs.listxattr(caller, number.0).map(|keys| joined(&keys)));
        sized(reply, size, listed);
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = caller(request);
        let removed = self.call(Kind::Removexattr, |vfs| vfs.removexattr(caller, number.0, name));
        answer(reply, removed);
    }

    fn fallocate(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let mode = FallocateMode::from_bits_retain(mode as u32);
        let done =
            self.call(Kind::Fallocate, |vfs| vfs.fallocate(caller, handle.0, offset, length, mode));
        answer(reply, done);
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
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.call(Kind::Lseek, |vfs| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            vfs.seek(handle.0, offset, whence_of(whence)?)
        });
        at(reply, found);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _source: INodeNo,
        source_handle: FileHandle,
        source_offset: u64,
        _target: INodeNo,
        target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (caller, source) = (caller(request), (source_handle.0, source_offset));
        let target = (target_handle.0, target_offset);
        let copied = self
            .call(Kind::CopyFileRange, |vfs| vfs.copy_file_range(caller, source, target, length));
        wrote(reply, copied);
    }
}
