//! The shutdown of a server (SIGTERM, SIGINT).
//!
//! Devices that are not in use are stopped and deleted. A device in use must not be deleted: its
//! users' unwritten data would be lost, and a file system on it would fail. If it can be recovered,
//! it is left waiting for another server: its acknowledged writes are completed, its requests wait
//! in the kernel (or fail there, if it was added for that), and `recover` continues with it. One
//! that cannot be recovered keeps the server alive until it is no longer used.
//!
//! Rules kept here: no device is left that the next server would not know of; an origin that the
//! next server may write again keeps its snapshots: they would miss what it overwrites (I9).

use std::time::Duration;

use log::Level;

use super::devices::{Device, is_origins};
use super::ending::{End, origins_first};
use super::machine::{Machine, Records};
use super::mutant::{self, Mutant};
use super::state::{Administrator, Ending};
use crate::failure::{Failure, Reason};
use crate::ublk::device;

/// How often a device that keeps the server alive is checked for users: the kernel does not notify
/// the server.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl<M: Machine> Administrator<M> {
    /// Deletes the devices that are not in use, and decides what happens to the others.
    pub fn shut_down(&mut self) -> Result<(), Reason> {
        let mut stays = Vec::new();
        let mut ids: Vec<u32> = self.devices.keys().copied().collect();
        self.sort_top_down(&mut ids);
        // Nothing stands on an origin's device, however high its snapshots are.
        if !mutant::is(Mutant::SnapshotBeforeOrigin) {
            origins_first(&mut ids, |id| self.is_origin(id));
        }
        for id in ids {
            let stay: Vec<u32> = stays.iter().map(|(id, _)| *id).collect();
            let beside_origin = self.is_beside_origin(id, &stay) || self.is_beside_carrier(id);
            let why = || {
                Failure::from(format!(
                    "/dev/ublkb{id}: its origin is in use, or waits for a server"
                ))
            };
            let why = if beside_origin { Some(why()) } else { self.try_end(id).err() };
            stays.extend(why.map(|why| (id, why)));
        }
        // A device that is already stopped has no users whose requests could wait or fail.
        let dies = |id: &u32| {
            let is_stopped = self.refuse_unfinished(*id).is_err() && self.machine.has_ended(*id);
            let entry = self.devices.get(id).filter(|_| !is_stopped);
            entry.is_some_and(|entry| !device::is_recoverable(&entry.info))
        };
        if stays.iter().any(|(id, _)| dies(id)) {
            let hint = "; it was added with --no-recovery and would end with its server, which \
                        waits until the device is unused";
            let fatal = stays.into_iter().filter(|(id, _)| dies(id)).map(|(_, why)| why);
            if let Some(why) = Failure::all(fatal.collect()) {
                self.wait_for_end(Level::Warn, why.ending(hint));
            }
            return Ok(());
        }
        if !stays.is_empty() {
            let ids: Vec<u32> = stays.iter().map(|(id, _)| *id).collect();
            if let Err(why) = self.ensure_recorded().and_then(|()| self.put_back(&ids)) {
                let hint = "; the server continues to serve the devices, and ends as soon as its \
                            state file can be written";
                let what = "the server cannot end, because the next one would not know its devices";
                self.wait_for_end(Level::Error, why.context(what).ending(hint));
                return Ok(());
            }
        }
        for (id, why) in &stays {
            self.leave_waiting(*id, why);
        }
        for why in self.not_undone() {
            self.lost_at_end = true;
            log::error!("{why}");
        }
        self.ending = Ending::Leaves;
        Ok(())
    }

    /// Puts back what the next server needs of devices that stay, if it was removed with the run
    /// directory, or alone.
    pub(super) fn put_back(&self, stays: &[u32]) -> Result<(), Reason> {
        if mutant::is(Mutant::StateNotPutBack) {
            return Ok(());
        }
        if !self.machine.records().has_state() {
            // This makes the directory if it is not there.
            let _directory = self.machine.records().lock()?;
            self.record(None)?;
        }
        stays.iter().try_for_each(|id| self.put_legs_back(*id))
    }

    /// Keeps the server running until it can end, which is retried every [`LOOK_AGAIN`]. Each
    /// reason is logged once.
    fn wait_for_end(&mut self, level: Level, why: Reason) {
        if self.kept_by.as_ref() != Some(&why) {
            log::log!(level, "{why}");
        }
        (self.kept_by, self.ending) = (Some(why), Ending::Waits);
    }

    /// Whether a device has an origin whose device stays, or was left out and waits: its queued
    /// writes are carried out when it is taken over.
    fn is_beside_origin(&self, id: u32, stays: &[u32]) -> bool {
        let Some(state) = self.devices.get(&id).map(Device::state) else { return false };
        let mut served = self.origins_devices_of(&state).filter(|entry| entry.is_origin());
        let stays = served.any(|entry| stays.contains(&entry.info.id));
        let mut waiting = self.left_origins_devices_of(&state);
        !self.is_origin(id) && (stays || waiting.any(|left| is_origins(&left.spec)))
    }

    /// Deletes a device unless it is in use. A recoverable device is stopped only after its disks
    /// have stored its acknowledged writes: if they do not answer, it waits for another server.
    fn try_end(&mut self, id: u32) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        self.refuse_held(id)?;
        self.refuse_carrier(id, &[], "that one stays")?;
        self.machine.not_in_use(id)?;
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let (cookie, ran) = (entry.info.target_flags, !entry.suspended);
        let held = device::is_recoverable(&entry.info) && ran;
        let first = if held { self.hold(id, true, "shutdown")? } else { Ok(()) };
        let ended = self.take_down(id, cookie, false);
        let End { lost, wrong, note, .. } = match ended {
            Ok(end) => end,
            Err(why) if held => {
                self.let_through(id, true, "shutdown")?;
                return Err(why);
            }
            Err(why) => return Err(why),
        };
        note.iter().for_each(|note| log::warn!("/dev/ublkb{id}: deleted; {note}"));
        let lost = first.err().or(lost);
        self.lost_at_end |= lost.is_some();
        lost.iter().chain(&wrong).for_each(|error| log::error!("/dev/ublkb{id}: {error}"));
        if let Err(why) = self.forget(id) {
            // Whether that matters is decided after all devices that can end have ended.
            log::warn!("/dev/ublkb{id}: deleted, but {why}");
        }
        Ok(())
    }

    /// Leaves a device to the next server. Its requests are held back, so that its acknowledged
    /// writes are complete. If a disk does not answer, they stay on record.
    fn leave_waiting(&mut self, id: u32, why: &Failure) {
        let unfinished = self.refuse_unfinished(id);
        // What a suspended device holds cannot end; what is acknowledged stays on record.
        let held = match self.refuse_held(id) {
            Ok(()) => unfinished.and_then(|()| self.hold(id, true, "shutdown")),
            Err(_) => unfinished.map(Ok),
        };
        if let Err(error) = held.and_then(|held| held) {
            self.lost_at_end = true;
            log::error!("/dev/ublkb{id}: {error}");
        }
        let fails = self.devices.get(&id).is_some_and(|entry| entry.spec.options.fails());
        let waits = match fails {
            true => "the device waits for another server, and its I/O fails until then",
            false => "the device and its I/O wait for another server",
        };
        log::warn!("{why}; {waits}: run `ublk-dm recover {id}`");
    }
}
