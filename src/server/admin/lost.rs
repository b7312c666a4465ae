//! Devices that another program has stopped or deleted.
//!
//! The kernel gives all of a device's tags back then, and nothing else tells the server. A device
//! that is stopped cannot be started again; so its disks are let go, the rest of it is deleted, and
//! nobody is told any more that it lives.

use super::ending::End;
use super::machine::Machine;
use super::state::Administrator;

impl<M: Machine> Administrator<M> {
    /// All tags of a device have ended. If the server itself has not had that done, the device is
    /// given up.
    pub fn lose(&mut self, id: u32) {
        if !self.machine.has_ended(id) {
            return;
        }
        let known =
            self.devices.get(&id).map(|entry| (entry.name.clone(), entry.info.target_flags));
        let Some((name, cookie)) = known else { return };
        log::error!(
            "{name}: another program has stopped or deleted /dev/ublkb{id}: it is given up, its \
             disks are free"
        );
        match self.take_down(id, cookie, true) {
            Ok(End { lost, wrong }) => {
                self.lost_at_end |= lost.is_some();
                lost.iter().chain(&wrong).for_each(|error| log::error!("{name}: {error}"));
            }
            Err(error) => log::error!("{name}: {error}"),
        }
        if let Err(why) = self.forget(id) {
            log::error!("{name}: {why}");
        }
    }
}
