//! Writes that begin and end in regions. Pure.
//!
//! Rule kept here: the other decision half of I7 (the beginning of a write returns the log batch
//! that it must wait for).

use super::regions::{Access, Entry, Regions, Span, Wake};
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

impl Regions {
    /// A write to these regions begins. Returns the log batch that must be durable before a leg is
    /// written (I7): for regions that were clean, the batch that collects marks now, `mark`.
    /// `marked` is called with each region that was clean.
    pub fn begin_write(
        &mut self,
        span: Span,
        mark: u64,
        mut marked: impl FnMut(RegionIndex),
    ) -> u64 {
        let mut wait_for = 0;
        for region in span.numbers() {
            let slot = self.slot_of(region);
            wait_for = wait_for.max(self.begin_in(region, slot, mark, &mut marked));
        }
        wait_for
    }

    /// The same for one region, as nearly all writes are, with one look for its entry. Returns its
    /// access, the batch, and the entry for [`Regions::end_one`]; `None`, and begins nothing, if
    /// the write has to wait.
    pub fn begin_one(
        &mut self,
        region: RegionIndex,
        mark: u64,
        marked: impl FnMut(RegionIndex),
    ) -> Option<(Access, u64, u32)> {
        if self.index.len() >= Self::MAX_ENTRIES {
            return None;
        }
        let slot = self.slot_of(region.0);
        if self.entries[slot as usize].withheld && !mutant::is(Mutant::RecoveringNotHeld) {
            return None;
        }
        let in_sync = self.in_sync.get(region.0);
        let access = if in_sync { Access::InSync } else { Access::OutOfSync };
        Some((access, self.begin_in(region.0, slot, mark, marked), slot))
    }

    /// The same for a write whose legs can be written in this step: the region is in sync, not
    /// withheld, and marked in a batch that has ended, or there is no log to mark it in (I7).
    /// Returns the entry; `None`, and begins nothing, otherwise.
    #[inline]
    pub fn begin_ready(
        &mut self,
        region: RegionIndex,
        has_ended: impl FnOnce(u64) -> bool,
    ) -> Option<u32> {
        let unmarked =
            self.logged && self.clean.get(region.0) && !mutant::is(Mutant::ReadyWithoutMark);
        if unmarked || !self.in_sync.get(region.0) || self.index.len() >= Self::MAX_ENTRIES {
            return None;
        }
        // One that is made here is neither withheld nor waits for a batch.
        let slot = self.slot_of(region.0);
        let Entry { withheld, mark, .. } = self.entries[slot as usize];
        let not_marked = !has_ended(mark) && !mutant::is(Mutant::LegBeforeMark);
        if withheld && !mutant::is(Mutant::RecoveringNotHeld) || not_marked {
            return None;
        }
        self.begin_in(region.0, slot, 0, |_| {});
        Some(slot)
    }

    fn begin_in(
        &mut self,
        region: u64,
        slot: u32,
        mark: u64,
        mut marked: impl FnMut(RegionIndex),
    ) -> u64 {
        let entry = &mut self.entries[slot as usize];
        entry.pending += 1;
        entry.cleaning = false;
        if self.clean.put(region, false) {
            entry.mark = mark;
            self.dirty += u64::from(self.in_sync.get(region));
            marked(RegionIndex(region));
        }
        entry.mark
    }

    /// A write to these regions has ended on all legs that it was sent to.
    pub fn end_write(&mut self, span: Span, now_ms: u64) -> Wake {
        let mut wake = Wake::default();
        for region in span.numbers() {
            if let Some(slot) = self.index.get(&region).copied() {
                self.end_in(region, slot, now_ms, &mut wake);
            }
        }
        wake
    }

    /// The same for a write of one region and its entry, which is there as long as the write is.
    pub fn end_one(&mut self, region: RegionIndex, slot: u32, now_ms: u64) -> Wake {
        let mut wake = Wake::default();
        self.end_in(region.0, slot, now_ms, &mut wake);
        wake
    }

    #[inline]
    fn end_in(&mut self, region: u64, slot: u32, now_ms: u64, wake: &mut Wake) {
        if !self.logged && self.in_sync.get(region) {
            self.unflushed.add(region);
        }
        let entry = &mut self.entries[slot as usize];
        debug_assert_eq!(entry.region, region);
        entry.pending = entry.pending.saturating_sub(1);
        entry.touched_ms = now_ms;
        if entry.pending > 0 {
            return;
        }
        wake.drained |= entry.withheld;
        if mutant::is(Mutant::NoSyncBecomesClean) && self.in_sync.put(region, true) {
            self.in_sync_count += 1;
            self.dirty += 1;
        }
        if self.flush_failed {
            self.lose(region);
        }
        self.retire(region, slot, now_ms, wake);
    }
}
