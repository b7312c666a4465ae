//! The device beside which another one was put (`beside=`): that the two share a server, nothing
//! else tells after the next start of the machine.

use dm_targets::table::TargetParams;

use crate::protocol::DeviceState;

/// The device beside which `own` is to be put, if it would not get into the server of its family by
/// itself. `same`: whether two words name one disk.
pub(super) fn beside<'a>(
    own: &DeviceState,
    family: &[&'a DeviceState],
    same: &dyn Fn(&str, &str) -> bool,
) -> Option<&'a DeviceState> {
    let is_low = |one: &DeviceState| one.lower().next().is_none();
    // What stands on devices of the server follows them.
    if !is_ranges(own) || !is_low(own) {
        return None;
    }
    // Nothing can be put beside a mirror that is there already.
    let can_be = |one: &&DeviceState| is_low(one) && !is_mirror(one);
    let low = family.iter().copied().filter(can_be);
    // An origin and its snapshots can only be where they are.
    let rank = |one: &&DeviceState| (is_ranges(one), disk_of(one).is_none(), one.id);
    let first = low.clone().min_by_key(rank)?;
    let is_with = |one: &DeviceState, other: &DeviceState| {
        let disks = disk_of(one).zip(disk_of(other));
        one.id == other.id || disks.is_some_and(|(one, other)| same(one, other))
    };
    if is_with(own, first) {
        return None;
    }
    // What comes after the device cannot come before it.
    let is_later = |one: &DeviceState| {
        let writes =
            |it: &&&DeviceState| origin_of_snapshot(it).is_some_and(|it| writes(one, it, same));
        stands_on(one, own, family)
            || family.iter().filter(writes).any(|it| stands_on(it, own, family))
    };
    let can_be = low.filter(|one| is_with(one, first) && !is_transient(one) && !is_later(one));
    can_be.min_by_key(|one| (origin_of_snapshot(one).is_some(), one.id))
}

fn is_mirror(device: &DeviceState) -> bool {
    matches!(device.spec.table.params, TargetParams::Mirror(_))
}

fn is_ranges(device: &DeviceState) -> bool {
    let table = &device.spec.table;
    table.params.segments(table.len).is_some()
}

/// The disk by which it finds its server.
fn disk_of(device: &DeviceState) -> Option<&str> {
    device.spec.table.params.family().disk
}

fn origin_of_snapshot(device: &DeviceState) -> Option<&str> {
    match &device.spec.table.params {
        TargetParams::Snapshot(snapshot) => Some(&snapshot.origin),
        _ => None,
    }
}

fn is_transient(device: &DeviceState) -> bool {
    let params = &device.spec.table.params;
    matches!(params, TargetParams::Snapshot(snapshot) if snapshot.store.is_transient())
}

/// Whether an origin is written through a device.
fn writes(device: &DeviceState, origin: &str, same: &dyn Fn(&str, &str) -> bool) -> bool {
    match &device.spec.table.params {
        TargetParams::SnapshotOrigin { origin: written } => same(written, origin),
        TargetParams::SnapshotMerge(merge) => same(&merge.origin, origin),
        _ => false,
    }
}

/// Whether a device stands on another one of its server, at whatever height.
fn stands_on(one: &DeviceState, other: &DeviceState, family: &[&DeviceState]) -> bool {
    // A device stands only on those that were there before; the count ends a record that is wrong.
    let (mut next, mut left) = (vec![one], family.len() * family.len());
    while let Some(device) = next.pop().filter(|_| left > 0) {
        left -= 1;
        if device.lower().any(|lower| lower == other.device()) {
            return true;
        }
        let below = |it: &&&DeviceState| device.lower().any(|lower| lower == it.device());
        next.extend(family.iter().filter(below).copied());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::KnownDisk;

    fn device(id: u32, line: &str) -> DeviceState {
        DeviceState::of_line(id, &format!("d{id}"), line)
    }

    /// The same over another device of its server.
    fn upon(mut upper: DeviceState, word: &str, lower: &DeviceState) -> DeviceState {
        let joined = Some(lower.device());
        upper.known.insert(word.to_owned(), KnownDisk { joined, ..KnownDisk::default() });
        upper
    }

    fn found(own: u32, family: &[DeviceState]) -> Option<u32> {
        let all: Vec<&DeviceState> = family.iter().collect();
        let own = family.iter().find(|device| device.id == own).unwrap();
        beside(own, &all, &|one, other| one == other).map(|device| device.id)
    }

    #[test]
    fn a_device_that_has_no_disk_of_the_others_is_beside_one_of_them() {
        let lines = |id, disk: &str| device(id, &format!("0 8 linear {disk} 0"));
        let two = [lines(1, "/a"), lines(2, "/b"), lines(3, "/a"), device(4, "0 8 zero")];
        let expected = [None, Some(1), None, Some(1)];
        assert_eq!([1, 2, 3, 4].map(|id| found(id, &two)), expected);
        // One with disks comes first, and what can only be where it is before that.
        let mixed = [device(0, "0 8 error"), lines(1, "/a"), device(2, "0 8 snapshot-origin /o")];
        assert_eq!([0, 1, 2].map(|id| found(id, &mixed)), [Some(2), Some(2), None]);
        let mirror = device(5, "0 8 mirror core 1 8 2 /a 0 /b 0");
        let mixed = [lines(1, "/c"), lines(2, "/d"), mirror];
        assert_eq!([1, 2, 5].map(|id| found(id, &mixed)), [None, Some(1), None]);
        assert_eq!(found(1, &[lines(1, "/c")]), None);
    }

    #[test]
    fn what_stands_on_others_follows_them() {
        let (one, two) = (device(1, "0 8 linear /a 0"), device(2, "0 8 linear /b 0"));
        let mirror = device(3, "0 8 mirror core 1 8 2 /dev/ublkb1 0 /dev/ublkb2 0");
        let mirror = upon(upon(mirror, "/dev/ublkb1", &one), "/dev/ublkb2", &two);
        let top = upon(device(0, "0 8 linear /dev/ublkb3 0"), "/dev/ublkb3", &mirror);
        let all = [top, one, two, mirror];
        assert_eq!([0, 1, 2, 3].map(|id| found(id, &all)), [None, None, Some(1), None]);
    }

    #[test]
    fn a_device_is_not_beside_what_comes_after_it() {
        let origin = device(1, "0 8 snapshot-origin /o");
        let cow = device(2, "0 8 linear /c 0");
        let snapshot = device(3, "0 8 snapshot /o /dev/ublkb2 P 8");
        let snapshot = upon(snapshot, "/dev/ublkb2", &cow);
        assert_eq!(found(2, &[origin.clone(), cow.clone(), snapshot.clone()]), None);
        let other = device(4, "0 8 snapshot /o /d P 8");
        assert_eq!(found(2, &[origin.clone(), cow.clone(), snapshot, other]), Some(4));
        let transient = device(4, "0 8 snapshot /o /d N 8");
        assert_eq!(found(2, &[cow, transient]), None);
    }
}
