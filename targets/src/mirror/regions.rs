//! The regions of a mirror and what a request must do about them. Pure: no I/O, no waiting.
//!
//! Two bits a region say almost everything. *In sync*: the legs are the same there, but for writes
//! in flight. *Clean*: what the log has, or may have at any moment; it is cleared before a leg is
//! written and set when the legs are known to be the same durably. Together they are the kernel's
//! states:
//!
//! | in sync | clean | state |
//! | --- | --- | --- |
//! | yes | yes | clean |
//! | yes | no | dirty: writes are in flight, or were not long ago |
//! | no | no | out of sync; *recovering* while it is withheld for a copy |
//!
//! A region has an entry only while there is more to know: writes in flight, the write of the log
//! that made it dirty, whether it is withheld. A withheld region has no writes in flight once it is
//! *quiet*, and new ones wait until it is released: that is how recovery and comparing have a
//! region for themselves.
//!
//! Rules kept here: the decision halves of I7 (a write is told which write of the log it must wait
//! for; a region becomes clean only if no write touched it since the legs' flush was started, in
//! `regions_clean` beside this file), and: a region that is out of sync never becomes clean by a
//! completed write, only by recovery, which is in `regions_lock`.

use std::collections::VecDeque;

use super::bits::Bits;
use super::unflushed::Unflushed;
use crate::hash::NumberTable;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// What a write may do in a region now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Go to all legs.
    InSync,
    /// Go to the source legs only.
    OutOfSync,
    /// Wait until the region is released.
    Withheld,
}

/// Consecutive regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: RegionIndex,
    /// How many.
    pub count: u64,
}

impl Span {
    /// One region.
    pub fn one(region: RegionIndex) -> Span {
        Span { first: region, count: 1 }
    }

    pub(super) fn numbers(self) -> std::ops::Range<u64> {
        self.first.0..self.first.0 + self.count
    }
}

/// Who has something to do after a write has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// Somebody waits for a withheld region that is quiet now.
    pub quiet: bool,
    /// The first region waits to be cleaned, or too many do.
    pub cleaner: bool,
    /// An entry is gone, and a write may wait for room.
    pub room: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) region: u64,
    pub(super) pending: u32,
    pub(super) withheld: bool,
    /// A search for work met it while it was withheld by somebody else.
    pub(super) skipped: bool,
    /// It stands in the queue of idle regions.
    pub(super) queued: bool,
    /// The legs' flush that may clean it is running, and no write has come since.
    pub(super) cleaning: bool,
    /// A leg's flush failed while it was withheld: what was copied meanwhile says nothing.
    pub(super) spoiled: bool,
    /// The write of the log that makes it dirty.
    pub(super) mark: u64,
    pub(super) touched_ms: u64,
}

/// All that is known about the regions of a mirror.
#[derive(Clone)]
pub struct Regions {
    /// There is a log on disk, so that cleaning has to wait for flushes.
    pub(super) logged: bool,
    pub(super) in_sync: Bits,
    pub(super) in_sync_count: u64,
    pub(super) clean: Bits,
    pub(super) dirty: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) free: Vec<u32>,
    pub(super) index: NumberTable<u32>,
    /// Dirty regions without writes in flight, with the time they were queued, oldest first.
    pub(super) idle: VecDeque<(u32, u64)>,
    /// Recovery has looked at everything before this region.
    pub(super) cursor: u64,
    /// A flush failed: nothing that is written becomes clean.
    pub(super) flush_failed: bool,
    /// Without a log on a disk: what was written since the last flush.
    pub(super) unflushed: Unflushed,
}

impl Regions {
    /// Dirty regions without writes that may wait to be cleaned; more are cleaned at once. Bounds
    /// what a crash leaves to recover beside what is in flight, and the memory of entries.
    pub const MAX_IDLE: usize = 4096;
    /// Entries after which writes to further regions wait: bounds memory where flushing is slower
    /// than dirtying.
    pub const MAX_ENTRIES: usize = 65536;
    /// Regions that a request begins together: a discard of 4 GiB touches four million regions of 1
    /// KiB, which would take seconds without anyone else's turn, and memory that was never given
    /// back.
    pub const MAX_SPAN: u64 = 4096;

