//! Places in a map: a chunk that is looked for and not found is nearly always added soon, and is
//! not searched for again then. Pure.

use super::{Mapping, Place};
use crate::units::Chunk;

impl Mapping {
    /// The place of the chunk that was not found last.
    pub fn place_of(&self, chunk: Chunk) -> Place {
        let (missed, place) = self.missed.get();
        if missed == chunk.0 { place } else { Place::default() }
    }

    /// Whether a chunk still goes to a place.
    pub(super) fn fits(&self, chunk: u64, place: Place) -> bool {
        let Place { leaf, position } = place;
        let Some(runs) = self.leaves.get(leaf).filter(|runs| position <= runs.len()) else {
            return false;
        };
        let Some(before) = position.checked_sub(1) else { return false };
        let next = runs.get(position).map(|next| next.old).or(self.firsts.get(leaf + 1).copied());
        runs[before].old <= chunk && next.is_none_or(|next| chunk < next)
    }
}
