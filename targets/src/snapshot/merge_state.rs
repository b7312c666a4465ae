//! What a request to an origin that is being merged must do, chunk by chunk. Pure: no I/O, no
//! waiting.
//!
//! A chunk with a record is on the COW: it is read and written there in place. While its batch is
//! being merged its writes are *held*, and the batch waits for those in flight. When the record is
//! gone the chunk is on the origin. A chunk is *doubtful* after a failed commit: its record may be
//! gone from the disk or not; both disks hold the same, and writes go to both so that they still
//! do.
//!
//! Rules kept here: the device shows the same whether or not a record that is being removed is
//! found after a crash, because no write changes such a chunk on one disk alone; and no write to a
//! COW chunk is in flight while it is copied.

use super::format::Record;
use super::merge_tail::Piece;
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, CowChunk};

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeWrite {
    /// Write the COW chunk in place, tracked.
    Cow(CowChunk),
    /// Write the COW chunk and the origin, tracked.
    Both(CowChunk),
    /// Write the origin, as any write of an origin with snapshots.
    Origin,
    /// Wait until the batch has been merged or given up, then decide again.
    Held,
}

struct Tracked {
    first: u64,
    last: u64,
    key: u32,
}

/// State of chunks other than their location.
#[derive(Default)]
pub(super) struct MergeState {
    /// The first chunk and the end of each range that is being merged, in order.
    held: Vec<(u64, u64)>,
    /// Chunks whose record may be gone, in order.
    doubtful: Vec<u64>,
    writes: Vec<Tracked>,
    next_key: u32,
}

impl MergeState {
    /// What a write must do to a chunk that is in that COW chunk, or on the origin.
    pub(super) fn before_write(&self, chunk: Chunk, mapped: Option<CowChunk>) -> MergeWrite {
        let Some(new) = mapped else { return MergeWrite::Origin };
        if self.is_held(chunk) {
            let early = mutant::is(Mutant::MergeLetsHeldGo);
            return if early { MergeWrite::Origin } else { MergeWrite::Held };
        }
        if self.is_doubtful(chunk) && !mutant::is(Mutant::MergeDoubtfulOnCow) {
            return MergeWrite::Both(new);
        }
        MergeWrite::Cow(new)
    }

    /// Whether a chunk is being merged.
    pub(super) fn is_held(&self, chunk: Chunk) -> bool {
        let behind = self.held.partition_point(|(first, _)| *first <= chunk.0);
        behind.checked_sub(1).is_some_and(|range| chunk.0 < self.held[range].1)
    }

    fn is_doubtful(&self, chunk: Chunk) -> bool {
        self.doubtful.binary_search(&chunk.0).is_ok()
    }

    /// Holds writes of these pieces from now on.
    pub(super) fn hold(&mut self, pieces: &[Piece]) {
        self.held.clear();
        self.held.extend(pieces.iter().map(|piece| (piece.old.0, piece.old.0 + piece.count)));
        self.held.sort_unstable();
    }

    /// Holds no writes any more.
    pub(super) fn release(&mut self) {
        self.held.clear();
    }

    /// Whether a write to a held chunk is in flight.
    pub(super) fn is_written(&self) -> bool {
        self.writes.iter().any(|write| self.touches_held(write))
    }

    fn touches_held(&self, write: &Tracked) -> bool {
        self.held.iter().any(|(first, end)| write.first < *end && *first <= write.last)
    }

    /// A write of chunks on the COW starts; the returned key ends it.
    pub(super) fn track(&mut self, first: Chunk, last: Chunk) -> u32 {
        let key = self.next_key;
        self.next_key = self.next_key.wrapping_add(1);
        self.writes.push(Tracked { first: first.0, last: last.0, key });
        key
    }

    /// A tracked write has completed; returns whether the batch may have waited for it.
    pub(super) fn untrack(&mut self, key: u32) -> bool {
        let index = self.writes.iter().position(|write| write.key == key);
        let write = index.map(|index| self.writes.swap_remove(index));
        write.is_some_and(|write| self.touches_held(&write))
    }

    /// The removal of these records has failed: they may or may not be there.
    pub(super) fn doubt(&mut self, records: impl Iterator<Item = Record>) {
        self.doubtful.extend(records.map(|record| record.old.0));
        self.doubtful.sort_unstable();
        self.doubtful.dedup();
    }

    /// How many records may be gone.
    pub(super) fn doubts(&self) -> usize {
        self.doubtful.len()
    }

    /// The records that may have been gone are durably there.
    pub(super) fn are_there(&mut self) {
        self.doubtful.clear();
    }

    /// A record is durably gone.
    pub(super) fn is_gone(&mut self, chunk: Chunk) {
        if let Ok(at) = self.doubtful.binary_search(&chunk.0) {
            self.doubtful.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(old: u64, count: u64) -> Piece {
        Piece { old: Chunk(old), new: CowChunk(old + 10), count }
    }

    #[test]
    fn writes_are_held_where_their_batch_is_merged_and_nowhere_else() {
        let mut state = MergeState::default();
        state.hold(&[piece(20, 2), piece(5, 3)]);
        let held: Vec<u64> = (0..30).filter(|chunk| state.is_held(Chunk(*chunk))).collect();
        assert_eq!(held, [5, 6, 7, 20, 21]);
        let new = Some(CowChunk(3));
        assert_eq!(state.before_write(Chunk(6), new), MergeWrite::Held);
        assert_eq!(state.before_write(Chunk(6), None), MergeWrite::Origin, "it has been merged");
        assert_eq!(state.before_write(Chunk(8), new), MergeWrite::Cow(CowChunk(3)));
        state.release();
        assert_eq!(state.before_write(Chunk(6), new), MergeWrite::Cow(CowChunk(3)));
    }

    #[test]
    fn a_batch_sees_the_writes_that_touch_it() {
        let mut state = MergeState::default();
        let keys =
            [(0, 4), (8, 19), (3, 30)].map(|(first, last)| state.track(Chunk(first), Chunk(last)));
        state.hold(&[piece(20, 2), piece(5, 3)]);
        assert!(state.is_written());
        assert!(state.untrack(keys[2]));
        assert!(!state.is_written(), "the others end before it or lie between");
        assert!(!state.untrack(keys[0]), "the batch has not waited for it");
        state.track(Chunk(21), Chunk(21));
        assert!(state.is_written());
    }

    #[test]
    fn a_doubtful_chunk_is_written_on_both_disks_until_its_record_is_gone() {
        let mut state = MergeState::default();
        let records = [4, 2].map(|old| Record { old: Chunk(old), new: CowChunk(old + 10) });
        state.doubt(records.into_iter());
        state.doubt(records.into_iter());
        assert_eq!(
            state.before_write(Chunk(2), Some(CowChunk(12))),
            MergeWrite::Both(CowChunk(12))
        );
        assert_eq!(state.before_write(Chunk(3), Some(CowChunk(13))), MergeWrite::Cow(CowChunk(13)));
        state.hold(&[piece(2, 1)]);
        assert_eq!(state.before_write(Chunk(2), Some(CowChunk(12))), MergeWrite::Held);
        state.is_gone(Chunk(2));
        assert_eq!(state.doubts(), 1);
        state.release();
        state.are_there();
        assert_eq!(state.before_write(Chunk(4), Some(CowChunk(14))), MergeWrite::Cow(CowChunk(14)));
    }
}
