//! A device that an `add` has made and whose user may not know of it.
//!
//! Rule kept here: all that undoing the `add` needs is in one value, and is used in one place
//! ([`super::undo`]).

use super::devices::Device;
use super::held::Held;
use super::thread::ThreadHandle;
use crate::protocol::DeviceState;

/// Such a device, from the moment when the kernel has added it.
pub(super) struct Unconfirmed<C: ThreadHandle> {
    /// What a later server needs to know of the device, as long as there is any of it.
    pub(super) state: DeviceState,
    /// Its target: what its store has overwritten is remembered with it.
    pub(super) target: Held<C>,
    /// The suspended device whose mirror it has taken, as it was.
    pub(super) passed_on: Option<Device>,
}
