//! What the server does for each kind of target before and beside the data path.

mod circle;
mod cow_journal;
pub(super) mod lost;
pub mod mirror;
pub mod mirror_messages;
mod snapshot;
