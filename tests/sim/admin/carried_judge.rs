//! What is looked at of a device and its snapshot in one server: what they show, and how the kernel
//! has them.

use super::carried_stack::{KEY, Lower, Part, Stack, Upper};
use crate::protocol::DeviceRef;
use crate::ublk::DeviceState as DiskState;

impl Stack {
    /// The nodes of devices that are disks of others are read-only, and no others.
    pub fn judge_nodes(&self) -> Result<(), String> {
        let left = self.left();
        let kernel = self.town.site.kernel.borrow();
        for device in self.under.values() {
            let is_disk = left.iter().any(|one| one.joined().any(|lower| lower == *device));
            match kernel.devices.get(&device.id) {
                Some(found) if found.protected != is_disk => {
                    let is = found.protected;
                    return Err(format!("the node of {device:?}: read-only: {is}, not {is_disk}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares what a device shows, if it answers.
    pub fn judge(&mut self, part: Part) -> Result<(), String> {
        // Requests that waited for this server end first.
        if let Some(process) = self.town.processes.get(KEY) {
            drop(self.town.site.run(&process.executor.clone(), || false));
        }
        if part == Lower && self.is_merging() {
            return Ok(());
        }
        let owed = part != Upper || self.upper.as_ref().is_some_and(|known| known.owed);
        match self.read(part) {
            Some(Ok(seen)) => {
                let content = self.content(part).ok_or("an unknown device")?;
                content.judge(&seen).map_err(|why| format!("{part:?} is wrong: {why}"))
            }
            Some(Err(why)) if owed => Err(format!("{part:?} is owed, and fails: {why}")),
            _ => Ok(()),
        }
    }

    /// Whether a snapshot is being merged into the device, as far as the records tell.
    pub fn is_merging(&self) -> bool {
        self.left().iter().any(|one| one.spec.table.params.name() == "snapshot-merge")
    }

    /// The device shows the snapshot from now on.
    pub fn is_merged(&mut self) {
        if let Some(known) = self.upper.take() {
            self.disk = known.content;
        }
    }

    pub fn is_in_use(&self, part: Part) -> bool {
        let kernel = self.town.site.kernel.borrow();
        let id = self.device(part).map(|device| device.id);
        id.and_then(|id| kernel.devices.get(&id)).is_some_and(|device| device.in_use)
    }

    /// Whether no device waits for a server. One that has never been live does not.
    pub fn are_live(&self) -> bool {
        let kernel = self.town.site.kernel.borrow();
        let waits = |state: DiskState| !matches!(state, DiskState::Live | DiskState::Dead);
        !kernel.devices.values().any(|device| waits(device.info.state))
    }

    /// Whether the kernel has no disk for a device: it has never been live, or is stopped.
    pub fn is_dead(&self, device: DeviceRef) -> bool {
        let kernel = self.town.site.kernel.borrow();
        kernel.devices.get(&device.id).is_none_or(|found| found.info.state == DiskState::Dead)
    }
}
