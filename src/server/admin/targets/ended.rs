//! What a mirror that has ended leaves for a later one on the same legs, in the same boot.
//!
//! Rule kept here: I10 (a leg that is known to have missed writes is no source unless the user
//! insists, whatever the later mirror's name, log and other legs are; and the end of a mirror says
//! which of its legs are stale).

use dm_targets::mirror::leg_state::{KnownLeg, LegState, Past};
use dm_targets::mirror::table::{InitialSync, Mirror as Table};

use super::leg_names::{identities, number_of};
use crate::failure::Reason;
use crate::protocol::DeviceSpec;
use crate::server::admin::devices::Device;
use crate::server::admin::machine::{Machine, OpenDisk, Records};
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
        let ids = identities(&mirror.legs, disks);
        let known = |state: &LegState| ids.iter().any(|id| state.knows(*id));
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
        let ended = match self.machine.records().ended_legs(&ids) {
            Ok(ended) => ended,
            Err(why) if spec.source.is_some() => {
                log::error!("{why}");
                Vec::new()
            }
            Err(why) => {
                let what = "which legs have missed writes is not known, name the right one with \
                            --source";
                return Err(why.ending(format!(": {what}")));
            }
        };
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
            Some(at) if stale(at) && !spec.force => Err(format!(
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
