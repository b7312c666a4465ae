//! Mirrors: what users and administrators see, and crashes at every moment.
//!
//! [`fixture`] is a mirror on disks of any kind that carries out one operation after another;
//! `behaviour`, `table` and `lifecycle` use it to test how mirrors behave. [`explore`] crashes the
//! workloads of [`cases`].

mod behaviour;
pub mod cases;
mod copies;
pub mod explore;
mod first;
mod first_again;
pub mod fixture;
mod given_up;
mod grow;
mod known;
mod lifecycle;
pub mod mutants;
mod named;
mod oracle;
mod record;
mod table;
mod take_over;

use std::hash::{DefaultHasher, Hash, Hasher};

/// Distinguishes states that differ in data other than the disks.
fn fingerprint(of_model: u64, left: &oracle::Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{left:?}").hash(&mut hasher);
    of_model ^ hasher.finish()
}
