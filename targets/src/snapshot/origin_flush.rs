//! The flushes of an origin, for a merge that must know that none has failed.
//!
//! A flush that fails may lose what was written before it, and a later one that succeeds does not
//! restore it. A write with FUA is a write and a flush on a disk without FUA of its own, so its
//! failure counts as that of a flush. A merge copies to the origin and removes the other copy
//! afterwards: it must notice each failed flush, also one of another task whose result has not been
//! read yet.
//!
//! Rule kept here: I10 (a failed flush that no user has asked for is reported to the user who
//! flushes next, through whatever target the origin has by then).

use std::cell::{Cell, RefCell};

use crate::disk::{Disk, DiskError};
use crate::exec::WaitQueue;
use crate::mutant::{self, Mutant};
use crate::request::TargetError;

/// The flushes of a disk.
#[derive(Default)]
pub(super) struct Flushes {
    begun: Cell<u64>,
    /// Flushes that have not ended, by the number of those begun before.
    in_flight: RefCell<Vec<u64>>,
    failed: Cell<u64>,
    ended: WaitQueue,
    /// A flush that no user has asked for has failed, and users' writes may be lost with it.
    untold: RefCell<Option<TargetError>>,
}

impl Flushes {
    /// Makes completed writes durable.
    pub(super) async fn run(&self, disk: &Disk) -> Result<(), DiskError> {
        let flush = self.begin();
        let result = disk.flush().await;
        self.end(flush, result.is_err());
        result
    }

    /// An operation begins that includes a flush; returns its number, for [`Flushes::end`].
    pub(super) fn begin(&self) -> u64 {
        let number = self.begun.replace(self.begun.get() + 1);
        self.in_flight.borrow_mut().push(number);
        number
    }

    /// The operation with this number has ended.
    pub(super) fn end(&self, number: u64, failed: bool) {
        self.in_flight.borrow_mut().retain(|other| *other != number);
        self.failed.set(self.failed.get() + u64::from(failed));
        self.ended.wake_all();
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

    /// A flush that no user has asked for has failed.
    pub(super) fn keep(&self, error: TargetError) {
        *self.untold.borrow_mut() = Some(error);
    }

    /// The failure that the next flush of a user must report.
    pub(super) fn untold(&self) -> Option<TargetError> {
        self.untold.borrow().clone().filter(|_| !mutant::is(Mutant::MergeHidesFlush))
    }

    /// The result of a user's flush that has succeeded: the failure that was untold when it began,
    /// or is now. Later flushes do not report it.
    pub(super) fn tell(&self, untold: Option<TargetError>) -> Result<(), TargetError> {
        let untold = untold.or(self.untold());
        self.untold.take();
        untold.map_or(Ok(()), Err)
    }
}
