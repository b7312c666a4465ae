//! What a server knows of its devices: their names, their disks, and how they were asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::mirror::table::{Leg, Mirror};
use dm_targets::table::TargetParams;

use crate::failure::Reason;
use crate::protocol::{Cow, KnownDisk, KnownDisks};
use crate::protocol::{DeviceSpec, DeviceState};
use crate::storage::DiskId;
use crate::ublk::DeviceInfo;

/// The disks under a device, by their words in its table.
#[derive(Clone, Default)]
pub struct Deps(BTreeMap<String, (DiskId, KnownDisk)>);

impl Deps {
    pub(super) fn insert(&mut self, word: &str, id: DiskId, known: KnownDisk) {
        self.0.insert(word.to_owned(), (id, known));
    }

    /// The disk of a word.
    pub fn id(&self, word: &str) -> Option<DiskId> {
        self.0.get(word).map(|(id, _)| *id)
    }

    /// How the disk of a word stands on a table line: `MAJ:MIN`, or the path of a file.
    pub fn on_table_line(&self, word: &str) -> String {
        self.id(word).map_or_else(|| word.to_owned(), |id| id.on_table_line(word))
    }

    /// The disks with their words.
    pub(super) fn disks(&self) -> impl Iterator<Item = (&str, DiskId, &KnownDisk)> {
        self.0.iter().map(|(word, (id, known))| (word.as_str(), *id, known))
    }

    /// Whether a disk is among them.
    pub(super) fn has(&self, disk: DiskId) -> bool {
        self.0.values().any(|(id, _)| *id == disk)
    }

    /// Forgets the disks that a table does not name.
    pub(super) fn retain(&mut self, words: &[String]) {
        self.0.retain(|word, _| words.contains(word));
    }

    /// By what the disks are known again.
    pub(super) fn known(&self) -> KnownDisks {
        self.0.iter().map(|(word, (_, known))| (word.clone(), known.clone())).collect()
    }

    /// The block devices' numbers; of a file, its file system's.
    pub fn numbers(&self) -> Vec<(u32, u32)> {
        self.0.values().map(|(id, _)| id.block_number()).collect()
    }
}

/// A leg, for those who look for one.
#[derive(Clone)]
pub struct LegRef {
    pub path: String,
    pub disk: Option<DiskId>,
}

/// The messages that a mirror takes.
pub const MESSAGES: &str = "check, repair LEG, replace LEG DEV[:OFFSET], add-leg DEV[:OFFSET], \
                            remove-leg LEG, recover, throttle PERCENT";

/// A device of this server.
#[derive(Clone)]
pub struct Device {
    pub name: String,
    pub spec: DeviceSpec,
    pub info: DeviceInfo,
    /// Major and minor of the disk.
    pub number: Option<(u32, u32)>,
    pub deps: Deps,
    pub read_only: bool,
    /// Its requests are held back.
    pub suspended: bool,
    /// The kernel has not started it for this server: its I/O waits.
    pub waits: bool,
    /// The table that its next resume puts in place.
    pub loaded: Option<DeviceSpec>,
    /// Of a snapshot that outlives its server: by what its COW is known again.
    pub cow: Option<Cow>,
}

impl Device {
    /// The mirror that the device is, if it is one.
    pub fn mirror(&self) -> Option<&Mirror> {
        match &self.spec.table.params {
            TargetParams::Mirror(mirror) => Some(mirror),
            _ => None,
        }
    }

    /// A mirror's legs.
    pub fn legs(&self) -> Option<Vec<LegRef>> {
        let leg = |leg: &Leg| LegRef { path: leg.device.clone(), disk: self.deps.id(&leg.device) };
        self.mirror().map(|mirror| mirror.legs.iter().map(leg).collect())
    }

    /// Whether it is an origin's device.
    pub fn is_origin(&self) -> bool {
        matches!(self.spec.table.params, TargetParams::SnapshotOrigin { .. })
    }

