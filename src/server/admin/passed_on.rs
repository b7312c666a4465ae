//! A mirror that is passed on: a new device has the table of a suspended one, on the same disks,
//! and takes its mirror. This is how a device with snapshots gets below one that is in use: the
//! suspended device is made of the new one afterwards, by LVM's tables. When the last snapshot has
//! gone it takes the mirror back, from the suspended device below it.
//!
//! Rules kept here: two devices never have the mirror, neither here nor on record: in the write of
//! the state file that adds the new device, the suspended one has `error`, and the mirror's table
//! loaded if it had none: a resume gives it the mirror again if the new device is gone, and is
//! refused otherwise, so that its users see no error. The new mirror begins with all that the old
//! one knew of its legs (I10), like one that replaces another under one device. If the other device
//! does not get it after all, the suspended one gets its mirror back, or keeps its table loaded for
//! when its disks answer.

use std::rc::Rc;

use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::Mirror as Table;
use dm_targets::mirror::target::Mirror;
use dm_targets::table::TargetParams;

use super::devices::{Deps, Device};
use super::machine::{Machine, Records, Thread};
use super::mirrored::OldLog;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::passing::Passing;
use super::resumed::{Put, STAYS_LOADED};
use super::state::Administrator;
use super::targets::Whose;
use crate::failure::Reason;
use crate::protocol::DeviceSpec;

impl<M: Machine> Administrator<M> {
    /// Closes the mirror of a suspended device that another one is to take, by force: a user who
    /// does not mean that has it refused, as any table on the disks of another device. `over`: the
    /// device that takes it, unless that is a new one. Returns the device as it was.
    ///
    /// # Errors
    /// A disk does not answer: the mirror is closed when it does.
    pub(super) fn take_mirror(
        &mut self,
        spec: &DeviceSpec,
        over: Option<u32>,
    ) -> Result<Option<Device>, Reason> {
        let Some(mut before) = self.with_mirror(spec, over).cloned() else { return Ok(None) };
        let id = before.info.id;
        if over.is_some() {
            self.lose_departed_of(id)?;
        }
        self.put_legs_back(id)?;
        let right = |mirror: &Mirror| mirror.legs().iter().position(|leg| leg.source && !leg.stale);
        let source = self.call_mirror(id, right)?.flatten();
        self.close_target(id, OldLog::Stays)?;
        self.passing = Some(Passing { from: id, source });
        before.spec.source = source;
        Ok(Some(before))
    }

    /// The suspended device whose mirror this table is.
    pub(super) fn with_mirror(&self, spec: &DeviceSpec, over: Option<u32>) -> Option<&Device> {
        let TargetParams::Mirror(mirror) = &spec.table.params else { return None };
        let is_free = |entry: &&Device| {
            let (id, but) = (entry.info.id, over.as_slice());
            // An origin that it carries stays open when its last user has gone.
            let is_alone = match over.map(|over| self.devices.get(&over)) {
                None => !self.is_carrier(id),
                Some(upper) => upper.is_some_and(|upper| upper.deps.lower().any(|it| it.id == id)),
            };
            is_alone && self.refuse_carrier(id, but, "").is_ok()
        };
        let mut all = self.devices.values().filter(|_| spec.force).filter(is_free);
        all.find(|entry| self.can_pass_on(entry, spec, mirror))
    }

    /// Whether a device is suspended, and this is its table.
    fn can_pass_on(&self, entry: &Device, spec: &DeviceSpec, new: &Table) -> bool {
        let id = entry.info.id;
        entry.suspended
            && !entry.waits
            && self.is_mirror_of(entry, spec, new)
            && self.refuse_unfinished(id).is_ok()
            && !self.kept.contains(&id)
    }

    /// Whether this is a device's table, by whatever words it names the disks.
    fn is_mirror_of(&self, entry: &Device, spec: &DeviceSpec, new: &Table) -> bool {
        let Some(old) = entry.mirror() else { return false };
        let is_same = |was: &str, is: &str| {
            let disk = entry.deps.id(was);
            disk.is_some() && disk == self.machine.disk_at(is)
        };
        let mut legs = old.legs.iter().zip(&new.legs);
        let same_log = match (old.log_device(), new.log_device()) {
            (None, None) => true,
            (Some(was), Some(is)) => is_same(was, is),
            _ => false,
        };
        entry.spec.table.len == spec.table.len
            && (old.legs.len(), old.region_size) == (new.legs.len(), new.region_size)
            && legs.all(|(was, is)| was.offset == is.offset && is_same(&was.device, &is.device))
            && same_log
    }

    /// Refuses to resume a device whose mirror another one has taken: its requests would fail. The
    /// mirror's table stays loaded.
    pub(super) fn refuse_passed_on(&self, id: u32) -> Result<(), Reason> {
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let is_left = entry.suspended && entry.spec.table.params == TargetParams::Error;
        let Some(loaded) = entry.loaded.as_ref().filter(|_| is_left) else { return Ok(()) };
        let TargetParams::Mirror(mirror) = &loaded.table.params else { return Ok(()) };
        let has = |other: &&Device| self.is_mirror_of(other, loaded, mirror);
        let Some(other) = self.devices.values().find(has) else { return Ok(()) };
        let (name, other) = (&other.name, other.info.id);
        let what = "load another table, or delete that device first";
        let why = format!("/dev/ublkb{id}: {name} (/dev/ublkb{other}) has its mirror: {what}");
        Err(Reason::from(why).ending(STAYS_LOADED))
    }

