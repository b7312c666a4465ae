//! A device that is deleted and made again, of the same disks by the same table. Snapshots that
//! have left it are snapshots of the new device, like those of a disk, as long as nobody has
//! written to the disks in between.
//!
//! Rules kept here: I9. Once this program writes to the disks of a device that is gone
//! ([`MadeOf`]), the next device on them is another origin, which only the user can take for the
//! same. It is another one, too, until it is certain that it knows of its snapshots and nothing
//! has been written through it before: an end of the server in between makes nothing up. No
//! snapshot is recorded as lost for what only may have changed.

use super::devices::Deps;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceRef, DeviceSpec, KnownDisk, Part};
use crate::rundir::departed::Departure;
use crate::rundir::made_of::MadeOf;
use crate::ublk::device::BLOCK_PATH;

impl<M: Machine> Administrator<M> {
    /// Leaves on record what a device is made of that is stopped and about to be deleted, for the
    /// snapshots that have left it. Its disks are still claimed. If that fails, the next device on
    /// them is another origin.
    pub(super) fn leave_made_of(&self, id: u32) {
        let Some(entry) = self.devices.get(&id) else { return };
        let device = DeviceRef { id, cookie: entry.info.target_flags };
        let Some(origin) = self.origins.of(Some(device)) else { return };
        let Some(made_of) = MadeOf::of(&entry.spec, &entry.deps.known()) else { return };
        let records = self.machine.records();
        let leave = || {
            for departure in records.departures(&origin.known, &[])? {
                let made_of = Some(made_of.clone());
                records.record_departure(&Departure { made_of, ..departure })?;
            }
            Ok(())
        };
        leave().unwrap_or_else(|why: Reason| log::warn!("{}: {why}", entry.name));
    }

    /// The snapshots that had left the device that a new one is again. (They are those of a device
    /// that is gone, until [`Administrator::take_up`]: the new one is about to write its disks.)
    ///
    /// # Errors
    /// The records cannot be read.
    pub(super) fn find_departed(
        &self,
        deps: &Deps,
        spec: &DeviceSpec,
    ) -> Result<Vec<Departure>, Reason> {
        let Some(own) = MadeOf::of(spec, &deps.known()) else { return Ok(Vec::new()) };
        let records = self.machine.records();
        let mut found = records.departures_of_gone()?;
        found.retain(|left| left.made_of.as_ref().is_some_and(|made_of| made_of.is(&own)));
        found.iter_mut().for_each(|departure| departure.made_of = None);
        Ok(found)
    }

    /// A disk is about to be written: no device that was made of these parts of it (of any, if
    /// there are none) is made again as the same one.
    ///
    /// # Errors
    /// That cannot be recorded.
    pub(super) fn part_from_gone(&self, disk: &KnownDisk, parts: &[Part]) -> Result<(), Reason> {
        if mutant::is(Mutant::MadeOfForgotten) {
            return Ok(());
        }
        self.machine.records().part_from_gone(disk, parts).map_err(|why| {
            why.context("that a deleted snapshot's origin is written cannot be recorded")
        })
    }

    /// Has a device that has just been started know the snapshots that have left it. If something
    /// has been written meanwhile, they are lost.
    pub(super) fn take_up(&mut self, device: DeviceRef, departed: &[Departure]) {
        if departed.is_empty() {
            return;
        }
        if let Err(why) = self.carry_departed(device, departed) {
            let what = "the snapshots of it that were deleted are those of another device";
            log::warn!("/dev/ublkb{}: {what}: {why}", device.id);
        }
    }

    fn carry_departed(&mut self, device: DeviceRef, left: &[Departure]) -> Result<(), Reason> {
        let DeviceRef { id, .. } = device;
        let origin = self.claim_carried(&format!("{BLOCK_PATH}{id}"), device, None)?;
        self.restore_departures_of(origin.disk, left.to_vec())?;
        if self.is_written(id)? && !mutant::is(Mutant::MadeAgainUnlooked) {
            return self.lose_departed_of(id);
        }
        let KnownDisk { number: origin_number, place, .. } = origin.known;
        left.iter().try_for_each(|departure| {
            let (place, departure) = (place.clone(), departure.clone());
            self.machine.records().record_departure(&Departure {
                origin_number,
                place,
                ..departure
            })
        })
    }

    /// Whether something was written through a device.
    fn is_written(&self, id: u32) -> Result<bool, Reason> {
        self.machine.call(move |thread| async move {
            thread.group().device(id).is_none_or(|device| device.is_written())
        })
    }
}
