//! The server: its process, its control thread, and what it says about its devices.

mod control;
mod devices;
mod ending;
pub mod environment;
pub mod health;
mod listener;
pub mod logging;
mod lost;
pub mod manager;
pub mod orphan;
mod prepared;
pub mod process;
mod recover;
mod report;
mod shutdown;
mod signals;
mod table;
mod targets;
mod undo;

pub use control::Server;
