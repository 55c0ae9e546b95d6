//! Proofs of the tree: that a leaf is in it, and that a tree is the beginning of another. Made as in
//! RFC 6962, sections 2.1.1 and 2.1.2; checked as in RFC 9162, sections 2.1.3.2 and 2.1.4.2.

use super::{Hash, Node, node_hash, range_root, split};

/// The hashes that lead from a leaf to the root, its sibling first. The index is below the size.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    node: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut start, mut end) = (0_u64, size);
    let mut path = Vec::new();
    while end.saturating_sub(start) > 1 {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if index < middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, node)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show that the tree of the first `before` leaves is the beginning of that of `after`
/// leaves; none where either is empty or they are one.
pub fn consistency<E>(
    before: u64,
    after: u64,
    node: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut start, mut end) = (0_u64, after);
    let mut path = Vec::new();
    if before == 0 || before >= after {
        return Ok(path);
    }
    while before != end {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if before <= middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, node)?);
            start = middle;
        }
    }
    // The verifier knows the old root itself.
    if start > 0 {
        path.push(range_root(start, end, node)?);
    }
    path.reverse();
    Ok(path)
}

/// The root that a leaf and its path lead to; `None` for a path that cannot be of this index and size.
pub fn root_by_inclusion(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    let mut last = size.checked_sub(1).filter(|last| index <= *last)?;
    let (mut at, mut hash) = (index, leaf);
    for step in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(step, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

/// Whether a path shows that a tree with `before` leaves and its root is the beginning of one with
/// `after`.
pub fn is_consistent(before: (u64, Hash), after: (u64, Hash), path: &[Hash]) -> bool {
    let ((before, old), (after, new)) = (before, after);
    if before == after {
        return old == new && path.is_empty();
    }
    if before == 0 || before > after {
        return before == 0 && path.is_empty();
    }
    let (mut at, mut last) = (before.saturating_sub(1), after.saturating_sub(1));
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let first = before.is_power_of_two().then_some(old);
    let mut steps = first.iter().chain(path);
    let Some(first) = steps.next() else { return false };
    let (mut old_seen, mut new_seen) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_seen = node_hash(step, &old_seen);
            new_seen = node_hash(step, &new_seen);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_seen = node_hash(&new_seen, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_seen == old && new_seen == new
}
