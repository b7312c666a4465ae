//! Taking over the devices of a dead server.
//!
//! All targets are active before any device is live again: waiting requests are resubmitted, and an
//! origin's requests must find all its snapshots. A device that cannot be taken over is *left out*:
//! it continues to wait, it stays in the state file, and it can be taken over later, when the cause
//! has been repaired.
//!
//! Rule kept here: I9. A snapshot that is left out is invalid from its origin's next change on. The
//! loss is recorded before any device is live that may change the origin; it is revoked only by the
//! server that knows that the origin has not changed.

use std::cmp::Reverse;
use std::rc::Rc;

use dm_targets::target::Target;

use super::deferred::{self, Begun};
use super::devices::{Device, LeftOut, is_persistent_snapshot};
use super::held_below::refuse_held_below;
use super::joined::height;
use super::levels::{Recovery, not_recovered, now_invalid, served_state};
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::notes::joined;
use super::orphans::{record_departure, record_lost};
use super::silent::Silent;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceRef, DeviceState, Problem, Reply};
use crate::ublk::device::orphaned;
use crate::ublk::{DeviceInfo, DeviceState as DiskState};

impl<M: Machine> Administrator<M> {
    /// As [`Administrator::recover`]. Afterwards no device is published as a coming one.
    pub(super) fn recover_coming(
        &mut self,
        devices: Vec<DeviceState>,
        together: bool,
    ) -> Result<Reply, Reason> {
        let recovered = self.recover(devices, together);
        self.directory.publish_coming(Vec::new());
        recovered
    }

    /// Takes over those devices of a dead server that can be taken over; with `together`, which is
    /// for devices that were left to this server ([`super::upgrade`]), all of them or none.
    ///
    /// # Errors
    /// None is taken over. With `together` also if some could be: none is live, and this server
    /// ends.
    fn recover(&mut self, devices: Vec<DeviceState>, together: bool) -> Result<Reply, Reason> {
        let together = together && !mutant::is(Mutant::TakenOverInPart);
        // Until they are live, the files are those of the server that had them.
        self.keep_files = true;
        let devices = self.end_merged(devices);
        let (devices, gone) = self.split_gone(devices)?;
        self.directory.publish_coming(devices.clone());
        let Recovery { served, mut problems, .. } = self.serve_levels(devices, together)?;
        let states: Vec<DeviceState> =
            served.iter().map(|(new, info, device)| served_state(new, info, device)).collect();
        problems.extend(self.give_up_gone(&gone, &states)?);
        if self.changes_left(&states) && !mutant::is(Mutant::LostAfterStart) {
            states.iter().try_for_each(|writer| self.lose_left_out(writer))?;
            let left_out = self.left_out.values().map(|left_out| left_out.device.clone());
            let all = states.iter().cloned().chain(left_out).collect();
            self.machine.records().write_state(all)?;
        }
        let mut served = served;
        let all: Vec<_> = served.iter().map(|(.., device)| device.clone()).collect();
        served.sort_by_key(|(_, info, _)| Reverse(height(info.id, &all)));
        for (prepared, info, device) in served {
            problems.extend(self.start_again(prepared, info, device).err());
        }
        if mutant::is(Mutant::LostAfterStart) {
            states.iter().try_for_each(|writer| self.lose_left_out(writer))?;
        }
        problems.extend(self.save().err().map(Problem::from));
        self.keep_files = self.devices.is_empty() || !self.left_out.is_empty();
        self.keep_files &= !mutant::is(Mutant::LeftOutFilesRemoved);
        // The users of an upgraded device have activated nothing.
        let activates = !together || mutant::is(Mutant::BegunByUpgrade);
        let begun = if activates { self.begin_deferred() } else { Begun::default() };
        Ok(begun.reply(problems))
    }

    /// Whether one of these devices can change the origin of one that was left out.
    fn changes_left(&self, served: &[DeviceState]) -> bool {
        served.iter().any(|writer| self.changes_origin_of_left(writer))
    }

    /// Separates existing devices from those that another program has deleted.
    fn split_gone(
        &mut self,
        devices: Vec<DeviceState>,
    ) -> Result<(Vec<DeviceState>, Vec<DeviceState>), Reason> {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for device in devices {
            let ours = self.ours(device.id, device.cookie)?.is_some();
            if ours { there.push(device) } else { gone.push(device) }
        }
        Ok((there, gone))
    }

