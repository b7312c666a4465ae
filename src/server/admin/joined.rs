//! A device of the server as a disk of another one's table: a leg, a log, or the disk of a range.
//! Its requests pass inside the process, so that a stack is one hop.
//!
//! Rules kept here: the server never opens such a disk by its node (its requests would wait for
//! themselves); nobody else writes to it: it is unused when it becomes a disk, and its node is
//! read-only as long as it is one; it is identified by its cookie; it ends after what stands on it,
//! and keeps its table until then; while it is suspended, no command waits for what it holds. It
//! carries no snapshots (I5: the operations from above would go past them).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use dm_targets::table::TargetParams;

use super::devices::{Device, LeftOut, is_lines, is_mirror, no_device};
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceRef, DeviceSpec, DeviceState};
use crate::storage::{Access, Claim, OpenError, OpenErrorKind};

impl<M: Machine> Administrator<M> {
    /// The device of this server that a path leads to, also if it is not started yet.
    pub(super) fn own_at(&self, path: &str) -> Option<DeviceRef> {
        let disk = self.machine.disk_at(path)?;
        self.nodes.get(&disk).copied()
    }

    /// Remembers a served device by its node.
    pub(super) fn remember_node(&mut self, device: DeviceRef) {
        if let Some((disk, _)) = self.machine.node(device.id) {
            self.nodes.insert(disk, device);
        }
    }

    /// The same for one that has ended.
    pub(super) fn forget_node(&mut self, id: u32) {
        self.nodes.retain(|_, device| device.id != id);
    }

    /// Whether a device of this server is a disk of a table.
    pub(super) fn is_on_own(&self, table: &TargetParams) -> bool {
        table.devices().iter().any(|word| self.own_at(word).is_some())
    }

    /// Whether the server has a mirror that stands on devices of its own.
    pub(super) fn has_mirror_on_own(&self) -> bool {
        let mut all = self.all_states().into_iter();
        all.any(|device| is_mirror(&device.spec) && device.joined().next().is_some())
    }

    /// Whether the server has devices beside which a mirror with this name cannot be opened: all
    /// but those that are made of ranges, if the mirror stands on some of these. So there is one
    /// mirror in a server, whose legs' record is the server's.
    pub(super) fn has_others_than_lower(&self, mirror: &TargetParams, name: Option<&str>) -> bool {
        let is_on_own = self.is_on_own(mirror);
        let passing = self.passing.map(|passing| passing.from);
        let mut served = self.devices.values().filter(|entry| Some(entry.info.id) != passing);
        let left = self.left_out.values().map(|left| &left.device);
        let waiting = left.chain(self.undone_later.iter().map(|new| &new.state));
        let mut waiting = waiting.filter(|device| Some(device.name.as_str()) != name);
        served.any(|entry| !is_on_own || !is_lines(&entry.spec))
            || is_on_own && waiting.any(|device| is_mirror(&device.spec))
    }

    /// Opens a disk; a device of this server is not opened by its node.
    pub(super) fn open_disk(
        &self,
        path: &str,
        access: Access,
        claim: Claim,
    ) -> Result<M::Open, OpenError> {
        let Some(own) = self.own_at(path) else { return self.machine.open(path, access, claim) };
        let fail = |kind| OpenError { path: path.into(), kind };
        let id = self.machine.disk_at(path).ok_or_else(|| fail(OpenErrorKind::Missing))?;
        // What the kernel's claim is for other disks.
        let mut users = self.devices.values().filter(|entry| entry.deps.has(id));
        let user = users.find(|entry| Some(entry.info.id) != self.replaced);
        if let (Some(entry), Claim::Exclusive | Claim::Beside) = (user, claim) {
            let by = Some(format!("in use by /dev/ublkb{} ({})", entry.info.id, entry.name));
            return Err(fail(OpenErrorKind::Busy { by }));
        }
        self.machine.open_own(own, path)
    }

    /// Opens a disk to look at it.
    pub(super) fn look_at(&self, path: &str) -> Result<M::Open, OpenError> {
        self.open_disk(path, Access::ReadOnly, Claim::Shared)
    }

