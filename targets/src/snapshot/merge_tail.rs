//! The records that a merge has yet to remove, from the last one backwards; the next batch of them,
//! and the blocks that are rewritten after it. Pure.
//!
//! Rules kept here: records leave from the tail only, the last one of the last area first, so that
//! the remaining records are always a prefix of the original ones, followed by the terminator; no
//! write of metadata is longer than a block, which is written as a whole or not at all; and a batch
//! is bounded, in what it copies (how long a write is held) and in its parts.

use super::format::{Layout, RECORD_BYTES, Record};
use crate::units::{Chunk, CowChunk, Sector, Sectors};

/// Most that is merged with one flush and one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sectors that are copied, unless a single chunk is larger.
    pub sectors: Sectors,
    /// Records that are removed.
    pub records: usize,
}

impl Default for Bounds {
    /// 4 MiB: long enough that the flush and the commit cost little, short enough that a held write
    /// does not wait long. And as many records as one read of metadata returns.
    fn default() -> Bounds {
        Bounds { sectors: Sectors(8192), records: 1024 }
    }
}

/// Most pieces of a batch: each slice that is copied searches their order again.
const BATCH_PIECES: usize = 256;
/// Bytes of metadata per read.
pub(super) const READ_BYTES: u32 = 16384;

/// Neighbouring chunks whose COW chunks are neighbours in the same order: one range to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first chunk.
    pub(super) old: Chunk,
    /// Its COW chunk.
    pub(super) new: CowChunk,
    /// How many there are.
    pub(super) count: u64,
}

/// What is merged with one flush and one commit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) pieces: Vec<Piece>,
    /// How many records it takes from the tail.
    pub(super) records: usize,
}

/// The metadata to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) at: Sector,
    pub(super) count: Sectors,
    /// How many of its records count.
    pub(super) records: usize,
}

/// A block of an area as it is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) at: Sector,
    /// The remaining records; zeroes follow.
    pub(super) kept: Vec<Record>,
    /// How many records are removed from it.
    pub(super) removed: usize,
}

/// The last records of a store, as far as they have been read.
pub(super) struct Tail {
    layout: Layout,
    /// Records in a block of the COW.
    per_block: u64,
    bounds: Bounds,
    /// Records in the store.
    end: u64,
    /// The records before the end. They begin at the start of a block.
    records: Vec<Record>,
}

impl Tail {
    /// The tail of a store with `end` records, nothing read yet.
    pub(super) fn new(layout: Layout, block_bytes: u32, bounds: Bounds, end: u64) -> Tail {
        let per_block = u64::from(block_bytes) / RECORD_BYTES;
        Tail { layout, per_block, bounds, end, records: Vec::new() }
    }

    /// The same tail with another number of records in the store, nothing read yet.
    pub(super) fn restart(&mut self, end: u64) {
        (self.end, self.records) = (end, Vec::new());
    }

    /// Records in the store.
    pub(super) fn left(&self) -> u64 {
        self.end
    }

    fn start(&self) -> u64 {
        self.end - self.records.len() as u64
    }

    /// What must be read before the next batch is made; `None` if enough has been read.
    pub(super) fn wanted(&self) -> Option<Stretch> {
        let start = self.start();
        if self.records.len() >= self.bounds.records || start == 0 {
            return None;
        }
        let last = start - 1;
        let (area, index) = self.place(last);
        let at_once = (u64::from(READ_BYTES) / RECORD_BYTES).max(self.per_block);
        let behind = index - index % self.per_block + self.per_block;
        let first = behind.saturating_sub(at_once);
        let block = self.layout.area_start(area).plus(Sectors::from_bytes(first * RECORD_BYTES));
        Some(Stretch {
            at: block,
            count: Sectors::from_bytes((behind - first) * RECORD_BYTES),
            records: usize::try_from(index + 1 - first).unwrap_or(0),
        })
    }

    fn place(&self, number: u64) -> (u64, u64) {
        let per_area = self.layout.records_per_area();
        (number / per_area, number % per_area)
    }

    /// Prepends records that have been read.
    pub(super) fn prepend(&mut self, mut records: Vec<Record>) {
        records.append(&mut self.records);
        self.records = records;
    }

    /// The last records, as many as are merged together, and no more than `most` unless a single
    /// chunk is larger; `None` if there are none.
    pub(super) fn next_batch(&self, most: Sectors) -> Option<Batch> {
        let (chunk, most) = (self.layout.chunk_size.sectors().0, self.bounds.sectors.min(most));
        let fit = usize::try_from((most.0 / chunk).max(1)).unwrap_or(1);
        let fit = fit.min(self.bounds.records);
        let mut batch = Batch::default();
        for record in self.records.iter().rev().take(fit) {
            let is_full = batch.pieces.len() == BATCH_PIECES;
            match batch.pieces.last_mut() {
                Some(piece) if follows(record, piece) => {
                    (piece.old, piece.new, piece.count) = (record.old, record.new, piece.count + 1);
                }
                _ if is_full => break,
                _ => batch.pieces.push(Piece { old: record.old, new: record.new, count: 1 }),
            }
            batch.records += 1;
        }
        (batch.records > 0).then_some(batch)
    }

    /// The last `count` records, the last one first.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = Record> + '_ {
        self.records.iter().rev().take(count).copied()
    }

    /// The blocks of the last `count` records, the last one first, as they are to be written.
    pub(super) fn blocks(&self, count: usize) -> Vec<Block> {
        let (mut blocks, mut done) = (Vec::new(), 0);
        while done < count.min(self.records.len()) {
            let block = self.block_before(done, count - done);
            done += block.removed;
            blocks.push(block);
        }
        blocks
    }

    /// The last block as it is.
    pub(super) fn last_block(&self) -> Block {
        self.block_before(0, 0)
    }

    /// The last block that remains when `done` records are gone; up to `count` more leave it.
    fn block_before(&self, done: usize, count: usize) -> Block {
        let len = self.records.len() - done;
        let (area, index) = self.place((self.end - done as u64).saturating_sub(1));
        let in_block = usize::try_from(index % self.per_block + 1).unwrap_or(usize::MAX);
        let removed = count.min(in_block);
        let kept = self.records[len.saturating_sub(in_block)..len - removed].to_vec();
        let offset = (index - index % self.per_block) * RECORD_BYTES;
        let at = self.layout.area_start(area).plus(Sectors::from_bytes(offset));
        Block { at, kept, removed }
    }

    /// The last `count` records are gone from the disk.
    pub(super) fn remove(&mut self, count: usize) {
        self.end -= count as u64;
        self.records.truncate(self.records.len().saturating_sub(count));
    }
}

/// Whether a record directly precedes a piece, on both disks.
fn follows(record: &Record, piece: &Piece) -> bool {
    record.old.0 + 1 == piece.old.0 && record.new.0 + 1 == piece.new.0
}

#[cfg(test)]
#[path = "merge_tail_tests.rs"]
mod tests;
