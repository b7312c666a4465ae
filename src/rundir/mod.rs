//! The run directory: a socket and a state file per server, a journal per COW, and the locks that
//! serialize commands ([`lock`]); in `log/` are the logs of servers, which outlive the servers.
//!
//! State files are replaced durably and atomically ([`durable`]). Only the owner can access the
//! directory (mode 0700), because its content is trusted.

mod boot;
mod claims;
pub mod departed;
mod directory;
pub mod durable;
mod ended;
pub mod journal;
mod legs;
mod lock;
pub mod lost;
pub mod made_of;
mod reserved;
mod server;
mod state;
mod written;

#[cfg(all(test, feature = "mutants"))]
pub use claims::devices_among;
pub use claims::{all_among, is_made_of, needs};
pub use departed::Unmerged;
pub use directory::{EVENTS, OLDER, RunDir, VARIABLE, family_key};
pub use lock::FamilyLock;
pub use reserved::Reserved;
pub use server::Server;
pub use state::State;
