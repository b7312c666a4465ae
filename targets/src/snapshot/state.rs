//! What a snapshot keeps beside its exceptions, in the parts that belong together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::format::Record;
use super::origin_gate::Gate;
use super::preserved;
use crate::exec::WaitQueue;

/// Where the committer is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// It commits, or has still to be started.
    #[default]
    Running,
    /// It ends when nothing is pending.
    Closing,
    /// It has ended.
    Ended,
}

/// What the committer goes by.
#[derive(Default)]
pub(super) struct Committer {
    pub(super) life: Cell<Life>,
    /// For the committer: there is something to commit, or to mark, or its end has come.
    pub(super) wanted: WaitQueue,
    /// A commit is on its way.
    pub(super) is_busy: Cell<bool>,
    /// When it is woken next by the clock.
    pub(super) lingers_to_ms: Cell<u64>,
    /// When the oldest note was written that may not be recorded.
    pub(super) noted_since_ms: Cell<Option<u64>>,
}

impl Committer {
    /// It is to end, if it has not.
    pub(super) fn close(&self) {
        if self.life.get() == Life::Running {
            self.life.set(Life::Closing);
        }
        self.wanted.wake_all();
    }
}

/// What an earlier server has left.
pub(super) struct Inherited {
    /// What it has noted, recorded when the snapshot is activated.
    pub(super) records: RefCell<Vec<Record>>,
    /// The store was lost before it was opened, and looks valid.
    pub(super) lost: bool,
}

/// What an administrator has been told, once.
#[derive(Default)]
pub(super) struct Told {
    /// The largest share of the COW in use, in per cent.
    pub(super) filling: Cell<u8>,
    /// That the mark cannot be written.
    pub(super) mark_failed: Cell<bool>,
    /// That the snapshot is invalid.
    pub(super) end: Cell<bool>,
}

/// What a snapshot has of its origin while it is joined.
#[derive(Default)]
pub(super) struct Joined {
    /// The way to the origin, while that has no other snapshot.
    pub(super) alone: RefCell<Option<Rc<Gate>>>,
    /// What all snapshots of the origin have.
    pub(super) preserved: RefCell<preserved::Shared>,
}
