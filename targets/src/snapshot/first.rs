//! What an origin has to know of a request without a task, and its first writes that wait.

use std::rc::Rc;

use super::exceptions::PendingId;
use super::target::Snapshot;
use crate::disk::Buffer;
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

/// Most snapshots that one read serves here: the parts of a request have numbers of one byte.
pub(super) const MAX_COPIES: usize = 64;

/// A first write that waits for the copies of its chunk. Its lists are used again.
#[derive(Default)]
pub(super) struct First {
    /// The chunk on the origin: where it starts, and how much is copied, which is what the origin
    /// had of it when that was decided. It may have grown since.
    pub(super) source: (Sector, Sectors),
    /// Snapshots that lack it, before their exceptions have begun.
    pub(super) asked: Vec<(Rc<Snapshot>, Chunk)>,
    pub(super) copies: Vec<Copy>,
    pub(super) step: Step,
}

/// A copy for one snapshot.
pub(super) struct Copy {
    pub(super) snapshot: Rc<Snapshot>,
    pub(super) id: PendingId,
    /// Where it goes on the COW.
    pub(super) at: Sector,
}

/// What a first write waits for.
#[derive(Default)]
pub(super) enum Step {
    Read(Buffer),
    /// That many writes.
    Written(Buffer, usize),
    #[default]
    Recorded,
}

/// The place of a first write in its origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstId(usize);

/// The first writes of an origin that wait. They are not in the requests themselves, which are all
/// as large as the largest, and need no end of their own.
#[derive(Default)]
pub(super) struct Firsts {
    places: Vec<First>,
    free: Vec<usize>,
}

impl Firsts {
    /// A place for a write.
    pub(super) fn take(&mut self) -> FirstId {
        FirstId(self.free.pop().unwrap_or_else(|| {
            self.places.push(First::default());
            self.places.len() - 1
        }))
    }

    pub(super) fn at(&mut self, id: FirstId) -> &mut First {
        &mut self.places[id.0]
    }

    /// The place is free again.
    pub(super) fn give_back(&mut self, id: FirstId) {
        let First { asked, copies, step, .. } = &mut self.places[id.0];
        asked.clear();
        copies.clear();
        *step = Step::Recorded;
        self.free.push(id.0);
    }
}
