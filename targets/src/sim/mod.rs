//! A machine that loses power: simulated memory, disks and scheduling, for tests on any machine.
//!
//! * [`host`]: buffers and payloads that panic when they are used after their release (rule I6),
//!   and a clock that moves only on request.
//! * [`disk`]: a disk that separates submission and completion, with a volatile cache, injected
//!   errors and delays.
//! * [`crash`]: what such a disk may hold after the power has gone: durable writes always, every
//!   other write kept, lost or torn.
//! * [`journal`]: the journal of a snapshot's server, which outlives the process only.
//! * [`losses`]: the record of stores that are no longer valid, which outlives everything.
//! * [`world`]: the executor, the disks and a seeded scheduler that picks what happens next.
//!
//! Everything is a function of its seed. A broken contract is a panic that names the rule, never a
//! silent wrong result. The oracle for the targets is in the tests, which know nothing of the
//! targets' internals.

pub mod crash;
pub mod disk;
pub mod disk_config;
pub mod fault;
pub mod host;
pub mod image;
pub mod journal;
pub mod losses;
pub mod told;
pub mod trace;
pub mod world;

/// A small deterministic generator (splitmix64): tests must not change with a dependency's version.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "there is nothing to choose from");
        // A remainder's bias does not matter for limits this small, and it fits because the limit
        // did.
        usize::try_from(self.next_u64() % limit as u64).unwrap_or(0)
    }

    /// True once in `times` on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Spreads the bits of a number; also the hash of everything simulated.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
