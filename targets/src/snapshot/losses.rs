//! Stores that are no longer right and cannot say so themselves: the mark could not be written to
//! the COW, or the COW was let go and the origin changes without it.
//!
//! Rule kept here: I9 where the COW cannot hold the mark. Such a store is recorded elsewhere
//! ([`LossRecord`]), durably, before the change of the origin that makes it wrong; a change that
//! cannot be recorded does not happen.

use std::cell::RefCell;
use std::rc::Rc;

use crate::mutant::{self, Mutant};
use crate::request::TargetError;

/// Why a store must not be used although its COW looks valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The snapshot became invalid and the mark could not be written to the COW.
    MarkFailed,
    /// The snapshot left, and then its origin was changed.
    OriginChanged,
}

/// Where a lost store is recorded: a place that outlives the process and does not depend on the
/// COW.
pub trait LossRecord {
    /// What the COW is known by. Two records that have one of these in common are of the same COW.
    fn cow(&self) -> &[String];

    /// Records that the store on the COW is lost. It is durable when this returns `Ok`, and whoever
    /// opens the COW next must find it. The error says why it could not be recorded.
    fn record(&self, loss: Loss) -> Result<(), String>;
}

/// Snapshots that have left an origin: they are right until its next change, which records them
/// first.
#[derive(Default)]
pub(crate) struct Departed(RefCell<Vec<(Rc<dyn LossRecord>, Loss)>>);

impl Departed {
    /// A snapshot leaves.
    pub(super) fn add(&self, record: Rc<dyn LossRecord>, loss: Loss) {
        if !mutant::is(Mutant::LeftForgotten) {
            self.0.borrow_mut().push((record, loss));
        }
    }

    /// A snapshot has left under an earlier server, and the origin has not changed since.
    pub(super) fn restore(&self, record: Rc<dyn LossRecord>, loss: Loss) {
        if !mutant::is(Mutant::DepartedNotRestored) {
            self.0.borrow_mut().push((record, loss));
        }
    }

    /// Whether none has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All that have left, which are no longer here.
    pub(crate) fn take(&self) -> Departed {
        Departed(RefCell::new(self.0.take()))
    }

    /// The origin stands for one that is gone: what had left that one.
    pub(crate) fn take_over(&self, departed: Departed) {
        self.0.borrow_mut().append(&mut departed.0.borrow_mut());
    }

    /// A snapshot on a COW joins: whatever left on that COW is right again, or gone.
    pub(crate) fn forget(&self, cow: &[String]) {
        self.0
            .borrow_mut()
            .retain(|(record, _)| !record.cow().iter().any(|name| cow.contains(name)));
    }

    /// The origin is about to change. An error if that cannot be recorded: it must not change then.
    pub(super) fn record(&self) -> Result<(), TargetError> {
        if self.0.borrow().is_empty() {
            return Ok(());
        }
        self.0.borrow_mut().retain(|(record, loss)| record.record(*loss).is_err());
        if self.0.borrow().is_empty() { Ok(()) } else { Err(TargetError::Unrecorded) }
    }
}
