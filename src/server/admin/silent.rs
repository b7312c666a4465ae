//! Disks that do not answer: found out before anything waits for them.
//!
//! Rule kept here: one disk that hangs keeps nothing down but the devices that stand on it, and no
//! writer waits for it.

use std::collections::BTreeSet;

use super::machine::Machine;
use crate::failure::Reason;
use crate::protocol::DeviceState;
use crate::storage::silent::no_answer;

/// Disks that have not answered.
pub(super) struct Silent(BTreeSet<String>);

impl Silent {
    /// Asks the disks of some devices, each once and all at the same time.
    pub(super) fn among<'a, M: Machine>(
        machine: &M,
        devices: impl Iterator<Item = &'a DeviceState>,
    ) -> Silent {
        let disks: BTreeSet<String> =
            devices.flat_map(|device| device.spec.table.params.devices()).collect();
        Silent(machine.silent(&disks))
    }

    /// Refuses disks of which one does not answer.
    pub(super) fn on<M: Machine>(
        machine: &M,
        disks: impl IntoIterator<Item = String>,
    ) -> Result<(), Reason> {
        let disks = disks.into_iter().collect();
        machine.silent(&disks).first().map_or(Ok(()), |disk| Err(no_answer(disk)))
    }

    /// Refuses a device that stands on one of them.
    pub(super) fn refuse(&self, device: &DeviceState) -> Result<(), Reason> {
        let mut disks = device.spec.table.params.devices().into_iter();
        disks.find(|disk| self.0.contains(disk)).map_or(Ok(()), |disk| Err(no_answer(&disk)))
    }
}
