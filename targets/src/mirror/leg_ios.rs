//! The operations of a request on the legs of a mirror.

use std::cell::RefCell;

use crate::disk::Io;

/// Operations in flight together, each with its leg.
pub(super) type LegIos = Vec<(usize, Io)>;

/// Lists that no request uses, kept with their memory for the next.
#[derive(Default)]
pub(super) struct IdleLegIos(RefCell<Vec<LegIos>>);

impl IdleLegIos {
    pub(super) fn take(&self) -> LegIos {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// All of them have been awaited.
    pub(super) fn give_back(&self, mut ios: LegIos) {
        ios.clear();
        self.0.borrow_mut().push(ios);
    }
}
