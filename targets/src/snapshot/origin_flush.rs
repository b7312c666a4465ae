//! The flushes of an origin, for a merge that must know that none has failed.
//!
//! A flush that fails may lose what was written before it, and a later one that succeeds does not
//! restore it. A merge copies to the origin and removes the other copy afterwards: it must notice
//! each failed flush, also one of another task whose result has not been read yet.

use std::cell::{Cell, RefCell};

use crate::disk::{Disk, DiskError};
use crate::exec::WaitQueue;

/// The flushes of a disk.
#[derive(Default)]
pub(super) struct Flushes {
    begun: Cell<u64>,
    /// Flushes that have not ended, by the number of those begun before.
    in_flight: RefCell<Vec<u64>>,
    failed: Cell<u64>,
    ended: WaitQueue,
}

impl Flushes {
    /// Makes completed writes durable.
    pub(super) async fn run(&self, disk: &Disk) -> Result<(), DiskError> {
        let number = self.begun.replace(self.begun.get() + 1);
        self.in_flight.borrow_mut().push(number);
        let result = disk.flush().await;
        self.in_flight.borrow_mut().retain(|other| *other != number);
        self.failed.set(self.failed.get() + u64::from(result.is_err()));
        self.ended.wake_all();
        result
    }

    /// How many flushes have failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Waits until all flushes that have begun have ended.
    pub(super) async fn begun_have_ended(&self) {
        let begun = self.begun.get();
        let all = || self.in_flight.borrow().iter().all(|number| *number >= begun);
        self.ended.until(|| all().then_some(())).await;
    }
}
