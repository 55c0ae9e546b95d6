//! The Merkle tree over the ledger's lines: RFC 6962, section 2.1, with SHA-256. No I/O.
//!
//! A leaf is a line without its newline, its index is the line's `seq`. Whatever needs inner nodes
//! asks for them by [`Node`], so that they may come from memory or from [`tile`]s.

use ring::digest::{Context, SHA256};

pub mod proof;
#[cfg(test)]
mod tests;
pub mod tile;

/// The hash of a leaf, a node or a tree.
pub type Hash = [u8; 32];

/// A node above a whole subtree of 2^`height` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// 0 for a leaf.
    pub height: u32,
    /// Position among the nodes of its height.
    pub index: u64,
}

/// The hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    hash_of([&[0], leaf])
}

/// The hash of a node with two children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash_of([&[1], left, right])
}

fn hash_of<const PARTS: usize>(parts: [&[u8]; PARTS]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The hash of the tree without leaves.
pub fn empty_root() -> Hash {
    hash_of([])
}

/// Joins the roots of whole subtrees, the widest first, to the root of them all.
fn join(peaks: &[Hash]) -> Hash {
    let right_to_left = peaks.iter().rev().copied();
    right_to_left.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
}

/// A tree that grows at its right edge and knows the root of each whole subtree there: one hash for
/// each bit that is set in its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The widest subtree first.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A tree whose whole subtrees are known, the widest first: one for each bit set in its size.
    fn of(size: u64, peaks: Vec<Hash>) -> Self {
        Self { size, peaks }
    }

    /// Adds a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        join(&self.peaks)
    }
}

/// The root over leaves `start..end`, which are a subtree of some tree as RFC 6962 splits it.
fn range_root<E>(
    start: u64,
    end: u64,
    node: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let mut peaks = Vec::new();
    let mut at = start;
    while let Some(height) = end.saturating_sub(at).checked_ilog2() {
        peaks.push(node(Node { height, index: at.checked_shr(height).unwrap_or(0) })?);
        at = at.saturating_add(width_of(height));
    }
    Ok(join(&peaks))
}

/// The root of the first `size` leaves.
pub fn root<E>(size: u64, node: &mut impl FnMut(Node) -> Result<Hash, E>) -> Result<Hash, E> {
    range_root(0, size, node)
}

/// Leaves below a node.
fn width_of(height: u32) -> u64 {
    1_u64.checked_shl(height).unwrap_or(0)
}

/// The largest power of two below a number of leaves, of which there are at least two.
fn split(leaves: u64) -> u64 {
    leaves.saturating_sub(1).checked_ilog2().map_or(0, width_of)
}
