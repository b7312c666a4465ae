//! The origins that the targets of a server have opened, by the devices that carry them.
//!
//! Rule kept here: an origin that a device carries ends with that device: another one with its
//! number has another origin.

use crate::protocol::{DeviceRef, KnownDisk};
use crate::storage::{DiskId, Limits};

/// An origin that a target has opened. It may have no user any more.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) disk: DiskId,
    pub(super) limits: Limits,
    pub(super) read_only: bool,
    /// It has other users.
    pub(super) shared: bool,
    /// How its disk is recognized later, and which device of the server carries it.
    pub(super) known: KnownDisk,
}

/// The origins of a server.
#[derive(Default)]
pub(super) struct Origins(Vec<Origin>);

impl Origins {
    /// The origin that a device carries, or that none does.
    pub(super) fn of(&self, carrier: Option<DeviceRef>) -> Option<&Origin> {
        self.0.iter().find(|origin| origin.known.device == carrier)
    }

    /// The same, to change what is known of it.
    pub(super) fn of_mut(&mut self, carrier: Option<DeviceRef>) -> Option<&mut Origin> {
        self.0.iter_mut().find(|origin| origin.known.device == carrier)
    }

    /// Those that devices carry.
    pub(super) fn carried(&self) -> impl Iterator<Item = &Origin> {
        self.0.iter().filter(|origin| origin.known.device.is_some())
    }

    /// Whether no target has opened one.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Remembers an origin, in the place of one with the same carrier.
    pub(super) fn set(&mut self, origin: Origin) {
        self.0.retain(|other| other.known.device != origin.known.device);
        self.0.push(origin);
    }

    /// The origin has ended with the device that carried it.
    pub(super) fn end(&mut self, id: u32) {
        self.0.retain(|origin| origin.known.device.is_none_or(|carrier| carrier.id != id));
    }
}
