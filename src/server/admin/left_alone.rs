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

use super::devices::{LeftOut, is_persistent_snapshot};
use super::machine::{Machine, Records, Thread};
use super::merging::is_merged;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::origins::changes_origin_of;
use super::state::Administrator;
use super::targets::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, DeviceState, KnownDisk};
use crate::rundir::departed::{Departure, Unmerged};

/// The origin's device that stays when a snapshot leaves.
pub(super) struct LeftOrigin {
    name: String,
    /// Block size of the snapshot's device.
    block_bytes: u32,
}

impl<M: Machine> Administrator<M> {
    /// What stays of the family if a snapshot leaves the origin with this device that is valid and
    /// has a store to be found later.
    pub(super) fn left_origin(&self, id: u32) -> Option<LeftOrigin> {
        let name = self.other_origin(&self.devices.get(&id)?.state())?;
        let block = self.machine.call(move |thread| async move {
            let device = thread.group().device(id);
            match device.as_ref().map(|device| device.target()) {
                Some(Target::Snapshot(snapshot)) => (snapshot.loss_when_left()
                    == Some(Loss::OriginChanged))
                .then(|| snapshot.logical_block_bytes()),
                _ => None,
            }
        });
        block.ok().flatten().map(|block_bytes| LeftOrigin { name, block_bytes })
    }

    /// What the user must know of a snapshot that has left this origin's device. `outlived`: the
    /// origin was in use, so that the snapshot has been given up.
    pub(super) fn left_alone(&self, id: u32, left: &LeftOrigin, outlived: bool) -> Option<String> {
        let entry = self.devices.get(&id)?;
        let TargetParams::Snapshot(snapshot) = &entry.spec.table.params else { return None };
        Some(if outlived {
            lost(snapshot, &left.name, left.block_bytes)
        } else {
            lost_when_written(snapshot, &left.name, &entry.spec, &entry.name)
        })
    }

    /// The same for a device that was left out and is deleted.
    pub(super) fn left_out_alone(&self, left: &LeftOut) -> Option<String> {
        let LeftOut { device, for_good, .. } = left;
        let is_right = is_persistent_snapshot(&device.spec) && !for_good;
        match &device.spec.table.params {
            TargetParams::SnapshotMerge(merge) if device.lost && is_told() => {
                Some(lost_merge(merge))
            }
            TargetParams::SnapshotMerge(_) => {
                unmerged(&device.spec.table, &device.name, MAY_BE_LEFT)
            }
            TargetParams::Snapshot(snapshot) if is_right => {
                let origin = self.other_origin(device)?;
                Some(if device.lost {
                    lost(snapshot, &origin, 0)
                } else {
                    lost_when_written(snapshot, &origin, &device.spec, &device.name)
                })
            }
            _ => None,
        }
    }

    /// What the user must know when the target of a merge has been closed; `is_left`: whether a
    /// part of the snapshot is still on its COW. If none is, the merge is no longer on record.
    pub(super) fn left_by_merge(
        &self,
        device: &DeviceState,
        is_left: Option<bool>,
    ) -> Option<String> {
        if is_left? || mutant::is(Mutant::EndedMergeOnRecord) {
            return unmerged(&device.spec.table, &device.name, IS_LEFT);
        }
        device.cow.iter().for_each(|cow| self.forget_departure(cow));
        None
    }

    /// The name of another device of this family that is its origin's, served or waiting.
    fn other_origin(&self, of: &DeviceState) -> Option<String> {
        let served = self.origins_devices_of(of).map(|entry| &entry.name);
        served.chain(self.left_origins_devices_of(of).map(|left| &left.name)).next().cloned()
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
        for Departure { cow, unmerged: left, .. } in
            self.machine.records().departures(&origin_of(new), &[])?
        {
            let is_it = merges && new.cow.as_ref().is_some_and(|own| own.is_near(&cow));
            let Some(Unmerged { name, line, may_have_ended }) = left.filter(|_| !is_it) else {
                continue;
            };
            let cow = match Table::parse_table(&line).map(|table| table.params) {
                Ok(SnapshotMerge(merge)) => merge.cow,
                _ => "its COW".to_owned(),
            };
            let origin = new.spec.table.params.family().disk.unwrap_or_default();
            let (has_not, is_left) = match may_have_ended {
                true => ("may not have", MAY_BE_LEFT),
                false => ("has not", IS_LEFT),
            };
            return Err(format!(
                "{origin}: a merge into it {has_not} ended, and a part of the snapshot {is_left} \
                 {cow}: `ublk-dm create {name} --table \"{line}\"` merges the rest; --force uses \
                 the disk as it is"
            )
            .into());
        }
        Ok(())
    }
}

/// How the disk of an opened target's origin is recognized.
fn origin_of<M: Machine>(new: &NewDevice<M>) -> KnownDisk {
    let word = new.spec.table.params.family().disk;
    word.and_then(|word| new.deps.known().remove(word)).unwrap_or_default()
}

