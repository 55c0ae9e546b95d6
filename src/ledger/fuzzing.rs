//! Any bytes as the segments of a ledger, and as what is to vouch for it.

use std::path::Path;

use super::accounted::Accounted;
use super::checkpoint::{Checkpoint, Proof};
use super::note::{NoteSigner, VerifierKey};
use super::record::LossRecord;
use super::tree::{leaf_hash, node_hash};
use super::{Entry, Reader, decode, encode, replay, segment};
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
    let replayed = replay::replay(&storage, &dir, replay::Terms::default(), &mut |line| {
        entry(line.entry);
        round_trip(line.entry);
        first.push(line.entry.seq);
    });
    if let Ok(replayed) = replayed {
        replay::repair(&storage, &dir, &replayed.repairs).expect("repaired");
        let mut second = Vec::new();
        let again = replay::replay(&storage, &dir, replay::Terms::default(), &mut |line| {
            second.push(line.entry.seq)
        });
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
    let again = decode::decode(line).expect("what is written can be read").entry;
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

/// The lines of which the key has signed one checkpoint, and nothing else.
const LINES: [&[u8]; 2] = [b"one", b"two"];

fn signer() -> NoteSigner {
    NoteSigner::new("octroi/fuzz/00000001", &[3; 32]).expect("a name")
}

/// What the key has signed.
fn signed() -> Checkpoint {
    let [first, second] = LINES.map(leaf_hash);
    let origin = signer().verifier().name().to_owned();
    Checkpoint { origin, size: 2, root: node_hash(&first, &second) }
}

/// Any bytes as a key, a note, a checkpoint and a proof. Whatever is believed is what was signed.
pub fn proofs(data: &[u8]) {
    let key = signer().verifier().clone();
    if let Some(Ok(read)) = std::str::from_utf8(data).ok().map(str::parse::<VerifierKey>) {
        assert_eq!(read.to_string().parse(), Ok(read));
    }
    if let Ok(checkpoint) = Checkpoint::open(data, &key) {
        assert_eq!(checkpoint, signed());
    }
    if let Some(claimed) = Checkpoint::unverified(data) {
        let note = Checkpoint { origin: key.name().to_owned(), ..claimed.clone() }.sign(&signer());
        let opened = Checkpoint::open(note.as_bytes(), &key).expect("what is signed is believed");
        assert_eq!((opened.size, opened.root), (claimed.size, claimed.root));
    }
    if let Ok(proof) = Proof::parse(data) {
        assert_eq!(Proof::parse(&proof.to_bytes()).as_ref(), Ok(&proof));
        if let Ok(checkpoint) = proof.verify(&key) {
            assert_eq!(checkpoint, signed());
            let line =
                usize::try_from(proof.index).ok().and_then(|index| LINES.get(index).copied());
            assert_eq!(Some(proof.line.as_slice()), line);
        }
    }
    let loss = LossRecord {
        why: String::new(),
        uid: 0,
        found: Vec::new(),
        checkpoints: vec![String::from_utf8_lossy(data).into_owned()],
        first: 0,
        hashes: Vec::new(),
        key: Some(key.to_string()),
        kept: None,
    };
    let mut accounted = Accounted::default();
    accounted.add(&loss);
    let other = NoteSigner::new("octroi/fuzz/00000002", &[4; 32]).expect("a name");
    let foreign =
        Checkpoint { origin: other.verifier().name().to_owned(), ..signed() }.sign(&other);
    assert!(!accounted.covers(foreign.as_bytes(), |_| true), "another key was not given up");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the corpus has that is believed. With OCTROI_BLESS set it is written anew.
    #[test]
    fn the_corpus_has_a_proof_and_a_checkpoint_that_are_believed() {
        let checkpoint = signed().sign(&signer()).into_bytes();
        let path = vec![leaf_hash(LINES[0])];
        let line = LINES[1].to_vec();
        let proof = Proof { line, index: 1, path, checkpoint: checkpoint.clone() }.to_bytes();
        assert!(Proof::parse(&proof).unwrap().verify(signer().verifier()).is_ok());
        let key = signer().verifier().to_string().into_bytes();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/proofs");
        for (name, bytes) in [("checkpoint", checkpoint), ("proof", proof), ("key", key)] {
            let path = folder.join(name);
            if std::env::var_os("OCTROI_BLESS").is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
        }
    }
}
