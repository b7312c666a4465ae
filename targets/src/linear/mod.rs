//! The `linear` target: a range of one disk as a device.
//!
//! Every request goes to the disk at once, moved by the offset where the range starts, and its
//! result is the disk's, errno included. There is no state, so suspending it means no more than
//! waiting for what is in flight, and a server that takes over has nothing to find out. Flushes,
//! FUA and discards keep their meaning: what the disk promises, the device promises.
//!
//! Rule kept here: nothing outside the range is touched. What lies beside it is other people's
//! data.

pub mod table;
pub mod target;
