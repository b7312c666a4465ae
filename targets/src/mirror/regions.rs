//! The regions of a mirror and what a request must do in them. Pure: no I/O, no waiting.
//!
//! Two bits per region hold almost all of the state. *In sync*: the legs are the same there, except
//! for writes in flight. *Clean*: the region's bit in the log, now or at any later moment; it is
//! cleared before a leg is written, and set when the legs are known to be durably the same.
//! Together they encode the kernel's states:
//!
//! | in sync | clean | state |
//! | --- | --- | --- |
//! | yes | yes | clean |
//! | yes | no | dirty: writes are in flight, or were recently |
//! | no | no | out of sync; *recovering* while it is withheld for a copy |
//!
//! A region has an entry only while there is more state: writes in flight, the log batch that marks
//! it dirty, whether it is withheld. A withheld region is *drained* once no write is in it; new
//! writes wait until it is released: this is how recovery and compare get exclusive access
//! to a region.
//!
//! Rules kept here: the decision half of I7 (a region becomes clean only if no write touched it
//! since the flush of the legs was started, see `regions_clean`; for the other half see
//! `regions_write`), and: a region that is out of sync never becomes clean through
//! a completed write, only through recovery, see `regions_lock`.

use std::collections::VecDeque;

use super::bits::Bits;
use super::unflushed::Unflushed;
use crate::hash::NumberTable;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// What a write may do in a region now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Write to all legs.
    InSync,
    /// Write to the source legs only.
    OutOfSync,
    /// Wait until the region is released.
    Withheld,
}

/// Consecutive regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first region.
    pub first: RegionIndex,
    /// The number of regions.
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

/// The tasks to wake after a write has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// A withheld region is drained now: its holder.
    pub drained: bool,
    /// The first region is queued for cleaning, or too many are: the cleaner.
    pub cleaner: bool,
    /// An entry has been freed: writes that wait for room.
    pub room: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) region: u64,
    pub(super) pending: u32,
    pub(super) withheld: bool,
    /// A search by recovery found it while it was already withheld.
    pub(super) skipped: bool,
    /// It is in the queue of idle regions.
    pub(super) queued: bool,
    /// The flush that may clean it is running, and no write has begun since.
    pub(super) cleaning: bool,
    /// A leg's flush failed while it was withheld: the copy made meanwhile does not count.
    pub(super) spoiled: bool,
    /// The log batch that marks it dirty.
    pub(super) mark: u64,
    pub(super) touched_ms: u64,
}

/// The state of all regions of a mirror.
#[derive(Clone)]
pub struct Regions {
    /// The log is on disk, so cleaning has to wait for flushes.
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
    /// Recovery has searched all regions before this one.
    pub(super) cursor: u64,
    /// A flush failed: no written region becomes clean.
    pub(super) flush_failed: bool,
    /// Without a log on disk: the regions written since the last flush.
    pub(super) unflushed: Unflushed,
}

impl Regions {
    /// Most idle dirty regions that may wait to be cleaned; further ones are cleaned immediately.
    /// Bounds the regions to recover after a crash, beside those with writes in flight, and the
    /// memory for entries.
    pub const MAX_IDLE: usize = 4096;
    /// Most entries; when they are used up, writes to further regions wait. Bounds memory if
    /// flushes are slower than writes.
    pub const MAX_ENTRIES: usize = 65536;
    /// Most regions that a request begins together: a discard of 4 GiB touches four million regions
    /// of 1 KiB, which would block other requests for seconds and take memory that is never freed.
    pub const MAX_SPAN: u64 = 4096;

    /// The regions of a mirror whose log marks `in_sync` as in sync and clean.
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

    /// The number of regions.
    pub fn count(&self) -> u64 {
        self.in_sync.len()
    }

    /// The number of regions in sync.
    pub fn in_sync_count(&self) -> u64 {
        self.in_sync_count
    }

    /// Whether every region is in sync.
    pub fn all_in_sync(&self) -> bool {
        self.in_sync_count == self.count()
    }

    /// The number of regions that are in sync and not clean.
    pub fn dirty_count(&self) -> u64 {
        self.dirty
    }

    /// The bits to write to the log.
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

    /// The longest run of regions from `first` to at most `last` with the same access for a write.
    pub fn alike(&self, first: RegionIndex, last: RegionIndex) -> (Access, Span) {
        let access = self.access(first);
        let mut end = first.0 + 1;
        while end <= last.0 && self.access(RegionIndex(end)) == access {
            end += 1;
        }
        (access, Span { first, count: end - first.0 })
    }

    /// The longest run of regions from `first` to at most `last` that are all in sync, or all not.
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

    /// A leg missed a write to these regions: they are out of sync.
    pub fn fail(&mut self, span: Span) {
        for region in span.numbers() {
            self.lose(region);
        }
    }

    /// The mirror is resumed, or the user asks for another recovery: recovery starts at the first
    /// region, and flushes may succeed again.
    pub fn restart(&mut self) {
        self.cursor = 0;
        self.flush_failed = false;
    }

    /// All regions are in sync, so an earlier failed flush does not affect writes from now on.
    pub fn forget_failed_flush(&mut self) {
        self.flush_failed = false;
    }

    /// Keeps a region in sync only if it is also set in `trusted`. No write may be in flight.
    pub fn distrust(&mut self, trusted: &Bits) {
        self.clear_entries();
        self.in_sync.intersect(trusted);
        self.clean = self.in_sync.clone();
        self.in_sync_count = self.in_sync.count();
    }

    /// Sets all regions in sync, or all out of sync. No write may be in flight. An earlier failed
    /// flush does not affect writes from now on: either every region is copied again, or all legs
    /// have been flushed.
    pub fn set_all(&mut self, in_sync: bool) {
        self.clear_entries();
        self.flush_failed = false;
        self.in_sync.fill_from(0, in_sync);
        self.clean.fill_from(0, in_sync);
        self.in_sync_count = self.in_sync.count();
    }

    /// Puts one region out of sync, withheld or not; returns whether its bit in the log has to be
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
        let Regions { entries, free, index, .. } = self;
        *index.entry(region).or_insert_with(|| {
            let entry = Entry { region, ..Entry::default() };
            if let Some(slot) = free.pop() {
                entries[slot as usize] = entry;
                return slot;
            }
            entries.push(entry);
            // bounded by the number of entries
            u32::try_from(entries.len() - 1).unwrap_or(u32::MAX)
        })
    }

    pub(super) fn drop_entry(&mut self, region: u64, slot: u32) {
        if self.entries[slot as usize].queued {
            return;
        }
        self.index.remove(&region);
        self.free.push(slot);
    }

    /// Puts a region out of sync.
    pub(super) fn lose(&mut self, region: u64) {
        if self.in_sync.put(region, false) {
            self.in_sync_count -= 1;
            self.dirty -= u64::from(!self.clean.get(region));
            if let Some(slot) = self.index.get(&region) {
                // Recovery will copy it after the running flush, which therefore does not cover it.
                self.entries[*slot as usize].cleaning = false;
            }
        }
    }

    /// Queues or drops an entry without writes in flight.
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
            // With a log in memory, a region without writes in flight is clean.
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
