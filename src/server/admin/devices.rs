//! A server's devices: their names, their disks, and how they were specified.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::linear::table::Linear;
use dm_targets::mirror::table::{Leg, Mirror};
use dm_targets::segments::table::{Segment, SegmentParams};
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::Sector;

use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{Cow, KnownDisk, KnownDisks, Place};
use crate::protocol::{DeviceRef, DeviceSpec, DeviceState};
use crate::storage::DiskId;
use crate::ublk::DeviceInfo;

/// The disks under a device, by their words in its table.
#[derive(Clone, Default)]
pub struct Deps(BTreeMap<String, (DiskId, KnownDisk)>);

impl Deps {
    pub(super) fn insert(&mut self, word: &str, id: DiskId, known: KnownDisk) {
        self.0.insert(word.to_owned(), (id, known));
    }

    /// The disk that a word names.
    pub fn id(&self, word: &str) -> Option<DiskId> {
        self.0.get(word).map(|(id, _)| *id)
    }

    /// How a disk is recognized later, and whether it is there.
    pub(super) fn of(&self, disk: DiskId) -> Option<KnownDisk> {
        self.0.values().find(|(id, _)| *id == disk).map(|(_, known)| known.clone())
    }

    /// A word's disk as a table line names it: `MAJ:MIN`, or the path of a file.
    pub fn on_table_line(&self, word: &str) -> String {
        self.id(word).map_or_else(|| word.to_owned(), |id| id.on_table_line(word))
    }

    /// The disks with their words.
    pub(super) fn disks(&self) -> impl Iterator<Item = (&str, DiskId, &KnownDisk)> {
        self.0.iter().map(|(word, (id, known))| (word.as_str(), *id, known))
    }

    /// Where the bytes of a word's disk are now.
    pub(super) fn set_place(&mut self, word: &str, place: &Place) {
        if let Some((_, known)) = self.0.get_mut(word) {
            known.place.clone_from(place);
        }
    }

    /// The store on its COW has been made.
    pub(super) fn set_made(&mut self) {
        self.0.values_mut().for_each(|(_, known)| known.unmade = None);
    }

    /// Whether the device uses a disk.
    pub(super) fn has(&self, disk: DiskId) -> bool {
        self.0.values().any(|(id, _)| *id == disk)
    }

    /// The device of the same server that carries the origin.
    pub(super) fn carrier(&self) -> Option<DeviceRef> {
        self.0.values().find_map(|(_, known)| known.device)
    }

    /// The devices of the same server that are disks.
    pub(super) fn joined(&self) -> impl Iterator<Item = DeviceRef> {
        self.0.values().filter_map(|(_, known)| known.joined)
    }

    /// The devices of the same server below the device: those, and the carrier of its origin.
    pub(super) fn lower(&self) -> impl Iterator<Item = DeviceRef> {
        self.0.values().flat_map(|(_, known)| known.joined.into_iter().chain(known.device))
    }

    /// Forgets the disks that a table does not name.
    pub(super) fn retain(&mut self, words: &[String]) {
        self.0.retain(|word, _| words.contains(word));
    }

    /// How the disks are recognized later.
    pub(super) fn known(&self) -> KnownDisks {
        self.0.iter().map(|(word, (_, known))| (word.clone(), known.clone())).collect()
    }

    /// The numbers of the block devices; for a file, that of its file system.
    pub fn numbers(&self) -> Vec<(u32, u32)> {
        self.0.values().map(|(id, _)| id.block_number()).collect()
    }
}

/// A leg, as messages refer to it.
#[derive(Clone)]
pub struct LegRef {
    pub path: String,
    pub disk: Option<DiskId>,
}

/// The messages that a mirror accepts.
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
    /// The kernel has not started the device for this server: its I/O waits.
    pub waits: bool,
    /// The inactive table, which the next resume makes live.
    pub loaded: Option<DeviceSpec>,
    /// For a persistent snapshot: how its COW is recognized later.
    pub cow: Option<Cow>,
    /// The disk of a leg that a message is putting into a mirror.
    pub coming: Option<KnownDisk>,
    /// Disks that its old table needs and has no claim for, until the new one is in place.
    pub leaving: Vec<KnownDisk>,
}

#[cfg(test)]
impl Device {
    /// A live device for tests.
    pub fn of_line(id: u32, name: &str, line: &str) -> Device {
        let info = DeviceInfo {
            id,
            state: crate::ublk::DeviceState::Live,
            queues: 1,
            depth: 64,
            max_io_bytes: 1 << 19,
            flags: 0,
            target_flags: 7,
            server_pid: None,
            owner_uid: 0,
            owner_gid: 0,
        };
        Device {
            name: name.to_owned(),
            spec: DeviceSpec::of_line(line),
            info,
            number: None,
            deps: Deps::default(),
            read_only: false,
            suspended: false,
            waits: false,
            loaded: None,
            cow: None,
            coming: None,
            leaving: Vec::new(),
        }
    }
}

impl Device {
    /// The mirror's table, if the device is a mirror.
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

