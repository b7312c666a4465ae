//! Adding a device.
//!
//! A device is added in steps, each of which can still be undone: the disks are opened and claimed,
//! the store is read and checked, the kernel adds the device, its queues are served, and only then
//! is the store written and the snapshot added to its origin; starting the device comes last. If a
//! step fails, the earlier ones are undone, so a failed `add` leaves nothing.

use dm_targets::group::Ticket;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::store::Unmade;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::Device;
use super::devices::changes_origin;
use super::machine::{Machine, Records, Served, Thread};
use super::mutant::{self, Mutant};
use super::new_device::{NewDevice, generated_name};
use super::silent::Silent;
use super::state::Administrator;
use super::unconfirmed::Unconfirmed;
use super::waiting::Errand;
use crate::failure::Reason;
use crate::protocol::{DeviceRef, DeviceSpec, KnownDisks, Reply};
use crate::ublk::DeviceInfo;
use crate::ublk::device::BLOCK_PATH;

impl<M: Machine> Administrator<M> {
    /// Adds one device.
    pub(super) fn add(
        &mut self,
        name: Option<String>,
        id: Option<u32>,
        spec: DeviceSpec,
    ) -> Result<Reply, Reason> {
        Silent::on(&self.machine, spec.table.params.devices())?;
        let prepared = self.prepare(spec, name.as_deref(), None)?;
        let added = self.bring_up(&prepared, id, name);
        let note = self.note_of(&prepared)?;
        let ticket = prepared.ticket;
        let (info, name) = match added {
            Ok(added) => added,
            // Undoing the `add` needs the opened target.
            Err(why) if self.is_coming(ticket) => return Err(why),
            Err(why) => return self.forget_ticket(ticket).and(Err(why)),
        };
        let path = format!("{BLOCK_PATH}{}", info.id);
        let device = DeviceRef { id: info.id, cookie: info.target_flags };
        let adopted = prepared.spec.other_origin;
        self.unconfirmed = Some(Unconfirmed { device, ticket, cow: prepared.cow.clone() });
        log::info!("{name}: {path} is live");
        self.keep(prepared, info, name);
        // The device was recorded before it could be used. If it cannot be recorded that its store
        // is adopted, that is only a warning.
        self.publish();
        if let Err(why) = if adopted { self.record(None) } else { Ok(()) } {
            log::warn!(
                "the next server will take the store for this origin's whatever it says: {why}"
            );
        }
        Ok(Reply::Added { path, note, device })
    }

