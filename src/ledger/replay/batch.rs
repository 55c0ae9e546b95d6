//! Many lines at once: all processors read and hash them, for a mount waits until each line of its ledger was seen.

use std::{panic, thread};

use super::super::decode::{Decoded, decode};
use super::super::tree::{Hash, leaf_hash};
use super::LedgerError;
use super::lines::SegmentLines;
use crate::storage::Storage;

/// Bytes of a batch, beside its last line: thousands of usual lines.
const BATCH: usize = if cfg!(test) { 1 << 12 } else { 1 << 20 };
/// Lines for which a thread is worth starting: some microseconds each.
const THREAD_LINES: usize = 128;
const THREADS_MAX: usize = 8;

/// What is in a line.
pub struct ReadLine {
    /// What it says.
    pub decoded: Result<Decoded, String>,
    /// Its hash in the ledger's tree.
    pub leaf: Hash,
}

impl ReadLine {
    fn new(line: &[u8]) -> Self {
        Self {
            decoded: decode_line(line),
            leaf: leaf_hash(line.strip_suffix(b"\n").unwrap_or(line)),
        }
    }
}

/// Reads a line with its newline.
pub fn decode_line(line: &[u8]) -> Result<Decoded, String> {
    decode(line.strip_suffix(b"\n").ok_or("the line has no end")?)
}

/// The next lines with their newlines, as they are in the segment, and the error that comes after them.
pub fn take<S: Storage>(lines: &mut SegmentLines<'_, S>) -> (Vec<Vec<u8>>, Option<LedgerError>) {
    let (mut batch, mut bytes) = (Vec::new(), 0_usize);
    while bytes < BATCH {
        match lines.next() {
            Ok(Some(line)) => {
                bytes = bytes.saturating_add(line.len());
                batch.push(line.to_vec());
            }
            Ok(None) => break,
            Err(error) => return (batch, Some(error)),
        }
    }
    (batch, None)
}

/// Reads lines, in their order.
pub fn read(lines: &[Vec<u8>]) -> Vec<ReadLine> {
    let read =
        |lines: &[Vec<u8>]| -> Vec<_> { lines.iter().map(|line| ReadLine::new(line)).collect() };
    if lines.len() < THREAD_LINES {
        return read(lines);
    }
    let threads =
        thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX));
    thread::scope(|scope| {
        let mut parts = lines.chunks(lines.len().div_ceil(threads));
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| {
                let builder = thread::Builder::new().name("ledger-read".to_owned());
                // This thread does what others cannot.
                builder.spawn_scoped(scope, move || read(part)).map_err(|_| part)
            })
            .collect();
        let mut all = read(first);
        for other in others {
            let part =
                other.map(|thread| thread.join().unwrap_or_else(|why| panic::resume_unwind(why)));
            all.append(&mut part.unwrap_or_else(read));
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::encode;
    use super::super::super::tests::operation;
    use super::*;

    #[test]
    fn lines_that_threads_read_come_in_their_order() {
        let body = encode::body(&operation("/a", true)).unwrap();
        let line = |seq| encode::line(seq, jiff::Timestamp::UNIX_EPOCH, None, &body);
        let mut lines: Vec<Vec<u8>> = (0..5 * THREAD_LINES as u64 + 3).map(line).collect();
        lines[200].pop();
        lines[300][40] ^= 1;
        let read = read(&lines);
        assert_eq!(read.len(), lines.len());
        for (seq, (line, found)) in lines.iter().zip(read).enumerate() {
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            assert_eq!(found.leaf, leaf_hash(content));
            match seq {
                200 => assert_eq!(found.decoded.err().unwrap(), "the line has no end"),
                300 => assert_eq!(found.decoded.err().unwrap(), "the checksum does not match"),
                _ => assert_eq!(found.decoded.unwrap().entry.seq, seq as u64),
            }
        }
    }
}
