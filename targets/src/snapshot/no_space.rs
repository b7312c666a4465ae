//! A COW that is full before its end: a sparse file on a file system that fills up, a thin device
//! whose pool does.
//!
//! Rules kept here: full is full, whoever finds it out. A write of the snapshot fails, the snapshot
//! stays readable if it is made so, and what that write had begun is given up: nobody was told of
//! it. A write of the origin cannot be given up, so there the snapshot becomes invalid, as with any
//! full COW (I9).
//!
//! The only record that can find no space is the one that fills an area, since the next area is
//! made for it. So that nothing that was acknowledged depends on that, no exception is noted from
//! there on until the area is full.

use super::Event;
use super::exceptions::{Exceptions, Health, PendingId};
use super::target::{OnFull, Snapshot};
use crate::disk::DiskError;
use crate::request::Request;
use crate::units::{Chunk, Sectors};

impl Exceptions {
    /// Gives up a pending exception that has no record and will get none; `false` if it is no
    /// longer pending.
    fn give_up(&mut self, id: PendingId) -> bool {
        let pending = self.is_pending(id);
        if pending {
            self.order.retain(|slot| *slot != id.slot);
            self.release(id.slot);
            self.nothing_is_pending();
        }
        pending
    }

    /// Gives up all that is pending; returns their slots. `None`, and nothing happens, if one of
    /// them must be kept.
    fn give_up_all(&mut self) -> Option<Vec<u32>> {
        let must_stay = |slot: &u32| {
            let entry = &self.slots[*slot as usize];
            entry.for_origin || entry.is_noted()
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
    /// Whether a write of the snapshot that got that error has found the COW full, and the snapshot
    /// is to stay.
    pub(super) fn overflows_at(&self, error: Option<&DiskError>) -> bool {
        let no_space = error
            .is_some_and(|error| *error.disk == **self.cow.name() && error.errno.is_no_space());
        no_space && self.options.on_full == OnFull::Overflow && self.health().is_kept()
    }

    /// The exceptions of a write that found no space are given up.
    pub(super) fn give_up_write(&self, created: &[PendingId]) {
        self.begin_overflow();
        let mut given_up = 0;
        for id in created {
            given_up += usize::from(self.state.borrow_mut().give_up(*id));
            self.wake_waiting(id.slot);
        }
        self.store.give_up(given_up);
        self.changed.wake_all();
        // What stands behind them may be ready now.
        self.committer.wanted.wake_all();
    }

    /// The commit of the oldest pending exception found no space. `false` if the snapshot cannot
    /// stay without it.
    pub(super) fn give_up_pending(&self, error: &DiskError) -> bool {
        if !self.overflows_at(Some(error)) {
            return false;
        }
        let Some(slots) = self.state.borrow_mut().give_up_all() else { return false };
        self.begin_overflow();
        self.store.give_up(slots.len());
        for slot in slots {
            self.put_note(slot, None);
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

    /// Whether the snapshot shows what was written by the first part of a request: its exceptions
    /// may have been given up.
    pub(super) fn has_taken(&self, request: &Request, done: Sectors) -> bool {
        let state = self.state.borrow();
        let first = self.chunk_size.chunk_of(request.sector).0;
        let end = first
            + self
                .chunk_size
                .chunks_in(Sectors(self.chunk_size.offset_of(request.sector).0 + done.0));
        (first..end).all(|chunk| state.mapped(Chunk(chunk)).is_some())
    }
}
