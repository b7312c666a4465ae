//! The gate of an origin: its changes pass here, are counted, and wait while a snapshot joins.
//!
//! Rules kept here: a snapshot joins at a moment when no change is in flight, so that it has all
//! writes acknowledged before and nothing else; and I9 (no change makes a snapshot that has left
//! wrong without a record of that).

use std::cell::Cell;

use super::losses::Departed;
use crate::disk::DiskError;
use crate::gate;
use crate::mutant::{self, Mutant};
use crate::request::TargetError;

/// Counts the changes of the origin, and holds them back while a snapshot joins.
#[derive(Default)]
pub(super) struct Gate {
    /// Guards the origin's content: inside are the changes that have been let through and not
    /// completed. Held while a snapshot joins.
    gate: gate::Gate,
    /// Snapshots that have left; a change makes them wrong.
    departed: Departed,
    /// Changes that have been let through.
    changes: Cell<u64>,
}

impl Gate {
    /// Snapshots that have left; the next change makes them wrong.
    pub(super) fn departed(&self) -> &Departed {
        &self.departed
    }

    /// How many changes have been let through.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Whether no snapshot is joining.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// Waits until no snapshot is joining.
    pub(super) async fn open(&self) {
        if !self.gate.is_open() {
            self.gate.until(|| self.gate.is_open().then_some(())).await;
        }
    }

    /// Carries out a change. The caller must not have awaited since the change was allowed. It does
    /// not happen if a snapshot that has left would become wrong without a record of that (I9).
    pub(super) async fn pass<F>(&self, change: impl FnOnce() -> F) -> Result<(), TargetError>
    where
        F: Future<Output = Result<(), DiskError>>,
    {
        self.begin()?;
        let result = change().await;
        self.end();
        Ok(result?)
    }

    /// The first half of [`Gate::pass`], in the step in which the change is started.
    #[inline]
    pub(super) fn begin(&self) -> Result<(), TargetError> {
        self.departed.record()?;
        self.changes.set(self.changes.get() + 1);
        self.gate.enter();
        Ok(())
    }

    /// The second half, when the change has completed.
    #[inline]
    pub(super) fn end(&self) {
        self.gate.leave();
    }

    /// Holds back new changes, one caller at a time, and waits until those inside have completed.
    pub(super) async fn hold(&self) {
        self.gate.hold_alone().await;
        if !mutant::is(Mutant::JoinAmongWrites) {
            self.gate.drained().await;
        }
    }

    /// Lets changes through again.
    pub(super) fn release(&self) {
        self.gate.release();
    }
}
