//! Power cuts after the fact: what a disk with a volatile cache may hold at any moment of a
//! recorded load.
//!
//! The load runs over `dm-log-writes`, which keeps every write in the order in which it became
//! durable. Afterwards [`log`] reads that record, [`replay`] makes the states in which a cut may
//! leave the disk, and [`judge`] compares each with [`history`], which knows the writes that had
//! been acknowledged and flushed by then. Nothing here touches a device, so thousands of cuts take
//! seconds; a few are written to disks and really opened (`cases::powercut`).

pub mod history;
pub mod log;
pub mod oracle;
pub mod replay;
