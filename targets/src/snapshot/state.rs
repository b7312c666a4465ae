//! The state of a snapshot beside its exceptions, in the parts that belong together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use super::format::Record;
use super::origin_gate::Gate;
use super::preserved;
use crate::disk::{Host, UserData};
use crate::exec::WaitQueue;

/// The phases of the committer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It commits, or has not been started yet.
    #[default]
    Running,
    /// It ends when nothing is pending.
    Closing,
    /// It has ended.
    Ended,
}

/// The committer's state.
#[derive(Default)]
pub(super) struct Committer {
    pub(super) phase: Cell<Phase>,
    /// For the committer: there is something to commit or to mark, or it must end.
    pub(super) wanted: WaitQueue,
    /// A commit is in flight.
    pub(super) is_busy: Cell<bool>,
    /// When its timer wakes it next.
    pub(super) lingers_to_ms: Cell<u64>,
    /// When the oldest journaled record was written that may not be durable.
    pub(super) journaled_since_ms: Cell<Option<u64>>,
}

impl Committer {
    /// Tells the committer to end, if it has not ended.
    pub(super) fn close(&self) {
        if self.phase.get() == Phase::Running {
            self.phase.set(Phase::Closing);
        }
        self.wanted.wake_all();
    }
}

/// Who waits for a pending exception.
#[derive(Default)]
pub(super) struct Waiters {
    tasks: WaitQueue,
    /// The request without a task that has created it.
    creator: Cell<Option<UserData>>,
}

impl Waiters {
    /// Has a task woken with the others.
    pub(super) fn add(&self, waker: &Waker) {
        self.tasks.add(waker);
    }

    /// Has the request told that has created the exception.
    pub(super) fn set_creator(&self, data: UserData) {
        self.creator.set(Some(data));
    }

    /// Something has changed: each checks again.
    pub(super) fn wake_all(&self, host: &dyn Host) {
        self.tasks.wake_all();
        if let Some(data) = self.creator.take() {
            host.tell(data);
        }
    }
}

/// What an earlier server has left.
pub(super) struct Inherited {
    /// Its journaled records, committed when the snapshot is activated.
    pub(super) records: RefCell<Vec<Record>>,
    /// The store was lost before it was opened, and looks valid.
    pub(super) lost: bool,
}

/// Events that are reported to an administrator once.
#[derive(Default)]
pub(super) struct Told {
    /// The last known level of the COW's usage, in per cent. It falls when the COW grows.
    pub(super) filling: Cell<u8>,
    /// That the mark cannot be written.
    pub(super) mark_failed: Cell<bool>,
    /// That the snapshot is invalid.
    pub(super) end: Cell<bool>,
}

/// What a snapshot shares with its origin while it is joined.
#[derive(Default)]
pub(super) struct Joined {
    /// The origin's gate, while the origin has no other snapshot.
    pub(super) alone: RefCell<Option<Rc<Gate>>>,
    /// The ranges that all snapshots of the origin have.
    pub(super) preserved: RefCell<preserved::Shared>,
    /// How many changes the origin had had before its store was read, if it must have them all.
    pub(super) seen_at: Cell<Option<u64>>,
}
