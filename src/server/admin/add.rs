//! Adding a device.
//!
//! A device is added in steps, each of which can still be undone: the disks are opened and claimed,
//! the store is read and checked, the kernel adds the device, its queues are served, and only then
//! is the store written and the snapshot added to its origin; starting the device comes last. If a
//! step fails, the earlier ones are undone, so a failed `add` leaves nothing.

use dm_targets::disk::Disk;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::merge::Phase;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use log::Level;

use super::devices::Device;
use super::held::Held;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::new_device::{NewDevice, generated_name};
use super::notes::joined;
use super::passed_on::has_taken_mirror_of;
use super::silent::Silent;
use super::state::Administrator;
use super::targets::Unread;
use super::unconfirmed::Unconfirmed;
use super::waiting::Errand;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{
    DeviceOptions, DeviceRef, DeviceSpec, DeviceState, KnownDisks, OnServerDeath, Reply,
};
use crate::rundir::departed::Departure;
use crate::server::events::tell;
use crate::ublk::device::{BLOCK_PATH, on_server_death};
use crate::ublk::{DeviceInfo, kernels};

/// What the user wants of a new device that is over when its target is open.
#[derive(Clone, Copy)]
struct Wanted {
    /// What would be refused is done (`--force`).
    force: bool,
    /// A mirror is recovered from a leg of the user's choice.
    names_source: bool,
}

impl<M: Machine> Administrator<M> {
    /// Adds one device.
    pub(super) fn add(
        &mut self,
        name: Option<String>,
        id: Option<u32>,
        spec: DeviceSpec,
    ) -> Result<Reply, Reason> {
        let mut disks = spec.table.params.devices();
        // A device of this server is not opened.
        disks.retain(|disk| {
            self.own_at(disk).is_none() && !matches!(self.carrier_at(disk, None), Ok(Some(_)))
        });
        Silent::on(&self.machine, disks)?;
        let wanted = Wanted { force: spec.force, names_source: spec.source.is_some() };
        let passed_on = self.take_mirror(&spec, None)?;
        let made = self
            .prepare(spec, name.as_deref(), None)
            .and_then(|prepared| self.make(&prepared, id).map(|info| (prepared, info)));
        let (prepared, info) = made.map_err(|why| self.not_passed_on(passed_on.as_ref(), why))?;
        let mut state = prepared.state(&info, "");
        let label = name.clone();
        let (note, departed) = match self.bring_up(&prepared, &info, name, &mut state, wanted) {
            Ok(brought_up) => brought_up,
            Err(why) => {
                tell_not_added(&prepared.spec, label.as_deref(), &why);
                let new = Unconfirmed { state, target: prepared.target, passed_on };
                let note = self.undo(new).unwrap_or_else(|left| Some(left.to_string()));
                self.passing = None;
                return Err(note.map_or(why.clone(), |note| why.ending(format!("; {note}"))));
            }
        };
        let note = note.or_else(|| passed_on.as_ref().map(has_taken_mirror_of));
        let note = note.or_else(|| prepared.note.clone());
        let path = format!("{BLOCK_PATH}{}", info.id);
        let (device, name) = (state.device(), state.name.clone());
        let adopted = prepared.spec.other_origin;
        log::info!("{name}: {path} is live");
        let told = Some(name.clone());
        let target = self.keep(prepared, info, name);
        self.unconfirmed = Some(Unconfirmed { state, target, passed_on });
        self.has_passed_on();
        self.take_up(device, &departed);
        // The device was recorded before it could be used. If it cannot be recorded that its store
        // is adopted, that is only a warning.
        self.publish();
        if let Err(why) = if adopted { self.record(None) } else { Ok(()) } {
            log::warn!(
                "the next server will accept the store as this origin's, whichever origin it \
                 names: {why}"
            );
        }
        let note = note.into_iter().chain(self.expect_activation(device));
        Ok(Reply::Added { path, note: joined(note), device, name: told })
    }

