//! Mirrors: what users and administrators see, and crashes at every moment.
//!
//! [`rig`] is a mirror on disks of any kind that does one thing after the other; `conduct`, `table` and `life` say with it
//! how mirrors behave. [`explore`] crashes what [`cases`] make.

pub mod cases;
mod conduct;
pub mod explore;
mod judge;
mod life;
pub mod mutants;
mod record;
pub mod rig;
mod table;
mod take_over;

use std::hash::{DefaultHasher, Hash, Hasher};

/// Tells states apart that differ in what stands beside the disks.
fn fingerprint(of_model: u64, left: &judge::Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{left:?}").hash(&mut hasher);
    of_model ^ hasher.finish()
}
