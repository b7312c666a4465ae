//! Devices of a simulated server as disks of others.

use dm_targets::disk::Buffer;
use dm_targets::units::Sector;

use super::kernel::gone;
use super::machine::SimMachine;
use super::open::{HEAD, SimOpen};
use crate::failure::Reason;
use crate::protocol::DeviceRef;
use crate::server::admin::machine::Machine;
use crate::storage::{OpenError, OpenErrorKind};
use crate::ublk::device::as_own_disk;

impl SimMachine {
    /// A device of the process as a disk.
    pub(super) fn own_disk(&self, device: DeviceRef, path: &str) -> Result<SimOpen, OpenError> {
        let fail = |kind| OpenError { path: path.into(), kind };
        let missing = || fail(OpenErrorKind::Missing);
        let id = device.id;
        let (disk, known) = self.node(id).ok_or_else(missing)?;
        let params = self.site.kernel.borrow().devices.get(&id).map(|found| found.params.clone());
        let limits = as_own_disk(&params.ok_or_else(missing)?);
        let wanted = path.to_owned();
        let head = self.call(move |thread| async move {
            let device = thread.group.device(id)?;
            let size = device.target().size()?;
            if device.is_suspended() {
                // Nothing of it is looked at.
                return Some((size, Vec::new()));
            }
            let (disk, count) = (thread.group.disk_of(id, &wanted), HEAD.min(size));
            let len = u32::try_from(count.bytes()).unwrap();
            let buffer = Buffer::acquire(&thread.group.host, len)?;
            disk.read(Sector(0), count, buffer.at(0)).await.ok()?;
            let mut bytes = vec![0; len as usize];
            buffer.read(0, &mut bytes);
            Some((size, bytes))
        });
        let head = head.ok().flatten().ok_or_else(missing)?;
        Ok(SimOpen::of_own((device, disk, known), path, head, limits))
    }

    /// Changes a device's node, if it is not like that.
    pub(super) fn set_protected(&self, device: DeviceRef, read_only: bool) -> Result<(), Reason> {
        let is = self.site.kernel.borrow().devices.get(&device.id).map(|found| found.protected);
        if is == Some(read_only) {
            return Ok(());
        }
        self.act(|kernel| {
            let found = kernel.devices.get_mut(&device.id).ok_or_else(|| gone(device.id))?;
            found.protected = read_only;
            Ok(())
        })
    }
}
