//! Where the chunks of a snapshot are: a compact map from origin chunks to COW chunks that grows
//! without pauses.
//!
//! Pure. Neighbouring chunks that were copied one after the other are one entry of 16 bytes, a
//! *run*; a lone chunk is a run of one. The runs stand in order in leaves of at most `LEAF_RUNS`,
//! found through a list of the leaves' first chunks. A look-up is two binary searches, and an
//! insertion moves at most one leaf. A hash table would save some search steps, but it is half
//! empty after each doubling, blocks every request while it doubles, and has no runs.

mod place;
mod remove;
mod search;

use std::cell::Cell;

use crate::units::{Chunk, CowChunk};

/// Most runs of a leaf: 4 KiB, of which an insertion moves half on average. Shorter leaves would
/// make their list long.
const LEAF_RUNS: usize = 256;
/// Runs by which a full leaf's memory grows.
const LEAF_STEP: usize = 16;
/// Bits of a run's COW chunk; the rest holds its length. No device has more: 2^56 chunks of 512
/// bytes are 32 EiB.
const NEW_BITS: u32 = 56;
/// Fewest chunks that a portion covers: few enough that sorting it delays no request. (Above 2^32
/// chunks, portions are larger.)
const PORTION_CHUNKS: u64 = 1 << 16;
/// Approximate maximum of portions, which bounds their memory while they are empty.
const MAX_PORTIONS: u64 = 1 << 16;
/// Longest run, in chunks.
const MAX_RUN: u64 = 1 << (64 - NEW_BITS);

/// Neighbouring chunks whose COW chunks are neighbours in the same order.
#[derive(Clone, Copy)]
struct Run {
    old: u64,
    /// The first COW chunk, and above it the number of chunks less one.
    packed: u64,
}

impl Run {
    fn one(old: u64, new: u64) -> Run {
        Run { old, packed: new }
    }

    fn cow(&self) -> u64 {
        self.packed & ((1 << NEW_BITS) - 1)
    }

    fn len(&self) -> u64 {
        (self.packed >> NEW_BITS) + 1
    }

    fn end(&self) -> u64 {
        self.old + self.len()
    }

    /// Whether another run continues this one on both disks and its length still fits.
    fn takes(&self, next: &Run) -> bool {
        self.end() == next.old
            && self.cow() + self.len() == next.cow()
            && self.len() + next.len() <= MAX_RUN
    }

    fn append(&mut self, next: &Run) {
        self.packed += next.len() << NEW_BITS;
    }
}

/// Chunks of an origin in any order, gathered in ordered portions: a map is built from them with a
/// fraction of the work of adding them one by one, and with a pause after each portion.
pub struct Gathered {
    portions: Vec<Vec<Run>>,
    /// How many origin chunks a portion covers: 2 to this power.
    shift: u32,
}

impl Gathered {
    /// For an origin of `origin_chunks` chunks.
    pub fn of(origin_chunks: u64) -> Gathered {
        let width = (origin_chunks / MAX_PORTIONS).max(PORTION_CHUNKS).next_power_of_two();
        let shift = width.trailing_zeros();
        let count = usize::try_from((origin_chunks >> shift) + 1).unwrap_or(0);
        Gathered { portions: std::iter::repeat_with(Vec::new).take(count).collect(), shift }
    }

    /// Adds a chunk; returns `false`, and adds nothing, if the origin has no such chunk or some
    /// chunk must have been added twice by now.
    pub fn push(&mut self, old: Chunk, new: CowChunk) -> bool {
        let Some(runs) =
            usize::try_from(old.0 >> self.shift).ok().and_then(|at| self.portions.get_mut(at))
        else {
            return false;
        };
        let run = Run::one(old.0, new.0);
        let full = runs.len() as u64 == 1 << self.shift;
        match runs.last_mut() {
            Some(last) if last.takes(&run) => last.append(&run),
            _ if full => return false,
            _ => runs.push(run),
        }
        true
    }

    /// The portions in order, without the empty ones.
    pub fn into_portions(self) -> impl Iterator<Item = Portion> {
        self.portions.into_iter().filter(|runs| !runs.is_empty()).map(Portion)
    }
}

/// Chunks of a part of an origin, for [`Mapping::append`].
pub struct Portion(Vec<Run>);

impl Portion {
    /// Runs that must be sorted.
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

/// Where a chunk goes that is not mapped: a leaf, and a position in it. The map may have changed
/// since, so it is a hint.
#[derive(Clone, Copy, Default)]
pub struct Place {
    leaf: usize,
    position: usize,
}

/// The chunks that are in the COW.
#[derive(Default)]
pub struct Mapping {
    /// The chunk that was not found last, and its place: it is nearly always the next to be added.
    missed: Cell<(u64, Place)>,
    /// The first chunk of each leaf.
    firsts: Vec<u64>,
    leaves: Vec<Vec<Run>>,
    chunks: usize,
}

impl Mapping {
    /// How many chunks are mapped.
    pub fn count(&self) -> usize {
        self.chunks
    }

