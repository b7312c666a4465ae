//! Regions that have been written since the legs were last flushed, and the effect of a failed
//! flush on them. Pure.
//!
//! A leg that could not be flushed may have lost every write since its last successful flush, and a
//! later successful flush does not restore them. With a log on disk the written regions are the
//! dirty ones. A log in memory has no dirty regions without writes in flight, so the written ones
//! are tracked in [`super::unflushed`].
//!
//! Rules kept here: regions that a leg may have lost are out of sync from the moment its flush
//! failed; and a copy under way at that moment does not put its regions in sync, whichever leg it
//! reads or writes.

use super::regions::{Entry, Regions};
use super::unflushed::Unflushed;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

impl Regions {
    /// The data on the legs of a new mirror counts as flushed: the administrator's `sync` or
    /// `nosync` applies to it, as in the kernel.
    pub(super) fn begin_flushed(&mut self) {
        self.unflushed = Unflushed::default();
    }

    /// All legs are about to be flushed; returns whether [`Regions::end_flush`] is to be called
    /// with the result.
    pub fn begin_flush(&mut self) -> bool {
        !self.logged && self.unflushed.begin_flush()
    }

    /// A flush of all legs for which [`Regions::begin_flush`] returned `true` has ended.
    pub fn end_flush(&mut self, succeeded: bool) {
        self.unflushed.end_flush(succeeded);
    }

    /// A leg could not be flushed, so it may have lost the writes since the last flush: every
    /// region written since then is out of sync, and so is every region written from now on.
    pub fn fail_flush(&mut self) {
        self.flush_failed = true;
        for slot in 0..self.entries.len() {
            let Entry { region, pending, withheld, .. } = self.entries[slot];
            // The region of a free slot has no entry, or another slot.
            let number = u32::try_from(slot).unwrap_or(u32::MAX);
            if self.index.get(&region) != Some(&number) {
                continue;
            }
            self.entries[slot].spoiled = withheld && !mutant::is(Mutant::CopyThoughFlushFailed);
            if self.in_sync.get(region) && !self.clean.get(region) {
                self.lose(region);
                if pending == 0 && !withheld {
                    self.drop_entry(region, number);
                }
            }
        }
        if !self.logged && !mutant::is(Mutant::UnflushedTrusted) {
            self.lose_unflushed();
        }
    }

    /// A leg could not be flushed, and which regions were written since the last flush is not
    /// known: every region is out of sync, also in the log.
    pub(super) fn lose_all(&mut self) {
        (0..self.count()).for_each(|region| _ = self.desync(RegionIndex(region)));
    }

    fn lose_unflushed(&mut self) {
        let lost = self.unflushed.take();
        if lost.any {
            self.lose_all();
        }
        lost.regions().for_each(|region| _ = self.desync(RegionIndex(region)));
    }
}
