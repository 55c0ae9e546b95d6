//! The file of a witness: a line of JSON for each checkpoint that was carried away. It may be longer than
//! memory is large.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ledger::CheckpointCopy;
use crate::ledger::note::NOTE_MAX;

use super::super::failure::{Failure, cannot};

/// Lines that are no checkpoints and are told one by one.
const WRONG_MAX: usize = 10;
/// Bytes of a line that are read: more than any checkpoint has.
const LINE_MAX: u64 = 2 * NOTE_MAX as u64;

/// A line.
#[derive(Serialize, Deserialize)]
pub(super) struct Seen {
    /// When it was carried away, RFC 3339.
    pub time: String,
    /// The signed note.
    pub checkpoint: String,
}

/// A witness's file.
pub(super) struct Carried {
    path: PathBuf,
    file: File,
    /// Its bytes when it was opened: what comes later is about a ledger that goes on meanwhile.
    length: u64,
    told: RefCell<Told>,
}

#[derive(Default)]
struct Told {
    /// What is to be said of lines that are none: a crash may leave a part of one.
    wrong: Vec<String>,
    /// The lines up to here were looked at.
    looked: u64,
    failed: Option<io::Error>,
}

impl Carried {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = || -> io::Result<_> {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let attempt = format!("read the checkpoints in {}", path.display());
        let (file, length) = opened().map_err(cannot(attempt))?;
        Ok(Self { path: path.to_owned(), file, length, told: RefCell::default() })
    }

    /// The checkpoints, oldest first, from the beginning; they end where the file cannot be read.
    pub(super) fn all(&self) -> impl Iterator<Item = CheckpointCopy> + '_ {
        use std::os::unix::fs::FileExt as _;
        struct From<'a>(&'a File, u64);
        impl io::Read for From<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read_at(buffer, self.1)?;
                self.1 = self.1.saturating_add(read as u64);
                Ok(read)
            }
        }
        let mut reader = BufReader::new(From(&self.file, 0).take(self.length));
        let mut number = 0_u64;
        std::iter::from_fn(move || {
            loop {
                let mut line = Vec::new();
                match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => {
                        self.told.borrow_mut().failed = Some(error);
                        return None;
                    }
                }
                number = number.saturating_add(1);
                let place = format!("{} line {number}", self.path.display());
                let mut told = self.told.borrow_mut();
                let again = number <= told.looked;
                told.looked = told.looked.max(number);
                match serde_json::from_slice::<Seen>(&line) {
                    Ok(seen) => {
                        let note = seen.checkpoint.into_bytes();
                        return Some(CheckpointCopy { place, note, adopted: false });
                    }
                    Err(error) if !again && told.wrong.len() < WRONG_MAX => {
                        let what = format!("{place} is no checkpoint, and left out: {error}");
                        told.wrong.push(what);
                    }
                    Err(_) => {}
                }
            }
        })
    }

    /// What is to be said of it, once it was read.
    pub(super) fn wrong(&self) -> Result<Vec<String>, Failure> {
        let mut told = self.told.borrow_mut();
        if let Some(error) = told.failed.take() {
            let attempt = format!("read the checkpoints in {}", self.path.display());
            return Err(cannot(attempt)(error));
        }
        Ok(told.wrong.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_comes_while_it_is_read_is_left_out() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut carry = |checkpoint: &str| {
            let seen = Seen { time: "2026-01-01T00:00:00Z".into(), checkpoint: checkpoint.into() };
            writeln!(file, "{}", serde_json::to_string(&seen).unwrap()).unwrap();
            file.path().to_owned()
        };
        carry("a");
        let path = carry("b");
        let carried = Carried::open(&path).unwrap();
        carry("c");
        for _ in 0..2 {
            let notes: Vec<Vec<u8>> = carried.all().map(|copy| copy.note).collect();
            assert_eq!(notes, [b"a", b"b"]);
        }
        assert!(carried.wrong().unwrap().is_empty());
    }
}
