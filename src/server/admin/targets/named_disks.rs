//! Disks that a command has given by the name of a device of ublk-dm.
//!
//! Rule kept here: such a disk is the device that had the name when the command was given. Tables
//! have its path, whose number the kernel reuses, so the number is compared with the device's
//! cookie when the disk is open: from then on the device keeps the number.

use crate::failure::Reason;
use crate::protocol::DeviceRef;
use crate::server::admin::machine::Machine;
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;
use crate::ublk::device::BLOCK_PATH;

impl<M: Machine> Administrator<M> {
    /// Refuses open disks, by their words, if one was named and its number is another device's by
    /// now.
    pub(in crate::server::admin) fn refuse_renumbered(
        &mut self,
        words: &[String],
        named: &[DeviceRef],
    ) -> Result<(), Reason> {
        for device in named {
            let path = format!("{BLOCK_PATH}{}", device.id);
            let is_used = words.contains(&path) && !mutant::is(Mutant::NamedByNumber);
            if is_used && self.ours(device.id, device.cookie)?.is_none() {
                return Err(device.replaced());
            }
        }
        Ok(())
    }
}
