//! kcopyd: copies from one disk to several, and zeroing.
//!
//! A [`Client`] belongs to one user (a snapshot's origin, a mirror, a command). It moves data only: it never flushes,
//! never retries and keeps no order between jobs. What it guarantees:
//!
//! * a slice's writes start after its read has completed; all destinations are written in parallel;
//! * memory is bounded: eight slices of 512 KiB a job, and when the shared memory is used up one slice at a time in the
//!   client's own reserve, so that a job always makes progress;
//! * callbacks of one client run one after the other, never inside the call that submitted the job; the same holds for
//!   results handed in through [`Token::fire`];
//! * a read error is reported apart from write errors, and a write error on one destination does not keep the data from
//!   the others.
//!
//! [`Client::copy`] and [`Client::zero`] are awaited; [`Client::submit_copy`] and [`Client::submit_zero`] call back.
//! [`Client::run_parts`] is the form under them: a list of parts that may overlap on the source, for an origin that feeds
//! many snapshots with one read.

mod budget;
mod client;
mod job;
mod part;
mod throttle;

pub use client::{Client, JobLease, MAX_DESTINATIONS, Outcome, Token};
pub use job::{Job, SLICE_SECTORS, SLICES_IN_FLIGHT};
pub use part::{Flags, Part};
pub use throttle::{Admission, Throttle};

#[cfg(test)]
mod tests;
