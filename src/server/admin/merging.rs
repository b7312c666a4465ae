//! The table of an origin's device: plain, or with a snapshot that is merged into it.
//!
//! A merge takes the store over from the device of its snapshot, which ends then. Until the merge's
//! target has been opened, and everything that can be refused has been, both devices can go back to
//! what they were.
//!
//! Rules kept here: an origin has one device; a merge is on record before it begins, so that the
//! next server goes on with it; the store of a snapshot that is to be merged is not given up (I9):
//! while it has no device the origin is suspended, and stays so if the merge cannot begin; and the
//! origin gets its plain table back only when all of the snapshot is on it.

use std::rc::Rc;

use dm_targets::device::OpenTarget;
use dm_targets::snapshot::merge::Phase;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::{Device, is_origins, no_device};
use super::ending::End;
use super::held::Held;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::recording::Recorded;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Kind, Reason};
use crate::protocol::{Cow, DeviceSpec, DeviceState, KnownDisks, MergeOptions};
use crate::rundir::departed::Departure;

impl<M: Machine> Administrator<M> {
    /// Refuses a device for an origin that has one, or one that waits for a server with a merge;
    /// `again`: what the disks of an existing device were.
    pub(super) fn refuse_second_origin(
        &self,
        path: &str,
        again: Option<&KnownDisks>,
    ) -> Result<(), Reason> {
        let carrier = self.carrier_at(path, again)?;
        let is_its = |entry: &&Device| entry.is_origin() && entry.deps.carrier() == carrier;
        if let Some(entry) = self.devices.values().find(is_its) {
            let (id, name) = (entry.info.id, &entry.name);
            return Err(format!("{path} already has a device: /dev/ublkb{id} ({name})").into());
        }
        let merges = |device: &DeviceState| {
            let is_merge = matches!(device.spec.table.params, TargetParams::SnapshotMerge(_));
            is_merge && again.is_none() && device.carrier() == carrier
        };
        let Some(left) = self.left_out.values().find(|left| merges(&left.device)) else {
            return Ok(());
        };
        let name = &left.device.name;
        Err(format!(
            "{path}: a snapshot is being merged into it by {name}, which has no server: `ublk-dm \
             recover {name}` goes on with it"
        )
        .into())
    }

    /// Whether a loaded table is for the origin's device that has the other one.
    pub(super) fn is_same_origin(old: &DeviceSpec, new: &DeviceSpec) -> bool {
        let origin = |spec: &DeviceSpec| spec.table.params.family().disk.map(str::to_owned);
        is_origins(old) && is_origins(new) && origin(old) == origin(new)
    }

