//! The data thread of a server, the devices it serves and their queues.

mod device;
mod durations;
mod handle;
mod mailbox;
mod owner;
#[allow(unsafe_code)]
mod queue;
mod thread;

pub use device::DeviceStats;
pub use handle::{Handle, Left};
pub use owner::Owner;
pub use queue::QueueOptions;
pub use thread::{DataThread, ZEROES, disk_limits, disk_on};
