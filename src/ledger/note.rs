//! Signed notes with Ed25519 (<https://c2sp.org/signed-note>) and the keys that sign and check them,
//! in the text form of Go's `golang.org/x/mod/sumdb/note`, which other tools read too.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Signature type of Ed25519.
const ED25519: u8 = 1;
/// Bytes of a note that are looked at: far more than 16 signatures of any type need.
pub const NOTE_MAX: usize = 1 << 20;
const PRIVATE: &str = "PRIVATE+KEY+";
/// What a line with a signature begins with: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// Why a note is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is no note.
    #[error("it is not a signed note")]
    Malformed,
    /// Others may have signed it.
    #[error("it is not signed by the key {0}")]
    OtherKey(String),
    /// The text or the signature was changed.
    #[error("the signature does not fit the text")]
    BadSignature,
}

/// A public key with its name: `NAME+HASH+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    key: VerifyingKey,
}

/// A private key with its name: `PRIVATE+KEY+NAME+HASH+SEED`.
#[derive(Clone)]
pub struct NoteSigner {
    key: SigningKey,
    verifier: VerifierKey,
}

impl VerifierKey {
    fn new(name: &str, key: VerifyingKey) -> Self {
        let hash = Sha256::new_with_prefix(name)
            .chain_update([b'\n', ED25519])
            .chain_update(key.as_bytes())
            .finalize();
        let id = hash.first_chunk().copied().map_or(0, u32::from_be_bytes);
        Self { name: name.to_owned(), id, key }
    }

    /// The key's name, which is also the origin of the log's checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note that this key signed, with its last newline.
    pub fn open<'a>(&self, note: &'a [u8]) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        let mut signed = false;
        for line in signatures.lines() {
            let (name, signature) = line
                .strip_prefix(DASH)
                .and_then(|rest| rest.split_once(' '))
                .filter(|(name, _)| is_name(name))
                .ok_or(NoteError::Malformed)?;
            let bytes = STANDARD.decode(signature).map_err(|_| NoteError::Malformed)?;
            let (id, bytes) = bytes.split_first_chunk().ok_or(NoteError::Malformed)?;
            if name != self.name || u32::from_be_bytes(*id) != self.id {
                continue;
            }
            let signature = Signature::from_slice(bytes).map_err(|_| NoteError::BadSignature)?;
            self.key
                .verify_strict(text.as_bytes(), &signature)
                .map_err(|_| NoteError::BadSignature)?;
            signed = true;
        }
        if signed { Ok(text) } else { Err(NoteError::OtherKey(self.to_string())) }
    }
}

/// The text of a note with its last newline, nothing checked: for messages, never for decisions.
pub fn unverified_text(note: &[u8]) -> Option<&str> {
    split(note).ok().map(|(text, _)| text)
}

fn split(note: &[u8]) -> Result<(&str, &str), NoteError> {
    let note = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
    let control = |c: char| c < ' ' && c != '\n';
    if note.len() > NOTE_MAX || note.contains(control) || !note.ends_with('\n') {
        return Err(NoteError::Malformed);
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    let (text, rest) = note.split_at_checked(at.saturating_add(1)).ok_or(NoteError::Malformed)?;
    let signatures = rest.strip_prefix('\n').filter(|rest| !rest.is_empty());
    Ok((text, signatures.ok_or(NoteError::Malformed)?))
}

/// Whether a key may have the name.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.id, encoded(self.key.as_bytes()))
    }
}

impl FromStr for VerifierKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, id, key) = parts(text.trim_end()).ok_or("a public key is NAME+HASH+KEY")?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| "it is no point of the curve")?;
        let made = Self::new(name, key);
        if made.id == id { Ok(made) } else { Err("the key does not fit its hash") }
    }
}

fn encoded(key: &[u8; 32]) -> String {
    let mut bytes = vec![ED25519];
    bytes.extend(key);
    STANDARD.encode(bytes)
}

/// Name, hash and the 32 bytes of a key.
fn parts(text: &str) -> Option<(&str, u32, [u8; 32])> {
    let (name, rest) = text.split_once('+').filter(|(name, _)| is_name(name))?;
    let (id, key) = rest.split_once('+')?;
    let number = u32::from_str_radix(id, 16).ok().filter(|number| format!("{number:08x}") == id)?;
    let bytes = STANDARD.decode(key).ok()?;
    let (kind, key) = bytes.split_first()?;
    (*kind == ED25519).then_some((name, number, key.try_into().ok()?))
}

impl NoteSigner {
    /// The key that a seed stands for. `None` if no key may have the name.
    pub fn new(name: &str, seed: &[u8; 32]) -> Option<Self> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, key.verifying_key());
        is_name(name).then_some(Self { key, verifier })
    }

    /// The public part.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The text form, which is the secret itself.
    pub fn to_secret_text(&self) -> String {
        let VerifierKey { name, id, .. } = &self.verifier;
        format!("{PRIVATE}{name}+{id:08x}+{}\n", encoded(self.key.as_bytes()))
    }

    /// Signs a text, which must end with a newline and have no other control character.
    pub fn sign(&self, text: &str) -> String {
        let VerifierKey { name, id, .. } = &self.verifier;
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n{DASH}{name} {}\n", STANDARD.encode(bytes))
    }
}