    /// Whether it is an origin's device, with or without a merge.
    pub fn is_origin(&self) -> bool {
        is_origins(&self.spec)
    }

    /// What the next server needs to recreate the device.
    pub fn state(&self) -> DeviceState {
        DeviceState {
            suspended: self.suspended,
            loaded: self.loaded.clone(),
            cow: self.cow.clone(),
            coming: self.coming.iter().chain(&self.leaving).cloned().collect(),
            ..state_of(&self.info, &self.name, &self.deps, &self.spec)
        }
    }
}

/// What the next server needs to recreate a device.
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
        coming: Vec::new(),
    }
}

/// Whether the device's users can change its family's origin.
pub(super) fn changes_origin(spec: &DeviceSpec) -> bool {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) => snapshot.discard_passdown_origin,
        TargetParams::Error | TargetParams::Zero => false,
        _ => true,
    }
}

/// Whether it is an origin's device, with or without a merge.
pub(super) fn is_origins(spec: &DeviceSpec) -> bool {
    let params = &spec.table.params;
    matches!(params, TargetParams::SnapshotOrigin { .. } | TargetParams::SnapshotMerge(_))
}

/// Whether the device shows what is on a COW that outlives it: a persistent snapshot, or a merge.
pub(super) fn is_persistent_snapshot(spec: &DeviceSpec) -> bool {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) => !snapshot.store.is_transient(),
        TargetParams::SnapshotMerge(_) => true,
        _ => false,
    }
}

/// A device of a dead server that could not be taken over.
#[derive(Clone)]
pub struct LeftOut {
    pub device: DeviceState,
    /// Its I/O waits; if `false`, the kernel has no disk for it any more.
    pub waits: bool,
    /// An earlier server recorded the loss, and this one cannot rule it out.
    pub for_good: bool,
    /// Its origin may have changed since.
    pub origin_changed: bool,
}

impl LeftOut {
    /// The device as it is taken over: it is not lost if its origin is as it was.
    pub(super) fn now(&self) -> DeviceState {
        let lost = self.device.lost && (self.for_good || self.origin_changed);
        DeviceState { lost, ..self.device.clone() }
    }
}

/// A server's devices at one moment.
#[derive(Clone, Default)]
pub struct Published {
    /// The served ones, by id.
    pub devices: BTreeMap<u32, Device>,
    /// Those that were left out, by id.
    pub left_out: BTreeMap<u32, LeftOut>,
    /// Those of the server before that wait to be taken over, and are neither yet.
    pub coming: Vec<DeviceState>,
}

/// The devices as all threads see them: their state between two changes.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<Published>>);

impl Directory {
    /// Replaces the published devices.
    pub fn publish(&self, devices: &BTreeMap<u32, Device>, left_out: &BTreeMap<u32, LeftOut>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.devices.clone_from(devices);
        known.left_out.clone_from(left_out);
    }

    /// Publishes the devices that are about to be taken over. Each counts as one of these until it
    /// is served or left out.
    pub fn publish_coming(&self, coming: Vec<DeviceState>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).coming = coming;
    }

    /// All devices, at one moment.
    pub fn all(&self) -> Published {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Published { devices, left_out, coming } = &mut all;
        let is_known = |id: &u32| devices.contains_key(id) || left_out.contains_key(id);
        coming.retain(|device| !is_known(&device.id));
        all
    }

    /// The served devices, by id.
    pub fn devices(&self) -> BTreeMap<u32, Device> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).devices.clone()
    }
}

/// The error for a device that this server does not have.
pub(super) fn no_device(id: u32) -> Reason {
    Failure::new(Kind::NotFound, format!("/dev/ublkb{id}: no such device; see `ublk-dm list`"))
}

/// Finds a leg by its path or its index, counted from 0. Another path of the same disk is accepted
/// if only one leg is on that disk.
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
    let why = format!("{word}: not a leg of /dev/ublkb{id}, which has legs {}", legs.join(", "));
    Failure::new(Kind::NotFound, why)
}

/// A name that is not in `taken`: `wanted`, or `wanted` with a number appended.
pub(super) fn free_name(wanted: &str, taken: &[String]) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

/// Whether a table is made of ranges: of `linear`, `error` and `zero`.
pub(super) fn is_lines(spec: &DeviceSpec) -> bool {
    spec.table.params.segments(spec.table.len).is_some()
}

/// The ranges of disks that a device with this table shows; `None`: it shows something else. An
/// origin's device shows one disk from its start.
pub fn ranges_of(table: &Table) -> Option<Vec<Segment>> {
    let TargetParams::SnapshotOrigin { origin } = &table.params else {
        return table.params.segments(table.len);
    };
    let linear = Linear { device: origin.clone(), offset: Sector(0) };
    Some(vec![Segment { len: table.len, params: SegmentParams::Linear(linear) }])
}

/// Whether it is a mirror's.
pub(super) fn is_mirror(spec: &DeviceSpec) -> bool {
    matches!(spec.table.params, TargetParams::Mirror(_))
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
