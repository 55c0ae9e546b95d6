//! Reads the segments of a ledger that may be in use: for `.audit` and for commands. Only whole lines
//! are shown. Needs no daemon.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Entry, LedgerError, decode, encode, segment};
use crate::error::{Errno, errno_of};

/// Longest line with its newline: as far as one must look back for the last newline.
const TAIL: u64 = encode::LINE_MAX as u64 + 1;

/// So many bytes are searched line by line.
const NEAR: u64 = 1 << 14;

/// Bytes that are read at a time: so many first, for who wants a line or two, and twice as many each time.
const CHUNK: usize = 1 << 12;
const CHUNK_MAX: usize = 1 << 18;

/// The position that a line says it has.
fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// A segment.
pub(super) struct Part {
    pub number: u64,
    pub name: String,
    pub file: File,
    /// Bytes that the file had when it was last looked at.
    pub size: u64,
    /// Offset of its first byte in the whole.
    pub start: u64,
    /// Bytes of whole lines that are or were there.
    pub length: u64,
    /// How many of them are. After a failed sync what was never durable is cut off, and the next segment has
    /// it again: whoever has read it already goes on after it, and who has not finds empty lines there.
    pub there: u64,
    /// What `length` was before it was last looked at.
    pub shown: u64,
    /// Bytes of whole lines in the file.
    pub whole: u64,
    /// How many of them count, once the segment after it says so: those before the first that it has again.
    pub counts: Option<u64>,
}

impl Part {
    /// Offset after its last byte in the whole.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    fn measure(&mut self) {
        self.there = self.whole.min(self.counts.unwrap_or(u64::MAX));
        self.length = self.there.max(self.shown);
    }

    /// Learns from the segment after it which lines count.
    fn count(&mut self, next: u64, file: &File) -> io::Result<()> {
        self.counts = None;
        if let Some(first) = first_line(file)? {
            let from = segment::void_from(&first);
            let from = from.filter(|_| self.number.checked_add(1) == Some(next));
            self.counts = Some(match from {
                Some(seq) => length_before(&self.file, seq)?,
                None => u64::MAX,
            });
        }
        self.measure();
        Ok(())
    }
}

/// All retained segments as one stream of bytes, as of [`Reader::open`] or the last
/// [`Reader::refresh`]. Offsets count from the first segment that was there when it was opened; they
/// stay what they are when segments leave from the front.
pub struct Reader {
    pub(super) dir: PathBuf,
    pub(super) parts: Vec<Part>,
}

