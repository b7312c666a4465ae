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
pub mod rig;
mod table;
