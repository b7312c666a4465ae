//! What a mirror keeps beside its regions and legs, in the parts that belong together.

use std::cell::Cell;

use super::status::Progress;
use crate::exec::WaitQueue;
use crate::gate::Gate;

/// Whether requests are taken, and what becomes of those that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are taken.
    Running,
    /// Requests wait while legs are changed.
    Changing,
    /// Suspended for another table: what is held is for that one.
    SuspendedNoflush,
    /// Suspended for good: what is held fails.
    SuspendedFlush,
}

impl Phase {
    /// Whether the mirror is suspended.
    pub(super) fn is_suspended(self) -> bool {
        matches!(self, Phase::SuspendedNoflush | Phase::SuspendedFlush)
    }
}

/// What requests come to: whether they are taken, and what they wait for.
pub(super) struct Requests {
    pub(super) phase: Cell<Phase>,
    /// Guards the legs and the log: inside are the requests that are under way, and regions that
    /// are compared. Held whenever requests are not taken, and closed at the mirror's end. Requests
    /// that the mirror itself holds have left, and wait for what the gate says of `phase`.
    pub(super) gate: Gate,
    /// Requests that are held.
    pub(super) held: Cell<usize>,
    /// Counts the changes of legs, for what is held.
    pub(super) changes: Cell<u64>,
    /// What waits until nothing is under way is to give that up.
    pub(super) given_up: Cell<bool>,
    /// For writes: regions are released, entries are free.
    pub(super) released: WaitQueue,
}

/// What the lanes of recovery share.
#[derive(Default)]
pub(super) struct Recovery {
    /// How many want it to stand still: it takes no more work then.
    pub(super) paused: Cell<usize>,
    /// Lanes that have work.
    pub(super) running: Cell<usize>,
    /// How far it has come, while it is under way.
    pub(super) progress: Cell<Option<Progress>>,
    /// For its lanes.
    pub(super) work: WaitQueue,
}

/// What the cleaner goes by.
pub(super) struct Cleaner {
    pub(super) delay_ms: Cell<u64>,
    /// Batches of regions that are being cleaned.
    pub(super) batches: Cell<usize>,
    /// The legs in the log's header are others now, but a flush of the legs must come before they
    /// are written.
    pub(super) flags_pending: Cell<bool>,
    /// The last such flush failed. Both at once: another one is to be tried.
    pub(super) flags_lost: Cell<bool>,
    /// For the cleaner.
    pub(super) wanted: WaitQueue,
}