impl Reader {
    /// Opens the segments in a directory; none is an empty stream.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let mut reader = Self { dir: dir.to_owned(), parts: Vec::new() };
        reader.refresh()?;
        Ok(reader)
    }

    /// Takes in what was appended since, and lets go of segments that have left. Offsets stay valid.
    pub fn refresh(&mut self) -> Result<(), LedgerError> {
        let listed = std::fs::read_dir(&self.dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|error| failed("list", "directory", &error))?;
        let names: Vec<std::ffi::OsString> = listed;
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
        numbers.sort_unstable();
        self.take_all(&numbers)
    }

    /// Takes in the segments that were listed.
    fn take_all(&mut self, numbers: &[u64]) -> Result<(), LedgerError> {
        let mut start = self.parts.first().map_or(0, |part| part.start);
        let mut known = std::mem::take(&mut self.parts).into_iter().peekable();
        for number in numbers.iter().copied() {
            while let Some(gone) = known.next_if(|part| part.number < number) {
                start = gone.end();
            }
            let same = known.next_if(|part| part.number == number);
            let is_last = numbers.last() == Some(&number);
            self.take(number, same, is_last, &mut start)?;
        }
        Ok(())
    }

    /// Takes in a segment, of which perhaps something is known, at an offset; then that after it.
    fn take(
        &mut self,
        number: u64,
        same: Option<Part>,
        is_last: bool,
        start: &mut u64,
    ) -> Result<(), LedgerError> {
        let name = segment::file_name(number).to_string_lossy().into_owned();
        let read = |error: io::Error| failed("read", &name, &error);
        let shown = same.as_ref().map_or(0, |part| part.length);
        let end = same.as_ref().map(Part::end);
        // After a failed sync it may have been removed and begun anew.
        let same = same.filter(|part| is_linked(&part.file));
        let is_new = same.is_none();
        // The last one is being written; of the others nothing changes but that they are cut off.
        let before = same.as_ref().filter(|_| !is_last).map(|part| (part.size, part.whole));
        // Where the one after it has gone again, all counts.
        let counts = same.as_ref().filter(|_| !is_last).and_then(|part| part.counts);
        let file = match same {
            Some(part) => part.file,
            None => match segment::open(&self.dir.join(&name)) {
                Ok(file) => file,
                // It left since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    *start = end.unwrap_or(*start);
                    return Ok(());
                }
                Err(error) => return Err(failed("open", &name, &error)),
            },
        };
        if let Some(last) = self.parts.last_mut() {
            if is_new || last.counts.is_none() {
                last.count(number, &file).map_err(read)?;
            }
            *start = last.end().max(*start);
        }
        let (size, whole) = whole_lines(&file, before).map_err(read)?;
        let (start, there, length) = (*start, whole, shown);
        let mut part =
            Part { number, name, file, size, start, length, shown, whole, there, counts };
        part.measure();
        self.parts.push(part);
        Ok(())
    }

    /// Offset of the first byte that is still there.
    pub fn first(&self) -> u64 {
        self.parts.first().map_or(0, |part| part.start)
    }

    /// Offset after the last whole line.
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(0, Part::end)
    }

    /// Offset of the first byte of the segment that an offset lies in.
    pub fn segment_start(&self, offset: u64) -> u64 {
        let after = self.parts.partition_point(|part| part.start <= offset);
        after.checked_sub(1).and_then(|at| self.parts.get(at)).map_or(0, |part| part.start)
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.len() == self.first()
    }

    /// Fills `buffer` from an offset; less only at the end. ESTALE where a segment has left.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset < self.first() {
            return Err(Errno::STALE.into());
        }
        let mut done = 0;
        for part in &self.parts {
            let at = offset.saturating_add(done as u64);
            if at < part.start || at >= part.end() {
                continue;
            }
            let within = |end: u64| usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let room = buffer.get_mut(done..).unwrap_or_default();
            let all = room.len().min(within(part.end()));
            let room = room.get_mut(..all).unwrap_or_default();
            let wanted = all.min(within(part.start.saturating_add(part.there)));
            room.get_mut(wanted..).unwrap_or_default().fill(b'\n');
            let mut filled = 0;
            while filled < wanted {
                let target = room.get_mut(filled..wanted).unwrap_or_default();
                let from = at.saturating_sub(part.start).saturating_add(filled as u64);
                match part.file.read_at(target, from) {
                    Ok(0) => return Ok(done.saturating_add(filled)),
                    Ok(read) => filled = filled.saturating_add(read),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            done = done.saturating_add(all);
        }
        Ok(done)
    }

    /// The lines from an offset that begins one, with their newlines. After the last, `refresh` and
    /// [`Lines::offset`] continue.
    pub fn lines(&self, offset: u64) -> Lines<'_> {
        Lines { reader: self, offset, buffer: Vec::new(), taken: 0, chunk: CHUNK }
    }

    /// The offset of the line at a position; none if it is not there.
    pub fn offset_of(&self, seq: u64) -> Result<Option<u64>, LedgerError> {
        let (mut low, mut high) = (self.first(), self.len());
        // `low` is the beginning of a line that is not after the one that is looked for.
        while high.saturating_sub(low) > NEAR {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            let mut next = self.lines(middle);
            // The rest of the line that the middle is in.
            let _rest = next.next().transpose()?;
            match next.next().transpose()? {
                Some((at, line))
                    if at < high && seq_of(&line).is_some_and(|found| found <= seq) =>
                {
                    low = at;
                }
                _ => high = middle,
            }
        }
        for line in self.lines(low) {
            let (at, line) = line?;
            match seq_of(&line) {
                Some(found) if found == seq => return Ok(Some(at)),
                Some(found) if found > seq => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The line at a position, without its newline; none if it is not there.
    pub fn line_at(&self, seq: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let Some(offset) = self.offset_of(seq)? else { return Ok(None) };
        let line = self.lines(offset).next().transpose()?;
        Ok(line.map(|(_, line)| line.strip_suffix(b"\n").unwrap_or(&line).to_vec()))
    }

    /// The entries from an offset that begins a line.
    pub fn entries(&self, offset: u64) -> impl Iterator<Item = Result<Entry, LedgerError>> + '_ {
        self.lines(offset).enumerate().map(move |(at, line)| {
            let (offset, line) = line?;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            decode::decode(line).map(|decoded| decoded.entry).map_err(|why| LedgerError::Damaged {
                segment: self.segment_at(offset),
                line: (at as u64).saturating_add(1),
                why,
            })
        })
    }

    /// Whether what was there is no more.
    fn is_cut_off(&self, offset: u64) -> bool {
        let is_in = |part: &&Part| part.start <= offset && offset < part.end();
        let part = self.parts.iter().find(is_in);
        part.is_some_and(|part| offset >= part.start.saturating_add(part.there))
    }

    fn segment_at(&self, offset: u64) -> String {
        let part = self.parts.iter().rfind(|part| part.start <= offset);
        part.map_or_else(String::new, |part| part.name.clone())
    }

    /// The segment that an offset is in, and where it begins.
    pub fn part_at(&self, offset: u64) -> Option<(&str, u64)> {
        let part = self.parts.iter().rfind(|part| part.start <= offset)?;
        Some((&part.name, part.start))
    }
}

/// See [`Reader::lines`].
pub struct Lines<'a> {
    reader: &'a Reader,
    offset: u64,
    buffer: Vec<u8>,
    taken: usize,
    /// Bytes that are read next.
    chunk: usize,
}