/// What a later server must know of a merge that leaves its origin; `may_have_ended`: its target is
/// not open.
pub(super) fn unmerged_of(spec: &DeviceSpec, name: &str, may_have_ended: bool) -> Option<Unmerged> {
    let is_merge = matches!(spec.table.params, TargetParams::SnapshotMerge(_));
    let (name, line) = (name.to_owned(), spec.table.to_string());
    is_merge.then_some(Unmerged { name, line, may_have_ended })
}

/// What the user must know when a dead server's device is deleted and others stay. `block_bytes` is
/// the device's block size; 0 if it is not known.
pub fn left_by_dead_server(
    deleted: &DeviceState,
    staying: &[DeviceState],
    block_bytes: u32,
) -> Option<String> {
    if is_merged(deleted, staying) {
        return None;
    }
    let mut others = staying.iter();
    match &deleted.spec.table.params {
        // As it is recorded, see `record_left_behind`.
        TargetParams::SnapshotMerge(merge)
            if is_told()
                && (deleted.lost || others.any(|other| changes_origin_of(deleted, other))) =>
        {
            Some(lost_merge(merge))
        }
        _ if deleted.lost => None,
        TargetParams::SnapshotMerge(_) => unmerged(&deleted.spec.table, &deleted.name, MAY_BE_LEFT),
        TargetParams::Snapshot(snapshot) if is_persistent_snapshot(&deleted.spec) => {
            let changes = staying.iter().find(|other| changes_origin_of(deleted, other))?;
            Some(lost(snapshot, &changes.name, block_bytes))
        }
        _ => None,
    }
}

/// How much of a merge is known to be left: by its server, and without one.
const IS_LEFT: &str = "is still on";
const MAY_BE_LEFT: &str = "may still be on";

/// What the user must know when a device is deleted whose merge has not ended.
fn unmerged(table: &Table, name: &str, is_left: &str) -> Option<String> {
    let TargetParams::SnapshotMerge(merge) = &table.params else { return None };
    Some(format!(
        "a part of its snapshot {is_left} {}: do not use {} without it before `ublk-dm create \
         {name} --table \"{table}\"` has merged the rest",
        merge.cow, merge.origin
    ))
}

/// The merge has been given up: the origin is used without it.
fn lost_merge(merge: &Snapshot) -> String {
    let Snapshot { origin, cow, .. } = merge;
    format!(
        "its merge may not have ended: the rest of its snapshot is lost, because {origin} is used \
         without {cow}, and {origin} may be a mixture of the snapshot and of what it was before; \
         {} to use the disk for a new snapshot",
        zero_start(cow, 0)
    )
}

/// Whether a lost merge is told from one that can go on.
fn is_told() -> bool {
    !mutant::is(Mutant::LostMergePromised)
}

/// The snapshot has been given up. `block_bytes` is its device's block size, which is not smaller
/// than the COW's and not larger than a chunk; 0 if it is not known.
fn lost(snapshot: &Snapshot, origin: &str, block_bytes: u32) -> String {
    let cow = &snapshot.cow;
    format!(
        "its snapshot is lost, because {origin} stays and no longer copies to {cow}; {} to use the \
         disk for a new snapshot",
        zero_start(cow, block_bytes)
    )
}

/// The snapshot can still be added again, as it was.
fn lost_when_written(snapshot: &Snapshot, origin: &str, spec: &DeviceSpec, name: &str) -> String {
    let DeviceSpec { table, options, .. } = spec;
    let cow = &snapshot.cow;
    let read_only = if options.read_only { " --read-only" } else { "" };
    let death = match options.fails() {
        true => " --on-server-death fail",
        false if options.recovery => "",
        false => " --no-recovery",
    };
    format!(
        "its snapshot is lost with the next write to {origin}, which stays and no longer copies to \
         {cow}; before that, `ublk-dm create {name} --table \"{table}\"{read_only}{death}` \
         continues it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_continued_as_it_was() {
        let line = "0 8 snapshot /o /c PO 2 1 discard_zeroes_cow";
        let mut spec = DeviceSpec::of_line(line);
        let TargetParams::Snapshot(snapshot) = spec.table.params.clone() else { panic!("{line}") };
        let said = |spec: &DeviceSpec| lost_when_written(&snapshot, "origin0", spec, "s");
        let command = format!("`ublk-dm create s --table \"{line}\"` continues it");
        assert!(said(&spec).ends_with(&command), "{}", said(&spec));
        (spec.options.read_only, spec.options.recovery) = (true, false);
        let flags = "\" --read-only --no-recovery` continues it";
        assert!(said(&spec).ends_with(flags), "{}", said(&spec));
        spec.options.recovery = true;
        spec.options.on_server_death = crate::protocol::OnServerDeath::Fail;
        let flags = "\" --read-only --on-server-death fail` continues it";
        assert!(said(&spec).ends_with(flags), "{}", said(&spec));
    }
}
