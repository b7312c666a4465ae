//! The records of a store: their bytes, and how one can be faulty. Pure.

use std::fmt;

use super::layout::Layout;
use crate::units::{Chunk, CowChunk};

/// The kernel keeps a run length in the upper 8 bits of `new_chunk`, so no chunk number may reach
/// them.
pub const NEW_CHUNK_LIMIT: u64 = 1 << 56;
fn double_word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// One exception: the origin's chunk `old` is kept in the COW's chunk `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The chunk of the origin.
    pub old: Chunk,
    /// The chunk of the COW.
    pub new: CowChunk,
}

impl Record {
    /// The record at the start of `bytes` (at least 16); `None` for the terminator.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let new = double_word(bytes, 8);
        (new != 0).then(|| Record { old: Chunk(double_word(bytes, 0)), new: CowChunk(new) })
    }

    /// The record's bytes.
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.old.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.new.0.to_le_bytes());
        bytes
    }
}

/// A faulty record, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The area the record is in.
    pub area: u64,
    /// Its index in the area.
    pub index: u64,
    /// The record.
    pub record: Record,
    /// What is wrong.
    pub fault: RecordFault,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// The origin has no such chunk.
    OldBeyondOrigin,
    /// The COW has no such chunk.
    NewBeyondCow,
    /// The COW chunk holds the header or an area.
    NewIsMetadata,
    /// Another record has the same origin chunk.
    OldTwice,
    /// Another record has the same COW chunk.
    NewTwice,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            RecordFault::OldBeyondOrigin => "names a chunk beyond the origin's end",
            RecordFault::NewBeyondCow => "points beyond the COW's end",
            RecordFault::NewIsMetadata => "points into metadata",
            RecordFault::OldTwice => "repeats an origin chunk",
            RecordFault::NewTwice => "repeats a COW chunk",
        };
        let Record { old, new } = self.record;
        write!(f, "record {} of area {} ({} -> {}) {what}", self.index, self.area, old.0, new.0)
    }
}

impl std::error::Error for RecordError {}

/// Checks one record by itself; the caller, which has all of them, looks for duplicates.
/// `origin_chunks` is `None` when the origin is unknown (an offline check of a COW alone).
pub fn check_record(
    layout: Layout,
    record: Record,
    origin_chunks: Option<u64>,
    cow_chunks: u64,
) -> Option<RecordFault> {
    if origin_chunks.is_some_and(|chunks| record.old.0 >= chunks) {
        Some(RecordFault::OldBeyondOrigin)
    } else if record.new.0 >= cow_chunks || record.new.0 >= NEW_CHUNK_LIMIT {
        Some(RecordFault::NewBeyondCow)
    } else if layout.is_metadata(record.new) {
        Some(RecordFault::NewIsMetadata)
    } else {
        None
    }
}
