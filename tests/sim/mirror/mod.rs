//! Mirrors: what users and administrators see, and crashes at every moment.
//!
//! [`rig`] is a mirror on disks of any kind that does one thing after the other; [`conduct`] and [`table`] say with it how
//! mirrors behave. [`explore`] crashes them.

mod conduct;
pub mod rig;
mod table;
