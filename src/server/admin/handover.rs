//! A snapshot's table in the place of another one with the same origin and COW: the live store is
//! handed over, as in device-mapper. This is how a COW that has grown is loaded again, and how a
//! full COW gets to mean something else.
//!
//! Rules kept here: the store is not closed and read again, so that nothing is lost that is in
//! memory (exceptions of a transient store, records in the journal), and the snapshot never leaves
//! its origin (I5); the new table is on record before it applies.

use dm_targets::snapshot::table::{Snapshot, StoreType};
use dm_targets::snapshot::target::OnFull;
use dm_targets::table::{Table, TargetParams};
use dm_targets::target::Target;

use super::devices::{Deps, no_device};
use super::machine::{Machine, OpenDisk, Thread};
use super::mutant::{self, Mutant};
use super::recording::Recorded;
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisks};
use crate::storage::{Access, Claim};

impl<M: Machine> Administrator<M> {
    /// Hands a snapshot's store over to a loaded table. The device is suspended then. Returns what
    /// was lost by that; after an error the device is as it was before, with the old table.
    pub(super) fn hand_over(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<Option<Reason>, Reason> {
        let (deps, spec) = match self.prepare_handover(id, &table) {
            Ok(prepared) => prepared,
            Err(why) => return Err(self.old_stays(id, was_suspended, why)),
        };
        let why = Recorded::New { force: table.force };
        let lost = if was_suspended { None } else { self.hold_for(id, table)? };
        let on_full = on_full(&spec);
        let unrecorded = mutant::is(Mutant::HandedOverUnrecorded);
        let recorded = if unrecorded { Ok(()) } else { self.record_table(id, deps, spec, why) };
        if let Err(why) = recorded {
            if !was_suspended {
                self.let_through(id, true, "resume")?;
            }
            return Err(beside_lost(self.old_stays(id, was_suspended, why), lost));
        }
        let handed_over = self.machine.call(move |thread| async move {
            let device = thread.group().device(id);
            let Some(Target::Snapshot(snapshot)) = device.map(|device| device.target()) else {
                return false;
            };
            snapshot.hand_over(on_full);
            true
        })?;
        if !handed_over {
            // An earlier table could not be put in place when its disk answered at last.
            let what = "its table is a snapshot's on record, and another one is in place";
            let hint = "load that of `error`, resume, and load the snapshot's again";
            return Err(format!("/dev/ublkb{id}: {what}: {hint}").into());
        }
        self.has_left(id);
        Ok(lost)
    }

    /// The disks and the table of a device whose store is handed over.
    ///
    /// # Errors
    /// The new table's disks are not those of the old one.
    fn prepare_handover(&self, id: u32, table: &DeviceSpec) -> Result<(Deps, DeviceSpec), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let (Some(old), Some(new)) = (snapshot_of(&entry.spec), snapshot_of(table)) else {
            return Err(format!("/dev/ublkb{id}: this is no snapshot's table").into());
        };
        let mut deps = Deps::default();
        for (was, is) in [(&old.origin, &new.origin), (&old.cow, &new.cow)] {
            let had = entry.deps.id(was);
            let known = had.and_then(|disk| entry.deps.of(disk));
            let (Some(disk), Some(known)) = (had, known) else { return Err(no_device(id)) };
            let here = self.machine.disk_at(is);
            if here.is_some() && here != Some(disk) && !mutant::is(Mutant::HandedOverAnywhere) {
                let hint = "the store stays where it is";
                return Err(format!("{is}: it is not {was}, a disk of the snapshot; {hint}").into());
            }
            if known.device.is_some() || known.joined.is_some() {
                // A device of this server, which is not opened.
                here.ok_or_else(|| format!("{is}: it does not exist"))?;
                deps.insert(is, disk, known);
                continue;
            }
            // Its number may be another disk's by now.
            let now = self.machine.open(is, Access::ReadOnly, Claim::Shared)?;
            let again = KnownDisks::from([(is.clone(), known.clone())]);
            self.recognized(is, &now, Some(&again))?;
            deps.insert(is, now.id(), known);
        }
        // The chunk size is the store's.
        let params = TargetParams::Snapshot(Snapshot { chunk_size: old.chunk_size, ..new.clone() });
        let table = Table { len: table.table.len, params };
        Ok((deps, DeviceSpec { table, ..entry.spec.clone() }))
    }
}

fn snapshot_of(spec: &DeviceSpec) -> Option<&Snapshot> {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) => Some(snapshot),
        _ => None,
    }
}

/// Whether both tables are snapshots'.
pub(super) fn is_handover(old: &DeviceSpec, new: &DeviceSpec) -> bool {
    snapshot_of(old).is_some() && snapshot_of(new).is_some()
}

/// Why a snapshot's table can never be replaced by another one.
pub(super) fn never(old: &DeviceSpec, new: &DeviceSpec) -> Option<&'static str> {
    let (old, new) = (snapshot_of(old)?, snapshot_of(new)?);
    let discards = |table: &Snapshot| (table.discard_zeroes_cow, table.discard_passdown_origin);
    if old.store.is_transient() != new.store.is_transient() {
        return Some("its store cannot become persistent or transient");
    }
    (discards(old) != discards(new)).then_some("what its discards do is fixed when it is added")
}

/// What a full COW does.
fn on_full(spec: &DeviceSpec) -> OnFull {
    let store = snapshot_of(spec).map(|snapshot| snapshot.store);
    match store {
        Some(
            StoreType::Persistent { overflow: true } | StoreType::Transient { overflow: true },
        ) => OnFull::Overflow,
        _ => OnFull::Invalidate,
    }
}

/// Why a table was not put in place, with what was lost when the device was suspended for it.
pub(super) fn beside_lost(why: Reason, lost: Option<Reason>) -> Reason {
    match lost {
        Some(lost) => why.ending(format!("; besides, {lost}")),
        None => why,
    }
}