    /// A snapshot that another program has deleted misses what its origin's next change overwrites:
    /// that is recorded before the origin is live again.
    fn give_up_gone(
        &mut self,
        gone: &[DeviceState],
        served: &[DeviceState],
    ) -> Result<Vec<Problem>, Reason> {
        let mut problems = Vec::new();
        for device in gone.iter().filter(|device| {
            !mutant::is(Mutant::GoneForgotten) && is_persistent_snapshot(&device.spec)
        }) {
            let changes = served.iter().any(|writer| self.changes_origin(writer, device));
            if !changes && !device.lost {
                // Its origin may be added, or taken over, beside the live devices.
                let departure = record_departure(&self.machine, device)?.into_iter().collect();
                self.restore_departures(device.carrier(), departure)?;
                let why = format!("{}: gone: another program has deleted it", device.name);
                problems.push(Problem::of(device, why.into()));
                continue;
            }
            record_lost(&self.machine, device)?;
            let what = "another program has deleted it; its COW must not be used again, because \
                        its origin continues without it";
            let why = format!("{}: gone: {what}", device.name);
            problems.push(Problem::of(device, why.into()));
        }
        Ok(problems)
    }

    /// Takes over devices that were left out, and starts those that the kernel has not started.
    pub(super) fn recover_left_out(&mut self, devices: &[DeviceRef]) -> Result<Reply, Reason> {
        let mut problems = self.notice_stolen();
        let is_known = |id: u32| self.left_out.contains_key(&id) || self.devices.contains_key(&id);
        let gone = |device: &DeviceRef| {
            let why = format!("/dev/ublkb{}: not recovered: it has been deleted", device.id);
            Problem::of_nameless(*device, why.into())
        };
        // Unless that has just been reported.
        let reported = |device: &DeviceRef| problems.iter().any(|one| one.device == Some(*device));
        let unsaid = devices.iter().filter(|device| !is_known(device.id) && !reported(device));
        problems.extend(unsaid.map(gone).collect::<Vec<_>>());
        let ids: Vec<u32> = devices.iter().map(|device| device.id).collect();
        problems.extend(self.take_over_left_out(&ids)?);
        problems.extend(self.start_waiting(&ids));
        Ok(self.begin_deferred().reply(problems))
    }

    /// Takes over devices that were left out. The origin does not change meanwhile; its users do
    /// not wait for a disk that hangs.
    fn take_over_left_out(&mut self, ids: &[u32]) -> Result<Vec<Problem>, Reason> {
        let (mut ids, mut problems) = self.that_answer(ids);
        if ids.is_empty() {
            return Ok(problems);
        }
        problems.extend(self.recover_lower(&mut ids)?);
        let held = self.hold_writers(&mut problems)?;
        let carriers = self.serve_carriers(&ids, &mut problems);
        // Snapshots before their origin, whose waiting requests are resubmitted.
        ids.sort_by_key(|id| {
            let left = self.left_out.get(id);
            left.is_some_and(|left| self.changes_origin_of_left(&left.device))
        });
        for id in &ids {
            let Some(left) = self.left_out.get(id) else { continue };
            let device = left.now();
            match self.recover_one(device.clone()) {
                Ok(some) => problems.extend(some),
                Err(why) => problems.push(not_recovered(&device, why)),
            }
        }
        problems.extend(self.start_waiting(&carriers));
        held.into_iter().try_for_each(|id| self.release_writer(id))?;
        problems.extend(self.save().err().map(Problem::from));
        self.keep_files = !self.left_out.is_empty();
        Ok(problems)
    }

    /// Takes over those left-out devices that are disks of other ones, which are opened through
    /// them, and removes them from `ids`.
    fn recover_lower(&mut self, ids: &mut Vec<u32>) -> Result<Vec<Problem>, Reason> {
        self.sort_bottom_up(ids);
        let (mut problems, mut rest) = (Vec::new(), Vec::new());
        for id in std::mem::take(ids) {
            let left = self.left_out.get(&id).filter(|_| self.joined_by(id, &[]).is_some());
            let Some(device) = left.map(|left| left.device.clone()) else {
                rest.push(id);
                continue;
            };
            match self.recover_one(device.clone()) {
                Ok(some) => problems.extend(some),
                Err(why) => problems.push(not_recovered(&device, why)),
            }
        }
        *ids = rest;
        Ok(problems)
    }

