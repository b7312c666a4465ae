//! Crashes at every moment, judged by a naive model. Needs nothing but time.
//!
//! [`explore`](explore::explore) runs a workload on simulated disks with the real code. At every
//! step it determines what the disks may hold if the power fails or the process dies now, and opens
//! these images with the real code, with a second loader that knows only the kernel's rules, and
//! with the [`model`], which knows only what was acknowledged. Some of the images are used further,
//! with another workload and another crash.
//!
//! A failure prints its workload, made as short as possible, its seed and all events. `SIM_SEED=n`
//! shifts all seeds, to run the same tests over other interleavings.
#![allow(clippy::unwrap_used)]

mod behaviour;
mod carried;
mod counts;
mod departed;
mod exhaustive;
mod explore;
mod faults;
mod fuzz;
mod journal;
mod kernel;
mod left;
mod linear;
mod losses;
mod merge;
mod mirror;
mod model;
mod mutants;
mod oracle;
mod origins;
mod ownership;
mod pattern;
mod scenarios;
mod seeded;
mod segments;
mod stack;
mod stacked;
mod told;
mod unmake;
mod workload;

/// Added to every seed: the environment's `SIM_SEED`, or zero.
pub fn seed_base() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