    /// Opens the disks of a target and the target itself, without writing anything; `again`: what
    /// the disks of an existing device were.
    pub(super) fn prepare(
        &mut self,
        spec: DeviceSpec,
        name: Option<&str>,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let is_new = again.is_none() && !spec.force;
        let prepared = match spec.table.params.clone() {
            TargetParams::Snapshot(snapshot) => self.prepare_snapshot(&snapshot, spec, name, again),
            TargetParams::SnapshotMerge(snapshot) => {
                self.refuse_second_origin(&snapshot.origin, again)?;
                self.prepare_snapshot(&snapshot, spec, name, again)
            }
            TargetParams::SnapshotOrigin { origin } => {
                self.refuse_second_origin(&origin, again)?;
                self.prepare_origin(&origin, spec, again)
            }
            TargetParams::Mirror(mirror) => self.prepare_mirror(&mirror, spec, name, again),
            params @ (TargetParams::Linear(_)
            | TargetParams::Error
            | TargetParams::Zero
            | TargetParams::Segments(_)) => {
                let lines = params.segments(spec.table.len).unwrap_or_default();
                self.prepare_segments(lines, spec, again, None)
            }
        }?;
        if is_new {
            self.refuse_unmerged(&prepared)?;
        }
        Ok(prepared)
    }

    /// A note for the user of a device that has been opened.
    fn note_of(&self, prepared: &NewDevice<M>) -> Result<Option<String>, Reason> {
        self.machine.call(prepared.target.job(|thread, opened| async move {
            let invalid = |cow: &Disk, so: &str| {
                let told = !mutant::is(Mutant::InvalidNotTold);
                told.then(|| format!("{}: the snapshot on it is invalid: {so}", cow.name()))
            };
            match opened.target {
                Target::Snapshot(snapshot) if snapshot.health() == Health::Invalid => {
                    invalid(snapshot.cow(), "all I/O on its device fails")
                }
                Target::Snapshot(snapshot) => thread.group().mixture(&snapshot),
                Target::Merge(merge) if merge.phase() == Phase::Unusable => {
                    invalid(merge.cow(), "nothing is merged, and its device shows the origin")
                }
                _ => None,
            }
        }))
    }

    /// Forgets what the new store of a target has overwritten: it stays.
    pub(super) fn keep_store(&self, target: &Held<M::Handle>) -> Result<(), Reason> {
        self.machine.call(target.job(|_, opened| async move {
            if let Target::Snapshot(snapshot) = opened.target {
                snapshot.store().keep();
            }
        }))
    }

    /// Adds a served device to this server's devices. The caller publishes the change. Returns the
    /// target's owner, which the device does not need any more.
    pub(super) fn keep(
        &mut self,
        prepared: NewDevice<M>,
        info: DeviceInfo,
        name: String,
    ) -> Held<M::Handle> {
        let number = self.machine.number(info.id);
        let NewDevice { mut spec, mut deps, read_only, cow, target, .. } = prepared;
        deps.set_made();
        let id = info.id;
        // The store is adopted now. Adopting another one needs the option again.
        spec.other_origin = spec.other_origin && !self.is_valid(id);
        if let Some(cow) = &cow {
            self.forget_departure(cow);
        }
        self.remember_node(DeviceRef { id, cookie: info.target_flags });
        self.devices.insert(
            id,
            Device {
                name,
                spec,
                info,
                number,
                deps,
                read_only,
                suspended: false,
                waits: false,
                loaded: None,
                cow,
                coming: None,
                leaving: Vec::new(),
            },
        );
        target
    }

    /// Whether a device has a store that is valid: only such a one can be adopted.
    fn is_valid(&self, id: u32) -> bool {
        let valid = self.machine.call(move |thread| async move {
            let device = thread.group().device(id);
            let target = device.map(|device| device.target());
            match target {
                Some(Target::Snapshot(snapshot)) => snapshot.health() != Health::Invalid,
                Some(Target::Merge(merge)) => merge.phase() != Phase::Unusable,
                _ => false,
            }
        });
        valid.unwrap_or(false)
    }

    /// Makes the kernel add a device.
    fn make(&mut self, prepared: &NewDevice<M>, id: Option<u32>) -> Result<DeviceInfo, Reason> {
        let options = &prepared.spec.options;
        let zero_copy = self.machine.can_zero_copy(options)?;
        let info = self.machine.add(id, options, &prepared.params, zero_copy)?;
        let as_wanted = refuse_waiting(options, &info);
        as_wanted.and_then(|()| self.refuse_taken(info.id)).inspect_err(|_| {
            if let Err(error) = self.machine.delete(info.id) {
                log::warn!("{error}");
            }
        })?;
        Ok(info)
    }

