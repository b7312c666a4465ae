//! The cleaner of a mirror: one task that makes regions clean when nobody has written them for a while.
//!
//! Rules kept here: the second half of I7 (regions become clean, and stale legs are forgotten, only after a flush of all
//! legs that started after the last write or copy to them had completed).

use std::pin::pin;
use std::task::Poll;

use super::target::{Mirror, State};
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Regions cleaned after one flush of the legs.
const BATCH: usize = super::regions::Regions::MAX_IDLE;

impl Mirror {
    /// Cleans regions until the mirror is closed.
    pub(super) async fn clean_loop(&self) {
        let mut taken = Vec::new();
        while self.cleaning_due().await {
            self.clean(self.clean_delay_ms.get(), &mut taken).await;
        }
    }

    /// Waits until some region has been left alone for long enough; `false` at the mirror's end.
    async fn cleaning_due(&self) -> bool {
        let mut due = pin!(self.idle.until(|| {
            let due =
                self.forget_stale.get() || self.next_cleaning_ms().is_some_and(|at_ms| at_ms <= self.host.now_ms());
            if self.closing.get() { Some(false) } else { due.then_some(true) }
        }));
        std::future::poll_fn(|cx| {
            let waits = due.as_mut().poll(cx);
            if let (Poll::Pending, Some(at_ms)) = (&waits, self.next_cleaning_ms()) {
                self.host.wake_at(at_ms, cx.waker());
            }
            waits
        })
        .await
    }

    fn next_cleaning_ms(&self) -> Option<u64> {
        self.state.borrow().regions.next_idle_ms(self.clean_delay_ms.get())
    }

    /// Makes a batch of regions clean that nobody has touched for `delay_ms`; says whether there were any.
    pub(super) async fn clean(&self, delay_ms: u64, taken: &mut Vec<RegionIndex>) -> bool {
        taken.clear();
        self.state.borrow_mut().regions.take_idle(self.host.now_ms(), delay_ms, BATCH, taken);
        let forget = self.forget_stale.replace(false);
        if taken.is_empty() && !forget {
            return false;
        }
        self.cleaning.set(self.cleaning.get() + 1);
        let failed =
            if mutant::is(Mutant::CleanWithoutFlush) { Default::default() } else { self.flush_before_cleaning().await };
        if failed.is_empty() {
            self.cleaned(taken, forget);
        } else {
            self.flush_missed(failed);
        }
        self.cleaning.set(self.cleaning.get() - 1);
        self.quiet.wake_all();
        true
    }

    fn cleaned(&self, taken: &[RegionIndex], forget: bool) {
        let in_sync = {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            regions.finish_cleaning(taken, |region| self.log.clear(region));
            legs.in_sync()
        };
        // What the stale legs got is durable, and nothing has failed since.
        if forget && in_sync {
            self.remember_stale();
        }
        self.log.request();
        self.released.wake_all();
    }
}
