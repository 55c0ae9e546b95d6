//! The lines of a ledger as the verifier reads them: segment by segment, in one buffer.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::ledger::encode;
use crate::ledger::segment::{self, VoidFrom};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 18;
/// Bytes of the longest line with its newline. What is longer is no line, and comes in pieces.
const LONGEST: u64 = encode::LINE_MAX as u64 + 1;

/// Where the lines come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The ledger's folder.
    Folder(PathBuf),
    /// All segments as one file, as `.audit` shows them.
    File(PathBuf),
}

/// What is read next.
pub enum Step<'a> {
    /// A segment begins; `missing` names one that should come before it.
    Begin {
        /// File name.
        missing: Option<String>,
    },
    /// A line without its newline.
    Line {
        /// File name.
        segment: &'a str,
        /// From 1, in its file.
        number: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A line, or a part of one, that counts for nothing: the next segment, begun after a failed sync, goes on in
    /// its place.
    Void {
        /// File name.
        segment: &'a str,
        /// The position with which the next segment begins.
        from: u64,
    },
    /// Bytes after the last newline of a file.
    Unfinished {
        /// File name.
        segment: String,
        /// How many.
        bytes: u64,
        /// Of the last file.
        last: bool,
    },
}

/// Reads all segments in order.
pub struct Segments {
    folder: PathBuf,
    /// Numbers and file names that are still to come, the last first.
    names: Vec<(Option<u64>, String)>,
    before: Option<u64>,
    name: String,
    reader: Option<BufReader<File>>,
    number: u64,
    /// Lines of the current segment from this position on are void.
    void_from: Option<u64>,
    /// What follows in it is void.
    is_void: bool,
    end: VoidFrom,
    line: Vec<u8>,
    announced: bool,
}

impl Segments {
    /// Finds the segments.
    pub fn open(source: &Source) -> io::Result<Self> {
        let (folder, names) = match source {
            Source::File(path) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (folder, vec![(None, name)])
            }
            Source::Folder(folder) => {
                let mut numbers = Vec::new();
                for entry in std::fs::read_dir(folder)? {
                    numbers.extend(segment::number_of(&entry?.file_name()));
                }
                numbers.sort_unstable_by(|a, b| b.cmp(a));
                let name = |number| segment::file_name(number).to_string_lossy().into_owned();
                let named = numbers.into_iter().map(|number| (Some(number), name(number)));
                (folder.clone(), named.collect())
            }
        };
        Ok(Self {
            folder,
            names,
            before: None,
            name: String::new(),
            reader: None,
            number: 0,
            void_from: None,
            is_void: false,
            end: VoidFrom::default(),
            line: Vec::new(),
            announced: false,
        })
    }

    /// The next step; none at the end.
    pub fn next(&mut self) -> io::Result<Option<Step<'_>>> {
        let length = loop {
            let Some(reader) = &mut self.reader else { return self.begin() };
            self.line.clear();
            let length = reader.take(LONGEST).read_until(b'\n', &mut self.line)?;
            // What was cut off after a failed sync is shown as empty lines. A line never is.
            if self.before.is_some() || self.line != b"\n" {
                break length;
            }
        };
        if length == 0 {
            self.reader = None;
            return self.begin();
        }
        if self.line.last() != Some(&b'\n') && (length as u64) < LONGEST {
            let segment = self.name.clone();
            self.reader = None;
            let last = self.names.is_empty();
            // After a failed sync the old segment may end with a part of a line.
            if let Some(from) = self.void_from {
                return Ok(Some(Step::Void { segment: &self.name, from }));
            }
            return Ok(Some(Step::Unfinished { segment, bytes: length as u64, last }));
        }
        self.line.pop_if(|last| *last == b'\n');
        self.number = self.number.saturating_add(1);
        if let Some(from) = self.void_from {
            self.is_void |= self.end.is_reached(&self.line, from);
            if self.is_void {
                return Ok(Some(Step::Void { segment: &self.name, from }));
            }
        }
        Ok(Some(Step::Line { segment: &self.name, number: self.number, bytes: &self.line }))
    }

    fn begin(&mut self) -> io::Result<Option<Step<'_>>> {
        let Some((number, name)) = self.names.last().cloned() else { return Ok(None) };
        let expected = self.before.map(|before| before.saturating_add(1));
        if let (Some(number), Some(expected)) = (number, expected)
            && number != expected
            && !self.announced
        {
            self.announced = true;
            let missing = segment::file_name(expected).to_string_lossy().into_owned();
            return Ok(Some(Step::Begin { missing: Some(missing) }));
        }
        self.announced = false;
        self.names.pop();
        self.before = number;
        let path = self.folder.join(&name);
        // One file alone may be a pipe.
        let file = if number.is_some() { segment::open(&path)? } else { File::open(&path)? };
        self.reader = Some(BufReader::with_capacity(BUFFER, file));
        self.name = name;
        self.number = 0;
        (self.is_void, self.end) = (false, VoidFrom::default());
        self.void_from = match self.names.last() {
            Some((_, next)) => void_from(&self.folder.join(next))?,
            None => None,
        };
        Ok(Some(Step::Begin { missing: None }))
    }
}

/// The position at which a segment takes over after a failed sync.
fn void_from(path: &Path) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    BufReader::new(segment::open(path)?).take(LONGEST).read_until(b'\n', &mut line)?;
    Ok(segment::void_from(line.strip_suffix(b"\n").unwrap_or(&line)))
}
