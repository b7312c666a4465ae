//! The devices that exist, by their names, for the lines of the tab file.

use std::convert::Infallible;
use std::path::Path;

use dm_targets::mirror::table::InitialSync;
use dm_targets::table::{Table, TargetParams};

use super::client::Known;
use super::stand_in;
use crate::failure::Failure;
use crate::protocol::{DeviceReport, RunState};
use crate::rundir::RunDir;
use crate::storage::DiskId;
use crate::tab::{Disk, Entry};

/// What is known of all devices at one moment.
pub(super) struct Running(Known);

impl Running {
    /// Asks all servers.
    pub fn of(rundir: &RunDir) -> Result<Running, Failure> {
        Ok(Running(Known::of(rundir)?))
    }

    /// What was found.
    pub fn known(&self) -> &Known {
        &self.0
    }

    /// The device with a name.
    pub fn device(&self, name: &str) -> Option<&DeviceReport> {
        self.0.devices().into_iter().find(|device| device.name == name)
    }

    /// Whether a device exists and has no server.
    pub fn waits(&self, name: &str) -> bool {
        self.device(name).is_some_and(|device| {
            device.object.server_pid.is_none() || device.object.state == RunState::Quiesced
        })
    }

    /// The disk that a word of a line names, if it is there.
    pub fn disk(&self, word: &str) -> Option<DiskId> {
        match Disk::of(word) {
            Disk::Path(path) => DiskId::of_path(Path::new(path)).ok(),
            Disk::Named(name) => {
                let device = self.device(name)?;
                DiskId::of_path(Path::new(&device.object.block_device)).ok()
            }
        }
    }

    /// The names of the devices that stand in for legs.
    pub fn stand_ins(&self) -> Vec<String> {
        let all = self.0.devices().into_iter().filter(|device| stand_in::is_one(device));
        all.map(|device| device.name.clone()).collect()
    }

    /// The legs of a mirror, by their indices, for which devices stand in.
    pub fn lost_legs(&self, device: &DeviceReport) -> Vec<usize> {
        let table = Table::parse_table(&device.table).map(|table| table.params);
        let Ok(TargetParams::Mirror(mirror)) = table else { return Vec::new() };
        let is_lost = |word: &str| {
            let mut stand_ins = self.0.devices().into_iter().filter(|it| stand_in::is_one(it));
            stand_ins.any(|it| {
                let number = it.object.major.zip(it.object.minor);
                number.is_some_and(|(major, minor)| word == format!("{major}:{minor}"))
            })
        };
        let legs = mirror.legs.iter().enumerate();
        legs.filter(|(_, leg)| is_lost(&leg.device)).map(|(at, _)| at).collect()
    }

    /// Whether a device has the table of a line, by whatever words the line names its disks; a leg
    /// for which a device stands in counts as that of the line.
    pub fn has_table_of(&self, device: &DeviceReport, entry: &Entry) -> bool {
        let Ok(has) = Table::parse_table(&device.table) else { return false };
        let lost = self.lost_legs(device);
        let number = |word: &str| match (Disk::of(word), self.disk(word)) {
            (_, Some(id)) => id.on_table_line(word),
            (Disk::Path(path), None) => path.to_owned(),
            (Disk::Named(name), None) => name.to_owned(),
        };
        let wanted = entry.table.with_devices(|word| Ok::<_, Infallible>(number(word)));
        let mut wanted = wanted.unwrap_or_else(|never| match never {});
        if let (TargetParams::Mirror(has), TargetParams::Mirror(wanted)) =
            (&has.params, &mut wanted.params)
        {
            for (at, (has, wanted)) in has.legs.iter().zip(&mut wanted.legs).enumerate() {
                if lost.contains(&at) {
                    wanted.device.clone_from(&has.device);
                }
            }
        }
        comparable(has) == comparable(wanted)
    }
}

/// A table without what changes while a device runs, or is chosen when it is made.
fn comparable(mut table: Table) -> Table {
    table.params = match table.params {
        // The plain table comes back when a merge has ended.
        TargetParams::SnapshotMerge(merge) => TargetParams::SnapshotOrigin { origin: merge.origin },
        TargetParams::Snapshot(mut snapshot) => {
            snapshot.chunk_size = None;
            TargetParams::Snapshot(snapshot)
        }
        TargetParams::Mirror(mut mirror) => {
            mirror.initial_sync = InitialSync::FromLog;
            TargetParams::Mirror(mirror)
        }
        other => other,
    };
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_by_itself_is_not_compared() {
        let alike = |one: &str, other: &str| {
            let table = |line| comparable(Table::parse_table(line).unwrap());
            table(one) == table(other)
        };
        assert!(alike("0 8 snapshot-merge /o /c P 8", "0 8 snapshot-origin /o"));
        assert!(alike("0 8 snapshot /o /c P 8", "0 8 snapshot /o /c P 0"));
        assert!(!alike("0 8 snapshot /o /c P 8", "0 8 snapshot /o /c PO 8"));
        let mirror = |sync: &str, leg: &str| format!("0 8 mirror core {sync} 2 /a 0 {leg} 0");
        assert!(alike(&mirror("2 8 nosync", "/b"), &mirror("1 8", "/b")));
        assert!(!alike(&mirror("1 8", "/b"), &mirror("1 8", "/c")));
        assert!(!alike("0 8 zero", "0 16 zero"));
    }
}
