//! What a later server must know of a mirror's legs, and what it may begin with. Pure.
//!
//! A log on a disk says which regions may differ and which legs have missed something. A mirror
//! whose log is in memory has only its *leg state*, which its server keeps where the death of the
//! process does not reach: which legs are sources, that is have everything that was acknowledged,
//! and whether every region was in sync. The same is kept for a log on a disk, for the day on which
//! that disk fails.
//!
//! Rules kept here: a state on record never claims more than is true when a request is acknowledged
//! or a leg is copied over (`Claims::exceed`); a leg is known by its lasting identity, and one that
//! the record does not know has nothing; where no leg is known to be right none is chosen
//! (`begin`).

use super::legs::LegSet;
use super::open_error::OpenError;
use super::table::InitialSync;

/// A leg in a leg state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLeg {
    /// What it is known by ([`super::format::identity_of`]).
    pub identity: u64,
    /// What its disk was called, for people.
    pub name: String,
    /// It has everything that was acknowledged. The others have missed something, or were never
    /// recovered.
    pub source: bool,
}

/// What a later server must know of the legs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// The legs, in table order.
    pub legs: Vec<KnownLeg>,
    /// Every region was in sync, but for writes in flight.
    pub in_sync: bool,
    /// There is a log on a disk, and it has every mark.
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

    /// Those of the legs with these identities that are sources.
    fn sources(&self, identities: &[u64]) -> LegSet {
        self.select(identities, |leg| leg.is_some_and(|leg| leg.source))
    }

    /// Those that the record knows to have missed something.
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

/// What a leg state claims of the legs at their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) sources: LegSet,
    pub(super) in_sync: bool,
    pub(super) log_works: bool,
}

impl Claims {
    /// Whether these claims are more than what is true: a server that trusted them could take a leg
    /// for right that is not.
    pub(super) fn exceed(self, truth: Claims) -> bool {
        !self.sources.without(truth.sources).is_empty()
            || self.in_sync && !truth.in_sync
            || self.log_works && !truth.log_works
    }

    /// What a record claims at most that has one of two contents.
    pub(super) fn or(self, other: Claims) -> Claims {
        Claims {
            sources: LegSet(self.sources.0 | other.sources.0),
            in_sync: self.in_sync || other.in_sync,
            log_works: self.log_works || other.log_works,
        }
    }
}

/// What was before a mirror is opened.
#[derive(Clone, Debug, Default)]
pub enum Past {
    /// Nothing: what the administrator says is all there is to know.
    #[default]
    None,
    /// This mirror's table takes the place of another one's, which left this, or nothing that can
    /// be read.
    Replaced(Option<LegState>),
    /// A server died and left this, or nothing that can be read.
    TakenOver(Option<LegState>),
}

/// What a mirror begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// What to believe of the regions.
    pub(super) initial: InitialSync,
    /// The legs that are right; `None` for what the log says.
    pub(super) sources: Option<LegSet>,
    /// They are so by the administrator's word.
    pub(super) named: bool,
}

/// Decides what a mirror begins with. `initial` is the administrator's word, which was about
/// another moment when a server takes over; `source` is said now, and counts for more than what is
/// on record.
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
            // The log was there all the time, and knows more than the record.
            None if log_on_disk => Ok(from_log),
            Some(state) if log_on_disk && state.log_works => Ok(from_log),
            None => Err(OpenError::NoSource),
            Some(state) => from_record(state, identities),
        },
        // Another table on the same disks: the log or the administrator decide, but nothing that is
        // known is forgotten.
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

/// Writes that were in flight when the server died are sent once more, so legs that had everything
/// become equal again.
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
