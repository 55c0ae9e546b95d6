//! Where the lines of a transaction are: an index of each segment that is written no more, made when it
//! is first asked for, in `index/` beside the segments.
//!
//! It is a convenience and vouches for nothing: no proof and no verification looks at it. What it
//! points at is read and compared. It holds for one state of its segment's file (inode, length and
//! times); of another state, or where a page of it does not check, it is made again. Where it cannot be
//! written, its segment is searched.
//!
//! A file is pages of 4096 bytes, numbers little-endian: the first has [`MAGIC`], the segment's state
//! and the number of entries; the others entries of a transaction's random bits and an offset in the
//! segment, in order. A page ends with the CRC-32C of its number, the state, and what is before it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use memchr::memmem;

use super::reader::Part;
use super::{LedgerError, Reader};
use crate::error::errno_of;
use crate::types::TxId;

/// Folder of the indexes in a ledger's folder.
pub const INDEX: &str = "index";
const MAGIC: &[u8; 16] = b"octroi txindex 1";
const PAGE: usize = 4096;
const ENTRY: usize = 16;
const ENTRIES: usize = (PAGE - 4) / ENTRY;
/// Bytes of a segment's state.
const STATE: usize = 48;
/// Bytes that are searched at once.
const PIECE: usize = 1 << 20;
/// Characters of a transaction's id.
pub(super) const TXID: usize = 26;
/// In a JSON string the quotation marks would be escaped, so these bytes are fields.
pub(super) const FIELDS: [&[u8]; 2] = [br#""txid":""#, br#""undoes":""#];

type Page = [u8; PAGE];
type Found = io::Result<Vec<u64>>;

impl Reader {
    /// Offsets of the lines that name a transaction, in order.
    pub fn lines_of(&self, txid: TxId) -> Result<Vec<u64>, LedgerError> {
        let mut offsets = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let is_last = at.saturating_add(1) == self.parts.len();
            let found = match is_last {
                true => search(part, txid),
                false => find(&self.dir, part, txid),
            };
            let found = found.map_err(|error| LedgerError::Io {
                attempted: "search",
                segment: part.name.clone(),
                errno: errno_of(&error),
            })?;
            offsets.extend(found.into_iter().map(|offset| part.start.saturating_add(offset)));
        }
        Ok(offsets)
    }
}

/// What tells one state of a segment's file from another.
fn state_of(file: &File) -> io::Result<[u8; STATE]> {
    let found = file.metadata()?;
    let fields = [
        found.ino(),
        found.len(),
        found.mtime().cast_unsigned(),
        found.mtime_nsec().cast_unsigned(),
        found.ctime().cast_unsigned(),
        found.ctime_nsec().cast_unsigned(),
    ];
    let mut state = [0; STATE];
    let (places, _) = state.as_chunks_mut::<8>();
    places.iter_mut().zip(fields).for_each(|(place, field)| *place = field.to_le_bytes());
    Ok(state)
}

/// File name of the index of a segment.
pub(super) fn file_of(number: u64) -> String {
    format!("{number:08}.tx")
}

/// The bits of an id that are random.
fn key_of(txid: TxId) -> u64 {
    u128::from(txid.0) as u64
}

/// Offsets in a segment that is written no more.
fn find(dir: &Path, part: &Part, txid: TxId) -> Found {
    let path = dir.join(INDEX).join(file_of(part.number));
    let state = state_of(&part.file)?;
    let looked_up = |file: File| Index { file, state }.offsets(key_of(txid));
    let known = File::open(&path).ok().and_then(|file| looked_up(file).ok().flatten());
    let offsets = match known {
        Some(offsets) => offsets,
        None => {
            let entries = entries_of(part)?;
            if let Err(error) = write(dir, &path, &state, &entries) {
                log::debug!("the index {} cannot be written: {error}", path.display());
            }
            let same = |(key, offset): &(u64, u64)| (*key == key_of(txid)).then_some(*offset);
            entries.iter().filter_map(same).collect()
        }
    };
    let mut sure = Vec::with_capacity(offsets.len());
    for offset in offsets {
        if line_names(part, offset, txid)? {
            sure.push(offset);
        }
    }
    Ok(sure)
}

/// An index that is there.
struct Index {
    file: File,
    state: [u8; STATE],
}

