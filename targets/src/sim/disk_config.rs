//! How a simulated disk behaves.

use crate::units::Sectors;

/// The properties of a simulated disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskConfig {
    /// Its logical block, which survives a crash as a whole or not at all.
    pub logical_block_bytes: u32,
    /// Completed writes may be lost until flushed.
    pub volatile_cache: bool,
    /// What was written before a failed flush does not become durable by a later one.
    pub failed_flush_loses: bool,
    /// A write with FUA is a write and a flush: what was written before a failed one does not
    /// become durable by a later flush.
    pub failed_fua_loses: bool,
    /// Largest discard; zero if there is none.
    pub max_discard: Sectors,
    /// Largest write-zeroes; zero if there is none.
    pub max_write_zeroes: Sectors,
    /// Operations complete when they are submitted: for reading an image without exploring
    /// anything.
    pub immediate: bool,
}

impl Default for DiskConfig {
    fn default() -> DiskConfig {
        DiskConfig {
            logical_block_bytes: 512,
            volatile_cache: true,
            failed_flush_loses: false,
            failed_fua_loses: false,
            max_discard: Sectors(0),
            max_write_zeroes: Sectors(0),
            immediate: false,
        }
    }
}
