//! The server: its process, its control thread, and what it says about its devices.

mod control;
mod devices;
mod listener;
pub mod process;
mod recover;
mod report;
mod table;
mod targets;

pub use control::Server;