    /// The left-out devices whose disks answer, and the messages about the others.
    fn that_answer(&self, ids: &[u32]) -> (Vec<u32>, Vec<Problem>) {
        let wanted: Vec<&DeviceState> = ids
            .iter()
            .filter_map(|id| self.left_out.get(id))
            .map(|left_out| &left_out.device)
            .collect();
        let silent = Silent::among(&self.machine, wanted.iter().copied());
        let all = self.all_states();
        let (mut reply, mut problems) = (Vec::new(), Vec::new());
        for device in wanted {
            match silent.refuse(device).and_then(|()| refuse_held_below(device, &all)) {
                Ok(()) => reply.push(device.id),
                Err(why) => problems.push(not_recovered(device, why)),
            }
        }
        (reply, problems)
    }

    /// Takes over one device. Returns the problems that do not prevent that.
    fn recover_one(&mut self, device: DeviceState) -> Result<Vec<Problem>, Reason> {
        if self.changes_origin_of_left(&device) {
            // Snapshots that are still left out are invalid once this device is started.
            self.lose_left_out(&device)?;
            self.record(None)?;
        }
        let prepared = self.make_ready(&device)?;
        let (info, lost) = self.serve_again(&prepared, &device)?;
        self.left_out.remove(&device.id);
        let own = lost.into_iter().chain(now_invalid(&device));
        let mut problems: Vec<Problem> = own.map(|why| Problem::of(&device, why)).collect();
        problems.extend(self.start_again(prepared, info, device).err());
        Ok(problems)
    }

    /// Opens the target of a waiting device. The COW of a lost snapshot is marked first.
    pub(super) fn make_ready(&mut self, device: &DeviceState) -> Result<NewDevice<M>, Reason> {
        self.waiting(device.id, device.cookie)?;
        self.refuse_without_carrier(device)?;
        if self.left_out.contains_key(&device.id) {
            self.refuse_without_lower(device, &[])?;
        }
        if device.lost {
            self.mark_lost(device)?;
        }
        self.prepare(device.spec.clone(), Some(&device.name), Some(&device.known))
    }

    /// Claims a device and serves its queues. The kernel may send requests from then on, which wait
    /// until the device is started. Returns what is lost by suspending it again: it is served all
    /// the same, and its disks are claimed.
    pub(super) fn serve_again(
        &mut self,
        prepared: &NewDevice<M>,
        device: &DeviceState,
    ) -> Result<(DeviceInfo, Option<Reason>), Reason> {
        let taken = self.take_over(device.id, device.cookie);
        let served = taken.and_then(|info| {
            let waits = !mutant::is(Mutant::UsersBeforeStart);
            let served = self.machine.serve(&info, &device.name, &prepared.target, waits)?;
            self.unless_silent(Errand::on(info.id, "recover"), served, |_, _| {})??;
            Ok(info)
        });
        let info = served?;
        self.remember_node(device.device());
        self.keep_store(&prepared.target)?;
        // A suspended device is suspended again, from the first request on.
        let held = if device.suspended { self.hold_again(info.id)? } else { Ok(()) };
        Ok((info, held.err().map(|lost| lost.but(format!("{}: suspended", device.name)))))
    }

    /// Suspends a device again that the server before has suspended. Does not wait for a device
    /// below it, which may be suspended, too.
    fn hold_again(&mut self, id: u32) -> Result<Result<(), Reason>, Reason> {
        let flushes = mutant::is(Mutant::FlushedAgain);
        let job = move |thread: Rc<M::Thread>| async move {
            match thread.group().device(id) {
                Some(device) if flushes => Ok(device.suspend(true).await?),
                Some(device) => Ok(device.suspend_again().await?),
                None => Ok(()),
            }
        };
        let then = move |admin: &mut Administrator<M>, _| admin.run_on(id, "recover");
        self.wait_for(Errand::on(id, "recover"), job, then).inspect_err(|_| self.give_up(id))
    }

