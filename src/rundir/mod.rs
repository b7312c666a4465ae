//! The run directory: a socket and a state file per server, notes per COW, and the locks that
//! commands take turns with ([`lock`]); and in `log/` the logs of servers, which stay when those
//! are gone.
//!
//! State files are replaced durably and as a whole ([`durable`]). The directory belongs to its user
//! alone (mode 0700), because what stands in it is believed.

mod boot;
mod claims;
pub mod departed;
mod directory;
pub mod durable;
pub mod journal;
mod legs;
mod lock;
pub mod lost;
mod server;
mod state;

#[cfg(test)]
pub use claims::is_made_of;
pub use directory::{RunDir, VARIABLE, family_key};
pub use lock::FamilyLock;
pub use server::Server;
pub use state::State;