impl Index {
    /// What it has for a key, in order; `None` if it is of another state or damaged.
    fn offsets(&self, key: u64) -> io::Result<Option<Vec<u64>>> {
        let Some(header) = self.page(0)? else { return Ok(None) };
        let (magic, rest) = header.split_at(MAGIC.len());
        let (state, rest) = rest.split_at(STATE);
        let Some(count) = rest.first_chunk::<8>().copied().map(u64::from_le_bytes) else {
            return Ok(None);
        };
        if magic != MAGIC || state != self.state {
            return Ok(None);
        }
        // The first page whose last entry is not before the key.
        let pages = count.div_ceil(ENTRIES as u64);
        let (mut low, mut high) = (0, pages);
        while low < high {
            let middle = low.midpoint(high);
            let Some(entries) = self.entries(middle, count)? else { return Ok(None) };
            match entries.last() {
                Some((last, _)) if *last < key => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        let mut offsets = Vec::new();
        for page in low..pages {
            let Some(entries) = self.entries(page, count)? else { return Ok(None) };
            let before = entries.partition_point(|(other, _)| *other < key);
            let same = entries.iter().skip(before).take_while(|(other, _)| *other == key);
            offsets.extend(same.map(|(_, offset)| *offset));
            if entries.last().is_none_or(|(last, _)| *last > key) {
                break;
            }
        }
        Ok(Some(offsets))
    }

    fn entries(&self, page: u64, count: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
        let before = page.saturating_mul(ENTRIES as u64);
        let here = count.saturating_sub(before).min(ENTRIES as u64);
        let Some(bytes) = self.page(page.saturating_add(1))? else { return Ok(None) };
        let (words, _) = bytes.as_chunks::<8>();
        let (pairs, _) = words.as_chunks::<2>();
        let entry =
            |[key, offset]: &[[u8; 8]; 2]| (u64::from_le_bytes(*key), u64::from_le_bytes(*offset));
        Ok(Some(pairs.iter().take(usize::try_from(here).unwrap_or(0)).map(entry).collect()))
    }

    /// A page that checks.
    fn page(&self, number: u64) -> io::Result<Option<Page>> {
        let mut page = [0; PAGE];
        match self.file.read_exact_at(&mut page, number.saturating_mul(PAGE as u64)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (content, crc) = page.split_at(PAGE - 4);
        Ok((crc == checksum(number, &self.state, content)).then_some(page))
    }
}

fn checksum(number: u64, state: &[u8; STATE], content: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), state);
    crc32c::crc32c_append(crc, content).to_le_bytes()
}

/// Puts an index in the place of what is there. It need not be durable: a torn one does not check.
fn write(dir: &Path, path: &Path, state: &[u8; STATE], entries: &[(u64, u64)]) -> io::Result<()> {
    let folder = dir.join(INDEX);
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let new = folder.join(format!("new.{}", std::process::id()));
    // What a command of this number left that was killed.
    let _ = std::fs::remove_file(&new);
    let made = File::options().write(true).create_new(true).mode(0o600).open(&new);
    let written = made.and_then(|file| {
        let mut file = io::BufWriter::with_capacity(PIECE, file);
        let count = (entries.len() as u64).to_le_bytes();
        write_page(&mut file, 0, state, &[MAGIC.as_slice(), state, &count].concat())?;
        for (number, entries) in (1..).zip(entries.chunks(ENTRIES)) {
            let bytes = entries.iter().flat_map(|(key, offset)| [key, offset]);
            let bytes: Vec<u8> = bytes.flat_map(|number| number.to_le_bytes()).collect();
            write_page(&mut file, number, state, &bytes)?;
        }
        file.flush()?;
        std::fs::rename(&new, path)
    });
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
    })
}

fn write_page(
    file: &mut impl io::Write,
    number: u64,
    state: &[u8; STATE],
    bytes: &[u8],
) -> io::Result<()> {
    let mut page = bytes.to_vec();
    page.resize(PAGE - 4, 0);
    let crc = checksum(number, state, &page);
    page.extend_from_slice(&crc);
    file.write_all(&page)
}

/// All that a segment has, in order.
fn entries_of(part: &Part) -> io::Result<Vec<(u64, u64)>> {
    let finders = FIELDS.map(memmem::Finder::new);
    let mut entries = Vec::new();
    each_piece(part, |piece, offset| {
        for (finder, field) in finders.iter().zip(FIELDS) {
            for at in finder.find_iter(piece) {
                let id = piece.get(at.saturating_add(field.len())..).unwrap_or_default();
                let text = id.get(..TXID).and_then(|id| std::str::from_utf8(id).ok());
                let Some(txid) = text.and_then(|text| text.parse().ok()) else { continue };
                entries.push((key_of(txid), offset.saturating_add(line_start(piece, at) as u64)));
            }
        }
    })?;
    entries.sort_unstable();
    entries.dedup();
    Ok(entries)
}

/// Offsets in a segment, by looking at all of it.
fn search(part: &Part, txid: TxId) -> Found {
    let text = txid.to_string();
    let finder = memmem::Finder::new(text.as_bytes());
    let mut offsets = Vec::new();
    each_piece(part, |piece, offset| {
        let starts = finder.find_iter(piece).map(|at| line_start(piece, at));
        offsets.extend(starts.map(|start| offset.saturating_add(start as u64)));
    })?;
    offsets.dedup();
    let mut sure = Vec::new();
    for offset in offsets {
        if line_names(part, offset, txid)? {
            sure.push(offset);
        }
    }
    Ok(sure)
}

