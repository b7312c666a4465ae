//! The layout of a store: its areas and the chunks between them. Pure.

use crate::units::{ChunkSize, CowChunk, Sector, Sectors};

/// Bytes of one exception record.
pub const RECORD_BYTES: u64 = 16;
/// Chunk size of a new store if none is requested: 16 KiB, as in the kernel.
pub const DEFAULT_CHUNK_SECTORS: u64 = 32;
/// Fewest chunks a COW needs to hold an exception: header, area 0 and one data chunk.
pub const MIN_COW_CHUNKS: u64 = 3;

/// The layout of a store with a given chunk size.
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

    /// Whole chunks on a COW of that size; a partial chunk at the end is never used.
    pub const fn cow_chunks(self, cow_size: Sectors) -> u64 {
        cow_size.0 / self.chunk_size.sectors().0
    }

    /// The first data chunk at or after a chunk.
    pub(super) const fn skip_metadata(self, chunk: CowChunk) -> CowChunk {
        if self.is_metadata(chunk) { CowChunk(chunk.0 + 1) } else { chunk }
    }

    /// Where an area starts.
    pub const fn area_start(self, area: u64) -> Sector {
        self.chunk_size.start_of_cow(self.area_chunk(area))
    }
}
