//! What a user loses with a device that is deleted alone: a snapshot whose origin's device stays
//! and no longer copies to it, or a merge that has not ended.
//!
//! Rules kept here: the record that makes a later `add` refuse the COW (I9) is written whether the
//! user reads these words or not; and an origin whose merge has not ended gets no other device, as
//! far as the run directory knows of the merge.

use dm_targets::snapshot::losses::Loss;
use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::{Table, TargetParams};
use dm_targets::target::Target;

use super::devices::{LeftOut, changes_origin, is_origins, is_persistent_snapshot};
use super::machine::{Machine, Records, Thread};
use super::merging::is_merged;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::state::Administrator;
use super::targets::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, DeviceState, KnownDisk};
use crate::rundir::departed::{Departure, Unmerged};

impl<M: Machine> Administrator<M> {
    /// The name of the origin's device that stays, if a snapshot leaves the origin with this device
    /// that is valid and has a store to be found later.
    pub(super) fn left_origin(&self, id: u32) -> Option<String> {
        let origin = self.other_origin(id)?;
        let is_valid = self.machine.call(move |thread| async move {
            let device = thread.group().device(id);
            match device.as_ref().map(|device| device.target()) {
                Some(Target::Snapshot(snapshot)) => {
                    snapshot.loss_when_left() == Some(Loss::OriginChanged)
                }
                _ => false,
            }
        });
        is_valid.is_ok_and(|is_valid| is_valid).then_some(origin)
    }

    /// What the user must know of a snapshot that has left this origin's device. `outlived`: the
    /// origin was in use, so that the snapshot has been given up.
    pub(super) fn left_alone(&self, id: u32, origin: &str, outlived: bool) -> Option<String> {
        let entry = self.devices.get(&id)?;
        let TargetParams::Snapshot(snapshot) = &entry.spec.table.params else { return None };
        Some(if outlived {
            lost(snapshot, origin)
        } else {
            lost_when_written(snapshot, origin, &entry.name)
        })
    }

    /// The same for a device that was left out and is deleted.
    pub(super) fn left_out_alone(&self, left: &LeftOut) -> Option<String> {
        let LeftOut { device, for_good, .. } = left;
        let is_right = is_persistent_snapshot(&device.spec) && !for_good;
        match &device.spec.table.params {
            TargetParams::SnapshotMerge(_) => {
                unmerged(&device.spec.table, &device.name, MAY_BE_LEFT)
            }
            TargetParams::Snapshot(snapshot) if is_right => {
                let origin = self.other_origin(device.id)?;
                Some(if device.lost {
                    lost(snapshot, &origin)
                } else {
                    lost_when_written(snapshot, &origin, &device.name)
                })
            }
            _ => None,
        }
    }

    /// The name of another device of this family that is the origin's, served or waiting.
    fn other_origin(&self, id: u32) -> Option<String> {
        let served =
            self.devices.iter().filter(|(other, entry)| **other != id && entry.is_origin());
        let served = served.map(|(_, entry)| &entry.name);
        let left = self
            .left_out
            .values()
            .filter(|left| left.device.id != id && left.waits && is_origins(&left.device.spec));
        served.chain(left.map(|left| &left.device.name)).next().cloned()
    }
}

impl<M: Machine> Administrator<M> {
    /// Refuses a new device of an origin into which a merge has not ended, as far as the run
    /// directory knows: the origin's disk alone is a mixture. The merge itself is accepted.
    pub(super) fn refuse_unmerged(&self, new: &NewDevice<M>) -> Result<(), Reason> {
        use TargetParams::{Snapshot, SnapshotMerge, SnapshotOrigin};
        let merges = match &new.spec.table.params {
            SnapshotMerge(_) => true,
            Snapshot(_) | SnapshotOrigin { .. } => false,
            _ => return Ok(()),
        };
        if mutant::is(Mutant::UnmergedForgotten) {
            return Ok(());
        }
        let KnownDisk { name, number, .. } = &self.origin_known;
        for Departure { cow, unmerged: left, .. } in
            self.machine.records().departures(name, *number)?
        {
            let is_it = merges && new.cow.as_ref().is_some_and(|own| own.is_near(&cow));
            let Some(Unmerged { name, line }) = left.filter(|_| !is_it) else { continue };
            let cow = match Table::parse_table(&line).map(|table| table.params) {
                Ok(SnapshotMerge(merge)) => merge.cow,
                _ => "its COW".to_owned(),
            };
            let origin = new.spec.table.params.family().disk.unwrap_or_default();
            return Err(format!(
                "{origin}: a merge into it has not ended, and a part of the snapshot is still on \
                 {cow}: `ublk-dm create {name} --table \"{line}\"` merges the rest; --force uses \
                 the disk as it is"
            )
            .into());
        }
        Ok(())
    }
}

/// What a later server must know of a merge that leaves its origin.
pub(super) fn unmerged_of(spec: &DeviceSpec, name: &str) -> Option<Unmerged> {
    let is_merge = matches!(spec.table.params, TargetParams::SnapshotMerge(_));
    is_merge.then(|| Unmerged { name: name.to_owned(), line: spec.table.to_string() })
}

/// What the user must know when a dead server's device is deleted and others stay.
pub fn left_by_dead_server(deleted: &DeviceState, staying: &[DeviceState]) -> Option<String> {
    if deleted.lost || is_merged(deleted, staying) {
        return None;
    }
    match &deleted.spec.table.params {
        TargetParams::SnapshotMerge(_) => unmerged(&deleted.spec.table, &deleted.name, MAY_BE_LEFT),
        TargetParams::Snapshot(snapshot) if is_persistent_snapshot(&deleted.spec) => {
            let changes = staying.iter().find(|device| changes_origin(&device.spec))?;
            Some(lost(snapshot, &changes.name))
        }
        _ => None,
    }
}

/// How much of a merge is known to be left: by its server, and without one.
pub(super) const IS_LEFT: &str = "is still on";
const MAY_BE_LEFT: &str = "may still be on";

/// What the user must know when a device is deleted whose merge has not ended.
pub(super) fn unmerged(table: &Table, name: &str, is_left: &str) -> Option<String> {
    let TargetParams::SnapshotMerge(merge) = &table.params else { return None };
    Some(format!(
        "a part of its snapshot {is_left} {}: do not use {} without it before `ublk-dm create \
         {name} --table \"{table}\"` has merged the rest",
        merge.cow, merge.origin
    ))
}

/// The snapshot has been given up.
fn lost(snapshot: &Snapshot, origin: &str) -> String {
    let cow = &snapshot.cow;
    format!(
        "its snapshot is lost, because {origin} stays and no longer copies to {cow}; {} to use the \
         disk for a new snapshot",
        zero_start(cow, 0)
    )
}

/// The snapshot can still be added again.
fn lost_when_written(snapshot: &Snapshot, origin: &str, name: &str) -> String {
    let Snapshot { origin: disk, cow, .. } = snapshot;
    format!(
        "its snapshot is lost with the next write to {origin}, which stays and no longer copies to \
         {cow}; before that, `ublk-dm add snapshot --origin {disk} --cow {cow} --name {name}` \
         continues it"
    )
}
