//! Mirrors: what users and administrators see, and crashes at every moment.
//!
//! [`fixture`] is a mirror on disks of any kind that does one thing after the other; `behaviour`,
//! `table` and `life` say with it how mirrors behave. [`explore`] crashes what [`cases`] make.

mod behaviour;
pub mod cases;
mod copies;
pub mod explore;
pub mod fixture;
mod life;
pub mod mutants;
mod oracle;
mod record;
mod table;
mod take_over;

use std::hash::{DefaultHasher, Hash, Hasher};

/// Tells states apart that differ in what stands beside the disks.
fn fingerprint(of_model: u64, left: &oracle::Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{left:?}").hash(&mut hasher);
    of_model ^ hasher.finish()
}
