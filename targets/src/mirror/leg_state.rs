//! The journaled state of a mirror's legs, and what a later server starts from. Pure.
//!
//! A log on disk records which regions may differ and which legs have missed a write. A mirror
//! whose log is in memory has only its *leg state*, which its server keeps where it survives the
//! death of the process: which legs are sources, that is, have all acknowledged writes, and whether
//! every region was in sync. The leg state is also kept with a log on disk, in case that disk
//! fails.
//!
//! Rules kept here: a journaled state never claims more than is true when a request is acknowledged
//! or a leg is copied over (`Claims::exceed`); a leg is known by its stable identity, and a leg
//! that is not in the record counts as empty; if no leg is known to be up to date, none is chosen
//! (`begin`).

use super::legs::LegSet;
use super::open_error::OpenError;
use super::table::InitialSync;

/// A leg in a leg state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLeg {
    /// The leg's stable identity ([`super::format::identity_of`]).
    pub identity: u64,
    /// The name of its disk, for display.
    pub name: String,
    /// It has all acknowledged writes. The others missed a write, or were never recovered.
    pub source: bool,
}

/// The state of the legs that a later server needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// The legs, in table order.
    pub legs: Vec<KnownLeg>,
    /// Every region was in sync, except for writes in flight.
    pub in_sync: bool,
    /// There is a log on disk, and it has every mark.
    pub log_works: bool,
}

impl LegState {
    /// The first leg with one of these identities that is a source.
    pub fn source_among(&self, identities: &[u64]) -> Option<usize> {
        self.sources(identities).iter().next()
    }

    fn of(&self, identity: u64) -> Option<&KnownLeg> {
        self.legs.iter().find(|leg| leg.identity == identity)
    }

    /// The legs with these identities that are sources.
    fn sources(&self, identities: &[u64]) -> LegSet {
        self.select(identities, |leg| leg.is_some_and(|leg| leg.source))
    }

    /// The legs with these identities that are recorded as not being sources.
    fn missed(&self, identities: &[u64]) -> LegSet {
        self.select(identities, |leg| leg.is_some_and(|leg| !leg.source))
    }

    fn select(&self, identities: &[u64], wanted: impl Fn(Option<&KnownLeg>) -> bool) -> LegSet {
        let mut set = LegSet::default();
        let chosen =
            identities.iter().enumerate().filter(|(_, identity)| wanted(self.of(**identity)));
        chosen.for_each(|(leg, _)| set.add(leg));
        set
    }
}

/// The claims of a leg state, with legs by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) sources: LegSet,
    pub(super) in_sync: bool,
    pub(super) log_works: bool,
}

impl Claims {
    /// Whether these claims are more than the truth: a server that trusts them could use a stale
    /// leg as a source.
    pub(super) fn exceed(self, truth: Claims) -> bool {
        !self.sources.without(truth.sources).is_empty()
            || self.in_sync && !truth.in_sync
            || self.log_works && !truth.log_works
    }

    /// The most that a record with one of two contents may claim.
    pub(super) fn or(self, other: Claims) -> Claims {
        Claims {
            sources: LegSet(self.sources.0 | other.sources.0),
            in_sync: self.in_sync || other.in_sync,
            log_works: self.log_works || other.log_works,
        }
    }
}

/// What preceded the opening of a mirror.
#[derive(Clone, Debug, Default)]
pub enum Past {
    /// Nothing: only the administrator's arguments count.
    #[default]
    None,
    /// This mirror's table replaces another mirror's, which left this state, or none that can be
    /// read.
    Replaced(Option<LegState>),
    /// A server died and left this state, or none that can be read.
    TakenOver(Option<LegState>),
}

/// What a mirror starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// The initial state of the regions.
    pub(super) initial: InitialSync,
    /// The source legs; `None` to take them from the log.
    pub(super) sources: Option<LegSet>,
    /// The administrator has named the sources.
    pub(super) named: bool,
}

/// Decides what a mirror starts from. `initial` is the administrator's argument, which is out of
/// date when a server takes over; `source` is given now, and overrides the record.
pub(super) fn begin(
    past: &Past,
    initial: InitialSync,
    source: Option<usize>,
    log_on_disk: bool,
    identities: &[u64],
) -> Result<Beginning, OpenError> {
    let said = Beginning { initial, sources: source.map(LegSet::one), named: source.is_some() };
    let from_log = Beginning { initial: InitialSync::FromLog, sources: None, named: false };
    match past {
        Past::None => Ok(said),
        Past::TakenOver(_) if source.is_some() => {
            Ok(Beginning { initial: InitialSync::Sync, ..said })
        }
        Past::TakenOver(state) => match state {
            // The log has worked all the time, and has more detail than the record.
            None if log_on_disk => Ok(from_log),
            Some(state) if log_on_disk && state.log_works => Ok(from_log),
            None => Err(OpenError::NoSource),
            Some(state) => from_record(state, identities),
        },
        // Another table on the same disks: the log or the administrator decides, but legs known to
        // be stale stay stale.
        Past::Replaced(_) if source.is_some() => Ok(said),
        Past::Replaced(None) if log_on_disk || initial == InitialSync::NoSync => Ok(said),
        Past::Replaced(None) => Err(OpenError::NoSource),
        Past::Replaced(Some(state))
            if log_on_disk && (state.log_works || initial == InitialSync::FromLog) =>
        {
            Ok(said)
        }
        Past::Replaced(Some(state)) => {
            let (sources, missed) = (state.sources(identities), state.missed(identities));
            let known = !sources.is_empty() || !missed.is_empty();
            if !known || initial == InitialSync::NoSync && missed.is_empty() {
                return Ok(said);
            }
            let Beginning { sources, .. } = from_record(state, identities)?;
            let initial = if initial == InitialSync::NoSync { InitialSync::Sync } else { initial };
            Ok(Beginning { initial, sources, named: false })
        }
    }
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
    Ok(Beginning { initial, sources: Some(sources), named: false })
}

#[cfg(test)]
#[path = "leg_state_tests.rs"]
mod tests;
