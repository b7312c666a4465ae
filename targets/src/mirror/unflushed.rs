//! Regions written since the legs were last flushed, for mirrors without a log on disk. Pure.
//!
//! Up to [`MAX_UNFLUSHED`] regions are listed by number; if there are more, the set is "any
//! region".

use crate::hash::NumberTable;

/// Most regions listed by number; if there are more, all regions are copied after a failed flush.
/// Bounds memory to a few MiB if users write everywhere and never flush.
const MAX_UNFLUSHED: usize = 65_536;

/// A list of regions, or any region.
#[derive(Clone, Default)]
pub(super) struct Lost {
    pub(super) numbers: NumberTable<()>,
    pub(super) any: bool,
}

impl Lost {
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

    /// Moves all regions of another set into this one.
    fn absorb(&mut self, other: &mut Lost) {
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

/// The regions written to the legs and not known to be flushed.
#[derive(Clone, Default)]
pub(super) struct Unflushed {
    /// Written since the start of the flush under way or, without one, of the last successful
    /// flush.
    fresh: Lost,
    /// Written before the flush under way.
    flushing: Lost,
    /// A flush is under way whose success counts; concurrent flushes count only if they fail.
    under_way: bool,
}

impl Unflushed {
    /// The regions that earlier servers wrote and did not flush are unknown: any region.
    pub(super) fn unknown() -> Unflushed {
        Unflushed {
            fresh: Lost { any: true, ..Lost::default() },
            flushing: Lost::default(),
            under_way: false,
        }
    }

    pub(super) fn add(&mut self, region: u64) {
        self.fresh.add(region);
    }

    /// A flush begins that covers all writes so far; `false` if another flush that counts is under
    /// way.
    pub(super) fn begin_flush(&mut self) -> bool {
        if self.under_way {
            return false;
        }
        self.under_way = true;
        self.flushing.absorb(&mut self.fresh);
        true
    }

    /// The flush that counts has ended.
    pub(super) fn end_flush(&mut self, succeeded: bool) {
        self.under_way = false;
        if succeeded {
            self.flushing.clear();
        } else {
            self.fresh.absorb(&mut self.flushing);
        }
    }

    /// Takes all regions that a failed flush may have lost.
    pub(super) fn take(&mut self) -> Lost {
        let mut lost = std::mem::take(&mut self.fresh);
        lost.absorb(&mut self.flushing);
        lost
    }
}
