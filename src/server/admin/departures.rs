//! Snapshots that are deleted, or left out by `recover`: they are valid until the origin's next
//! change, which may happen under another server.
//!
//! Rule kept here: I9 (a departure is durable before the snapshot's device is deleted or its origin
//! is live without it, whether other devices of the family stay or not, and every server knows it
//! before it can change the origin).

use std::rc::Rc;

use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::snapshot::merge::Merge;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::{Deps, LeftOut, is_persistent_snapshot};
use super::left_alone::unmerged_of;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::orphans::record_lost;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::{Cow, DeviceRef, DeviceSpec, DeviceState};
use crate::rundir::departed::Departure;
use crate::storage::DiskId;

impl<M: Machine> Administrator<M> {
    /// Records a snapshot's departure: its origin may change without it, under this server or a
    /// later one. `outlived`: its COW is marked, and the departure recorded only if that fails.
    pub(super) fn record_departure(&mut self, id: u32, outlived: bool) -> Result<(), Reason> {
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let Some(cow) = entry.cow.clone() else { return Ok(()) };
        let unmerged = unmerged_of(&entry.spec, &entry.name, false);
        let origin = self.known_origin_of(&entry.state());
        if mutant::is(Mutant::LastForgotten) && !self.goes_on_without(id) {
            return Ok(());
        }
        if self.taken.contains_key(&id) {
            // Its target has left already, for a merge that did not begin.
            let departure = Departure::of(cow, false, &origin, None);
            return self.machine.records().record_departure(&departure);
        }
        let leave = move |mark: bool| {
            move |thread: Rc<M::Thread>| async move {
                let device = thread.group().device(id);
                let snapshot = match device.map(|device| device.target()) {
                    Some(Target::Snapshot(snapshot)) => snapshot,
                    // No other device changes the origin of a merge while that has one.
                    Some(Target::Merge(merge)) => return merge.loss_when_left(),
                    _ => return None,
                };
                if mark {
                    snapshot.give_up().await;
                }
                snapshot.loss_when_left()
            }
        };
        // A mark that the COW does not store in time counts as failed.
        let marked = self.wait_for(Errand::on(id, "del"), leave(outlived), |_, _| {});
        let loss = match marked {
            Ok(loss) => loss,
            Err(_) => self.machine.call(leave(false))?,
        };
        let Some(loss) = loss else { return Ok(()) };
        let mark_failed = loss == Loss::MarkFailed;
        let departure = Departure::of(cow, mark_failed, &origin, unmerged);
        self.machine.records().record_departure(&departure).map_err(|why| {
            let what = "the departure of its snapshot cannot be recorded, so a later server could \
                        take the snapshot for valid";
            why.context(format!("/dev/ublkb{id}: not deleted: {what}"))
        })
    }

    /// Records the departure of a merge whose `add` is undone: if it is served it has begun, and
    /// the origin's disk may be a mixture already.
    pub(super) fn record_begun_merge(&self, device: &DeviceState) -> Result<(), Reason> {
        let unmerged = unmerged_of(&device.spec, &device.name, false);
        let (Some(cow), Some(_)) = (device.cow.clone(), &unmerged) else { return Ok(()) };
        let loss = self.with_merge(device.id, Merge::loss_when_left)?.flatten();
        let Some(loss) = loss.filter(|_| !mutant::is(Mutant::UndoneMergeForgotten)) else {
            return Ok(());
        };
        let mark_failed = loss == Loss::MarkFailed;
        let origin = self.known_origin_of(device);
        let departure = Departure::of(cow, mark_failed, &origin, unmerged);
        self.machine.records().record_departure(&departure).map_err(|why| {
            why.context(format!(
                "/dev/ublkb{}: the beginning of its merge cannot be recorded",
                device.id
            ))
        })
    }

    /// Treats left-out snapshots of an origin that a device may change, except for that device
    /// itself (a merge changes its own), as lost from now on, unless this server finds that the
    /// origin is unchanged. The caller writes that to the state file; since that is read in this
    /// boot only, and the run directory may outlive the boot, a departure is recorded as well.
    pub(super) fn lose_left_out(&mut self, writer: &DeviceState) -> Result<(), Reason> {
        if mutant::is(Mutant::LeftOutNotLost) {
            return Ok(());
        }
        let snapshots = |left: &&LeftOut| {
            let is_it = left.device.device() == writer.device();
            is_persistent_snapshot(&left.device.spec)
                && !is_it
                && (self.changes_origin(writer, &left.device) || mutant::is(Mutant::OthersLost))
        };
        let left_out: Vec<LeftOut> = self.left_out.values().filter(snapshots).cloned().collect();
        for LeftOut { device, for_good, .. } in left_out {
            if for_good || !device.lost {
                self.ensure_recorded_lost(&device, for_good).map_err(|why| {
                    let what = "it cannot be recorded that its origin continues without it";
                    why.context(format!("{}: {what}", device.name))
                })?;
            }
            if let Some(left) = self.left_out.get_mut(&device.id) {
                left.device.lost = true;
            }
        }
        Ok(())
    }

