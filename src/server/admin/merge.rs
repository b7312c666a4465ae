//! `merge`: a snapshot becomes its origin, under the device that the origin has.
//!
//! Rules kept here: nothing is closed before all has been refused that can be, so a snapshot that
//! is in use, or could lose something, stays; how a merge runs is on record before it runs so, and
//! the next server goes on with it; and the origin gets its plain table back by itself, on record
//! first (`merging`), when all of the snapshot is on it.

use std::rc::Rc;

use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::merge::{Merge, Phase};
use dm_targets::snapshot::table::Snapshot as SnapshotTable;
use dm_targets::table::{Table, TargetParams};
use dm_targets::target::Target;

use super::devices::{Device, LeftOut, is_origins, no_device};
use super::keeping::{How, is_kept};
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use super::targets::merge::run_as;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{
    DeviceSpec, DeviceState, MergeChange, MergeOptions, Reply, no_merge_into, not_begun,
};
use crate::ublk::device::BLOCK_PATH;

/// Why a mounted origin is not merged into without force.
const UNDER_MOUNT: &str = "a file system on it would see its content change";

impl<M: Machine> Administrator<M> {
    /// Begins to merge a snapshot into its origin. Its device ends, and the origin's shows the
    /// snapshot from now on.
    ///
    /// # Errors
    /// Both devices are as they were, or the error says what is left.
    pub(super) fn merge(&mut self, id: u32, force: bool, how: How) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        let begun = self.begin_merge(id, force, how);
        let wish = self.devices.get(&id).is_some_and(|entry| entry.spec.deferred_merge().is_some());
        let stays = wish.then_some("its merge stays deferred to the next activation of its origin");
        begun
            .map(|()| Reply::Done)
            .map_err(|why| why.context(format!("{name}: not merged")).and_notes(stays))
    }

    pub(super) fn begin_merge(
        &mut self,
        id: u32,
        force: bool,
        (rate, keep): How,
    ) -> Result<(), Reason> {
        let table = self.mergeable(id)?;
        let keep = keep || self.is_wished_to_be_kept(id);
        let origin = self.device_to_merge_into(id, &table)?;
        self.refuse_unfinished(id)?;
        self.refuse_unfinished(origin)?;
        if keep {
            self.refuse_open_to_keep(id)?;
        }
        self.refuse_users(id, origin, force)?;
        let name = self.name_of(id)?;
        let spec = self.merge_of(origin, table, &name, (rate, keep))?;
        let replaced = self.replace_table(origin, spec, false);
        let entry = self.devices.get_mut(&origin).ok_or_else(|| no_device(origin))?;
        replaced.inspect_err(|_| {
            if !entry.suspended {
                // It is not for the next resume: the user repeats this command.
                entry.loaded = None;
            }
        })?;
        log::info!("{}: the snapshot {name} is merged into it", entry.name);
        self.let_through(origin, false, "merge")?;
        self.ensure_recorded()
    }

    pub(super) fn name_of(&self, id: u32) -> Result<String, Reason> {
        if let Some(LeftOut { device, .. }) = self.left_out.get(&id) {
            let name = &device.name;
            return Err(format!(
                "{name}: it waits for a server: `ublk-dm recover {name}` gives it one"
            )
            .into());
        }
        Ok(self.devices.get(&id).ok_or_else(|| no_device(id))?.name.clone())
    }

    /// The table of a snapshot that can be merged.
    pub(super) fn mergeable(&self, id: u32) -> Result<SnapshotTable, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let table = match &entry.spec.table.params {
            TargetParams::Snapshot(table) => table.clone(),
            TargetParams::SnapshotMerge(_) => {
                return Err(refused("a snapshot is being merged into it already"));
            }
            _ if is_kept(entry) => {
                return Err(refused("it is being merged into its origin already"));
            }
            _ => return Err(refused("it is no snapshot")),
        };
        self.refuse_carrier(id, &[], "delete that first").map_err(Reason::without_end)?;
        if table.store.is_transient() && !mutant::is(Mutant::TransientTaken) {
            return Err(refused(
                "its exceptions are in memory (a transient store): they cannot be merged so that \
                 they survive",
            ));
        }
        let health = self.machine.call(move |thread| async move {
            match thread.group().device(id)?.target() {
                Target::Snapshot(snapshot) => Some(snapshot.health()),
                _ => None,
            }
        })?;
        match health {
            Some(Health::Valid) => Ok(table),
            Some(Health::Overflowed) if mutant::is(Mutant::OverflowedMerged) => Ok(table),
            Some(Health::Overflowed) => Err(refused(
                "it has refused a write because its COW is full (Overflow): grow the COW, delete \
                 the snapshot and add it again first",
            )),
            Some(_) => Err(refused("it is invalid")),
            None => Err(refused("it has no table: resume it first")),
        }
    }

    /// The origin's device, which gets the merge.
    pub(super) fn device_to_merge_into(
        &self,
        id: u32,
        table: &SnapshotTable,
    ) -> Result<u32, Reason> {
        let path = &table.origin;
        let state = self.devices.get(&id).ok_or_else(|| no_device(id))?.state();
        let mut origins = self.origins_devices_of(&state).filter(|entry| entry.is_origin());
        let Some(entry) = origins.next() else { return Err(self.no_origin(path, &state)) };
        let origin = entry.info.id;
        let name = &entry.name;
        if let TargetParams::SnapshotMerge(_) = &entry.spec.table.params {
            return Err(format!(
                "another snapshot is being merged into {name}: wait for the end of that merge, and \
                 if a table began it, put the origin's table back (`load`, `resume`)"
            )
            .into());
        }
        self.refuse_beside_deferred(id)?;
        if entry.suspended || entry.waits {
            return Err(format!("its origin's device {name} is suspended: resume it first").into());
        }
        if entry.loaded.is_some() {
            let hint = "`ublk-dm resume` puts that in place";
            return Err(format!("its origin's device {name} has a table loaded: {hint}").into());
        }
        let len = |id: &u32| self.devices.get(id).map(|entry| entry.spec.table.len);
        if len(&id) != len(&origin) {
            let shorter = if len(&id) < len(&origin) { &state.name } else { name };
            return Err(format!(
                "it is not as long as its origin's device {name}: `ublk-dm resize {shorter}` makes \
                 the shorter one longer; or delete both, and merge it with a table of its own \
                 length (`ublk-dm create NAME --table`)"
            )
            .into());
        }
        Ok(origin)
    }

    /// Why there is no device that could be merged into.
    fn no_origin(&self, path: &str, snapshot: &DeviceState) -> Reason {
        let mut left_out = self.left_origins_devices_of(snapshot);
        if let Some(left) = left_out.find(|left| is_origins(&left.spec)) {
            let name = &left.name;
            return format!(
                "its origin's device {name} waits for a server: `ublk-dm recover {name}` gives it \
                 one"
            )
            .into();
        }
        let other = if path.starts_with(BLOCK_PATH) { ", a device of ublk-dm," } else { "" };
        let hint = format!("`ublk-dm add origin --origin {path}` adds it");
        format!(
            "its origin {path}{other} has no device here under which it could be merged: {hint}"
        )
        .into()
    }

    /// Refuses devices whose users would be surprised.
    pub(super) fn refuse_users(&self, id: u32, origin: u32, force: bool) -> Result<(), Reason> {
        if !mutant::is(Mutant::MountedMerged) {
            self.machine.not_in_use(id).map_err(|why| {
                let hint = "its device ends with the merge, so that use must end first";
                why.without_end().ending(format!("; {hint}"))
            })?;
            if !force {
                self.machine.not_open(id)?;
            }
        }
        self.refuse_used_carrier(self.devices.get(&id).and_then(|entry| entry.deps.carrier()))?;
        if force || mutant::is(Mutant::MergedUnderMount) {
            return Ok(());
        }
        self.machine.not_in_use(origin).map_err(|why| {
            let hint = "unmount it first, or use --force or --defer";
            why.without_end().ending(format!("; {UNDER_MOUNT}: {hint}"))
        })
    }

    /// What the origin's device is while the snapshot is merged.
    fn merge_of(
        &self,
        origin: u32,
        table: SnapshotTable,
        name: &str,
        (rate, keep): How,
    ) -> Result<DeviceSpec, Reason> {
        let entry = self.devices.get(&origin).ok_or_else(|| no_device(origin))?;
        // The origin keeps the name that its device has for it.
        let own = entry.spec.table.params.family().disk.map_or(table.origin, str::to_owned);
        let (discard_zeroes_cow, discard_passdown_origin) = (false, false);
        let merge =
            SnapshotTable { origin: own, discard_zeroes_cow, discard_passdown_origin, ..table };
        let params = TargetParams::SnapshotMerge(merge);
        let snapshot = Some(name.to_owned());
        let options =
            MergeOptions { snapshot, bytes_per_second: rate, keep, ..MergeOptions::default() };
        let table = Table { params, ..entry.spec.table.clone() };
        let (merge, allow_invalid) = (Some(options), false);
        Ok(DeviceSpec { table, merge, allow_invalid, ..entry.spec.clone() })
    }

    /// Changes how a merge runs, for this server and the next ones.
    ///
    /// # Errors
    /// There is no merge, or the change cannot be recorded and is not made.
    pub(super) fn change_merge(&mut self, id: u32, change: MergeChange) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        self.refuse_unfinished(id)?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let merges = matches!(entry.spec.table.params, TargetParams::SnapshotMerge(_));
        if !merges {
            return self.change_no_merge(id, change);
        }
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let mut options = entry.spec.merge.clone().unwrap_or_default();
        match change {
            MergeChange::Pause => options.paused = true,
            MergeChange::Resume => options.paused = false,
            MergeChange::Rate(rate) => options.bytes_per_second = rate,
        }
        let before = entry.spec.merge.replace(options.clone());
        if let Err(why) = self.record(None) {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.spec.merge = before;
            }
            return Err(why.context(format!("{name}: its merge is not changed")));
        }
        self.publish();
        self.with_merge(id, move |merge| {
            run_as(merge, &options);
            if matches!(change, MergeChange::Resume) {
                // From the state on disk, after an error.
                merge.restart();
            }
        })?;
        Ok(Reply::Done)
    }

    /// Changes how the merge of a device runs that has none: it is deferred, or has ended.
    fn change_no_merge(&mut self, id: u32, change: MergeChange) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let is_origin = entry.is_origin();
        match (self.deferred(id), change) {
            (Some(snapshot), MergeChange::Pause) => self.take_back_wish(snapshot),
            (Some(snapshot), _) => Err(not_begun(&self.name_of(snapshot)?)),
            (None, MergeChange::Resume | MergeChange::Rate(_)) if is_origin => {
                Ok(Reply::Noted { note: no_merge_into(&name) })
            }
            (None, _) => {
                let why = no_merge_of(entry);
                Err(Reason::new(Kind::Refused, format!("{name}: no merge is running: {why}")))
            }
        }
    }

    /// Does something with the merge of a device; `None` if it has none.
    pub(super) fn with_merge<T: Send + 'static>(
        &self,
        id: u32,
        act: impl FnOnce(&Merge) -> T + Send + 'static,
    ) -> Result<Option<T>, Reason> {
        self.machine.call(move |thread: Rc<M::Thread>| async move {
            thread.group().merge(id).map(|merge| act(&merge))
        })
    }

    /// Gives each origin its plain table back whose merge has come to its end. Returns whether one
    /// could not be given back: this is to be called again then.
    pub fn end_merges(&mut self) -> bool {
        let may_end = |entry: &Device| {
            let ends = entry.spec.merge.as_ref().is_some_and(MergeOptions::ends_by_itself);
            ends && entry.is_origin() && !entry.suspended && !entry.waits
        };
        let own = self.devices.iter().filter(|(_, entry)| may_end(entry));
        let mut own: Vec<u32> = own.map(|(id, _)| *id).collect();
        // One whose requests a suspended device holds ends when that is resumed.
        own.retain(|id| self.held_by(*id).is_none());
        let mut waits = false;
        for id in own {
            let is_done = self.with_merge(id, |merge| merge.phase() == Phase::Done);
            if !matches!(is_done, Ok(Some(true))) || self.refuse_unfinished(id).is_err() {
                continue;
            }
            let ended = self.end_merge(id);
            waits |= ended.is_err();
            self.say_once(ended.err());
        }
        waits
    }

    /// Logs why a merge's origin is not plain again; the same reason once.
    fn say_once(&mut self, why: Option<Reason>) {
        let said = why.map(|why| why.to_string());
        if let Some(why) = said.as_ref().filter(|_| said != self.merge_kept_by) {
            log::error!("{why}");
        }
        self.merge_kept_by = said;
    }

    fn end_merge(&mut self, id: u32) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let TargetParams::SnapshotMerge(merge) = &entry.spec.table.params else { return Ok(()) };
        let (name, loaded) = (entry.name.clone(), entry.loaded.clone());
        let (origin, cow) = (merge.origin.clone(), merge.cow.clone());
        let table =
            Table { params: TargetParams::SnapshotOrigin { origin }, ..entry.spec.table.clone() };
        // What was merged is remembered: who waits for it may ask late.
        let merge = entry.spec.merge.clone().filter(|_| !mutant::is(Mutant::MergeEndForgotten));
        let merge = merge.map(|merge| MergeOptions { keep: false, ..merge });
        let spec = DeviceSpec { table, merge, ..entry.spec.clone() };
        let unended = |why: Reason| why.context(format!("{name}: merged, and not plain again yet"));
        if !mutant::is(Mutant::SuspendedUnrecorded) {
            // While there is no room for that, no user waits.
            let room = self.record(None).map_err(|why| why.context("it cannot be recorded"));
            room.map_err(unended)?;
        }
        let replaced = self.replace_table(id, spec, false);
        let suspended = self.devices.get(&id).is_some_and(|entry| entry.suspended);
        if let Some(entry) = self.devices.get_mut(&id).filter(|_| !suspended) {
            entry.loaded = loaded;
        }
        replaced.map_err(unended)?;
        self.let_through(id, false, "merge")?;
        log::info!(
            "{name}: the snapshot is merged: the table is plain again, and the store on {cow} is \
             empty and can be used again"
        );
        self.machine.call(move |thread| async move {
            if let Some(device) = thread.group().device(id) {
                device.events().notify();
            }
        })
    }
}

/// Why no merge of a device, or into it, is running: what it is instead.
fn no_merge_of(entry: &Device) -> String {
    let name = &entry.name;
    match (&entry.spec.table.params, &entry.spec.merge) {
        (TargetParams::Snapshot(_), _) => format!(
            "it is a snapshot that is not being merged, and no merge of it is deferred; `ublk-dm \
             merge {name}` begins one"
        ),
        (
            TargetParams::SnapshotOrigin { .. },
            Some(MergeOptions { snapshot: Some(merged), .. }),
        ) => {
            format!("that of the snapshot {merged} into it has ended")
        }
        (TargetParams::SnapshotOrigin { .. }, Some(_)) => "that into it has ended".to_owned(),
        (TargetParams::SnapshotOrigin { .. }, None) => "none into it has begun".to_owned(),
        (params, _) => format!("its target is {}", params.name()),
    }
}

/// Why a device is not merged, by what it is.
fn refused(why: &str) -> Reason {
    Failure::new(Kind::Refused, why)
}
