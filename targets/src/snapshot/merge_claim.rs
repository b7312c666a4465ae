//! The claim of a merge to its origin.
//!
//! Rule kept here: an origin has one merge at a time, and is free again when that is dropped.

use std::rc::Rc;

use super::origin::Origin;

/// The claim of the only merge into an origin.
pub(super) struct MergeClaim {
    origin: Rc<Origin>,
    /// Changes of the origin before it was made.
    changes: u64,
}

impl MergeClaim {
    /// Claims an origin for one merge until the claim is dropped; `None` if another merge has it.
    pub(super) fn to(origin: &Rc<Origin>) -> Option<MergeClaim> {
        if origin.merging.replace(true) {
            return None;
        }
        origin.tell_who_is_alone();
        Some(MergeClaim { origin: origin.clone(), changes: origin.gate.changes() })
    }

    /// Whether the origin has changed since the claim was made.
    pub(super) fn is_outdated(&self) -> bool {
        self.origin.gate.changes() != self.changes
    }

    /// Sets whether some of the merged snapshot is on the disk and some is not.
    pub(super) fn set_mixed(&self, mixed: bool) {
        self.origin.mixed.set(mixed);
    }
}

impl Drop for MergeClaim {
    fn drop(&mut self) {
        self.origin.merging.set(false);
        self.origin.mixed.set(false);
        self.origin.tell_who_is_alone();
    }
}
