//! The family of a new snapshot, or origin, of a device of ublk-dm: that of this device, whose own
//! users are those who write to the origin.
//!
//! Rule kept here: I5. Another server would not see what these users write. So where the device's
//! own server cannot be asked, or is not known, nothing is added.

use crate::cli::gone::exists;
use crate::cli::takeover::refuse_waiting;
use crate::failure::{Failure, Kind};
use crate::protocol::DeviceState;
use crate::rundir::{RunDir, Server, State};
use crate::server::claims::refuse_unrecorded;
use crate::storage::{DiskId, ublk_number};

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

fn can_carry(device: &DeviceState) -> bool {
    device.spec.table.params.can_carry_origin() && !device.spec.options.read_only
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
