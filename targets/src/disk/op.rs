//! An operation of a disk, how it is named while it is in flight, and what a disk can do.

use super::error::OpKind;
use super::memory::Memory;
use crate::units::{Sector, Sectors};

/// One operation on one contiguous range of one disk.
#[derive(Clone, Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// Where it starts.
    pub sector: Sector,
    /// How long it is; zero for a flush.
    pub count: Sectors,
    /// Where the data comes from or goes to.
    pub memory: Memory,
}

/// Identifies a disk, whatever path led to it: two numbers of the caller's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskKey(pub u64, pub u64);

/// What a disk is and can do. All lengths in bytes unless the type says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest addressable unit.
    pub logical_block_bytes: u32,
    /// Unit the disk writes without reading first.
    pub physical_block_bytes: u32,
    /// Completed writes may be lost with power until flushed.
    pub volatile_cache: bool,
    /// The disk refuses writes.
    pub read_only: bool,
    /// Largest discard, zero if there is none.
    pub max_discard: Sectors,
    /// Discard granularity, zero if there is no discard.
    pub discard_granularity_bytes: u32,
    /// Largest write-zeroes, zero if there is none.
    pub max_write_zeroes: Sectors,
}

/// Identifies an operation in flight to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpId(pub u32);
