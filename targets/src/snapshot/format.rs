//! The persistent exception store on disk, version 1, as the kernel writes it. Pure: bytes in, facts out.
//!
//! ```text
//! chunk 0        header: "SnAp", valid, version, chunk size in sectors; the rest zero
//! chunk 1        area 0: records of 16 bytes, old chunk and new chunk, ended by a record with new chunk 0
//! chunk 2..      as many data chunks as an area has records, then area 1, and so on
//! ```
//!
//! All numbers are little-endian and there are no checksums, so everything that can be checked is checked here:
//! the kernel takes any record, this loader refuses one that points outside the devices, into metadata, or twice.
//!
//! Here are the records and where they lie; the header is in `header`, whose store it is in `identity`, and what is handed out next in `cursor`.

mod cursor;
mod header;
pub mod identity;

use std::fmt;

use crate::units::{Chunk, ChunkSize, CowChunk, Sector, Sectors};

pub use cursor::{Cursor, Usage};
pub use header::{Found, HEADER_BYTES, Header, HeaderError, MAGIC, VERSION, examine};
pub use identity::{Identity, StoreId};

/// Bytes of one exception record.
pub const RECORD_BYTES: u64 = 16;
/// The kernel keeps a run length in the upper 8 bits of `new_chunk`, so no chunk number may reach them.
pub const NEW_CHUNK_LIMIT: u64 = 1 << 56;
/// Chunk size of a new store when none is asked for: 16 KiB, as in the kernel.
pub const DEFAULT_CHUNK_SECTORS: u64 = 32;
/// Fewest chunks a COW needs to hold an exception: header, area 0 and one data chunk.
pub const MIN_COW_CHUNKS: u64 = 3;

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

/// Where things are in a store of a given chunk size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The chunk size.
    pub chunk_size: ChunkSize,
}

impl Layout {
    /// Records in a metadata area, which is one chunk.
    pub const fn records_per_area(self) -> u64 {
        self.chunk_size.bytes() / RECORD_BYTES
    }

    /// The COW chunk that holds an area.
    pub const fn area_chunk(self, area: u64) -> CowChunk {
        CowChunk(1 + area * (self.records_per_area() + 1))
    }

    /// Whether a COW chunk holds a header or an area, never data.
    pub const fn is_metadata(self, chunk: CowChunk) -> bool {
        chunk.0 == 0 || chunk.0 % (self.records_per_area() + 1) == 1
    }

    /// Whole chunks on a COW of that size; a trailing part is never used.
    pub const fn cow_chunks(self, cow_size: Sectors) -> u64 {
        cow_size.0 / self.chunk_size.sectors().0
    }

    /// The first data chunk at or after one.
    const fn skip_metadata(self, chunk: CowChunk) -> CowChunk {
        if self.is_metadata(chunk) { CowChunk(chunk.0 + 1) } else { chunk }
    }

    /// Where an area starts.
    pub const fn area_start(self, area: u64) -> Sector {
        self.chunk_size.start_of_cow(self.area_chunk(area))
    }
}

/// Something wrong with a record, and where.
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
    /// Another record is about the same origin chunk.
    OldTwice,
    /// Another record uses the same COW chunk.
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

/// Checks one record by itself; repetition is for whoever sees all of them. `origin_chunks` is `None` when the origin
/// is unknown (an offline check of a COW alone).
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

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
