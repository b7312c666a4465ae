//! Snapshots that are kept when they have been merged into their origin (`merge --keep`).
//!
//! As long as a snapshot is merged, its store belongs to the merge. Its device stays, as LVM does
//! it: with an `error` table in place, and its own table loaded. At the end the store is empty, and
//! the own table is put in place: the device is a snapshot of the merged origin then.
//!
//! So does a suspended one with another table loaded, which it has for the time after.
//!
//! What the state file says changes in two steps, each one write: the merge, with the wish, beside
//! the `error` table; then the origin's plain table, beside the snapshot's.
//!
//! Rules kept here: the second step is durable before the snapshot's table is put in place, so that
//! no server finds a merge on record beside a store with new exceptions, and copies old content to
//! the origin; the origin's requests are held until the snapshot has joined it, so that each later
//! write is preserved for it (I5); and a snapshot that cannot be opened at the end holds up nobody:
//! its table stays loaded, for `resume`.

use std::num::NonZeroU64;
use std::rc::Rc;

use dm_targets::device::OpenTarget;
use dm_targets::error::target::Error;
use dm_targets::table::{Table, TargetParams};
use dm_targets::target::Target;

use super::devices::{Deps, Device, no_device};
use super::left_behind::{Left, Old};
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::recording::Recorded;
use super::resumed::{STAYS_LOADED, runs_unrecorded};
use super::state::Administrator;
use crate::failure::{Kind, Reason};
use crate::protocol::{DeviceSpec, MergeOptions, Reply};

/// How fast a merge may run, in bytes per second, and whether its snapshot is kept.
pub(super) type How = (Option<NonZeroU64>, bool);

