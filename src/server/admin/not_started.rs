//! Devices that this server has taken over but that the kernel has not started: their targets are
//! active and their queues are served, and their users wait.
//!
//! Rules kept here: no request is carried out before the device is about to be started: kernels can
//! send requests as soon as all queues are served, when an origin may not have all its snapshots
//! yet (I5, I9). Such a device is shown as waiting for `recover`, and every `recover` tries again
//! to start it. It is not removed: a snapshot that left its origin for that would be lost, and an
//! origin's other devices would have to end.

use super::devices::{Device, LeftOut, ranges_of};
use super::levels::Again;
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{Command, DeviceState, Problem};
use crate::ublk::device::{no_longer_waits, replaced};
use crate::ublk::{DeviceInfo, DeviceState as DiskState};

impl<M: Machine> Administrator<M> {
    /// Refuses a command on a device that this server has left out, except for those that end it
    /// or take it over.
    pub(super) fn refuse_left_out(&self, command: &Command) -> Result<(), Reason> {
        let ends = matches!(command, Command::Del { .. } | Command::Retire { .. });
        if ends || matches!(command, Command::RecoverLeftOut { .. }) {
            return Ok(());
        }
        let left = command.devices().iter().find_map(|device| self.left_out.get(&device.id));
        left.map_or(Ok(()), |LeftOut { device: DeviceState { name, .. }, .. }| {
            let hint = format!("`ublk-dm recover {name}` gives it one");
            Err(format!("{name}: it waits for a server; {hint}").into())
        })
    }

    /// Starts a dead server's device and adds it to this server's devices, started or not, in its
    /// earlier state: suspended, or with an inactive table.
    pub(super) fn start_again(
        &mut self,
        prepared: NewDevice<M>,
        info: DeviceInfo,
        device: DeviceState,
    ) -> Result<(), Problem> {
        let DeviceState { id, ref name, suspended, ref loaded, .. } = device;
        let carried = self.carry_again(&device);
        let ready = carried.and_then(|()| self.let_users_in(id));
        let started = ready.and_then(|()| self.machine.start(id, true));
        drop(self.keep(prepared, info, name.clone()));
        if let Some(entry) = self.devices.get_mut(&id) {
            (entry.suspended, entry.loaded) = (suspended, loaded.clone());
            if mutant::is(Mutant::KeptWishForgotten) {
                entry.spec.merge.iter_mut().for_each(|options| options.keep = false);
            }
            entry.waits = started.is_err() && !mutant::is(Mutant::NotStartedIsLive);
        }
        self.keep_legs_of_ranges(id);
        started.map_err(|why| not_started(&device, why))?;
        self.finish_growth(id);
        log::info!("{name}: /dev/ublkb{id} is live");
        Ok(())
    }

    /// Counts a device of a dead server among this server's that is served and not started.
    pub(super) fn keep_waiting(&mut self, (prepared, info, device): Again<M>) {
        let DeviceState { id, name, suspended, loaded, .. } = device;
        drop(self.keep(prepared, info, name));
        if let Some(entry) = self.devices.get_mut(&id) {
            (entry.waits, entry.suspended, entry.loaded) = (true, suspended, loaded);
        }
    }

    /// Records what is lost when a device is started while others are still left out.
    fn lose_before_start(&mut self, device: &DeviceState) -> Result<(), Reason> {
        if !self.changes_origin_of_left(device) || mutant::is(Mutant::CarrierStartedFirst) {
            return Ok(());
        }
        self.lose_left_out(device)?;
        self.record(None)
    }

    /// Starts those of the devices that the kernel has not started, snapshots before their origin.
    /// Returns why the kernel still does not.
    pub(super) fn start_waiting(&mut self, ids: &[u32]) -> Vec<Problem> {
        let waits = |id: &&u32| self.devices.get(id).is_some_and(|entry| entry.waits);
        let mut ids: Vec<u32> = ids.iter().filter(waits).copied().collect();
        ids.sort_by_key(|id| self.is_origin(*id));
        self.sort_top_down(&mut ids);
        let problems = ids.into_iter().filter_map(|id| self.start_one(id).err()).collect();
        self.publish();
        problems
    }

    /// A mirror may have been left for these ranges just before the server ended.
    fn keep_legs_of_ranges(&mut self, id: u32) {
        let ranges = self.devices.get(&id).and_then(|entry| ranges_of(&entry.spec.table));
        if ranges.is_some() && !mutant::is(Mutant::LeftLegsOverwritten) {
            self.keep_left_legs(id);
        }
    }

    /// The users of a device continue, unless it is suspended.
    pub(super) fn let_users_in(&self, id: u32) -> Result<(), Reason> {
        self.machine.call(move |thread| async move {
            if let Some(device) = thread.group().device(id) {
                device.release_users();
            }
        })
    }

    fn start_one(&mut self, id: u32) -> Result<(), Problem> {
        let Some(device) = self.devices.get(&id).map(Device::state) else { return Ok(()) };
        let started = match self.ours(id, device.cookie) {
            Err(why) => Err(why),
            Ok(None) => Err(replaced(id)),
            // An earlier attempt, no longer waited for, has succeeded.
            Ok(Some(info)) if info.state == DiskState::Live => self.let_users_in(id),
            Ok(Some(info)) if info.state == DiskState::Dead => Err(no_longer_waits(id, &info)),
            Ok(Some(_)) => {
                let ready = self.lose_before_start(&device);
                let ready = ready.and_then(|()| self.carry_again(&device));
                let ready = ready.and_then(|()| self.let_users_in(id));
                ready.and_then(|()| self.machine.start(id, true))
            }
        };
        started.map_err(|why| not_started(&device, why))?;
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.waits = false;
        }
        self.keep_legs_of_ranges(id);
        self.finish_growth(id);
        log::info!("{}: /dev/ublkb{id} is live", device.name);
        Ok(())
    }
}

fn not_started(device: &DeviceState, why: Reason) -> Problem {
    let name = &device.name;
    let why = why
        .context(format!("{name}: not recovered"))
        .ending(format!("; the device waits, and `ublk-dm recover {name}` tries again"));
    Problem::of(device, why)
}
