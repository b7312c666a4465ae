//! Taking over the devices of a server that died.
//!
//! Every target is there before any device lives again: requests that waited are sent once more, and an origin's must find
//! all its snapshots.

use super::control::Server;
use crate::failure::Reason;
use crate::protocol::{Answer, DeviceState};
use crate::ublk::device;

impl Server {
    /// Takes over the devices of a server that died.
    pub(super) fn recover(&mut self, devices: Vec<DeviceState>) -> Result<Answer, Reason> {
        self.keep_files = true;
        let mut all = Vec::new();
        for device in devices {
            device::waiting(&mut self.control, device.id, device.cookie)?;
            all.push((self.prepare(device.added, true)?, device.id, device.cookie, device.name));
        }
        // Snapshots before origins.
        all.sort_by_key(|(prepared, ..)| prepared.is_origin());
        let mut served = Vec::new();
        for (prepared, id, cookie, name) in all {
            let info = device::take_over(&mut self.control, id, cookie)?;
            self.serve(&info, &prepared, &name)?;
            self.forget_ticket(&prepared)?;
            served.push((prepared, info, name));
        }
        for (_, info, _) in &served {
            device::start(&mut self.control, info.id, true)?;
        }
        for (prepared, info, name) in served {
            self.keep(prepared, info, name);
        }
        self.keep_files = false;
        Ok(Answer::Recovered { problems: Vec::new() })
    }
}