    /// The regions of a mirror whose log says that these are in sync and clean.
    pub fn new(in_sync: Bits, logged: bool) -> Regions {
        let clean = in_sync.clone();
        Regions {
            logged,
            in_sync_count: in_sync.count(),
            in_sync,
            clean,
            dirty: 0,
            entries: Vec::new(),
            free: Vec::new(),
            index: NumberTable::default(),
            idle: VecDeque::new(),
            cursor: 0,
            flush_failed: false,
            unflushed: Unflushed::unknown(),
        }
    }

    /// All regions.
    pub fn count(&self) -> u64 {
        self.in_sync.len()
    }

    /// Regions in sync.
    pub fn in_sync_count(&self) -> u64 {
        self.in_sync_count
    }

    /// Whether every region is in sync.
    pub fn all_in_sync(&self) -> bool {
        self.in_sync_count == self.count()
    }

    /// Regions that are in sync and not clean.
    pub fn dirty_count(&self) -> u64 {
        self.dirty
    }

    /// The bits that the log gets.
    pub fn clean_bits(&self) -> &Bits {
        &self.clean
    }

    /// Whether a region is in sync.
    pub fn is_in_sync(&self, region: RegionIndex) -> bool {
        self.in_sync.get(region.0)
    }

    /// What a write may do in a region.
    pub fn access(&self, region: RegionIndex) -> Access {
        let withheld =
            self.index.get(&region.0).is_some_and(|slot| self.entries[*slot as usize].withheld);
        if withheld && !mutant::is(Mutant::RecoveringNotHeld) {
            Access::Withheld
        } else if self.in_sync.get(region.0) {
            Access::InSync
        } else {
            Access::OutOfSync
        }
    }

    /// The regions from the first one to at most `last` in which a write may do the same.
    pub fn alike(&self, first: RegionIndex, last: RegionIndex) -> (Access, Span) {
        let access = self.access(first);
        let mut end = first.0 + 1;
        while end <= last.0 && self.access(RegionIndex(end)) == access {
            end += 1;
        }
        (access, Span { first, count: end - first.0 })
    }

    /// The regions from the first one to at most `last` that are in sync, or are not.
    pub fn alike_for_read(&self, first: RegionIndex, last: RegionIndex) -> (bool, Span) {
        let in_sync = self.in_sync.get(first.0);
        let mut end = first.0 + 1;
        while end <= last.0 && self.in_sync.get(end) == in_sync {
            end += 1;
        }
        (in_sync, Span { first, count: end - first.0 })
    }

    /// Whether there is room for the entries of a write; if not, cleaning is overdue.
    pub fn has_room(&self, span: Span) -> bool {
        self.index.len() < Self::MAX_ENTRIES
            || span.numbers().all(|region| self.index.contains_key(&region))
    }

    /// A write to these regions begins. Gives the write of the log that must be durable before a
    /// leg is written (I7): for regions that were clean the one that collects marks now, `mark`.
    /// `marked` hears of each region that was clean.
    pub fn begin_write(
        &mut self,
        span: Span,
        mark: u64,
        mut marked: impl FnMut(RegionIndex),
    ) -> u64 {
        let mut wait_for = 0;
        for region in span.numbers() {
            let slot = self.slot_of(region);
            let entry = &mut self.entries[slot as usize];
            entry.pending += 1;
            entry.cleaning = false;
            if self.clean.put(region, false) {
                entry.mark = mark;
                self.dirty += u64::from(self.in_sync.get(region));
                marked(RegionIndex(region));
            }
            wait_for = wait_for.max(entry.mark);
        }
        wait_for
    }

    /// A write to these regions has ended on all legs it was for.
    pub fn end_write(&mut self, span: Span, now_ms: u64) -> Wake {
        let mut wake = Wake::default();
        for region in span.numbers() {
            let Some(slot) = self.index.get(&region).copied() else { continue };
            if !self.logged && self.in_sync.get(region) {
                self.unflushed.add(region);
            }
            let entry = &mut self.entries[slot as usize];
            entry.pending = entry.pending.saturating_sub(1);
            entry.touched_ms = now_ms;
            if entry.pending > 0 {
                continue;
            }
            wake.quiet |= entry.withheld;
            if mutant::is(Mutant::NoSyncBecomesClean) && self.in_sync.put(region, true) {
                self.in_sync_count += 1;
                self.dirty += 1;
            }
            if self.flush_failed {
                self.lose(region);
            }
            self.retire(region, slot, now_ms, &mut wake);
        }
        wake
    }

