//! What a mirror that has ended leaves for a later one on the same legs, in the same boot.
//!
//! Rule kept here: I10 (a leg that is known to have missed writes is no source unless the user
//! insists, whatever the later mirror's name, log and other legs are; and the end of a mirror says
//! which of its legs are stale).

use dm_targets::mirror::leg_state::{KnownLeg, LegState, Past};
use dm_targets::mirror::table::{InitialSync, Leg, Mirror as Table};
use dm_targets::target::Target;

use super::leg_names::{identities, identity, number_of};
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceSpec, DeviceState};
use crate::server::admin::devices::Device;
use crate::server::admin::machine::{Machine, OpenDisk, Records, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;

impl<M: Machine> Administrator<M> {
    /// The past of a mirror, with what ended mirrors have left if nothing else is known of these
    /// legs.
    ///
    /// # Errors
    /// A stale leg would be the source.
    pub(super) fn with_ended(
        &self,
        past: Past,
        mirror: &Table,
        disks: &[M::Open],
        spec: &DeviceSpec,
    ) -> Result<Past, Reason> {
        self.with_ended_and(past, mirror, disks, spec, spec.force)
    }

    /// The same; `right`: the named source is right, even if it is on record as stale.
    fn with_ended_and(
        &self,
        past: Past,
        mirror: &Table,
        disks: &[M::Open],
        spec: &DeviceSpec,
        right: bool,
    ) -> Result<Past, Reason> {
        let ids = identities(&mirror.legs, disks);
        let known = |state: &LegState| ids.iter().any(|id| state.knows(*id));
        let insists = spec.source.is_some() || spec.force;
        let own = if let Past::Replaced(own) = &past { own.as_ref() } else { None };
        if let Some(own) = own.filter(|own| known(own) && !insists) {
            let mut legs = mirror.legs.iter().zip(disks);
            legs.try_for_each(|(leg, disk)| self.refuse_leg_of_ended_in(Some(own), disk, leg))?;
        }
        let decided = match &past {
            Past::TakenOver(Some(_)) | Past::Ended(_) => true,
            Past::TakenOver(None) => spec.source.is_some(),
            Past::Replaced(Some(state)) => known(state),
            Past::None | Past::Replaced(None) => false,
        };
        // The user insists that the legs are equal.
        let equal = spec.force && mirror.initial_sync == InitialSync::NoSync;
        if decided || equal || mutant::is(Mutant::EndedLegsForgotten) {
            return Ok(past);
        }
        let ended = self.ended_legs(&ids, spec.source.is_some())?;
        let Some(mut state) = LegState::joined(ended.clone()) else { return Ok(past) };
        // Another disk may have been at its path, or had its name.
        let is_other = |leg: &KnownLeg| {
            let at = ids.iter().position(|id| *id == leg.identity);
            at.map(|at| number_of(&disks[at])).is_some_and(|number| number != leg.number)
        };
        state.legs.retain(|leg| !is_other(leg));
        if !known(&state) {
            return Ok(past);
        }
        let stale = |at: usize| state.stale_among(&ids[at..=at]).is_some();
        let by_log = mirror.log_device().is_some() && mirror.initial_sync == InitialSync::FromLog;
        let chosen = match spec.source {
            Some(at) if stale(at) && !right => Err(format!(
                "{}: it is not up to date{}; --force with --source takes it as the source \
                 nevertheless",
                disks[at].path(),
                held_by(&state)
            )),
            Some(at) => Ok(Some(at)),
            None if mirror.log_device().is_some() && state.stale_among(&ids).is_none() => Ok(None),
            None => state.choose(&ids, by_log).map_err(|_| no_source(&state, &ids, disks)),
        };
        let chosen = chosen.map_err(Reason::from)?;
        let log_decides = spec.source.is_none() && mirror.log_device().is_some();
        let source = if log_decides { None } else { Some(ids[chosen.unwrap_or(0)]) };
        Ok(Past::Ended(state.continuing(&ended, &ids, source)))
    }

    /// The records of ended mirrors that had one of these legs. With a source named by the user,
    /// the mirror does not need them.
    fn ended_legs(&self, ids: &[u64], has_source: bool) -> Result<Vec<LegState>, Reason> {
        match self.machine.records().ended_legs(ids) {
            Err(why) if has_source => {
                log::error!("{why}");
                Ok(Vec::new())
            }
            ended => ended.map_err(|why| {
                why.ending(
                    ": which legs have missed writes is not known, name the right one with \
                     --source",
                )
            }),
        }
    }

    /// The same for a mirror that replaces the table of ranges of a device in use, whose data is on
    /// the leg `data_on`: that leg is up to date, whatever an ended mirror has left of it.
    ///
    /// # Errors
    /// Another leg is up to date in a mirror that has ended.
    pub(super) fn with_ended_over(
        &self,
        data_on: usize,
        past: Past,
        mirror: &Table,
        disks: &[M::Open],
        spec: &DeviceSpec,
    ) -> Result<Past, Reason> {
        let mut legs: Vec<_> = mirror.legs.iter().zip(disks).collect();
        let (leg, disk) = legs.remove(data_on);
        let name = disk.lasting_name();
        let (identity, number) = (identity(disk, leg), number_of(disk));
        let own = KnownLeg { identity, number, name, source: true };
        let own = LegState { legs: vec![own], ..LegState::default() };
        if !spec.force {
            let mut others = legs.into_iter();
            others
                .try_for_each(|(leg, disk)| self.refuse_leg_of_ended_in(Some(&own), disk, leg))?;
        }
        self.with_ended_and(past, mirror, disks, spec, true)
    }

    /// Refuses a new leg of a mirror that runs, if a mirror that has ended had it as one that is up
    /// to date, and none of the legs from which it would be overwritten. A present or former leg of
    /// the mirror itself is judged by the mirror's own record.
    pub(super) fn refuse_leg_of_ended(&self, disk: &M::Open, leg: &Leg) -> Result<(), Reason> {
        self.refuse_leg_of_ended_in(self.machine.records().legs().ok().as_ref(), disk, leg)
    }

    /// The same for a mirror with this record.
    fn refuse_leg_of_ended_in(
        &self,
        own: Option<&LegState>,
        disk: &M::Open,
        leg: &Leg,
    ) -> Result<(), Reason> {
        let (id, path) = (identity(disk, leg), &leg.device);
        if own.is_some_and(|own| own.knows(id)) || mutant::is(Mutant::EndedLegTaken) {
            return Ok(());
        }
        let ended = self.machine.records().ended_legs(&[id]).map_err(|why| {
            let what = "whether it is the only right leg of a mirror that has ended is not known";
            why.context(format!("{path}: {what}")).ending("; remove that file if it is not")
        })?;
        let is_it = |known: &KnownLeg| known.identity == id && known.number == number_of(disk);
        let sources = own.iter().flat_map(|own| own.legs.iter().filter(|leg| leg.source));
        let sources: Vec<_> = sources.map(|leg| leg.identity).collect();
        let alone = ended.iter().find(|state| {
            let is_right = state.legs.iter().any(|known| known.source && is_it(known));
            is_right && state.source_among(&sources).is_none()
        });
        let Some(state) = alone else { return Ok(()) };
        Err(format!(
            "{path}: it is up to date in a mirror that has ended (not up to date: {}), and would \
             be overwritten; to use it nevertheless, delete this mirror and add it with that leg \
             and --source",
            state.names(false)
        )
        .into())
    }

    /// Puts the record of a mirror's legs back if it was removed while the mirror is served, with
    /// the run directory or alone: nothing else knows which of its legs have missed writes when its
    /// server has ended.
    ///
    /// # Errors
    /// A leg has missed writes, and that cannot be recorded.
    pub(in crate::server::admin) fn put_legs_back(&self, id: u32) -> Result<(), Reason> {
        let records = self.machine.records();
        if self.devices.get(&id).and_then(Device::mirror).is_none()
            || records.legs().is_ok()
            || mutant::is(Mutant::LegsNotPutBack)
        {
            return Ok(());
        }
        // The lock makes the directory if it is not there.
        let again = |_directory| {
            let put = self.machine.call(move |thread| async move {
                let device = thread.group().device(id);
                let Some(Target::Mirror(mirror)) = device.map(|device| device.target()) else {
                    return Ok(());
                };
                let put = mirror.record_again();
                if mirror.has_stale() { put } else { Ok(()) }
            });
            put?.map_err(|why| Failure::from(why.0))
        };
        records.lock().and_then(again).map_err(|why: Reason| {
            let what = "its record of which legs have missed writes was removed, and cannot be \
                        written again";
            why.context(what)
        })
    }

    /// Keeps the record of the legs of a dead server's mirror that is deleted.
    ///
    /// # Errors
    /// The record was removed, or cannot be kept.
    pub(in crate::server::admin) fn keep_legs_left(
        &self,
        device: &DeviceState,
    ) -> Result<(), Reason> {
        let records = self.machine.records();
        if mutant::is(Mutant::LegsNotPutBack) {
            return Ok(());
        }
        let known = records.legs().map_err(|why| {
            let what = "deleted, but which of its legs have missed writes is not known any more";
            let hint = "name the right leg with --source when they are used again";
            Failure::from(why)
                .context(format!("{}: {what}", device.name))
                .ending(format!("; {hint}"))
        });
        known?;
        let kept = records.keep_legs().map_err(|why| {
            let what = "deleted, but which of its legs have missed writes cannot be kept on record";
            why.context(format!("{}: {what}", device.name))
        })?;
        kept.iter().for_each(|state| log::warn!("{}: deleted; {}", device.name, state.told()));
        Ok(())
    }

    /// Keeps the record of a mirror's legs when the mirror has ended, and returns what its user
    /// must know of them.
    ///
    /// # Errors
    /// The record cannot be kept.
    pub(in crate::server::admin) fn keep_legs(&self, id: u32) -> Result<Option<String>, Reason> {
        if self.devices.get(&id).and_then(Device::mirror).is_none() {
            return Ok(None);
        }
        let kept = self.machine.records().keep_legs().map_err(|why| {
            why.context("which of its legs have missed writes cannot be kept on record")
        })?;
        Ok(kept.map(|state| state.told()))
    }

    /// For a mirror whose source is not the first leg, because that has missed writes.
    pub(super) fn note_of_ended(
        past: &Past,
        mirror: &Table,
        disks: &[M::Open],
        spec: &DeviceSpec,
    ) -> Option<String> {
        let Past::Ended(state) = past else { return None };
        let ids = identities(&mirror.legs, disks);
        let chosen =
            if spec.source.is_some() { None } else { state.choose(&ids, true).ok().flatten() };
        let (stale, source) = (disks[0].path(), disks[chosen.filter(|at| *at != 0)?].path());
        Some(format!("{stale} has missed writes: the legs are recovered from {source}"))
    }
}

fn no_source(state: &LegState, ids: &[u64], disks: &[impl OpenDisk]) -> String {
    let hint = "name the leg to copy from with --source";
    let with_force = "--force as well for one that is not up to date";
    match state.stale_among(ids) {
        Some(at) => format!(
            "{}: it is not up to date{}; {hint} ({with_force})",
            disks[at].path(),
            held_by(state)
        ),
        None => format!(
            "{}: a mirror of the other legs has ended, and whether this leg is newer is not known; \
             {hint}",
            disks[0].path()
        ),
    }
}

/// The legs that have the writes that others have missed.
fn held_by(state: &LegState) -> String {
    let names = state.names(true);
    if names.is_empty() { String::new() } else { format!(" (up to date: {names})") }
}