    /// Replaces the table of a suspended origin's device; `again`: with one that it had before.
    ///
    /// # Errors
    /// The table cannot be used. Or a disk does not answer: what waits for it is done when it does.
    pub(super) fn change_origins_table(
        &mut self,
        id: u32,
        spec: DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<(), Reason> {
        if again.is_some() && self.has_target(id)? {
            // It was refused before anything was changed.
            return Ok(());
        }
        let name = self.devices.get(&id).ok_or_else(|| no_device(id))?.name.clone();
        let snapshot = self.snapshot_to_merge(&spec)?;
        if let Some(snapshot) = snapshot {
            self.refuse_unfinished(snapshot)?;
            if !mutant::is(Mutant::MountedMerged) {
                let used = |why: Reason| why.without_end().ending("; end that use first");
                self.machine.not_in_use(snapshot).map_err(used)?;
            }
            self.take_target_for(id, snapshot)?;
        }
        let before = self.unfinished.len();
        let keeps = spec.merge.as_ref().is_some_and(|options| options.keep);
        let stays = snapshot.filter(|snapshot| keeps || self.has_other_table(*snapshot));
        let kept = stays.or_else(|| self.kept_at_end(id, &spec));
        kept.map_or(Ok(()), |kept| self.refuse_unfinished(kept))?;
        let opened = self.open_origins_table(id, spec, &name, again);
        let opened = opened.and_then(|new| {
            let shows = stays.filter(|_| !mutant::is(Mutant::KeptUnnoticed));
            shows.map_or(Ok(()), |snapshot| self.lose_departed_of(snapshot)).map(|()| new)
        });
        let recorded =
            opened.and_then(|new| self.record_origins_table(id, new, again.is_some(), kept));
        let (target, cow) = match (recorded, snapshot) {
            (Ok(recorded), _) => recorded,
            (Err(why), None) => return Err(why),
            (Err(why), Some(snapshot)) => {
                return Err(self.given_back(id, snapshot, before, why));
            }
        };
        // From here on a later server goes on with the merge.
        match snapshot {
            Some(snapshot) if stays.is_some() => self.let_fail(snapshot)?,
            Some(snapshot) => self.end_merged_snapshot(snapshot),
            None => {}
        }
        self.put_origins_target(id, target, cow, snapshot.is_some())?;
        kept.filter(|_| snapshot.is_none()).map_or(Ok(()), |kept| self.put_kept(kept))
    }

    /// Puts the target of an origin's new table in the place of the old one; `takes_over`: a merge
    /// that has taken its store over from a device.
    fn put_origins_target(
        &mut self,
        id: u32,
        target: Held<M::Handle>,
        cow: Option<Cow>,
        takes_over: bool,
    ) -> Result<(), Reason> {
        let job = target.last_job(move |thread: Rc<M::Thread>, opened| async move {
            // The origin is not forgotten with the old table: the new one needs it.
            let held = thread.group().hold(opened);
            // What the old table has lost was reported when it was suspended.
            if let Err(lost) = thread.group().take_target(id).await {
                log::error!("/dev/ublkb{id}: {lost}");
            }
            let put = thread.group().put_target(id, OpenTarget::clone(&held)).await;
            drop(held);
            thread.group().forget_unused_origins();
            put
        });
        let later = cow.clone();
        let then = move |admin: &mut Administrator<M>, put: Result<(), String>| {
            if let Err(why) = put {
                return log::error!("/dev/ublkb{id}: its disk answers again, but {why}");
            }
            log::warn!("/dev/ublkb{id}: its disk answers again, its table is in place: resume it");
            later.iter().for_each(|cow| admin.forget_departure(cow));
            admin.has_left(id);
            if let Some(entry) = admin.devices.get_mut(&id) {
                entry.loaded = None;
            }
            admin.save().unwrap_or_else(|why| log::error!("/dev/ublkb{id}: {why}"));
        };
        let put = self.wait_for(Errand::on(id, "resume"), job, then);
        match (put.and_then(|put| Ok(put?)), cow) {
            (Ok(()), cow) => {
                self.has_left(id);
                cow.iter().for_each(|cow| self.forget_departure(cow));
                Ok(())
            }
            (Err(why), Some(cow)) if takes_over => {
                self.keep_for_merge(id, cow)?;
                Err(why)
            }
            (Err(why), _) => Err(why),
        }
    }

    /// A merge that has taken a store over cannot begin. The store is right as long as the origin
    /// does not change: its device stays suspended, and a change is recorded first.
    fn keep_for_merge(&mut self, id: u32, cow: Cow) -> Result<(), Reason> {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.suspended = true;
        }
        // Nothing has been merged yet.
        let state = self.devices.get(&id).ok_or_else(|| no_device(id))?.state();
        let departure = Departure::of(cow, false, &self.known_origin_of(&state), None);
        self.machine.records().record_departure(&departure)?;
        self.restore_departures(state.carrier(), vec![departure])
    }

