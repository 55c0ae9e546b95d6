//! The digest of a tree that its record promises.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::stage::hex;
use super::tree::Item;

/// What COMMIT promises of a tree, as its `sha256`: SHA-256 over a line for each entry, in the order
/// of the walk. A line is the letter of find(1)'s `%y`, a space, the length in bytes of a file or a
/// link's text, a space, the SHA-256 of the content or of the link's text in hexadecimal, a space,
/// the path below the top, and a NUL. A device has its number for its length, and whatever has
/// neither length nor content has `-`.
pub(super) struct Manifest(Sha256);

impl Manifest {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Entries of one directory follow each other, with its path.
    pub(super) fn add(&mut self, item: Item<'_>, folder: &Path, content: &[u8; 32]) {
        let hash = &mut self.0;
        hash.update([item.letter, b' ']);
        match item.letter {
            b'd' | b'p' | b's' => hash.update(b"-"),
            _ => hash.update(item.measure.to_string()),
        }
        hash.update(b" ");
        match item.letter {
            b'f' | b'l' => hash.update(hex(content)),
            _ => hash.update(b"-"),
        }
        hash.update(b" ");
        hash.update(folder.join(item.name).as_os_str().as_bytes());
        hash.update([0]);
    }

    pub(super) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}
