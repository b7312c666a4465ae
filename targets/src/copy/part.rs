//! The flags of a copy, and the ranges that it moves.
//!
//! Parts may overlap on the source: so one read of an origin serves all its snapshots.

use crate::disk::{Disk, Io, Memory, Op, OpKind};
use crate::units::{Sector, Sectors};

/// How a copy treats errors and order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Continue after errors; unreadable data is written as zeroes, as in dm-io.
    pub ignore_error: bool,
    /// Issue writes in ascending order. Errors are then never ignored.
    pub sequential_write: bool,
    /// Parts are independent: an error fails the overlapping parts and does not stop the others. So
    /// the snapshots of one origin can share a read, but not its errors.
    pub independent: bool,
}

/// A range of the source and its destination.
#[derive(Clone, Debug)]
pub struct Part {
    /// The first sector on the source.
    pub from: Sector,
    /// The length.
    pub count: Sectors,
    /// The destination disk.
    pub to: Disk,
    /// The first sector on the destination.
    pub at: Sector,
    /// Set by the job: part of this range was not written.
    pub failed: bool,
}

impl Part {
    /// The part's end on the source.
    pub(super) fn end(&self) -> u64 {
        self.from.0 + self.count.0
    }
}

/// Marks as failed the parts that overlap a range of the source.
pub(super) fn fail_overlapping(parts: &mut [Part], from: u64, end: u64) {
    for part in parts.iter_mut().filter(|part| part.from.0 < end && part.end() > from) {
        part.failed = true;
    }
}

/// The last part of the run that starts at `first`: parts that are contiguous on both disks are one
/// write.
pub(super) fn run_end(parts: &[Part], first: usize) -> usize {
    let mut last = first;
    while let Some(next) = parts.get(last + 1) {
        let part = &parts[last];
        let follows = next.from.0 == part.end() && next.at.0 == part.at.0 + part.count.0;
        if !follows || !next.to.same(&part.to) {
            break;
        }
        last += 1;
    }
    last
}

/// Starts a write of data, or a write-zeroes for `Memory::None`.
pub(super) fn start_write(part: &Part, at: Sector, count: u64, memory: Memory) -> Io {
    let zeroes = matches!(memory, Memory::None);
    let kind = if zeroes { OpKind::WriteZeroes } else { OpKind::Write { fua: false } };
    part.to.start(Op { kind, sector: at, count: Sectors(count), memory })
}
