//! The signed tree in `.audit`, as <https://c2sp.org/tlog-tiles> has it: `checkpoint`, `tile/…` with the
//! bundles of entries made from the lines, and `proof/SEQ`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use crate::error::Errno;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::VerifierKey;
use crate::ledger::store::TreeStore;
use crate::ledger::tree::tile::{
    TileId, WIDTH, bytes_of, full_tiles, levels, numbered, parse_numbered, partial_tiles, tile_at,
};
use crate::ledger::{Reader, prove};
use crate::storage::real::{RealDir, RealStorage};

/// The folder of the bundles, beside those of the levels.
const ENTRIES: &str = "entries";
/// Bytes of a hash.
pub const HASH: u64 = 32;

/// A file or folder below `tile`, by its path there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TileNode {
    /// A folder on the way.
    Folder(String),
    /// A tile, or with `entries` the lines that it is over.
    File {
        /// The tile.
        id: TileId,
        /// The lines, not their hashes.
        entries: bool,
    },
}

impl TileNode {
    /// `tile` itself.
    pub fn root() -> Self {
        Self::Folder(String::new())
    }

    fn path(&self) -> String {
        match self {
            Self::Folder(path) => path.clone(),
            Self::File { id, entries: true } => {
                format!("{ENTRIES}/{}", numbered(id.index, id.width))
            }
            Self::File { id, entries: false } => id.path(),
        }
    }

    /// A number below 2^58 that is always the same.
    pub fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.path().hash(&mut hasher);
        hasher.finish() >> 6
    }
}

/// Reads what the ledger's signer has written.
pub struct Tree {
    store: TreeStore<RealStorage>,
    key: VerifierKey,
}

impl Tree {
    /// The tree in the ledger's folder, and its public key.
    pub fn open(ledger_dir: &Path, key: &str) -> Result<Self, Errno> {
        let dir = RealDir::open(ledger_dir)?;
        let key = key.parse().map_err(|_| Errno::INVAL)?;
        Ok(Self { store: TreeStore::new(Arc::new(RealStorage), dir), key })
    }

    /// The text of `key.pub`.
    pub fn key(&self) -> String {
        format!("{}\n", self.key)
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Result<Vec<u8>, Errno> {
        self.store.checkpoint()?.ok_or(Errno::NOENT)
    }

    /// Lines that are signed.
    pub fn size(&self) -> u64 {
        let note = self.store.checkpoint().ok().flatten();
        note.and_then(|note| Checkpoint::unverified(&note)).map_or(0, |found| found.size)
    }

    /// A name in a folder.
    pub fn lookup(&self, parent: &TileNode, name: &OsStr) -> Option<TileNode> {
        let TileNode::Folder(folder) = parent else { return None };
        let name = name.to_str()?;
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let size = self.size();
        if let Some(node) = file(&path) {
            let TileNode::File { id, .. } = &node else { return None };
            let there = tile_at(size, id.level, id.index)?;
            return (id.width <= there.width).then_some(node);
        }
        is_folder(&path, size).then_some(TileNode::Folder(path))
    }

    /// The names in a folder: those of the newest checkpoint.
    pub fn list(&self, folder: &TileNode) -> Vec<(String, TileNode)> {
        let TileNode::Folder(folder) = folder else { return Vec::new() };
        let size = self.size();
        let names = names_in(folder, size);
        let node = |name: String| {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let node = file(&path).unwrap_or(TileNode::Folder(path));
            (name, node)
        };
        names.into_iter().map(node).collect()
    }

    /// Bytes of a bundle of lines, which is not read for that.
    pub fn length(&self, id: TileId, lines: &Reader) -> Result<u64, Errno> {
        let length = prove::entries_length(lines, id.index, id.width);
        length.map_err(super::log::errno)?.ok_or(Errno::NOENT)
    }

    /// What a file holds.
    pub fn content(&self, node: &TileNode, lines: &Reader) -> Result<Vec<u8>, Errno> {
        match node {
            TileNode::Folder(_) => Err(Errno::ISDIR),
            TileNode::File { id, entries: true } => prove::entries(lines, id.index, id.width)
                .map_err(super::log::errno)?
                .ok_or(Errno::NOENT),
            TileNode::File { id, entries: false } => {
                self.store.read_any(*id)?.map(|hashes| bytes_of(&hashes)).ok_or(Errno::NOENT)
            }
        }
    }

    /// The proof of a line.
    pub fn proof(&self, seq: u64, lines: &Reader) -> Result<Vec<u8>, Errno> {
        let proof = prove::prove(lines, &self.store, &self.key, seq).map_err(super::log::errno)?;
        proof.map(|proof| proof.to_bytes()).ok_or(Errno::NOENT)
    }
}

/// The file that a path below `tile` stands for, if it is one's.
fn file(path: &str) -> Option<TileNode> {
    if let Some(id) = TileId::parse(path) {
        return Some(TileNode::File { id, entries: false });
    }
    let (index, width) = path.strip_prefix(ENTRIES)?.strip_prefix('/').and_then(parse_numbered)?;
    Some(TileNode::File { id: TileId { level: 0, index, width }, entries: true })
}

/// The level whose tiles a folder's path begins with, and the rest of the path.
fn level_of(path: &str) -> Option<(u8, &str)> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let level = if first == ENTRIES { 0 } else { first.parse().ok()? };
    (first == ENTRIES || first == level.to_string()).then_some((level, rest))
}