    pub(super) fn leave_out(&mut self, device: DeviceState, why: Failure) -> Problem {
        let problem = not_recovered(&device, why);
        log::warn!("{}", problem.why);
        let info = self.ours(device.id, device.cookie).ok().flatten();
        let waits = info.is_some_and(|info| info.state != DiskState::Dead);
        let for_good = device.lost;
        let left = LeftOut { device, waits, for_good, origin_changed: false };
        self.left_out.insert(left.device.id, left);
        problem
    }

    /// Deletes a device that was left out. Its waiting I/O fails. Returns what the user must know.
    pub(super) fn del_left_out(&mut self, id: u32, force: bool) -> Result<Option<String>, Reason> {
        let Some(left) = self.left_out.get(&id).cloned() else { return Ok(None) };
        let device = &left.device;
        if !force {
            return Err(orphaned(id));
        }
        let wish = deferred::canceled_with(&device.spec);
        let note = joined(self.left_out_alone(&left).into_iter().chain(wish));
        self.release_left_out(device)
            .map_err(|why| why.context(format!("{}: not deleted", device.name)))?;
        if self.ours(id, device.cookie)?.is_some() {
            self.machine.delete_orphan(id, device.cookie)?;
        }
        self.forget_left_out(device)?;
        Ok(note.map(|note| format!("/dev/ublkb{id}: deleted; {note}")))
    }

    /// Records what is missing on a left-out snapshot's COW before the state file drops the device:
    /// if the process ends then, this record is the only trace.
    pub(super) fn release_left_out(&self, device: &DeviceState) -> Result<(), Reason> {
        if device.lost && !mutant::is(Mutant::DeletedBeforeRecord) {
            record_lost(&self.machine, device).map_err(|why| {
                why.context("the loss of the store on its COW cannot be recorded")
            })?;
        }
        self.record_departure_of(device)
            .map_err(|why| why.context("the departure of its snapshot cannot be recorded"))
    }

    /// Removes a deleted device from the left-out devices, and completes its COW.
    pub(super) fn forget_left_out(&mut self, device: &DeviceState) -> Result<(), Reason> {
        self.left_out.remove(&device.id);
        self.keep_files = !self.left_out.is_empty();
        log::info!("{}: deleted", device.name);
        let saved = self.save().map_err(|why| why.but(format!("{}: deleted", device.name)));
        self.complete_beside(device).and(saved)
    }

    /// Suspends the devices that can change the origin, and determines whether it has changed.
    /// Returns those that were not suspended already. Lost writes are added to `problems`.
    fn hold_writers(&mut self, problems: &mut Vec<Problem>) -> Result<Vec<u32>, Reason> {
        let mut writers: Vec<DeviceState> = self.devices.values().map(Device::state).collect();
        writers.retain(|device| self.changes_origin_of_left(device));
        for DeviceState { id, name, .. } in writers.iter().filter(|one| !one.suspended) {
            self.refuse_held(*id).map_err(|why| why.context(name))?;
        }
        let mut held = Vec::new();
        for writer in writers {
            let id = writer.id;
            let runs = self.devices.get(&id).is_some_and(|entry| !entry.suspended);
            if runs {
                held.push(id);
                match self.hold_writer(id) {
                    Ok(Ok(())) => {}
                    Ok(Err(lost)) => {
                        let lost = lost.context(format!("/dev/ublkb{id}"));
                        log::error!("{lost}");
                        problems.push(Problem::of(&writer, lost));
                    }
                    Err(why) => {
                        held.pop();
                        for other in held {
                            self.release_writer(other)?;
                        }
                        let what = format!("/dev/ublkb{id}: its writes cannot be held back");
                        return Err(why.context(what));
                    }
                }
            }
            let changed = self.machine.call(move |thread| async move {
                // A merge writes by itself.
                let writes = |target| matches!(target, Target::Merge(_));
                let device = thread.group().device(id);
                device.is_none_or(|device| device.is_written() || writes(device.target()))
            })?;
            if changed {
                self.note_change_by(&writer);
            }
        }
        Ok(held)
    }
}
