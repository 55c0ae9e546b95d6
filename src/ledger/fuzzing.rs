//! Any bytes as the segments of a ledger.

use std::path::Path;

use super::{Entry, Reader, encode, replay, segment};
use crate::storage::Storage;
use crate::storage::simulated::{DeviceOptions, Names, SimulatedStorage};

/// Between two segments.
const NEXT: &[u8] = b"\n====\n";

/// The segments that the bytes stand for. With `!` in front each line gets the checksum that fits, so
/// that what is behind the checksum is reached.
fn segments(data: &[u8]) -> Vec<Vec<u8>> {
    let (mend, mut rest) = match data.split_first() {
        Some((b'!', rest)) => (true, rest),
        _ => (false, data),
    };
    let mut found = Vec::new();
    while let Some(at) = rest.windows(NEXT.len()).position(|window| window == NEXT) {
        found.push(rest[..=at].to_vec());
        rest = &rest[at + NEXT.len()..];
    }
    found.push(rest.to_vec());
    if mend {
        for segment in &mut found {
            *segment = segment.split_inclusive(|byte| *byte == b'\n').flat_map(mended).collect();
        }
    }
    found
}

fn mended(line: &[u8]) -> Vec<u8> {
    let Some(open) = line.strip_suffix(b"}\n") else { return line.to_vec() };
    let marks = br#","crc":""#;
    let end = open.windows(marks.len()).rposition(|window| window == marks);
    let body = &open[..end.unwrap_or(open.len())];
    let crc = crc32c::crc32c(body);
    [body, format!(",\"crc\":\"{crc:08x}\"}}\n").as_bytes()].concat()
}

/// Replays them as a ledger, each entry given to `entry`; what one replay leaves, the next takes as it
/// is. Then reads them as a ledger in use below `folder`, an empty directory.
pub fn run(data: &[u8], folder: &Path, entry: &mut dyn FnMut(&Entry)) {
    let storage = SimulatedStorage::new(Names::Journal);
    let dir = storage.add_device(DeviceOptions::default());
    for (number, bytes) in (1..).zip(segments(data)) {
        let name = segment::file_name(number);
        std::fs::write(folder.join(&name), &bytes).expect("written");
        let file = storage.create_file(&dir, &name).expect("created");
        storage.write_at(&file, &bytes, 0).expect("written");
    }
    let mut first = Vec::new();
    let replayed = replay::replay(&storage, &dir, (0, false), &mut |line| {
        entry(line.entry);
        round_trip(line.entry);
        first.push(line.entry.seq);
    });
    if let Ok(replayed) = replayed {
        replay::repair(&storage, &dir, &replayed.repairs).expect("repaired");
        let mut second = Vec::new();
        let again =
            replay::replay(&storage, &dir, (0, false), &mut |line| second.push(line.entry.seq));
        let again = again.expect("what was repaired is sound");
        assert_eq!((again.torn_bytes, again.next_seq), (0, replayed.next_seq));
        assert_eq!(first, second);
    }
    read(folder);
}

fn round_trip(found: &Entry) {
    let Ok(body) = encode::body(&found.record) else { return };
    let line = encode::line(found.seq, found.time, None, &body);
    let line = line.strip_suffix(b"\n").expect("a whole line");
    let again = encode::decode(line).expect("what is written can be read").entry;
    // Of what was too long to be written again, texts are cut.
    assert!(again == *found || line.len() > encode::LINE_MAX / 2, "{again:?}\n{found:?}");
}

fn read(folder: &Path) {
    let mut reader = Reader::open(folder).expect("a folder");
    let length = reader.len();
    let mut lines = 0;
    for line in reader.lines(0) {
        lines += line.expect("read").1.len() as u64;
    }
    assert_eq!(lines, length);
    reader.entries(0).for_each(drop);
    let mut buffer = [0; 64];
    for offset in [0, 1, length.saturating_sub(1), length, u64::MAX] {
        let read = reader.read_at(offset, &mut buffer).expect("read") as u64;
        assert_eq!(read, length.saturating_sub(offset).min(64));
    }
    reader.refresh().expect("a folder");
}