impl FromStr for NoteSigner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a private key is PRIVATE+KEY+NAME+HASH+SEED";
        let text = text.strip_suffix('\n').unwrap_or(text);
        let (name, id, seed) = text.strip_prefix(PRIVATE).and_then(parts).ok_or(wrong)?;
        let made = Self::new(name, &seed).ok_or(wrong)?;
        if made.verifier.id == id { Ok(made) } else { Err("the key does not fit its hash") }
    }
}

// The seed is not for logs.
impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({})", self.verifier)
    }
}

#[cfg(test)]
mod tests {
    use signed_note::{Note, StandardSigner, StandardVerifier, Verifier, VerifierList};

    use super::*;

    /// The example in the documentation of Go's `sumdb/note`.
    const PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SECRET: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    const SIGNATURE: &str = "\u{2014} PeterNeumann \
        x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_published_note_comes_out() {
        let signer: NoteSigner = SECRET.parse().unwrap();
        assert_eq!(signer.verifier().to_string(), PUBLIC);
        assert_eq!(signer.to_secret_text(), format!("{SECRET}\n"));
        let note = format!("{TEXT}\n{SIGNATURE}");
        assert_eq!(signer.sign(TEXT), note);
        let key: VerifierKey = PUBLIC.parse().unwrap();
        assert_eq!(key.open(note.as_bytes()), Ok(TEXT));
        assert!(!format!("{signer:?}").contains("AYEK"), "the seed is not shown");
    }

    #[test]
    fn another_implementation_agrees_about_keys_and_notes() {
        for seed in 0..50_u8 {
            let name = format!("octroi/lab/{seed:08x}");
            let ours = NoteSigner::new(&name, &[seed; 32]).unwrap();
            let text = format!("{name}\n{seed}\n\nmore\n");
            let note = ours.sign(&text);
            let public = ours.verifier().to_string();
            let theirs = StandardVerifier::new(&public).unwrap();
            assert_eq!(theirs.key_id(), ours.verifier().id);
            let known = VerifierList::new(vec![Box::new(theirs)]);
            let opened = Note::from_bytes(note.as_bytes()).unwrap();
            let (verified, _) = opened.verify(&known).unwrap();
            assert_eq!(verified.len(), 1);
            assert_eq!(opened.text(), text.as_bytes());
            let signer = StandardSigner::new(ours.to_secret_text().trim_end()).unwrap();
            let mut again = Note::new(text.as_bytes(), &[]).unwrap();
            again.add_sigs(&[&signer]).unwrap();
            assert_eq!(again.to_bytes(), note.as_bytes());
            assert_eq!(ours.verifier().open(&again.to_bytes()), Ok(text.as_str()));
        }
    }

    #[test]
    fn a_note_with_any_byte_changed_is_not_believed() {
        let key: VerifierKey = PUBLIC.parse().unwrap();
        let note = format!("{TEXT}\n{SIGNATURE}").into_bytes();
        for at in 0..note.len() {
            for flip in [1, 0x20, 0x80] {
                let mut other = note.clone();
                other[at] ^= flip;
                assert!(key.open(&other).is_err(), "byte {at}");
            }
            assert!(key.open(&note[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn signatures_of_others_are_passed_over() {
        let key: VerifierKey = PUBLIC.parse().unwrap();
        let other = NoteSigner::new("example.org/witness", &[9; 32]).unwrap();
        let witnessed = other.sign(TEXT);
        assert_eq!(key.open(witnessed.as_bytes()), Err(NoteError::OtherKey(PUBLIC.into())));
        let (_, line) = witnessed.rsplit_once("\n\n").unwrap();
        let both = format!("{TEXT}\n{line}{SIGNATURE}");
        assert_eq!(key.open(both.as_bytes()), Ok(TEXT));
        let twin = NoteSigner::new("PeterNeumann", &[9; 32]).unwrap();
        assert!(matches!(key.open(twin.sign(TEXT).as_bytes()), Err(NoteError::OtherKey(_))));
    }

    #[test]
    fn a_key_with_any_byte_changed_is_refused() {
        for at in 0..PUBLIC.len() {
            let mut other = PUBLIC.as_bytes().to_vec();
            other[at] ^= 1;
            let key = String::from_utf8(other).unwrap().parse::<VerifierKey>();
            assert!(key.is_err(), "byte {at}");
        }
        for at in 0..SECRET.len() {
            let mut other = SECRET.as_bytes().to_vec();
            other[at] ^= 1;
            let key = String::from_utf8(other).unwrap().parse::<NoteSigner>();
            assert!(key.is_err(), "byte {at}");
        }
        assert!(NoteSigner::new("a b", &[1; 32]).is_none());
        assert!(NoteSigner::new("a+b", &[1; 32]).is_none());
    }
}