fn is_folder(path: &str, size: u64) -> bool {
    let Some((level, rest)) = level_of(path) else { return false };
    if level >= levels(size).max(1) {
        return false;
    }
    if let Some(digits) = rest.strip_suffix(".p") {
        let full = parse_numbered(digits).filter(|(_, width)| *width == WIDTH);
        return full.is_some_and(|(index, _)| tile_at(size, level, index).is_some());
    }
    // The first tile that would be below it.
    let first = parse_numbered(&format!("{rest}/000")).filter(|(_, width)| *width == WIDTH);
    rest.is_empty() || first.is_some_and(|(index, _)| tile_at(size, level, index).is_some())
}

/// The names in a folder of a tree of `size` lines.
fn names_in(folder: &str, size: u64) -> BTreeSet<String> {
    if folder.is_empty() {
        let all = (0..levels(size)).map(|level| level.to_string());
        return all.chain([ENTRIES.to_owned()]).collect();
    }
    let Some((level, rest)) = level_of(folder) else { return BTreeSet::new() };
    let partial = partial_tiles(size).find(|id| id.level == level);
    if let Some(digits) = rest.strip_suffix(".p") {
        let of_it = partial.filter(|id| numbered(id.index, WIDTH) == digits);
        return of_it.into_iter().map(|id| id.width.to_string()).collect();
    }
    let full = full_tiles(size, level);
    let prefix = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    let mut names = BTreeSet::new();
    let mut take = |path: &str| {
        if let Some(below) = path.strip_prefix(&prefix) {
            names.insert(below.split('/').next().unwrap_or(below).to_owned());
        }
    };
    // Tiles below one folder of digits are consecutive: at most a thousand, or thousands of thousands.
    let mut index = 0;
    while index < full {
        let path = numbered(index, WIDTH);
        take(&path);
        index = match path.strip_prefix(&prefix) {
            // Straight to the next tile here.
            Some(below) if !below.contains('/') => index.saturating_add(1),
            // Past all that have the same folder.
            _ => (index / 1000).saturating_add(1).saturating_mul(1000),
        };
    }
    if let Some(id) = partial {
        take(&numbered(id.index, id.width));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_that_a_listing_leads_to() {
        for size in [0, 1, 255, 256, 257, 256_000, 256_001, 256_255, 256_256, 300_000] {
            let mut folders: Vec<String> = names_in("", size).into_iter().collect();
            while let Some(folder) = folders.pop() {
                assert!(is_folder(&folder, size), "{folder} of {size}");
                let below = names_in(&folder, size).into_iter();
                let paths = below.map(|name| format!("{folder}/{name}"));
                folders.extend(paths.filter(|path| file(path).is_none()));
            }
        }
        for size in [0, 256_000, 256_001, 256_256, 65_536_000, 256_000_000, 256_000_256] {
            for path in ["entries/x001", "0/x000", "0/x999", "entries/x001/x000", "0/x000/x001"] {
                let (above, name) = path.rsplit_once('/').unwrap();
                let is_listed = names_in(above, size).contains(name);
                assert_eq!(is_folder(path, size), is_listed, "{path} of {size}");
            }
            for none in
                ["9", "entries/001", "entries/x1", "entries/x001/", "entries//", "entries/x"]
            {
                assert!(!is_folder(none, size), "{none} of {size}");
            }
        }
    }
}