fn line_start(piece: &[u8], at: usize) -> usize {
    let before = piece.get(..at).unwrap_or_default();
    memchr::memrchr(b'\n', before).map_or(0, |newline| newline.saturating_add(1))
}

/// Hands out a segment in pieces of whole lines with their offsets.
fn each_piece(part: &Part, mut see: impl FnMut(&[u8], u64)) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < part.there {
        let rest = usize::try_from(part.there.saturating_sub(offset)).unwrap_or(PIECE);
        let room = buffer.get_mut(..rest.min(PIECE)).unwrap_or_default();
        part.file.read_exact_at(room, offset)?;
        let end = memchr::memrchr(b'\n', room).map_or(room.len(), |at| at.saturating_add(1));
        see(room.get(..end).unwrap_or_default(), offset);
        offset = offset.saturating_add(end as u64);
    }
    Ok(())
}

/// Whether the line at an offset names the transaction.
fn line_names(part: &Part, offset: u64, txid: TxId) -> io::Result<bool> {
    let before = offset.checked_sub(1);
    let rest = usize::try_from(part.there.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut line = vec![0; rest.min(super::encode::LINE_MAX.saturating_add(1))];
    part.file.read_exact_at(&mut line, offset)?;
    let mut newline = [b'\n'];
    if let Some(before) = before {
        part.file.read_exact_at(&mut newline, before)?;
    }
    let end = memchr::memchr(b'\n', &line).unwrap_or(line.len());
    let line = line.get(..end).unwrap_or_default();
    let named = FIELDS.iter().any(|field| {
        let wanted = [*field, txid.to_string().as_bytes(), b"\""].concat();
        memmem::find(line, &wanted).is_some()
    });
    Ok(newline == [b'\n'] && named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::segment;

    /// Two segments of crossings and one that is being written; the ids, and where each is named.
    fn scene(dir: &Path) -> Vec<(TxId, Vec<u64>)> {
        let mut ids: Vec<(TxId, Vec<u64>)> = Vec::new();
        let mut offset = 0;
        for number in 1..=3 {
            let mut text = String::from("{\"kind\":\"version\"}\n");
            for at in 0_u32..700 {
                let start = offset + text.len() as u64;
                let txid = TxId(ulid::Ulid::from_parts(number, u128::from(at) << 20 | 7));
                let first = ids.first().filter(|_| at == 99).map(|(first, _)| *first);
                let undoes = first.map_or_else(String::new, |id| format!(",\"undoes\":\"{id}\""));
                text +=
                    &format!("{{\"reason\":\"a \\\"txid\\\":\",\"txid\":\"{txid}\"{undoes}}}\n");
                ids.push((txid, vec![start]));
                if first.is_some() {
                    ids[0].1.push(start);
                }
            }
            offset += text.len() as u64;
            std::fs::write(dir.join(segment::file_name(number)), text).unwrap();
        }
        ids
    }

    #[track_caller]
    fn check(dir: &Path, ids: &[(TxId, Vec<u64>)]) {
        let reader = Reader::open(dir).unwrap();
        for (txid, offsets) in ids {
            assert_eq!(&reader.lines_of(*txid).unwrap(), offsets, "{txid}");
        }
        assert!(reader.lines_of(TxId(ulid::Ulid::from_parts(9, 9))).unwrap().is_empty());
    }

    #[test]
    fn lines_are_found_with_and_without_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let ids = scene(dir.path());
        std::fs::write(dir.path().join(INDEX), "no folder").unwrap();
        check(dir.path(), &ids[..3]);
        std::fs::remove_file(dir.path().join(INDEX)).unwrap();
        check(dir.path(), &ids);
        let names = std::fs::read_dir(dir.path().join(INDEX)).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["00000001.tx", "00000002.tx"]);
        check(dir.path(), &ids);
    }

    #[test]
    fn an_index_of_another_segment_or_damaged_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let ids = scene(dir.path());
        check(dir.path(), &ids[..1]);
        let path = dir.path().join(INDEX).join("00000001.tx");
        let sound = std::fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(97) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            check(dir.path(), &ids[at % 700..][..1]);
        }
        // Every page is looked at by some look-up, so all of it is sound again.
        std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        check(dir.path(), &ids[..700]);
        assert_eq!(std::fs::read(&path).unwrap(), sound);
        // Another file under the segment's name.
        let segment = dir.path().join(segment::file_name(1));
        let text = std::fs::read_to_string(&segment).unwrap();
        let other = text.replacen(&ids[5].0.to_string(), &ids[6].0.to_string(), 1);
        std::fs::write(dir.path().join("new"), other).unwrap();
        std::fs::rename(dir.path().join("new"), &segment).unwrap();
        let both = [&ids[5].1[..], &ids[6].1[..]].concat();
        check(dir.path(), &[(ids[5].0, vec![]), (ids[6].0, both)]);
    }
}