    /// Ensures that a left-out snapshot is recorded as lost before its origin's next change;
    /// immediately if an earlier server knew of a change.
    fn ensure_recorded_lost(&self, device: &DeviceState, for_good: bool) -> Result<(), Reason> {
        let Some(cow) = device.cow.clone() else {
            log::warn!(
                "{}: the state file, written by an earlier version, does not identify the COW, so \
                 only that file records that the snapshot is lost",
                device.name
            );
            return Ok(());
        };
        if mutant::is(Mutant::LeftOutNotRecorded) {
            return Ok(());
        }
        if for_good {
            return record_lost(&self.machine, device);
        }
        self.record_left(cow, device)
    }

    /// Records the departure of a dead server's snapshot that is deleted, if its COW is known.
    pub(super) fn record_departure_of(&self, device: &DeviceState) -> Result<(), Reason> {
        let Some(cow) = device.cow.clone().filter(|_| !device.lost) else { return Ok(()) };
        self.record_left(cow, device)
    }

    /// Records that the snapshot on a COW has left the origin, for later servers and for this one.
    fn record_left(&self, cow: Cow, device: &DeviceState) -> Result<(), Reason> {
        let unmerged = unmerged_of(&device.spec, &device.name, true);
        let departure = Departure::of(cow, false, &self.known_origin_of(device), unmerged);
        self.machine.records().record_departure(&departure)?;
        self.restore_departures(device.carrier(), vec![departure])
    }

    /// Records as lost what has left the disks that a table writes to, other than as their origin:
    /// such a table knows no snapshots, so nothing tells later whether it has changed the disk.
    /// Called before the table is on record.
    pub(super) fn lose_departures_on(&self, deps: &Deps, spec: &DeviceSpec) -> Result<(), Reason> {
        use TargetParams::{Linear, Segments};
        // A mirror whose users cannot write is recovered nevertheless.
        let only_read =
            spec.options.read_only && matches!(spec.table.params, Linear(_) | Segments(_));
        if only_read || mutant::is(Mutant::RangesUntold) {
            return Ok(());
        }
        let origin = origin_word(&spec.table.params);
        let records = self.machine.records();
        for (word, _, known) in deps.disks().filter(|(word, ..)| Some(*word) != origin) {
            let parts = spec.parts_of(word);
            self.part_from_gone(known, &parts).map_err(|why| why.context(word))?;
            for departure in records.departures(known, &parts)? {
                let loss = departure.loss();
                records.losses(departure.cow).record(loss).map_err(|why| {
                    let what =
                        "a snapshot of it was deleted, and that it is lost cannot be recorded";
                    Failure::from(why).context(format!("{word}: {what}"))
                })?;
                log::warn!(
                    "{word}: the snapshot of it that was deleted is lost: it is written now"
                );
            }
        }
        Ok(())
    }

    /// Tells an origin which snapshots have left it under earlier servers. If it is not open, that
    /// is done when it is opened.
    pub(super) fn restore_departures(
        &self,
        carrier: Option<DeviceRef>,
        departures: Vec<Departure>,
    ) -> Result<(), Reason> {
        let open = self.origins.of(carrier).map(|origin| origin.disk);
        open.map_or(Ok(()), |disk| self.restore_departures_of(disk, departures))
    }

    /// The same for an origin that is being opened. It cannot be changed before that.
    pub(super) fn restore_departures_of(
        &self,
        id: DiskId,
        departures: Vec<Departure>,
    ) -> Result<(), Reason> {
        let records = self.machine.records();
        let left: Vec<_> =
            departures.into_iter().map(|left| (left.loss(), records.losses(left.cow))).collect();
        self.machine.call(move |thread| async move {
            let Some(origin) = thread.group().origin(id.key()) else { return };
            left.into_iter()
                .for_each(|(loss, record)| origin.restore_departed(Rc::new(record), loss));
        })
    }

    /// Forgets a departure: a snapshot is served from the COW again.
    pub(super) fn forget_departure(&self, cow: &Cow) {
        if let Err(why) = self.machine.records().forget_departure(cow) {
            // The next server forgets the departure when the snapshot joins; if not, the origin's
            // next change makes the snapshot invalid.
            log::warn!("{why}");
        }
    }

    /// Whether the family has another device.
    pub(super) fn goes_on_without(&self, id: u32) -> bool {
        self.devices.keys().chain(self.left_out.keys()).any(|other| *other != id)
    }
}

/// The disk of which a device is the origin, or a snapshot: that origin knows what has left it.
fn origin_word(params: &TargetParams) -> Option<&str> {
    match params {
        TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
            Some(&snapshot.origin)
        }
        TargetParams::SnapshotOrigin { origin } => Some(origin),
        _ => None,
    }
}
