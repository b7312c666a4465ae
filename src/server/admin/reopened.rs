//! Disks that are closed and opened again: by a merge, which takes a store over from its snapshot's
//! device; by a mirror in the place of another one; and by the next server in an upgrade.
//!
//! Rules kept here: nothing is closed before it has been looked at whether it can be opened again,
//! so what is refused has changed nothing, and no origin waits for a COW that is not there (I9);
//! and a store is merged only from the disk on which its snapshot has it, whatever its path leads
//! to by now.

use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::TargetParams;

use super::devices::{is_mirror, is_persistent_snapshot, no_device};
use super::machine::{Machine, OpenDisk};
use super::mutant::{self, Mutant};
use super::silent::Silent;
use super::state::Administrator;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::DeviceSpec;
use crate::storage::DiskId;

impl<M: Machine> Administrator<M> {
    /// Refuses a table for which something would be closed that could not be opened again.
    pub(super) fn refuse_unopenable(&self, id: u32, table: &DeviceSpec) -> Result<(), Reason> {
        if let TargetParams::SnapshotMerge(merge) = &table.table.params {
            self.refuse_used_carrier(self.carrier_at(&merge.origin, None)?)?;
            let snapshot = self.snapshot_to_merge(table)?;
            return snapshot.map_or(Ok(()), |snapshot| self.refuse_lost_store(snapshot, merge));
        }
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if entry.mirror().is_none() || !is_mirror(table) {
            return Ok(());
        }
        self.refuse_missing(table)?;
        self.refuse_to_close(entry.deps.disks().map(|(word, disk, _)| (word, disk)))
    }

    /// Refuses a mirror in the place of another one if one of its disks is not there: the old one
    /// is closed before the new one is opened, and may have lost a disk as well since.
    fn refuse_missing(&self, mirror: &DeviceSpec) -> Result<(), Reason> {
        if mutant::is(Mutant::ClosedForMissing) {
            return Ok(());
        }
        let words = mirror.table.params.devices();
        match words.iter().find(|word| self.machine.disk_at(word).is_none()) {
            None => Ok(()),
            Some(path) => Err(format!(
                "{path}: there is no such device or file; the old table is still in place, and \
                 the device is as it was"
            )
            .into()),
        }
    }

    /// The same for a merge of a snapshot by its own words.
    pub(super) fn refuse_lost_own_store(&self, snapshot: u32) -> Result<(), Reason> {
        match self.devices.get(&snapshot).map(|entry| &entry.spec.table.params) {
            Some(TargetParams::Snapshot(own)) => self.refuse_lost_store(snapshot, own),
            _ => Ok(()),
        }
    }

    /// Refuses to close the target of a snapshot for a merge if its store, or its origin, could not
    /// be opened again, by the words of either table.
    fn refuse_lost_store(&self, snapshot: u32, merge: &Snapshot) -> Result<(), Reason> {
        let entry = self.devices.get(&snapshot).ok_or_else(|| no_device(snapshot))?;
        let TargetParams::Snapshot(own) = &entry.spec.table.params else { return Ok(()) };
        if mutant::is(Mutant::ClosedUnasked) {
            return Ok(());
        }
        let is_at = |word: &str, disk| match self.machine.disk_at(word) {
            Some(here) if here != disk => Err(another(word)),
            _ => Ok(()),
        };
        if let Some(origin) = entry.deps.id(&own.origin) {
            is_at(&merge.origin, origin)?;
            is_at(&own.origin, origin)?;
        }
        let Some(cow) = entry.deps.id(&own.cow) else { return Ok(()) };
        self.refuse_to_close([(own.cow.as_str(), cow)].into_iter())?;
        let number = entry.deps.known().get(&own.cow).map_or(0, |known| known.number);
        Silent::on(&self.machine, [merge.cow.clone(), own.cow.clone()])?;
        for word in [&merge.cow, &own.cow] {
            let disk = self.look_at(word)?;
            let here = disk.number_in_boot();
            if disk.id() != cow || number != 0 && here != 0 && here != number {
                return Err(another(word));
            }
            if disk.store()?.is_none() {
                return Err(format!("{word}: the snapshot's store is no longer on it").into());
            }
        }
        Ok(())
    }

    /// Refuses to leave devices whose disks the next server could not open: they would be left out,
    /// and a snapshot lost by that.
    pub(super) fn refuse_unopenable_later(&self) -> Result<(), Reason> {
        if mutant::is(Mutant::LeftUnopenable) {
            return Ok(());
        }
        let served = || self.devices.values();
        let all = served().flat_map(|entry| entry.deps.disks());
        self.refuse_to_close(all.map(|(word, disk, _)| (word, disk)))?;
        let stores = served().filter(|entry| is_persistent_snapshot(&entry.spec));
        let words = stores.filter_map(|entry| match &entry.spec.table.params {
            TargetParams::Snapshot(table) | TargetParams::SnapshotMerge(table) => Some(&table.cow),
            _ => None,
        });
        // A device of this server may be suspended.
        let words: Vec<_> = words.filter(|word| self.own_at(word).is_none()).cloned().collect();
        Silent::on(&self.machine, words.iter().cloned())?;
        words.iter().try_for_each(|word| {
            let store = self.look_at(word).map_err(Reason::from).and_then(|disk| disk.store());
            let why = "the next server could not read the snapshot's store";
            store.map(drop).map_err(|cause| cause.context(why))
        })
    }

    /// Refuses to close disks that are gone when they are closed.
    fn refuse_to_close<'a>(
        &self,
        mut disks: impl Iterator<Item = (&'a str, DiskId)>,
    ) -> Result<(), Reason> {
        let ends = disks.find(|(_, disk)| self.machine.ends_when_closed(*disk));
        ends.filter(|_| !mutant::is(Mutant::ClosedForGood)).map_or(Ok(()), |(word, _)| {
            let why = "it is detached as soon as it is closed (`losetup --detach` was called while \
                       it was in use), and could not be opened again";
            Err(Failure::new(Kind::Refused, format!("{word}: {why}")))
        })
    }
}

fn another(word: &str) -> Reason {
    let why = "another disk is at this path by now than the one in use";
    Failure::new(Kind::Refused, format!("{word}: {why}"))
}
