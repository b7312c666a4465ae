//! The end of a server that is told to end (SIGTERM, SIGINT).
//!
//! Devices that are not in use are stopped and deleted. One that is in use must not go: what its
//! users have in memory would be lost, and a file system on it would fail. If it can be recovered
//! it is left waiting for another server: what it has acknowledged is put where it belongs, its
//! requests wait in the kernel, and `recover` goes on with it. One that cannot be recovered keeps
//! the server alive until it is no longer used.
//!
//! Rules kept here: no device is left that the next server would not know of; an origin that may be
//! written again, by the next server, keeps its snapshots; they would miss what it overwrites (I9).

use std::time::Duration;

use dm_targets::table::TargetParams;

use log::Level;

use super::devices::LeftOut;
use super::ending::{End, origins_first};
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::{Administrator, Ending};
use crate::failure::{Failure, Reason};
use crate::ublk::device;

/// How often it is looked whether a device that keeps the server alive is still in use: the kernel
/// tells nobody.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl<M: Machine> Administrator<M> {
    /// Gives up what is not in use, and says what is to become of the rest.
    pub fn shut_down(&mut self) -> Result<(), Reason> {
        let mut stays = Vec::new();
        let mut ids: Vec<u32> = self.devices.keys().copied().collect();
        if !mutant::is(Mutant::SnapshotBeforeOrigin) {
            origins_first(&mut ids, |id| self.is_origin(id));
        }
        for id in ids {
            let beside_origin =
                stays.iter().any(|(other, _)| self.is_origin(*other)) || self.has_waiting_origin();
            let beside_origin = beside_origin && !self.is_origin(id);
            let why = || {
                Failure::from(format!(
                    "/dev/ublkb{id}: its origin is in use, or waits for a server"
                ))
            };
            let why = if beside_origin { Some(why()) } else { self.try_end(id).err() };
            stays.extend(why.map(|why| (id, why)));
        }
        // One that is stopped already has no users whose requests could wait, or die.
        let dies = |id: &u32| {
            let is_stopped = self.refuse_unfinished(*id).is_err() && self.machine.has_ended(*id);
            let entry = self.devices.get(id).filter(|_| !is_stopped);
            entry.is_some_and(|entry| !device::is_recoverable(&entry.info))
        };
        if stays.iter().any(|(id, _)| dies(id)) {
            let hint =
                "; it would die with its server (--no-recovery), which ends once it is unused";
            let fatal = stays.into_iter().filter(|(id, _)| dies(id)).map(|(_, why)| why);
            if let Some(why) = Failure::all(fatal.collect()) {
                self.wait_for_end(Level::Warn, why.ending(hint));
            }
            return Ok(());
        }
        if !stays.is_empty() {
            if let Err(why) = self.ensure_recorded() {
                let hint =
                    "; the devices are served on; the server ends as soon as it can be written";
                let what = "the server cannot end, for the next one would not know its devices";
                self.wait_for_end(Level::Error, why.context(what).ending(hint));
                return Ok(());
            }
        }
        for (id, why) in &stays {
            self.leave_waiting(*id, why);
        }
        self.ending = Ending::Leaves;
        Ok(())
    }

    /// Goes on until the end can be reached, which is tried again every [`LOOK_AGAIN`]. Each reason
    /// is said once.
    fn wait_for_end(&mut self, level: Level, why: Reason) {
        if self.kept_by.as_ref() != Some(&why) {
            log::log!(level, "{why}");
        }
        (self.kept_by, self.ending) = (Some(why), Ending::Waits);
    }

    /// Whether the origin's device was left out and waits: what was sent to it is written when it
    /// is taken over.
    fn has_waiting_origin(&self) -> bool {
        let is_origin = |left: &LeftOut| {
            matches!(left.device.spec.table.params, TargetParams::SnapshotOrigin { .. })
        };
        self.left_out.values().any(|left| left.waits && is_origin(left))
    }

    /// Deletes a device unless it is in use. One that can be recovered is stopped only when its
    /// disks have taken what it had acknowledged: it waits for another server if they do not
    /// answer.
    fn try_end(&mut self, id: u32) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        self.machine.not_in_use(id)?;
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let (cookie, ran) = (entry.info.target_flags, !entry.suspended);
        let held = device::is_recoverable(&entry.info) && ran;
        let first = if held { self.hold(id, true, "shutdown")? } else { Ok(()) };
        let ended = self.take_down(id, cookie, false);
        let End { lost, wrong } = match ended {
            Ok(end) => end,
            Err(why) if held => {
                self.let_through(id, true, "shutdown")?;
                return Err(why);
            }
            Err(why) => return Err(why),
        };
        let lost = first.err().or(lost);
        self.lost_at_end |= lost.is_some();
        lost.iter().chain(&wrong).for_each(|error| log::error!("/dev/ublkb{id}: {error}"));
        if let Err(why) = self.forget(id) {
            // Whether that matters is found out when all have ended that can.
            log::warn!("/dev/ublkb{id}: deleted, but {why}");
        }
        Ok(())
    }

    /// Leaves a device to the next server. Its requests are held back, so that what it has
    /// acknowledged is complete. Where a disk does not answer that stays on record.
    fn leave_waiting(&mut self, id: u32, why: &Failure) {
        let unfinished = self.refuse_unfinished(id);
        let held = unfinished.and_then(|()| self.hold(id, true, "shutdown"));
        if let Err(error) = held.and_then(|held| held) {
            self.lost_at_end = true;
            log::error!("/dev/ublkb{id}: {error}");
        }
        log::warn!(
            "{why}; it is left waiting for another server, and so is its I/O: run `ublk-dm recover \
             {id}`"
        );
    }
}
