//! The regions of a mirror that grows. Pure.
//!
//! Rule kept here: what the legs have in a new region was never made equal, so it is out of sync.

use super::regions::Regions;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

impl Regions {
    /// The mirror is longer now: it has so many regions. The new ones are out of sync, and so is
    /// `short`, the last one of before if it was shorter than the others. No write may be in
    /// flight. `false` if there is no memory for that; nothing has changed then.
    pub fn grow(&mut self, count: u64, short: Option<RegionIndex>) -> bool {
        let before = self.count();
        let (Some(in_sync), Some(clean)) = (self.in_sync.grown(count), self.clean.grown(count))
        else {
            return false;
        };
        (self.in_sync, self.clean) = (in_sync, clean);
        if mutant::is(Mutant::GrownInSync) {
            self.in_sync.fill_from(before, true);
            self.clean.fill_from(before, true);
            self.in_sync_count = self.in_sync.count();
        }
        if let Some(short) = short.filter(|_| !mutant::is(Mutant::GrownTailTrusted)) {
            self.desync(short);
        }
        self.search_again(RegionIndex(before.saturating_sub(1)));
        true
    }

    /// The mirror has only its first `count` regions again. No write or copy may be in flight; a
    /// region behind them that is withheld or queued counts as out of sync until it is released.
    pub fn cut(&mut self, count: u64) {
        for region in count..self.count() {
            self.lose(region);
        }
        self.in_sync.cut(count);
        self.clean.cut(count);
        self.cursor = self.cursor.min(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::bits::Bits;

    fn in_sync(count: u64, logged: bool) -> Regions {
        let mut bits = Bits::zeroes(count).unwrap();
        bits.fill_from(0, true);
        Regions::new(bits, logged)
    }

    #[test]
    fn new_regions_are_out_of_sync_and_recovered() {
        for logged in [false, true] {
            let mut regions = in_sync(3, logged);
            assert!(regions.next_recovery(8).is_none());
            assert!(regions.grow(70, None));
            assert_eq!((regions.count(), regions.in_sync_count()), (70, 3));
            assert!(!regions.clean_bits().get(3) && regions.clean_bits().get(2));
            let span = regions.next_recovery(100).unwrap();
            assert_eq!((span.first, span.count), (RegionIndex(3), 67));
        }
    }

    #[test]
    fn regions_that_are_cut_off_again_are_forgotten() {
        for logged in [false, true] {
            let mut regions = in_sync(3, logged);
            assert!(regions.grow(70, None));
            let span = regions.next_recovery(100).unwrap();
            regions.end_recovery(span, true, 0);
            assert!(regions.withhold(RegionIndex(69)) && regions.all_in_sync());
            let mut taken = Vec::new();
            regions.take_idle(9, 1, 10, &mut taken);
            regions.cut(3);
            assert_eq!((regions.count(), regions.in_sync_count()), (3, 3));
            assert_eq!(regions.dirty_count(), 0);
            assert!(regions.next_recovery(8).is_none());
            // What others have still to end of the old regions.
            regions.release(RegionIndex(69), 9);
            assert!(regions.grow(70, None));
            regions.finish_cleaning(&taken, |region| panic!("{region:?} is clean"));
            assert_eq!((regions.in_sync_count(), regions.dirty_count()), (3, 0));
            assert_eq!(regions.next_recovery(100).unwrap().count, 67);
        }
    }

    #[test]
    fn a_short_last_region_is_out_of_sync_with_its_new_part() {
        let mut regions = in_sync(3, true);
        let span = crate::mirror::regions::Span::one(RegionIndex(2));
        regions.begin_write(span, 1, |_| {});
        regions.end_write(span, 0);
        assert!(regions.grow(4, Some(RegionIndex(2))));
        assert_eq!((regions.in_sync_count(), regions.dirty_count()), (2, 0));
        assert!(!regions.clean_bits().get(2));
        assert_eq!(regions.next_recovery(8).unwrap().first, RegionIndex(2));
    }
}
