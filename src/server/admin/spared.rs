//! What the end of a service may not delete: a service manager ends and starts services in any
//! order, and a restart of one of them must not lose anything.
//!
//! Rule kept here: a snapshot is kept while its origin's device could be written without it. (That
//! a device in use is kept is the rule of `del`.)

use dm_targets::table::TargetParams;

use super::devices::Device;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceState, Reply};

impl<M: Machine> Administrator<M> {
    /// Deletes a device at the end of its service.
    pub(super) fn retire(&mut self, id: u32) -> Result<Reply, Reason> {
        if !mutant::is(Mutant::RetiredAnyway) {
            self.refuse_loss(id)?;
        }
        self.del(&[id], false)
    }

    /// Refuses a snapshot whose origin has a device that stays: one made for that origin, or the
    /// origin itself if it is in use. (A device that is the origin can only be deleted after the
    /// snapshot.)
    fn refuse_loss(&self, id: u32) -> Result<(), Reason> {
        let served = self.devices.get(&id).map(Device::state);
        let state = served.or_else(|| self.left_out.get(&id).map(|left| left.device.clone()));
        let is_snapshot =
            |state: &DeviceState| matches!(state.spec.table.params, TargetParams::Snapshot(_));
        let Some(state) = state.filter(is_snapshot) else { return Ok(()) };
        let lost = |why: Reason, origin: &str| {
            let what = "would be written without this snapshot, which would be lost";
            why.context(format!("its origin {origin} {what}"))
        };
        let stays = |what: &str| Failure::new(Kind::InUse, what);
        for origin in self.origins_devices_of(&state) {
            let is_it = state.carrier().is_some_and(|carrier| carrier.id == origin.info.id);
            let free = match is_it {
                true => self.machine.not_open(origin.info.id).map_err(Failure::without_end),
                false => Err(stays("it is up")),
            };
            free.map_err(|why| lost(why, &origin.name))?;
        }
        match self.left_origins_devices_of(&state).next() {
            Some(origin) => Err(lost(stays("it waits for a server"), &origin.name)),
            None => Ok(()),
        }
    }
}