    /// The first chunk behind all that are mapped.
    pub fn end(&self) -> u64 {
        self.leaves.iter().rev().find_map(|runs| runs.last()).map_or(0, Run::end)
    }

    /// The leaf that a chunk belongs to, and the position in it of the first run behind the chunk.
    fn find(&self, chunk: u64) -> (usize, usize) {
        let leaf = self.firsts.partition_point(|first| *first <= chunk).saturating_sub(1);
        (leaf, self.leaves.get(leaf).map_or(0, |runs| Run::position_in(runs, chunk)))
    }

    /// The COW chunk of an origin chunk.
    pub fn get(&self, chunk: Chunk) -> Option<CowChunk> {
        let (leaf, position) = self.find(chunk.0);
        let run = self.leaves.get(leaf).and_then(|runs| runs.get(position.checked_sub(1)?));
        match run {
            Some(run) if chunk.0 < run.end() => Some(CowChunk(run.cow() + (chunk.0 - run.old))),
            _ => {
                self.missed.set((chunk.0, Place { leaf, position }));
                None
            }
        }
    }

    /// Appends a portion behind all present chunks; returns `false` if it has a chunk twice.
    pub fn append(&mut self, portion: Portion) -> bool {
        let Portion(mut runs) = portion;
        radsort::sort_by_key(&mut runs, |run| run.old);
        let mut twice = false;
        runs.dedup_by(|run, before| {
            twice |= run.old < before.end();
            let joined = before.takes(run);
            if joined {
                before.append(run);
            }
            joined
        });
        self.chunks +=
            usize::try_from(runs.iter().map(Run::len).sum::<u64>()).unwrap_or(usize::MAX);
        let mut rest = &runs[..];
        if let Some(last) = self.leaves.last_mut() {
            if let (Some(before), Some(first)) = (last.last_mut(), rest.first()) {
                if before.takes(first) {
                    before.append(first);
                    rest = &rest[1..];
                }
            }
            let (now, later) = rest.split_at(rest.len().min(LEAF_RUNS - last.len()));
            last.reserve_exact(now.len());
            last.extend_from_slice(now);
            rest = later;
        }
        self.firsts.extend(rest.chunks(LEAF_RUNS).map(|leaf| leaf[0].old));
        self.leaves.extend(rest.chunks(LEAF_RUNS).map(<[Run]>::to_vec));
        !twice
    }

    /// Adds a chunk; returns `false`, and changes nothing, if it is mapped already.
    pub fn insert(&mut self, old: Chunk, new: CowChunk) -> bool {
        self.insert_near(Place::default(), old, new)
    }

    /// The same for a chunk that was not found before, and its place then.
    pub fn insert_near(&mut self, place: Place, old: Chunk, new: CowChunk) -> bool {
        let run = Run::one(old.0, new.0);
        let (leaf, position) =
            if self.fits(old.0, place) { (place.leaf, place.position) } else { self.find(old.0) };
        if self.leaves.is_empty() {
            self.firsts.push(run.old);
            self.leaves.push(Vec::new());
        }
        let runs = &mut self.leaves[leaf];
        let before = position.checked_sub(1);
        if before.is_some_and(|before| old.0 < runs[before].end()) {
            return false;
        }
        self.chunks += 1;
        if let Some(before) = before.filter(|before| runs[*before].takes(&run)) {
            runs[before].append(&run);
            if runs.get(position).is_some_and(|next| runs[before].takes(next)) {
                let next = runs.remove(position);
                runs[before].append(&next);
            }
        } else if runs.get(position).is_some_and(|next| run.takes(next)) {
            let mut run = run;
            run.append(&runs[position]);
            runs[position] = run;
            self.firsts[leaf] = self.firsts[leaf].min(run.old);
        } else {
            self.add(leaf, position, run);
        }
        true
    }

    fn add(&mut self, mut leaf: usize, mut position: usize, run: Run) {
        if self.leaves[leaf].len() == LEAF_RUNS {
            // A map that grows only at its end leaves full leaves behind.
            let at_end = leaf + 1 == self.leaves.len() && position == LEAF_RUNS;
            let kept = if at_end { LEAF_RUNS } else { LEAF_RUNS / 2 };
            let rest = self.leaves[leaf].split_off(kept);
            self.leaves[leaf].shrink_to_fit();
            self.firsts.insert(leaf + 1, rest.first().map_or(run.old, |first| first.old));
            self.leaves.insert(leaf + 1, rest);
            if position > kept || at_end {
                (leaf, position) = (leaf + 1, position - kept);
            }
        }
        let runs = &mut self.leaves[leaf];
        if runs.len() == runs.capacity() {
            runs.reserve_exact(LEAF_STEP);
        }
        runs.insert(position, run);
        self.firsts[leaf] = self.firsts[leaf].min(run.old);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Mapping {
        /// The COW chunks, in the order of the chunks they stand for.
        fn cow_chunks(&self) -> impl Iterator<Item = CowChunk> + '_ {
            let runs = self.leaves.iter().flatten();
            runs.flat_map(|run| (run.cow()..run.cow() + run.len()).map(CowChunk))
        }

        /// Bytes of memory in use.
        fn memory_bytes(&self) -> usize {
            let leaves: usize =
                self.leaves.iter().map(|leaf| leaf.capacity() * size_of::<Run>()).sum();
            leaves
                + self.leaves.capacity() * size_of::<Vec<Run>>()
                + self.firsts.capacity() * size_of::<u64>()
        }
    }

