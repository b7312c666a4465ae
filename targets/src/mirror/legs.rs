//! The legs of a mirror: their failures, and which of them are up to date. Pure.
//!
//! A region in sync is the same on all legs. In a region out of sync, the *source legs* are up to
//! date, and equal; the content of all other legs is undefined there. The *default leg* is the
//! source leg from which such regions are read and recovered. At first, when it is not known which
//! legs are up to date, there is one source leg; when all regions are in sync, all legs are
//! sources. A leg that misses a write is no longer a source. There is always at least one source: a
//! write that no source leg completed has not been acknowledged.
//!
//! A leg that is not a source because it missed a write is *stale*: it is not read until all
//! regions are in sync again, even where it is up to date. The log has every leg as stale that is
//! not a source, also before it has missed a write: in a first recovery, whose legs are no stale
//! ones also for the next server.
//!
//! `read_balance` decides which leg a read goes to.

use super::leg_set::LegSet;
use super::status::LegHealth;
use crate::mutant::{self, Mutant};

/// Sequential read streams tracked per leg.
pub(super) const STREAMS: usize = 4;

/// The kind of a leg's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write, or a user's flush.
    Write,
    /// A flush before regions are cleaned.
    Flush,
    /// Recovery: the source could not be read, or another leg could not be written.
    Sync,
    /// A read.
    Read,
}

impl Failure {
    pub(super) fn bit(self) -> u8 {
        match self {
            Failure::Write => 1,
            Failure::Flush => 2,
            Failure::Sync => 4,
            Failure::Read => 8,
        }
    }
}

/// Error counts since the mirror was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Of reads.
    pub reads: u64,
    /// Of writes and users' flushes.
    pub writes: u64,
    /// Of flushes before cleaning.
    pub flushes: u64,
    /// In recovery.
    pub syncs: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Leg {
    /// Kinds of failures since all regions were in sync.
    pub(super) kinds: u8,
    totals: ErrorCounts,
    pub(super) reads_in_flight: u32,
    /// Average latency of a read in ms, times `read_balance::SCALE`.
    pub(super) latency: u64,
    /// The sector at which the next read of each sequential stream would start.
    pub(super) streams: [u64; STREAMS],
    pub(super) next_stream: usize,
}

/// What to do with a write or flush that did not reach all legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fails.
    Fail,
    /// It is held until the mirror is suspended or its legs are changed.
    Hold,
    /// It succeeds on the remaining legs.
    Succeed,
}

/// The state of the legs of a mirror.
pub struct Legs {
    pub(super) legs: Vec<Leg>,
    handle_errors: bool,
    keep_log: bool,
    default: usize,
    sources: LegSet,
    stale: LegSet,
    /// Source legs flushed since they became sources, so that all their data is durable.
    flushed: LegSet,
    /// The sources may differ in regions out of sync: requests that were in flight when a server
    /// died have reached some of them.
    unequal: bool,
    /// Every region has been in sync since the last failure.
    in_sync: bool,
    /// A leg has failed since all regions were in sync.
    leg_failure: bool,
    pub(super) turn: usize,
}

impl Legs {
    /// Legs without errors. `stale`: those that missed a write under an earlier server. `sources`:
    /// those that are up to date; `None` for the first leg that is not stale, which must exist.
    pub fn new(
        count: usize,
        handle_errors: bool,
        keep_log: bool,
        stale: LegSet,
        sources: Option<LegSet>,
    ) -> Legs {
        let all = LegSet::first(count);
        let default = sources.unwrap_or(all.without(stale)).iter().next().unwrap_or(0);
        let stale = match sources {
            Some(sources) if sources != LegSet::one(0) || !stale.is_empty() => all.without(sources),
            _ => stale,
        };
        let sources = sources.unwrap_or(LegSet::one(default));
        Legs {
            legs: vec![Leg::default(); count],
            handle_errors,
            keep_log,
            default,
            sources,
            stale,
            flushed: sources,
            unequal: false,
            in_sync: false,
            leg_failure: false,
            turn: 0,
        }
    }

    /// The number of legs.
    pub fn count(&self) -> usize {
        self.legs.len()
    }

