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
            let DeviceState { id, cookie, name, spec, suspended, loaded, .. } = device;
            let prepared = self.prepare(spec, Some(&name), true)?;
            all.push((prepared, id, cookie, name, (suspended, loaded)));
        }
        // Snapshots before origins.
        all.sort_by_key(|(prepared, ..)| prepared.is_origin());
        let mut served = Vec::new();
        for (prepared, id, cookie, name, held) in all {
            let info = device::take_over(&mut self.control, id, cookie)?;
            self.serve(&info, &prepared, &name)?;
            self.forget_ticket(&prepared)?;
            if held.0 {
                // What was held back before is held back again, from the first request on.
                self.hold(id, true)??;
            }
            served.push((prepared, info, name, held));
        }
        for (_, info, ..) in &served {
            device::start(&mut self.control, info.id, true)?;
        }
        for (prepared, info, name, (suspended, loaded)) in served {
            let id = info.id;
            self.keep(prepared, info, name);
            if let Some(entry) = self.devices.get_mut(&id) {
                (entry.suspended, entry.loaded) = (suspended, loaded);
            }
        }
        self.save();
        self.keep_files = false;
        Ok(Answer::Recovered { problems: Vec::new() })
    }
}
