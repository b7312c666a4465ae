//! The state of a mirror beside its regions and legs, grouped by use.

use std::cell::Cell;

use super::status::{CopyCounts, Progress};
use crate::exec::WaitQueue;
use crate::gate::Gate;

/// Whether requests are accepted, and how held requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are accepted.
    Running,
    /// Requests wait while legs are changed.
    Changing,
    /// Being suspended: requests wait until the disks have answered, and held ones stay held, since
    /// the suspend may be given up.
    Suspending,
    /// Suspended for another table: held requests are requeued to it.
    SuspendedNoflush,
    /// Suspended with flush: held requests fail.
    SuspendedFlush,
}

impl Phase {
    /// Whether the mirror is suspended.
    pub(super) fn is_suspended(self) -> bool {
        matches!(self, Phase::SuspendedNoflush | Phase::SuspendedFlush)
    }
}

/// Whether requests are accepted, and what they wait for.
pub(super) struct Requests {
    pub(super) phase: Cell<Phase>,
    /// Guards the legs and the log: inside are requests under way and regions being compared. Held
    /// whenever requests are not accepted, and closed at the mirror's end. Requests held by the
    /// mirror have left the gate, and wait on it for a change of `phase`.
    pub(super) gate: Gate,
    /// The number of held requests.
    pub(super) held: Cell<usize>,
    /// Counts changes of the legs, for held requests.
    pub(super) changes: Cell<u64>,
    /// A suspend or a change of legs that waits for requests under way is to be given up.
    pub(super) given_up: Cell<bool>,
    /// Wakes writes when regions are released or entries become free.
    pub(super) released: WaitQueue,
}

/// The shared state of the recovery lanes.
#[derive(Default)]
pub(super) struct Recovery {
    /// The number of callers that have paused recovery; above zero, lanes take no work.
    pub(super) paused: Cell<usize>,
    /// Lanes that have work.
    pub(super) running: Cell<usize>,
    /// Progress, while recovery is under way.
    pub(super) progress: Cell<Option<Progress>>,
    /// What has been copied since the mirror was opened.
    pub(super) copied: Cell<CopyCounts>,
    /// Wakes the lanes.
    pub(super) work: WaitQueue,
}

/// The state of the cleaner.
pub(super) struct Cleaner {
    pub(super) delay_ms: Cell<u64>,
    /// Batches of regions being cleaned.
    pub(super) batches: Cell<usize>,
    /// The stale legs in the log's header have changed, but the legs must be flushed before the
    /// header is written.
    pub(super) flags_pending: Cell<bool>,
    /// The last such flush failed. If `flags_pending` is also set, the flush is to be retried.
    pub(super) flags_lost: Cell<bool>,
    /// Wakes the cleaner.
    pub(super) wanted: WaitQueue,
}
