//! The server: its process, its control thread, and its reports about its devices.

pub mod admin;
pub mod claims;
mod compare;
mod control;
mod cow_journal;
pub mod environment;
mod events;
pub mod facts;
pub mod health;
mod listener;
mod live;
pub mod logging;
pub mod manager;
mod merge_report;
pub mod orphan;
pub mod process;
pub mod report;
mod signals;
pub mod upgrade;
pub mod users;

pub use admin::{Incomplete, complete_gone, left_by_dead_server};
pub use control::Server;
pub use live::{complete, record_left_behind};
