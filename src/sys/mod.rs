//! System calls that no safe crate has: mappings, a signal, inherited and closed descriptors,
//! schedules, and queries of an open disk; and work in separate processes.

pub mod apart;
#[allow(unsafe_code)]
pub mod descriptors;
#[allow(unsafe_code)]
pub mod disk;
#[allow(unsafe_code)]
pub mod limits;
#[allow(unsafe_code)]
pub mod mapping;
#[allow(unsafe_code)]
pub mod scheduling;
#[allow(unsafe_code)]
pub mod stdout;
