//! Answers that several requests have in common.

use fuser::{
    FopenFlags, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs,
    ReplyWrite, ReplyXattr,
};

use crate::branch::SpaceStat;
use crate::vfs::{Attributes, Opened};

use super::convert::attributes;

/// File handles and inode numbers name one inode each while they are known: the generation, which is
/// for exporting by NFS, stays 0.
pub const GENERATION: Generation = Generation(0);

/// A reply that says only whether.
pub fn answer(reply: ReplyEmpty, result: Result<(), fuser::Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to lookup and whatever makes a name.
pub fn entry(reply: ReplyEntry, result: Result<Attributes, fuser::Errno>) {
    match result {
        Ok(found) => reply.entry(&found.ttl, &attributes(&found), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

/// What the kernel is told of an open file. Without FOPEN_NOFLUSH close(2) writes what mappings have stored, and
/// tells what became of it (fs/fuse/file.c, `fuse_flush`).
pub fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if !opened.stores {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    if opened.direct_io {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    flags
}

/// The reply to getxattr and listxattr: the size alone, or the bytes if they fit.
pub fn sized(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, fuser::Errno>) {
    match result {
        Err(errno) => reply.error(errno),
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}

/// The reply to getattr and setattr.
pub fn shown(reply: ReplyAttr, result: Result<Attributes, fuser::Errno>) {
    match result {
        Ok(found) => reply.attr(&found.ttl, &attributes(&found)),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to read and readlink.
pub fn data(reply: ReplyData, result: Result<Vec<u8>, fuser::Errno>) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to write and copy_file_range.
pub fn wrote(reply: ReplyWrite, result: Result<u32, fuser::Errno>) {
    match result {
        Ok(written) => reply.written(written),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to lseek.
pub fn at(reply: ReplyLseek, result: Result<u64, fuser::Errno>) {
    match result.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to statfs.
pub fn space(reply: ReplyStatfs, result: Result<SpaceStat, fuser::Errno>) {
    match result {
        Ok(space) => reply.statfs(
            space.blocks,
            space.blocks_free,
            space.blocks_available,
            space.files,
            space.files_free,
            space.block_size,
            space.name_max,
            space.block_size,
        ),
        Err(errno) => reply.error(errno),
    }
}
