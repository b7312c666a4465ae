//! The data thread of a server, the devices it serves and their queues.

mod caller;
mod device;
mod handle;
mod mailbox;
#[allow(unsafe_code)]
mod queue;
mod thread;

pub use caller::{Caller, Left};
pub use device::DeviceStats;
pub use handle::Handle;
pub use queue::QueueOptions;
pub use thread::{DataThread, disk_limits, disk_on};
