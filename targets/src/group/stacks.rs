//! Devices of the process below others: the origin that a device carries, and a device as a disk.

use std::rc::Rc;

use super::Group;
use crate::copy;
use crate::device::{Device, OpenTarget};
use crate::disk::{Disk, DiskKey, Limits};
use crate::snapshot::origin::Origin;
use crate::stack;
use crate::target::Target;
use crate::units::Sectors;

/// The limits of a device that is gone.
const GONE: Limits = Limits {
    logical_block_bytes: 512,
    physical_block_bytes: 512,
    volatile_cache: true,
    read_only: false,
    max_discard: Sectors(0),
    discard_granularity_bytes: 0,
    max_write_zeroes: Sectors(0),
};

impl Group {
    /// Has a device carry the origin of a disk that is the device itself, and waits until no
    /// request of its users is under way past that origin. `name` is the disk's.
    ///
    /// # Errors
    /// There is no such device, or no memory.
    pub async fn carry(&self, id: u32, key: DiskKey, name: &str) -> Result<Rc<Origin>, String> {
        let device = self.device(id).ok_or("the device is gone")?;
        let origin = match device.carried() {
            Some(origin) => origin,
            None => {
                let copy = self.upper_copy(self.height(&device));
                let copy = copy.ok_or("no memory for the copies of its snapshots")?;
                let disk = stack::disk(&self.executor, name, &device, stack::SLOTS);
                let (disk, watch) = disk.ok_or("the device has no table")?;
                self.stacks.borrow_mut().push(watch);
                self.origins.get_or(key, || Origin::new(disk, copy))
            }
        };
        device.carry(origin.clone()).await;
        Ok(origin)
    }

    /// A device of this process as a disk of another one's target: its operations are requests to
    /// the device, which holds them while it is suspended. A device that is gone fails them.
    ///
    /// The device carries no origin: operations would pass its snapshots.
    pub fn disk_of(&self, id: u32, name: &str) -> Disk {
        let open = |device: &Rc<Device>| stack::disk(&self.executor, name, device, stack::SLOTS);
        let opened = self.device(id).as_ref().and_then(open);
        let (disk, watch) = opened.unwrap_or_else(|| {
            let opened = OpenTarget { target: Target::Nothing, events: Rc::default() };
            let gone = Rc::new(Device::new(opened));
            gone.end_requests();
            stack::with_slots(&self.executor, name, &gone, 1, (Sectors(0), GONE))
        });
        let mut stacks = self.stacks.borrow_mut();
        stacks.retain(stack::Watch::is_there);
        stacks.push(watch);
        disk
    }

    /// A device carries no origin any more that has no snapshot, and none that has left it.
    /// Returns whether it carried such a one.
    pub fn put_down_unused(&self, id: u32) -> bool {
        let Some(device) = self.device(id) else { return false };
        let Some(origin) = device.carried().filter(|origin| origin.is_unused()) else {
            return false;
        };
        drop(device.put_down());
        self.origins.end(origin);
        self.forget_unused_origins();
        true
    }

    /// The device that carries an origin.
    pub fn carrier_of(&self, origin: &Rc<Origin>) -> Option<Rc<Device>> {
        let carries = |device: &&Rc<Device>| {
            device.carried().is_some_and(|carried| Rc::ptr_eq(&carried, origin))
        };
        self.devices().values().find(carries).cloned()
    }

    /// How many devices that carry origins are below a device: it is a snapshot of one, and so on.
    fn height(&self, device: &Device) -> usize {
        let Target::Snapshot(snapshot) = device.target() else { return 0 };
        let below = self.origins.of(&snapshot).and_then(|origin| self.carrier_of(&origin));
        // It ends: a snapshot is opened after the device that carries its origin.
        below.map_or(0, |below| 1 + self.height(&below))
    }

    /// The client that copies for origins on devices of a height. Each height has its own reserve:
    /// what the copies of one wait for may need those of the heights below.
    fn upper_copy(&self, height: usize) -> Option<copy::Client> {
        let mut upper = self.upper.borrow_mut();
        while upper.len() <= height {
            upper.push(copy::Client::new(&self.executor, &self.host, None)?);
        }
        upper.get(height).cloned()
    }

    /// The oldest operation of each origin that a device carries and that is not complete, as the
    /// name of its disk and a number. One that the device holds is not in flight on any disk.
    pub fn oldest_carried(&self) -> Vec<(String, u64)> {
        let mut stacks = self.stacks.borrow_mut();
        stacks.retain(stack::Watch::is_there);
        stacks.iter().filter_map(stack::Watch::oldest).collect()
    }
}
