//! Changing modes, owners and times.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};

use crate::error::Errno;
use crate::sys::resolve::magic_path;
use crate::types::Time;

use super::{Branch, Stat};

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the call.
    Now,
    /// A given time.
    At(Time),
}

/// Changes of attributes; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Permission bits, set-id and sticky included.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last read.
    pub atime: Option<SetTime>,
    /// Time of last write.
    pub mtime: Option<SetTime>,
}

impl AttributeChange {
    /// The change that takes this one back. chown(2) may have cleared bits of the mode.
    pub fn back_to(&self, was: &Stat) -> Self {
        let chown = self.uid.is_some() || self.gid.is_some();
        Self {
            mode: (chown || self.mode.is_some()).then_some(was.mode),
            uid: self.uid.map(|_| was.uid),
            gid: self.gid.map(|_| was.gid),
            atime: self.atime.map(|_| SetTime::At(was.atime)),
            mtime: self.mtime.map(|_| SetTime::At(was.mtime)),
        }
    }
}

impl Branch {
    /// Changes attributes of an inode: owner before mode, for chown(2) clears set-id bits. EINVAL for -1, which
    /// is no id: chown(2) means no change by it, and the kernel does not send it.
    pub fn set_attributes(
        &self,
        node: BorrowedFd<'_>,
        change: &AttributeChange,
    ) -> Result<(), Errno> {
        self.check_online()?;
        if change.uid == Some(u32::MAX) || change.gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(node, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            rustix::fs::chmod(magic_path(node), Mode::from_bits_truncate(mode & 0o7777))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            rustix::fs::utimensat(rustix::fs::CWD, magic_path(node), &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
    }
}
