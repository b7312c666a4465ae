//! Deleting a device whose server is dead: the command itself acts.

use std::rc::Rc;

use super::commands::to_line;
use super::machine::SimMachine;
use super::site::Site;
use super::town::Town;
use crate::failure::Failure;
use crate::protocol::DeviceState;
use crate::server::admin::machine::{Machine, Records};
use crate::server::admin::{self, Incomplete};

impl Town {
    pub(super) fn del_orphan(
        &mut self,
        key: &'static str,
        id: u32,
        cookie: u64,
        force: bool,
    ) -> Result<(), String> {
        // The command acts itself, and its end does not end a server.
        self.acting = None;
        if !force {
            return Err("its server has died".to_owned());
        }
        let mut left = self.left(key)?;
        let Some(at) = left.iter().position(|device| device.id == id && device.cookie == cookie)
        else {
            return Err("not in the state file".to_owned());
        };
        let device = left.remove(at);
        self.site.impatient.set(true);
        let completed = delete_orphan(&self.site, key, &device, &left).map_err(to_line);
        self.site.impatient.set(false);
        let completed = completed?;
        if left.is_empty() {
            let is_owed = completed.as_ref().is_err_and(|incomplete| incomplete.owed);
            let own = completed.map_err(|incomplete| to_line(incomplete.why));
            let others = self.forget_gone(key, Some((device, is_owed)));
            return own.and(others);
        }
        let mut stay = self.state(key)?;
        stay.retain(|other| other.cookie != cookie);
        let is_owed = completed.as_ref().is_err_and(|incomplete| incomplete.owed);
        let directory = self.site.directory(key);
        let saved = if is_owed { Ok(()) } else { directory.write_state(stay) };
        completed.map_err(|incomplete| to_line(incomplete.why))?;
        saved.map_err(to_line)
    }
}

/// Deletes a device whose server is dead. The inner result is the work that is left.
fn delete_orphan(
    site: &Rc<Site>,
    key: &'static str,
    device: &DeviceState,
    left: &[DeviceState],
) -> Result<Result<(), Incomplete>, Failure> {
    let mut machine = SimMachine::start(site, key, u32::MAX)?;
    admin::record_left_behind(&machine, device, left)?;
    machine.stop(device.id)?;
    machine.delete(device.id)?;
    Ok(admin::complete(SimMachine::start(site, key, u32::MAX - 1)?, device))
}
