//! A new device before the kernel adds it, or before it is taken over.

use dm_targets::table::Table;

use super::devices::{Deps, free_name, is_origins, state_of};
use super::held::Held;
use super::machine::Machine;
use crate::protocol::Cow;
use crate::protocol::{DeviceSpec, DeviceState};
use crate::ublk::{DeviceInfo, Params};

/// A device about to be added or taken over: its target is open and nothing has been written.
pub(super) struct NewDevice<M: Machine> {
    pub(super) params: Params,
    pub(super) target: Held<M::Handle>,
    pub(super) deps: Deps,
    pub(super) read_only: bool,
    /// With unspecified values filled in.
    pub(super) spec: DeviceSpec,
    /// For a persistent snapshot: how its COW is recognized later.
    pub(super) cow: Option<Cow>,
    /// What its user should know.
    pub(super) note: Option<String>,
}

impl<M: Machine> NewDevice<M> {
    pub(super) fn is_origin(&self) -> bool {
        is_origins(&self.spec)
    }

    /// What the next server needs to recreate the device.
    pub(super) fn state(&self, info: &DeviceInfo, name: &str) -> DeviceState {
        // A device whose store is not made is not started, and no server takes it over.
        let mut deps = self.deps.clone();
        deps.set_made();
        DeviceState { cow: self.cow.clone(), ..state_of(info, name, &deps, &self.spec) }
    }
}

/// A generated name, not in `taken`, for a device that was added without one.
pub(super) fn generated_name(table: &Table, id: u32, taken: &[String]) -> String {
    free_name(&format!("{}{id}", table.params.short_name()), taken)
}
