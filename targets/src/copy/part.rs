//! What a copy is made of: how it is to be done, and the ranges that it moves.
//!
//! Parts may overlap on the source: that is how one read of an origin serves all its snapshots.

use crate::disk::{Disk, Io, Memory, Op, OpKind};
use crate::units::{Sector, Sectors};

/// How a copy treats errors and order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Go on after errors; what could not be read is written as zeroes, as dm-io leaves it.
    pub ignore_error: bool,
    /// Issue writes in ascending order. Errors are then never ignored.
    pub sequential_write: bool,
    /// Parts do not concern each other: an error fails the parts it touches and stops nothing else.
    /// This is how the snapshots of one origin share a read without sharing their fate.
    pub independent: bool,
}

/// A range of the source and one place it goes to.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where the range starts on the source.
    pub from: Sector,
    /// Its length.
    pub count: Sectors,
    /// The disk it is written to.
    pub to: Disk,
    /// Where on that disk.
    pub at: Sector,
    /// Set by the job: some piece of this part was not written.
    pub failed: bool,
}

impl Part {
    /// Where it ends on the source.
    pub(super) fn end(&self) -> u64 {
        self.from.0 + self.count.0
    }
}

/// Marks the parts as failed that a range of the source is in.
pub(super) fn fail_overlapping(parts: &mut [Part], from: u64, end: u64) {
    for part in parts.iter_mut().filter(|part| part.from.0 < end && part.end() > from) {
        part.failed = true;
    }
}

/// The last part of the run that starts at `first`: parts that continue each other on both disks
/// are one write.
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

/// Starts a write of data, or of zeroes in the way the disk does them best.
pub(super) fn start_write(part: &Part, at: Sector, count: u64, memory: Memory) -> Io {
    let zeroes = matches!(memory, Memory::None);
    let kind = if zeroes { OpKind::WriteZeroes } else { OpKind::Write { fua: false } };
    part.to.start(Op { kind, sector: at, count: Sectors(count), memory })
}
