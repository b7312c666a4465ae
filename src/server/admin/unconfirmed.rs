//! The device that was added last: what its store has overwritten is remembered until the next
//! command.

use dm_targets::group::Ticket;

use crate::protocol::{Cow, DeviceRef};

/// A device whose user may not have been told of it yet. Its target is still open by itself.
pub(super) struct Unconfirmed {
    pub(super) device: DeviceRef,
    pub(super) ticket: Ticket,
    /// Of a snapshot that outlives its server: by what its COW is known again.
    pub(super) cow: Option<Cow>,
}