    /// All legs.
    pub fn all(&self) -> LegSet {
        LegSet::first(self.legs.len())
    }

    /// The leg from which regions out of sync are read.
    pub fn default_leg(&self) -> usize {
        self.default
    }

    /// The legs that are up to date everywhere.
    pub fn sources(&self) -> LegSet {
        self.sources
    }

    /// The legs that missed a write.
    pub fn stale(&self) -> LegSet {
        self.stale
    }

    /// These legs have been flushed since they became sources.
    pub fn mark_flushed(&mut self, legs: LegSet) {
        self.flushed = LegSet((self.flushed.0 | legs.0) & self.sources.0);
    }

    /// The sources may differ in regions out of sync until all are in sync.
    pub fn expect_unequal(&mut self) {
        self.unequal = true;
    }

    /// The legs that are not sources are those of a first recovery: the regions in sync were copied
    /// to them, and are read from them.
    pub fn expect_copies(&mut self) {
        self.stale = LegSet::default();
    }

    /// Whether all legs are sources, and are equal.
    pub fn all_equal(&self) -> bool {
        self.sources == self.all() && (!self.unequal || mutant::is(Mutant::UnequalUncopied))
    }

    /// The legs to which a region out of sync is copied from one of the sources.
    pub fn targets_of(&self, source: usize) -> LegSet {
        let equal = if self.unequal && !mutant::is(Mutant::UnequalUncopied) {
            LegSet::one(source)
        } else {
            self.sources
        };
        self.all().without(equal)
    }

    /// Forgets which source legs have been flushed.
    pub fn forget_flushed(&mut self) {
        self.flushed = LegSet::default();
    }

    /// The source legs that have been flushed since they became sources.
    pub fn flushed(&self) -> LegSet {
        LegSet(self.flushed.0 & self.sources.0)
    }

    /// Whether any source leg has been flushed since it became one.
    pub fn any_flushed(&self) -> bool {
        !self.flushed.is_empty()
    }

    /// Whether a source leg other than this one has been flushed since it became one.
    pub fn flushed_without(&self, leg: usize) -> bool {
        !LegSet(self.sources.0 & self.flushed.0).without(LegSet::one(leg)).is_empty()
    }

    /// For the log: the legs that must not be copied from after a crash, also if they have missed
    /// no write yet: one to a region out of sync will not reach them. `None` if no source leg has
    /// been flushed since it became one, as the other legs may still be needed.
    pub fn to_remember(&self) -> Option<LegSet> {
        if self.stale.is_empty() && mutant::is(Mutant::FirstSourceUnnamed) {
            return Some(LegSet::default());
        }
        let right = LegSet(self.sources.0 & self.flushed.0);
        (!right.is_empty()).then(|| self.all().without(right))
    }

    /// Whether all regions have been in sync since the last failure.
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// A leg's health: its worst failure since all regions were in sync.
    pub fn health(&self, leg: usize) -> LegHealth {
        let has = |failure: Failure| self.legs[leg].kinds & failure.bit() != 0;
        match self.legs[leg].kinds {
            0 => LegHealth::Alive,
            _ if has(Failure::Flush) => LegHealth::FlushFailed,
            _ if has(Failure::Write) => LegHealth::Dead,
            _ if has(Failure::Sync) => LegHealth::SyncFailed,
            _ => LegHealth::ReadFailed,
        }
    }

    /// A leg's errors since the mirror was opened.
    pub fn totals(&self, leg: usize) -> ErrorCounts {
        self.legs[leg].totals
    }

    /// Counts an error of a leg; returns whether it is the leg's first of that kind. If the default
    /// leg fails, a source leg without errors becomes the default, if there is one.
    pub fn fail(&mut self, leg: usize, failure: Failure) -> bool {
        let Some(it) = self.legs.get_mut(leg) else { return false };
        self.leg_failure = true;
        let totals = &mut it.totals;
        *match failure {
            Failure::Write => &mut totals.writes,
            Failure::Flush => &mut totals.flushes,
            Failure::Sync => &mut totals.syncs,
            Failure::Read => &mut totals.reads,
        } += 1;
        let first = it.kinds & failure.bit() == 0;
        it.kinds |= failure.bit();
        if leg == self.default {
            self.choose_default();
        }
        first
    }

