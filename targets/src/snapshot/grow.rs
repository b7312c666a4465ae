//! A snapshot's device that grows, up to the size of its origin. In the new part it shows what the
//! origin has there at that moment.
//!
//! Rules kept here: it grows at a moment when no write of its origin is in flight, as it joined, so
//! that every later write preserves what it overwrites (I5); and not if its COW has a chunk there
//! already: that is of another moment, or only a part of it was copied.

use std::rc::Rc;

use super::exceptions::{Exceptions, Stage};
use super::origin::Origin;
use super::target::Snapshot;
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, Sector, Sectors};

impl Exceptions {
    /// Whether a chunk from `first` on has an exception, or is about to have one.
    fn has_from(&self, first: Chunk) -> bool {
        let pending = |stage| !matches!(stage, Stage::Free | Stage::Failed);
        self.complete.end() > first.0
            || self.slots.iter().any(|slot| pending(slot.stage) && slot.record.old >= first)
    }
}

impl Snapshot {
    /// How long it could be: as long as its origin, whose size is read again and which is named.
    pub fn room(&self) -> (Sectors, Rc<str>) {
        (self.origin.refresh_size(), self.origin.name().clone())
    }

    /// Checks that it can grow.
    ///
    /// # Errors
    /// Its COW has a chunk behind its end, or one in which it ends.
    pub fn check_growth(&self) -> Result<(), String> {
        let first = self.chunk_size.chunk_of(Sector(self.len().0));
        if !self.state.borrow().has_from(first) || mutant::is(Mutant::GrownOverChunks) {
            return Ok(());
        }
        Err(format!(
            "{}: it has a chunk of another time at the end of the snapshot, or behind it",
            self.cow.name()
        ))
    }
}

impl Origin {
    /// Gives a snapshot another length, at a moment when no write is in flight.
    ///
    /// # Errors
    /// As [`Snapshot::check_growth`], because of a write since then: it keeps its length.
    pub async fn resize(&self, snapshot: &Rc<Snapshot>, len: Sectors) -> Result<(), String> {
        if mutant::is(Mutant::GrownAmongWrites) {
            snapshot.len.set(len);
            return Ok(());
        }
        self.gate.hold().await;
        let checked = if len > snapshot.len() { snapshot.check_growth() } else { Ok(()) };
        if checked.is_ok() {
            snapshot.len.set(len);
            self.forget_preserved();
        }
        self.gate.release();
        checked
    }
}
