//! The data thread of a server, the devices it serves and their queues.

mod device;
#[allow(unsafe_code)]
mod queue;
mod thread;

pub use device::{Device, DeviceStats, Events, Opened, Served};
pub use queue::QueueOptions;
pub use thread::{Caller, Family, FamilyHandle, disk_limits, disk_on};
