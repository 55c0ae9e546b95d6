//! What accepted losses account for: checkpoints that the ledger need not extend any more.
//!
//! A loss is accepted with the branches and witnesses that are at hand. Those that were away come back
//! with checkpoints of the old key that nobody saw then. Such a one is accounted for if what it vouches
//! for was kept, or if it is no newer than the newest that the record of the loss has.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use super::checkpoint::Checkpoint;
use super::note::VerifierKey;
use super::record::LossRecord;

/// Of all losses that were accepted.
#[derive(Debug, Clone, Default)]
pub struct Accounted {
    /// SHA-256 of notes, in hexadecimal.
    hashes: HashSet<String>,
    /// Keys that were given up, and the lines that the newest lost checkpoint of each vouched for.
    keys: Vec<(VerifierKey, u64)>,
}

impl Accounted {
    /// Takes in a loss.
    pub fn add(&mut self, loss: &LossRecord) {
        self.hashes.extend(loss.checkpoints.iter().map(|note| hash_of(note.as_bytes())));
        self.hashes.extend(loss.hashes.iter().cloned());
        let Some(Ok(key)) = loss.key.as_ref().map(|key| key.parse::<VerifierKey>()) else { return };
        let notes = loss.checkpoints.iter();
        let sizes = notes.filter_map(|note| Checkpoint::open(note.as_bytes(), &key).ok());
        let lost = sizes.map(|checkpoint| checkpoint.size).max().unwrap_or(0);
        self.keys.push((key, lost));
    }

    /// Whether a note is accounted for. `is_kept` says whether the ledger extends a checkpoint.
    pub fn covers(&self, note: &[u8], is_kept: impl Fn(&Checkpoint) -> bool) -> bool {
        self.hashes.contains(&hash_of(note))
            || self.keys.iter().any(|(key, lost)| {
                Checkpoint::open(note, key)
                    .is_ok_and(|found| found.size <= *lost || is_kept(&found))
            })
    }
}

/// SHA-256 of a note, in hexadecimal.
pub fn hash_of(note: &[u8]) -> String {
    hexadecimal(&Sha256::digest(note))
}

/// Two digits a byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
