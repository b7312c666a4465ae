//! Disks that a device's new table has in common with the one that it replaces, or with other
//! devices of the server.
//!
//! Rules kept here: such a disk keeps its handle, and with that its claim: no other program can
//! take it between two tables, or when the first of several devices is deleted; and devices made of
//! ranges of one disk share it if their ranges do not overlap, others only by force.

use dm_targets::segments::table::Segment;
use dm_targets::table::TargetParams;
use dm_targets::units::{Sector, Sectors, overlap};

use super::content::refused;
use crate::failure::{Kind, Reason};
use crate::protocol::{DeviceSpec, DeviceState, KnownDisk, KnownDisks};
use crate::rundir::is_made_of;
use crate::server::admin::devices::{Device, is_lines, ranges_of};
use crate::server::admin::machine::{Machine, OpenDisk, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;
use crate::storage::{DiskId, OpenError, OpenErrorKind};

/// A disk of the old table, or of another device.
pub(super) struct ReusedDisk<D> {
    /// To be judged: nothing is read or written through it by a target.
    pub disk: D,
    /// Where the old table has it: the number of a line, or of a leg. `None`: it is another
    /// device's.
    pub place: Option<usize>,
    /// It has other users.
    pub shared: bool,
    /// It is not claimed.
    pub unclaimed: bool,
}

/// The device whose table of ranges is replaced by a mirror.
#[derive(Clone, Copy)]
pub(in crate::server::admin) struct Replaced {
    pub device: u32,
    /// The leg that has the device's data, if one has it.
    pub data_on: Option<usize>,
}

impl<M: Machine> Administrator<M> {
    /// Opens the disk at a path if the table that is replaced, that of the device `over`, has it.
    pub(super) fn open_reused(
        &self,
        path: &str,
        over: Option<u32>,
    ) -> Result<Option<ReusedDisk<M::Open>>, Reason> {
        let Some(entry) = over.and_then(|id| self.devices.get(&id)) else { return Ok(None) };
        let disk = self.machine.disk_at(path);
        let Some(place) = disk.and_then(|disk| place_of(entry, disk)) else { return Ok(None) };
        let disk = self.look_at(path)?;
        let shared = is_shared(entry, disk.id());
        let unclaimed = entry.deps.of(disk.id()).is_some_and(|known| known.unclaimed);
        Ok(Some(ReusedDisk { disk, place: Some(place), shared, unclaimed }))
    }

    /// Opens the disk at a path if another device of this server has it that is made of ranges;
    /// `again`: what the disks of an existing device were.
    pub(super) fn open_beside(
        &self,
        path: &str,
        id: DiskId,
        spec: &DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<Option<ReusedDisk<M::Open>>, Reason> {
        let key = id.key();
        let is_there = self
            .machine
            .call(move |thread| async move { thread.group().shared_disks.get(&key).is_some() });
        if !is_there? {
            return Ok(None);
        }
        let disk = self.look_at(path)?;
        let found = self.known_disk(&disk);
        let now = found.number;
        let unasked = spec.force || again.is_some();
        let other = self.devices.values().find(|entry| entry.deps.has(id));
        let known = other.and_then(|other| other.deps.of(id));
        let unclaimed = known.as_ref().is_some_and(|known| known.unclaimed);
        if let (Some(other), true, false) =
            (other, unclaimed, spec.unclaimed || unasked || mutant::is(Mutant::BesideUnasked))
        {
            let (id, name) = (other.info.id, &other.name);
            let what = "which shares it: use --shared as well";
            let why = format!("{path}: in use by /dev/ublkb{id} ({name}), {what}");
            return Err(Reason::new(Kind::InUse, why).of_disk(path));
        }
        let parts = unclaimed.then(|| spec.parts_of(path));
        let claimed = self.machine.claimed(id, &found, parts.as_deref());
        if let Some(kind) = claimed.filter(|_| !unasked) {
            return Err(OpenError { path: path.into(), kind }.into());
        }
        let was = again.and_then(|known| known.get(path)).or(known.as_ref());
        let shared = was.is_some_and(|was| was.shared);
        if was.is_some_and(|was| was.number != 0 && was.number != now) {
            return Err(refused(path, "another disk is at this path by now"));
        }
        if let (Some(other), true) = (other, shared && !spec.force && again.is_none()) {
            return Err(used_by(path, other));
        }
        Ok(Some(ReusedDisk { disk, place: None, shared, unclaimed }))
    }

    /// Refuses a range of a disk that another device of this server uses, or a disk that is in use
    /// as a whole; `over`: the device whose table is replaced.
    pub(super) fn refuse_overlap(
        &self,
        path: &str,
        disk: DiskId,
        range: (Sector, Sectors),
        over: Option<u32>,
    ) -> Result<(), Reason> {
        self.user_of(disk, range, over).map_or(Ok(()), |entry| Err(used_by(path, entry)))
    }

    /// Refuses a disk as the server's origin of which a device here has ranges or a leg. Where it
    /// is claimed that is seen when it is opened.
    pub(super) fn refuse_ranged(&self, path: &str, disk: DiskId) -> Result<(), Reason> {
        let has_part = |entry: &&Device| {
            let shown = entry.mirror().is_some() || is_lines(&entry.spec);
            shown && entry.deps.has(disk) && !mutant::is(Mutant::RangesUnseen)
        };
        self.devices.values().find(has_part).map_or(Ok(()), |entry| Err(used_by(path, entry)))
    }

    /// The device of this server, other than `over`, that uses a range of a disk, or the disk as a
    /// whole.
    pub(in crate::server::admin) fn user_of(
        &self,
        disk: DiskId,
        (start, len): (Sector, Sectors),
        over: Option<u32>,
    ) -> Option<&Device> {
        let uses = |entry: &Device| {
            let table = &entry.spec.table;
            let Some(lines) = table.params.segments(table.len) else { return true };
            lines.iter().any(|line| {
                let linear = line.params.linear();
                linear.is_some_and(|linear| {
                    entry.deps.id(&linear.device) == Some(disk)
                        && overlap((start, len), (linear.offset, line.len))
                })
            })
        };
        let others = self.devices.values().filter(|entry| Some(entry.info.id) != over);
        let mut others = others.filter(|entry| entry.deps.has(disk));
        others.find(|entry| uses(entry) && !mutant::is(Mutant::OverlapUnseen))
    }

    /// The same for a device that this server has left out, or could not undo yet.
    pub(in crate::server::admin) fn waits_for(
        &self,
        disk: DiskId,
        known: &KnownDisk,
        range: (Sector, Sectors),
    ) -> Option<&DeviceState> {
        let left = self.left_out.values().map(|left| &left.device);
        let mut all = left.chain(self.undone_later.iter().map(|new| &new.state));
        all.find(|device| {
            if mutant::is(Mutant::WaitingDisksFree) {
                return false;
            }
            let table = &device.spec.table;
            let lines = table.params.segments(table.len).filter(|_| !device.known.is_empty());
            is_made_of(device, disk, known)
                && lines
                    .is_none_or(|lines| lines.iter().any(|line| is_on(line, device, known, range)))
        })
    }

    /// Whether another device of this server has a range of a disk, served or waiting.
    pub(super) fn has_user(
        &self,
        disk: DiskId,
        known: &KnownDisk,
        range: (Sector, Sectors),
        over: Option<u32>,
    ) -> bool {
        self.user_of(disk, range, over).is_some() || self.waits_for(disk, known, range).is_some()
    }

    /// Refuses a range of a disk that a device needs which waits for this server.
    pub(super) fn refuse_awaited(
        &self,
        path: &str,
        disk: DiskId,
        known: &KnownDisk,
        range: (Sector, Sectors),
    ) -> Result<(), Reason> {
        let waits = self.waits_for(disk, known, range);
        waits.map_or(Ok(()), |DeviceState { name, id, .. }| {
            let kind = OpenErrorKind::Awaited { name: name.clone(), id: *id };
            Err(OpenError { path: path.into(), kind }.into())
        })
    }

    /// Refuses a leg that the device `over` has already, if others of this server have it as well:
    /// a mirror's leg is its own.
    pub(super) fn refuse_kept_leg(
        &self,
        path: &str,
        disk: &M::Open,
        over: Option<Replaced>,
    ) -> Result<(), Reason> {
        let (known, all) = (self.known_disk(disk), (Sector(0), disk.size()));
        self.refuse_overlap(path, disk.id(), all, over.map(|over| over.device))?;
        self.refuse_awaited(path, disk.id(), &known, all)
    }

    /// Refuses a device in a server that has a mirror, unless one of the two stands on devices of
    /// the server.
    pub(super) fn refuse_beside_mirror(&self, table: &TargetParams) -> Result<(), Reason> {
        if self.is_on_own(table) || self.has_mirror_on_own() {
            return Ok(());
        }
        let served = self.devices.values().map(|entry| (&entry.name, &entry.spec));
        let left = self.left_out.values().map(|left| (&left.device.name, &left.device.spec));
        let is_mirror = |spec: &DeviceSpec| matches!(spec.table.params, TargetParams::Mirror(_));
        match served.chain(left).find(|(_, spec)| is_mirror(spec)) {
            Some((name, _)) => {
                Err(format!("its server has the mirror {name}, which is alone in it").into())
            }
            None => Ok(()),
        }
    }
}

/// Whether a line of a device that waits is on a range of a disk.
fn is_on(line: &Segment, device: &DeviceState, disk: &KnownDisk, range: (Sector, Sectors)) -> bool {
    let Some(linear) = line.params.linear() else { return false };
    let Some(its) = device.known.get(&linear.device) else { return true };
    its.range_meets((linear.offset, line.len), disk, range)
}

fn used_by(path: &str, entry: &Device) -> Reason {
    let (id, name) = (entry.info.id, &entry.name);
    let why = format!("{path}: in use by /dev/ublkb{id} ({name}); --force shares it");
    Reason::new(Kind::InUse, why).of_disk(path)
}

/// The first line, or leg, of a device's table that is on a disk; an origin is the first.
fn place_of(entry: &Device, disk: DiskId) -> Option<usize> {
    let is_it = |word: &str| entry.deps.id(word) == Some(disk);
    let table = &entry.spec.table;
    if let TargetParams::Mirror(mirror) = &table.params {
        return mirror.legs.iter().position(|leg| is_it(&leg.device));
    }
    let is_on = |line: &Segment| line.params.linear().is_some_and(|linear| is_it(&linear.device));
    ranges_of(table)?.iter().position(is_on)
}

/// Whether a disk of a device has other users. If none of its disks is known to have had any, the
/// server that opened them was one that recorded only whether one had.
fn is_shared(entry: &Device, disk: DiskId) -> bool {
    let recorded = entry.deps.known().values().any(|known| known.shared);
    let shared = entry.deps.of(disk).is_some_and(|known| known.shared);
    shared || entry.spec.force && !recorded
}