    /// Some legs missed a write that others completed: they are no longer sources. `false` if no
    /// source leg did; then one of them stays the source, and the write counts as never done.
    pub fn miss(&mut self, missed: LegSet) -> bool {
        self.in_sync = false;
        let left = self.sources.without(missed);
        let kept = !left.is_empty();
        // If all source legs failed, they may differ from now on, so only one of them can remain a
        // source.
        self.sources = if kept { left } else { LegSet::one(self.default) };
        self.stale = self.all().without(self.sources);
        self.mark_flushed(LegSet::default());
        self.choose_default();
        kept
    }

    /// The legs may differ although none failed: the default leg becomes the only source.
    pub fn diverge(&mut self) {
        self.in_sync = false;
        self.sources = LegSet::one(self.default);
        self.stale = self.all().without(self.sources);
        self.mark_flushed(LegSet::default());
    }

    /// Makes one leg the only source, at the user's request.
    pub fn trust_only(&mut self, leg: usize) {
        self.default = leg;
        self.diverge();
    }

    /// Every region is in sync: errors are cleared and all legs are sources, though some must be
    /// flushed before the log may record it. `false` if the regions were in sync already.
    pub fn all_in_sync(&mut self) -> bool {
        if self.in_sync {
            return false;
        }
        self.in_sync = true;
        self.unequal = false;
        self.leg_failure = false;
        self.sources = self.all();
        self.stale = LegSet::default();
        for leg in &mut self.legs {
            leg.kinds = 0;
        }
        true
    }

    /// Replaces a leg by a new one, or adds one at the end; the new leg is stale. `false` if no
    /// source leg would be left.
    pub fn renew(&mut self, leg: usize) -> bool {
        if self.sources.without(LegSet::one(leg)).is_empty() {
            return false;
        }
        if leg == self.legs.len() {
            self.legs.push(Leg::default());
        }
        self.legs[leg] = Leg::default();
        self.miss(LegSet::one(leg));
        self.forget_failures();
        true
    }

    /// Removes a leg; those after it move up. `false` if no source leg would be left.
    pub fn remove(&mut self, leg: usize) -> bool {
        if self.sources.without(LegSet::one(leg)).is_empty() {
            return false;
        }
        self.legs.remove(leg);
        (self.sources, self.stale) = (self.sources.closed_at(leg), self.stale.closed_at(leg));
        self.flushed = self.flushed.closed_at(leg);
        if self.default > leg {
            self.default -= 1;
        } else if self.default == leg {
            self.default = self.sources.iter().next().unwrap_or(0);
        }
        self.choose_default();
        self.forget_failures();
        true
    }

    /// Writes are no longer held for a leg that has been removed.
    fn forget_failures(&mut self) {
        self.leg_failure = self.legs.iter().any(|leg| leg.kinds != 0);
    }

    fn choose_default(&mut self) {
        let keeps = self.sources.has(self.default) && self.legs[self.default].kinds == 0;
        if keeps {
            return;
        }
        let healthy = self.sources.iter().find(|leg| self.legs[*leg].kinds == 0);
        if let Some(leg) = healthy {
            self.default = leg;
        } else if !self.sources.has(self.default) {
            self.default = self.sources.iter().next().unwrap_or(0);
        }
    }

    /// What to do with a write or flush that did not reach all legs, or whose mark failed. `kept`:
    /// a source leg completed it.
    pub fn verdict(&self, log_failed: bool, kept: bool) -> Verdict {
        let hopeless = self.legs.iter().all(|leg| leg.kinds != 0);
        if hopeless || self.keep_log && log_failed {
            Verdict::Fail
        } else if self.handle_errors && !self.keep_log && !mutant::is(Mutant::AckThoughMissed) {
            Verdict::Hold
        } else if kept {
            Verdict::Succeed
        } else {
            Verdict::Fail
        }
    }

    /// Whether a write to a region out of sync is held unattempted, because a leg has failed.
    pub fn holds_out_of_sync(&self) -> bool {
        self.leg_failure && self.handle_errors && !self.keep_log
    }
}

#[cfg(test)]
mod tests;