    /// Refuses a device of this server that cannot be a disk of another one's table now. `over`:
    /// the device that gets the table, if it exists.
    pub(super) fn refuse_to_join(
        &self,
        path: &str,
        own: DeviceRef,
        over: Option<u32>,
    ) -> Result<(), Reason> {
        let id = own.id;
        self.refuse_itself(path, own, over)?;
        if let Some(why) = self.why_not_joined(own)? {
            return Err(format!("{path}: {why}").into());
        }
        let stands = over.and_then(|over| self.devices.get(&over));
        let is_its_own = stands.is_some_and(|entry| entry.deps.joined().any(|one| one == own));
        if is_its_own || mutant::is(Mutant::JoinedInUse) {
            return Ok(());
        }
        // Force does not help here.
        let used = |why: Reason| why.without_end().ending("; end that use first").context(path);
        self.machine.not_in_use(id).map_err(used)
    }

    fn why_not_joined(&self, own: DeviceRef) -> Result<Option<String>, Reason> {
        let id = own.id;
        self.refuse_unfinished(id)?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let name = &entry.name;
        let has_carried = self.machine.call(move |thread| async move {
            thread.group().device(id).is_some_and(|device| device.carried().is_some())
        })?;
        let snapshots = (has_carried || self.is_carrier(id)) && !mutant::is(Mutant::JoinsCarrier);
        Ok(if !can_join(&entry.spec) {
            Some(format!("{name}, a device of the same server, can be no disk of its devices"))
        } else if snapshots {
            Some(format!("{name} has or had snapshots in its server"))
        } else if entry.suspended || entry.waits {
            Some(format!("{name} is suspended: resume it first"))
        } else if entry.loaded.is_some() {
            Some(format!("{name} has a table loaded: resume it first"))
        } else if entry.read_only {
            Some(format!("{name} is read-only"))
        } else {
            None
        })
    }

    /// Refuses a device below one that gets a table if it is that one, or stands on it.
    pub(super) fn refuse_itself(
        &self,
        path: &str,
        own: DeviceRef,
        over: Option<u32>,
    ) -> Result<(), Reason> {
        match over.is_some_and(|over| own.id == over || self.stands_on(own, over)) {
            true => Err(format!("{path}: the device would be made of itself").into()),
            false => Ok(()),
        }
    }

    /// Whether a device stands on another one, through any number of levels.
    fn stands_on(&self, upper: DeviceRef, lower: u32) -> bool {
        let entry = self.devices.get(&upper.id);
        let mut below = entry.into_iter().flat_map(|entry| entry.deps.lower());
        below.any(|one| one.id == lower || self.stands_on(one, lower))
    }