impl<M: Machine> Administrator<M> {
    /// Refuses a snapshot that cannot be kept when it is merged.
    pub(super) fn refuse_to_keep(&self, id: u32) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if entry.loaded.is_some() {
            return Err("it cannot be kept while another table is loaded for it".into());
        }
        if !entry.spec.options.recovery && !mutant::is(Mutant::UnrecoverableKept) {
            return Err(
                "it cannot be kept: its device ends with its server (--no-recovery), which \
                        may be before the end of the merge"
                    .into(),
            );
        }
        Ok(())
    }

    /// Refuses the same while a process has its device open: it may have read what the device does
    /// not show any more when the merge has ended.
    pub(super) fn refuse_open_to_keep(&self, id: u32) -> Result<(), Reason> {
        self.refuse_to_keep(id)?;
        let used = if mutant::is(Mutant::OpenKept) { Ok(()) } else { self.machine.not_open(id) };
        used.map_err(|why| {
            let hint = "what it has read would be mixed with what the device shows later";
            why.without_end().ending(format!("; it cannot be kept then: {hint}"))
        })
    }

    /// Whether a snapshot's device is suspended with a table loaded that has nothing to do with its
    /// store, as LVM has it when it merges: it goes on with that one.
    pub(super) fn has_other_table(&self, id: u32) -> bool {
        let entry = self.devices.get(&id).filter(|entry| entry.suspended);
        let loaded = entry.and_then(|entry| entry.loaded.as_ref());
        let is_other = |spec: &DeviceSpec| spec.table.params.segments(spec.table.len).is_some();
        loaded.is_some_and(is_other) && !mutant::is(Mutant::OtherTableEnded)
    }

    /// The device of the snapshot that is kept when the merge into this origin's device has ended,
    /// if the device's next table, `spec`, is the plain one.
    pub(super) fn kept_at_end(&self, origin: u32, spec: &DeviceSpec) -> Option<u32> {
        if !matches!(spec.table.params, TargetParams::SnapshotOrigin { .. }) {
            return None;
        }
        let wish = self.devices.get(&origin)?.spec.merge.as_ref().filter(|wish| wish.keep)?;
        let is_it = |entry: &Device| is_kept(entry) && wish.snapshot.as_ref() == Some(&entry.name);
        let kept = self.devices.iter().find(|(_, entry)| is_it(entry)).map(|(id, _)| *id);
        if kept.is_none() {
            let name = wish.snapshot.as_deref().unwrap_or_default();
            log::warn!("{name}: it has no device any more, so it is not kept");
        }
        kept
    }

    /// Whether the merge of a kept snapshot has not ended.
    fn is_still_merged(&self, name: &str) -> bool {
        let merges = |spec: &DeviceSpec| {
            let options = spec.merge.as_ref().filter(|options| options.keep);
            matches!(spec.table.params, TargetParams::SnapshotMerge(_))
                && options.is_some_and(|options| options.snapshot.as_deref() == Some(name))
        };
        self.devices.values().any(|entry| merges(&entry.spec))
            || self.left_out.values().any(|left| merges(&left.device.spec))
    }

    /// Gives the device of a kept snapshot its other tables, in what is to be recorded: those that
    /// it has while it is merged into this origin's device, or those that it has afterwards.
    /// Returns the device as it was.
    pub(super) fn change_kept(&mut self, origin: u32, id: u32) -> Option<Device> {
        let merge = self.devices.get(&origin)?.clone();
        let entry = self.devices.get_mut(&id)?;
        let before = entry.clone();
        if is_kept(entry) {
            let own = entry.loaded.take()?;
            entry.deps = deps_of(&own, &merge);
            (entry.spec, entry.cow) = (own, merge.cow);
            self.taken.insert(id, entry.deps.clone());
        } else {
            let own = DeviceSpec { merge: None, ..entry.spec.clone() };
            let next = entry.loaded.take().unwrap_or_else(|| own.clone());
            let table = Table { params: TargetParams::Error, ..own.table.clone() };
            let options = own.options.clone();
            entry.spec = DeviceSpec { table, options, ..of_error(&own) };
            (entry.loaded, entry.cow, entry.deps) = (Some(next), None, Deps::default());
        }
        Some(before)
    }

    /// What was to be recorded is not: the device is as it was.
    pub(super) fn change_back(&mut self, before: Device) {
        let id = before.info.id;
        if is_kept(&before) {
            self.taken.remove(&id);
        }
        self.devices.insert(id, before);
    }

    /// All requests of a kept snapshot's device fail from now on, until its merge has ended.
    pub(super) fn let_fail(&mut self, id: u32) -> Result<(), Reason> {
        self.taken.remove(&id);
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let (len, suspended) = (entry.spec.table.len, entry.suspended);
        self.publish();
        self.machine.call(move |thread| async move {
            let Some(device) = thread.group().device(id) else { return };
            let target = Target::Error(Rc::new(Error::new(len)));
            device.put_target(OpenTarget { target, events: Rc::default() });
            if !suspended {
                device.resume(false).await;
            }
        })
    }

    /// The merge of a kept snapshot has ended, and the plain table of its origin is in place, whose
    /// requests are held: puts the snapshot's table in place.
    ///
    /// # Errors
    /// A disk does not answer. When it does, the origin can be resumed.
    pub(super) fn put_kept(&mut self, id: u32) -> Result<(), Reason> {
        let held = self.hold(id, true, "merge").map(drop);
        match held.and_then(|()| self.give_target_back(id)) {
            Ok(()) => {
                let name = self.name_of(id)?;
                if mutant::is(Mutant::KeptUnjoined) {
                    self.unjoin(id)?;
                }
                log::info!("{name}: a snapshot of the merged origin from now on");
                Ok(())
            }
            Err(why) if why.kind == Kind::NoAnswer => Err(why),
            Err(why) => self.give_kept_up(id, &why),
        }
    }

    /// What [`Mutant::KeptUnjoined`] does.
    fn unjoin(&self, id: u32) -> Result<(), Reason> {
        let carrier = self.devices.get(&id).and_then(|entry| entry.deps.carrier());
        let origin = self.origins.of(carrier).map(|origin| origin.disk);
        self.machine.call(move |thread| async move {
            let target = thread.group().device(id).map(|device| device.target());
            let origin = origin.and_then(|origin| thread.group().origin(origin.key()));
            if let (Some(Target::Snapshot(snapshot)), Some(origin)) = (target, origin) {
                origin.leave(&snapshot);
            }
        })
    }

    /// A kept snapshot cannot be opened. Its table is not on record as the live one any more when
    /// the origin changes without it.
    fn give_kept_up(&mut self, id: u32, why: &Reason) -> Result<(), Reason> {
        let Some(entry) = self.devices.get_mut(&id) else { return Ok(()) };
        let name = entry.name.clone();
        let table = Table { params: TargetParams::Error, ..entry.spec.table.clone() };
        let failing = DeviceSpec { table, ..of_error(&entry.spec) };
        entry.loaded = Some(std::mem::replace(&mut entry.spec, failing));
        (entry.cow, entry.deps) = (None, Deps::default());
        let recorded = self.record(None);
        self.let_fail(id)?;
        log::error!(
            "{name}: not kept as a snapshot: {why}; `ublk-dm resume {name}` makes it a snapshot of \
             its origin as that is then"
        );
        recorded.unwrap_or_else(|why| log::error!("{name}: that is not recorded: {why}"));
        Ok(())
    }

    /// Refuses to change the tables of a snapshot that is being merged and is to be kept.
    pub(super) fn refuse_kept(&self, id: u32) -> Result<(), Reason> {
        let Some(entry) = self.devices.get(&id).filter(|entry| is_kept(entry)) else {
            return Ok(());
        };
        let name = &entry.name;
        if !self.is_still_merged(name) {
            return Ok(());
        }
        Err(format!(
            "{name}: it is being merged into its origin; its table is put in place when the merge \
             has ended; `ublk-dm del {name}` gives the snapshot up"
        )
        .into())
    }

    /// Resumes the device of a kept snapshot: suspended, it fails requests as before; otherwise its
    /// own table is put in place, if its merge has ended. `None`: it is none.
    ///
    /// # Errors
    /// The merge has not ended, or the table cannot be used and stays loaded.
    pub(super) fn resume_kept(&mut self, id: u32) -> Option<Result<Reply, Reason>> {
        let entry = self.devices.get(&id).filter(|entry| is_kept(entry))?;
        let (suspended, own, name) = (entry.suspended, entry.loaded.clone()?, entry.name.clone());
        if suspended && self.is_still_merged(&name) {
            let passes = self.let_through(id, true, "resume");
            return Some(passes.and(self.record_suspended(id, false)).map(|()| Reply::Done));
        }
        let put = self.refuse_kept(id).and_then(|()| self.put_again(id, own, &name));
        Some(put.map(|()| Reply::Done))
    }

    /// Puts the table of a snapshot in place that could not be kept: a snapshot of its origin as it
    /// is now.
    fn put_again(&mut self, id: u32, own: DeviceSpec, name: &str) -> Result<(), Reason> {
        let own = DeviceSpec { force: false, ..own };
        let prepared = self.prepare(own.clone(), Some(name), None);
        let prepared = prepared.map_err(|why| why.ending(STAYS_LOADED))?;
        let NewDevice { target, deps, spec, params, cow, note, .. } = prepared;
        let fits = self.check_fits(id, &params);
        fits.map_err(|why| why.context("the table").ending(STAYS_LOADED))?;
        note.iter().for_each(|note| log::warn!("{name}: {note}"));
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let before = entry.clone();
        (entry.cow, entry.loaded) = (cow.clone(), None);
        let held = self.hold(id, true, "resume").map(drop);
        let recorded =
            held.and_then(|()| self.record_table(id, deps, spec, Recorded::New { force: false }));
        let old = Old { device: before.clone(), left: Left::of_coming(cow.clone()) };
        let put = recorded.and_then(|()| self.put_target(id, target, true, Some(old)));
        if let Err(why) = put {
            if why.kind == Kind::NoAnswer {
                return Err(self.stay_between(id, own, why));
            }
            self.devices.insert(id, before);
            self.record(None).unwrap_or_else(|why| log::error!("{name}: {why}"));
            self.let_fail(id)?;
            return Err(why.ending(STAYS_LOADED));
        }
        cow.iter().for_each(|cow| self.forget_departure(cow));
        self.let_through(id, false, "resume")?;
        self.record_suspended(id, false).map_err(|why| runs_unrecorded(id, why))
    }

    /// The device of a kept snapshot is deleted: its snapshot is not to be kept any more.
    pub(super) fn forget_kept(&mut self, gone: &Device) {
        if !is_kept(gone) {
            return;
        }
        let wishes = self.devices.values_mut().filter_map(|entry| entry.spec.merge.as_mut());
        let is_it = |wish: &&mut MergeOptions| wish.snapshot.as_ref() == Some(&gone.name);
        wishes.filter(is_it).for_each(|wish| wish.keep = false);
    }
}

