//! How fast a merge runs: at a number of bytes per second, or as fast as the disks; and how fast it
//! has been. Pure: the caller passes the time.

use std::num::NonZeroU64;

use crate::units::Sectors;

/// Batches of a merge that has a rate.
const BATCHES_A_SECOND: u64 = 4;

/// When the next batch may begin.
#[derive(Default)]
pub(super) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    next_ms: u64,
    /// When the first batch began that is measured, and what has been merged since.
    since_ms: Option<u64>,
    measured_bytes: u64,
}

impl Pace {
    /// Sets the rate; `None` is as fast as the disks.
    pub(super) fn set(&mut self, bytes_per_second: Option<NonZeroU64>) {
        *self = Pace { bytes_per_second, ..Pace::default() };
    }

    /// The rate that it must not exceed.
    pub(super) fn limit(&self) -> Option<NonZeroU64> {
        self.bytes_per_second
    }

    /// Most that a batch may copy: with a rate what it allows in a quarter of a second, so that a
    /// slow merge does not copy in bursts, nor a server that takes it over begin with one.
    pub(super) fn batch(&self) -> Sectors {
        let bytes = self.bytes_per_second.map_or(u64::MAX, |rate| rate.get() / BATCHES_A_SECOND);
        Sectors::from_bytes(bytes)
    }

    /// The merge has rested: what was measured before says nothing of what follows.
    pub(super) fn measure_again(&mut self) {
        (self.since_ms, self.measured_bytes) = (None, 0);
    }

    /// A batch has been merged.
    pub(super) fn end(&mut self, bytes: u64) {
        self.measured_bytes = self.measured_bytes.saturating_add(bytes);
    }

    /// Bytes per second since the rate was set, or the merge has rested; `None` until a batch has
    /// been merged.
    pub(super) fn rate(&self, now_ms: u64) -> Option<NonZeroU64> {
        let elapsed_ms = now_ms.saturating_sub(self.since_ms?).max(1);
        let rate = self.measured_bytes.saturating_mul(1000) / elapsed_ms;
        let limit = self.bytes_per_second.map_or(u64::MAX, NonZeroU64::get);
        // The first batch of a slow merge does not take long; the pause after it does.
        NonZeroU64::new(rate.min(limit))
    }

    /// When the next batch may begin, if not now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        (self.next_ms > now_ms).then_some(self.next_ms)
    }

    /// A batch begins. Time that was not used before is not made up for.
    pub(super) fn begin(&mut self, bytes: u64, now_ms: u64) {
        self.since_ms.get_or_insert(now_ms);
        let Some(rate) = self.bytes_per_second else { return };
        let takes_ms = bytes.saturating_mul(1000) / rate;
        self.next_ms = self.next_ms.max(now_ms).saturating_add(takes_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_over_many_batches_and_can_be_changed() {
        let mut pace = Pace::default();
        pace.begin(1 << 40, 0);
        assert_eq!(pace.waits_until(0), None, "as fast as the disks");
        pace.set(NonZeroU64::new(1 << 20));
        let mut now_ms = 0;
        for _ in 0..10 {
            now_ms = pace.waits_until(now_ms).unwrap_or(now_ms);
            pace.begin(4 << 20, now_ms);
        }
        assert_eq!(pace.waits_until(now_ms), Some(40_000), "40 MiB at 1 MiB a second");
        pace.begin(1 << 20, 100_000);
        assert_eq!(pace.waits_until(100_000), Some(101_000), "the disks were slower");
        pace.set(None);
        assert_eq!(pace.waits_until(100_000), None);
    }

    #[test]
    fn a_batch_of_a_slow_merge_is_small() {
        let mut pace = Pace::default();
        assert!(pace.batch() > Sectors(1 << 40), "others limit it");
        pace.set(NonZeroU64::new(1 << 20));
        assert_eq!(pace.batch(), Sectors(512), "256 KiB");
    }

    #[test]
    fn the_measured_rate_is_that_since_the_last_change() {
        let mut pace = Pace::default();
        assert_eq!(pace.rate(5), None, "nothing has been merged");
        pace.begin(1000, 2000);
        pace.end(1000);
        assert_eq!(pace.rate(4000), NonZeroU64::new(500));
        pace.measure_again();
        assert_eq!(pace.rate(9000), None, "it has rested");
        pace.set(NonZeroU64::new(100));
        pace.begin(1000, 10_000);
        pace.end(1000);
        assert_eq!(pace.rate(10_001), NonZeroU64::new(100), "it cannot be faster than its limit");
        assert_eq!(pace.rate(30_000), NonZeroU64::new(50));
    }
}
