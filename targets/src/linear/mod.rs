//! The `linear` target: a range of one disk as a device.
//!
//! Every request is passed to the disk immediately, shifted by the offset of the range, and its
//! result is the disk's, errno included. There is no state, so a suspend only waits for requests in
//! flight, and a server that takes over has nothing to restore. Flushes, FUA and discards keep
//! their meaning: the device guarantees what the disk guarantees.
//!
//! Rule kept here: sectors outside the range are never touched. They belong to other users.

pub mod table;
pub mod target;
