//! Segments side by side: a request finds its own, and is split at the borders between them.

use crate::disk::{Disk, DiskError, Io, Limits, Memory, Op, OpKind};
use crate::error::target::Error;
use crate::linear::target::Linear;
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, payload};
use crate::units::{Sector, Sectors};
use crate::zero::target::Zero;

/// Flushes of one request in flight together: a request allocates nothing, so they have their place
/// in it.
const FLUSHES: usize = 8;

/// The limits where there is no disk: any block, any discard, and nothing to flush.
pub const NO_DISK: Limits = Limits {
    logical_block_bytes: 512,
    physical_block_bytes: 512,
    volatile_cache: false,
    read_only: false,
    max_discard: Sectors(u32::MAX as u64),
    discard_granularity_bytes: 512,
    max_write_zeroes: Sectors(0),
};

/// The target of a segment.
pub enum Segment {
    /// A range of a disk.
    Linear(Linear),
    /// A range that fails.
    Error(Error),
    /// A range of zeroes.
    Zero(Zero),
}

impl Segment {
    /// Its length.
    pub fn size(&self) -> Sectors {
        match self {
            Segment::Linear(linear) => linear.size(),
            Segment::Error(error) => error.size(),
            Segment::Zero(zero) => zero.size(),
        }
    }

    /// The disk of a range.
    pub fn disk(&self) -> Option<&Disk> {
        match self {
            Segment::Linear(linear) => Some(linear.disk()),
            Segment::Error(_) | Segment::Zero(_) => None,
        }
    }

    async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match self {
            Segment::Linear(linear) => linear.handle(request).await,
            Segment::Error(error) => error.handle(request),
            Segment::Zero(zero) => zero.handle(request).await,
        }
    }
}

/// A device of one segment or more.
pub struct Segments {
    /// The segments, with the sector behind each.
    segments: Vec<(Sector, Segment)>,
    /// The disks, each once.
    disks: Vec<Disk>,
}

impl Segments {
    /// Segments in their order; at least one. Segments on the same disk have the same handle of it.
    pub fn new(segments: Vec<Segment>) -> Segments {
        let mut disks: Vec<Disk> = Vec::new();
        let mut end = Sector(0);
        let mut placed = Vec::with_capacity(segments.len());
        for segment in segments {
            end = end.plus(segment.size());
            if let Some(disk) = segment.disk() {
                if !disks.iter().any(|other| other.same(disk)) {
                    disks.push(disk.clone());
                }
            }
            placed.push((end, segment));
        }
        Segments { segments: placed, disks }
    }

    /// The segments in their order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    /// The device's length.
    pub fn size(&self) -> Sectors {
        Sectors(self.segments.last().map_or(0, |(end, _)| end.0))
    }

    /// The limits as a disk of another target: the strictest of its disks', without write-zeroes,
    /// which are never sent to targets.
    pub fn limits(&self) -> Limits {
        limits_of(&self.disks)
    }

    /// Makes what was written to its disks durable.
    ///
    /// # Errors
    /// The first disk's that failed; all have been flushed.
    pub async fn flush(&self) -> Result<(), DiskError> {
        flush(&self.disks).await
    }

    /// Carries out a request. When this returns, no operation of the request is in flight.
    ///
    /// # Errors
    /// That of the first piece that failed; `EIO` for a request beyond the device.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        if request.kind == RequestKind::Flush {
            return Ok(self.flush().await?);
        }
        let end = request.sector.0.checked_add(request.count.0);
        let Some(end) = end.filter(|end| *end <= self.size().0) else {
            return Err(TargetError::Error);
        };
        let first = self.segments.partition_point(|(end, _)| *end <= request.sector);
        let (mut at, mut result) = (request.sector, Ok(()));
        for (segment_end, segment) in &self.segments[first..] {
            if at.0 >= end {
                break;
            }
            let to = if mutant::is(Mutant::SegmentBorderIgnored) { end } else { segment_end.0 };
            let piece = self.piece(request, at, Sector(to.min(end)), *segment_end, segment);
            at = at.plus(piece.count);
            let carried_out = segment.handle(&piece).await;
            if !mutant::is(Mutant::SegmentErrorDropped) || at.0 >= end {
                result = result.and(carried_out);
            }
        }
        result
    }

    /// The part of a request from `from` to `to`, as its segment sees it.
    fn piece(
        &self,
        request: &Request,
        from: Sector,
        to: Sector,
        segment_end: Sector,
        segment: &Segment,
    ) -> Request {
        let start = segment_end.0 - segment.size().0;
        let offset = Sectors(from.0 - request.sector.0);
        let memory = if mutant::is(Mutant::SegmentDataFromStart) {
            payload(request, Sectors(0))
        } else {
            payload(request, offset)
        };
        let (sector, count) = (Sector(from.0 - start), Sectors(to.0 - from.0));
        Request { kind: request.kind, sector, count, memory }
    }
}

async fn flush(disks: &[Disk]) -> Result<(), DiskError> {
    let mut result = Ok(());
    let last = if mutant::is(Mutant::SegmentFlushesOne) { 1 } else { disks.len() };
    for disks in disks[..last.min(disks.len())].chunks(FLUSHES) {
        let mut flushes: [Option<Io>; FLUSHES] = Default::default();
        for (disk, flush) in disks.iter().zip(&mut flushes) {
            // As in [`Disk::flush`].
            *flush = disk.limits().volatile_cache.then(|| disk.start(FLUSH));
        }
        for flush in flushes.into_iter().flatten() {
            let flushed = flush.await;
            result = result.and(flushed);
        }
    }
    result
}

const FLUSH: Op =
    Op { kind: OpKind::Flush, sector: Sector(0), count: Sectors(0), memory: Memory::None };

/// What a disk made of ranges of these disks can do: discards only if all of them can.
fn limits_of(disks: &[Disk]) -> Limits {
    if disks.is_empty() {
        return NO_DISK;
    }
    let limits = || disks.iter().map(Disk::limits);
    let largest = |of: fn(&Limits) -> u32, least| limits().map(of).max().unwrap_or(0).max(least);
    Limits {
        logical_block_bytes: largest(|limits| limits.logical_block_bytes, 512),
        physical_block_bytes: largest(|limits| limits.physical_block_bytes, 512),
        volatile_cache: limits().any(|limits| limits.volatile_cache),
        read_only: limits().any(|limits| limits.read_only),
        max_discard: limits().map(|limits| limits.max_discard).min().unwrap_or(Sectors(0)),
        discard_granularity_bytes: largest(|limits| limits.discard_granularity_bytes, 0),
        max_write_zeroes: Sectors(0),
    }
}