    /// Refuses a loaded table that would take away a merge that has not ended: without it the
    /// origin shows a mixture. A table that is in place already is not loaded any more: the server
    /// has died that was to put it there, and its successor has done so.
    pub(super) fn refuse_unended(&mut self, id: u32) -> Result<(), Reason> {
        let has_target = self.has_target(id)?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let Some(loaded) = &entry.loaded else { return Ok(()) };
        if has_target && is_same_merge(&entry.spec, loaded) {
            self.forget_loaded(id);
            return Ok(());
        }
        let phase = self.machine.call(move |thread| async move {
            match thread.group().device(id)?.target() {
                Target::Merge(merge) => Some(merge.phase()),
                _ => None,
            }
        })?;
        match phase {
            Some(Phase::Merging | Phase::Failed) if !mutant::is(Mutant::MergeTakenAway) => {
                let what = "a part of the snapshot is still on its COW: the table can be replaced \
                            when the merge has ended; it is not loaded any more";
                // Or no `resume` would let requests through while the merge waits for one.
                self.forget_loaded(id);
                Err(format!("/dev/ublkb{id}: {what}").into())
            }
            _ => Ok(()),
        }
    }

    fn forget_loaded(&mut self, id: u32) {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.loaded = None;
        }
        self.publish();
        // A next server that finds it loaded refuses it once more.
        if let Err(why) = self.record(None) {
            log::warn!("/dev/ublkb{id}: {why}");
        }
    }

    /// The device of the snapshot that a table merges, if it has one here.
    ///
    /// # Errors
    /// The table is longer: what stands on the COW behind the snapshot's end is not the origin's.
    pub(super) fn snapshot_to_merge(&self, spec: &DeviceSpec) -> Result<Option<u32>, Reason> {
        let TargetParams::SnapshotMerge(merge) = &spec.table.params else { return Ok(None) };
        let cow = self.machine.disk_at(&merge.cow);
        let has = |word: &str, id| word == merge.cow || Some(id) == cow;
        let mut snapshots = self.devices.iter().filter(|(_, entry)| {
            matches!(&entry.spec.table.params, TargetParams::Snapshot(table)
                if entry.deps.id(&table.cow).is_some_and(|id| has(&table.cow, id)))
        });
        let Some((id, entry)) = snapshots.next() else { return Ok(None) };
        let what = "it cannot be merged before that is deleted";
        self.refuse_carrier(*id, &[], what).map_err(|why| why.context(&merge.cow))?;
        if matches!(&entry.spec.table.params, TargetParams::Snapshot(table)
            if table.store.is_transient() && !mutant::is(Mutant::TransientTaken))
        {
            // Its exceptions would be lost when its target is closed.
            let what = format!("its snapshot {} has a transient store", entry.name);
            return Err(format!("{}: it cannot be merged: {what}", merge.cow).into());
        }
        if spec.table.len > entry.spec.table.len {
            let len = entry.spec.table.len;
            let what = format!("its snapshot {} ends at sector {len}", entry.name);
            return Err(format!("{}: the table is too long: {what}", merge.cow).into());
        }
        Ok(Some(*id))
    }

    fn open_origins_table(
        &mut self,
        id: u32,
        spec: DeviceSpec,
        name: &str,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let prepared = match spec.table.params.clone() {
            TargetParams::SnapshotMerge(merge) => {
                self.prepare_snapshot(&merge, spec, Some(name), again)
            }
            TargetParams::SnapshotOrigin { origin } => self.prepare_origin(&origin, spec, again),
            _ => return Err(format!("/dev/ublkb{id}: this is no origin's table").into()),
        }?;
        self.check_fits(id, &prepared.params).map_err(|why| why.context("the table"))?;
        Ok(prepared)
    }

    /// Records the table of an origin's device, and with it those of a snapshot that is kept;
    /// returns the target that is to be put in place, and the COW of a merge.
    fn record_origins_table(
        &mut self,
        id: u32,
        NewDevice { target, deps, mut spec, cow, .. }: NewDevice<M>,
        again: bool,
        kept: Option<u32>,
    ) -> Result<(Held<M::Handle>, Option<Cow>), Reason> {
        let kept = kept.and_then(|kept| self.change_kept(id, kept));
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let before = std::mem::replace(&mut entry.cow, cow.clone());
        let plain = matches!(spec.table.params, TargetParams::SnapshotOrigin { .. });
        if plain && spec.merge.is_none() && !mutant::is(Mutant::MergeEndForgotten) {
            // What a table has merged is remembered, too.
            let merged = entry.spec.merge.clone();
            spec.merge = merged.map(|merge| MergeOptions { keep: false, ..merge });
        }
        let late = Mutant::PlainUnrecorded;
        let kept_late = kept.is_some() && mutant::is(Mutant::KeptUnrecorded);
        let recorded = if plain && (mutant::is(late) || kept_late) {
            (entry.deps, entry.spec) = (deps, spec);
            Ok(())
        } else {
            let new = Recorded::New { force: spec.force };
            self.record_table(id, deps, spec, if again { Recorded::Again } else { new })
        };
        recorded.map(|()| (target, cow)).inspect_err(|_| {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.cow = before;
            }
            kept.into_iter().for_each(|kept| self.change_back(kept));
        })
    }

    /// Ends the device of a snapshot whose target has been closed and whose store is merged. If
    /// that fails the device stays, without a target, until it is deleted or the next server ends
    /// it.
    fn end_merged_snapshot(&mut self, id: u32) {
        let Some(cookie) = self.devices.get(&id).map(|entry| entry.info.target_flags) else {
            return;
        };
        let ended = match self.take_down(id, cookie, false) {
            // It was unused a moment ago, and has nothing to show any more.
            Err(why) if why.kind == Kind::InUse => self.take_down(id, cookie, true),
            ended => ended,
        };
        let ended = ended.and_then(|End { lost, wrong, .. }| {
            lost.iter().chain(&wrong).for_each(|why| log::error!("/dev/ublkb{id}: {why}"));
            self.forget(id)
        });
        self.taken.remove(&id);
        if let Err(why) = ended {
            log::error!("/dev/ublkb{id}: its snapshot is merged, and it is not deleted: {why}");
        }
    }

    /// Deletes the devices of a dead server whose stores have been taken over by a merge.
    pub(super) fn end_merged(&mut self, devices: Vec<DeviceState>) -> Vec<DeviceState> {
        let merged: Vec<_> = devices.iter().filter(|one| is_merged(one, &devices)).collect();
        let ids: Vec<_> = merged.iter().map(|device| (device.id, device.cookie)).collect();
        for (id, cookie) in &ids {
            let ours = self.ours(*id, *cookie).is_ok_and(|info| info.is_some());
            let deleted = if ours { self.machine.delete_orphan(*id, *cookie) } else { Ok(()) };
            deleted.unwrap_or_else(|why| log::error!("/dev/ublkb{id}: {why}"));
        }
        devices.into_iter().filter(|one| !ids.contains(&(one.id, one.cookie))).collect()
    }
}

/// Whether both merge the same store into the same origin.
fn is_same_merge(old: &DeviceSpec, new: &DeviceSpec) -> bool {
    match (&old.table.params, &new.table.params) {
        (TargetParams::SnapshotMerge(old), TargetParams::SnapshotMerge(new)) => {
            (&old.origin, &old.cow) == (&new.origin, &new.cow)
        }
        _ => false,
    }
}

/// Whether the store of a snapshot's device has been taken over by a merge among other devices.
pub(super) fn is_merged(device: &DeviceState, among: &[DeviceState]) -> bool {
    let merges =
        |other: &DeviceState| matches!(other.spec.table.params, TargetParams::SnapshotMerge(_));
    let same = |other: &DeviceState| match (&device.cow, &other.cow) {
        (Some(cow), Some(other)) => cow.is_near(other),
        _ => false,
    };
    !mutant::is(Mutant::MergedStoreGivenUp)
        && !merges(device)
        && among.iter().any(|other| other.id != device.id && merges(other) && same(other))
}
