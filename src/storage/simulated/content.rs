//! What a regular file holds: a sparse set of blocks, once as programs see it and once as the disk
//! has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

#[cfg(test)]
use super::image;
use super::random::Random;

/// Bytes of a block, the unit of holes and of caching.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of a sector, the unit that a disk writes whole.
const SECTOR: usize = 512;

/// Shared by copies of a disk until one of them writes it.
type Block = Arc<Page>;

/// The bytes of a block, and what is known of them.
#[derive(Debug)]
struct Page {
    bytes: [u8; BLOCK as usize],
    #[cfg(test)]
    sums: image::Sums,
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self::of(self.bytes)
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Page {}

impl Page {
    fn of(bytes: [u8; BLOCK as usize]) -> Self {
        Self {
            bytes,
            #[cfg(test)]
            sums: image::Sums::default(),
        }
    }
}

/// The bytes of a block, to be changed.
fn bytes_of(block: &mut Block) -> &mut [u8; BLOCK as usize] {
    let page = Arc::make_mut(block);
    #[cfg(test)]
    {
        page.sums = image::Sums::default();
    }
    &mut page.bytes
}

/// Blocks and length; a block that is absent is a hole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sparse {
    blocks: BTreeMap<u64, Block>,
    pub(super) length: u64,
}

impl Sparse {
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let end = self.length.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let within = (at % BLOCK) as usize;
            let step = ((BLOCK as usize) - within).min((end - at) as usize);
            let out = &mut buffer[(at - offset) as usize..][..step];
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => out.copy_from_slice(&block.bytes[within..within + step]),
                None => out.fill(0),
            }
            at += step as u64;
        }
        end.saturating_sub(offset) as usize
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let step = ((BLOCK as usize) - within).min(rest.len());
            let block = self.blocks.entry(at / BLOCK).or_insert_with(empty_block);
            bytes_of(block)[within..within + step].copy_from_slice(&rest[..step]);
            rest = &rest[step..];
            at += step as u64;
        }
        self.length = self.length.max(at);
    }

    fn set_length(&mut self, length: u64) {
        self.blocks.retain(|index, _| index * BLOCK < length);
        if let Some(block) = self.blocks.get_mut(&(length / BLOCK)) {
            let rest = (length % BLOCK) as usize..;
            if block.bytes[rest.clone()] != empty_block().bytes[rest.clone()] {
                bytes_of(block)[rest].fill(0);
            }
        }
        self.length = length;
    }

    pub(super) fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        if offset >= self.length {
            return None;
        }
        let (&first, _) = self.blocks.range(offset / BLOCK..).next()?;
        let mut end = first + 1;
        while self.blocks.contains_key(&end) {
            end += 1;
        }
        let range = (first * BLOCK).max(offset)..(end * BLOCK).min(self.length);
        (range.start < range.end).then_some(range)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// How many bytes of new blocks a write of `length` bytes at `offset` takes.
    pub(super) fn bytes_to_add(&self, length: usize, offset: u64) -> u64 {
        if length == 0 {
            return 0;
        }
        let last = (offset + length as u64 - 1) / BLOCK;
        (offset / BLOCK..=last).filter(|index| !self.blocks.contains_key(index)).count() as u64
            * BLOCK
    }
}

fn empty_block() -> Block {
    static EMPTY: LazyLock<Block> = LazyLock::new(|| Arc::new(Page::of([0; BLOCK as usize])));
    Arc::clone(&EMPTY)
}

/// A file's content in the cache and on the disk. `dirty` names the blocks that a sync would write.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) cached: Sparse,
    durable: Sparse,
    dirty: BTreeSet<u64>,
    length_dirty: bool,
}

impl Content {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let length = self.cached.length;
        self.cached.write(bytes, offset);
        self.dirty.extend(offset / BLOCK..=(offset + bytes.len() as u64 - 1) / BLOCK);
        self.length_dirty |= self.cached.length != length;
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let first = length.min(self.cached.length) / BLOCK;
        self.dirty.extend(self.cached.blocks.range(first..).map(|(index, _)| *index));
        self.cached.set_length(length);
        self.length_dirty = true;
    }

    pub(super) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            match self.cached.blocks.get(&index) {
                Some(block) => self.durable.blocks.insert(index, block.clone()),
                None => self.durable.blocks.remove(&index),
            };
        }
        if std::mem::take(&mut self.length_dirty) {
            self.durable.set_length(self.cached.length);
        }
    }

    /// A sync that failed: some of it reached the disk, the cache forgets that the rest did not.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        self.durable = self.after_power_loss(random, false);
        self.dirty.clear();
        self.length_dirty = false;
    }

    /// What the disk holds if the power goes now. With `ordered` a length that grew never uncovers
    /// bytes that were not written.
    fn after_power_loss(&self, random: &mut Random, ordered: bool) -> Sparse {
        let mut disk = self.durable.clone();
        let length = if self.length_dirty {
            match random.below(4) {
                0 => disk.length,
                1 => {
                    let least = disk.length.min(self.cached.length);
                    least + random.below(disk.length.abs_diff(self.cached.length) + 1)
                }
                _ => self.cached.length,
            }
        } else {
            disk.length
        };
        for &index in &self.dirty {
            let old = disk.blocks.get(&index).cloned();
            let new = self.cached.blocks.get(&index).cloned();
            let grown = ordered && (index + 1) * BLOCK > disk.length && index * BLOCK < length;
            let kept = match random.below(3) {
                _ if grown => new,
                0 => old,
                1 => new,
                _ => Some(torn(old.as_ref(), new.as_ref(), random)),
            };
            match kept {
                Some(block) => disk.blocks.insert(index, block),
                None => disk.blocks.remove(&index),
            };
        }
        disk.set_length(length);
        disk
    }

    /// Adds a sum of what programs read, or, of text, of where it has signs and where it has none.
    #[cfg(test)]
    pub(super) fn sum(&self, shape_only: bool, into: &mut Vec<u8>) {
        into.extend(self.cached.length.to_ne_bytes());
        for (index, block) in &self.cached.blocks {
            into.extend(index.to_ne_bytes());
            into.extend(block.sums.of(&block.bytes, shape_only));
        }
    }

    /// Whether the disk has all of it.
    pub(super) fn is_durable(&self) -> bool {
        self.dirty.is_empty() && !self.length_dirty && self.cached == self.durable
    }

    /// The content as it is found after power loss.
    pub(super) fn crash(&self, random: &mut Random, ordered: bool) -> Self {
        let disk = self.after_power_loss(random, ordered);
        Self { cached: disk.clone(), durable: disk, dirty: BTreeSet::new(), length_dirty: false }
    }
}

fn torn(old: Option<&Block>, new: Option<&Block>, random: &mut Random) -> Block {
    let mut block = empty_block();
    for start in (0..BLOCK as usize).step_by(SECTOR) {
        if let Some(from) = if random.flip() { old } else { new } {
            let bytes = &from.bytes[start..start + SECTOR];
            bytes_of(&mut block)[start..start + SECTOR].copy_from_slice(bytes);
        }
    }
    block
}
