//! The flushes of a mirror that are under way, in the order in which they were started.

use std::cell::{Cell, RefCell};

use crate::exec::WaitQueue;

/// Flushes under way, by the order in which they were started.
#[derive(Default)]
pub(super) struct Flushes {
    begun: Cell<u64>,
    under_way: RefCell<Vec<u64>>,
    ended: WaitQueue,
}

impl Flushes {
    /// One begins; returns its turn.
    pub(super) fn begin(&self) -> u64 {
        let turn = self.begun.get();
        self.begun.set(turn + 1);
        self.under_way.borrow_mut().push(turn);
        turn
    }

    /// One has ended; returns how many have been started by now.
    pub(super) fn end(&self, turn: u64) -> u64 {
        self.under_way.borrow_mut().retain(|other| *other != turn);
        self.ended.wake_all();
        self.begun.get()
    }

    /// Waits until the first so many have ended.
    pub(super) async fn until_ended(&self, begun: u64) {
        let ended = || self.under_way.borrow().iter().all(|turn| *turn >= begun);
        self.ended.until(|| ended().then_some(())).await;
    }
}
