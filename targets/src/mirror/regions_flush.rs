//! Regions that have been written since the legs were last flushed, and what a failed flush makes of them. Pure.
//!
//! A leg that could not be flushed may have lost everything that it was given since its last good flush, and a later good
//! flush does not bring that back. With a log on a disk these are the dirty regions. A log in memory has none at rest, so
//! they are counted here: up to [`MAX_UNFLUSHED`] by number, and beyond that as "any".
//!
//! Rules kept here: what a leg may have lost is out of sync from the moment on in which its flush failed; and a copy that
//! was under way then makes no region in sync, whichever leg it reads or writes.

use super::regions::{Entry, Regions};
use crate::hash::NumberTable;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Regions known by number; more than that are copied as a whole after a failed flush. Bounds memory to a few MiB where
/// users write everywhere and never flush.
const MAX_UNFLUSHED: usize = 65_536;

/// Some regions, or any.
#[derive(Clone, Default)]
struct Set {
    numbers: NumberTable<()>,
    any: bool,
}

impl Set {
    fn add(&mut self, region: u64) {
        if self.any || self.numbers.contains_key(&region) {
            return;
        }
        if self.numbers.len() == MAX_UNFLUSHED {
            self.add_any();
        } else {
            self.numbers.insert(region, ());
        }
    }

    fn add_any(&mut self) {
        self.any = true;
        self.numbers.clear();
    }

    /// Takes all of another set in.
    fn absorb(&mut self, other: &mut Set) {
        if other.any {
            self.add_any();
        }
        other.numbers.drain().for_each(|(region, ())| self.add(region));
        other.any = false;
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.any = false;
    }
}

/// What has been written to the legs and not been flushed, as far as is known.
#[derive(Clone, Default)]
pub(super) struct Unflushed {
    /// Since the flush that is under way was started, or since ever.
    fresh: Set,
    /// Before it.
    flushing: Set,
    /// A flush is under way whose success is taken note of; others beside it only count if they fail.
    under_way: bool,
}

impl Unflushed {
    /// What earlier servers have written and not flushed is unknown: it may be anything.
    pub(super) fn unknown() -> Unflushed {
        Unflushed { fresh: Set { any: true, ..Set::default() }, flushing: Set::default(), under_way: false }
    }

    pub(super) fn add(&mut self, region: u64) {
        self.fresh.add(region);
    }
}

impl Regions {
    /// What stands on the legs of a new mirror is what they keep: the administrator's word is about that, as in the kernel.
    pub(super) fn begin_flushed(&mut self) {
        self.unflushed = Unflushed::default();
    }

    /// All legs are about to be flushed; says whether [`Regions::end_flush`] is to hear how it went.
    pub fn begin_flush(&mut self) -> bool {
        if self.logged || self.unflushed.under_way {
            return false;
        }
        let Unflushed { fresh, flushing, under_way } = &mut self.unflushed;
        *under_way = true;
        flushing.absorb(fresh);
        true
    }

    /// A flush of all legs has ended that [`Regions::begin_flush`] has taken note of.
    pub fn end_flush(&mut self, succeeded: bool) {
        let Unflushed { fresh, flushing, under_way } = &mut self.unflushed;
        *under_way = false;
        if succeeded {
            flushing.clear();
        } else {
            fresh.absorb(flushing);
        }
    }

    /// A leg could not be flushed, so what was written since the last flush may be gone from it: every region in which
    /// something was is out of sync, and whatever is written from now on will be.
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
        let mut lost = std::mem::take(&mut self.unflushed.fresh);
        lost.absorb(&mut self.unflushed.flushing);
        if lost.any {
            (0..self.count()).for_each(|region| _ = self.desync(RegionIndex(region)));
        }
        lost.numbers.keys().for_each(|region| _ = self.desync(RegionIndex(*region)));
    }
}
