//! Disks that stand on a device of the server that would use them: a COW file in the file system that is mounted from its own
//! origin's device, a leg of a mirror in a file system on that mirror. Such a write would wait for itself, and after the
//! server's death neither could come back: refused before the server opens anything.

use std::path::Path;

use dm_targets::table::TargetParams;

use crate::failure::Reason;
use crate::protocol::DeviceState;
use crate::server::control::Server;
use crate::server::devices::Entry;
use crate::storage::{DiskId, Ground, Standing, Through, circle, number_of_mount};

impl Server {
    /// Refuses a table whose disks stand on a device of this server, or on each other.
    pub(in crate::server) fn refuse_circle_of(&self, table: &TargetParams) -> Result<(), Reason> {
        self.refuse_circle(&words(table))
    }

    /// Refuses a new leg, in the place of an old one or beside all, that stands on its mirror or on a disk of that.
    pub(super) fn refuse_circle_of_leg(&self, id: u32, leg: &str, place: Option<usize>) -> Result<(), Reason> {
        let Some(mirror) = self.devices.get(&id).and_then(Entry::mirror) else { return Ok(()) };
        let stay = mirror.legs.iter().enumerate().filter(|(at, _)| Some(*at) != place);
        let others = stay.map(|(_, other)| other.device.as_str()).chain(mirror.log_device());
        self.refuse_circle(&std::iter::once(leg).chain(others).collect::<Vec<_>>())
    }

    fn refuse_circle(&self, words: &[&str]) -> Result<(), Reason> {
        // What is not there is said when it is opened.
        let known = |word| {
            let path = Path::new(word);
            Some(Standing { path, id: DiskId::of(&std::fs::metadata(path).ok()?)? })
        };
        let disks: Vec<Standing<'_>> = words.iter().copied().filter_map(known).collect();
        let own = self.devices.keys().copied().collect();
        let Some((at, ground)) = circle(&disks, &own, &self.through()) else { return Ok(()) };
        let what = match ground {
            Ground::Ublk(id) => {
                let name = self.devices.get(&id).map_or("", |entry| entry.name.as_str());
                format!(
                    "/dev/ublkb{id} ({name}), whose own server it would belong to: writes would wait for themselves"
                )
            }
            Ground::Disk(other) => format!("{}, another disk of the same device", disks[other].path.display()),
        };
        let hint = "use a disk that does not depend on that";
        Err(format!("{}: it stands on {what}; {hint}", disks[at].path.display()))
    }

    /// What the devices of other servers stand on. A state file that cannot be read hides what it tells.
    fn through(&self) -> Through {
        let keys = self.rundir.keys().unwrap_or_default();
        let states = keys.iter().filter(|key| **key != self.key).filter_map(|key| self.rundir.state(key).ok()?);
        states.flat_map(|state| state.devices).map(|device| (device.id, numbers(&device))).collect()
    }
}

/// The numbers of a device's disks. Where a file shows a number that may be no file system's, that of its place comes in.
fn numbers(device: &DeviceState) -> Vec<(u32, u32)> {
    const NO_NUMBER: (u32, u32) = (0, 0);
    let unsure = device.disks.iter().any(|number| number.0 == 0);
    let files = words(&device.spec.table.params).into_iter().filter(|word| unsure && !word.starts_with("/dev/"));
    let places = files.map(|word| number_of_mount(Path::new(word), NO_NUMBER));
    device.disks.iter().copied().chain(places).collect()
}

/// The device words of a table.
fn words(table: &TargetParams) -> Vec<&str> {
    match table {
        TargetParams::Snapshot(snapshot) => vec![&snapshot.origin, &snapshot.cow],
        TargetParams::SnapshotOrigin { origin } => vec![origin],
        TargetParams::Mirror(mirror) => {
            mirror.legs.iter().map(|leg| leg.device.as_str()).chain(mirror.log_device()).collect()
        }
        TargetParams::SnapshotMerge(_) => Vec::new(),
    }
}
