//! The family of a new snapshot, or origin, of a device of ublk-dm: that of this device, whose own
//! users are those who write to the origin.
//!
//! Rule kept here: I5. Another server would not see what these users write. So where the device's
//! own server cannot be asked, or is not known, nothing is added.

use std::path::Path;

use dm_targets::table::{FamilyKey, Table, TargetParams};

use crate::cli::gone::exists;
use crate::cli::takeover::refuse_waiting;
use crate::failure::{Failure, Kind};
use crate::protocol::{DeviceRef, DeviceState};
use crate::rundir::{RunDir, Server, State, family_key};
use crate::storage::{DiskId, ublk_number};
use crate::ublk::{Control, device};

/// The family of the device that is to carry the origin of a table; `None` if that origin is no
/// device, or keeps to another server. `base`: the name of the family that the origin would have
/// otherwise.
///
/// # Errors
/// The device has no server that answers, or nothing is known of it.
pub(super) fn key_with_carrier(
    rundir: &RunDir,
    states: &[(&str, Option<State>)],
    base: &str,
    disk: DiskId,
) -> Result<Option<String>, Failure> {
    let Some(id) = ublk_number(disk) else { return Ok(None) };
    if has_devices(states, base, is_there) {
        return Ok(None);
    }
    let Some((key, device)) = device_among(states, id, is_there) else {
        return refuse_unrecorded(rundir, id).map(|()| None);
    };
    if !can_carry(device) {
        return Ok(None);
    }
    if matches!(rundir.server(key), Some(Server { connection: Some(_), .. })) {
        return Ok(Some(key.to_owned()));
    }
    // One that waits is named as such.
    refuse_waiting(&[disk.block_number()], &[])?;
    let why = format!("/dev/ublkb{id} ({}): its server does not answer; try again", device.name);
    Err(Failure::new(Kind::NoAnswer, why))
}

/// Refuses a table for a device of another server than that of the device which is to carry its
/// origin; and one with which a device would carry an origin that another server has open.
///
/// # Errors
/// It is such a table, or nothing is known of what is to carry its origin.
pub fn refuse_apart(rundir: &RunDir, of: DeviceRef, table: &Table) -> Result<(), Failure> {
    let keys = rundir.keys()?;
    let states: Vec<_> =
        keys.iter().map(|key| (key.as_str(), rundir.state(key).ok().flatten())).collect();
    if carries(&table.params) {
        return refuse_open_elsewhere(&states, of);
    }
    let FamilyKey { disk: Some(path), prefix } = table.params.family() else { return Ok(()) };
    let disk = DiskId::of_path(Path::new(path)).ok();
    let Some(disk) = disk.filter(|_| !can_leave(&table.params)) else { return Ok(()) };
    let base = format!("{prefix}{}", family_key(disk));
    let own = device_among(&states, of.id, |device| device.device() == of).map(|(key, _)| key);
    match key_with_carrier(rundir, &states, &base, disk)? {
        Some(carrier) if own != Some(&*carrier) => Err(format!(
            "{path}: it is a device of another server, which serves its snapshots: add them with \
             `ublk-dm add snapshot`"
        )
        .into()),
        _ => Ok(()),
    }
}

/// The same of the table that is loaded for a device, when that is put in place: its origin may be
/// a device that was not there before.
///
/// # Errors
/// It is such a table.
pub fn refuse_loaded_apart(rundir: &RunDir, of: DeviceRef) -> Result<(), Failure> {
    let states = rundir.states_beside(None)?;
    let mut devices = states.into_iter().flat_map(|state| state.devices);
    let loaded = devices.find(|device| device.device() == of).and_then(|device| device.loaded);
    loaded.map_or(Ok(()), |spec| {
        let stays = "; the table stays loaded, and the device is as it was";
        refuse_apart(rundir, of, &spec.table).map_err(|why| why.ending(stays))
    })
}

/// Whether a device with this table can leave the disk that its family is named after.
pub(super) fn can_leave(params: &TargetParams) -> bool {
    match params {
        TargetParams::Snapshot(_)
        | TargetParams::SnapshotMerge(_)
        | TargetParams::SnapshotOrigin { .. } => false,
        TargetParams::Mirror(_)
        | TargetParams::Linear(_)
        | TargetParams::Error
        | TargetParams::Zero
        | TargetParams::Segments(_) => true,
    }
}

