//! Which table can replace which, and tables that replace one of another kind without a moment in
//! which a device has none.
//!
//! Rules kept here: all that can be refused is refused while the old table runs, so a resume that
//! fails has held up nothing; what the old table has acknowledged is flushed before the new one is
//! in place (I10: its users' later flushes may go to other disks); and the new table is on record
//! before the first request reaches it, so that the next server does not go back to the old one.
//! What that means for the snapshots of an origin, and for a snapshot, is in `left_behind`.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use dm_targets::device::OpenTarget;
use dm_targets::table::TargetParams;

use super::devices::{is_mirror, no_device, state_of};
use super::handover;
use super::held::Held;
use super::left_behind::{Left, Old};
use super::machine::{Machine, Thread};
use super::mirrored::OldLog;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::recording::Recorded;
use super::resumed::Put;
use super::state::Administrator;
use crate::failure::{Kind, Reason};
use crate::protocol::{DeviceSpec, Reply};
use crate::ublk::{Params, attrs, device};

impl<M: Machine> Administrator<M> {
    /// Refuses a table that can never replace a device's.
    pub(super) fn refuse_load(&self, id: u32, spec: &DeviceSpec) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if let Some(why) = handover::never(&entry.spec, spec) {
            return Err(format!("/dev/ublkb{id}: {why}").into());
        }
        let (old, new) = (entry.spec.table.len, spec.table.len);
        let exchanged = is_exchange(&entry.spec, spec);
        if (exchanged || handover::is_handover(&entry.spec, spec)) && old != new {
            return Err(format!(
                "/dev/ublkb{id}: the table has {new} sectors and the device {old}: its length \
                 cannot change"
            )
            .into());
        }
        if exchanged {
            return self.refuse_left_snapshots(id, spec);
        }
        let replaces = is_mirror(&entry.spec) && is_mirror(spec)
            || handover::is_handover(&entry.spec, spec)
            || Administrator::<M>::is_same_origin(&entry.spec, spec);
        if replaces { Ok(()) } else { Err(never(id, &entry.spec, spec).into()) }
    }

    /// Whether a loaded table is of another kind than the one that it replaces.
    pub(super) fn is_exchange(&self, id: u32, loaded: &DeviceSpec) -> bool {
        self.devices.get(&id).is_some_and(|entry| is_exchange(&entry.spec, loaded))
    }

    /// Puts a loaded table in the place of one of another kind, or of other ranges. The device is
    /// suspended then; after an error it is as it was before, with the old table.
    pub(super) fn exchange(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<Put, Reason> {
        if mutant::is(Mutant::LinesTakenFirst) {
            self.close_target(id, OldLog::Stays)?;
        }
        let prepared = match self.prepare_replacement(id, &table) {
            Ok(prepared) => prepared,
            Err(why) => return Err(self.old_stays(id, was_suspended, why)),
        };
        let lost = if was_suspended { None } else { self.hold_for(id, table.clone())? };
        let before = self.devices.get(&id).cloned().ok_or_else(|| no_device(id))?;
        let was_mirror = before.mirror().is_some();
        let old = |left: &Left| Old { device: before.clone(), left: left.clone() };
        let put = match self.record_exchange(id, &table, prepared) {
            Err(why) => Err(why),
            Ok((target, left)) => match self.replace_target(id, target, old(&left)) {
                Err(why) if why.kind == Kind::NoAnswer => {
                    return Err(handover::beside_lost(self.stay_between(id, table, why), lost));
                }
                // The new target could not begin: the old one has not been touched.
                Err(why) => match self.exchange_back(id, old(&left)) {
                    Ok(()) => Err(why),
                    Err(back) => Err(why.ending(format!("; besides, {back}"))),
                },
                Ok(()) => Ok(self.has_been_exchanged(id, &left)),
            },
        };
        let notes = match put {
            Ok(notes) => notes,
            Err(why) => {
                if !was_suspended {
                    self.let_through(id, true, "resume")?;
                }
                let why = self.old_stays(id, was_suspended, why);
                if is_mirror(&table) && self.is_recorded(id) && self.passing.is_none() {
                    self.forget_begun(id);
                }
                return Err(handover::beside_lost(why, lost));
            }
        };
        if was_mirror {
            self.keep_left_legs(id);
        }
        Ok(Put { lost, notes })
    }

    /// Records a new table, and before it what the old one leaves behind. Returns the target that
    /// is to be put in place.
    ///
    /// # Errors
    /// It cannot be recorded: what is on record is as it was.
    fn record_exchange(
        &mut self,
        id: u32,
        table: &DeviceSpec,
        prepared: NewDevice<M>,
    ) -> Result<(Held<M::Handle>, Left), Reason> {
        let NewDevice { target, deps, spec, cow, note, .. } = prepared;
        self.record_right_leg(id, table, &target)?;
        if !mutant::is(Mutant::LeftOutBesideExchange) {
            let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
            self.lose_left_out(&state_of(&entry.info, &entry.name, &deps, table))?;
        }
        let mut left = self.record_left_behind(id, cow)?;
        self.pass_on();
        let unrecorded = mutant::is(Mutant::LinesNotRecorded);
        let why = Recorded::New { force: table.force };
        let recorded = if unrecorded { Ok(()) } else { self.record_table(id, deps, spec, why) };
        if let Err(why) = recorded {
            self.take_left_back(id, left);
            return Err(why);
        }
        let name = self.name_of(id)?;
        left.note = note.map(|note| format!("{name}: {note}"));
        left.note.iter().for_each(|note| log::warn!("{note}"));
        Ok((target, left))
    }

    /// Puts a target in the place of a suspended device's.
    ///
    /// # Errors
    /// The target cannot begin. Or a disk does not answer: the device gets it when that does.
    fn replace_target(&mut self, id: u32, target: Held<M::Handle>, old: Old) -> Result<(), Reason> {
        if self.call_mirror(id, |_| ())?.is_none() {
            let (outlived, marked) = (old.left.outlived, old.left.marked.clone());
            let job = target.last_job(move |thread: Rc<M::Thread>, opened| async move {
                let exchanged = thread.group().exchange_target(id, opened, outlived).await?;
                let (closed, is_marked) = exchanged;
                marked.store(is_marked, Ordering::Relaxed);
                // Most was reported when the old table was suspended.
                closed.unwrap_or_else(|lost| log::error!("/dev/ublkb{id}: {lost}"));
                Ok(())
            });
            return self.put_by(id, job, true, Some(old));
        }
        let job = target.last_job(move |thread: Rc<M::Thread>, opened| async move {
            let held = thread.group().hold(opened);
            if let Err(lost) = thread.group().take_target(id).await {
                log::error!("/dev/ublkb{id}: {lost}");
            }
            if let Some(device) = thread.group().device(id) {
                device.set_exchanged();
            }
            thread.group().put_target(id, OpenTarget::clone(&held)).await
        });
        self.put_by(id, job, true, None)
    }

    /// Suspends a device for a loaded table. Returns what is lost by that.
    ///
    /// # Errors
    /// A disk does not answer; the table stays loaded.
    pub(super) fn hold_for(
        &mut self,
        id: u32,
        table: DeviceSpec,
    ) -> Result<Option<Reason>, Reason> {
        self.hold(id, false, "resume").map(Result::err).map_err(|why| {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.loaded = Some(table);
            }
            why.context(format!("/dev/ublkb{id}: the old table stays in place"))
        })
    }

    /// Drops the table that is loaded for a device.
    ///
    /// # Errors
    /// That cannot be recorded: it stays loaded.
    pub(super) fn clear(&mut self, id: u32) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        self.refuse_kept(id)?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let before = entry.loaded.take();
        if let Err(why) = self.ensure_recorded() {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.loaded = before;
            }
            return Err(why.context(format!("/dev/ublkb{id}: its table stays loaded")));
        }
        self.publish();
        Ok(Reply::Done)
    }

    /// A loaded table was not put in place: unless a disk is waited for it is loaded no longer, as
    /// in device-mapper, and the next server does not find it loaded either.
    pub(super) fn not_put(&mut self, id: u32, why: Reason) -> Reason {
        if self.devices.get(&id).is_some_and(|entry| entry.loaded.is_some()) {
            return why;
        }
        self.publish();
        let recorded = if self.is_recorded(id) { Ok(()) } else { self.record(None) };
        let recorded = recorded.map_or_else(|why| format!(", but {why}"), |()| String::new());
        why.ending(format!("; the new table is no longer loaded{recorded}"))
    }

    /// What a failed resume says of the device, which has its old table: it runs, or is suspended
    /// as it was.
    pub(super) fn old_stays(&mut self, id: u32, was_suspended: bool, why: Reason) -> Reason {
        let runs = if was_suspended { "stays suspended" } else { "continues to run" };
        let recorded = self.record_suspended(id, was_suspended);
        let recorded = recorded.map_or_else(
            |why| format!("; the device's state is not recorded: {why}"),
            |()| String::new(),
        );
        why.ending(format!("; the old table is still in place, and the device {runs}{recorded}"))
    }

    /// A disk has fallen silent while a device's table was being replaced: the device stays
    /// suspended, on record, with the new table loaded.
    pub(super) fn stay_between(&mut self, id: u32, table: DeviceSpec, why: Reason) -> Reason {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.loaded = Some(table);
        }
        let recorded = self.record_suspended(id, true);
        let recorded = recorded
            .map_or_else(|why| format!("; that is not recorded: {why}"), |()| String::new());
        why.context(format!("/dev/ublkb{id}: between two tables")).ending(format!(
            "; the device stays suspended, with the table loaded, and its requests wait: resume it \
             again when that disk answers{recorded}"
        ))
    }

    /// Refuses disks that cannot be used below an existing device; `below`: the parameters of the
    /// device that they would form.
    pub(super) fn check_fits(&mut self, id: u32, below: &Params) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let now = self.machine.params(id)?;
        Ok(device::check_fits(&now, below, device::is_zero_copy(&entry.info))?)
    }

    /// Opens the target of a loaded table, and refuses what cannot be below the device.
    fn prepare_replacement(&mut self, id: u32, table: &DeviceSpec) -> Result<NewDevice<M>, Reason> {
        self.refuse_left_leg(id, table)?;
        self.refuse_left_snapshots(id, table)?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let (params, len, name) = (&table.table.params, table.table.len, entry.name.clone());
        let prepared = match params {
            TargetParams::SnapshotOrigin { origin } => {
                self.refuse_second_origin(origin, None)?;
                self.open_origin_of(id, origin, table)?;
                self.prepare_origin(origin, table.clone(), None)?
            }
            TargetParams::Snapshot(snapshot) => {
                self.open_origin_of(id, &snapshot.origin, table)?;
                self.prepare_snapshot(snapshot, table.clone(), Some(&name), None)?
            }
            _ => match params.segments(len) {
                Some(lines) => self.prepare_segments(lines, table.clone(), None, Some(id))?,
                None => match (self.passing, params) {
                    (Some(passing), TargetParams::Mirror(mirror)) => {
                        self.open_passed_on(passing.from, mirror, table.clone(), Some(&name))?
                    }
                    _ => self.prepare_mirror_over(id, table)?,
                },
            },
        };
        if !table.force {
            self.refuse_unmerged(&prepared)?;
        }
        self.check_fits(id, &prepared.params).map_err(|why| why.context("the table"))?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if prepared.params.attrs & attrs::READ_ONLY != 0 && !entry.read_only {
            return Err("the table: a disk is write-protected, and the device is not".into());
        }
        Ok(prepared)
    }
}

