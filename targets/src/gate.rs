//! The gate before state that an administrator, or a service of the target, changes: it counts the
//! requests inside, holds back new ones, and reports when none is left.
//!
//! A device has one, so that its target can be replaced; an origin, so that a snapshot joins
//! between two changes; and a mirror, so that its legs are changed between two writes. What each of
//! them guards is documented at its owner. A request that is *held* in a mirror has been inside
//! already, and waits for an administrator outside the gate's count.
//!
//! Rules kept here: a request that finds the gate open enters in the same step, with no await
//! between, so that none enters after the gate is held; and a drained gate stays drained until it
//! is released. A request costs no memory, and every waiter is woken.

use std::cell::Cell;

use crate::exec::WaitQueue;

/// Whether requests may enter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Requests wait.
    Held,
    /// Requests will never enter again.
    Closed,
}

/// The gate has been closed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Counts requests and holds them back. It is open at first.
#[derive(Default)]
pub(crate) struct Gate {
    inside: Cell<usize>,
    state: Cell<State>,
    changed: WaitQueue,
}

impl Gate {
    /// Whether requests may enter now.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    /// Whether requests wait.
    pub(crate) fn is_held(&self) -> bool {
        self.state.get() == State::Held
    }

    /// Whether it has been closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.get() == State::Closed
    }

    /// The requests inside.
    pub(crate) fn inside(&self) -> usize {
        self.inside.get()
    }

    /// Waits while the gate is held.
    ///
    /// # Errors
    /// It has been closed.
    #[inline]
    pub(crate) async fn opened(&self) -> Result<(), Closed> {
        if self.is_open() {
            return Ok(());
        }
        let decided = || match self.state.get() {
            State::Open => Some(Ok(())),
            State::Held => None,
            State::Closed => Some(Err(Closed)),
        };
        self.changed.until(decided).await
    }

    /// Counts a request that has found the gate open and not awaited since, or that has been inside
    /// before.
    #[inline]
    pub(crate) fn enter(&self) {
        self.inside.set(self.inside.get() + 1);
    }

    /// A request is no longer inside.
    #[inline]
    pub(crate) fn leave(&self) {
        let left = self.inside.get() - 1;
        self.inside.set(left);
        if left == 0 && !self.is_open() {
            self.changed.wake_all();
        }
    }

    /// Holds back requests from now on. A closed gate stays closed.
    pub(crate) fn hold(&self) {
        if self.is_open() {
            self.state.set(State::Held);
        }
        self.changed.wake_all();
    }

    /// Waits until no other caller holds the gate, and holds it.
    pub(crate) async fn hold_alone(&self) {
        let hold = || {
            let open = self.is_open();
            if open {
                self.state.set(State::Held);
            }
            open.then_some(())
        };
        self.changed.until(hold).await;
    }

    /// Waits until no request is inside; the gate is held or closed.
    pub(crate) async fn drained(&self) {
        self.changed.until(|| (self.inside.get() == 0).then_some(())).await;
    }

    /// Lets requests enter again. A closed gate stays closed.
    pub(crate) fn release(&self) {
        if self.is_held() {
            self.state.set(State::Open);
        }
        self.changed.wake_all();
    }

    /// Lets no request enter any more, waiting ones included.
    pub(crate) fn close(&self) {
        self.state.set(State::Closed);
        self.changed.wake_all();
    }

    /// Waits for a condition of the gate's owner. It is checked whenever the gate changes, and on
    /// [`Gate::wake`].
    pub(crate) async fn until<T>(&self, ready: impl FnMut() -> Option<T>) -> T {
        self.changed.until(ready).await
    }

    /// Makes all waiters check again.
    pub(crate) fn wake(&self) {
        self.changed.wake_all();
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
