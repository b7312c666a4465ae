//! Which table can replace which, and tables of `linear`, `error` and `zero`, which replace each
//! other without a moment in which a device has none.
//!
//! Rules kept here: all that can be refused is refused while the old table runs, so a resume that
//! fails has held up nothing; what the old table has acknowledged is flushed before the new one is
//! in place (I10: its users' later flushes may go to other disks); and the new table is on record
//! before the first request reaches it, so that the next server does not go back to the old one.

use dm_targets::table::TargetParams;

use super::devices::no_device;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::DeviceSpec;
use crate::ublk::{Params, attrs, device};

impl<M: Machine> Administrator<M> {
    /// Refuses a table that can never replace a device's.
    pub(super) fn refuse_load(&self, id: u32, spec: &DeviceSpec) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if is_lines(&entry.spec) && is_lines(spec) {
            let (old, new) = (entry.spec.table.len, spec.table.len);
            if old != new {
                return Err(format!(
                    "/dev/ublkb{id}: the table has {new} sectors and the device {old}: its length \
                     cannot change"
                )
                .into());
            }
            return Ok(());
        }
        let mirrors = [&entry.spec, spec]
            .iter()
            .all(|spec| matches!(spec.table.params, TargetParams::Mirror(_)));
        if mirrors || Administrator::<M>::is_same_origin(&entry.spec, spec) {
            return Ok(());
        }
        Err(format!(
            "/dev/ublkb{id}: a mirror's table can be replaced by a mirror's, an origin's by that \
             of a merge into it and back, and one of linear, error and zero by another of these"
        )
        .into())
    }

    /// Whether a loaded table and the one that it replaces are both made of ranges.
    pub(super) fn is_among_lines(&self, id: u32, loaded: &DeviceSpec) -> bool {
        self.devices.get(&id).is_some_and(|entry| is_lines(&entry.spec)) && is_lines(loaded)
    }

    /// Puts a loaded table in the place of the old one. Returns what the old one has lost. The
    /// device is suspended then; after an error it is as it was before, with the old table.
    pub(super) fn replace_lines(
        &mut self,
        id: u32,
        table: DeviceSpec,
        was_suspended: bool,
    ) -> Result<Option<Reason>, Reason> {
        let old_stays = |admin: &mut Administrator<M>, why: Reason| {
            let runs = if was_suspended { "stays suspended" } else { "continues to run" };
            let recorded = admin.record_suspended(id, was_suspended);
            let recorded = recorded.map_or_else(
                |why| format!("; the device's state is not recorded: {why}"),
                |()| String::new(),
            );
            let what = "the old table is still in place, and the device";
            why.ending(format!("; {what} {runs}{recorded}"))
        };
        if mutant::is(Mutant::LinesTakenFirst) {
            self.close_target(id)?;
        }
        let NewDevice { target, deps, spec, .. } = match self.prepare_lines(id, &table) {
            Ok(prepared) => prepared,
            Err(why) => return Err(old_stays(self, why)),
        };
        let mut lost = None;
        if !was_suspended {
            match self.hold(id, false, "resume") {
                Ok(held) => lost = held.err(),
                Err(why) => {
                    if let Some(entry) = self.devices.get_mut(&id) {
                        entry.loaded = Some(table);
                    }
                    let what = format!("/dev/ublkb{id}: the old table stays in place");
                    return Err(why.context(what));
                }
            }
        }
        let unrecorded = mutant::is(Mutant::LinesNotRecorded);
        let recorded = if unrecorded { Ok(()) } else { self.record_table(id, deps, spec, false) };
        if let Err(why) = recorded {
            if !was_suspended {
                self.let_through(id, true, "resume")?;
            }
            return Err(old_stays(self, why));
        }
        self.put_target(id, target, true)?;
        Ok(lost)
    }

    /// Refuses disks that cannot be used below an existing device; `below`: the parameters of the
    /// device that they would form.
    pub(super) fn refuse_unfit(&mut self, id: u32, below: &Params) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let now = self.machine.params(id)?;
        device::unfit(&now, below, device::is_zero_copy(&entry.info))
            .map_or(Ok(()), |why| Err(why.into()))
    }

    /// Opens the target of a loaded table, and refuses what cannot be below the device.
    fn prepare_lines(&mut self, id: u32, table: &DeviceSpec) -> Result<NewDevice<M>, Reason> {
        let lines = table.table.params.segments(table.table.len).unwrap_or_default();
        let prepared = self.prepare_segments(lines, table.clone(), None, Some(id))?;
        self.refuse_unfit(id, &prepared.params).map_err(|why| why.context("the table"))?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if prepared.params.attrs & attrs::READ_ONLY != 0 && !entry.read_only {
            return Err("the table: a disk is write-protected, and the device is not".into());
        }
        Ok(prepared)
    }
}

/// Whether a table is made of ranges: of `linear`, `error` and `zero`.
fn is_lines(spec: &DeviceSpec) -> bool {
    spec.table.params.segments(spec.table.len).is_some()
}
