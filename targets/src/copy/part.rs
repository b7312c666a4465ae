//! The flags of a copy, the ranges that it moves, and which of them a slice needs. Pure but for
//! the start of a write.
//!
//! Parts may overlap on the source: so one read of an origin serves all its snapshots. A merge of
//! scattered chunks has hundreds that do not, in order: there a slice finds its own by bisection,
//! so that the cost of a part does not grow with their number.

use std::ops::Range;

use crate::disk::{Disk, Io, Memory, Op, OpKind};
use crate::units::{Sector, Sectors};

/// Longest slice: 512 KiB, the kernel's default sub-job.
pub const SLICE_SECTORS: u64 = 1024;

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

/// How the parts of a list lie on the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// None is empty, and none begins before the one ahead of it in the list ends.
    Ascending,
    /// They may overlap.
    Any,
}

impl Order {
    pub(super) fn of(parts: &[Part]) -> Order {
        let ascending = parts.windows(2).all(|pair| pair[0].end() <= pair[1].from.0);
        let filled = || parts.iter().all(|part| part.count.0 > 0);
        if ascending && filled() { Order::Ascending } else { Order::Any }
    }

    /// The next range of the source from `cursor` on that a part needs, at most a slice long.
    pub(super) fn next_range(self, parts: &[Part], cursor: u64) -> Option<(u64, u64)> {
        if self == Order::Any {
            return next_of_all(parts, cursor);
        }
        let first = parts.partition_point(|part| part.end() <= cursor);
        let start = parts.get(first)?.from.0.max(cursor);
        let (mut end, limit) = (start, start + SLICE_SECTORS);
        for part in parts[first..].iter().take_while(|part| part.from.0 < limit) {
            if part.from.0 > end {
                break;
            }
            end = part.end().min(limit);
        }
        Some((start, end - start))
    }

    /// Parts of the list among which are all that overlap a range of the source.
    pub(super) fn overlapping(self, parts: &[Part], from: u64, end: u64) -> Range<usize> {
        if self == Order::Any {
            return 0..parts.len();
        }
        let first = parts.partition_point(|part| part.end() <= from);
        first..first + parts[first..].partition_point(|part| part.from.0 < end)
    }
}

fn next_of_all(parts: &[Part], cursor: u64) -> Option<(u64, u64)> {
    let needs = |part: &&Part| part.end() > cursor && part.count.0 > 0;
    let start = parts.iter().filter(needs).map(|part| part.from.0.max(cursor)).min()?;
    let limit = start + SLICE_SECTORS;
    let mut end = start;
    loop {
        let reached = end;
        for part in parts.iter().filter(|part| part.from.0 <= reached.max(start)) {
            end = end.max(part.end().min(limit));
        }
        if end == reached || end == limit {
            return Some((start, end - start));
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ram::{Ram, RamDisk};

    /// Parts of that many sectors, each behind a gap.
    fn parts(lengths: &[(u64, u64)]) -> Vec<Part> {
        let to = RamDisk::new(&Ram::new(), Sectors(8), RamDisk::LIMITS).handle("disk");
        let mut end = 0;
        let part = |&(gap, count): &(u64, u64)| {
            let from = Sector(end + gap);
            end += gap + count;
            Part { from, count: Sectors(count), to: to.clone(), at: Sector(0), failed: false }
        };
        lengths.iter().map(part).collect()
    }

    #[test]
    fn only_parts_that_ascend_without_overlap_are_in_order() {
        let mut list = parts(&[(3, 8), (0, 8), (5, 8)]);
        assert_eq!(Order::of(&list), Order::Ascending);
        list[1].count = Sectors(0);
        assert_eq!(Order::of(&list), Order::Any, "an empty one");
        list[1].count = Sectors(14);
        assert_eq!(Order::of(&list), Order::Any, "it reaches into the next");
        list[1].count = Sectors(8);
        list.swap(0, 1);
        assert_eq!(Order::of(&list), Order::Any);
    }

    proptest! {
        #[test]
        fn parts_in_order_are_found_as_in_any_order(
            lengths in prop::collection::vec((0_u64..3, 1_u64..700), 0..60),
        ) {
            let (list, mut cursor) = (parts(&lengths), 0);
            prop_assert_eq!(Order::of(&list), Order::Ascending);
            while let Some((from, count)) = Order::Any.next_range(&list, cursor) {
                let next = Order::Ascending.next_range(&list, cursor);
                prop_assert_eq!(next, Some((from, count)));
                cursor = from + count;
                let found = Order::Ascending.overlapping(&list, from, cursor);
                for (index, part) in list.iter().enumerate() {
                    let overlaps = part.from.0 < cursor && part.end() > from;
                    prop_assert_eq!(found.contains(&index), overlaps);
                }
            }
            prop_assert_eq!(Order::Ascending.next_range(&list, cursor), None);
        }
    }
}
