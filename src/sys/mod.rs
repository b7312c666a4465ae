//! System calls that no safe crate has: mappings, and questions about an open disk.

#[allow(unsafe_code)]
pub mod disk;
#[allow(unsafe_code)]
pub mod mapping;
