//! Regions that have been written since the legs were last flushed, and what a failed flush makes
//! of them. Pure.
//!
//! A leg that could not be flushed may have lost everything that it was given since its last good
//! flush, and a later good flush does not bring that back. With a log on a disk these are the dirty
//! regions. A log in memory has none at rest, so they are kept in [`super::unflushed`].
//!
//! Rules kept here: what a leg may have lost is out of sync from the moment on in which its flush
//! failed; and a copy that was under way then makes no region in sync, whichever leg it reads or
//! writes.

use super::regions::{Entry, Regions};
use super::unflushed::Unflushed;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

impl Regions {
    /// What stands on the legs of a new mirror is what they keep: the administrator's word is about
    /// that, as in the kernel.
    pub(super) fn begin_flushed(&mut self) {
        self.unflushed = Unflushed::default();
    }

    /// All legs are about to be flushed; says whether [`Regions::end_flush`] is to hear how it
    /// went.
    pub fn begin_flush(&mut self) -> bool {
        !self.logged && self.unflushed.begin_flush()
    }

    /// A flush of all legs has ended that [`Regions::begin_flush`] has taken note of.
    pub fn end_flush(&mut self, succeeded: bool) {
        self.unflushed.end_flush(succeeded);
    }

    /// A leg could not be flushed, so what was written since the last flush may be gone from it:
    /// every region in which something was is out of sync, and whatever is written from now on will
    /// be.
    pub fn fail_flush(&mut self) {
        self.flush_failed = true;
        for slot in 0..self.entries.len() {
            let Entry { region, pending, withheld, .. } = self.entries[slot];
            // A free slot's region has no entry, or another one.
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
        if !self.logged && !mutant::is(Mutant::UnflushedBelieved) {
            self.lose_unflushed();
        }
    }

    fn lose_unflushed(&mut self) {
        let lost = self.unflushed.take();
        if lost.any {
            (0..self.count()).for_each(|region| _ = self.desync(RegionIndex(region)));
        }
        lost.numbers.keys().for_each(|region| _ = self.desync(RegionIndex(*region)));
    }
}
