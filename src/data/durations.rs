//! How long a device's requests take, counted as they end.
//!
//! Rules kept here: a request that ends allocates nothing; and time is that of the rounds
//! ([`Ring::round_ns`](crate::ring::Ring::round_ns)), so the clock is read once for all requests
//! that arrive or end in one.

use dm_targets::request::RequestKind;

use crate::protocol::{self, BOUNDS_NS};

/// Ranges: one more than there are bounds.
const RANGES: usize = BOUNDS_NS.len() + 1;
/// Kinds of requests.
const KINDS: usize = 4;

/// The durations of one kind.
#[derive(Clone, Copy, Default)]
struct Histogram {
    counts: [u64; RANGES],
    sum_ns: u64,
}

impl Histogram {
    fn add(&mut self, ns: u64) {
        let range = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.counts[range] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    fn object(&self) -> protocol::Histogram {
        protocol::Histogram { counts: self.counts.to_vec(), sum_ns: self.sum_ns }
    }
}

/// The durations of a device's requests.
#[derive(Default)]
pub(super) struct Durations([Histogram; KINDS]);

impl Durations {
    /// Counts a request that has ended.
    pub(super) fn add(&mut self, kind: RequestKind, ns: u64) {
        let place = match kind {
            RequestKind::Read => 0,
            RequestKind::Write { .. } => 1,
            RequestKind::Flush => 2,
            RequestKind::Discard => 3,
        };
        self.0[place].add(ns);
    }

    /// The counts for a report.
    pub(super) fn object(&self) -> protocol::Durations {
        let [reads, writes, flushes, discards] = self.0.map(|one| one.object());
        protocol::Durations { reads, writes, flushes, discards }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_range_that_it_does_not_exceed() {
        let mut all = Durations::default();
        for ns in [0, 9_999, 10_000, 10_001, 30_000, 999_999_999, 10_000_000_000, 10_000_000_001] {
            all.add(RequestKind::Write { fua: true }, ns);
        }
        all.add(RequestKind::Flush, u64::MAX);
        let object = all.object();
        let filled = |of: &protocol::Histogram| {
            let counts = of.counts.iter().enumerate().filter(|(_, count)| **count > 0);
            counts.map(|(range, count)| (range, *count)).collect::<Vec<_>>()
        };
        assert_eq!(filled(&object.writes), [(0, 3), (1, 2), (10, 1), (12, 1), (13, 1)]);
        assert_eq!(object.writes.sum_ns, 21_000_060_000);
        assert_eq!((filled(&object.flushes), object.flushes.sum_ns), (vec![(13, 1)], u64::MAX));
        assert!(filled(&object.reads).is_empty() && object.reads.counts.len() == RANGES);
        assert!(BOUNDS_NS.is_sorted());
    }
}
