//! device-mapper's snapshot, mirror, linear, error and zero targets, and the two services that they
//! use, over an abstract disk.
//!
//! This crate is the data path of `ublk-dm`. It knows no ublk, no io_uring, no files, threads,
//! clocks or logging: disks, memory and time are passed in through [`disk`], and it runs on the
//! executor in [`exec`]. So every rule about the safety of data is here, and is tested on any
//! machine in microseconds, with disks that lose power.
//!
//! Three ideas carry it:
//!
//! 1. *Decide, then do.* What a request must do next is a pure function on plain state
//!    (`snapshot::exceptions`, `snapshot::format`, `mirror::regions`, `mirror::legs`,
//!    `mirror::format`). The asynchronous code around it is thin, and holds no borrow across an
//!    await.
//! 2. *A target never sees payload bytes.* It moves handles ([`disk::Memory`]). Only metadata has
//!    bytes.
//! 3. *One seam.* Every disk operation passes [`disk::Disk`].
//!
//! Another program can use it, too: [`io`], [`copy`] and [`snapshot`] show how, on disks in memory
//! ([`ram`]).
//!
//! Modules use only those above them in this list: [`units`] and [`hash`], [`disk`] and [`exec`]
//! with `gate`, [`io`] (dm-io), [`copy`] (kcopyd), [`request`], [`snapshot`], [`mirror`],
//! [`linear`], [`error`] and [`zero`], which do not use each other, [`segments`] (several of the
//! last three side by side), and [`table`]. Above them are [`target`], [`device`],
//! [`stack`] (a device as a disk), `origins` and [`group`].
//!
//! # The rules that keep data safe
//!
//! They are numbered where they act in the code:
//!
//! * **I1** a copied chunk is durable before the record that points to it
//! * **I2** the next metadata area is durably zero before the record that fills the current one
//! * **I3** exceptions become visible in the order they were allocated
//! * **I4** an origin write waits until snapshot reads of the old chunk have drained
//! * **I5** an origin write is issued only when every valid snapshot of that origin has a durable
//!   record for the chunk
//! * **I6** memory outlives the operation that uses it; a request is completed exactly once
//! * **I7** a dirty bit is durable before any leg is written; it is cleared only after all legs
//!   completed and were flushed
//! * **I8** a merge flushes the origin before it removes records
//! * **I9** a snapshot that can no longer be valid is durably marked invalid before the write that
//!   makes it wrong
//! * **I10** a write that was acknowledged survives the death of the server; one that was flushed,
//!   the loss of power
#![forbid(unsafe_code)]

pub mod copy;
pub mod device;
pub mod disk;
pub mod error;
pub mod exec;
mod gate;
pub mod group;
pub mod hash;
pub mod io;
pub mod linear;
pub mod mirror;
pub mod mutant;
mod origins;
pub mod ram;
pub mod request;
pub mod segments;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod snapshot;
pub mod stack;
pub mod table;
pub mod target;
pub mod units;
pub mod words;
pub mod zero;
