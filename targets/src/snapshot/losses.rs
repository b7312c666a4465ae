//! Stores that are no longer valid and cannot say so themselves: the mark could not be written to
//! the COW, or the COW was released and the origin changes without it.
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
    /// The snapshot left, and then its origin changed.
    OriginChanged,
}

/// Where a lost store is recorded: a place that outlives the process and does not depend on the
/// COW.
pub trait LossRecord {
    /// The names of the COW. Two records with a name in common are of the same COW.
    fn cow(&self) -> &[String];

    /// Durably records that the store on the COW is lost, where the next program that opens the COW
    /// must find it. The error says why it could not be recorded.
    fn record(&self, loss: Loss) -> Result<(), String>;

    /// The store joins an origin and is valid: that an origin was changed without it before is no
    /// loss of it any more.
    fn joins(&self) {}
}

/// Snapshots that have left an origin: they are valid until its next change, which records them
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

    /// Whether no snapshot has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes out all snapshots that have left.
    pub(crate) fn take(&self) -> Departed {
        Departed(RefCell::new(self.0.take()))
    }

    /// The origin replaces one that is gone: takes over the snapshots that had left that one.
    pub(crate) fn take_over(&self, departed: Departed) {
        self.0.borrow_mut().append(&mut departed.0.borrow_mut());
    }

    /// A snapshot on a COW joins: one that left with that COW is valid again, or gone.
    pub(crate) fn forget(&self, cow: &[String]) {
        self.0
            .borrow_mut()
            .retain(|(record, _)| !record.cow().iter().any(|name| cow.contains(name)));
    }

    /// Records the losses before the origin changes; on an error the origin must not change.
    #[inline]
    pub(super) fn record(&self) -> Result<(), TargetError> {
        // Before every change: nearly always none has left.
        if self.is_empty() { Ok(()) } else { self.record_all() }
    }

    #[cold]
    fn record_all(&self) -> Result<(), TargetError> {
        self.0.borrow_mut().retain(|(record, loss)| record.record(*loss).is_err());
        if self.0.borrow().is_empty() { Ok(()) } else { Err(TargetError::Unrecorded) }
    }
}