    /// Puts a loaded table in the place of one of another kind; the mirror of a suspended device
    /// below, if this is its table.
    pub(super) fn exchange_passing(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<Put, Reason> {
        // What the device holds would not end while the other one holds it.
        let passed_on = if was_suspended { self.take_mirror(&table, Some(id))? } else { None };
        let exchanged = self.exchange(id, table, was_suspended);
        let put = exchanged.map_err(|why| self.not_passed_on(passed_on.as_ref(), why))?;
        self.has_passed_on();
        Ok(put)
    }

    /// Why a mirror is not passed on: the device that had it, if any, has it again, or the reason
    /// says why not.
    pub(super) fn not_passed_on(&mut self, before: Option<&Device>, why: Reason) -> Reason {
        let back = before.and_then(|before| self.give_mirror_back(before).err());
        back.map_or(why.clone(), |back| why.ending(format!("; {back}")))
    }

    /// Opens the mirror that was closed for another device.
    pub(super) fn open_passed_on(
        &mut self,
        from: u32,
        mirror: &Table,
        spec: DeviceSpec,
        name: Option<&str>,
    ) -> Result<NewDevice<M>, Reason> {
        let closed = self.devices.get(&from).map(|entry| entry.deps.clone());
        let past = Past::Replaced(self.machine.records().legs().ok());
        let past = if mutant::is(Mutant::LegsNotPassedOn) { Past::None } else { past };
        // What it has of this server's devices is free.
        self.replaced = Some(from);
        let whose = Whose { name, closed: closed.as_ref() };
        let opened = self.open_mirror(mirror, spec, whose, past, None, None);
        self.replaced = None;
        opened
    }

    /// From now on the other device has the mirror, in the next record.
    pub(super) fn pass_on(&mut self) {
        let passing = self.passing.filter(|_| !mutant::is(Mutant::MirrorOnRecordTwice));
        let Some(Passing { from, source }) = passing else { return };
        if let Some(entry) = self.devices.get_mut(&from) {
            let mirror = DeviceSpec { source, ..entry.spec.clone() };
            entry.spec.table.params = TargetParams::Error;
            entry.deps = Deps::default();
            entry.loaded.get_or_insert(mirror);
        }
    }

    /// The other device has it: the suspended one has the target of its table.
    pub(super) fn has_passed_on(&mut self) {
        let Some(Passing { from: id, .. }) = self.passing.take() else { return };
        if let Err(why) = self.put_error(id) {
            log::error!("/dev/ublkb{id}: its mirror is another device's, and it has none: {why}");
        }
    }

    fn put_error(&mut self, id: u32) -> Result<(), Reason> {
        let Some(spec) = self.devices.get(&id).map(|entry| entry.spec.clone()) else {
            return Ok(());
        };
        let lines = spec.table.params.segments(spec.table.len).unwrap_or_default();
        let prepared = self.prepare_segments(lines, spec, None, Some(id))?;
        self.put_target(id, prepared.target, false, None)?;
        if mutant::is(Mutant::PassedOnForgotten) {
            return Ok(());
        }
        // Another device has what it has shown.
        self.machine.call(move |thread: Rc<M::Thread>| async move {
            if let Some(device) = thread.group().device(id) {
                device.set_exchanged();
            }
        })
    }

    /// The other device does not get it: the suspended one has its mirror again.
    ///
    /// # Errors
    /// It cannot be opened: the device stays suspended, with the mirror's table loaded.
    pub(super) fn give_mirror_back(&mut self, before: &Device) -> Result<(), Reason> {
        self.passing = None;
        let (id, mirror) = (before.info.id, before.spec.clone());
        let entry = self
            .devices
            .get(&id)
            .filter(|entry| entry.info.target_flags == before.info.target_flags && entry.suspended);
        let Some(entry) = entry.filter(|_| !mutant::is(Mutant::MirrorNotGivenBack)) else {
            return Ok(());
        };
        let is_there = entry.spec.table == mirror.table;
        if !is_there && !self.has_mirror_loaded(id, &mirror) {
            return Ok(());
        }
        let back = if is_there || self.machine.records().legs().is_ok() {
            // No device with it has ended.
            if let Some(entry) = self.devices.get_mut(&id) {
                (entry.spec, entry.deps) = (before.spec.clone(), before.deps.clone());
            }
            self.change_table(id, mirror.clone(), Some(&before.deps.known()))
        } else {
            self.exchange(id, mirror.clone(), true).map(drop)
        };
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.loaded = match &back {
                Ok(()) => before.loaded.clone(),
                Err(_) => Some(mirror),
            };
        }
        let recorded = self.save();
        let Err(why) = back else { return recorded };
        let recorded = recorded.err().map_or_else(String::new, |why| format!(", but {why}"));
        Err(why
            .context(format!("/dev/ublkb{id}: its mirror cannot be put back"))
            .ending(format!("; it stays suspended, with the mirror's table loaded{recorded}")))
    }

    /// Whether a device that has passed its mirror on waits for it.
    fn has_mirror_loaded(&self, id: u32, mirror: &DeviceSpec) -> bool {
        let Some(entry) = self.devices.get(&id) else { return false };
        let loaded = entry.loaded.as_ref().is_some_and(|loaded| loaded.table == mirror.table);
        loaded && entry.spec.table.params == TargetParams::Error
    }
}

/// What the user of a device that has taken a mirror should know.
pub(super) fn has_taken_mirror_of(before: &Device) -> String {
    let (name, id) = (&before.name, before.info.id);
    format!(
        "it has the mirror of {name} (/dev/ublkb{id}), which stays suspended until it has another \
         table"
    )
}