    /// Some leg missed a write to these regions: they are out of sync.
    pub fn fail(&mut self, span: Span) {
        for region in span.numbers() {
            self.lose(region);
        }
    }

    /// The mirror is resumed, or somebody says that its legs are better: recovery starts at the
    /// first region, and flushes may succeed again.
    pub fn restart(&mut self) {
        self.cursor = 0;
        self.flush_failed = false;
    }

    /// Everything is in sync, so an earlier failure to flush a leg says nothing about what is
    /// written from now on.
    pub fn forget_failed_flush(&mut self) {
        self.flush_failed = false;
    }

    /// Keeps in sync only what is set here, too. Nothing may be in flight.
    pub fn distrust(&mut self, trusted: &Bits) {
        self.clear_entries();
        self.in_sync.intersect(trusted);
        self.clean = self.in_sync.clone();
        self.in_sync_count = self.in_sync.count();
    }

    /// Nothing is in sync any more, or everything is. Nothing may be in flight. An earlier failure
    /// to flush a leg says nothing about what is written from now on: either everything is copied
    /// again, or has been flushed.
    pub fn set_all(&mut self, in_sync: bool) {
        self.clear_entries();
        self.flush_failed = false;
        self.in_sync.fill_from(0, in_sync);
        self.clean.fill_from(0, in_sync);
        self.in_sync_count = self.in_sync.count();
    }

    /// One region is out of sync, withheld or not; says whether its bit in the log has to be
    /// cleared.
    pub fn desync(&mut self, region: RegionIndex) -> bool {
        self.lose(region.0);
        self.clean.put(region.0, false)
    }

    fn clear_entries(&mut self) {
        debug_assert!(self.index.values().all(|slot| self.entries[*slot as usize].pending == 0));
        self.index.clear();
        self.entries.clear();
        self.free.clear();
        self.idle.clear();
        (self.dirty, self.cursor) = (0, 0);
    }

    pub(super) fn slot_of(&mut self, region: u64) -> u32 {
        if let Some(slot) = self.index.get(&region) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            // bounded by the entries there can be
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        self.entries[slot as usize] = Entry { region, ..Entry::default() };
        self.index.insert(region, slot);
        slot
    }

    pub(super) fn drop_entry(&mut self, region: u64, slot: u32) {
        if self.entries[slot as usize].queued {
            return;
        }
        self.index.remove(&region);
        self.free.push(slot);
    }

    /// Out of sync from now on.
    pub(super) fn lose(&mut self, region: u64) {
        if self.in_sync.put(region, false) {
            self.in_sync_count -= 1;
            self.dirty -= u64::from(!self.clean.get(region));
            if let Some(slot) = self.index.get(&region) {
                // What recovery will copy comes after the flush that is running.
                self.entries[*slot as usize].cleaning = false;
            }
        }
    }

    /// What becomes of an entry without writes in flight.
    pub(super) fn retire(&mut self, region: u64, slot: u32, now_ms: u64, wake: &mut Wake) {
        let Entry { withheld, queued, .. } = self.entries[slot as usize];
        if self.in_sync.get(region) && !self.clean.get(region) {
            if self.logged {
                if !queued {
                    self.entries[slot as usize].queued = true;
                    self.idle.push_back((slot, now_ms));
                    wake.cleaner |= self.idle.len() == 1 || self.idle.len() > Self::MAX_IDLE;
                }
                return;
            }
            // A log in memory is as clean as the moment.
            self.clean.put(region, true);
            self.dirty -= 1;
        }
        if !withheld {
            wake.room |= self.index.len() >= Self::MAX_ENTRIES;
            self.drop_entry(region, slot);
        }
    }
}

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "regions_scenarios_tests.rs"]
mod scenarios_tests;
