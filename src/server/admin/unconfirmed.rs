//! A device that an `add` has made and whose user may not know of it.
//!
//! Rule kept here: all that undoing the `add` needs is in one value, and is used in one place
//! ([`super::undo`]).

use dm_targets::group::Ticket;

use crate::protocol::DeviceState;

/// Such a device, from the moment when the kernel has added it.
pub(super) struct Unconfirmed {
    /// What a later server needs to know of the device, as long as there is any of it.
    pub(super) state: DeviceState,
    /// Holds its target open: what its store has overwritten is remembered with it.
    pub(super) ticket: Ticket,
}