    /// Opens the disks of a target and the target itself, without writing anything; `again`: what
    /// the disks of an existing device were.
    pub(super) fn prepare(
        &mut self,
        spec: DeviceSpec,
        name: Option<&str>,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice, Reason> {
        match spec.table.params.clone() {
            TargetParams::Snapshot(snapshot) => self.prepare_snapshot(&snapshot, spec, name, again),
            TargetParams::SnapshotOrigin { origin } => self.prepare_origin(&origin, spec, again),
            TargetParams::Mirror(mirror) => self.prepare_mirror(&mirror, spec, name, again),
            TargetParams::Linear(linear) => self.prepare_linear(&linear, spec, again),
            other @ TargetParams::SnapshotMerge(_) => {
                Err(format!("target {}: not served by this version", other.name()).into())
            }
        }
    }

    /// A note for the user of a device that has been opened.
    fn note_of(&self, prepared: &NewDevice) -> Result<Option<String>, Reason> {
        let ticket = prepared.ticket;
        self.machine.call(move |thread| async move {
            let opened = thread.group().opened(ticket);
            let Some(Target::Snapshot(snapshot)) = opened.map(|opened| opened.target) else {
                return None;
            };
            let invalid = snapshot.health() == Health::Invalid;
            invalid.then(|| {
                format!(
                    "{}: the snapshot on it is invalid: all I/O on its device fails",
                    snapshot.cow().name()
                )
            })
        })
    }

    /// Drops the data thread's own reference to an opened target.
    pub(super) fn forget_ticket(&self, ticket: Ticket) -> Result<(), Reason> {
        self.machine.call(move |thread| async move {
            let opened = thread.group().take_opened(ticket);
            if let Some(Target::Snapshot(snapshot)) = opened.map(|opened| opened.target) {
                snapshot.store().keep();
            }
        })
    }

    /// Restores what the store of a snapshot has overwritten, if its device is not added or is
    /// deleted again.
    pub(super) fn unmake(&self, ticket: Ticket) -> Result<Unmade, Reason> {
        Ok(self
            .machine
            .call(move |thread| async move { thread.group().unmake(ticket).await })??)
    }

    /// Adds a served device to this server's devices. The caller publishes the change.
    pub(super) fn keep(&mut self, prepared: NewDevice, info: DeviceInfo, name: String) {
        let number = self.machine.number(info.id);
        let NewDevice { mut spec, deps, read_only, cow, .. } = prepared;
        let id = info.id;
        // The store is adopted now. Adopting another one needs the option again.
        spec.other_origin = spec.other_origin && !self.is_valid(id);
        if let Some(cow) = &cow {
            self.forget_departure(cow);
        }
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
            },
        );
    }

    /// Whether a device is a snapshot that is valid: only such a store can be adopted.
    fn is_valid(&self, id: u32) -> bool {
        let valid = self.machine.call(move |thread| async move {
            let device = thread.group().device(id);
            let target = device.map(|device| device.target());
            matches!(target, Some(Target::Snapshot(s)) if s.health() != Health::Invalid)
        });
        valid.unwrap_or(false)
    }

    /// Adds a device, serves its queues, activates its target and starts it; undoes all of that if
    /// a step fails. What the next server needs is recorded before the device can be used.
    fn bring_up(
        &mut self,
        prepared: &NewDevice,
        id: Option<u32>,
        name: Option<String>,
    ) -> Result<(DeviceInfo, String), Reason> {
        let options = &prepared.spec.options;
        let zero_copy = self.machine.can_zero_copy(options)?;
        let info = self.machine.add(id, options, &prepared.params, zero_copy)?;
        let named = self.refuse_taken(info.id);
        let named = named.and_then(|()| self.register(prepared, &info, name));
        let name = named.inspect_err(|_| {
            if let Err(error) = self.machine.delete(info.id) {
                log::warn!("{error}");
            }
        })?;
        let served = self.serve_new(prepared, &info, &name)?;
        let started = served.and_then(|()| self.machine.start(info.id, false));
        if let Err(error) = started {
            return Err(self.undo(&info, prepared.ticket, error));
        }
        Ok((info, name))
    }

    /// Refuses the number of a device that another program has deleted and that has not been taken
    /// apart yet: all that is known of that device goes by its number.
    fn refuse_taken(&self, id: u32) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        self.devices.get(&id).map_or(Ok(()), |entry| {
            let name = &entry.name;
            Err(format!("/dev/ublkb{id}: {name} is not taken apart yet; try again").into())
        })
    }

    /// Serves the queues of a new device while its disks answer. If one does not, the `add` is
    /// undone when it answers; the device stays in the state file until then.
    ///
    /// # Errors
    /// A disk does not answer.
    fn serve_new(
        &mut self,
        prepared: &NewDevice,
        info: &DeviceInfo,
        name: &str,
    ) -> Result<Served, Reason> {
        let ticket = prepared.ticket;
        let served = match self.machine.serve(info, name, ticket) {
            Ok(served) => served,
            Err(why) => return Ok(Err(why)),
        };
        let device = info.clone();
        let then = move |admin: &mut Administrator<M>, _: Served| {
            let why = admin.undo(&device, ticket, "its disk answers again".into());
            log::warn!("/dev/ublkb{}: the add is taken back: {why}", device.id);
        };
        let coming = prepared.state(info, name);
        self.unless_silent(Errand::on(info.id, "add"), served, then).map_err(|why| {
            if let Some(unfinished) = self.unfinished.last_mut() {
                unfinished.coming = Some((ticket, coming));
            }
            why.ending("; what has been begun is taken back when it does")
        })
    }

    /// Undoes a failed `add`; the returned error says what is left.
    fn undo(&mut self, info: &DeviceInfo, ticket: Ticket, error: Reason) -> Reason {
        let undone = self.take_down(info.id, info.target_flags, true);
        let undone = undone.and_then(|end| end.wrong.map_or_else(|| self.unmake(ticket), Err));
        let left = [undone.err(), self.save().err()].into_iter().flatten();
        left.fold(error, |error, left| error.ending(format!("; and {left}")))
    }

    /// Chooses a name for a new device and records what the next server needs, while no other
    /// command chooses a name.
    fn register(
        &mut self,
        prepared: &NewDevice,
        info: &DeviceInfo,
        name: Option<String>,
    ) -> Result<String, Reason> {
        let _directory = self.machine.records().lock()?;
        // With force, disks that other devices claim are used as well.
        if !prepared.spec.force {
            self.refuse_claimed(&prepared.deps)?;
        }
        if changes_origin(&prepared.spec) {
            self.lose_left_out()?;
        }
        let mut taken = self.machine.records().names_beside()?;
        taken.extend(self.devices.values().map(|entry| entry.name.clone()));
        let name = name.unwrap_or_else(|| generated_name(&prepared.spec.table, info.id, &taken));
        if !mutant::is(Mutant::StateAfterStart) {
            self.record(Some(prepared.state(info, &name)))?;
        }
        Ok(name)
    }
}
