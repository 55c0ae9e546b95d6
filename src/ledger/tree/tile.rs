//! Tiles: the tree in pieces of 256 hashes, as <https://c2sp.org/tlog-tiles> has it. No I/O.

use super::{Frontier, Hash, Node};

/// Hashes in a full tile.
pub const WIDTH: u16 = 256;
/// The same, to count with.
const FULL: u64 = WIDTH as u64;
/// Levels of the tree between two levels of tiles: log2 of [`WIDTH`].
const HEIGHT: u32 = 8;
/// Levels that a tree of 2^64 leaves has.
const LEVEL_MAX: u8 = 7;

/// Which tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileId {
    /// 0 for the hashes of leaves; each hash of a level stands for a full tile of the level below.
    pub level: u8,
    /// Position within the level.
    pub index: u64,
    /// Hashes in it, from 1; [`WIDTH`] for a full one.
    pub width: u16,
}

impl TileId {
    /// The path below `tile/`: `<L>/<N>[.p/<W>]`.
    pub fn path(self) -> String {
        format!("{}/{}", self.level, numbered(self.index, self.width))
    }

    /// The reverse of [`TileId::path`].
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = decimal(level).filter(|level| *level <= u64::from(LEVEL_MAX))?;
        let (index, width) = parse_numbered(rest)?;
        Some(Self { level: u8::try_from(level).ok()?, index, width })
    }
}

/// `<N>[.p/<W>]`: the index in groups of three digits, all but the last with an `x`.
pub fn numbered(index: u64, width: u16) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width == WIDTH { path } else { format!("{path}.p/{width}") }
}

/// The index and width that a path of [`numbered`] stands for.
pub fn parse_numbered(path: &str) -> Option<(u64, u16)> {
    let (digits, width) = match path.split_once(".p/") {
        None => (path, WIDTH),
        Some((digits, width)) => {
            let width = decimal(width).and_then(|width| u16::try_from(width).ok())?;
            (digits, Some(width).filter(|width| (1..WIDTH).contains(width))?)
        }
    };
    let mut index = 0_u64;
    for group in digits.split('/') {
        let group = group.strip_prefix('x').unwrap_or(group);
        let value = group.parse::<u64>().ok().filter(|value| *value < 1000)?;
        index = index.checked_mul(1000)?.checked_add(value)?;
    }
    // What is not written as we would write it stands for nothing.
    (numbered(index, width) == path).then_some((index, width))
}

fn decimal(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

/// Leaves below one hash of a level.
fn leaves_below(level: u8) -> Option<u64> {
    1_u64.checked_shl(u32::from(level).saturating_mul(HEIGHT))
}

/// Hashes of a level that a tree of `size` leaves has.
pub fn hashes_in_level(size: u64, level: u8) -> u64 {
    leaves_below(level).map_or(0, |leaves| size.checked_div(leaves).unwrap_or(0))
}

/// Levels of tiles that a tree of `size` leaves has.
pub fn levels(size: u64) -> u8 {
    (0..=LEVEL_MAX).take_while(|level| hashes_in_level(size, *level) > 0).count() as u8
}

/// Full tiles of a level that a tree of `size` leaves has.
pub fn full_tiles(size: u64, level: u8) -> u64 {
    hashes_in_level(size, level) / FULL
}

/// The tile that is partly filled in each level of a tree of `size` leaves.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = TileId> {
    (0..=LEVEL_MAX).filter_map(move |level| {
        let hashes = hashes_in_level(size, level);
        let width = u16::try_from(hashes % FULL).ok()?;
        let index = hashes / FULL;
        (width > 0).then_some(TileId { level, index, width })
    })
}

/// The tile that holds a hash of a level in a tree of `size` leaves, as wide as it is there; `None` if
/// it has no such tile.
pub fn tile_at(size: u64, level: u8, index: u64) -> Option<TileId> {
    let before = index.checked_mul(FULL)?;
    let width = hashes_in_level(size, level).checked_sub(before)?.min(FULL);
    let width = u16::try_from(width).ok().filter(|width| *width > 0)?;
    Some(TileId { level, index, width })
}

/// The root of a whole subtree over a power of two of hashes.
fn whole_root(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    frontier.root()
}

/// Finds a node of a tree of `size` leaves in its tiles, which `tile` gives; `None` if the tree has no
/// such node, or its tile is too short.
pub fn node<E>(
    wanted: Node,
    size: u64,
    tile: &mut impl FnMut(TileId) -> Result<Vec<Hash>, E>,
) -> Result<Option<Hash>, E> {
    let level = u8::try_from(wanted.height / HEIGHT).unwrap_or(u8::MAX);
    let inner = wanted.height % HEIGHT;
    let width = super::width_of(inner);
    let first = wanted.index.saturating_mul(width);
    let Some(id) = tile_at(size, level, first / FULL) else { return Ok(None) };
    let start = usize::try_from(first % FULL).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(width).unwrap_or(usize::MAX));
    Ok(tile(id)?.get(start..end).map(whole_root))
}

/// The hashes of a tile's bytes; `None` if it has not the size that it must have.
pub fn hashes_of(id: TileId, bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, []) = bytes.as_chunks::<32>() else { return None };
    (hashes.len() == usize::from(id.width)).then(|| hashes.to_vec())
}

/// A growing tree that gives each tile once it is full, and keeps the rest.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    frontier: Frontier,
    /// What is in the tile that is partly filled, by level.
    levels: Vec<Vec<Hash>>,
}

impl Builder {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The tree of `size` leaves, from its tiles, which `tile` gives with as many hashes as asked for.
    pub fn resume<E>(
        size: u64,
        tile: &mut impl FnMut(TileId) -> Result<Vec<Hash>, E>,
    ) -> Result<Self, E> {
        let mut levels = vec![Vec::new(); usize::from(LEVEL_MAX).saturating_add(1)];
        for id in partial_tiles(size) {
            if let Some(level) = levels.get_mut(usize::from(id.level)) {
                *level = tile(id)?;
            }
        }
        let mut peaks = Vec::new();
        for level in levels.iter().rev() {
            let mut rest = level.as_slice();
            while let Some(height) = rest.len().checked_ilog2() {
                let (whole, after) = rest.split_at(1 << height);
                peaks.push(whole_root(whole));
                rest = after;
            }
        }
        Ok(Self { frontier: Frontier::of(size, peaks), levels })
    }

    /// Adds a leaf by its hash; `full` is given each tile that it fills.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(TileId, &[Hash])) {
        self.frontier.push(leaf);
        let size = self.size();
        let mut hash = leaf;
        for level in 0..=LEVEL_MAX {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else { return };
            hashes.push(hash);
            if hashes.len() < usize::from(WIDTH) {
                return;
            }
            let tiles = full_tiles(size, level);
            full(TileId { level, index: tiles.saturating_sub(1), width: WIDTH }, hashes);
            hash = whole_root(hashes);
            hashes.clear();
        }
    }

    /// The tiles that are partly filled, the lowest level first.
    pub fn partial(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        partial_tiles(self.size()).filter_map(|id| {
            self.levels.get(usize::from(id.level)).map(|hashes| (id, hashes.as_slice()))
        })
    }
}

/// The bytes of a tile.
pub fn bytes_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.as_flattened().to_vec()
}
