//! Removing chunks from a map: what a merge does when a chunk is back on the origin. Pure.

use super::{Mapping, Run};
use crate::units::Chunk;

impl Mapping {
    /// Removes a chunk; returns `false` if it is not mapped. An empty leaf is removed; small leaves
    /// are not joined, because a merge removes all chunks.
    pub fn remove(&mut self, old: Chunk) -> bool {
        let (leaf, position) = self.find(old.0);
        let Some(position) = position.checked_sub(1) else { return false };
        let run = self.leaves[leaf][position];
        if old.0 >= run.end() {
            return false;
        }
        self.chunks -= 1;
        let (before, behind) = (run.part(run.old, old.0), run.part(old.0 + 1, run.end()));
        match (before, behind) {
            (Some(before), behind) => {
                self.leaves[leaf][position] = before;
                if let Some(behind) = behind {
                    self.add(leaf, position + 1, behind);
                }
            }
            (None, Some(behind)) => self.leaves[leaf][position] = behind,
            (None, None) => drop(self.leaves[leaf].remove(position)),
        }
        match self.leaves[leaf].first() {
            // The first leaf may begin before its first run: look-ups do not depend on that.
            Some(first) => self.firsts[leaf] = first.old,
            None => {
                self.leaves.remove(leaf);
                self.firsts.remove(leaf);
            }
        }
        true
    }
}

impl Run {
    /// The part of a run between two of its chunks; `None` if it is empty.
    fn part(&self, from: u64, to: u64) -> Option<Run> {
        (from < to).then(|| {
            let mut part = Run::one(from, self.cow() + (from - self.old));
            part.packed += (to - from - 1) << super::NEW_BITS;
            part
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::units::CowChunk;

    /// Removes every chunk of a map of many leaves, from the middle on.
    #[test]
    fn all_chunks_can_be_taken_out() {
        let mut mapping = Mapping::default();
        for chunk in 0..3000 {
            mapping.insert(Chunk(2 * chunk), CowChunk(chunk + 2));
        }
        for chunk in (1500..3000).chain(0..1500) {
            assert!(mapping.remove(Chunk(2 * chunk)) && !mapping.remove(Chunk(2 * chunk + 1)));
        }
        assert_eq!((mapping.count(), mapping.leaves.len(), mapping.firsts.len()), (0, 0, 0));
        assert!(!mapping.remove(Chunk(0)) && mapping.insert(Chunk(7), CowChunk(2)));
    }

    proptest! {
        #[test]
        fn it_stays_a_map(
            ops in prop::collection::vec((0_u64..1500, 1_u64..60, any::<bool>()), 1..200),
        ) {
            let (mut mapping, mut model, mut next) = (Mapping::default(), BTreeMap::new(), 2);
            for (start, len, remove) in ops {
                for old in start..start + len {
                    if remove {
                        let was_there = model.remove(&old).is_some();
                        prop_assert_eq!(mapping.remove(Chunk(old)), was_there);
                    } else {
                        mapping.insert(Chunk(old), CowChunk(next));
                        model.entry(old).or_insert(next);
                        next += 1;
                    }
                }
                prop_assert_eq!(mapping.count(), model.len());
            }
            for old in 0..1600 {
                prop_assert_eq!(mapping.get(Chunk(old)).map(|new| new.0), model.get(&old).copied());
            }
        }
    }
}
