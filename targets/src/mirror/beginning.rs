//! What a mirror starts from: the record of its legs, its log on a disk, or its user's words. Pure.
//!
//! Rules kept here (I10): if no leg is known to be up to date, none is chosen; and a source that
//! the user names is copied as a whole, since a log does not know that it is of another time.

use super::leg_set::LegSet;
use super::leg_state::{LegState, Past};
use super::open_error::OpenError;
use super::table::InitialSync;
use crate::mutant::{self, Mutant};

/// What a mirror starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// The initial state of the regions.
    pub(super) initial: InitialSync,
    /// The source legs; `None` to take them from the log.
    pub(super) sources: Option<LegSet>,
    /// The administrator has named the sources.
    pub(super) named: bool,
    /// The log on disk decides instead of the sources, if it is of the same time.
    pub(super) by_log: bool,
    /// The sources have all acknowledged writes, and may differ where the log has marks.
    pub(super) unequal: bool,
}

/// Decides what a mirror starts from. `initial` is the administrator's argument, which is out of
/// date when a server takes over; `source` is given now, and overrides the record; `log` is the
/// identity of the disk that the log is on.
pub(super) fn begin(
    past: &Past,
    initial: InitialSync,
    source: Option<usize>,
    log: Option<u64>,
    identities: &[u64],
) -> Result<Beginning, OpenError> {
    let (sources, named) = (source.map(LegSet::one), source.is_some());
    let said = Beginning { initial, sources, named, by_log: false, unequal: false };
    let from_log = Beginning { initial: InitialSync::FromLog, ..said };
    let log_on_disk = log.is_some();
    let is_marked = |state: &LegState| log.is_some_and(|log| state.is_marked_in(log));
    match past {
        _ if named => Ok(from_named(past, said, identities)),
        Past::None => Ok(said),
        Past::TakenOver(state) => match state {
            // Every mirror has a record. If that is lost, the log may have failed before.
            None if log_on_disk && mutant::is(Mutant::LostRecordForgiven) => Ok(from_log),
            // The log has worked all the time, and has more detail than the record.
            Some(state) if is_marked(state) => {
                let sources = Some(state.sources(identities)).filter(|legs| !legs.is_empty());
                Ok(Beginning { sources, unequal: true, ..from_log })
            }
            None => Err(OpenError::NoSource),
            Some(state) => from_record(state, identities),
        },
        Past::Ended(state) => {
            let by_log = log_on_disk && initial == InitialSync::FromLog;
            let leg = match state.choose(identities, by_log) {
                Ok(None) if !by_log => return Ok(said),
                Err(_) if by_log && mutant::is(Mutant::UnknownFirst) => Some(0),
                // A log of the same time may have the first leg, which the record does not.
                Err(_) if by_log && state.missed(identities).is_empty() => {
                    state.source_among(identities)
                }
                chosen => chosen?,
            };
            let initial = if by_log { InitialSync::FromLog } else { InitialSync::Sync };
            let sources = Some(LegSet::one(leg.unwrap_or(0)));
            Ok(Beginning { initial, sources, by_log, ..said })
        }
        Past::Replaced(state) => replacing(state.as_ref(), said, log, identities),
    }
}

/// The user has named the source: all of the other legs is copied from it, also what a log calls in
/// sync, which may be of another time. `nosync` does not make a leg equal that is on record as
/// stale.
fn from_named(past: &Past, said: Beginning, identities: &[u64]) -> Beginning {
    // The words of a table are out of date when a server takes over.
    let taken_over = matches!(past, Past::TakenOver(_));
    let is_stale = past.state().is_some_and(|past| !past.missed(identities).is_empty());
    let equal = said.initial == InitialSync::NoSync && !is_stale;
    if !taken_over && (equal || mutant::is(Mutant::NamedByLog)) {
        return said;
    }
    Beginning { initial: InitialSync::Sync, ..said }
}

/// Another table on the same disks: the log or the administrator decides, but legs known to be
/// stale stay stale. `said`: how the mirror begins if nothing is known against it.
fn replacing(
    state: Option<&LegState>,
    said: Beginning,
    log: Option<u64>,
    identities: &[u64],
) -> Result<Beginning, OpenError> {
    let is_nosync = said.initial == InitialSync::NoSync;
    let Some(state) = state else {
        return if log.is_some() || is_nosync { Ok(said) } else { Err(OpenError::NoSource) };
    };
    // The device's data are on a leg that is up to date, and must be on one of the new table.
    if state.sources(identities).is_empty() && !mutant::is(Mutant::ForeignLegsReplace) {
        return Err(OpenError::NoSource);
    }
    if log.is_some_and(|log| state.is_marked_in(log)) {
        return Ok(beside_log(state, said, identities));
    }
    if is_nosync && state.missed(identities).is_empty() {
        return Ok(said);
    }
    let Beginning { sources, .. } = from_record(state, identities)?;
    // A log on a disk that the table before did not have, or that failed, knows nothing of the
    // writes of that time.
    let unknown = is_nosync || log.is_some();
    let initial = if unknown { InitialSync::Sync } else { said.initial };
    Ok(Beginning { initial, sources, ..said })
}

/// The log has every mark. Which legs are sources the log of an earlier version does not say before
/// all regions have been in sync: then it is the first leg, of the table before.
fn beside_log(state: &LegState, said: Beginning, identities: &[u64]) -> Beginning {
    let sources = state.sources(identities);
    if sources == LegSet::first(identities.len()) || mutant::is(Mutant::LegsTurnedRound) {
        return said;
    }
    // `nosync` says that the legs are equal, and the record knows better.
    let initial = match said.initial {
        InitialSync::NoSync => InitialSync::FromLog,
        said => said,
    };
    Beginning { initial, sources: Some(sources), unequal: true, ..said }
}

/// Writes that were in flight when the server died are reissued, so legs that had all acknowledged
/// writes become equal again.
fn from_record(state: &LegState, identities: &[u64]) -> Result<Beginning, OpenError> {
    let sources = state.sources(identities);
    if sources.is_empty() {
        return Err(OpenError::NoSource);
    }
    let all = sources == LegSet::first(identities.len());
    let initial = if all && state.in_sync { InitialSync::NoSync } else { InitialSync::Sync };
    let sources = Some(sources);
    Ok(Beginning { initial, sources, named: false, by_log: false, unequal: false })
}
