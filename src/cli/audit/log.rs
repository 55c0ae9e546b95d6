//! Where the lines of a ledger are read from, in pieces of whole lines: forwards and from the end.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use crate::config;
use crate::control::protocol::{Answer, Request};
use crate::ledger::Reader;
use crate::sys::limits;
use crate::types::{TxId, within};

use super::super::failure::{Failure, cannot};
use super::super::output::is_terminal;
use super::super::target::{ViewOption, mount_of_config};
use super::super::unexpected;
use super::filter::Filter;
use super::scope::Scope;

/// Bytes that are read at once; longer than any line.
pub(super) const PIECE: usize = 256 * 1024;

/// How long the daemon may take to write what it has.
const WRITE_WAIT: Duration = Duration::from_secs(2);

/// Where the lines come from.
pub(in crate::cli) enum Log {
    /// The state folder, for who may read it.
    Segments(Reader),
    /// `.audit/log.jsonl` of a mounted view, for its readers.
    File(std::fs::File),
}

impl Log {
    /// The ledger of a configuration, mounted or not, or of a mounted view.
    pub(in crate::cli) fn find(option: &ViewOption) -> Result<Self, Failure> {
        Self::find_with_scope(option).map(|(log, _)| log)
    }

    /// [`Log::find`], with what is known of its view.
    pub(super) fn find_with_scope(option: &ViewOption) -> Result<(Self, Scope), Failure> {
        if let Some(config) = option.view.as_deref().filter(|path| path.is_file()) {
            let loaded = config::load(config)
                .map_err(|errors| Failure::diagnostics(errors.render(is_terminal())))?;
            if let Some(mount) = mount_of_config(config, &loaded.config.view) {
                have_written(&mount.mountpoint);
            }
            let log = Self::of_state(&loaded.config.state)?;
            return Ok((log, Scope::of_config(config, &loaded.config)));
        }
        let view = option.find(None)?;
        let mountpoint = &view.mount.mountpoint;
        match view.client.ask(&Request::Status) {
            Ok(Answer::Status(status)) => {
                have_written(mountpoint);
                let log = Self::of_state(&status.state)?;
                Ok((log, Scope::of_status(&status, &view.mount)))
            }
            Ok(_) => Err(unexpected()),
            Err(_) => {
                let path = mountpoint.join(".audit/log.jsonl");
                let attempt = format!("read {}", path.display());
                let file = std::fs::File::open(&path).map_err(|error| {
                    cannot(attempt)(error).hint("audit.readers names who may, beside root")
                })?;
                Ok((Self::File(file), Scope::of_mount(&view.mount)))
            }
        }
    }

    /// The ledger in a state folder.
    pub(in crate::cli) fn of_state(state: &Path) -> Result<Self, Failure> {
        let ledger = state.join("ledger");
        // A large one has more segments than may be open by default; fewer than are needed is said then.
        let _ = limits::raise_open_files();
        let attempt = format!("read the ledger {}", ledger.display());
        Reader::open(&ledger).map(Self::Segments).map_err(cannot(attempt))
    }

    /// Hands out each line that there is now, without its newline, in order.
    pub(in crate::cli) fn each_line(&self, mut see: impl FnMut(&[u8])) -> Result<(), Failure> {
        self.each_match(&Filter::default(), |_at, line| {
            see(line);
            Ok(true)
        })
    }

    /// Hands out each line that fits a filter, in order, with its offset, until `see` has enough.
    pub(super) fn each_match(
        &self,
        filter: &Filter,
        mut see: impl FnMut(u64, &[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        if let (Some(txid), Self::Segments(reader)) = (filter.tx(), self) {
            return each_of_transaction(reader, txid, filter, see);
        }
        let end = self.len().map_err(cannot("read the ledger"))?;
        let mut offset = self.first();
        while offset < end {
            let (piece, next) = self.whole_lines(offset).map_err(cannot("read the ledger"))?;
            if next == offset {
                break;
            }
            let mut see = |at, line: &[u8]| see(offset.saturating_add(at as u64), line);
            if !filter.each_match(&piece, &mut see)? {
                break;
            }
            offset = next;
        }
        Ok(())
    }

    /// Takes in what was appended since, and lets go of segments that have left.
    pub(super) fn refresh(&mut self) -> Result<(), Failure> {
        match self {
            Self::Segments(reader) => reader.refresh().map_err(cannot("read the ledger")),
            Self::File(_) => Ok(()),
        }
    }

    /// Offset of the first byte that is still there.
    pub(super) fn first(&self) -> u64 {
        match self {
            Self::Segments(reader) => reader.first(),
            Self::File(_) => 0,
        }
    }

    /// Offset after the last line.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Segments(reader) => Ok(reader.len()),
            Self::File(file) => Ok(file.metadata()?.len()),
        }
    }

