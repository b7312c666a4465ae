//! Exclusive access to regions, and which regions recovery takes next. Pure.
//!
//! Recovery *withholds* the regions it is going to copy; compare and repair withhold regions too. A
//! withheld region has one holder: writes in flight in it end, and new ones wait until it is
//! released.
//!
//! Rules kept here: recovery's search returns each region out of sync once, and returns to a region
//! that was withheld by another holder; and a region that could not be recovered, or a leg of which
//! could not be flushed meanwhile, stays out of sync.

use super::regions::{Regions, Span, Wake};
use crate::units::RegionIndex;

impl Regions {
    /// Withholds a region; `false` if it is withheld already. New writes wait from now on.
    pub fn withhold(&mut self, region: RegionIndex) -> bool {
        let slot = self.slot_of(region.0);
        let entry = &mut self.entries[slot as usize];
        !std::mem::replace(&mut entry.withheld, true)
    }

    /// Whether withheld regions have no writes in flight.
    pub fn is_drained(&self, span: Span) -> bool {
        let pending =
            |region| self.index.get(&region).map_or(0, |slot| self.entries[*slot as usize].pending);
        span.numbers().all(|region| pending(region) == 0)
    }

    /// Releases a withheld region as it is.
    pub fn release(&mut self, region: RegionIndex, now_ms: u64) {
        let Some(slot) = self.index.get(&region.0).copied() else { return };
        let entry = &mut self.entries[slot as usize];
        (entry.withheld, entry.spoiled) = (false, false);
        if std::mem::take(&mut entry.skipped) && !self.in_sync.get(region.0) {
            self.cursor = self.cursor.min(region.0);
        }
        if self.entries[slot as usize].pending == 0 {
            self.retire(region.0, slot, now_ms, &mut Wake::default());
        }
    }

    /// The next regions to recover, withheld from now on: the first that is out of sync, and
    /// contiguous ones without writes in flight, at most `most` in all. Each region is returned
    /// once; [`Regions::search_again`] starts over.
    pub fn next_recovery(&mut self, most: u64) -> Option<Span> {
        let first = loop {
            let found = self.in_sync.next_zero(self.cursor);
            let Some(found) = found else {
                self.cursor = self.count();
                return None;
            };
            self.cursor = found + 1;
            if self.withhold(RegionIndex(found)) {
                break found;
            }
            let slot = self.slot_of(found);
            self.entries[slot as usize].skipped = true;
        };
        let mut count = 1;
        while count < most && self.withhold_idle(first + count) {
            count += 1;
        }
        self.cursor = first + count;
        Some(Span { first: RegionIndex(first), count })
    }

    /// Whether [`Regions::next_recovery`] would find another region.
    pub fn has_recovery(&self) -> bool {
        self.in_sync.next_zero(self.cursor).is_some()
    }

    /// Withholds a region that is out of sync, not withheld and without writes in flight; `false`
    /// if it is another one.
    fn withhold_idle(&mut self, region: u64) -> bool {
        if region >= self.count() || self.in_sync.get(region) {
            return false;
        }
        let slot = self.slot_of(region);
        let entry = &mut self.entries[slot as usize];
        let idle = !entry.withheld && entry.pending == 0;
        entry.withheld |= idle;
        idle
    }

    /// Recovery of withheld regions has ended. If it succeeded, the regions are in sync, and dirty
    /// until they are next cleaned.
    pub fn end_recovery(&mut self, span: Span, recovered: bool, now_ms: u64) -> Wake {
        let mut wake = Wake::default();
        for region in span.numbers() {
            let Some(slot) = self.index.get(&region).copied() else { continue };
            let entry = &mut self.entries[slot as usize];
            entry.withheld = false;
            entry.touched_ms = now_ms;
            let drained = entry.pending == 0;
            let spoiled = std::mem::take(&mut entry.spoiled);
            let recovered = recovered && !spoiled;
            if std::mem::take(&mut entry.skipped) && !recovered {
                // Another search found it while this copy was failing.
                self.cursor = self.cursor.min(region);
            }
            if recovered && self.in_sync.put(region, true) {
                self.in_sync_count += 1;
                self.dirty += u64::from(!self.clean.get(region));
                if !self.logged {
                    self.unflushed.add(region);
                }
            }
            if drained {
                self.retire(region, slot, now_ms, &mut wake);
            }
        }
        wake
    }

    /// Makes recovery search again from a region on.
    pub fn search_again(&mut self, from: RegionIndex) {
        self.cursor = self.cursor.min(from.0);
    }
}
