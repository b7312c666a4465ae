//! The journaled state of a mirror's legs. Pure.
//!
//! A log on disk records which regions may differ and which legs have missed a write. A mirror
//! whose log is in memory has only its *leg state*, which its server keeps where it survives the
//! death of the process: which legs are sources, that is, have all acknowledged writes, and whether
//! every region was in sync. The leg state is also kept with a log on disk, in case that disk
//! fails.
//!
//! Rules kept here: a journaled state never claims more than is true when a request is acknowledged
//! or a leg is copied over (`Claims::exceed`); a leg is known by its stable identity, and a leg
//! that is not in the record counts as empty; a leg that left a mirror stays in its state as one
//! that is not a source (`former`).

use super::leg_flags::NO_IDENTITY;
use super::leg_set::LegSet;
use super::open_error::OpenError;
use crate::mutant::{self, Mutant};

/// A leg in a leg state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLeg {
    /// The leg's stable identity ([`super::leg_flags::identity_of`]).
    pub identity: u64,
    /// Tells its disk from others that have the same identity in this boot; zero if no other disk
    /// can have it.
    pub number: u64,
    /// The name of its disk, for display.
    pub name: String,
    /// It has all acknowledged writes. The others missed a write, or were never recovered.
    pub source: bool,
}

/// Most former legs in a leg state: more than a user replaces by hand in one boot. The oldest go
/// first.
const MAX_FORMER: usize = 256;

/// The state of the legs that a later server needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// The legs, in table order, and then those that left the mirror.
    pub legs: Vec<KnownLeg>,
    /// Every region was in sync, except for writes in flight.
    pub in_sync: bool,
    /// There is a log on disk, and it has every mark.
    pub log_works: bool,
    /// The identity of that log's disk; [`NO_IDENTITY`] in the records of earlier versions.
    pub log: u64,
    /// Every region has been in sync at some time: a leg that is not a source has missed writes, or
    /// was put in later. Otherwise it may be one that its user did not want to be overwritten.
    pub was_in_sync: bool,
}

impl LegState {
    /// The first leg with one of these identities that is a source.
    pub fn source_among(&self, identities: &[u64]) -> Option<usize> {
        self.sources(identities).iter().next()
    }

    /// The first leg with one of these identities that is recorded as not being a source.
    pub fn stale_among(&self, identities: &[u64]) -> Option<usize> {
        self.missed(identities).iter().next()
    }

    /// Whether the log on the disk with this identity has every mark. One on another disk knows
    /// nothing of the writes of that time, however clean it is.
    pub(super) fn is_marked_in(&self, log: u64) -> bool {
        let is_it = [NO_IDENTITY, log].contains(&self.log);
        self.log_works && (is_it || mutant::is(Mutant::OtherLogTrusted))
    }

    /// Whether a leg is in this state.
    pub fn knows(&self, identity: u64) -> bool {
        self.of(identity).is_some()
    }

    /// Whether a later mirror must know this state: a leg, present or former, is not a source.
    pub fn has_stale(&self) -> bool {
        self.legs.iter().any(|leg| !leg.source)
    }

