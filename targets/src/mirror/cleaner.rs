//! The cleaner of a mirror: one task that cleans regions that have been idle for a while.
//!
//! Rules kept here: the second half of I7 (regions become clean, and stale flags are removed, only
//! after a flush of all legs that started after the last write or copy to them had completed). At
//! least one leg that the log does not flag as stale has been flushed since it was recovered.

use std::pin::pin;
use std::task::Poll;

use super::target::{Mirror, State};
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Most regions cleaned after one flush of the legs.
const BATCH: usize = super::regions::Regions::MAX_IDLE;

impl Mirror {
    /// Cleans regions until the mirror is closed.
    pub(super) async fn clean_loop(&self) {
        let mut taken = Vec::new();
        while self.cleaning_due().await {
            self.clean(self.cleaner.delay_ms.get(), &mut taken).await;
        }
    }

    /// Waits until a region has been idle for long enough; `false` at the mirror's end.
    async fn cleaning_due(&self) -> bool {
        let mut due = pin!(self.cleaner.wanted.until(|| {
            let due = self.cleaner.flags_pending.get()
                || self.next_cleaning_ms().is_some_and(|at_ms| at_ms <= self.host.now_ms());
            if self.requests.gate.is_closed() { Some(false) } else { due.then_some(true) }
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
        self.state.borrow().regions.next_idle_ms(self.cleaner.delay_ms.get())
    }

    /// Cleans a batch of regions that no write has touched for `delay_ms`; returns `false` if there
    /// was no work.
    pub(super) async fn clean(&self, delay_ms: u64, taken: &mut Vec<RegionIndex>) -> bool {
        taken.clear();
        self.state.borrow_mut().regions.take_idle(self.host.now_ms(), delay_ms, BATCH, taken);
        let flags = self.cleaner.flags_pending.get();
        if taken.is_empty() && !flags {
            return false;
        }
        self.cleaner.batches.set(self.cleaner.batches.get() + 1);
        let sources = self.state.borrow().legs.sources();
        let failed = if mutant::is(Mutant::CleanWithoutFlush) {
            Default::default()
        } else {
            self.flush_before_cleaning().await
        };
        {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            legs.mark_flushed(sources.without(failed));
            if failed.is_empty() {
                regions.finish_cleaning(taken, |region| self.log.clear(region));
            } else {
                regions.fail_flush();
                legs.miss(failed);
            }
        }
        if flags || !failed.is_empty() {
            // A failed flush is not repeated: surviving data cannot be told from lost data.
            let put = self.put_stale();
            self.cleaner.flags_lost.set(!put);
            self.cleaner.flags_pending.set(false);
        }
        self.log.request();
        self.requests.released.wake_all();
        self.cleaner.batches.set(self.cleaner.batches.get() - 1);
        self.operation_ended.wake_all();
        true
    }
}
