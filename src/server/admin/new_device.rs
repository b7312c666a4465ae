//! A device on its way: what is known of it before the kernel adds it, or before it is taken over.

use dm_targets::group::Ticket;
use dm_targets::table::{Table, TargetParams};

use super::devices::{Deps, free_name, state_of};
use crate::protocol::Cow;
use crate::protocol::{DeviceSpec, DeviceState};
use crate::ublk::{DeviceInfo, Params};

/// A device about to be added or taken over: its target is open and nothing has been written.
pub(super) struct NewDevice {
    pub(super) params: Params,
    /// Names the opened target to the data thread.
    pub(super) ticket: Ticket,
    pub(super) deps: Deps,
    pub(super) read_only: bool,
    /// With what was left open in it settled.
    pub(super) spec: DeviceSpec,
    /// Of a snapshot that outlives its server: by what its COW is known again.
    pub(super) cow: Option<Cow>,
}

impl NewDevice {
    pub(super) fn is_origin(&self) -> bool {
        matches!(self.spec.table.params, TargetParams::SnapshotOrigin { .. })
    }

    /// How the device is made again after this server's death.
    pub(super) fn state(&self, info: &DeviceInfo, name: &str) -> DeviceState {
        DeviceState { cow: self.cow.clone(), ..state_of(info, name, &self.deps, &self.spec) }
    }
}

/// The name of a device that has been given none: one that no other device has.
pub(super) fn generated_name(table: &Table, id: u32, taken: &[String]) -> String {
    free_name(&format!("{}{id}", table.params.short_name()), taken)
}
