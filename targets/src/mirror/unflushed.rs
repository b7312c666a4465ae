//! Which regions have been written since the legs were last flushed, where no log says so. Pure.
//!
//! Up to [`MAX_UNFLUSHED`] are known by number; more than that as "any".

use crate::hash::NumberTable;

/// Regions known by number; more than that are copied as a whole after a failed flush. Bounds
/// memory to a few MiB where users write everywhere and never flush.
const MAX_UNFLUSHED: usize = 65_536;

/// Some regions, or any.
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

    /// Takes all of another set in.
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

/// What has been written to the legs and not been flushed, as far as is known.
#[derive(Clone, Default)]
pub(super) struct Unflushed {
    /// Since the flush that is under way was started, or since ever.
    fresh: Lost,
    /// Before it.
    flushing: Lost,
    /// A flush is under way whose success is taken note of; others beside it only count if they
    /// fail.
    under_way: bool,
}

impl Unflushed {
    /// What earlier servers have written and not flushed is unknown: it may be anything.
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

    /// A flush begins that covers all that has been written; `false` if another one is under way
    /// and counts.
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

    /// All that may be lost with a flush that failed; it is not counted any more.
    pub(super) fn take(&mut self) -> Lost {
        let mut lost = std::mem::take(&mut self.fresh);
        lost.absorb(&mut self.flushing);
        lost
    }
}
