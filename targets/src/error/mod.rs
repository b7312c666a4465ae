//! The `error` target: a range that fails.
//!
//! Every read, write and discard fails with `EIO`. A flush succeeds, as in the kernel: no write was
//! acknowledged here that it could make durable. It takes the place of a disk that must not be used
//! any more, and of ranges that are not to be reached.

pub mod target;
