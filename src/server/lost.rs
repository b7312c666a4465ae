//! Devices that another program has stopped or deleted.
//!
//! The kernel gives all of a device's tags back then, and nothing else tells the server. A device that is stopped cannot be
//! started again; so its disks are let go, the rest of it is deleted, and nobody is told any more that it lives.

use super::control::Server;
use super::ending::End;

impl Server {
    /// All tags of a device have ended. If the server itself has not had that done, the device is given up.
    pub(super) fn lose(&mut self, id: u32) {
        let over = self.family.call(move |family| async move {
            family.devices.borrow().get(&id).is_some_and(|device| device.has_ended())
        });
        if !over.unwrap_or(false) {
            return;
        }
        let known = self.devices.get(&id).map(|entry| (entry.name.clone(), entry.info.target_flags));
        let Some((name, cookie)) = known else { return };
        log::error!(
            "{name}: another program has stopped or deleted /dev/ublkb{id}: it is given up, its disks are free"
        );
        match self.take_down(id, cookie, true) {
            Ok(End { lost, wrong }) => {
                self.lost_at_end |= lost.is_some();
                lost.iter().chain(&wrong).for_each(|error| log::error!("{name}: {error}"));
            }
            Err(error) => log::error!("{name}: {error}"),
        }
        self.forget(id);
    }
}
