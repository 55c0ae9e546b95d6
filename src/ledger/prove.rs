//! Proofs of single lines, and bundles of lines, from a ledger that may be in use.

use super::checkpoint::{Checkpoint, Proof};
use super::note::VerifierKey;
use super::reader::Reader;
use super::store::TreeStore;
use super::tree::tile::WIDTH;
use super::{LedgerError, encode};
use crate::error::Errno;
use crate::storage::Storage;

/// The proof that the line at a position is in the newest checkpoint; none if it is not, or not yet. It
/// was checked: a line, a tile or a checkpoint that was tampered with gives no proof but an error.
pub fn prove<S: Storage>(
    lines: &Reader,
    tree: &TreeStore<S>,
    key: &VerifierKey,
    seq: u64,
) -> Result<Option<Proof>, LedgerError> {
    let failed = |attempted, file: &str| {
        let file = file.to_owned();
        move |errno| LedgerError::Tree { attempted, file, errno }
    };
    let note = tree.checkpoint().map_err(failed("read", "checkpoint"))?;
    let Some(note) = note else { return Ok(None) };
    let unreadable = failed("read", "checkpoint");
    let claimed = Checkpoint::unverified(&note).ok_or_else(|| unreadable(Errno::BADMSG))?;
    if seq >= claimed.size {
        return Ok(None);
    }
    let Some(line) = lines.line_at(seq)? else { return Ok(None) };
    let path = tree.inclusion(seq, claimed.size).map_err(failed("read", "the tiles"))?;
    let proof = Proof { line, index: seq, path, checkpoint: note };
    proof.verify(key).map_err(|why| LedgerError::Unproven { seq, why })?;
    Ok(Some(proof))
}

/// The length of the bundle that [`entries`] makes, of which no line is read.
pub fn entries_length(lines: &Reader, index: u64, width: u16) -> Result<Option<u64>, LedgerError> {
    let first = index.saturating_mul(u64::from(WIDTH));
    let after = first.saturating_add(u64::from(width));
    let Some(start) = lines.offset_of(first)? else { return Ok(None) };
    let end = match lines.offset_of(after)? {
        Some(end) => end,
        // It is the last line that is there.
        None if lines.offset_of(after.saturating_sub(1))?.is_some() => lines.len(),
        None => return Ok(None),
    };
    // Two bytes for the length of a line, and none for its newline.
    Ok(Some(end.saturating_sub(start).saturating_add(u64::from(width))))
}

/// The entry bundle of a tile of level 0 (<https://c2sp.org/tlog-tiles>): each line with its length
/// before it, as two bytes, the higher first. None where there are not so many lines.
pub fn entries(lines: &Reader, index: u64, width: u16) -> Result<Option<Vec<u8>>, LedgerError> {
    let first = index.saturating_mul(u64::from(WIDTH));
    let Some(offset) = lines.offset_of(first)? else { return Ok(None) };
    let mut bundle = Vec::new();
    let mut left = width;
    for line in lines.lines(offset).take(usize::from(width)) {
        let (_, line) = line?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let length = u16::try_from(line.len().min(encode::LINE_MAX)).unwrap_or(u16::MAX);
        bundle.extend(length.to_be_bytes());
        bundle.extend(line);
        left = left.saturating_sub(1);
    }
    Ok((left == 0).then_some(bundle))
}
