//! The parts of an origin that every snapshot has: writing them again asks no snapshot. Pure.
//!
//! A *grain* is a chunk of the smallest chunk size among the snapshots, so it lies in one chunk of
//! each. It is preserved when every snapshot has let a write of it pass
//! ([`super::exceptions::OriginStep::Pass`]): each has a durable record for it (I5) or is invalid
//! for good. That stays true, because records stay, and a read of a snapshot that begins afterwards
//! goes to the COW (I4). Each event that ends it forgets the range in parentheses:
//!
//! * a snapshot that joins has nothing yet (everything);
//! * one that is becoming invalid holds all writes back until it is marked (everything; I9);
//! * a discard on its way to the origin holds writes of its range back (its range).
//!
//! A snapshot that leaves ends nothing. Forgetting too much costs time and never data, which allows
//! a bounded memory: a table of [`MAX_WORDS`] words, where a word of grains replaces another one
//! that has the same place.

use std::cell::RefCell;
use std::rc::Rc;

use crate::units::{ChunkSize, Sector, Sectors};

/// Most words of a table: 16 MiB for an origin, enough for all of 256 GiB in chunks of 4 KiB, of 1
/// TiB in those of 16 KiB, or a million scattered chunks. Smaller origins get smaller tables.
const MAX_WORDS: u64 = 1 << 20;
/// Grains of a word.
const GRAINS: u64 = u64::BITS as u64;

/// Neighbouring grains.
#[derive(Clone, Copy, Default)]
struct Word {
    number: u64,
    /// The preserved ones.
    bits: u64,
}

/// State shared by an origin and its snapshots.
pub(super) type Shared = Rc<RefCell<Preserved>>;

/// The preserved grains of an origin.
#[derive(Default)]
pub(super) struct Preserved {
    grain: Option<ChunkSize>,
    /// All snapshots are asked about everything before this: the shortest ends no earlier. Anything
    /// behind it is never preserved.
    end: Sector,
    /// Empty, or a power of two.
    words: Vec<Word>,
}

impl Preserved {
    /// Forgets everything, and starts again for snapshots with these chunk sizes and lengths.
    pub(super) fn restart(&mut self, snapshots: impl IntoIterator<Item = (ChunkSize, Sectors)>) {
        let smallest = |(grain, shortest): (ChunkSize, Sectors), (size, len)| {
            (grain.min(size), shortest.min(len))
        };
        let sizes = snapshots.into_iter().reduce(smallest);
        *self = sizes
            .map_or_else(Preserved::default, |(grain, shortest)| Preserved::of(grain, shortest));
    }

    fn of(grain: ChunkSize, shortest: Sectors) -> Preserved {
        // A snapshot is asked about only a part of the grain that it ends in.
        let grains = grain.chunk_of(Sector(shortest.0));
        let words = grains.0.div_ceil(GRAINS).min(MAX_WORDS).next_power_of_two();
        let words = vec![Word::default(); usize::try_from(words).unwrap_or(1)];
        Preserved { grain: Some(grain), end: grain.start_of(grains), words }
    }

