//! The table of a device as it is recorded when another one replaces it, or when it grows.
//!
//! Rules kept here: the new table is on record before its target is in place, and is compared with
//! the disks of other families while the run directory is locked. A disk that is not claimed is the
//! device's by that record alone, and so is one of a mirror that has been closed for another one.
//! So what the old table has of it stays on record as well until the new target is in place: the
//! old table may have to be put back.

use dm_targets::units::Sectors;

use super::devices::{Deps, Device, is_mirror, no_device};
use super::machine::{Machine, Records};
use super::mutant::{self, Mutant};
use super::recording::Recorded;
use super::state::Administrator;
use super::targets::Unread;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisk};

impl<M: Machine> Administrator<M> {
    /// Records the device's new table: the next server must not open the disks of the old one. A
    /// failure to record a restored table is only logged.
    pub(super) fn record_table(
        &mut self,
        id: u32,
        deps: Deps,
        spec: DeviceSpec,
        why: Recorded,
    ) -> Result<(), Reason> {
        let again = why == Recorded::Again;
        let directory = (!again).then(|| self.machine.records().lock()).transpose()?;
        if directory.is_some() {
            let old = self.devices.get(&id).ok_or_else(|| no_device(id))?;
            let force = why == Recorded::New { force: true };
            let unread = if force { Unread::ByForce } else { Unread::Kept(old) };
            self.refuse_claimed(&deps, &spec, unread)?;
            self.refuse_apart(id, &spec)?;
            self.refuse_renumbered(&spec.table.params.devices(), &spec.named)?;
            // What has left the old table's disks meanwhile has been written past, too.
            let old = self.devices.get(&id).ok_or_else(|| no_device(id))?;
            self.lose_departures_on(&old.deps, &old.spec)?;
            self.lose_departures_on(&deps, &spec)?;
        }
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        entry.leaving = if again { Vec::new() } else { leaving(entry, &spec) };
        let old =
            (std::mem::replace(&mut entry.deps, deps), std::mem::replace(&mut entry.spec, spec));
        match self.record(None) {
            Err(why) if !again => {
                if let Some(entry) = self.devices.get_mut(&id) {
                    (entry.deps, entry.spec) = old;
                    entry.leaving.clear();
                }
                return Err(why.context("the table cannot be recorded"));
            }
            Err(why) => log::error!(
                "the old table is restored, but the state file may still contain the new one: {why}"
            ),
            Ok(()) => {}
        }
        self.publish();
        Ok(())
    }

    /// The new table of a device is in place: what the old one had is free with the next record,
    /// and the store of the new one is made.
    pub(super) fn has_left(&mut self, id: u32) {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.leaving.clear();
            entry.deps.set_made();
        }
    }

    /// What a device grows by on disks that are not claimed must be no other family's, which is
    /// looked at while the run directory is locked. No other family takes a part of them until the
    /// new length is on record: a mirror copies to its new regions before. A snapshot that was
    /// deleted, and whose origin is there, is lost.
    pub(super) fn announce_growth(&mut self, id: u32, len: Sectors) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let unclaimed = entry.deps.disks().filter(|(.., known)| known.unclaimed);
        let unclaimed: Vec<_> = unclaimed.map(|(.., known)| known.clone()).collect();
        let (deps, mut spec) = (entry.deps.clone(), entry.spec.clone());
        spec.table.len = len;
        let _directory = self.machine.records().lock()?;
        // What has left the disks where the device has not been yet is written past from now on.
        if !mutant::is(Mutant::GrowthUntold) {
            self.lose_departures_on(&deps, &spec)?;
        }
        if unclaimed.is_empty() || mutant::is(Mutant::GrownIntoPart) {
            return Ok(());
        }
        self.refuse_claimed(&deps, &spec, Unread::Refused)?;
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.leaving = unclaimed;
        }
        self.record(None).inspect_err(|_| self.has_left(id))
    }
}

/// The disks without a claim of which a device's new table has other parts than its old one. A
/// mirror has been closed for another one, and none of its disks is claimed for it any more.
fn leaving(device: &Device, new: &DeviceSpec) -> Vec<KnownDisk> {
    if mutant::is(Mutant::PartsLeftAtOnce) {
        return Vec::new();
    }
    let old = &device.spec;
    let closed = is_mirror(old) && is_mirror(new) && !mutant::is(Mutant::ClosedLeftAtOnce);
    let disks = device.deps.disks().filter(|(word, _, known)| {
        (known.unclaimed || closed) && new.parts_of(word) != old.parts_of(word)
    });
    disks.map(|(.., known)| known.clone()).collect()
}
