//! Which key signs a ledger: what `key` in the state folder and `checkpoint` in the ledger's tell together.
//!
//! They are there together or not at all. A key is first written as `key.new`, then the checkpoint is
//! published, then the key gets its name: where a crash came between, the next start finds `key.new` and
//! goes on. So who removes one of the two is found out; and who removes both, for the
//! lines name each key that begins to sign.

use std::ffi::OsStr;
use std::path::Path;

use super::LedgerError;
use super::checkpoint::Checkpoint;
use super::note::{NoteSigner, VerifierKey};
use super::record::KeyRecord;
use super::store::{CHECKPOINT, TILES, put, read_small};
use crate::error::Errno;
use crate::storage::Storage;

/// File name of the private key in the state folder.
pub const KEY: &str = "key";
/// The same until the key's first checkpoint is published.
pub const NEW_KEY: &str = "key.new";
/// How the checkpoint in the ledger's own folder is called in messages.
pub const OWN: &str = "the ledger's own checkpoint";

/// What was found.
pub struct Keys {
    /// Signs from now on; made where there is none.
    pub signer: NoteSigner,
    /// It was found, not made.
    pub is_found: bool,
    /// It is still `key.new`.
    pub unborn: bool,
    /// The checkpoint in the ledger's folder and its note, if this key has signed it.
    pub own: Option<(Checkpoint, Vec<u8>)>,
    /// What does not fit, in words.
    pub problems: Vec<String>,
    /// Files that are there and are of no use: [`KEY`], [`CHECKPOINT`].
    pub damaged: Vec<&'static str>,
}

impl Keys {
    /// Looks at key and checkpoint; makes a key, which is on no disk yet, where there is none.
    pub fn find<S: Storage>(
        storage: &S,
        state: &S::Dir,
        ledger: &S::Dir,
        view: &str,
    ) -> Result<Self, LedgerError> {
        let key = read(storage, state, KEY)?;
        let new_key = read(storage, state, NEW_KEY)?;
        let note = read(storage, ledger, CHECKPOINT)?;
        let signer_of = |bytes: &Option<Vec<u8>>| {
            let text = bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.and_then(|text| text.parse::<NoteSigner>().ok())
        };
        let (signer, new_signer) = (signer_of(&key), signer_of(&new_key));
        let signed_by = |signer: &Option<NoteSigner>| match (signer, &note) {
            (Some(signer), Some(note)) => Checkpoint::open(note, signer.verifier()).ok(),
            _ => None,
        };
        let mut problems = Vec::new();
        let mut own = signed_by(&signer);
        let mut chosen = signer.clone();
        let mut unborn = false;
        match (&key, &note) {
            // Nothing was ever signed, or the first checkpoint was not published yet.
            (None, None) => {
                // A key is on the disk, by one name or the other, before the first tile.
                let tiles = storage.open_dir(ledger, Path::new(TILES));
                if new_key.is_none() && !matches!(tiles, Err(Errno::NOENT)) {
                    problems.push(format!("{KEY} and {OWN} are missing, and tiles are there"));
                }
                (chosen, unborn) = (new_signer, true);
            }
            (_, Some(_)) if own.is_none() && signed_by(&new_signer).is_some() => {
                (own, unborn) = (signed_by(&new_signer), true);
                chosen = new_signer;
            }
            (None, Some(_)) => problems.push(format!("{KEY} is missing, which signed {OWN}")),
            (Some(_), None) => problems.push(format!("{OWN} is missing")),
            (Some(_), Some(note)) => match &signer {
                None => problems.push(format!("{KEY} is damaged")),
                Some(signer) => {
                    if let Err(why) = Checkpoint::open(note, signer.verifier()) {
                        problems.push(format!("{OWN} is not to be believed: {why}"));
                    }
                }
            },
        }
        let wrong = [
            (KEY, key.is_some() && signer.is_none()),
            (CHECKPOINT, note.is_some() && own.is_none()),
        ];
        let damaged = wrong.into_iter().filter_map(|(name, wrong)| wrong.then_some(name)).collect();
        let is_found = chosen.is_some();
        let signer = match chosen {
            Some(signer) => signer,
            None => new_signer_for(view).map_err(failed("make", KEY))?,
        };
        let own = own.zip(note);
        Ok(Self { signer, is_found, unborn, own, problems, damaged })
    }
}

/// A small file; empty where something else has its name.
fn read<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    name: &'static str,
) -> Result<Option<Vec<u8>>, LedgerError> {
    match read_small(storage, dir, OsStr::new(name)) {
        Err(Errno::FBIG | Errno::INVAL | Errno::ISDIR | Errno::LOOP) => Ok(Some(Vec::new())),
        found => found.map_err(failed("read", name)),
    }
}

fn failed(attempted: &'static str, file: &str) -> impl Fn(Errno) -> LedgerError {
    let file = file.to_owned();
    move |errno| LedgerError::Tree { attempted, file: file.clone(), errno }
}

/// The record that a key begins, after another.
pub fn record_of(key: &VerifierKey, before: Option<&NoteSigner>) -> KeyRecord {
    KeyRecord { key: key.to_string(), note: before.map(|before| before.sign(&text_of(key))) }
}

/// Whether a key has signed that another comes after it.
pub fn is_signed(note: &str, before: &VerifierKey, key: &VerifierKey) -> bool {
    before.open(note.as_bytes()).is_ok_and(|text| text == text_of(key))
}

/// No checkpoint: its second line is no number.
fn text_of(key: &VerifierKey) -> String {
    format!("octroi: the next key\n{key}\n")
}

/// Makes another key, and keeps it as one that has not its name yet.
pub fn begin_key<S: Storage>(
    storage: &S,
    state: &S::Dir,
    signer: &NoteSigner,
) -> Result<(), LedgerError> {
    put(storage, state, NEW_KEY, signer.to_secret_text().as_bytes()).map_err(failed("make", KEY))
}

/// The key's name becomes the right one: now its checkpoint is there.
pub fn name_key<S: Storage>(storage: &S, state: &S::Dir) -> Result<(), LedgerError> {
    let named = storage.replace(state, OsStr::new(NEW_KEY), OsStr::new(KEY));
    named.and_then(|()| storage.sync_dir(state)).map_err(failed("keep", KEY))
}

/// A new key. Its name, which is the log's identity, is not met with twice: another ledger of a view
/// of the same name is another log.
pub fn new_signer_for(view: &str) -> Result<NoteSigner, Errno> {
    let mut random = [0; 36];
    let mut filled = 0;
    while let Some(room) = random.get_mut(filled..).filter(|room| !room.is_empty()) {
        let read = rustix::rand::getrandom(room, rustix::rand::GetRandomFlags::empty())?;
        filled = filled.saturating_add(read);
    }
    let (number, seed) = random.split_first_chunk::<4>().ok_or(Errno::IO)?;
    let seed = seed.first_chunk::<32>().ok_or(Errno::IO)?;
    let name = format!("octroi/{view}/{:08x}", u32::from_be_bytes(*number));
    NoteSigner::new(&name, seed).ok_or(Errno::INVAL)
}
