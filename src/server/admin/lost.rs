//! Devices that another program has stopped or deleted.
//!
//! The kernel then returns all of the device's tags, and the server gets no other notification. A
//! stopped device cannot be started again, so its disks are closed, the rest of it is deleted, and
//! it is no longer reported as live. The server gets no notification for a device that was left
//! out: it asks the kernel about such devices before every command.
//!
//! Rule kept here: what is missing on the COW of such a device is on record before the device is
//! removed from the state file.

use super::ending::End;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::protocol::Problem;
use crate::server::events::tell;

impl<M: Machine> Administrator<M> {
    /// Called when all tags of a device have ended. Unless the server itself ended them, the device
    /// is removed. If that fails, every later command tries again.
    pub fn lose(&mut self, id: u32) {
        let ended = self.machine.has_ended(id);
        let entry = self.devices.get(&id).filter(|_| ended);
        let known = entry.map(|entry| (entry.name.clone(), entry.info.target_flags));
        let Some((name, cookie)) = known else {
            self.kept.remove(&id);
            return;
        };
        let first = self.kept.insert(id);
        if first {
            let why = format!(
                "another program has stopped or deleted /dev/ublkb{id}: its server releases the \
                 device and its disks"
            );
            tell(log::Level::Error, "ended", &name, &[], why);
        }
        match self.take_down(id, cookie, true) {
            Ok(End { lost, wrong, note, .. }) => {
                note.iter().for_each(|note| log::warn!("/dev/ublkb{id}: deleted; {note}"));
                self.lost_at_end |= lost.is_some();
                lost.iter().chain(&wrong).for_each(|error| log::error!("{name}: {error}"));
            }
            Err(error) => {
                // Its target is where it was, and the state file continues to describe it.
                let level = if first { log::Level::Error } else { log::Level::Debug };
                log::log!(level, "{name}: {error}");
                if !mutant::is(Mutant::LostThoughKept) {
                    return;
                }
            }
        }
        self.kept.remove(&id);
        if let Err(why) = self.forget(id) {
            log::error!("{name}: {why}");
        }
    }

    /// Tries again to remove devices that another program has ended. What an unfinished job keeps
    /// is refused at once.
    pub(super) fn lose_kept(&mut self) {
        if mutant::is(Mutant::KeptNotTried) {
            return;
        }
        self.kept.clone().into_iter().for_each(|id| self.lose(id));
    }

    /// Removes devices that were left out and that another program has deleted since. If a COW
    /// cannot be completed, the device stays and the next command tries again. Returns the messages
    /// for the user.
    pub fn notice_stolen(&mut self) -> Vec<Problem> {
        let known: Vec<_> = self.left_out.values().map(|left| left.device.clone()).collect();
        let mut problems = Vec::new();
        for device in known {
            // If the kernel cannot be asked, the device is assumed to exist.
            if !matches!(self.ours(device.id, device.cookie), Ok(None)) {
                continue;
            }
            let released = self.release_left_out(&device);
            let left = released.and_then(|()| self.forget_left_out(&device)).err();
            let what = format!("gone: another program has deleted /dev/ublkb{}", device.id);
            let what = format!("{}: {what}", device.name);
            let why =
                left.map_or_else(|| what.clone().into(), |why| why.after(format!("{what}; ")));
            problems.push(Problem::of(&device, why));
        }
        problems.iter().for_each(|problem| log::error!("{}", problem.why));
        problems
    }
}
