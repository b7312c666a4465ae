//! The limits of a snapshot as a disk.

use super::target::Snapshot;
use crate::disk::Limits;
use crate::units::Sectors;

impl Snapshot {
    /// Its limits as a disk of another target: blocks no smaller than those of its disks, and
    /// discards of a chunk each if it supports any.
    pub fn limits(&self) -> Limits {
        let (origin, cow) = (self.origin.limits(), self.cow().limits());
        let logical_block_bytes = self.logical_block_bytes();
        let discards = self.options.get().discard_zeroes_cow;
        let chunk = if discards { self.chunk_size().sectors() } else { Sectors(0) };
        Limits {
            logical_block_bytes,
            physical_block_bytes: origin
                .physical_block_bytes
                .max(cow.physical_block_bytes)
                .max(logical_block_bytes),
            // Journaled records are lost on a power failure: users must flush, whatever the COW is.
            volatile_cache: cow.volatile_cache || self.store().is_persistent(),
            read_only: false,
            max_discard: chunk,
            discard_granularity_bytes: u32::try_from(chunk.bytes()).unwrap_or(1 << 30),
            max_write_zeroes: Sectors(0),
        }
    }
}
