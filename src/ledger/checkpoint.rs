//! Checkpoints: how many lines there are and the root over them, as a signed note
//! (<https://c2sp.org/tlog-checkpoint>). And the proof that a line is in one, as a small file
//! (<https://c2sp.org/tlog-proof>) whose `extra` is the line itself, so that it needs nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::note::{NoteError, NoteSigner, VerifierKey, unverified_text};
use super::tree::proof::root_by_inclusion;
use super::tree::{Hash, leaf_hash};

const PROOF: &str = "c2sp.org/tlog-proof@v1";

/// What a log vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: the name of its key.
    pub origin: String,
    /// Lines.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// Why a checkpoint or a proof is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Signature or form.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note says something else.
    #[error("it is signed, but is not a checkpoint of {0}")]
    NoCheckpoint(String),
    /// Not a proof.
    #[error("it is not a proof: {0}")]
    Malformed(&'static str),
    /// The line or the path was changed, or belongs to another checkpoint.
    #[error("line {index} with its path does not lead to the checkpoint's root")]
    OtherRoot {
        /// The line that it should prove.
        index: u64,
    },
}

impl Checkpoint {
    /// The signed note.
    pub fn sign(&self, key: &NoteSigner) -> String {
        key.sign(&format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root)))
    }

    /// A checkpoint that the key signed.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, ProofError> {
        let text = key.open(note)?;
        let found = Self::parse(text).filter(|found| found.origin == key.name());
        found.ok_or_else(|| ProofError::NoCheckpoint(key.name().to_owned()))
    }

    /// What a note claims, whoever signed it: for messages, never for decisions.
    pub fn unverified(note: &[u8]) -> Option<Self> {
        unverified_text(note).and_then(Self::parse)
    }

    /// The root in base64.
    pub fn root_text(&self) -> String {
        STANDARD.encode(self.root)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let origin = lines.next().filter(|origin| !origin.is_empty())?.to_owned();
        let size = lines.next()?;
        let number = size.parse::<u64>().ok().filter(|number| number.to_string() == size)?;
        let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        lines.all(|line| !line.is_empty()).then_some(Self { origin, size: number, root })
    }
}

/// That a line is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The line without its newline.
    pub line: Vec<u8>,
    /// Its `seq`.
    pub index: u64,
    /// From its sibling to the root's child.
    pub path: Vec<Hash>,
    /// The signed checkpoint, as it was published.
    pub checkpoint: Vec<u8>,
}

impl Proof {
    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (extra, index) = (STANDARD.encode(&self.line), self.index);
        let mut text = format!("{PROOF}\nextra {extra}\nindex {index}\n");
        for hash in &self.path {
            text.push_str(&STANDARD.encode(hash));
            text.push('\n');
        }
        text.push('\n');
        let mut bytes = text.into_bytes();
        bytes.extend(&self.checkpoint);
        bytes
    }

    /// Whether bytes are meant to be a proof.
    pub fn is_proof(bytes: &[u8]) -> bool {
        bytes.starts_with(PROOF.as_bytes())
    }

    /// Reads a file; nothing is believed yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        let wrong = ProofError::Malformed;
        let end = bytes.windows(2).position(|pair| pair == b"\n\n");
        let (head, rest) = end
            .and_then(|end| bytes.split_at_checked(end.saturating_add(1)))
            .ok_or(wrong("it has no checkpoint"))?;
        let head = std::str::from_utf8(head).map_err(|_| wrong("it is not text"))?;
        let mut lines = head.lines();
        if lines.next() != Some(PROOF) {
            return Err(wrong("it does not begin as one"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let line = extra.and_then(|extra| STANDARD.decode(extra).ok());
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let number = index
            .and_then(|text| text.parse::<u64>().ok().filter(|number| number.to_string() == text));
        let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
        let path: Option<Vec<Hash>> = lines.map(hash).collect();
        Ok(Self {
            line: line.ok_or(wrong("it does not carry its line"))?,
            index: number.ok_or(wrong("it does not name an index"))?,
            path: path.ok_or(wrong("a hash cannot be read"))?,
            checkpoint: rest.strip_prefix(b"\n").unwrap_or(rest).to_vec(),
        })
    }

    /// The checkpoint, if the key signed it and the line is in it.
    pub fn verify(&self, key: &VerifierKey) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        let leaf = leaf_hash(&self.line);
        match root_by_inclusion(leaf, self.index, checkpoint.size, &self.path) {
            Some(root) if root == checkpoint.root => Ok(checkpoint),
            _ => Err(ProofError::OtherRoot { index: self.index }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::node_hash;
    use super::*;

    fn key() -> NoteSigner {
        NoteSigner::new("octroi/lab/00000001", &[3; 32]).unwrap()
    }

    fn two_lines() -> (NoteSigner, Proof) {
        let key = key();
        let [first, second] = [leaf_hash(b"one"), leaf_hash(b"two")];
        let origin = key.verifier().name().to_owned();
        let root = node_hash(&first, &second);
        let note = Checkpoint { origin, size: 2, root }.sign(&key);
        let checkpoint = note.into_bytes();
        (key, Proof { line: b"two".to_vec(), index: 1, path: vec![first], checkpoint })
    }

    #[test]
    fn another_implementation_reads_our_checkpoints() {
        let (key, proof) = two_lines();
        let ours = Checkpoint::open(&proof.checkpoint, key.verifier()).unwrap();
        let text = unverified_text(&proof.checkpoint).unwrap();
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).unwrap();
        assert_eq!((theirs.origin(), theirs.size()), (ours.origin.as_str(), 2));
        assert_eq!(theirs.hash().0, ours.root);
    }

    #[test]
    fn what_is_signed_but_no_checkpoint_is_refused() {
        let key = key();
        let name = key.verifier().name();
        let root = STANDARD.encode([0; 32]);
        for text in [
            "hello\n".to_owned(),
            format!("other\n1\n{root}\n"),
            format!("{name}\n01\n{root}\n"),
            format!("{name}\n1\n{}\n", STANDARD.encode([0; 31])),
            format!("{name}\n1\n{root}\n\nmore\n"),
        ] {
            let opened = Checkpoint::open(key.sign(&text).as_bytes(), key.verifier());
            assert!(matches!(opened, Err(ProofError::NoCheckpoint(_))), "{text}");
        }
        let more = format!("{name}\n1\n{root}\nmore\n");
        assert!(Checkpoint::open(key.sign(&more).as_bytes(), key.verifier()).is_ok());
    }

    #[test]
    fn a_proof_holds_offline_and_not_with_any_byte_changed() {
        let (key, proof) = two_lines();
        let file = proof.to_bytes();
        assert!(Proof::is_proof(&file));
        let read = Proof::parse(&file).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(key.verifier()).unwrap().size, 2);
        for at in 0..file.len() {
            let mut other = file.clone();
            other[at] ^= 1;
            let verified = Proof::parse(&other).and_then(|proof| proof.verify(key.verifier()));
            assert!(verified.is_err(), "byte {at}");
            let cut = Proof::parse(&file[..at]).and_then(|proof| proof.verify(key.verifier()));
            assert!(cut.is_err(), "cut at {at}");
        }
    }
}