    /// The words that a range touches, each with the bits of the grains that it touches. Most
    /// ranges touch one, the first, which is returned directly.
    fn words_of(
        grain: ChunkSize,
        sector: Sector,
        count: Sectors,
    ) -> (Word, impl Iterator<Item = Word>) {
        let last = grain.chunk_of(Sector(sector.0 + count.0.saturating_sub(1))).0;
        let first = grain.chunk_of(sector).0;
        let to_last = u64::MAX >> (GRAINS - 1 - last % GRAINS);
        let word = move |number| if number == last / GRAINS { to_last } else { u64::MAX };
        let number = first / GRAINS;
        let later =
            (number + 1..last / GRAINS + 1).map(move |number| Word { number, bits: word(number) });
        (Word { number, bits: (u64::MAX << (first % GRAINS)) & word(number) }, later)
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number).unwrap_or(usize::MAX) & (self.words.len() - 1)
    }

    /// Whether all that a range touches is preserved.
    pub(super) fn has(&self, sector: Sector, count: Sectors) -> bool {
        let Some(grain) = self.grain else { return false };
        if grain.offset_of(sector).0 + count.0 <= grain.sectors().0 {
            // One grain, as nearly always.
            let grain = grain.chunk_of(sector).0;
            return self.knows(Word { number: grain / GRAINS, bits: 1 << (grain % GRAINS) });
        }
        let (first, mut later) = Preserved::words_of(grain, sector, count);
        self.knows(first) && later.all(|touched| self.knows(touched))
    }

    fn knows(&self, touched: Word) -> bool {
        let known = self.words[self.place(touched.number)];
        known.number == touched.number && known.bits & touched.bits == touched.bits
    }

    /// Every snapshot was asked about a range in this step and let a write of it pass.
    pub(super) fn insert(&mut self, sector: Sector, count: Sectors) {
        let Some(grain) = self.grain.filter(|_| sector.plus(count) <= self.end) else { return };
        let (first, later) = Preserved::words_of(grain, sector, count);
        self.learn(first);
        later.for_each(|touched| self.learn(touched));
    }

    fn learn(&mut self, touched: Word) {
        let place = self.place(touched.number);
        let known = &mut self.words[place];
        let bits = if known.number == touched.number { known.bits } else { 0 };
        *known = Word { number: touched.number, bits: bits | touched.bits };
    }

    /// Forgets a range.
    pub(super) fn forget(&mut self, sector: Sector, count: Sectors) {
        let Some(grain) = self.grain else { return };
        // No more words than the table has: those cover all places.
        let (first, later) = Preserved::words_of(grain, sector, count);
        for touched in std::iter::once(first).chain(later).take(self.words.len()) {
            let place = self.place(touched.number);
            self.words[place] = Word::default();
        }
    }

    /// Forgets everything.
    pub(super) fn forget_all(&mut self) {
        self.words.fill(Word::default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preserved(grain: u64, shortest: u64) -> Preserved {
        Preserved::of(ChunkSize::from_sectors(grain).unwrap(), Sectors(shortest))
    }

    #[test]
    fn a_grain_that_a_snapshot_ends_in_is_never_preserved() {
        let mut preserved = preserved(8, 8 * 100 + 4);
        preserved.insert(Sector(8 * 99), Sectors(8));
        assert!(preserved.has(Sector(8 * 99 + 7), Sectors(1)));
        preserved.insert(Sector(8 * 100 + 4), Sectors(4));
        preserved.insert(Sector(8 * 99), Sectors(12));
        assert!(!preserved.has(Sector(8 * 100), Sectors(1)));
        preserved.insert(Sector(8 * 200), Sectors(8));
        assert!(!preserved.has(Sector(8 * 200), Sectors(8)), "behind the end");
    }

    #[test]
    fn its_memory_is_bounded_and_what_has_no_place_is_not_known() {
        let mut preserved = preserved(1, 1 << 50);
        assert_eq!(preserved.words.len() as u64, MAX_WORDS);
        let (near, far) = (Sector(70), Sector(70 + MAX_WORDS * GRAINS));
        preserved.insert(near, Sectors(1));
        assert!(!preserved.has(far, Sectors(1)));
        preserved.insert(far, Sectors(1));
        assert!(preserved.has(far, Sectors(1)) && !preserved.has(near, Sectors(1)));
        preserved.insert(near, Sectors(2));
        preserved.forget(Sector(0), Sectors(1 << 49));
        assert!(!preserved.has(near, Sectors(1)));
    }

    #[test]
    fn without_snapshots_nothing_is_kept() {
        let mut preserved = preserved(8, 800);
        preserved.restart([]);
        preserved.insert(Sector(0), Sectors(8));
        preserved.forget(Sector(0), Sectors(8));
        assert!(!preserved.has(Sector(0), Sectors(8)) && preserved.words.is_empty());
    }

    proptest! {
        #[test]
        fn it_knows_what_was_preserved_and_not_forgotten(
            ops in prop::collection::vec((0_usize..2400, 1_usize..400, 0_u32..20), 1..60),
        ) {
            let mut preserved = preserved(4, 2400);
            let mut model = [false; 600];
            for (first, count, kind) in ops {
                let count = count.min(2400 - first);
                let grains = first / 4..(first + count).div_ceil(4);
                let (sector, count) = (Sector(first as u64), Sectors(count as u64));
                let all = model[grains.clone()].iter().all(|known| *known);
                prop_assert_eq!(preserved.has(sector, count), all);
                match kind {
                    0 => {
                        preserved.forget_all();
                        model = [false; 600];
                    }
                    1..8 => {
                        // Its neighbours in a word may be forgotten as well.
                        preserved.forget(sector, count);
                        let end = (grains.end.div_ceil(64) * 64).min(600);
                        model[grains.start / 64 * 64..end].fill(false);
                    }
                    _ => {
                        preserved.insert(sector, count);
                        model[grains].fill(true);
                    }
                }
            }
        }
    }
}
