//! The file of a witness: a line of JSON for each checkpoint that was carried away. It may be longer than
//! memory is large.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ledger::CheckpointCopy;
use crate::ledger::note::NOTE_MAX;
use crate::types::counted;

use super::super::failure::{Failure, cannot};

/// Lines that are no checkpoints and are told one by one.
const WRONG_MAX: usize = 10;
/// Bytes of a line that are read: more than any checkpoint has.
const LINE_MAX: u64 = 2 * NOTE_MAX as u64;

/// How each line begins: by the first field of [`Seen`].
const BEGINNING: &[u8] = b"{\"time\":\"";

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
    /// Checkpoints.
    checkpoints: u64,
    /// Lines that are none, from the first on: place and reason.
    wrong: Vec<(String, String)>,
    /// How many more.
    more_wrong: u64,
    /// Beginnings of lines, as a crash of the witness leaves them.
    torn: Vec<String>,
    /// The lines up to here were looked at.
    looked: u64,
    failed: Option<io::Error>,
}

/// What is to be said of a file, beside its checkpoints.
pub(super) struct Judged {
    /// What it lacks and what does not belong there: places and words.
    pub problems: Vec<(String, String)>,
    /// What is no problem and worth knowing.
    pub notes: Vec<String>,
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
                        let more = u64::from(!again);
                        told.checkpoints = told.checkpoints.saturating_add(more);
                        let note = seen.checkpoint.into_bytes();
                        return Some(CheckpointCopy { place, note, adopted: false });
                    }
                    Err(_) if again => {}
                    Err(_) if is_torn(&line) => {
                        if told.torn.len() < WRONG_MAX {
                            told.torn.push(place);
                        }
                    }
                    Err(error) if told.wrong.len() < WRONG_MAX => {
                        told.wrong.push((place, format!("it is no checkpoint: {error}")));
                    }
                    Err(_) => told.more_wrong = told.more_wrong.saturating_add(1),
                }
            }
        })
    }

    /// What is to be said of it, once it was read.
    pub(super) fn judged(&self) -> Result<Judged, Failure> {
        let mut told = self.told.borrow_mut();
        if let Some(error) = told.failed.take() {
            let attempt = format!("read the checkpoints in {}", self.path.display());
            return Err(cannot(attempt)(error));
        }
        let mut problems = told.wrong.clone();
        let path = self.path.display().to_string();
        if told.more_wrong > 0 {
            let more = counted(told.more_wrong, "more line is", "more lines are");
            problems.push((path.clone(), format!("{more} no checkpoints")));
        }
        if told.checkpoints == 0 {
            problems.push((path, "it has no checkpoint".to_owned()));
        }
        let torn = |place: &String| {
            format!("{place} is the beginning of a checkpoint, as a crash leaves it, and left out")
        };
        Ok(Judged { problems, notes: told.torn.iter().map(torn).collect() })
    }
}

/// Whether a line has begun as one and has not come to its end.
fn is_torn(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line.starts_with(BEGINNING) && !line.ends_with(b"}")
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
        let judged = carried.judged().unwrap();
        assert!(judged.problems.is_empty() && judged.notes.is_empty());
    }

    /// Reads a file twice, as verifying does.
    #[track_caller]
    fn check(text: &[u8], problems: &[&str], notes: usize) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let carried = Carried::open(file.path()).unwrap();
        let _ = (carried.all().count(), carried.all().count());
        let judged = carried.judged().unwrap();
        let path = file.path().display().to_string();
        let said = judged.problems.iter().map(|(place, what)| {
            format!("{}: {what}", place.strip_prefix(&path).unwrap().trim_start())
        });
        let said: Vec<String> = said.collect();
        assert_eq!(said.len(), problems.len(), "{said:?}");
        let all = said.iter().zip(problems).all(|(said, wanted)| said.starts_with(wanted));
        assert!(all, "{said:?}");
        assert_eq!(judged.notes.len(), notes);
    }

    #[test]
    fn a_file_that_witnesses_nothing_is_told() {
        const NONE: &str = ": it has no checkpoint";
        let line = serde_json::to_string(&Seen { time: "t".into(), checkpoint: "c".into() });
        let line = line.unwrap();
        assert!(line.as_bytes().starts_with(BEGINNING), "{line}");
        check(b"", &[NONE], 0);
        check(b"octroi/lab/1+2+3\n", &["line 1: it is no checkpoint: ", NONE], 0);
        let torn = line.get(..20).unwrap();
        check(torn.as_bytes(), &[NONE], 1);
        check(format!("{torn}\n{line}\n").as_bytes(), &[], 1);
        check(format!("{line}\nx\n").as_bytes(), &["line 2: it is no checkpoint: "], 0);
        let many = format!("{line}\n{}", "x\n".repeat(WRONG_MAX + 2));
        let mut wanted = vec![""; WRONG_MAX];
        wanted.push(": 2 more lines are no checkpoints");
        check(many.as_bytes(), &wanted, 0);
    }
}
