//! The family of a new device that takes the mirror of a suspended one: that one's.

use std::path::Path;

use dm_targets::mirror::table::Leg;
use dm_targets::table::{Table, TargetParams};

use crate::protocol::DeviceState;
use crate::storage::DiskId;

/// Whether a device is suspended and has a mirror on the disks of this table. Its server judges
/// whether the mirror is the same.
pub(super) fn passes_on(device: &DeviceState, table: &Table) -> bool {
    let TargetParams::Mirror(old) = &device.spec.table.params else { return false };
    let TargetParams::Mirror(new) = &table.params else { return false };
    let is_same = |(was, is): (&Leg, &Leg)| {
        let disk = |leg: &Leg| DiskId::of_path(Path::new(&leg.device)).ok();
        was.offset == is.offset && disk(was).is_some_and(|was| Some(was) == disk(is))
    };
    device.suspended
        && old.legs.len() == new.legs.len()
        && old.legs.iter().zip(&new.legs).all(is_same)
}
