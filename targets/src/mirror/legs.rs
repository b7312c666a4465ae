//! The legs of a mirror: what went wrong on them, and which of them are right. Pure.
//!
//! Every region that is in sync is the same on all legs. Where one is not, the *source legs* are
//! right, and the same; all other legs may hold anything there. The *default leg* is the source leg
//! that reads of such regions go to and that they are recovered from. At first, when it is
//! not known which legs are right, there is one source leg; when all regions are in sync, all are.
//! A leg that misses a write is none any more. There is always one: a write that no source leg took
//! has not been acknowledged.
//!
//! A leg that is no source because it missed something is *stale*, which the log remembers: it is
//! not read from either until everything is in sync again, although it is right where a region is.
//!
//! Which leg a read goes to is decided in `read_balance` beside this file.

use super::status::LegHealth;
use crate::mutant::{self, Mutant};

/// Most legs of a mirror: kcopyd copies from one to at most eight others.
pub const MAX_LEGS: usize = 9;
/// Sequential streams of reads told apart on each leg.
pub(super) const STREAMS: usize = 4;

/// A set of legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegSet(pub u16);

impl LegSet {
    /// One leg.
    pub fn one(leg: usize) -> LegSet {
        LegSet(1 << leg)
    }

    /// The first so many legs.
    pub fn first(count: usize) -> LegSet {
        LegSet(u16::try_from((1_u32 << count) - 1).unwrap_or(u16::MAX))
    }

    /// Whether a leg is among them.
    pub fn has(self, leg: usize) -> bool {
        self.0 >> leg & 1 == 1
    }

    /// Adds a leg.
    pub fn add(&mut self, leg: usize) {
        self.0 |= 1 << leg;
    }

    /// Those that are not in the other set.
    pub fn without(self, other: LegSet) -> LegSet {
        LegSet(self.0 & !other.0)
    }

    /// The same legs when one of all is taken out and those after it move up.
    pub fn closed_at(self, leg: usize) -> LegSet {
        let before = (1 << leg) - 1;
        LegSet(self.0 & before | self.0 >> 1 & !before)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The legs in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_LEGS).filter(move |leg| self.has(*leg))
    }
}

/// What went wrong on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write, or a flush that a user asked for.
    Write,
    /// A flush before regions are cleaned.
    Flush,
    /// Recovery: the source could not be read, or another leg not be written.
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

/// Numbers of errors since the mirror was opened.
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
    /// Kinds of failures since everything was in sync.
    pub(super) kinds: u8,
    totals: ErrorCounts,
    pub(super) reads_in_flight: u32,
    /// Average latency of a read in ms, times `read_balance::SCALE`.
    pub(super) latency: u64,
    /// Where the next read of a sequential stream would start.
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
    /// It succeeds on the legs that are left.
    Succeed,
}

/// All that is known about the legs of a mirror.
pub struct Legs {
    pub(super) legs: Vec<Leg>,
    handle_errors: bool,
    keep_log: bool,
    default: usize,
    sources: LegSet,
    stale: LegSet,
    /// Source legs of which that is durable: everything they have been recovered with was flushed.
    flushed: LegSet,
    /// Every region has been in sync since the last failure.
    in_sync: bool,
    /// A leg has failed since everything was in sync.
    leg_failure: bool,
    pub(super) turn: usize,
}

impl Legs {
    /// Healthy legs of which `stale` missed something in an earlier life, and `sources` are those
    /// that are right. If none is named it is the first that is not stale, and there must be one.
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
            in_sync: false,
            leg_failure: false,
            turn: 0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.legs.len()
    }

    /// All of them.
    pub fn all(&self) -> LegSet {
        LegSet::first(self.legs.len())
    }

    /// The leg that reads of regions out of sync go to.
    pub fn default_leg(&self) -> usize {
        self.default
    }

    /// The legs that are right everywhere.
    pub fn sources(&self) -> LegSet {
        self.sources
    }

    /// The legs that missed something.
    pub fn stale(&self) -> LegSet {
        self.stale
    }

    /// These legs have been flushed since they became sources.
    pub fn mark_flushed(&mut self, legs: LegSet) {
        self.flushed = LegSet((self.flushed.0 | legs.0) & self.sources.0);
    }

    /// None of the source legs is known to have been flushed.
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

    /// Whether another source leg than this one has been flushed since it became one.
    pub fn flushed_without(&self, leg: usize) -> bool {
        !LegSet(self.sources.0 & self.flushed.0).without(LegSet::one(leg)).is_empty()
    }

    /// The legs that must not be copied from after a crash, for the log; `None` if no source leg
    /// has been flushed since it became one, so that all others may still be needed.
    pub fn to_remember(&self) -> Option<LegSet> {
        if self.stale.is_empty() && self.sources != self.all() {
            // Nobody has missed anything yet; the first leg is the source again.
            return Some(LegSet::default());
        }
        let right = LegSet(self.sources.0 & self.flushed.0);
        (!right.is_empty()).then(|| self.all().without(right))
    }

    /// Whether everything has been in sync since the last failure.
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// The letter of a leg's health: the worst that happened to it since everything was in sync.
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

    /// Notes an error of a leg; says whether it is the leg's first of that kind. A default leg that
    /// fails gives way to a source leg without errors, if there is one.
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

    /// Some legs missed something that others took: they are sources no more. `false` if no source
    /// leg took it; then one of them stays the source, and what was missed counts as never written.
    pub fn miss(&mut self, missed: LegSet) -> bool {
        self.in_sync = false;
        let left = self.sources.without(missed);
        let kept = !left.is_empty();
        // Where all source legs failed they may differ from now on, so only one of them can go on
        // being right.
        self.sources = if kept { left } else { LegSet::one(self.default) };
        self.stale = self.all().without(self.sources);
        self.mark_flushed(LegSet::default());
        self.choose_default();
        kept
    }

    /// The legs may differ somewhere although none failed: the default leg alone is right there.
    pub fn diverge(&mut self) {
        self.in_sync = false;
        self.sources = LegSet::one(self.default);
        self.stale = self.all().without(self.sources);
        self.mark_flushed(LegSet::default());
    }

    /// One leg is right from now on, by somebody's word.
    pub fn believe(&mut self, leg: usize) {
        self.default = leg;
        self.diverge();
    }

    /// Every region is in sync: errors are forgotten and all legs are sources, though some of them
    /// must be flushed before the log may say so. `false` if that was known.
    pub fn all_in_sync(&mut self) -> bool {
        if self.in_sync {
            return false;
        }
        self.in_sync = true;
        self.leg_failure = false;
        self.sources = self.all();
        self.stale = LegSet::default();
        for leg in &mut self.legs {
            leg.kinds = 0;
        }
        true
    }

    /// A new leg takes the place of one, or comes last; it is right nowhere. `false` if no source
    /// leg would be left.
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

    /// Takes a leg out; those after it move up. `false` if no source leg would be left.
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

    /// Writes need not be held any longer for a leg that is gone.
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

    /// What becomes of a write or flush that did not reach all legs, or whose mark did not reach
    /// the log. `kept`: some source leg took it.
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

    /// Whether a write to a region out of sync is not even tried, because legs have failed.
    pub fn holds_out_of_sync(&self) -> bool {
        self.leg_failure && self.handle_errors && !self.keep_log
    }
}

#[cfg(test)]
mod tests;
