//! Devices that another program has stopped or deleted.
//!
//! The kernel gives all of a device's tags back then, and nothing else tells the server. A device
//! that is stopped cannot be started again; so its disks are let go, the rest of it is deleted, and
//! nobody is told any more that it lives. Of a device that was left out nothing tells the server
//! anything: the kernel is asked for it before every command.
//!
//! Rule kept here: what the COW of such a device is owed is on record before nothing tells of it
//! any more.

use super::ending::End;
use super::machine::Machine;
use super::state::Administrator;
use crate::failure::Reason;

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

    /// Gives up devices that were left out and that another program has deleted meanwhile. One
    /// whose COW cannot get what it is owed stays, and the next command tries again. Returns what
    /// is to be said of them.
    pub fn notice_stolen(&mut self) -> Vec<Reason> {
        let known: Vec<_> = self.left_out.values().map(|left| left.device.clone()).collect();
        let mut problems = Vec::new();
        for device in known {
            // One of which nothing can be known is there.
            if !matches!(self.ours(device.id, device.cookie), Ok(None)) {
                continue;
            }
            let released = self.release_left_out(&device);
            let left = released.and_then(|()| self.forget_left_out(&device)).err();
            let left = left.map_or_else(String::new, |why| format!("; {why}"));
            let what = format!("gone: another program has deleted /dev/ublkb{}", device.id);
            problems.push(format!("{}: {what}{left}", device.name).into());
        }
        problems.iter().for_each(|why| log::error!("{why}"));
        problems
    }
}
