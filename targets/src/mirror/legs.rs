//! The legs of a mirror: what went wrong on them, which of them are right, and which one a read goes to. Pure.
//!
//! Every region that is in sync is the same on all legs. Where one is not, the *source legs* are right, and the same; all
//! other legs may hold anything there. The *default leg* is the source leg that reads of such regions go to and that they
//! are recovered from. At first, when nobody knows which legs are right, there is one source leg; when all regions are in
//! sync, all legs are sources. A leg that misses a write is none any more, and there is always one: a write that no source
//! leg took has changed nothing that anybody was promised.
//!
//! A leg that is no source because it missed something is *stale*, which the log remembers: it is not read from either
//! until everything is in sync again, although it is right where a region is.
//!
//! Reads of regions in sync go to the leg with the least to do: fewest reads in flight, weighted with how long it took
//! lately. A sequential stream stays on its leg, whose read-ahead it profits from, as long as that leg is not much busier
//! than others.

use crate::mutant::{self, Mutant};
use crate::table::LegHealth;
use crate::units::{Sector, Sectors};

/// Most legs of a mirror: kcopyd copies from one to at most eight others.
pub const MAX_LEGS: usize = 9;
/// Sequential streams that are kept apart on each leg.
const STREAMS: usize = 4;
/// Reads in flight that a leg may have more than the least busy one before a stream leaves it.
const STREAM_SLACK: u32 = 8;
/// Weight of the latest read in a leg's average latency: one part in so many.
const AVERAGED: u64 = 8;
/// Fraction of its average by which a leg's latency fades with each read that passes it by, so that it is tried again.
const FADING: u64 = 256;
/// Fixed-point factor of average latencies.
const SCALE: u64 = 1024;

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
    fn bit(self) -> u8 {
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
struct Leg {
    /// Kinds of failures since everything was in sync.
    kinds: u8,
    totals: ErrorCounts,
    reads_in_flight: u32,
    /// Average latency of a read in ms, times [`SCALE`].
    latency: u64,
    /// Where the next read of a sequential stream would start.
    streams: [u64; STREAMS],
    next_stream: usize,
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
    legs: Vec<Leg>,
    handle_errors: bool,
    keep_log: bool,
    default: usize,
    sources: LegSet,
    stale: LegSet,
    /// Every region has been in sync since the last failure.
    in_sync: bool,
    /// A leg has failed since everything was in sync.
    leg_failure: bool,
    turn: usize,
}

impl Legs {
    /// Healthy legs of which `stale` missed something in an earlier life, and `source` is the one to recover from.
    /// Without a named source it is the first that is not stale.
    pub fn new(count: usize, handle_errors: bool, keep_log: bool, stale: LegSet, source: Option<usize>) -> Legs {
        let all = LegSet::first(count);
        let default = source.or_else(|| all.without(stale).iter().next()).unwrap_or(0);
        let stale = if source.is_some_and(|leg| leg != 0 || !stale.is_empty()) {
            all.without(LegSet::one(default))
        } else {
            stale
        };
        Legs {
            legs: vec![Leg::default(); count],
            handle_errors,
            keep_log,
            default,
            sources: LegSet::one(default),
            stale,
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

    /// Notes an error of a leg; says whether it is the leg's first of that kind. A default leg that fails gives way to a
    /// source leg without errors, if there is one.
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

    /// Some legs missed something that others took: they are sources no more. `false` if no source leg took it; then one
    /// of them stays the source, and what was missed counts as never written.
    pub fn miss(&mut self, missed: LegSet) -> bool {
        self.in_sync = false;
        let left = self.sources.without(missed);
        let kept = !left.is_empty();
        // Where all source legs failed they may differ from now on, so only one of them can go on being right.
        self.sources = if kept { left } else { LegSet::one(self.default) };
        self.stale = self.all().without(self.sources);
        self.choose_default();
        kept
    }

    /// The legs may differ somewhere although none failed: the default leg alone is right there.
    pub fn diverge(&mut self) {
        self.in_sync = false;
        self.sources = LegSet::one(self.default);
        self.stale = self.all().without(self.sources);
    }

    /// One leg is right from now on, by somebody's word.
    pub fn believe(&mut self, leg: usize) {
        self.default = leg;
        self.diverge();
    }

    /// Every region is in sync: errors are forgotten and all legs are sources. `false` if that was known.
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

    /// A new leg takes the place of one, or comes last; it is right nowhere. `false` if no source leg would be left.
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
        let without = |set: LegSet| LegSet(set.0 & ((1 << leg) - 1) | set.0 >> 1 & !((1 << leg) - 1));
        (self.sources, self.stale) = (without(self.sources), without(self.stale));
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

    /// What becomes of a write or flush that did not reach all legs, or whose mark did not reach the log. `kept`: some
    /// source leg took it.
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

    /// The leg for a read of a region that is in sync, of those not tried yet: one without errors if there is one, else
    /// one that could be written at least, else any that is not stale.
    pub fn pick(&mut self, sector: Sector, tried: LegSet) -> Option<usize> {
        let untried = self.all().without(self.stale).without(tried);
        let at_most = |kinds: u8| {
            let fits = untried.iter().filter(|leg| self.legs[*leg].kinds & !kinds == 0);
            fits.fold(LegSet::default(), |set, leg| LegSet(set.0 | 1 << leg))
        };
        let tiers = [at_most(0), at_most(Failure::Read.bit()), untried];
        let candidates = tiers.into_iter().find(|tier| !tier.is_empty())?;
        let leg = self.stream(sector, candidates).or_else(|| self.least_busy(candidates))?;
        self.turn = (leg + 1) % self.legs.len();
        for other in candidates.without(LegSet::one(leg)).iter() {
            let latency = &mut self.legs[other].latency;
            *latency -= latency.div_ceil(FADING).min(*latency);
        }
        Some(leg)
    }

    /// The leg for a read of a region that is out of sync: the default leg, or if that was tried another source leg,
    /// which holds the same.
    pub fn pick_source(&mut self, tried: LegSet) -> Option<usize> {
        if mutant::is(Mutant::OutOfSyncReadsSpread) {
            self.turn = (self.turn + 1) % self.legs.len();
            return (!tried.has(self.turn)).then_some(self.turn);
        }
        let mut untried = self.sources.without(tried).iter();
        if tried.has(self.default) { untried.next() } else { Some(self.default) }
    }

    fn stream(&self, sector: Sector, candidates: LegSet) -> Option<usize> {
        let least = candidates.iter().map(|leg| self.legs[leg].reads_in_flight).min()?;
        candidates.iter().find(|leg| {
            let it = &self.legs[*leg];
            it.streams.contains(&sector.0) && sector.0 > 0 && it.reads_in_flight <= least + STREAM_SLACK
        })
    }

    fn least_busy(&self, candidates: LegSet) -> Option<usize> {
        let count = self.legs.len();
        let cost = |leg: &usize| {
            let it = &self.legs[*leg];
            (u64::from(it.reads_in_flight) + 1) * (SCALE + it.latency)
        };
        // Of equally busy legs the one whose turn it is.
        let in_turn = (0..count).map(|step| (self.turn + step) % count).filter(|leg| candidates.has(*leg));
        in_turn.min_by_key(cost)
    }

    /// A read on a leg begins.
    pub fn begin_read(&mut self, leg: usize, sector: Sector, count: Sectors) {
        let Some(it) = self.legs.get_mut(leg) else { return };
        it.reads_in_flight += 1;
        let end = sector.0 + count.0;
        match it.streams.iter_mut().find(|next| **next == sector.0) {
            Some(next) => *next = end,
            None => {
                it.streams[it.next_stream] = end;
                it.next_stream = (it.next_stream + 1) % STREAMS;
            }
        }
    }

    /// A read on a leg has ended after so many milliseconds.
    pub fn end_read(&mut self, leg: usize, took_ms: u64) {
        let Some(it) = self.legs.get_mut(leg) else { return };
        it.reads_in_flight = it.reads_in_flight.saturating_sub(1);
        it.latency = (it.latency * (AVERAGED - 1) + took_ms * SCALE) / AVERAGED;
    }
}

#[cfg(test)]
#[path = "legs_tests.rs"]
mod tests;
