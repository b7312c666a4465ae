//! Taking over devices in levels: those that carry origins or are disks of others, and what stands
//! on them.
//!
//! Rules kept here: a device whose disks are devices has its target after these have, because it is
//! opened through them. I5 and I9: a device that carries an origin has its target before the
//! origin's snapshots have, and is started after them: its users' waiting requests must find all
//! snapshots.

use super::carried::without_carrier;
use super::held_below::refuse_held_below;
use super::joined::height;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::silent::Silent;
use super::state::Administrator;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceState, Problem};
use crate::ublk::DeviceInfo;

/// A device of a dead server that is served again and not started: its target, what the kernel says
/// of it, and its recorded state.
pub(super) type Again<M> = (NewDevice<M>, DeviceInfo, DeviceState);

/// What has become of a dead server's devices.
pub(super) struct Recovery<M: Machine> {
    pub(super) served: Vec<Again<M>>,
    pub(super) problems: Vec<Problem>,
    /// Why targets could not be opened.
    pub(super) reasons: Vec<Reason>,
}

impl<M: Machine> Default for Recovery<M> {
    fn default() -> Recovery<M> {
        Recovery { served: Vec::new(), problems: Vec::new(), reasons: Vec::new() }
    }
}

impl<M: Machine> Recovery<M> {
    /// Refuses a device whose origin is carried by one that is not served, or one of whose disks is
    /// such a device.
    fn refuse_left(&self, admin: &Administrator<M>, device: &DeviceState) -> Result<(), Reason> {
        let served: Vec<_> = self.served.iter().map(|(.., lower)| lower.device()).collect();
        admin.refuse_without_lower(device, &served)?;
        let Some(carrier) = device.carrier() else { return Ok(()) };
        match served.contains(&carrier) || mutant::is(Mutant::CarrierByNumber) {
            true => Ok(()),
            false => Err(without_carrier(carrier, admin.left_out.get(&carrier.id))),
        }
    }
}

impl<M: Machine> Administrator<M> {
    /// Serves devices, and starts none: each after those on which it stands.
    /// With `together` all or none; otherwise those that cannot be served are left out.
    ///
    /// # Errors
    /// None is served. With `together` this server ends then.
    pub(super) fn serve_levels(
        &mut self,
        devices: Vec<DeviceState>,
        together: bool,
    ) -> Result<Recovery<M>, Reason> {
        let silent = Silent::among(&self.machine, devices.iter());
        let all = devices.clone();
        let mut recovery = Recovery::default();
        for level in levels(devices) {
            if let Err(why) = self.serve_all(level, together, (&silent, &all), &mut recovery) {
                self.give_back(recovery.served);
                return Err(why);
            }
        }
        if recovery.served.is_empty() && recovery.problems.len() == recovery.reasons.len() {
            recovery.reasons.dedup();
            return Err(Failure::all(recovery.reasons)
                .unwrap_or_else(|| "none of its devices exists any more".into()));
        }
        Ok(recovery)
    }

    /// Serves devices of one level. With `together` it stops at the first that cannot be served.
    fn serve_all(
        &mut self,
        devices: Vec<DeviceState>,
        together: bool,
        (silent, all): (&Silent, &[DeviceState]),
        recovery: &mut Recovery<M>,
    ) -> Result<(), Reason> {
        let mut ready = Vec::new();
        for device in devices {
            let answers = silent.refuse(&device).and_then(|()| recovery.refuse_left(self, &device));
            let answers = answers.and_then(|()| refuse_held_below(&device, all));
            match answers.and_then(|()| self.make_ready(&device)) {
                Ok(prepared) => ready.push((prepared, device)),
                Err(why) if together => return Err(not_recovered(&device, why).why),
                Err(why) => {
                    recovery.problems.push(self.leave_out(device, why.clone()));
                    recovery.reasons.push(why);
                    if mutant::is(Mutant::StopAtFirst) {
                        break;
                    }
                }
            }
        }
        // Snapshots before origins.
        ready.sort_by_key(|(prepared, _)| prepared.is_origin());
        for (prepared, device) in ready {
            match self.serve_again(&prepared, &device) {
                Ok((info, lost)) => {
                    let own = lost.into_iter().chain(now_invalid(&device));
                    recovery.problems.extend(own.map(|why| Problem::of(&device, why)));
                    recovery.served.push((prepared, info, device));
                }
                Err(why) if together => return Err(not_recovered(&device, why).why),
                Err(why) => recovery.problems.push(self.leave_out(device, why)),
            }
        }
        Ok(())
    }

    /// Serves those left-out devices that carry the origins of others, which are taken over before
    /// these are started: each after that on which it stands. They wait, and are on record as
    /// before, until [`Administrator::start_waiting`].
    pub(super) fn serve_carriers(&mut self, ids: &[u32], problems: &mut Vec<Problem>) -> Vec<u32> {
        let mut ids: Vec<u32> = ids.iter().copied().filter(|id| self.is_carrier(*id)).collect();
        self.sort_bottom_up(&mut ids);
        let mut carriers = Vec::new();
        for id in ids {
            let Some(left) = self.left_out.get(&id) else { continue };
            let device = left.now();
            let ready = self.make_ready(&device);
            let served = ready.and_then(|prepared| {
                let (info, lost) = self.serve_again(&prepared, &device)?;
                let own = lost.into_iter().chain(now_invalid(&device));
                problems.extend(own.map(|why| Problem::of(&device, why)));
                Ok((prepared, info))
            });
            match served {
                Ok((prepared, info)) => {
                    self.left_out.remove(&id);
                    self.keep_waiting((prepared, info, device));
                    carriers.push(id);
                }
                Err(why) => problems.push(not_recovered(&device, why)),
            }
        }
        carriers
    }
}

/// Devices by their height, those that stand on none of the server first.
fn levels(devices: Vec<DeviceState>) -> Vec<Vec<DeviceState>> {
    let heights: Vec<usize> = devices.iter().map(|one| height(one.id, &devices)).collect();
    let mut levels = vec![Vec::new(); heights.iter().max().map_or(1, |most| most + 1)];
    for (device, height) in devices.into_iter().zip(heights) {
        levels[height].push(device);
    }
    levels
}

/// The message that a device has no server yet.
pub(super) fn not_recovered(device: &DeviceState, why: Failure) -> Problem {
    Problem::of(device, why.context(format!("{}: not recovered", device.name)))
}

/// The message that a device is served again, but invalid.
pub(super) fn now_invalid(device: &DeviceState) -> Option<Reason> {
    let why = "its origin was changed while its COW could not be opened";
    (device.lost && !device.is_unmade())
        .then(|| format!("{}: it has a server again, but is invalid: {why}", device.name).into())
}

/// The recorded state of a device that has been taken over.
pub(super) fn served_state<M: Machine>(
    prepared: &NewDevice<M>,
    info: &DeviceInfo,
    device: &DeviceState,
) -> DeviceState {
    let DeviceState { suspended, loaded, .. } = device;
    DeviceState {
        suspended: *suspended,
        loaded: loaded.clone(),
        ..prepared.state(info, &device.name)
    }
}
