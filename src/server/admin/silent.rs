//! Disks that do not answer: detected before any job waits for them.
//!
//! Rule kept here: a disk that hangs affects only the devices that stand on it, and no writer waits
//! for it.

use std::collections::BTreeSet;

use super::machine::Machine;
use crate::failure::Reason;
use crate::protocol::DeviceState;
use crate::storage::silent::no_answer;

/// Disks that have not answered.
pub(super) struct Silent(BTreeSet<String>);

impl Silent {
    /// Probes the disks of the given devices, each once and all at the same time.
    pub(super) fn among<'a, M: Machine>(
        machine: &M,
        devices: impl Iterator<Item = &'a DeviceState>,
    ) -> Silent {
        let disks: BTreeSet<String> = devices.flat_map(DeviceState::opened).collect();
        Silent(machine.silent(&disks))
    }

    /// Refuses the disks if one of them does not answer.
    pub(super) fn on<M: Machine>(
        machine: &M,
        disks: impl IntoIterator<Item = String>,
    ) -> Result<(), Reason> {
        let disks = disks.into_iter().collect();
        machine.silent(&disks).first().map_or(Ok(()), |disk| Err(no_answer(disk)))
    }

    /// Refuses a device that stands on a silent disk.
    pub(super) fn refuse(&self, device: &DeviceState) -> Result<(), Reason> {
        let mut disks = device.spec.table.params.devices().into_iter();
        disks.find(|disk| self.0.contains(disk)).map_or(Ok(()), |disk| Err(no_answer(&disk)))
    }
}