/// Whether two tables are of different kinds and can replace each other, or are both made of
/// ranges. A merge begins and ends with the table of its origin.
fn is_exchange(old: &DeviceSpec, new: &DeviceSpec) -> bool {
    use TargetParams::{Mirror, Snapshot, SnapshotMerge, SnapshotOrigin};
    !matches!(
        (&old.table.params, &new.table.params),
        (SnapshotMerge(_), _)
            | (_, SnapshotMerge(_))
            | (Mirror(_), Mirror(_) | Snapshot(_))
            | (Snapshot(_), Mirror(_) | Snapshot(_))
            | (SnapshotOrigin { .. }, SnapshotOrigin { .. })
    )
}

/// Why a table can never replace another one.
fn never(id: u32, old: &DeviceSpec, new: &DeviceSpec) -> String {
    use TargetParams::{Snapshot, SnapshotMerge, SnapshotOrigin};
    let why = match (&old.table.params, &new.table.params) {
        (SnapshotMerge(_), _) => {
            "a snapshot is being merged into it: only its plain table replaces that of the merge"
        }
        (_, SnapshotMerge(_)) => "a merge replaces the table of its origin's device only",
        (SnapshotOrigin { .. }, SnapshotOrigin { .. }) => {
            "it is the device of another origin: load the table of a linear device first"
        }
        (Snapshot(_), _) | (_, Snapshot(_)) => {
            "a mirror and a snapshot do not replace each other: load `error` first"
        }
        _ => "its table cannot be replaced by this one",
    };
    format!("/dev/ublkb{id}: {why}")
}
