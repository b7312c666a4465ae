//! The family of a new mirror, or of new ranges, over devices of ublk-dm: that of these devices.

use std::path::Path;

use dm_targets::table::{Table, TargetParams};

use super::passed_on::passes_on;
use crate::protocol::DeviceState;
use crate::rundir::State;
use crate::storage::{DiskId, ublk_number};

/// The family of the ublk device with this number.
pub(super) fn key_of_device<'a>(states: &[(&'a str, Option<State>)], id: u32) -> Option<&'a str> {
    let has = |state: &Option<State>| {
        state.iter().flat_map(|state| &state.devices).any(|device| device.id == id)
    };
    states.iter().find(|(_, state)| has(state)).map(|(key, _)| *key)
}

/// The family in whose server all disks of a new mirror, or of new ranges, are devices that are
/// devices of ublk-dm.
pub(super) fn key_of_lower<'a>(
    states: &[(&'a str, Option<State>)],
    table: &Table,
) -> Option<&'a str> {
    let disks = table.params.devices().into_iter();
    let numbers = disks.filter_map(|word| ublk_number(DiskId::of_path(Path::new(&word)).ok()?));
    key_with_lower(states, table, &numbers.collect::<Vec<_>>())
}

/// The same by the numbers of the ublk devices among its disks. A device that has snapshots there
/// is no disk in its server, and a mirror is the only one in its server.
fn key_with_lower<'a>(
    states: &[(&'a str, Option<State>)],
    table: &Table,
    numbers: &[u32],
) -> Option<&'a str> {
    use TargetParams::{Linear, Mirror, Segments};
    if !matches!(table.params, Mirror(_) | Linear(_) | Segments(_)) {
        return None;
    }
    let key = key_of_device(states, *numbers.first()?)?;
    let (_, state) = states.iter().find(|(other, _)| *other == key)?;
    let devices = &state.as_ref()?.devices;
    let is_ranges =
        |device: &DeviceState| device.spec.table.params.segments(device.spec.table.len).is_some();
    let can_join = |id: &u32| {
        let device = devices.iter().find(|device| device.id == *id);
        let carries = devices.iter().any(|one| one.carrier().is_some_and(|it| it.id == *id));
        device.is_some_and(|device| {
            let is_mirror = matches!(device.spec.table.params, Mirror(_));
            !carries && (is_mirror || is_ranges(device)) && !device.spec.options.read_only
        })
    };
    let is_mirror = matches!(table.params, Mirror(_));
    let stays_beside = |device: &DeviceState| is_ranges(device) || passes_on(device, table);
    let has_room = !is_mirror || devices.iter().all(stays_beside);
    (has_room && numbers.iter().all(can_join)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DeviceRef, KnownDisk};

    fn device(id: u32, line: &str) -> DeviceState {
        DeviceState::of_line(id, &format!("d{id}"), line)
    }

    #[test]
    fn a_device_over_devices_of_one_server_joins_that() {
        let lines = |id| device(id, "0 64 linear /d/1 0");
        let state = |devices| Some(State::new("boot".to_owned(), devices));
        let table = |line: &str| Table::parse_table(line).unwrap();
        let mirror = table("0 64 mirror core 1 16 2 /dev/ublkb1 0 /dev/ublkb2 0");
        let range = table("0 64 linear /dev/ublkb1 0");
        let key = |devices: Vec<DeviceState>, table: &Table, numbers: &[u32]| {
            let states = [("other", state(vec![lines(9)])), ("linear-a", state(devices))];
            key_with_lower(&states, table, numbers).map(str::to_owned)
        };
        let joined = Some("linear-a".to_owned());
        assert_eq!(key(vec![lines(1), lines(2)], &mirror, &[1, 2]), joined);
        assert_eq!(key(vec![lines(1)], &mirror, &[1]), joined, "the other leg is the kernel's");
        assert_eq!(key(vec![lines(1)], &mirror, &[1, 9]), None, "two servers");
        assert_eq!(key(vec![lines(1)], &mirror, &[]), None);
        assert_eq!(key(vec![lines(1)], &table("0 64 snapshot-origin /dev/ublkb1"), &[1]), None);
        // A mirror is the only one of its server, and can be a disk of ranges.
        let on = |id| device(id, "0 64 mirror core 1 16 2 /d/1 0 /d/2 0");
        assert_eq!(key(vec![on(1)], &mirror, &[1]), None);
        assert_eq!(key(vec![on(1)], &range, &[1]), joined);
        // What has snapshots is no disk, nor is what cannot be written.
        let mut snapshot = device(3, "0 64 snapshot /dev/ublkb1 /d/3 P 8");
        let carrier = Some(DeviceRef { id: 1, cookie: 7 });
        let known = KnownDisk { device: carrier, ..KnownDisk::default() };
        snapshot.known.insert("/dev/ublkb1".to_owned(), known);
        assert_eq!(key(vec![lines(1), snapshot], &range, &[1]), None);
        let mut read_only = lines(1);
        read_only.spec.options.read_only = true;
        assert_eq!(key(vec![read_only], &range, &[1]), None);
    }
}
