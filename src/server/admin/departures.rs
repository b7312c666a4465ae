//! Snapshots that are deleted, or left out by `recover`, while their family goes on: right until
//! the origin's next change, which may come under another server than this one.
//!
//! Rule kept here: I9 (that a snapshot has left is durable before its device is gone or its origin
//! lives without it, and every server knows it before it can change the origin). A snapshot that is
//! deleted as the last of its family is its user's business, as with device-mapper: origin and
//! snapshots are to be used together or not at all.

use std::rc::Rc;

use dm_targets::snapshot::losses::Loss;
use dm_targets::target::Target;

use super::devices::{LeftOut, is_persistent_snapshot};
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::orphans::record_lost;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceState};
use crate::rundir::departed::Departure;
use crate::storage::DiskId;

impl<M: Machine> Administrator<M> {
    /// Notes that a snapshot leaves, if a device stays through which, or beside which, its origin
    /// can come to be changed. `outlived`: it is marked on its COW, and noted only if that fails.
    pub(super) fn note_departure(&mut self, id: u32, outlived: bool) -> Result<(), Reason> {
        let Some(cow) = self.devices.get(&id).and_then(|entry| entry.cow.clone()) else {
            return Ok(());
        };
        if !self.goes_on_without(id) {
            return Ok(());
        }
        let leave = move |mark: bool| {
            move |thread: Rc<M::Thread>| async move {
                let device = thread.group().device(id);
                let Some(Target::Snapshot(snapshot)) = device.map(|device| device.target()) else {
                    return None;
                };
                if mark {
                    snapshot.give_up().await;
                }
                snapshot.loss_when_left()
            }
        };
        // A mark that its COW does not take in time counts as one that has failed.
        let marked = self.wait_for(Errand::on(id, "del"), leave(outlived), |_, _| {});
        let loss = match marked {
            Ok(loss) => loss,
            Err(_) => self.machine.call(leave(false))?,
        };
        let Some(loss) = loss else { return Ok(()) };
        let mark_failed = loss == Loss::MarkFailed;
        let departure = Departure { cow, mark_failed, origin_number: self.origin_known.number };
        self.machine.records().note_departure(&departure).map_err(|why| {
            let what = "that its snapshot leaves the origin cannot be noted, so a later server \
                        could take it for right";
            why.context(format!("/dev/ublkb{id}: not deleted: {what}"))
        })
    }

    /// What is left out is lost from now on, unless this server finds that nothing has changed the
    /// origin. The caller puts that into the state file; since that is read in this boot only, and
    /// the run directory may outlive it, the snapshot is noted as well as one that has left.
    pub(super) fn lose_left_out(&mut self) -> Result<(), Reason> {
        if mutant::is(Mutant::LeftOutNotLost) {
            return Ok(());
        }
        let snapshots = |left: &&LeftOut| is_persistent_snapshot(&left.device.spec);
        let left_out: Vec<LeftOut> = self.left_out.values().filter(snapshots).cloned().collect();
        for LeftOut { device, for_good, .. } in left_out {
            if for_good || !device.lost {
                self.note_lost(&device, for_good).map_err(|why| {
                    let what = "that its origin goes on without it cannot be recorded";
                    format!("{}: {what}: {why}", device.name)
                })?;
            }
            if let Some(left) = self.left_out.get_mut(&device.id) {
                left.device.lost = true;
            }
        }
        Ok(())
    }

    /// Has a snapshot that is left out recorded as lost before its origin's next change; at once
    /// if an earlier server knew of one.
    fn note_lost(&self, device: &DeviceState, for_good: bool) -> Result<(), Reason> {
        let Some(cow) = device.cow.clone() else {
            log::warn!(
                "{}: the state file of an earlier version does not say what its COW is known by, \
                 so nothing but that file will tell that it is lost",
                device.name
            );
            return Ok(());
        };
        if mutant::is(Mutant::LeftOutNotNoted) {
            return Ok(());
        }
        if for_good {
            return record_lost(&self.machine, device);
        }
        let departure =
            Departure { cow, mark_failed: false, origin_number: self.origin_known.number };
        self.machine.records().note_departure(&departure)?;
        self.restore_departures(vec![departure])
    }

    /// Notes that a snapshot of a dead server is deleted, as far as it is known which it is.
    pub(super) fn note_left_out(&self, device: &DeviceState) -> Result<(), Reason> {
        let Some(cow) =
            device.cow.clone().filter(|_| !device.lost && self.goes_on_without(device.id))
        else {
            return Ok(());
        };
        let departure =
            Departure { cow, mark_failed: false, origin_number: self.origin_known.number };
        self.machine.records().note_departure(&departure)?;
        self.restore_departures(vec![departure])
    }

    /// Has the origin know which snapshots have left it under earlier servers. One that is not open
    /// learns of them when it is.
    pub(super) fn restore_departures(&self, departures: Vec<Departure>) -> Result<(), Reason> {
        self.origin.map_or(Ok(()), |(id, ..)| self.restore_departures_of(id, departures))
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

    /// A snapshot is served from a COW: nothing has left on it.
    pub(super) fn forget_departure(&self, cow: &Cow) {
        if let Err(why) = self.machine.records().forget_departure(cow) {
            // The next server forgets it when the snapshot joins; without that its origin's change
            // makes the snapshot wrong.
            log::warn!("{why}");
        }
    }

    /// Whether the family has a device when the command under way has ended.
    fn goes_on_without(&self, id: u32) -> bool {
        let others = self.devices.keys().chain(self.left_out.keys());
        others.into_iter().any(|other| *other != id && !self.going.contains(other))
    }
}
