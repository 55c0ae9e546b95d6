//! Memory for reads and writes that go past the page cache.

use std::ops::{Deref, DerefMut, Range};

/// What offsets and lengths of reads and writes past the page cache are multiples of, in bytes. File
/// systems ask for the sector of their disk, which is no larger.
pub const ALIGNMENT: usize = 4096;

/// Bytes whose first lies at a multiple of [`ALIGNMENT`] in memory, so that the disk can fill them
/// without a copy in between.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    skip: usize,
}

impl Buffer {
    /// Zeros. The system gives the memory only where it is touched.
    pub fn new(length: usize) -> Self {
        let memory = vec![0; length.saturating_add(ALIGNMENT)];
        let skip = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, skip }
    }

    /// Makes it at least this long; what it held is lost if it was not.
    pub fn grow(&mut self, length: usize) {
        if self.len() < length {
            *self = Self::new(length);
        }
    }

    fn range(&self) -> Range<usize> {
        let length = self.memory.len().saturating_sub(ALIGNMENT);
        self.skip..self.skip.saturating_add(length)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.range()).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        self.memory.get_mut(range).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_multiple() {
        for length in [0, 1, 4095, 4096, 1 << 20] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            buffer.fill(7);
            buffer.grow(length / 2);
            assert!(buffer.iter().all(|byte| *byte == 7));
            buffer.grow(length + 1);
            assert_eq!(buffer.len(), length + 1);
        }
        assert!(Buffer::default().is_empty());
    }
}