    #[test]
    fn a_run_takes_next_to_nothing() {
        let mut mapping = Mapping::default();
        for chunk in 0..1_000_000 {
            assert!(mapping.insert(Chunk(chunk), CowChunk(chunk + 2)));
        }
        assert_eq!(mapping.get(Chunk(777_777)), Some(CowChunk(777_779)));
        assert!(mapping.memory_bytes() < 100_000, "{}", mapping.memory_bytes());
    }

    #[test]
    fn scattered_chunks_take_at_most_24_bytes_each_at_any_number() {
        let mut mapping = Mapping::default();
        for count in 1..=400_000_u64 {
            let chunk = count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            assert!(mapping.insert(Chunk(chunk), CowChunk(count + 1)));
            if count % 10_000 == 0 {
                let each = mapping.memory_bytes() as f64 / count as f64;
                assert!(each <= 24.0, "{each} bytes each at {count}");
            }
        }
    }

    #[test]
    fn a_portion_takes_no_more_than_it_stands_for() {
        let mut gathered = Gathered::of(100);
        for new in 0..PORTION_CHUNKS {
            assert!(gathered.push(Chunk(7), CowChunk(2 * new)));
        }
        assert!(!gathered.push(Chunk(7), CowChunk(1)), "the same chunk twice");
        assert!(!gathered.push(Chunk(PORTION_CHUNKS), CowChunk(1)), "the origin ends before");
        let largest = Gathered::of(1 << 40);
        assert!(largest.portions.len() as u64 <= 2 * MAX_PORTIONS);
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            ops in prop::collection::vec((0_u64..3000, 0_u64..40, any::<bool>()), 1..400)
        ) {
            let (mut mapping, mut model, mut next) = (Mapping::default(), BTreeMap::new(), 2);
            for (start, len, down) in ops {
                let old = |step| if down { start + len - step } else { start + step };
                // All are looked for before the first of them is added.
                let place = |step| {
                    mapping.get(Chunk(old(step)));
                    mapping.place_of(Chunk(old(step)))
                };
                let places: Vec<Place> = (0..len).map(place).collect();
                for (step, place) in (0..len).zip(places) {
                    let fresh = !model.contains_key(&old(step));
                    if fresh {
                        model.insert(old(step), next);
                    }
                    let (chunk, new) = (Chunk(old(step)), CowChunk(next));
                    prop_assert_eq!(mapping.insert_near(place, chunk, new), fresh);
                    next += 1;
                }
            }
            prop_assert_eq!(mapping.count(), model.len());
            prop_assert_eq!(mapping.end(), model.last_key_value().map_or(0, |(old, _)| old + 1));
            for old in 0..3100 {
                prop_assert_eq!(mapping.get(Chunk(old)).map(|new| new.0), model.get(&old).copied());
            }
            prop_assert!(mapping.cow_chunks().map(|new| new.0).eq(model.values().copied()));
        }

        #[test]
        fn portions_make_the_same_map(
            ops in prop::collection::vec((64_000_u64..67_000, 0_u64..700, any::<bool>()), 0..30),
            twice in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (mut mapping, mut gathered) = (Mapping::default(), Gathered::of(200_000));
            let mut order = Vec::new();
            for (start, len, down) in ops {
                for step in 0..len {
                    let old = if down { start + len - step } else { start + step };
                    let new = order.len() as u64 + 2;
                    if mapping.insert(Chunk(old), CowChunk(new)) {
                        prop_assert!(gathered.push(Chunk(old), CowChunk(new)));
                        order.push(old);
                    }
                }
            }
            if let Some(twice) = twice.filter(|_| !order.is_empty()) {
                gathered.push(Chunk(*twice.get(&order)), CowChunk(order.len() as u64 + 2));
                let mut at_once = Mapping::default();
                prop_assert!(!gathered.into_portions().all(|portion| at_once.append(portion)));
                return Ok(());
            }
            let mut at_once = Mapping::default();
            prop_assert!(gathered.into_portions().all(|portion| at_once.append(portion)));
            // The runs lie in leaves of other sizes, so the last one may have grown by a step more.
            let step = LEAF_STEP * size_of::<Run>();
            prop_assert!(at_once.memory_bytes() <= mapping.memory_bytes() + step);
            prop_assert_eq!(at_once.count(), mapping.count());
            // It grows like one that was built step by step.
            for old in (63_000..68_000).rev() {
                let new = CowChunk(100_000 + old);
                prop_assert_eq!(at_once.insert(Chunk(old), new), mapping.insert(Chunk(old), new));
            }
            for old in 62_900..68_100 {
                prop_assert_eq!(at_once.get(Chunk(old)), mapping.get(Chunk(old)));
            }
        }
    }
}
