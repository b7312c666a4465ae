//! The device that was added last: what its store has overwritten is kept until the next command.

use dm_targets::group::Ticket;

use crate::protocol::{Cow, DeviceRef};

/// A device whose user may not know of it yet. Its ticket still holds its target open.
pub(super) struct Unconfirmed {
    pub(super) device: DeviceRef,
    pub(super) ticket: Ticket,
    /// For a persistent snapshot: how its COW is recognized later.
    pub(super) cow: Option<Cow>,
}
