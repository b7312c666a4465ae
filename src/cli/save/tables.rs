//! The tables of the devices that run beside those of lines of the tab file.

use std::convert::Infallible;

use dm_targets::linear::table::Linear;
use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::{Table, TargetParams};

use super::names::{Device, Names, Tables};
use crate::cli::running::Running;
use crate::protocol::DeviceState;
use crate::tab::{Disk, Entry};

/// What runs, as servers and state files say.
pub(super) struct Machine<'a> {
    pub running: &'a Running,
    pub states: &'a [DeviceState],
}

impl Tables for Machine<'_> {
    fn are_same(&self, device: &Device<'_>, entry: &Entry, names: &Names) -> bool {
        let report = self.running.device(device.name);
        report.is_some_and(|it| self.running.has_table_of(it, &renamed(entry, names)))
    }

    fn begin_alike(&self, device: &Device<'_>, entry: &Entry, names: &Names) -> bool {
        let Some(state) = self.states.iter().find(|state| state.id == device.id) else {
            return false;
        };
        let disk = |word: &str| self.running.disk(word);
        let begins = |table: &Table| {
            let places = places(table).into_iter();
            places.filter_map(|(word, offset)| Some((disk(&word)?, offset))).collect::<Vec<_>>()
        };
        let (has, wanted) = (&state.spec.table, &renamed(entry, names).table);
        let is_kind = has.params.short_name() == wanted.params.short_name();
        let wanted = begins(wanted);
        is_kind && begins(has).iter().any(|place| wanted.contains(place))
    }
}

/// A line with the new names of the devices that it names.
fn renamed(entry: &Entry, names: &Names) -> Entry {
    let new = |word: &str| match Disk::of(word) {
        Disk::Named(name) => names.get(name).map_or(word, String::as_str).to_owned(),
        Disk::Path(_) => word.to_owned(),
    };
    let table = entry.table.with_devices(|word| Ok::<_, Infallible>(new(word)));
    Entry { table: table.unwrap_or_else(|never| match never {}), ..entry.clone() }
}

/// The places of disks of which a device is made, one of which is enough to tell that it is the
/// same: its COW, its origin, a leg, or where its ranges begin.
fn places(table: &Table) -> Vec<(String, u64)> {
    let first = |linear: &Linear| (linear.device.clone(), linear.offset.0);
    match &table.params {
        TargetParams::Snapshot(snapshot) => vec![(snapshot.cow.clone(), 0)],
        TargetParams::SnapshotOrigin { origin }
        | TargetParams::SnapshotMerge(Snapshot { origin, .. }) => vec![(origin.clone(), 0)],
        TargetParams::Mirror(mirror) => {
            mirror.legs.iter().map(|leg| (leg.device.clone(), leg.offset.0)).collect()
        }
        TargetParams::Linear(linear) => vec![first(linear)],
        TargetParams::Segments(segments) => {
            let linear = segments.iter().find_map(|segment| segment.params.linear());
            linear.map(first).into_iter().collect()
        }
        TargetParams::Error | TargetParams::Zero => Vec::new(),
    }
}
