//! Snapshots.
pub mod format;