    /// At most `length` bytes; less at the end, and elsewhere where less came at once.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = match self {
            Self::Segments(reader) => reader.read_at(offset, &mut bytes)?,
            Self::File(file) => file.read_at(&mut bytes, offset)?,
        };
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The whole lines in the next piece, and the offset after them.
    pub(super) fn whole_lines(&self, offset: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut bytes = self.read_at(offset, PIECE)?;
        let length = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end.saturating_add(1));
        bytes.truncate(length);
        Ok((bytes, offset.saturating_add(length as u64)))
    }

    /// Where the line at an offset is, for messages: file and number.
    pub(super) fn place(&self, offset: u64) -> io::Result<String> {
        let (name, mut at) = match self {
            Self::Segments(reader) => reader.part_at(offset).unwrap_or_default(),
            Self::File(_) => ("log.jsonl", 0),
        };
        let mut number = 1_usize;
        while at < offset {
            let length = offset.saturating_sub(at).min(PIECE as u64);
            let piece = self.read_at(at, usize::try_from(length).unwrap_or(PIECE))?;
            if piece.is_empty() {
                break;
            }
            number = number.saturating_add(memchr::memchr_iter(b'\n', &piece).count());
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(format!("{name} line {number}"))
    }

    /// Offset at which the last `count` lines that fit begin. Looks at pieces from the end.
    pub(super) fn last_matches(&self, filter: &Filter, count: usize) -> io::Result<u64> {
        let (first, mut end) = (self.first(), self.len()?);
        let mut left = count;
        if left == 0 {
            return Ok(end);
        }
        while end > first {
            let start = end.saturating_sub(PIECE as u64).max(first);
            let length = usize::try_from(end.saturating_sub(start)).unwrap_or(PIECE);
            let mut piece = self.read_at(start, length)?;
            // What begins before the piece is for the next one; a piece without a line is none of ours.
            let whole = match start == first {
                true => 0,
                false => {
                    memchr::memchr(b'\n', &piece).map_or(piece.len(), |at| at.saturating_add(1))
                }
            };
            let lines = piece.split_off(whole.min(piece.len()));
            let mut at = lines.len();
            for line in lines.split_inclusive(|byte| *byte == b'\n').rev() {
                at = at.saturating_sub(line.len());
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                // An empty one fills the place of what a failed sync made void.
                if !line.is_empty() && filter.fits(line) {
                    left = left.saturating_sub(1);
                }
                if left == 0 {
                    let before = whole.saturating_add(at) as u64;
                    return Ok(start.saturating_add(before));
                }
            }
            let next = start.saturating_add(whole as u64);
            end = if next < end { next } else { start };
        }
        Ok(first)
    }
}

/// Has the daemon write what it has recorded, which it does within some milliseconds by itself: who looks at the log
/// in `.audit` sees all. Not waited for when it hangs: what is in the segments can be read.
fn have_written(mountpoint: &Path) {
    let log = mountpoint.join(".audit/log.jsonl");
    let _ = within(WRITE_WAIT, move || std::fs::metadata(log).map(drop));
}

/// The lines of a transaction, by the index of the segments.
fn each_of_transaction(
    reader: &Reader,
    txid: TxId,
    filter: &Filter,
    mut see: impl FnMut(u64, &[u8]) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    for offset in reader.lines_of(txid).map_err(cannot("search the ledger"))? {
        let Some(line) = reader.lines(offset).next() else { break };
        let (_, line) = line.map_err(cannot("read the ledger"))?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if filter.fits(line) && !see(offset, line)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lines: String = (0..60_000).map(|at| format!("{{\"seq\":{at}}}\n")).collect();
        std::fs::write(dir.path().join("00000001.jsonl"), &lines).expect("write");
        let log = Log::Segments(Reader::open(dir.path()).expect("open"));
        check(&log, &lines, 3, 3);
        check(&log, &lines, 0, 0);
        check(&log, &lines, 30_000, 30_000);
        check(&log, &lines, 15_000, 15_000);
        check(&log, &lines, usize::MAX, 60_000);
        let file = std::fs::File::open(dir.path().join("00000001.jsonl")).expect("open");
        check(&Log::File(file), &lines, 40_000, 40_000);
    }

    #[test]
    fn what_a_failed_sync_made_void_counts_as_no_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, "{1}\n{2}\n\n\n\n{3}\n").expect("write");
        let log = Log::File(std::fs::File::open(&path).expect("open"));
        assert_eq!(log.last_matches(&Filter::default(), 2).expect("read"), 4);
    }

    #[test]
    fn a_line_is_named_by_its_file_and_number_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let line = format!("{}\n", "x".repeat(999));
        for name in ["00000003.jsonl", "00000004.jsonl"] {
            std::fs::write(dir.path().join(name), line.repeat(1000)).expect("write");
        }
        let log = Log::Segments(Reader::open(dir.path()).expect("open"));
        let place = |at| log.place(at).expect("read");
        assert_eq!(place(0), "00000003.jsonl line 1");
        assert_eq!(place(999_000), "00000003.jsonl line 1000");
        assert_eq!(place(1_000_000), "00000004.jsonl line 1");
        assert_eq!(place(1_700_000), "00000004.jsonl line 701");
        let file = std::fs::File::open(dir.path().join("00000003.jsonl")).expect("open");
        assert_eq!(Log::File(file).place(1000).expect("read"), "log.jsonl line 2");
    }

    #[track_caller]
    fn check(log: &Log, lines: &str, count: usize, expected: usize) {
        let offset = log.last_matches(&Filter::default(), count).expect("read");
        let rest = lines.get(offset as usize..).expect("an offset of the text");
        assert_eq!(rest.lines().count(), expected);
    }
}