impl Lines<'_> {
    /// Offset of the next line.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Iterator for Lines<'_> {
    type Item = Result<(u64, Vec<u8>), LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.buffer.get(self.taken..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.get(..=end).unwrap_or_default().to_owned();
                let offset = self.offset;
                self.taken = self.taken.saturating_add(line.len());
                self.offset = offset.saturating_add(line.len() as u64);
                // In the place of what was cut off.
                if line == b"\n" && self.reader.is_cut_off(offset) {
                    continue;
                }
                return Some(Ok((offset, line)));
            }
            let mut more = vec![0; self.chunk];
            self.chunk = self.chunk.saturating_mul(2).min(CHUNK_MAX);
            let at = self.offset.saturating_add(rest.len() as u64);
            match self.reader.read_at(at, &mut more) {
                // Every part ends with a newline, so nothing is left over.
                Ok(0) => return None,
                Ok(read) => {
                    more.truncate(read);
                    self.buffer.drain(..self.taken);
                    self.taken = 0;
                    self.buffer.append(&mut more);
                }
                Err(error) => {
                    let segment = self.reader.segment_at(at);
                    self.offset = u64::MAX / 2;
                    self.buffer.clear();
                    self.taken = 0;
                    let errno = errno_of(&error);
                    return Some(Err(LedgerError::Io { attempted: "read", segment, errno }));
                }
            }
        }
    }
}

/// Bytes in a file, and those up to the last newline. `before` is what it said the last time, of one that is
/// not written any more: as many bytes are the same ones.
fn whole_lines(file: &File, before: Option<(u64, u64)>) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    if let Some(same) = before.filter(|(size, _)| *size == length) {
        return Ok(same);
    }
    let start = length.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(length.saturating_sub(start)).unwrap_or(0)];
    let mut filled = 0;
    while let Some(room) = tail.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, start.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    tail.truncate(filled);
    let newline = tail.iter().rposition(|byte| *byte == b'\n');
    Ok((length, newline.map_or(0, |at| start.saturating_add(at as u64).saturating_add(1))))
}

/// Whether a file has a name; one that cannot be asked has.
fn is_linked(file: &File) -> bool {
    file.metadata().map_or(true, |found| found.nlink() > 0)
}

/// The first line without its newline, once it is whole.
fn first_line(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from_start(file)?.take(TAIL).read_until(b'\n', &mut line)?;
    Ok(line.pop_if(|last| *last == b'\n').map(|_| line))
}

/// Bytes of the lines that are not void, where the next segment begins with a position after a failed sync.
fn length_before(file: &File, seq: u64) -> io::Result<u64> {
    let mut reader = from_start(file)?;
    let (mut line, mut length) = (Vec::new(), 0_u64);
    let mut end = segment::VoidFrom::default();
    loop {
        line.clear();
        let read = (&mut reader).take(TAIL).read_until(b'\n', &mut line)?;
        line.pop_if(|last| *last == b'\n');
        if read == 0 || end.is_reached(&line, seq) {
            return Ok(length);
        }
        length = length.saturating_add(read as u64);
    }
}

/// Nothing else uses the position of a segment's file.
fn from_start(mut file: &File) -> io::Result<BufReader<&File>> {
    file.seek(SeekFrom::Start(0))?;
    Ok(BufReader::with_capacity(CHUNK, file))
}

fn failed(attempted: &'static str, name: &str, error: &io::Error) -> LedgerError {
    LedgerError::Io { attempted, segment: name.to_owned(), errno: errno_of(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the listing of the folder and the opening of what is in it.
    #[test]
    fn offsets_stay_when_a_segment_leaves_while_it_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number| folder.path().join(segment::file_name(number));
        for (number, text) in [(1, "first\n"), (2, "second\n"), (3, "third\n")] {
            std::fs::write(path(number), text).unwrap();
        }
        let mut reader = Reader::open(folder.path()).unwrap();
        let second = reader.parts[1].start;
        std::fs::remove_file(path(1)).unwrap();
        reader.take_all(&[1, 2, 3]).unwrap();
        assert_eq!((reader.first(), reader.len()), (6, 19));
        assert_eq!(second, 6);
        let read: Vec<_> = reader.lines(second).map(|line| line.unwrap()).collect();
        assert_eq!(read, [(6, b"second\n".to_vec()), (13, b"third\n".to_vec())]);
    }
}
