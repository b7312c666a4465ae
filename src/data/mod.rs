//! The data thread of a server, the devices it serves and their queues.

mod account;
mod device;
mod durations;
mod handle;
mod lines;
mod mailbox;
mod owner;
mod place;
#[allow(unsafe_code)]
mod queue;
mod tags;
mod thread;

pub use device::DeviceStats;
pub use handle::{Handle, Left};
pub use owner::Owner;
pub use queue::QueueOptions;
pub use thread::{DataThread, ZEROES, disk_limits, disk_on};
