//! The flushes of a mirror that are under way, in start order.

use std::cell::{Cell, RefCell};

use crate::exec::WaitQueue;

/// Flushes under way, in start order.
#[derive(Default)]
pub(super) struct Flushes {
    begun: Cell<u64>,
    under_way: RefCell<Vec<u64>>,
    ended: WaitQueue,
}

impl Flushes {
    /// Begins a flush; returns its turn.
    pub(super) fn begin(&self) -> u64 {
        let turn = self.begun.get();
        self.begun.set(turn + 1);
        self.under_way.borrow_mut().push(turn);
        turn
    }

    /// Ends a flush; returns the number of flushes started so far.
    pub(super) fn end(&self, turn: u64) -> u64 {
        self.under_way.borrow_mut().retain(|other| *other != turn);
        self.ended.wake_all();
        self.begun.get()
    }

    /// Waits until the first `begun` flushes have ended.
    pub(super) async fn until_ended(&self, begun: u64) {
        let ended = || self.under_way.borrow().iter().all(|turn| *turn >= begun);
        self.ended.until(|| ended().then_some(())).await;
    }
}
