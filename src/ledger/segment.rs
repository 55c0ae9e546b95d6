//! Segment files: `00000001.jsonl` and on, without gaps.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::record::{Record, VersionRecord};
use super::{decode, encode};
use crate::error::Errno;
use crate::storage::Storage;

/// Opens a segment to read it. A fifo, at which one would wait, and anything else that is no regular file is refused.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Bytes after which the next segment is begun.
pub const SEGMENT_MAX: u64 = 64 << 20;

/// File name of a segment.
pub fn file_name(number: u64) -> OsString {
    format!("{number:08}.jsonl").into()
}

/// The number that a file name stands for; `None` if it is not a segment's.
pub fn number_of(name: &OsStr) -> Option<u64> {
    let number = name.to_str()?.strip_suffix(".jsonl")?.parse().ok()?;
    (number > 0 && file_name(number) == name).then_some(number)
}

/// The segments in a ledger's directory, in order.
pub fn list<S: Storage>(storage: &S, dir: &S::Dir) -> Result<Vec<u64>, Errno> {
    let names = storage.list(dir)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment that could not be begun.
#[derive(Debug, Clone, Copy)]
pub struct NotBegun {
    /// Why.
    pub errno: Errno,
    /// A power cut may leave the name with what it had. Then the segment before must not go on, for the
    /// name says where that ends.
    pub stays: bool,
}

/// Makes a segment with its version record; file and name are durable when this returns. What a
/// failed attempt left under the name is removed.
pub fn begin<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    number: u64,
    seq: u64,
    view: &str,
    after_failed_sync: bool,
) -> Result<(S::File, u64), NotBegun> {
    let not_begun = |errno| NotBegun { errno, stays: false };
    let name = file_name(number);
    let record = Record::Version(VersionRecord {
        format: 1,
        program: concat!("octroi ", env!("CARGO_PKG_VERSION")).into(),
        view: view.into(),
        after_failed_sync,
    });
    let body = encode::body(&record).map_err(not_begun)?;
    let line = encode::line(seq, jiff::Timestamp::now(), Some(seq), &body);
    let file = storage.create_file(dir, &name).map_err(not_begun)?;
    let made = storage
        .write_at(&file, &line, 0)
        .and_then(|()| storage.sync_file(&file))
        .and_then(|()| storage.sync_dir(dir));
    if let Err(errno) = made {
        let removed = storage.unlink(dir, &name).and_then(|()| storage.sync_dir(dir));
        return Err(NotBegun { errno, stays: removed.is_err() });
    }
    Ok((file, line.len() as u64))
}

/// The position from which on the segment before is void, by the first line of the one that follows it: after a
/// failed sync it has the lines again that were never durable there.
pub fn void_from(first: &[u8]) -> Option<u64> {
    let entry = decode::decode(first).ok()?.entry;
    match entry.record {
        Record::Version(version) if version.after_failed_sync => Some(entry.seq),
        _ => None,
    }
}

/// Finds where in a segment that was not synced the void lines begin.
#[derive(Default)]
pub struct VoidFrom {
    /// The position after the last line that checked.
    next: Option<u64>,
}

impl VoidFrom {
    /// Whether a line and all after it are void, if the next segment begins with the position `from`: it has that
    /// one or a later one, or follows the last that counts and does not check. To be asked for each line in order.
    pub fn is_reached(&mut self, line: &[u8], from: u64) -> bool {
        match decode::head(line) {
            Ok(head) => {
                self.next = head.seq.checked_add(1);
                head.seq >= from
            }
            Err(_) => self.next == Some(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_refused_without_waiting_for_who_writes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("00000001.jsonl");
        let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a fifo");
        assert_eq!(open(&path).expect_err("no file").kind(), io::ErrorKind::InvalidInput);
        assert!(open(dir.path()).is_err());
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("a file");
        assert!(open(&path).is_ok());
    }

    #[test]
    fn only_our_own_names_are_segments() {
        assert_eq!(number_of(OsStr::new("00000012.jsonl")), Some(12));
        assert_eq!(number_of(&file_name(123_456_789)), Some(123_456_789));
        for other in
            ["0000001.jsonl", "00000000.jsonl", "00000001.json", "reserve", "+0000001.jsonl"]
        {
            assert_eq!(number_of(OsStr::new(other)), None, "{other}");
        }
    }
}