    /// Serves the queues of a device that the kernel has added, activates its target and starts it.
    /// What the next server needs is recorded before the device can be used. Returns a note for its
    /// user, and the snapshots that had left the device that it is again.
    ///
    /// # Errors
    /// A step fails, or a disk does not answer. The caller undoes the `add`.
    fn bring_up(
        &mut self,
        prepared: &NewDevice<M>,
        info: &DeviceInfo,
        name: Option<String>,
        state: &mut DeviceState,
        wanted: Wanted,
    ) -> Result<(Option<String>, Vec<Departure>), Reason> {
        let departed = self.register(prepared, name, state, wanted)?;
        let before = self.note_of(prepared)?;
        let served = self.machine.serve(info, &state.name, &prepared.target, false)?;
        self.unless_silent(Errand::on(info.id, "add"), served, |_, _| {})??;
        let note = self.note_of(prepared)?.or(before);
        self.machine.start(info.id, false)?;
        Ok((note, departed))
    }

    /// Refuses the number of a device that another program has deleted and that has not been taken
    /// apart yet: all that is known of that device goes by its number.
    fn refuse_taken(&self, id: u32) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        let served = self.devices.get(&id).map(|entry| &entry.name);
        let undone = self.undone_later.iter().map(|new| &new.state);
        let undone = undone.filter(|state| state.id == id).map(|state| &state.name).next();
        served.or(undone).map_or(Ok(()), |name| {
            Err(format!("/dev/ublkb{id}: {name} is not taken apart yet; try again").into())
        })
    }

    /// Chooses a name for a new device and records what the next server needs, while no other
    /// command chooses a name. Returns the snapshots that had left the device that it is again.
    fn register(
        &mut self,
        prepared: &NewDevice<M>,
        name: Option<String>,
        state: &mut DeviceState,
        Wanted { force, names_source }: Wanted,
    ) -> Result<Vec<Departure>, Reason> {
        let _directory = self.machine.records().lock()?;
        let unread = if force { Unread::ByForce } else { Unread::Refused };
        self.refuse_claimed(&prepared.deps, &prepared.spec, unread)?;
        self.refuse_apart(state.id, &prepared.spec)?;
        self.refuse_renumbered(&prepared.spec.table.params.devices(), &prepared.spec.named)?;
        self.refuse_taken_uuid(&prepared.spec)?;
        self.lose_left_out(state)?;
        // A source that the user has named may have something else than the device had.
        let is_same = !names_source || mutant::is(Mutant::SourceTakenForSame);
        let departed =
            if is_same { self.find_departed(&prepared.deps, &prepared.spec)? } else { Vec::new() };
        self.lose_departures_on(&prepared.deps, &prepared.spec)?;
        let mut taken = self.machine.records().names_beside()?;
        taken.extend(self.devices.values().map(|entry| entry.name.clone()));
        state.name = name.unwrap_or_else(|| generated_name(&prepared.spec.table, state.id, &taken));
        self.pass_on();
        if !mutant::is(Mutant::StateAfterStart) {
            self.record(Some(state.clone()))?;
        }
        Ok(departed)
    }
}

/// Refuses a device whose requests were to fail without a server, if they would wait: a kernel that
/// does not know the flag drops it without an error.
fn refuse_waiting(options: &DeviceOptions, info: &DeviceInfo) -> Result<(), Reason> {
    let fails = on_server_death(info) == Some(OnServerDeath::Fail);
    if fails || !options.fails() || mutant::is(Mutant::DeathUnchecked) {
        return Ok(());
    }
    let release = kernels::release();
    let why =
        format!("--on-server-death fail: it needs Linux 6.13 or later, and this is {release}");
    Err(Failure::new(Kind::Unsupported, why))
}

/// Tells that a mirror was not added: errors of its legs may have been told as events by then.
fn tell_not_added(spec: &DeviceSpec, name: Option<&str>, why: &Reason) {
    let TargetParams::Mirror(mirror) = &spec.table.params else { return };
    let name = name.unwrap_or(&mirror.legs[0].device);
    tell(Level::Warn, "not-added", name, &[], format_args!("not added: {why}"));
}