/// Whether a family is on record with devices. An origin keeps to the way in which it began: a
/// server of its own, which has opened the device like any disk, gets the next snapshot as well.
fn has_devices(
    states: &[(&str, Option<State>)],
    key: &str,
    is_there: impl Fn(&DeviceState) -> bool,
) -> bool {
    let own = states.iter().filter(|(other, _)| *other == key);
    own.flat_map(|(_, state)| state.iter().flat_map(|state| &state.devices)).any(is_there)
}

/// Whether the kernel has a device that is on record; one of which it does not tell counts as such.
fn is_there(device: &DeviceState) -> bool {
    exists(device).unwrap_or(true)
}

/// The device with this number, and its family. A number may be on record for a former device, too.
fn device_among<'a, 'b>(
    states: &'b [(&'a str, Option<State>)],
    id: u32,
    is_there: impl Fn(&DeviceState) -> bool,
) -> Option<(&'a str, &'b DeviceState)> {
    let mut devices = states.iter().flat_map(|(key, state)| {
        state.iter().flat_map(|state| &state.devices).map(|device| (*key, device))
    });
    devices.find(|(_, device)| device.id == id && is_there(device))
}

/// Whether a device with such a table carries an origin: a mirror, or one made of ranges.
fn carries(params: &TargetParams) -> bool {
    use TargetParams::{Linear, Mirror, Segments};
    matches!(params, Mirror(_) | Linear(_) | Segments(_))
}

fn can_carry(device: &DeviceState) -> bool {
    carries(&device.spec.table.params) && !device.spec.options.read_only
}

/// Refuses a device that another server has as the origin of snapshots.
fn refuse_open_elsewhere(states: &[(&str, Option<State>)], of: DeviceRef) -> Result<(), Failure> {
    let is_on = |device: &&DeviceState| {
        let params = &device.spec.table.params;
        let word = params.family().disk.filter(|_| !can_leave(params));
        let disk = word.and_then(|word| DiskId::of_path(Path::new(word)).ok());
        device.carrier().is_none() && disk.and_then(ublk_number) == Some(of.id)
    };
    let mut devices =
        states.iter().flat_map(|(_, state)| state.iter().flat_map(|one| &one.devices));
    devices.find(|device| is_on(device) && is_there(device)).map_or(Ok(()), |device| {
        Err(format!(
            "/dev/ublkb{}: {} of another server has it as its origin, and would miss what users \
             write to it with this table: delete that first",
            of.id, device.name
        )
        .into())
    })
}

/// Refuses a device of this run directory that no file has on record: what it is made of, and by
/// whom it is served, is not known.
fn refuse_unrecorded(rundir: &RunDir, id: u32) -> Result<(), Failure> {
    let info = Control::open()?.info(id);
    if !info.is_ok_and(|info| device::has_mark(&info, rundir.mark())) {
        return Ok(());
    }
    let files = rundir.path().display();
    Err(format!(
        "/dev/ublkb{id}: not on record, or its state file in {files} cannot be read, so the server \
         that its snapshots need is not known"
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_with_a_number_is_found_with_its_family() {
        let device = |id, line: &str| DeviceState::of_line(id, &format!("d{id}"), line);
        let state = |devices| Some(State::new("boot".to_owned(), devices));
        let mut read_only = device(4, "0 64 linear /d/1 0");
        read_only.spec.options.read_only = true;
        let mut gone = device(3, "0 64 linear /d/1 0");
        gone.name = "gone".to_owned();
        let lines = vec![gone, device(1, "0 64 linear /d/1 0"), read_only];
        let mirror = vec![device(2, "0 64 mirror core 1 16 2 /d/1 0 /d/2 0")];
        let origin = vec![device(3, "0 64 snapshot-origin /d/3")];
        let states = [
            ("a", state(lines)),
            ("b", state(mirror)),
            ("c", state(origin)),
            ("d", None),
            ("e", state(Vec::new())),
        ];
        let found = |id| {
            let found = device_among(&states, id, |device| device.name != "gone");
            found.map(|(key, device)| (key, can_carry(device)))
        };
        assert_eq!(found(1), Some(("a", true)));
        assert_eq!(found(2), Some(("b", true)));
        assert_eq!(found(3), Some(("c", false)));
        assert_eq!(found(4), Some(("a", false)));
        assert_eq!(found(5), None);
        let with = |key| has_devices(&states, key, |device| device.id != 2);
        assert!(with("a") && !with("d") && !with("e") && !with("f"));
        assert!(!with("b"), "its device is gone");
    }
}