    /// The disks of a device, and of the devices of this server on which it stands; not these.
    pub(super) fn disks_below(&self, id: u32) -> Vec<String> {
        let Some(entry) = self.devices.get(&id) else { return Vec::new() };
        let words = entry.spec.table.params.devices();
        let (own, mut disks): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| self.own_at(word).is_some());
        let lower = own.iter().filter_map(|word| self.own_at(word));
        // It ends: a device stands on none that stands on it.
        disks.extend(lower.flat_map(|one| self.disks_below(one.id)));
        disks
    }

    /// The devices as the next server would find them.
    pub(super) fn all_states(&self) -> Vec<DeviceState> {
        let left = self.left_out.values().map(|left| left.device.clone());
        let undone = self.undone_later.iter().map(|new| new.state.clone());
        self.devices.values().map(Device::state).chain(left).chain(undone).collect()
    }

    /// Whether a device is a disk of another one.
    pub(super) fn is_disk(&self, id: u32, spec: &DeviceSpec) -> bool {
        can_join(spec) && self.joined_by(id, &[]).is_some()
    }

    /// The name of a device that has this one as a disk: served, waiting, or not undone yet.
    pub(super) fn joined_by(&self, id: u32, but: &[u32]) -> Option<String> {
        let on_it =
            |one: &DeviceState| one.joined().any(|lower| lower.id == id) && !but.contains(&one.id);
        let found = self.all_states().into_iter().find(on_it).map(|one| one.name);
        found.filter(|_| !mutant::is(Mutant::JoinedEnds))
    }

    /// The suspended device, below this one, that holds its requests.
    pub(super) fn held_by(&self, id: u32) -> Option<&Device> {
        let lower = self.devices.get(&id)?.deps.lower();
        lower.into_iter().find_map(|lower| {
            let entry = self.devices.get(&lower.id)?;
            if entry.suspended { Some(entry) } else { self.held_by(lower.id) }
        })
    }

    /// Sorts devices from the top down: each before those on which it stands.
    pub(super) fn sort_top_down(&self, ids: &mut [u32]) {
        let all = self.all_states();
        ids.sort_by_key(|id| Reverse(height(*id, &all)));
    }

    /// Sorts devices from the bottom up.
    pub(super) fn sort_bottom_up(&self, ids: &mut [u32]) {
        let all = self.all_states();
        ids.sort_by_key(|id| height(*id, &all));
    }

    /// Refuses a device that waits, and one of whose disks is a device of this server that waits
    /// itself; `served`: those that are served and not started yet.
    pub(super) fn refuse_without_lower(
        &self,
        device: &DeviceState,
        served: &[DeviceRef],
    ) -> Result<(), Reason> {
        let is_there = |lower: &DeviceRef| {
            let entry = self.devices.get(&lower.id);
            served.contains(lower)
                || entry.is_some_and(|entry| entry.info.target_flags == lower.cookie)
        };
        let missing = device.joined().find(|lower| !is_there(lower));
        match missing.filter(|_| !mutant::is(Mutant::JoinedByNumber)) {
            None => Ok(()),
            Some(lower) => Err(without_lower(lower, self.left_out.get(&lower.id))),
        }
    }

    /// Makes the nodes of devices that are disks of others, or into whose origin a snapshot is
    /// merged, read-only, those of `devices`, and of the others not any more. That follows the
    /// record: it is set before a device can be used that writes to it from above, and stays if
    /// nothing tells that it has no such device any more.
    ///
    /// # Errors
    /// The node of one that is to be a disk stays writable.
    pub(super) fn protect_joined(&self, devices: &[DeviceState]) -> Result<(), Reason> {
        if mutant::is(Mutant::JoinedWritable) {
            return Ok(());
        }
        // And what a merge writes to.
        let merges = |one: &&DeviceState| {
            matches!(one.spec.table.params, TargetParams::SnapshotMerge(_))
                && !mutant::is(Mutant::MergedWritable)
        };
        let merged = devices.iter().filter(merges).filter_map(DeviceState::carrier);
        let lower: BTreeSet<(u32, u64)> = devices
            .iter()
            .flat_map(DeviceState::joined)
            .chain(merged)
            .map(|one| (one.id, one.cookie))
            .collect();
        // Asked once: each answer takes as long as there are devices.
        let carriers: BTreeSet<u32> = self.carriers().collect();
        let may_be = |one: &&DeviceState| can_join(&one.spec) || carriers.contains(&one.id);
        for device in devices.iter().filter(may_be) {
            let is_disk = lower.contains(&(device.id, device.cookie));
            if !is_disk && !self.nodes.values().any(|own| *own == device.device()) {
                // It waits: its node is let alone.
                continue;
            }
            let read_only = is_disk || device.spec.options.read_only;
            let served = self.devices.get(&device.id);
            let read_only = read_only || served.is_some_and(|entry| entry.read_only);
            match self.machine.protect(device.device(), read_only) {
                Err(why) if is_disk => return Err(why),
                Err(why) => log::warn!("{why}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// Whether a device with such a table can be a disk of another one.
fn can_join(spec: &DeviceSpec) -> bool {
    is_lines(spec) || is_mirror(spec)
}

/// How many levels of devices of the same server are below a device.
pub(super) fn height(id: u32, all: &[DeviceState]) -> usize {
    height_within(id, all, MOST_LEVELS)
}

/// A record that is wrong may have a circle.
pub(super) const MOST_LEVELS: usize = 32;

fn height_within(id: u32, all: &[DeviceState], most: usize) -> usize {
    let found = all.iter().find(|device| device.id == id && most > 0);
    let lower = found.into_iter().flat_map(DeviceState::lower);
    lower.map(|lower| height_within(lower.id, all, most - 1) + 1).max().unwrap_or(0)
}

/// Why a device is left out one of whose disks is a device that has no server.
fn without_lower(lower: DeviceRef, left: Option<&LeftOut>) -> Reason {
    let name = left.map_or_else(|| format!("/dev/ublkb{}", lower.id), |it| it.device.name.clone());
    format!("it stands on {name}, which has no server: recover that one with it").into()
}
