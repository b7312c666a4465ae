//! What an origin has to know of a request without a task, and its first writes that wait.

use std::rc::Rc;

use super::exceptions::PendingId;
use super::target::Snapshot;
use crate::disk::{Buffer, OpKind};
use crate::units::{Chunk, Sector, Sectors};

/// A request that was remapped: what is in flight.
#[derive(Debug)]
pub(crate) enum Sent {
    Read,
    /// A write that was let pass.
    Change,
    /// The copy of a chunk that is about to be written.
    First(FirstId),
}

/// The rest is for a task: nothing of the write is in flight.
#[derive(Debug)]
pub(crate) struct Again;

/// A first write that waits for the copy of its chunk.
pub(super) struct First {
    pub(super) snapshot: Rc<Snapshot>,
    pub(super) id: PendingId,
    pub(super) chunk: Chunk,
    /// How much is copied: what the origin had of the chunk when it was decided. It may have grown.
    pub(super) count: Sectors,
    /// Where the copy goes on the COW.
    pub(super) at: Sector,
    pub(super) step: Step,
}

/// What it waits for.
pub(super) enum Step {
    Read(Buffer),
    Written(Buffer),
    Recorded,
}

/// The place of a first write in its origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstId(pub(super) usize);

/// The first writes of an origin that wait. They are not in the requests themselves, which are all
/// as large as the largest, and need no end of their own.
#[derive(Default)]
pub(super) struct Firsts {
    pub(super) places: Vec<Option<First>>,
    free: Vec<usize>,
}

impl Firsts {
    pub(super) fn add(&mut self, first: First) -> FirstId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(first);
        FirstId(place)
    }

    pub(super) fn remove(&mut self, id: FirstId) {
        self.places[id.0] = None;
        self.free.push(id.0);
    }
}

impl First {
    /// The chunk on the origin.
    pub(super) fn source(&self) -> (Sector, Sectors) {
        (self.snapshot.chunk_size().start_of(self.chunk), self.count)
    }

    /// The write of its copy.
    pub(super) fn write(&self) -> (OpKind, (Sector, Sectors)) {
        (OpKind::Write { fua: false }, (self.at, self.count))
    }
}
