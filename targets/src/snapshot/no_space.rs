//! A COW that is full before its end: a sparse file on a file system that fills up, a thin device
//! whose pool does.
//!
//! Rules kept here: full is full, whichever operation finds it. A write of the snapshot fails, the
//! snapshot stays readable if that is its policy, and what that write had begun is given up: it has
//! not been acknowledged. A write of the origin cannot be given up, so there the snapshot becomes
//! invalid, as with any full COW (I9).
//!
//! Only the record that fills an area can find no space, since the next area is made for it. So
//! that no acknowledged write depends on that, no exception is journaled from there on until the
//! area is full.

use super::Event;
use super::exceptions::{Exceptions, Health, PendingId};
use super::target::{OnFull, Snapshot};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::request::{Request, TargetError};
use crate::units::{Chunk, Sectors};

impl Exceptions {
    /// Gives up a pending exception that has no record and will get none; returns `false` if it is
    /// no longer pending.
    fn give_up(&mut self, id: PendingId) -> bool {
        let pending = self.is_pending(id);
        if pending {
            self.order.retain(|slot| *slot != id.slot);
            self.release(id.slot);
            self.nothing_is_pending();
        }
        pending
    }

    /// Gives up all pending exceptions; returns their slots. Returns `None`, and does nothing, if
    /// one of them must be kept.
    fn give_up_all(&mut self) -> Option<Vec<u32>> {
        let must_stay = |slot: &u32| {
            let entry = &self.slots[*slot as usize];
            entry.for_origin || entry.is_journaled()
        };
        if self.order.iter().any(must_stay) {
            return None;
        }
        let slots: Vec<u32> = self.order.drain(..).collect();
        slots.iter().for_each(|slot| self.release(*slot));
        self.nothing_is_pending();
        Some(slots)
    }
}

impl Snapshot {
    /// Whether a snapshot write with that error has found the COW full, and the snapshot is to stay
    /// readable.
    pub(super) fn overflows_at(&self, error: Option<&DiskError>) -> bool {
        let no_space = error
            .is_some_and(|error| *error.disk == **self.cow.name() && error.errno.is_no_space());
        no_space && self.options.get().on_full == OnFull::Overflow && self.health().is_kept()
    }

    /// Gives up the exceptions of a write that found no space.
    pub(super) fn give_up_write(&self, created: &[PendingId]) {
        self.begin_overflow();
        let mut given_up = 0;
        for id in created {
            given_up += usize::from(self.state.borrow_mut().give_up(*id));
            self.wake_waiting(id.slot);
        }
        self.store.give_up(given_up);
        self.changed.wake_all();
        // Exceptions behind them may be ready now.
        self.committer.wanted.wake_all();
    }

    /// The commit of the oldest pending exception found no space. Returns `false` if the snapshot
    /// cannot stay without it.
    pub(super) fn give_up_pending(&self, error: &DiskError) -> bool {
        if !self.overflows_at(Some(error)) {
            return false;
        }
        let Some(slots) = self.state.borrow_mut().give_up_all() else { return false };
        self.begin_overflow();
        self.store.give_up(slots.len());
        for slot in slots {
            self.journal_slot(slot, None);
            self.wake_waiting(slot);
        }
        self.changed.wake_all();
        true
    }

    /// The snapshot can be read from now on, and no longer written.
    pub(super) fn begin_overflow(&self) {
        let first = self.health() == Health::Valid;
        self.state.borrow_mut().overflow();
        if first {
            (self.listener)(Event::Overflowed);
        }
    }

    /// Whether the snapshot shows what the first part of a write wrote: if the COW is full, its
    /// exceptions may have been given up.
    ///
    /// # Errors
    /// They have been.
    pub(super) fn still_takes(&self, request: &Request, done: Sectors) -> Result<(), TargetError> {
        let given_up = match self.health() {
            Health::Overflowed => TargetError::Full,
            // The mark is being made again: what was pending has been given up before. (It is still
            // there while the mark is made for the first time.)
            Health::Invalidating if !mutant::is(Mutant::GivenUpAcknowledged) => {
                TargetError::Invalid
            }
            _ => return Ok(()),
        };
        if self.has_taken(request, done) { Ok(()) } else { Err(given_up) }
    }

    fn has_taken(&self, request: &Request, done: Sectors) -> bool {
        let state = self.state.borrow();
        let first = self.chunk_size.chunk_of(request.sector).0;
        let end = first
            + self
                .chunk_size
                .chunks_in(Sectors(self.chunk_size.offset_of(request.sector).0 + done.0));
        (first..end).all(|chunk| state.mapped(Chunk(chunk)).is_some())
    }
}
