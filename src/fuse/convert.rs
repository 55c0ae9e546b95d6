//! Between fuser's types and ours.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::branch::{FileKind, SetTime, Whence};
use crate::error::Errno;
use crate::types::{Caller, Time};
use crate::vfs::Attributes;

pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub fn attributes(attributes: &Attributes) -> FileAttr {
    let stat = &attributes.stat;
    FileAttr {
        ino: INodeNo(attributes.number),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: system_time(stat.btime),
        kind: kind(stat.kind),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: encode_device(stat.rdev),
        blksize: stat.block_size,
        flags: 0,
    }
}

/// A time that the standard library cannot hold becomes the epoch.
fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let start = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    start.and_then(|start| start.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A time as the kernel sent it. fuser 0.18 (`time.rs`) subtracts the nanoseconds of a time before 1970
/// where they are to be added, which is undone here.
pub fn set_time(time: TimeOrNow) -> SetTime {
    let time = match time {
        TimeOrNow::Now => return SetTime::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    SetTime::At(match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                seconds: i64::try_from(before.as_secs()).map_or(i64::MIN, i64::saturating_neg),
                nanos: before.subsec_nanos(),
            }
        }
    })
}

/// Names as listxattr(2) gives them, each ended by a NUL.
pub fn joined(keys: &[OsString]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.as_bytes().iter().copied().chain([0])).collect()
}

/// lseek(2)'s `whence`, of which the kernel sends on only what it cannot answer itself.
pub fn whence_of(whence: i32) -> Result<Whence, Errno> {
    match whence {
        libc::SEEK_DATA => Ok(Whence::Data),
        libc::SEEK_HOLE => Ok(Whence::Hole),
        _ => Err(Errno::INVAL),
    }
}

/// A `dev_t` in the kernel's 32 bits (include/linux/kdev_t.h, `new_encode_dev`).
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// The reverse of [`encode_device`] (`new_decode_dev`).
pub fn decode_device(device: u32) -> u64 {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    rustix::fs::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_the_way_there_and_back() {
        for (major, minor) in [(1, 3), (8, 1), (259, 70_000), (4095, 0xf_ffff)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn times_before_1970_are_as_the_kernel_meant_them() {
        // fuser makes of (-2 s, 300,000,000 ns), which is -1.7 s, the time -2.3 s.
        let decoded = UNIX_EPOCH - Duration::new(2, 300_000_000);
        let time = set_time(TimeOrNow::SpecificTime(decoded));
        assert_eq!(time, SetTime::At(Time { seconds: -2, nanos: 300_000_000 }));
        // The earliest that the kernel can send, of which fuser makes 2^63 seconds before the epoch.
        let earliest = UNIX_EPOCH - Duration::from_secs(1 << 63);
        let time = set_time(TimeOrNow::SpecificTime(earliest));
        assert_eq!(time, SetTime::At(Time { seconds: i64::MIN, nanos: 0 }));
        assert_eq!(system_time(Time { seconds: i64::MIN, nanos: 0 }), earliest);
        let shown = system_time(Time { seconds: -2, nanos: 300_000_000 });
        assert_eq!(shown, UNIX_EPOCH - Duration::from_millis(1700));
    }
}
