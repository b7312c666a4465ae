//! How fast a merge runs: at a number of bytes per second, or as fast as the disks. Pure: the
//! caller passes the time.

use std::num::NonZeroU64;

/// When the next batch may begin.
#[derive(Default)]
pub(super) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    next_ms: u64,
}

impl Pace {
    /// Sets the rate; `None` is as fast as the disks.
    pub(super) fn set(&mut self, bytes_per_second: Option<NonZeroU64>) {
        *self = Pace { bytes_per_second, next_ms: 0 };
    }

    /// When the next batch may begin, if not now.
    pub(super) fn waits_until(&self, now_ms: u64) -> Option<u64> {
        (self.next_ms > now_ms).then_some(self.next_ms)
    }

    /// A batch begins. Time that was not used before is not made up for.
    pub(super) fn begin(&mut self, bytes: u64, now_ms: u64) {
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
}
