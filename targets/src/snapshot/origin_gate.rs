//! The way to an origin: what changes it passes here, is counted, and waits while a snapshot joins.
//!
//! Rules kept here: a snapshot joins at a moment when no change is in flight, so that it has what
//! was acknowledged before and nothing else; and I9 (no change makes a snapshot that has left wrong
//! without a record of that).

use std::cell::Cell;

use super::losses::Departed;
use crate::disk::Io;
use crate::exec::WaitQueue;
use crate::mutant::{self, Mutant};
use crate::request::TargetError;

/// Counts what is changing the origin, and holds it back while a snapshot joins.
#[derive(Default)]
pub(super) struct Gate {
    /// Changes that have been let through and not completed.
    inside: Cell<usize>,
    held: Cell<bool>,
    changed: WaitQueue,
    /// Snapshots that have left, which a change makes wrong.
    departed: Departed,
}

impl Gate {
    /// Snapshots that have left, which the next change makes wrong.
    pub(super) fn departed(&self) -> &Departed {
        &self.departed
    }

    /// Waits until no snapshot is joining.
    pub(super) async fn open(&self) {
        if self.held.get() {
            self.changed.until(|| (!self.held.get()).then_some(())).await;
        }
    }

    /// Carries out a change. Whoever asked whether it may happen must not have awaited since. It
    /// does not happen if a snapshot that has left would become wrong without a trace (I9).
    pub(super) async fn pass(&self, change: impl FnOnce() -> Io) -> Result<(), TargetError> {
        self.departed.record()?;
        let change = change();
        self.inside.set(self.inside.get() + 1);
        let result = change.await;
        self.inside.set(self.inside.get() - 1);
        if self.held.get() {
            self.changed.wake_all();
        }
        Ok(result?)
    }

    /// Holds back new changes, one caller at a time, and waits until those inside have completed.
    pub(super) async fn hold(&self) {
        self.changed.until(|| (!self.held.replace(true)).then_some(())).await;
        if !mutant::is(Mutant::JoinAmongWrites) {
            self.changed.until(|| (self.inside.get() == 0).then_some(())).await;
        }
    }

    /// Lets changes through again.
    pub(super) fn release(&self) {
        self.held.set(false);
        self.changed.wake_all();
    }
}
