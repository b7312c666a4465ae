//! The copy throttle: a share of wall time during which at least one copy of a group of clients may
//! be in flight.
//!
//! Pure: the caller passes the time. The numbers are the kernel's: a window of 1.024 s after which
//! both sums decay, pauses of 100 ms, and at most ten of them before an operation is admitted
//! anyway, so that even 0 % makes progress.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How long an operation pauses before its next attempt.
pub const PAUSE_MS: u64 = 100;
/// Pauses after which an operation is admitted whatever the share.
pub const MAX_PAUSES: u32 = 10;
/// Length of the accounting window.
const WINDOW_MS: u64 = 1024;
/// The share from which on there is no limit.
const UNLIMITED_PERCENT: u32 = 100;

/// What to do with an operation that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Start it, and call [`Throttle::done`] when it has ended.
    Admitted,
    /// Retry after 100 ms.
    Pause,
}

#[derive(Default)]
struct Sums {
    in_flight: u32,
    busy_ms: u64,
    total_ms: u64,
    last_ms: u64,
}

/// A throttle shared by any number of copy clients. Clones share its state.
#[derive(Clone)]
pub struct Throttle {
    percent: Rc<Cell<u32>>,
    sums: Rc<RefCell<Sums>>,
}

impl Throttle {
    /// A throttle with a share in percent; there is no limit at 100 and more.
    pub fn new(percent: u32) -> Throttle {
        Throttle { percent: Rc::new(Cell::new(percent)), sums: Rc::default() }
    }

    /// Changes the share, at any time.
    pub fn set_percent(&self, percent: u32) {
        self.percent.set(percent);
    }

    /// Whether the throttle uses the time.
    pub fn counts_time(&self) -> bool {
        self.percent.get() < UNLIMITED_PERCENT
    }

    /// Requests the start of an operation. `pauses` is the number of its pauses so far.
    pub fn admit(&self, now_ms: u64, pauses: u32) -> Admission {
        let mut sums = self.sums.borrow_mut();
        let percent = self.percent.get();
        if percent < UNLIMITED_PERCENT {
            sums.account(now_ms);
            let allowed = sums.total_ms * u64::from(percent) / 100;
            if sums.busy_ms > allowed && pauses < MAX_PAUSES {
                return Admission::Pause;
            }
        }
        sums.in_flight += 1;
        Admission::Admitted
    }

    /// An admitted operation has ended.
    pub fn done(&self, now_ms: u64) {
        let mut sums = self.sums.borrow_mut();
        if sums.in_flight == 1 && self.percent.get() < UNLIMITED_PERCENT {
            sums.account(now_ms);
        }
        sums.in_flight = sums.in_flight.saturating_sub(1);
    }
}

impl Sums {
    fn account(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        self.total_ms += passed;
        if self.in_flight > 0 {
            self.busy_ms += passed;
        }
        if self.total_ms >= WINDOW_MS {
            let bits = u64::BITS - (self.total_ms / WINDOW_MS).leading_zeros();
            self.total_ms >>= bits;
            self.busy_ms >>= bits;
        }
        self.busy_ms = self.busy_ms.min(self.total_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs operations of 10 ms one after the other and returns the share of time during which one
    /// was in flight.
    fn share(percent: u32) -> f64 {
        let throttle = Throttle::new(percent);
        let (mut now, mut busy) = (0_u64, 0_u64);
        while now < 100_000 {
            let mut pauses = 0;
            while throttle.admit(now, pauses) == Admission::Pause {
                now += PAUSE_MS;
                pauses += 1;
            }
            now += 10;
            busy += 10;
            throttle.done(now);
        }
        busy as f64 / now as f64
    }

    #[test]
    fn the_share_of_busy_time_follows_the_percentage() {
        assert!((share(100) - 1.0).abs() < 1e-9);
        assert!((share(50) - 0.5).abs() < 0.05, "{}", share(50));
        assert!((share(10) - 0.1).abs() < 0.03, "{}", share(10));
        assert!(share(0) > 0.0, "even nothing makes progress");
    }
}