    /// The disks of the legs that are sources, or of the others, separated by commas.
    pub fn names(&self, source: bool) -> String {
        let legs = self.legs.iter().filter(|leg| leg.source == source);
        legs.map(|leg| leg.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// For the user of a mirror that has ended: which legs are up to date.
    pub fn told(&self) -> String {
        let (stale, sources) = (self.names(false), self.names(true));
        format!(
            "not up to date: {stale}; up to date: {}; until the machine is restarted, `add` of \
             these legs takes the first one as the source only if it is up to date",
            if sources.is_empty() { "none" } else { &sources }
        )
    }

    /// What the state of an ended mirror still says when another one has ended with `later`: that
    /// one speaks for the legs that it knows, and for no others. `None`: no stale leg remains.
    pub fn outdated_by(mut self, later: &LegState) -> Option<LegState> {
        let shares = self.legs.iter().any(|leg| later.knows(leg.identity));
        if shares && mutant::is(Mutant::EndedLegsErased) {
            return None;
        }
        self.legs.retain(|leg| !later.knows(leg.identity));
        Some(self).filter(LegState::has_stale)
    }

    /// Leaves out the legs that are neither among those with these identities nor in one of the
    /// ended mirrors that a mirror continues: it writes nothing that they would miss. A mirror
    /// continues the ones that had its source as a source; without a `source`, any of its legs.
    pub fn continuing(mut self, ended: &[LegState], ids: &[u64], source: Option<u64>) -> LegState {
        if mutant::is(Mutant::EndedLegsTakenOver) {
            return self;
        }
        let begins = |id: &u64| source.is_none_or(|source| source == *id);
        let continued: Vec<&LegState> = ended
            .iter()
            .filter(|state| ids.iter().filter(|id| begins(id)).any(|id| state.has_source(*id)))
            .collect();
        self.legs.retain(|leg| {
            let id = leg.identity;
            ids.contains(&id) || continued.iter().any(|state| state.knows(id))
        });
        self
    }

    /// The state of several mirrors that have ended. A leg that one of them has as stale is stale.
    pub fn joined(states: impl IntoIterator<Item = LegState>) -> Option<LegState> {
        states.into_iter().reduce(|mut all, other| {
            for leg in other.legs {
                match all.legs.iter_mut().find(|known| known.identity == leg.identity) {
                    Some(known) => known.source &= leg.source,
                    None => all.legs.push(leg),
                }
            }
            all.was_in_sync &= other.was_in_sync;
            let (in_sync, log_works) = (other.in_sync, other.log_works);
            LegState {
                in_sync: all.in_sync && in_sync,
                log_works: all.log_works && log_works && all.log == other.log,
                ..all
            }
        })
    }

    /// The source of a new mirror of these legs, if this state of an ended one has a say in that.
    /// Without one, the first leg is the source. Another one is only with a log (`by_log`), which
    /// can confirm that: the disks may have been used for something else since the mirror ended.
    ///
    /// # Errors
    /// The first leg is not known to have all acknowledged writes, and another one may have them,
    /// or none has.
    pub fn choose(&self, identities: &[u64], by_log: bool) -> Result<Option<usize>, OpenError> {
        let (sources, missed) = (self.sources(identities), self.missed(identities));
        let first_missed = missed.has(0) && self.was_in_sync;
        let first_missed = first_missed && (by_log || mutant::is(Mutant::EndedLegsTrusted));
        match sources.iter().next() {
            None if !missed.has(0) => Ok((!missed.is_empty()).then_some(0)),
            Some(0) => Ok((!missed.is_empty()).then_some(0)),
            Some(leg) if first_missed => Ok(Some(leg)),
            _ => Err(OpenError::NoSource),
        }
    }

    /// The legs of this state that are not among those with these identities: a mirror of the
    /// latter goes on without them.
    pub(super) fn former(&self, identities: &[u64]) -> Vec<KnownLeg> {
        let left = self.legs.iter().filter(|leg| !identities.contains(&leg.identity));
        left.map(|leg| KnownLeg { source: false, ..leg.clone() }).collect()
    }

    fn has_source(&self, identity: u64) -> bool {
        self.of(identity).is_some_and(|leg| leg.source)
    }

    fn of(&self, identity: u64) -> Option<&KnownLeg> {
        self.legs.iter().find(|leg| leg.identity == identity)
    }

    /// The legs with these identities that are sources.
    pub(super) fn sources(&self, identities: &[u64]) -> LegSet {
        self.select(identities, |leg| leg.is_some_and(|leg| leg.source))
    }

    /// The legs with these identities that are recorded as not being sources.
    pub(super) fn missed(&self, identities: &[u64]) -> LegSet {
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
    /// A mirror of one of these legs ended in this boot with this state.
    Ended(LegState),
}

impl Past {
    /// The recorded state, if there is one.
    pub(super) fn state(&self) -> Option<&LegState> {
        match self {
            Past::None => None,
            Past::Replaced(state) | Past::TakenOver(state) => state.as_ref(),
            Past::Ended(state) => Some(state),
        }
    }

    /// Whether every region of a mirror of these legs has been in sync before.
    pub(super) fn was_in_sync(&self, identities: &[u64]) -> bool {
        let known = |past: &LegState| identities.iter().all(|id| past.knows(*id));
        self.state().is_some_and(|past| past.was_in_sync && known(past))
    }

    /// Whether a mirror of these legs has been in its first recovery: a leg that is not a source
    /// has all that has been copied, where the log has it as in sync.
    pub(super) fn is_in_first_recovery(&self, identities: &[u64]) -> bool {
        let known = |past: &LegState| identities.iter().all(|id| past.knows(*id));
        self.state().is_some_and(|past| !past.was_in_sync && known(past))
            && !mutant::is(Mutant::FirstRecoveryForgotten)
    }

    /// Whether the log on a disk lacks a stale leg that is recorded: it is an old copy of that log,
    /// or the record was written just before the server died. During the first recovery the log of
    /// an earlier version has no leg as stale; its marks say more.
    pub(super) fn is_newer_than(&self, stale: LegSet, identities: &[u64]) -> bool {
        let newer = |past: &LegState| {
            past.was_in_sync && !past.missed(identities).without(stale).is_empty()
        };
        self.state().is_some_and(newer) && !mutant::is(Mutant::OldCopyBelieved)
    }

    /// Whether a log on disk does not know what is recorded of the legs: it is a new one, or that
    /// of another time, or was left for another table. One of another time knows nothing of what
    /// the legs have got since, also if it has the same legs as stale.
    pub(super) fn is_unknown_to_log(&self, log: FoundLog, identities: &[u64]) -> bool {
        let Past::Ended(state) = self else { return false };
        let unmarked = !state.is_marked_in(log.identity);
        let left = log.stale == LegSet::first(identities.len());
        let believed = mutant::is(Mutant::OldLogBelieved)
            && state.missed(identities).without(log.stale).is_empty();
        log.fresh || left || unmarked && !believed || self.is_newer_than(log.stale, identities)
    }
}

/// What is true of the legs of a mirror that is being left for another table.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// The legs that get all further writes.
    pub(super) stay: LegSet,
    /// They were equal when it was left.
    pub(super) in_sync: bool,
}

/// A log on disk, as it was found when a mirror was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundLog {
    /// The identity of its disk.
    pub(super) identity: u64,
    /// It was no mirror's log.
    pub(super) fresh: bool,
    /// Another program has used it while it had legs as stale, of which it knew nothing.
    pub(super) doubtful: bool,
    /// The legs that it has as stale.
    pub(super) stale: LegSet,
}

/// Adds a leg that leaves a mirror to the former ones.
pub(super) fn remember_former(former: &mut Vec<KnownLeg>, left: KnownLeg) {
    former.retain(|leg| leg.identity != left.identity);
    if former.len() == MAX_FORMER {
        former.remove(0);
    }
    former.push(KnownLeg { source: false, ..left });
}

#[cfg(test)]
#[path = "leg_state_tests.rs"]
mod tests;
