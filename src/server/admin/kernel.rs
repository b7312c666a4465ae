//! The kernel's devices, identified by their cookies.
//!
//! Rule kept here: a number may belong to another program's device by now; a device is ours only if
//! it has the cookie that it was given.

use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::ublk::DeviceInfo;
use crate::ublk::device::{is_ours, must_wait, replaced};

impl<M: Machine> Administrator<M> {
    /// The kernel's info about a device of ours; `None`: the device is gone, and its number may
    /// belong to another device now.
    pub(super) fn ours(&mut self, id: u32, cookie: u64) -> Result<Option<DeviceInfo>, Reason> {
        Ok(self
            .machine
            .info(id)?
            .filter(|info| is_ours(info, cookie) || mutant::is(Mutant::NumberTrusted)))
    }

    /// A device of ours that waits for a server.
    pub(super) fn waiting(&mut self, id: u32, cookie: u64) -> Result<DeviceInfo, Reason> {
        must_wait(id, self.ours(id, cookie)?)
    }

    /// Takes over a device whose server has died.
    pub(super) fn take_over(&mut self, id: u32, cookie: u64) -> Result<DeviceInfo, Reason> {
        self.waiting(id, cookie)?;
        self.machine.start_recovery(id)?;
        self.ours(id, cookie)?.ok_or_else(|| replaced(id))
    }
}
