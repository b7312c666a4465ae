//! The leg that a user names as the source of a mirror, against what the log on a disk knows; and
//! what the log chooses if none is named.
//!
//! Rule kept here: I10 (a leg that is known to have missed writes is no source unless the user
//! insists): after a restart of the machine the log alone knows it.

use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::Mirror as Table;

use super::leg_names::{identities, renamed};
use crate::failure::Reason;
use crate::protocol::DeviceSpec;
use crate::server::admin::machine::OpenDisk;
use crate::server::admin::mutant::{self, Mutant};

/// For a mirror whose log has its first leg, from which users expect a recovery, as not up to date:
/// which legs are copied from which. `None` if the user has named the source, or if the record of
/// an ended mirror has a say.
pub(super) fn note_of_log<D: OpenDisk>(
    log: Option<&D>,
    legs: &[D],
    mirror: &Table,
    spec: &DeviceSpec,
    past: &Past,
) -> Option<String> {
    let is_asked = spec.source.is_none() && matches!(past, Past::None);
    let header = log.filter(|_| is_asked)?.mirror_log().ok()??;
    let now = identities(&mirror.legs, legs);
    let right = LegFlags::sources(&header, &renamed(&mirror.legs, legs), &now);
    let source = legs[right.iter().next().filter(|leg| *leg != 0)?].path();
    // That a leg is not there is known to the user.
    let stale = (0..legs.len()).filter(|leg| !right.has(*leg) && !spec.lost.contains(leg));
    let stale: Vec<_> = stale.map(|leg| legs[leg].path()).collect();
    let stale = Some(stale.join(", ")).filter(|stale| !stale.is_empty())?;
    Some(format!("not up to date by the log: {stale}; recovered from {source}"))
}

/// Refuses a named source that the log has as stale, or does not have, while it has another leg as
/// up to date; unless the record of an ended or replaced mirror has the source as up to date. And
/// one that the mirror which is replaced has as stale, while it has another leg as up to date.
pub(super) fn refuse_stale_source<D: OpenDisk>(
    log: Option<&D>,
    legs: &[D],
    mirror: &Table,
    spec: &DeviceSpec,
    past: &Past,
) -> Result<(), Reason> {
    let (Some(source), false) = (spec.source, spec.force) else { return Ok(()) };
    let now = identities(&mirror.legs, legs);
    refuse_stale_in_replaced(source, legs, &now, past)?;
    let Some(log) = log else { return Ok(()) };
    let Some(header) = log.mirror_log()? else { return Ok(()) };
    let is_recorded = match past {
        Past::Ended(state) | Past::Replaced(Some(state)) => {
            state.source_among(&now[source..=source]).is_some()
        }
        _ => false,
    };
    let right = LegFlags::sources(&header, &renamed(&mirror.legs, legs), &now);
    if is_recorded || right.is_empty() || right.has(source) || mutant::is(Mutant::LogUnasked) {
        return Ok(());
    }
    let right: Vec<_> = right.iter().map(|leg| legs[leg].path()).collect();
    Err(format!(
        "{}: the log does not have it as up to date (up to date: {}); --force with --source takes \
         it as the source nevertheless",
        legs[source].path(),
        right.join(", ")
    )
    .into())
}

/// The same for the record of the mirror that is replaced, whose users have written to other legs.
fn refuse_stale_in_replaced<D: OpenDisk>(
    source: usize,
    legs: &[D],
    now: &[u64],
    past: &Past,
) -> Result<(), Reason> {
    let Past::Replaced(Some(state)) = past else { return Ok(()) };
    let is_stale = state.stale_among(&now[source..=source]).is_some();
    let right = state.source_among(now).filter(|_| is_stale && !mutant::is(Mutant::StaleNamed));
    right.map_or(Ok(()), |right| {
        let (stale, right) = (legs[source].path(), legs[right].path());
        Err(format!(
            "{stale}: it is not up to date (up to date: {right}); --force with --source takes it \
             as the source nevertheless"
        )
        .into())
    })
}
