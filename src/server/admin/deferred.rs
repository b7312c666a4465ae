//! Merges that are left to the next activation of their origin: the snapshot's device runs on
//! meanwhile, and keeps the wish.
//!
//! An origin is activated when a server takes its devices over, and when its device is added. The
//! end of a use is no activation: nobody has said that the next use may see other content.
//!
//! Rules kept here: a wish is on record before the command ends, so that the next server knows of
//! it; it is carried out only while nobody uses the devices; and what cannot begin stays a wish.

use std::num::NonZeroU64;

use dm_targets::table::TargetParams;

use super::devices::{Device, no_device};
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, MergeOptions, Problem, Reply};

impl<M: Machine> Administrator<M> {
    /// Leaves the merge of a snapshot to the next activation of its origin, if it, or its origin,
    /// is in use; `None` if nobody uses them, so that the merge can begin.
    ///
    /// # Errors
    /// It cannot be merged, or the wish cannot be recorded: nothing has changed.
    pub(super) fn defer_merge(
        &mut self,
        id: u32,
        rate: Option<NonZeroU64>,
    ) -> Result<Option<Reply>, Reason> {
        let name = self.name_of(id)?;
        let refused = |why: Reason| why.context(format!("{name}: its merge is not deferred"));
        let table = self.mergeable(id).map_err(refused)?;
        let origin = self.device_to_merge_into(id, &table).map_err(refused)?;
        let Err(used) = self.refuse_users(id, origin, false) else { return Ok(None) };
        let snapshot = Some(name.clone());
        let wish = MergeOptions { snapshot, paused: false, bytes_per_second: rate };
        self.set_wish(id, Some(wish)).map_err(refused)?;
        let used = used.without_end();
        let note = format!(
            "{name}: it is merged when its origin is next activated (`add origin`, or `recover` \
             after an end of the server) and unused; `ublk-dm merge {name} --pause` takes that \
             back. Not now: {used}"
        );
        log::info!("{note}");
        Ok(Some(Reply::Deferred { note }))
    }

    /// Takes a wish back.
    ///
    /// # Errors
    /// There is none, or this cannot be recorded: the wish stays.
    pub(super) fn take_back_wish(&mut self, id: u32) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        self.set_wish(id, None)
            .map_err(|why| why.context(format!("{name}: its merge stays deferred")))?;
        log::info!("{name}: it is not merged when its origin is next activated");
        Ok(Reply::Done)
    }

    fn set_wish(&mut self, id: u32, wish: Option<MergeOptions>) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let before = std::mem::replace(&mut entry.spec.merge, wish);
        let unrecorded = mutant::is(Mutant::DeferredForgotten);
        if let Err(why) = if unrecorded { Ok(()) } else { self.record(None) } {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.spec.merge = before;
            }
            return Err(why);
        }
        self.publish();
        Ok(())
    }

    /// Refuses a merge beside the one of another snapshot that is left to the next activation.
    pub(super) fn refuse_beside_deferred(&self, id: u32) -> Result<(), Reason> {
        let mut others = self.devices.iter().filter(|(other, _)| **other != id);
        match others.find(|(_, entry)| entry.spec.deferred_merge().is_some()) {
            None => Ok(()),
            Some((_, Device { name, .. })) => Err(format!(
                "the snapshot {name} is to be merged into the same origin when that is next \
                 activated: `ublk-dm merge {name} --pause` takes that back"
            )
            .into()),
        }
    }

    /// The origin has been activated: begins the merge that was left to this moment, if nobody
    /// uses its devices. Returns why one did not begin that could have.
    pub(super) fn begin_deferred(&mut self) -> Option<Problem> {
        let wish = |(id, entry): (&u32, &Device)| {
            Some((*id, entry.state(), entry.spec.deferred_merge()?.bytes_per_second))
        };
        let (id, device, rate) = self.devices.iter().find_map(wish)?;
        if let Err(why) = self.is_unused_for_merge(id, &device.spec) {
            log::info!("{}: its merge stays deferred: {why}", device.name);
            return None;
        }
        let force = mutant::is(Mutant::DeferredUnderMount);
        let begun = self.begin_merge(id, force, rate);
        begun.err().map(|why| {
            let why = why.context(format!("{}: its deferred merge has not begun", device.name));
            log::warn!("{why}");
            Problem::of(&device, why)
        })
    }

    fn is_unused_for_merge(&self, id: u32, spec: &DeviceSpec) -> Result<(), Reason> {
        let TargetParams::Snapshot(table) = &spec.table.params else { return Ok(()) };
        let origin = self.device_to_merge_into(id, table)?;
        if mutant::is(Mutant::DeferredUnderMount) {
            return Ok(());
        }
        self.refuse_users(id, origin, false).map_err(Reason::without_end)
    }
}
