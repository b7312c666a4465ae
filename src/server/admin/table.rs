//! Changing live devices: suspend, resume and table loads.

use std::future::Future;
use std::rc::Rc;

use dm_targets::mirror::leg_state::Past;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::deferred;
use super::devices::{Device, no_device, ranges_of};
use super::handover;
use super::held::Held;
use super::left_behind::Old;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::recording::Recorded;
use super::resumed::{Put, STAYS_LOADED, runs_unrecorded};
use super::state::Administrator;
use super::targets::Whose;
use super::waiting::Errand;
use crate::failure::{Kind, Reason};
use crate::protocol::{DeviceSpec, KnownDisks, Reply};

impl<M: Machine> Administrator<M> {
    /// Suspends a device. That is durable before the command ends: the next server suspends the
    /// device as well.
    pub(super) fn suspend(&mut self, id: u32, noflush: bool) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        let was_suspended = self.devices.get(&id).ok_or_else(|| no_device(id))?.suspended;
        let held = self
            .hold(id, noflush, "suspend")
            .map_err(|why| why.context(format!("/dev/ublkb{id}: not suspended")))?;
        let is_recorded = was_suspended && self.is_recorded(id);
        let recorded = if is_recorded { Ok(()) } else { self.record_suspended(id, true) };
        if let Err(why) = recorded {
            let now = if was_suspended { "it stays suspended" } else { "it continues to run" };
            if !was_suspended {
                self.record_suspended(id, false).ok();
                self.let_through(id, true, "suspend")?;
            }
            let lost = held.err().map_or_else(String::new, |lost| format!("; besides, {lost}"));
            let what = format!("/dev/ublkb{id}: its suspension cannot be recorded");
            return Err(why.context(what).ending(format!("; {now}{lost}")));
        }
        held.map(|()| Reply::Done).map_err(|lost| lost.but(format!("/dev/ublkb{id}: suspended")))
    }

    /// Resumes a device; a loaded table replaces the old one first, for which the device is
    /// suspended if it is not. A running device without a loaded table continues to run.
    pub(super) fn resume(&mut self, id: u32) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        self.refuse_unended(id)?;
        self.refuse_passed_on(id)?;
        self.give_back_taken(id)?;
        if let Some(table) = self.devices.get(&id).and_then(|entry| entry.loaded.clone()) {
            self.refuse_apart(id, &table).map_err(|why| why.ending(STAYS_LOADED))?;
        }
        if let Some(resumed) = self.resume_kept(id) {
            return resumed;
        }
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let (was_suspended, loaded) = (entry.suspended, entry.loaded.take());
        let same_target = loaded.is_none();
        if same_target && !was_suspended {
            // An earlier resume may have failed to record that.
            let recorded = if self.is_recorded(id) { Ok(()) } else { self.record(None) };
            return recorded.map(|()| Reply::Done).map_err(|why| runs_unrecorded(id, why));
        }
        let mut put = Put::default();
        let wish = self.devices.get(&id).and_then(|entry| deferred::replaced_with(&entry.spec));
        if let Some(table) = loaded {
            self.lose_departed(id, &table)?;
            let is_handover = |old: &Device| handover::is_handover(&old.spec, &table);
            let done = if self.devices.get(&id).is_some_and(is_handover) {
                self.hand_over(id, table, was_suspended).map(Put::losing)
            } else if self.is_exchange(id, &table) {
                self.exchange_passing(id, table, was_suspended)
            } else {
                self.replace_table(id, table, was_suspended).map(|()| Put::default())
            };
            put = done.map_err(|why| self.not_put(id, why))?;
        }
        if !self.has_target(id)? {
            return Err(format!("/dev/ublkb{id}: it no longer has a table: load one first").into());
        }
        self.let_through(id, same_target, "resume")?;
        self.record_suspended(id, false).map_err(|why| runs_unrecorded(id, why))?;
        let given_up = self.devices.get(&id).is_some_and(|one| one.spec.deferred_merge().is_none());
        let note = wish.filter(|_| given_up).map(|wish| format!("/dev/ublkb{id}: {wish}"));
        note.iter().for_each(|note| log::warn!("{note}"));
        put.notes.extend(note);
        put.reply(id)
    }

    /// Suspends a device if it is not, and replaces its table.
    pub(super) fn replace_table(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<(), Reason> {
        self.refuse_unopenable(id, &table)?;
        if !was_suspended {
            match self.hold(id, false, "resume") {
                Ok(Ok(())) => {}
                Ok(Err(lost)) => log::error!("/dev/ublkb{id}: {lost}"),
                Err(why) => {
                    if let Some(entry) = self.devices.get_mut(&id) {
                        entry.loaded = Some(table);
                    }
                    return Err(
                        why.context(format!("/dev/ublkb{id}: the old table stays in place"))
                    );
                }
            }
        }
        self.swap_table(id, table, was_suspended)
    }

    /// Replaces the old table with a loaded one. If that fails, the old table is restored: the
    /// device is then as it was before.
    fn swap_table(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<(), Reason> {
        let old = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let (old, known) = (old.spec.clone(), old.deps.known());
        let Err(error) = self.change_table(id, table.clone(), None) else { return Ok(()) };
        if error.kind == Kind::NoAnswer {
            return Err(self.stay_between(id, table, error));
        }
        // The device had a target before and needs one again, with what is known of its disks by
        // now.
        let is_there = self.has_target(id)?;
        let stays = is_there || mutant::is(Mutant::HalfLoadForgotten);
        let back = if stays { Ok(()) } else { self.change_table(id, old, Some(&known)) };
        let stays = match &back {
            Ok(()) if was_suspended || self.devices.get(&id).is_some_and(|own| own.suspended) => {
                "the old table is still in place, and the device stays suspended".to_owned()
            }
            Ok(()) => "the old table is still in place, and the device continues to run".to_owned(),
            Err(back) => {
                if let Some(entry) = self.devices.get_mut(&id) {
                    entry.loaded = Some(table);
                }
                format!(
                    "the old table cannot be restored either, and the device stays suspended with \
                     the new table loaded: {back}"
                )
            }
        };
        let must_wait = self.devices.get(&id).is_some_and(|entry| entry.suspended);
        let suspended = was_suspended || back.is_err() || must_wait;
        if !suspended {
            self.let_through(id, is_there, "resume")?;
        }
        let recorded = self.record_suspended(id, suspended);
        let recorded = recorded.map_or_else(
            |why| format!("; the device's state is not recorded: {why}"),
            |()| String::new(),
        );
        Err(error.ending(format!("; {stays}{recorded}")))
    }

    /// Records whether a device is suspended, and its inactive table, for reports and for the next
    /// server.
    pub(super) fn record_suspended(&mut self, id: u32, suspended: bool) -> Result<(), Reason> {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.suspended = suspended;
        }
        self.publish();
        if mutant::is(Mutant::SuspendNotRecorded) {
            return Ok(());
        }
        self.record(None)
    }

    /// Holds a device's new requests back and waits for those in its target. The inner error says
    /// which writes are lost. If canceled, the device runs on, now or when the disk answers.
    ///
    /// # Errors
    /// A disk does not answer, or the thread has died.
    pub(super) fn hold(
        &mut self,
        id: u32,
        noflush: bool,
        verb: &'static str,
    ) -> Result<Result<(), Reason>, Reason> {
        let job = move |thread: Rc<M::Thread>| async move {
            match thread.group().device(id) {
                Some(device) => Ok(device.suspend(noflush).await?),
                None => Ok(()),
            }
        };
        let then = move |admin: &mut Administrator<M>, _| admin.run_on(id, verb);
        self.wait_for(Errand::on(id, verb), job, then).inspect_err(|_| self.give_up(id))
    }

    /// Makes a device cancel its current operation.
    pub(super) fn give_up(&mut self, id: u32) {
        if mutant::is(Mutant::SuspendedLate) {
            return;
        }
        let given_up = self.machine.call(move |thread| async move {
            if let Some(device) = thread.group().device(id) {
                device.give_up();
            }
        });
        if let Err(why) = given_up {
            log::error!("{why}");
        }
        self.finish_late_jobs();
    }

    /// A canceled operation has ended: the device runs as before.
    pub(super) fn run_on(&mut self, id: u32, verb: &'static str) {
        let Some(entry) = self.devices.get(&id) else { return };
        if entry.suspended || mutant::is(Mutant::SuspendedLate) {
            return;
        }
        log::warn!("{}: its disk answers again; `{verb}` is undone", entry.name);
        let job = move |thread: Rc<M::Thread>| async move {
            if let Some(device) = thread.group().device(id) {
                device.run_on().await;
            }
        };
        if let Err(why) = self.wait_for(Errand::on(id, verb), job, |_, ()| {}) {
            log::error!("/dev/ublkb{id}: {why}; its requests continue when the disk answers");
        }
    }

    /// Releases a suspended device's requests.
    ///
    /// # Errors
    /// A disk does not answer: the requests continue when it does.
    pub(super) fn let_through(
        &mut self,
        id: u32,
        same_target: bool,
        verb: &'static str,
    ) -> Result<(), Reason> {
        let job = move |thread: Rc<M::Thread>| async move {
            if let Some(device) = thread.group().device(id) {
                device.resume(same_target).await;
            }
        };
        let then = move |admin: &mut Administrator<M>, ()| {
            log::warn!("/dev/ublkb{id}: its disk answers again; its requests continue");
            if let Err(why) = admin.record_suspended(id, false) {
                log::error!("/dev/ublkb{id}: the next server will find it suspended: {why}");
            }
        };
        self.wait_for(Errand::on(id, verb), job, then).map_err(|why| {
            why.context(format!("/dev/ublkb{id}: its requests wait until the disk answers"))
        })
    }

    pub(super) fn has_target(&self, id: u32) -> Result<bool, Reason> {
        self.machine.call(move |thread| async move {
            thread
                .group()
                .device(id)
                .is_some_and(|device| !matches!(device.target(), Target::Nothing))
        })
    }

    /// Stores a table for the next resume, which opens its disks.
    pub(super) fn load(&mut self, id: u32, mut spec: DeviceSpec) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        self.refuse_kept(id)?;
        self.refuse_carrier(id, &[], "its table cannot be replaced")?;
        self.refuse_apart(id, &spec)?;
        self.refuse_circle_of_loaded(id, &spec)?;
        self.refuse_load(id, &spec)?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        // Queues, depth and the rest were fixed when the kernel added the device.
        spec.options = entry.spec.options.clone();
        let before = entry.loaded.replace(spec);
        if let Err(why) = self.record(None) {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.loaded = before;
            }
            return Err(why.context(format!("/dev/ublkb{id}: the table cannot be recorded")));
        }
        self.publish();
        Ok(Reply::Done)
    }

    /// Replaces the table of a suspended device; `again`: with one that it had before, with what
    /// its disks were.
    pub(super) fn change_table(
        &mut self,
        id: u32,
        mut spec: DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<(), Reason> {
        let TargetParams::Mirror(mirror) = spec.table.params.clone() else {
            return self.change_origins_table(id, spec, again);
        };
        let (name, force) = (self.name_of(id)?, spec.force);
        if again.is_none() {
            // The next mirror, or this one put back, knows from it which legs are up to date.
            self.put_legs_back(id)?;
        }
        self.leave_mirror(id, &mirror, spec.force, again.is_some())?;
        // What the old target recorded when it ended counts as well.
        let past = if again.is_some() {
            // The source that was given with this table applied to an earlier moment.
            spec.source = None;
            self.past_of(None)
        } else {
            Past::Replaced(self.machine.records().legs().ok())
        };
        let past = if mutant::is(Mutant::SourceNotHandedOn) { Past::None } else { past };
        let closed = self.devices.get(&id).map(|entry| entry.deps.clone());
        let closed = closed.as_ref().filter(|_| again.is_none());
        let whose = Whose { name: Some(&name), closed };
        let before = self.unfinished.len();
        self.replaced = Some(id).filter(|_| !mutant::is(Mutant::ClosedStillUser));
        let prepared = self.open_mirror(&mirror, spec, whose, past, again, None);
        self.replaced = None;
        let prepared = prepared.inspect_err(|_| {
            for one in self.unfinished.iter_mut().skip(before) {
                (one.errand.id, one.errand.verb) = (Some(id), "resume");
            }
        })?;
        let NewDevice { target, deps, spec, params, .. } = prepared;
        self.check_fits(id, &params).map_err(|why| why.context("the table"))?;
        let new = Recorded::New { force };
        let why = if again.is_some() { Recorded::Again } else { new };
        self.record_table(id, deps, spec, why)?;
        self.put_target(id, target, again.is_none(), None)
    }

    /// Gives a suspended device a target that has been opened; `loaded`: that of its loaded table;
    /// `old`: what is put back on record if its disk answers at last and it cannot be used.
    ///
    /// # Errors
    /// The target cannot be used. Or a disk does not answer: the device gets it when that does.
    pub(super) fn put_target(
        &mut self,
        id: u32,
        target: Held<M::Handle>,
        loaded: bool,
        old: Option<Old>,
    ) -> Result<(), Reason> {
        let job = target.last_job(move |thread: Rc<M::Thread>, opened| async move {
            thread.group().put_target(id, opened).await
        });
        self.put_by(id, job, loaded, old)
    }

    /// The same by a job that puts the target in place.
    pub(super) fn put_by<F>(
        &mut self,
        id: u32,
        job: impl FnOnce(Rc<M::Thread>) -> F + Send + 'static,
        loaded: bool,
        old: Option<Old>,
    ) -> Result<(), Reason>
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        let then = move |admin: &mut Administrator<M>, put: Result<(), String>| {
            if let Err(why) = put {
                log::error!("/dev/ublkb{id}: its disk answers again, but {why}");
                let old = old.filter(|_| !mutant::is(Mutant::LateNotPutBack));
                let back = old.map_or(Ok(()), |old| admin.exchange_back(id, old));
                return back.unwrap_or_else(|why| log::error!("/dev/ublkb{id}: {why}"));
            }
            if let Some(old) = old.filter(|_| !mutant::is(Mutant::LateStillLeft)) {
                drop(admin.has_been_exchanged(id, &old.left));
            }
            log::warn!("/dev/ublkb{id}: its disk answers again, its table is in place: resume it");
            admin.has_left(id);
            if let Some(entry) = admin.devices.get_mut(&id).filter(|_| loaded) {
                entry.loaded = None;
                if ranges_of(&entry.spec.table).is_some() {
                    admin.keep_left_legs(id);
                }
            }
            if let Err(why) = admin.save() {
                log::error!("/dev/ublkb{id}: {why}");
            }
        };
        self.wait_for(Errand::on(id, "resume"), job, then)??;
        self.has_left(id);
        Ok(())
    }
}