/// Whether it is the device of a kept snapshot that has not got its table back.
pub(super) fn is_kept(entry: &Device) -> bool {
    let is_own = |spec: &DeviceSpec| matches!(spec.table.params, TargetParams::Snapshot(_));
    matches!(entry.spec.table.params, TargetParams::Error)
        && entry.loaded.as_ref().is_some_and(is_own)
}

/// How a device without disks is made that is served as this one.
fn of_error(own: &DeviceSpec) -> DeviceSpec {
    DeviceSpec {
        force: false,
        degraded: false,
        source: None,
        lost: Vec::new(),
        other_origin: false,
        allow_invalid: false,
        merge: None,
        ..own.clone()
    }
}

/// The disks of a snapshot, which the device has that merges it.
fn deps_of(own: &DeviceSpec, merge: &Device) -> Deps {
    let mut deps = Deps::default();
    let (TargetParams::Snapshot(own), TargetParams::SnapshotMerge(table)) =
        (&own.table.params, &merge.spec.table.params)
    else {
        return deps;
    };
    for (own, word) in [(&own.origin, &table.origin), (&own.cow, &table.cow)] {
        let id = merge.deps.id(word);
        if let Some((id, known)) = id.and_then(|id| Some((id, merge.deps.of(id)?))) {
            deps.insert(own, id, known);
        }
    }
    deps
}
