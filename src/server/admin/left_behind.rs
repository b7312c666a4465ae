//! What a table leaves behind when another one takes its place: the snapshots of an origin, or the
//! store of a snapshot.
//!
//! Rules kept here: I5 (an origin's table is not replaced by one that writes past its snapshots)
//! and I9 (a snapshot whose table is replaced has left its origin, which is durable before the new
//! table is on record; while the origin is in use, its COW is marked as invalid instead, as by
//! `del`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dm_targets::table::TargetParams;

use super::devices::{Device, is_persistent_snapshot, no_device};
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::recording::Recorded;
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceSpec, DeviceState};

/// What an exchange of tables can put back on record.
#[derive(Clone)]
pub(super) struct Old {
    /// The device with its old table.
    pub(super) device: Device,
    pub(super) left: Left,
}

/// What is known of an exchange of tables beside the tables.
#[derive(Clone)]
pub(super) struct Left {
    /// The COW of the snapshot whose table is replaced, and which has left its origin.
    cow: Option<Cow>,
    /// Its origin is in use.
    pub(super) outlived: bool,
    /// Its COW has been marked as invalid.
    pub(super) marked: Arc<AtomicBool>,
    /// The COW of the snapshot that comes.
    coming: Option<Cow>,
    /// What the device's user should know of the new table.
    pub(super) note: Option<String>,
}

impl Left {
    /// A snapshot comes, and none goes.
    pub(super) fn of_coming(coming: Option<Cow>) -> Left {
        Left { cow: None, outlived: false, marked: Arc::default(), coming, note: None }
    }
}

impl<M: Machine> Administrator<M> {
    /// Refuses to replace an origin's table by one that writes to disks: nothing of that would be
    /// preserved for its snapshots.
    pub(super) fn refuse_left_snapshots(&self, id: u32, table: &DeviceSpec) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let is_plain = matches!(entry.spec.table.params, TargetParams::SnapshotOrigin { .. });
        let writes = !table.table.params.devices().is_empty();
        if !is_plain || !writes || mutant::is(Mutant::SnapshotsLeft) {
            return Ok(());
        }
        let served = self.devices.values().map(Device::state);
        let waiting = self.left_out.values().map(|left| left.device.clone());
        let undone = self.undone_later.iter().map(|new| new.state.clone());
        let is_one = |device: &DeviceState| {
            let tables = [Some(&device.spec), device.loaded.as_ref()];
            let mut tables = tables.into_iter().flatten();
            device.id != id
                && device.carrier() == entry.deps.carrier()
                && tables.any(|spec| matches!(spec.table.params, TargetParams::Snapshot(_)))
        };
        match served.chain(waiting).chain(undone).find(is_one) {
            None => Ok(()),
            Some(DeviceState { name, .. }) => Err(format!(
                "/dev/ublkb{id}: {name} is a snapshot of it, for which nothing would be preserved \
                 of what the new table overwrites: delete that one first"
            )
            .into()),
        }
    }

    /// Records that a snapshot leaves its origin when its table is replaced. `coming`: the COW of
    /// the device's new table.
    pub(super) fn record_left_behind(
        &mut self,
        id: u32,
        coming: Option<Cow>,
    ) -> Result<Left, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let leaves = is_persistent_snapshot(&entry.spec);
        let cow = entry.cow.clone().filter(|_| leaves);
        if cow.is_some() && !mutant::is(Mutant::ReplacedNotRecorded) {
            let recorded = self.record_departure(id, false);
            recorded.map_err(|why| why.context(format!("/dev/ublkb{id}: its table stays")))?;
        }
        let outlived = leaves && self.is_outlived(id);
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.cow.clone_from(&coming);
        }
        Ok(Left { cow, outlived, coming, marked: Arc::default(), note: None })
    }

    /// A new table was not recorded: the snapshot has not left.
    pub(super) fn take_left_back(&mut self, id: u32, left: Left) {
        if let Some(cow) = &left.cow {
            self.forget_departure(cow);
        }
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.cow = left.cow;
        }
    }

    /// A new table that is on record was not put in place: the old one is on record again.
    pub(super) fn exchange_back(&mut self, id: u32, old: Old) -> Result<(), Reason> {
        self.record_table(id, old.device.deps, old.device.spec, Recorded::Again)?;
        self.take_left_back(id, old.left);
        self.ensure_recorded()
    }

    /// A new table is in place. A snapshot whose COW has been marked as invalid is not to be
    /// recorded as one that has left; one that has come has not left any more. Returns what the
    /// device's user must know.
    pub(super) fn has_been_exchanged(&self, id: u32, left: &Left) -> Vec<String> {
        left.coming.iter().for_each(|cow| self.forget_departure(cow));
        let mut notes: Vec<String> = left.note.iter().cloned().collect();
        if !left.marked.load(Ordering::Relaxed) {
            return notes;
        }
        left.cow.iter().for_each(|cow| self.forget_departure(cow));
        let lost = format!(
            "/dev/ublkb{id}: the snapshot that it had is lost, and its COW is marked as \
             invalid: its origin is in use and changes without it"
        );
        log::warn!("{lost}");
        notes.push(lost);
        notes
    }
}
