//! What the administrator does for each kind of target before and beside the data path.

mod circle;
mod content;
mod disks;
mod linear;
mod lost;
mod messages;
mod mirror;
mod snapshot;
