//! What a server knows of its devices: their names, their disks, and how they were asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::table::{self, TargetParams};

use crate::failure::Reason;
use crate::protocol::{DeviceSpec, DeviceState};
use crate::storage::DiskId;
use crate::ublk::DeviceInfo;

/// The disks under a device, by their words in its table.
#[derive(Clone, Default)]
pub struct Deps(BTreeMap<String, DiskId>);

impl Deps {
    pub(super) fn insert(&mut self, word: &str, id: DiskId) {
        self.0.insert(word.to_owned(), id);
    }

    /// The disk of a word.
    pub fn id(&self, word: &str) -> Option<DiskId> {
        self.0.get(word).copied()
    }

    /// How the disk of a word stands on a table line: `MAJ:MIN`, or the path of a file.
    pub fn on_table_line(&self, word: &str) -> String {
        self.id(word).map_or_else(|| word.to_owned(), |id| id.on_table_line(word))
    }

    /// The block devices' numbers; of a file, its file system's.
    pub fn numbers(&self) -> Vec<(u32, u32)> {
        self.0.values().map(DiskId::block_number).collect()
    }
}

/// A leg, for those who look for one.
#[derive(Clone)]
pub struct LegRef {
    pub path: String,
    pub disk: Option<DiskId>,
}

/// A device of this server.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub spec: DeviceSpec,
    pub info: DeviceInfo,
    /// Major and minor of the disk.
    pub number: Option<(u32, u32)>,
    pub deps: Deps,
    pub read_only: bool,
    /// Its requests are held back.
    pub suspended: bool,
    /// The table that its next resume puts in place.
    pub loaded: Option<DeviceSpec>,
}

impl Entry {
    /// The mirror that the device is, if it is one.
    pub fn mirror(&self) -> Option<&table::Mirror> {
        match &self.spec.table.params {
            TargetParams::Mirror(mirror) => Some(mirror),
            _ => None,
        }
    }

    /// A mirror's legs.
    pub fn legs(&self) -> Option<Vec<LegRef>> {
        let leg = |leg: &table::Leg| LegRef { path: leg.device.clone(), disk: self.deps.id(&leg.device) };
        self.mirror().map(|mirror| mirror.legs.iter().map(leg).collect())
    }

    /// Whether it is an origin's device.
    pub fn is_origin(&self) -> bool {
        matches!(self.spec.table.params, TargetParams::SnapshotOrigin { .. })
    }

    /// How the device is made again after this server's death.
    pub(super) fn state(&self) -> DeviceState {
        DeviceState {
            suspended: self.suspended,
            loaded: self.loaded.clone(),
            ..state_of(&self.info, &self.name, &self.deps, &self.spec)
        }
    }
}

/// How a device is made again.
pub(super) fn state_of(info: &DeviceInfo, name: &str, deps: &Deps, spec: &DeviceSpec) -> DeviceState {
    DeviceState {
        id: info.id,
        cookie: info.target_flags,
        name: name.to_owned(),
        disks: deps.numbers(),
        spec: spec.clone(),
        suspended: false,
        loaded: None,
        lost: false,
    }
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
type Known = (BTreeMap<u32, Entry>, BTreeMap<u32, LeftOut>);

/// What all threads know of the devices: as they were when nothing was being changed.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<Known>>);

impl Directory {
    /// Puts other devices in the place of those that were known.
    pub(super) fn publish(&self, devices: &BTreeMap<u32, Entry>, left_out: &BTreeMap<u32, LeftOut>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.0.clone_from(devices);
        known.1.clone_from(left_out);
    }

    pub(super) fn devices(&self) -> BTreeMap<u32, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(super) fn left_out(&self) -> BTreeMap<u32, LeftOut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn legs_of(&self, id: u32) -> Vec<LegRef> {
        self.devices().get(&id).and_then(Entry::legs).unwrap_or_default()
    }
}

/// A device that is not this server's.
pub(super) fn no_device(id: u32) -> Reason {
    format!("/dev/ublkb{id}: no such device; see `ublk-dm list`")
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
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(free_name("snap1", &taken(&["snap2", "origin1"])), "snap1");
        assert_eq!(free_name("snap1", &taken(&["snap1"])), "snap1-2");
        assert_eq!(free_name("snap1", &taken(&["snap1-2", "snap1", "snap1-3"])), "snap1-4");
    }
}
