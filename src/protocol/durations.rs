//! How long requests have taken: a count for each range of durations, as Prometheus' histograms
//! have them.

use serde::{Deserialize, Serialize};

/// The upper bounds of the ranges, in nanoseconds: two for each power of ten, from 10 us to 10 s.
/// What takes longer is in one more range.
pub const BOUNDS_NS: [u64; 13] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

/// The durations of a device's requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Requests in each range; one more than there are bounds. Empty: not known.
    pub counts: Vec<u64>,
    /// The sum of all durations, in nanoseconds.
    pub sum_ns: u64,
}

/// The durations of a device's requests since its server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    pub reads: Histogram,
    pub writes: Histogram,
    pub flushes: Histogram,
    pub discards: Histogram,
}
