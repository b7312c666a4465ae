//! The `zero` target: a range that reads as zeroes.
//!
//! Writes and discards succeed and change nothing, as in the kernel. A target never sees payload
//! bytes, so the zeroes are read from a *source*: a disk that holds nothing else.

pub mod target;
