//! Snapshot reads in flight to the origin. Pure.
//!
//! Rule kept here: the state of I4 (an origin write waits until the reads of the old chunk have
//! drained).

use crate::units::Chunk;

/// Ranges of chunks, each with a key: its place.
#[derive(Default)]
pub(super) struct Reads {
    /// A place that no read has is an empty range.
    ranges: Vec<(u64, u64)>,
    free: Vec<u32>,
}

/// Where no read is: it ends before it starts.
const NONE: (u64, u64) = (1, 0);

impl Reads {
    /// A read of these chunks starts; returns its key.
    pub(super) fn begin(&mut self, first: Chunk, last: Chunk) -> u32 {
        let range = (first.0, last.0);
        if let Some(key) = self.free.pop() {
            self.ranges[key as usize] = range;
            return key;
        }
        self.ranges.push(range);
        // No more than there are requests.
        u32::try_from(self.ranges.len() - 1).unwrap_or(u32::MAX)
    }

    /// A read has completed.
    pub(super) fn end(&mut self, key: u32) {
        self.ranges[key as usize] = NONE;
        self.free.push(key);
        if self.free.len() == self.ranges.len() {
            // Without reads there is nothing to search.
            self.free.clear();
            self.ranges.clear();
        }
    }

    /// Whether a read of a chunk is in flight.
    pub(super) fn has(&self, chunk: Chunk) -> bool {
        self.ranges.iter().any(|(first, last)| *first <= chunk.0 && chunk.0 <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_read_until_the_last_of_its_reads_has_ended() {
        let mut reads = Reads::default();
        let keys = [(1, 3), (3, 5), (3, 3)].map(|(a, b)| reads.begin(Chunk(a), Chunk(b)));
        let has = |reads: &Reads| [0, 1, 3, 5, 6].map(|chunk| reads.has(Chunk(chunk)));
        assert_eq!(has(&reads), [false, true, true, true, false]);
        reads.end(keys[1]);
        assert_eq!(has(&reads), [false, true, true, false, false]);
        assert_eq!(reads.begin(Chunk(6), Chunk(6)), keys[1], "its place is taken again");
        reads.end(keys[0]);
        reads.end(keys[2]);
        assert_eq!(has(&reads), [false, false, false, false, true]);
        reads.end(keys[1]);
        assert_eq!(has(&reads), [false; 5]);
        assert_eq!((reads.ranges.len(), reads.free.len()), (0, 0));
    }
}