    /// How the device is made again after this server's death.
    pub fn state(&self) -> DeviceState {
        DeviceState {
            suspended: self.suspended,
            loaded: self.loaded.clone(),
            cow: self.cow.clone(),
            ..state_of(&self.info, &self.name, &self.deps, &self.spec)
        }
    }
}

/// How a device is made again.
pub(super) fn state_of(
    info: &DeviceInfo,
    name: &str,
    deps: &Deps,
    spec: &DeviceSpec,
) -> DeviceState {
    DeviceState {
        id: info.id,
        cookie: info.target_flags,
        name: name.to_owned(),
        disks: deps.numbers(),
        spec: spec.clone(),
        suspended: false,
        loaded: None,
        cow: None,
        lost: false,
        known: deps.known(),
    }
}

/// Whether the device's users can change its family's origin.
pub(super) fn changes_origin(spec: &DeviceSpec) -> bool {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) => snapshot.discard_passdown_origin,
        _ => true,
    }
}

/// Whether the device is a snapshot that outlives its server.
pub(super) fn is_persistent_snapshot(spec: &DeviceSpec) -> bool {
    matches!(&spec.table.params, TargetParams::Snapshot(snapshot) if !snapshot.store.is_transient())
}

/// A device of a dead server that could not be taken over.
#[derive(Clone)]
pub struct LeftOut {
    pub device: DeviceState,
    /// Its I/O waits; else it has no disk any more.
    pub waits: bool,
    /// An earlier server wrote down that it is lost, and this one cannot know better.
    pub for_good: bool,
}

/// Devices by id, and those that were left out.
type Known = (BTreeMap<u32, Device>, BTreeMap<u32, LeftOut>);

/// What all threads know of the devices: as they were when nothing was being changed.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<Known>>);

impl Directory {
    /// Puts other devices in the place of those that were known.
    pub(super) fn publish(
        &self,
        devices: &BTreeMap<u32, Device>,
        left_out: &BTreeMap<u32, LeftOut>,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.0.clone_from(devices);
        known.1.clone_from(left_out);
    }

    /// The devices, by id.
    pub fn devices(&self) -> BTreeMap<u32, Device> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Those that were left out, by id.
    pub fn left_out(&self) -> BTreeMap<u32, LeftOut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// A device that is not this server's.
pub(super) fn no_device(id: u32) -> Reason {
    format!("/dev/ublkb{id}: no such device; see `ublk-dm list`").into()
}

/// A leg by its path or by its place, counted from 0. Another path of the same disk will do, if one
/// leg alone is on that.
pub fn find_leg(legs: &[LegRef], word: &str) -> Option<usize> {
    let by_path = legs.iter().position(|leg| leg.path == word);
    by_path
        .or_else(|| word.parse().ok().filter(|at| *at < legs.len()))
        .or_else(|| by_disk(legs, word))
}

fn by_disk(legs: &[LegRef], word: &str) -> Option<usize> {
    let id = DiskId::of(&std::fs::metadata(word).ok()?)?;
    let mut places =
        legs.iter().enumerate().filter(|(_, leg)| leg.disk == Some(id)).map(|(at, _)| at);
    places.next().filter(|_| places.next().is_none())
}

pub fn not_a_leg(legs: &[LegRef], id: u32, word: &str) -> Reason {
    let legs: Vec<_> =
        legs.iter().enumerate().map(|(at, leg)| format!("{at} ({})", leg.path)).collect();
    format!("{word}: not a leg of /dev/ublkb{id}, which has legs {}", legs.join(", ")).into()
}

/// A name that is not taken: the one that is wanted, or that with a number behind it.
pub(super) fn free_name(wanted: &str, taken: &[String]) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_is_not_taken() {
        let taken =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(free_name("snap1", &taken(&["snap2", "origin1"])), "snap1");
        assert_eq!(free_name("snap1", &taken(&["snap1"])), "snap1-2");
        assert_eq!(free_name("snap1", &taken(&["snap1-2", "snap1", "snap1-3"])), "snap1-4");
    }
}
