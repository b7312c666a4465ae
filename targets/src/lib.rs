//! The data path.
#![forbid(unsafe_code)]
